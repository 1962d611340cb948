"""Confusion counts, the scores that follow from them, and the evaluator.

It takes the prediction as a callable, so a network and an exported file are scored by the same
code.
"""
