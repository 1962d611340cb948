"""Label maps on the CPU by a compiled loop, whose rows are shared by several threads."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8, UInt16
from torch import Tensor

from sctnet.kernels.interpolation import interpolation_weights
from sctnet.kernels.jit import compiled, parts, run_parts

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
    no_confidence = np.empty((0, 0), np.float32)
    loop = compiled(_loop, labels.dtype == torch.uint16)
    samples, drawn = _readable(logits), labels.numpy()

    def work(shares: Iterator[tuple[int, int, int]]) -> bool:
        for image, first, last in shares:
            spans = down.spans[first:last]
            top, bottom = int(spans[0, 0, 0]), int(spans[-1, 0, 1])
            pixels = slice(int(spans[0, -1, 0]) - rows.start, int(spans[-1, -1, 1]) - rows.start)
            read = _as_float32(samples[image, :, top:bottom])
            sides = (spans, *down[1:]), tuple(across)
            if not loop(read, top, *sides, 0.0, drawn[image, pixels], no_confidence):
                return False
        return True

    threads = min(torch.get_num_threads(), labels.numel() // _SHARE_PIXELS)
    finite = run_parts(work, _shares(number, len(down.spans), threads), threads)
    return labels if finite else None


@lru_cache(maxsize=64)  # videos ask for the same again and again
def _shares(images: int, groups: int, threads: int) -> list[tuple[int, int, int]]:
    """Return which groups of which image are drawn in one piece."""
    pieces = parts(groups, threads, images)
    return [(image, first, last) for image in range(images) for first, last in pieces]


def _readable(logits: Tensor) -> np.ndarray:
    # numpy has no bfloat16: its bits are read as the upper half of a float32's.
    return (logits.view(torch.uint16) if logits.dtype == torch.bfloat16 else logits).numpy()


def _as_float32(samples: np.ndarray) -> Float32[np.ndarray, "..."]:
    if samples.dtype == np.uint16:
        return (samples.astype(np.uint32) << 16).view(np.float32)
    return samples.astype(np.float32, copy=False)


def _loop(wide: bool, cached: bool) -> Any:
    from sctnet.kernels.argmax_loop import compiled_loop  # which imports numba

    return compiled_loop(wide, cached)
