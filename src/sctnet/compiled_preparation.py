"""Pictures on the CPU resized and normalised in one pass, by the compiled library."""

from functools import lru_cache
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, UInt8
from torch import Tensor

from sctnet.kernels import instruction_set, library
from sctnet.kernels.threads import cores, parts

_SHARE_PIXELS = 100_000  # of the picture; fewer are sooner read than handed to another thread


class Side(NamedTuple):
    """How one side of a picture is resized: each output is a weighted sum of neighbours."""

    first: Int32[np.ndarray, " outputs"]
    weights: Float32[np.ndarray, "outputs taps"]


def compiled_preparation(
    images: UInt8[Tensor, "n 3 h w"],
    size: tuple[int, int],
    antialias: bool,
    mean: Float[Tensor, "1 3 1 1"],
    std: Float[Tensor, "1 3 1 1"],
) -> Float32[Tensor, "n 3 hw ww"]:
    """Resize to (height, width), bilinear with align_corners=False, then normalise.

    ``F.interpolate`` and then a division, up to rounding; the result is channels last. As many
    threads are at work as PyTorch uses.
    """
    pictures = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    number, height, width, channels = pictures.shape
    prepared = np.empty((number, *size, channels), np.float32)
    threads = min(torch.get_num_threads(), cores(), number * height * width // _SHARE_PIXELS)
    pieces = parts(size[0], threads, number)
    kernels, kind = library(), instruction_set()
    assert kernels is not None
    assert kind is not None
    kernels.prepare(
        kind,
        pictures,
        (side(height, size[0], antialias), side(width, size[1], antialias)),
        torch.cat([mean, std]).reshape(2, channels).numpy(),
        prepared,
        np.array([(image, *piece) for image in range(number) for piece in pieces], np.int64),
        threads,
    )
    return torch.from_numpy(prepared).permute(0, 3, 1, 2)


@lru_cache(maxsize=64)  # videos ask for the same again and again
def side(inputs: int, outputs: int, antialias: bool) -> Side:
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
    return Side(first, weights.astype(np.float32))
