"""The plan for a picture: whole or in windows, and at which size."""

from typing import NamedTuple

from sctnet.errors import SctnetError
from sctnet.inference.sources import Picture
from sctnet.inference.tiling import Grid, window_grid
from sctnet.pipeline.preprocessing import LARGE_PICTURE, WorkingSize

TILE = 1024  # pixels; what the largest crops in training have

# At the working size, where SCTNet-S needs some 0.1 GB for a million pixels.
_WHOLE_PIXELS = 16_000_000  # a larger picture is cut into windows, if these keep its scale
_MAX_PIXELS = 100_000_000


class Plan(NamedTuple):
    """How pictures of one size are processed."""

    working: tuple[int, int]
    """Height and width at which the picture, or a window of it, passes the network."""
    grid: Grid | None
    """None: the picture is processed whole, and may share a batch."""


class PlannedPicture(NamedTuple):
    """An RGB picture, H x W x 3 uint8, with the plan that was made for it."""

    image: Picture
    plan: Plan


def plan_picture(
    size: tuple[int, int], rule: WorkingSize, tile: int | None, overlap: int | None
) -> Plan:
    """Return how a picture of this height and width is processed.

    ``tile`` and ``overlap`` are a user's wishes, in the picture's pixels. Raises
    :class:`SctnetError` for a picture that would be processed too large.
    """
    side = tile or _automatic_tile(size, rule) or max(size)
    grid = window_grid(size, side, side // 8 if overlap is None else overlap)
    working = rule.apply(*grid.window)
    if working[0] * working[1] > _MAX_PIXELS:
        raise SctnetError(
            f"a picture of {size[1]} x {size[0]} would be processed at {working[1]} x "
            f"{working[0]}, more than {_MAX_PIXELS // 1_000_000} million pixels: "
            "cut it into pieces"
        )
    whole = grid.window == size and size[0] * size[1] <= LARGE_PICTURE
    return Plan(working, None if whole else grid)


def _automatic_tile(size: tuple[int, int], rule: WorkingSize) -> int | None:
    """Return the side of windows for a picture that is too large to be processed whole."""
    working = rule.apply(*size)
    if working[0] * working[1] > _WHOLE_PIXELS:
        if rule.rule == "as-is":
            return TILE
        if rule.rule == "shorter-side":
            return max(TILE, min(size))
    return None
