"""Paths, ranks, errors, console. Imports nothing else of the package."""
