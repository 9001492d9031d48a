"""Measures of a model: bits per byte of text, accuracy on tasks."""
