"""Pictures on the CPU resized and normalised in one pass, by the compiled library."""

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from sctnet.kernels.interpolation import side_weights
from sctnet.kernels.library import instruction_set, library
from sctnet.kernels.threads import cores, parts

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
    prepared = np.empty((number, *size, channels), np.float32)
    threads = min(torch.get_num_threads(), cores(), number * height * width // _SHARE_PIXELS)
    pieces = parts(size[0], threads, number)
    kernels, kind = library(), instruction_set()
    assert kernels is not None
    assert kind is not None
    kernels.prepare(
        kind,
        pictures,
        (side_weights(height, size[0], antialias), side_weights(width, size[1], antialias)),
        torch.cat([mean, std]).reshape(2, channels).numpy(),
        prepared,
        np.array([(image, *piece) for image in range(number) for piece in pieces], np.int64),
        threads,
    )
    return torch.from_numpy(prepared).permute(0, 3, 1, 2)
