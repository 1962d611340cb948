"""The loop that resizes and normalises a picture, as numba compiles it; importing this imports it.

A bilinear resize takes one side after the other. Each row of the result is made of some rows of
the picture, read as the bytes that they are, and then brought to the width: nothing but one row is
ever held as floats.
"""

from typing import Any

import numpy as np
from numba import float32, int32, types, uint8

from sctnet.kernels.jit import compile_loop, part_of_loop

_AT_ONCE = 4
"""Rows that are summed before the sum is written."""


def preprocessing_loop(cached: bool) -> Any:
    """Compile the loop, or take it from the disk's cache."""
    side = types.Tuple((int32[::1], float32[:, ::1]))  # type: ignore[no-untyped-call]
    signature = types.void(uint8[:, ::1], side, side, float32[:, ::1], float32[:, :, ::1], int32)
    return compile_loop(_prepare, signature, cached)


def _prepare(
    picture: Any, down: Any, across: Any, statistics: Any, prepared: Any, top: int
) -> None:
    """Make rows of a prepared picture, from row ``top`` on.

    ``picture`` holds its pixels' three bytes side by side, h x 3w; each of its sides says which
    pixel is the first that a result reads and how it weighs that one and those behind it.
    ``statistics`` are the mean of each channel and its deviation.
    """
    rows, columns, _ = prepared.shape
    firsts, weights = down
    lefts, shares = across
    summed = np.empty(picture.shape[1], np.float32)
    for row in range(rows):
        _sum_rows(picture, firsts[top + row], weights[top + row], summed)
        for column in range(columns):
            red = green = blue = np.float32(0)
            place = 3 * lefts[column]
            for share in shares[column]:
                red += share * summed[place]
                green += share * summed[place + 1]
                blue += share * summed[place + 2]
                place += 3
            prepared[row, column, 0] = (red - statistics[0, 0]) / statistics[1, 0]
            prepared[row, column, 1] = (green - statistics[0, 1]) / statistics[1, 1]
            prepared[row, column, 2] = (blue - statistics[0, 2]) / statistics[1, 2]


@part_of_loop
def _sum_rows(picture: Any, first: int, weights: Any, summed: Any) -> None:
    """Write the weighted sum of the rows from ``first`` on."""
    summed[:] = 0
    for place in range(0, len(weights) // _AT_ONCE * _AT_ONCE, _AT_ONCE):
        a, b, c, d = weights[place], weights[place + 1], weights[place + 2], weights[place + 3]
        row = first + place
        for k in range(len(summed)):
            summed[k] += (
                a * np.float32(picture[row, k])
                + b * np.float32(picture[row + 1, k])
                + c * np.float32(picture[row + 2, k])
                + d * np.float32(picture[row + 3, k])
            )
    for place in range(len(weights) // _AT_ONCE * _AT_ONCE, len(weights)):
        weight = weights[place]
        for k in range(len(summed)):
            summed[k] += weight * np.float32(picture[first + place, k])
