"""The size at which training works, and its crops: chosen by `train` and suggested by the check."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

SURVEYED = 300
"""Pictures that are looked at, spread evenly over the training split."""

_LEAST = 32  # pixels of a crop: what the networks reduce to one


class Means(NamedTuple):
    """Settings for a machine that trains for an hour or two."""

    name: str
    shorter_side: int
    crop: tuple[int, int]
    batch_size: int
    passes: int
    iterations: tuple[int, int]


CPU = Means("a CPU", 512, (384, 512), 8, 60, (500, 4000))
GPU = Means("a GPU", 1024, (512, 1024), 16, 200, (4000, 80000))


def surveyed_numbers(pictures: int) -> list[int]:
    """Return the numbers of the pictures that are looked at."""
    numbers = np.linspace(0, pictures - 1, min(pictures, SURVEYED)).astype(int)
    return [int(number) for number in np.unique(numbers)]


def median_size(sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return the height and width of the picture in the middle: both of one picture."""
    in_order = sorted(sizes, key=lambda size: (min(size), max(size)))
    return in_order[len(in_order) // 2]


def training_size(size: tuple[int, int], means: Means) -> tuple[int, tuple[int, int]]:
    """Return the shorter side at which pictures of a height and width are worked on, and the crop.

    The crop has a height and a width, which follow the picture's orientation.
    """
    side = min(*size, means.shorter_side)
    factor = side / min(size)
    return side, crop_of((round(size[0] * factor), round(size[1] * factor)), means)


def crop_of(size: tuple[int, int], means: Means) -> tuple[int, int]:
    """Return the crop (height, width) of pictures that are worked on at this height and width."""
    height, width = size
    limits = means.crop[::-1] if height > width else means.crop
    return max(_LEAST, min(height, limits[0])), max(_LEAST, min(width, limits[1]))
