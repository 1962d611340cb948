"""Label maps on the CPU by the compiled library, whose rows are shared by several threads."""

from functools import lru_cache
from math import log

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8, UInt16
from torch import Tensor

from sctnet.kernels import instruction_set, library
from sctnet.kernels.threads import cores, parts
from sctnet.labels.planes import Size, label_kind
from sctnet.labels.taps import side_of

_SHARE_PIXELS = 60_000  # fewer are sooner done than handed to another thread


def compiled_label_map(
    logits: Float[Tensor, "n k h w"],
    sizes: tuple[Size, ...],
    rows: slice,
    columns: slice,
    with_confidence: bool = False,
) -> (
    tuple[
        UInt8[Tensor, "n rows columns"] | UInt16[Tensor, "n rows columns"],
        Float32[Tensor, "n _ _"],
    ]
    | None
):
    """Return labels, and confidences where asked for, of logits on the CPU.

    None where what is read is not finite. As many threads are at work as PyTorch uses.
    """
    number, classes, height, width = logits.shape
    down = side_of((height, *(size[0] for size in sizes)), rows.start, rows.stop)
    across = side_of((width, *(size[1] for size in sizes)), columns.start, columns.stop)
    shape = number, rows.stop - rows.start, columns.stop - columns.start
    labels = torch.empty(shape, dtype=label_kind(classes))
    confidence = torch.empty(shape) if with_confidence else None
    # All classes that are further from the largest are together less than its share's rounding.
    reach = 17 + log(classes) if with_confidence else 0.0
    threads = min(torch.get_num_threads(), cores(), labels.numel() // _SHARE_PIXELS)
    kernels, kind = library(), instruction_set()
    assert kernels is not None
    assert kind is not None
    finite = kernels.label_maps(
        kind,
        _as_float32(logits),
        (down, across),
        reach,
        labels.numpy(),
        None if confidence is None else confidence.numpy(),
        _shares(number, len(down.spans), threads),
        threads,
    )
    if not finite:
        return None
    return labels, torch.empty(number, 0, 0) if confidence is None else confidence


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
