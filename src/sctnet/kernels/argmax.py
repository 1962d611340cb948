"""Label maps on the CPU by the compiled library, whose rows are shared by several threads."""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8, UInt16
from torch import Tensor

from sctnet.kernels.interpolation import interpolation_weights
from sctnet.kernels.library import instruction_set, library
from sctnet.kernels.threads import cores, parts

_SHARE_PIXELS = 60_000  # fewer are sooner done than handed to another thread


def cpu_label_map(
    logits: Float[Tensor, "n k h w"],
    sizes: tuple[tuple[int, int], ...],
    rows: slice,
    columns: slice,
    dtype: torch.dtype,
) -> UInt8[Tensor, "n rows columns"] | UInt16[Tensor, "n rows columns"] | None:
    """Return the labels of logits on the CPU; None where a logit that is read is not finite.

    Uses as many threads as PyTorch does.
    """
    number, _, height, width = logits.shape
    down = interpolation_weights((height, *(size[0] for size in sizes)), rows.start, rows.stop)
    across = interpolation_weights(
        (width, *(size[1] for size in sizes)), columns.start, columns.stop
    )
    shape = number, rows.stop - rows.start, columns.stop - columns.start
    labels = torch.empty(shape, dtype=dtype)
    threads = min(torch.get_num_threads(), cores(), labels.numel() // _SHARE_PIXELS)
    kernels, kind = library(), instruction_set()
    assert kernels is not None
    assert kind is not None
    pieces = _shares(number, len(down.spans), threads)
    finite = kernels.label_maps(
        kind, _as_float32(logits), (down, across), labels.numpy(), pieces, threads
    )
    return labels if finite else None


@lru_cache(maxsize=64)  # videos ask for the same again and again
def _shares(images: int, groups: int, threads: int) -> Int64[np.ndarray, "shares 3"]:
    """Return which groups of which image are drawn in one piece."""
    pieces = parts(groups, threads, images)
    shares = [(image, first, last) for image in range(images) for first, last in pieces]
    return np.array(shares, np.int64).reshape(-1, 3)


def _as_float32(logits: Tensor) -> Float32[np.ndarray, "..."]:
    """Return logits in float32, in the layout in which they are."""
    if logits.dtype == torch.float32:
        samples: np.ndarray = logits.numpy()
        return samples
    return logits.float().numpy()
