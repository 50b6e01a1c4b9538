"""Stands in for big_vision where it is not installed: its registry alone."""
