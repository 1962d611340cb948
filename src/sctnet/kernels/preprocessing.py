"""Pictures on the CPU resized and normalised in one pass over their bytes, by a compiled loop."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from sctnet.kernels.interpolation import side_weights
from sctnet.kernels.jit import compiled, parts, run_parts

_SHARE_PIXELS = 100_000  # of the picture; fewer are sooner read than handed to another thread


def cpu_preprocessing(
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
    flat = pictures.reshape(number, height, width * channels)
    prepared = np.empty((number, *size, channels), np.float32)
    sides = (
        tuple(side_weights(height, size[0], antialias)),
        tuple(side_weights(width, size[1], antialias)),
    )
    statistics = torch.cat([mean, std]).reshape(2, channels).numpy()
    loop = compiled(_loop)

    def work(shares: Iterator[tuple[int, int, int]]) -> bool:
        for image, first, last in shares:
            loop(flat[image], *sides, statistics, prepared[image, first:last], first)
        return True

    threads = min(torch.get_num_threads(), number * height * width // _SHARE_PIXELS)
    pieces = parts(size[0], threads, number)
    run_parts(work, [(image, *piece) for image in range(number) for piece in pieces], threads)
    return torch.from_numpy(prepared).permute(0, 3, 1, 2)


def _loop(cached: bool) -> Any:
    from sctnet.kernels.preprocessing_loop import preprocessing_loop  # which imports numba

    return preprocessing_loop(cached)
