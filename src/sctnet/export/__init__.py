"""Exports models to files that run without this package, and compares them with PyTorch."""
