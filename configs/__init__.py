"""Experiment recipes: values only, one file an experiment."""
