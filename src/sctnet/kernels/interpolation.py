"""Bilinear interpolation weights along one side: of a chain of resizes, and with anti-aliasing."""

from functools import lru_cache
from itertools import pairwise
from math import ceil
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

_BUCKET = 64  # pixels; bounds what a group of pixels needs at any stage of resizing


class InterpolationWeights(NamedTuple):
    """One side, height or width, of a map that is resized in stages.

    Bilinear, align_corners=False, as PyTorch computes it in float32. Level 0 is the map's own
    samples, the last level the pixels that are asked for.
    """

    spans: Int32[np.ndarray, "groups levels 2"]
    """Groups of neighbouring pixels that read the same samples: begin and end at every level."""
    taps: Int32[np.ndarray, "stages 3 longest"]
    """The two places of the level before that each place reads, and the first place behind it that
    reads others."""
    shares: Float32[np.ndarray, "stages 2 longest"]
    """Their weights, never negative, which sum to 1."""


@lru_cache(maxsize=256)
def interpolation_weights(lengths: tuple[int, ...], begin: int, end: int) -> InterpolationWeights:
    """Return the side of a map of ``lengths[0]`` samples that is resized to each further length.

    Of the last length the pixels from ``begin`` to ``end`` are asked for. Nobody may write into
    what is returned.
    """
    stages = list(pairwise(lengths))
    longest = max(lengths[1:])
    taps = np.zeros((len(stages), 3, longest), np.int32)
    shares = np.zeros((len(stages), 2, longest), np.float32)
    for stage, (source, target) in enumerate(stages):
        taps[stage, :2, :target], shares[stage, :, :target] = _bilinear(source, target)
        taps[stage, 2, :target] = _ends(taps[stage, :2, :target])
    return InterpolationWeights(_spans(taps, begin, end), taps, shares)


def composed_weights(
    side: InterpolationWeights,
) -> tuple[Int32[np.ndarray, "t n"], Float32[np.ndarray, "t n"]]:
    """Return the samples that each pixel asked for reads, through all stages, and their weights."""
    begin, end = side.spans[0, -1, 0], side.spans[-1, -1, 1]
    places, weights = np.arange(begin, end)[None], np.ones((1, end - begin), np.float32)
    for taps, shares in zip(side.taps[::-1], side.shares[::-1], strict=True):
        weights = np.concatenate([weights * shares[tap][places] for tap in (0, 1)])
        places = np.concatenate([taps[tap][places] for tap in (0, 1)])
    return places.astype(np.int32), weights


def _bilinear(
    source: int, target: int
) -> tuple[Int32[np.ndarray, "2 target"], Float32[np.ndarray, "2 target"]]:
    numbers = np.arange(target)
    if source == target:
        far = np.zeros(target, np.float32)
        return np.stack([numbers, numbers]).astype(np.int32), np.stack([1 - far, far])
    scale = np.float32(source) / np.float32(target)
    # Rounded to float32 once, as where processors multiply and add in one step.
    places = (np.float64(scale) * (numbers + 0.5) - 0.5).astype(np.float32).clip(min=0)
    near = np.minimum(places.astype(np.int32), source - 1)
    far = (places - near.astype(np.float32)).clip(0, 1)
    return np.stack([near, np.minimum(near + 1, source - 1)]), np.stack([1 - far, far])


def _ends(taps: Int32[np.ndarray, "2 target"]) -> Int32[np.ndarray, " target"]:
    """Return, for each place, the first behind it that reads others."""
    changes = np.flatnonzero((taps[:, 1:] != taps[:, :-1]).any(axis=0)) + 1
    ends = np.append(changes, taps.shape[1])
    return np.repeat(ends, np.diff(ends, prepend=0)).astype(np.int32)


def _spans(taps: np.ndarray, begin: int, end: int) -> Int32[np.ndarray, "groups levels 2"]:
    """Group the pixels by the samples that they read."""
    pixels = np.arange(begin, end)
    levels = [np.stack([pixels, pixels + 1], axis=1)]
    for near, far, _ in taps[::-1]:
        later = levels[0]
        levels.insert(0, np.stack([near[later[:, 0]], far[later[:, 1] - 1] + 1], axis=1))
    spans = np.stack(levels, axis=1)
    keys = np.concatenate([spans[:, 0], spans[:, 1:, 0] // _BUCKET], axis=1)
    changes = np.flatnonzero((keys[1:] != keys[:-1]).any(axis=1)) + 1
    first, last = np.r_[0, changes], np.r_[changes, len(pixels)] - 1
    return np.stack([spans[first, :, 0], spans[last, :, 1]], axis=2).astype(np.int32)


class SideWeights(NamedTuple):
    """How one side of a picture is resized: each output is a weighted sum of neighbours."""

    first: Int32[np.ndarray, " outputs"]
    weights: Float32[np.ndarray, "outputs taps"]


@lru_cache(maxsize=64)  # videos ask for the same again and again
def side_weights(inputs: int, outputs: int, antialias: bool) -> SideWeights:
    """Return the weights of a bilinear resize along one side.

    A weight falls evenly from 1 at the output's place to 0 where the next output, or without
    anti-aliasing the next input, has its own.
    """
    places = (np.arange(outputs) + 0.5) * inputs / outputs
    reach = max(1.0, inputs / outputs) if antialias else 1.0
    if not antialias:
        places = places.clip(0.5, inputs - 0.5)  # what lies outside is as the border
    taps = min(inputs, ceil(2 * reach))
    first = (np.floor(places - reach - 0.5) + 1).clip(0, inputs - taps).astype(np.int32)
    distances = first[:, None] + np.arange(taps) + 0.5 - places[:, None]
    weights = (1 - np.abs(distances) / reach).clip(min=0)
    weights /= weights.sum(1, keepdims=True)  # what lies outside does not count
    return SideWeights(first, weights.astype(np.float32))
