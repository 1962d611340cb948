"""A network as a list of steps on one piece of memory: what :mod:`.loop` computes."""

import numpy as np

TILE = 4
"""Pixels of one side of what a tile of Winograd's convolution becomes."""
POINTS = (TILE + 2) ** 2
"""At which it multiplies."""

CLEAR, FLOATS, BYTES, CONVOLVE, WINOGRAD, AFFINE, POOL, RESIZE, LARGEST, EXPONENTIAL, NORMALISE = (
    range(11)
)
"""Kinds of steps; the two after the first read the picture."""

PERIOD = 48
"""Values of a picture's line after which channels and vectors both begin anew."""

LINEAR, RELU, GELU = range(3)
"""Activations."""

STEP = np.dtype(
    [
        (name, np.int64)
        for name in (
            "kind",
            "joins",  # whether all steps up to this have to be done before the next begins
            "pieces",  # that threads take
            "group",  # rows, or tiles, of a piece
            "shares",  # pieces that have the same group, and other panels
            "panels",
            "panels_of_piece",
            "panels_at_once",  # of which products are held
            # Places in the memory, and how far rows and pixels lie apart.
            "source",
            "source_row",
            "source_pixel",
            "source_height",
            "source_width",
            "target",
            "short",  # whether the target keeps short floats, and its place counts in these
            "target_row",
            "target_pixel",
            "height",
            "width",
            "channels",
            "largest",  # of each map and piece, and the sums
            "totals",
            "residual",  # -1: none
            "residual_row",
            "residual_pixel",
            "activation",
            "weights",
            "bias",
            "offsets",
            "taps",
            "depth",
            "stride",
        )
    ],
    align=True,
)
"""One step; what a kind does not read is 0. Every length is in values."""
