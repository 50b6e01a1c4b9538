"""Preparing data sets: from official archives to label maps that evaluation reads."""
