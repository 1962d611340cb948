"""Label maps on a CUDA GPU: resize, argmax and conversion in one kernel.

Each pixel gathers its own samples, so ``torch.compile`` makes one kernel, which keeps only the
largest class so far. The full-size logits never exist in memory.
"""

import logging
from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Float, UInt8, UInt16
from torch import Tensor

from sctnet.pipeline.argmax_torch import (
    SampleWeights,
    Size,
    torch_label_dtype,
    torch_label_map,
    weights_on,
)

_compiles = True


def cuda_label_map(
    logits: Float[Tensor, "n k h w"], sizes: tuple[Size, ...], rows: slice, columns: slice
) -> UInt8[Tensor, "n rows columns"] | UInt16[Tensor, "n rows columns"]:
    """Return the label map from one kernel, or class after class if no kernel can be compiled.

    In a chain of resizes each sample is weighted once, by the product of its weights. The logits
    are the same as after one resize after the other, up to rounding.
    """
    global _compiles
    if _compiles:
        height, width = logits.shape[2:]
        heights, widths = zip(*sizes, strict=True)
        down = weights_on((height, *heights), rows.start, rows.stop, logits.device)
        across = weights_on((width, *widths), columns.start, columns.stop, logits.device)
        try:
            return _compiled()(logits, down, across)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no compiler, no Triton, a GPU too old for it, ...
            _compiles = False
            logging.getLogger(__name__).info("label maps class after class: %s", error)
    return torch_label_map(logits, sizes, rows, columns)


def gathered_argmax(
    logits: Float[Tensor, "n k h w"], down: SampleWeights, across: SampleWeights
) -> UInt8[Tensor, "n rows columns"] | UInt16[Tensor, "n rows columns"]:
    """Return, for each pixel, the class with the largest weighted sum of its samples."""
    # With the classes last the sum and the argmax run over the same order: one kernel.
    samples = logits.permute(0, 2, 3, 1)
    total: Tensor | None = None
    for rows, row_weights in zip(*down, strict=True):
        line: Tensor | None = None
        for columns, weights in zip(*across, strict=True):
            part = samples[:, rows[:, None], columns].float() * weights[:, None]
            line = part if line is None else line + part
        assert line is not None
        line = line * row_weights[:, None, None]
        total = line if total is None else total + line
    assert total is not None
    return total.argmax(3).to(torch_label_dtype(logits.shape[1]))


@lru_cache(maxsize=1)
def _compiled() -> Callable[[Tensor, SampleWeights, SampleWeights], Tensor]:
    # fullgraph: an error, caught above, is better than all planes in memory.
    return torch.compile(gathered_argmax, dynamic=True, fullgraph=True)
