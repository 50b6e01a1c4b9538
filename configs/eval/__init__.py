"""Evaluations by name: `openseg evaluate --config miniature`."""
