"""Drawn streets with CamVid's classes: a data set without files."""
