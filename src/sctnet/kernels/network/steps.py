"""A network as a list of steps on one piece of memory: what the compiled library computes."""

import numpy as np

TILE = 4
"""Pixels of one side of what a tile of Winograd's convolution becomes."""
POINTS = (TILE + 2) ** 2
"""At which it multiplies."""

(
    CLEAR,
    FLOATS,  # this and the next read the picture
    BYTES,
    CONVOLVE,
    WINOGRAD,  # 3x3, in tiles of 4 x 4 pixels
    STRIPE,  # 1xN or Nx1, in tiles of 4 pixels
    AFFINE,
    POOL,
    RESIZE,
    LARGEST,
    EXPONENTIAL,
    NORMALISE,
) = range(12)
"""Kinds of steps."""

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
            "rows_of_piece",
            "rows_at_once",  # CONVOLVE: with which a panel is multiplied
            "tiles_of_piece",  # WINOGRAD, STRIPE
            "shares",  # of products: pieces that have the same rows or tiles, other panels
            "panels",
            "panels_of_piece",
            "panels_at_once",  # WINOGRAD, STRIPE: of which products are held
            # Places in the memory, and how far rows and pixels lie apart.
            "source",
            "source_row",
            "source_pixel",
            "source_height",
            "source_width",
            "target",
            "short_target",  # whether it keeps short floats, and its place counts in these
            "target_row",
            "target_pixel",
            "height",
            "width",
            "channels",
            "residual",  # -1: none
            "residual_row",
            "residual_pixel",
            "activation",
            "factors",  # of products: where the kernels' panels begin
            "bias",
            "offsets",  # CONVOLVE: where those of its taps begin
            "taps",
            "depth",  # input channels, of all pixels of a tap
            "stride",  # CONVOLVE, POOL
            "downwards",  # STRIPE: whether it is Nx1
            "scale",  # AFFINE, POOL, RESIZE: of each channel, among the terms
            "shift",
            "mean",  # BYTES: among the terms, for PERIOD values
            "deviation",
            "frame",  # CLEAR: how wide it is
            "window",  # POOL: its side, 0: of all pixels
            "largest",  # LARGEST, EXPONENTIAL, NORMALISE: of each map and piece, in the memory
            "totals",  # EXPONENTIAL, NORMALISE: and the sums
            "maps_of_group",  # NORMALISE
            "squared",  # NORMALISE: whether by the root of the sum of squares
        )
    ]
)
"""One step; what a kind does not read is 0. Every length is in values."""
