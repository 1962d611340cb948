"""Confusion counts, the scores that follow from them, and the evaluator.

It takes the prediction as a callable: whatever makes label maps, a network or a file of an
exported one, is scored by the same code.
"""
