"""Vocabularies, splits and data-set facts: what a lawyer or an annotator would read."""
