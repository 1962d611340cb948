"""The demonstration page."""
