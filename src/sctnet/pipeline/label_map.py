"""Resize and argmax in one step; chooses the fastest of three forms."""

from typing import Literal

import torch
from jaxtyping import Float, UInt8, UInt16
from torch import Tensor

from sctnet.errors import SctnetError
from sctnet.kernels import instruction_set
from sctnet.kernels.argmax import cpu_label_map
from sctnet.pipeline.argmax_cuda import cuda_label_map
from sctnet.pipeline.argmax_torch import Size, torch_label_dtype, torch_label_map

Method = Literal["cpu", "cuda", "torch"]

_WHOLE = slice(None)


def label_map(
    logits: Float[Tensor, "n k h w"],
    *sizes: Size,
    rows: slice = _WHOLE,
    columns: slice = _WHOLE,
) -> UInt8[Tensor, "n hs ws"] | UInt16[Tensor, "n hs ws"]:
    """Resize logits to each (height, width) in turn and return the class with the largest.

    Equal to ``F.interpolate(...).argmax(1)`` in float32 (bilinear, align_corners=False) for every
    pixel whose two largest logits differ by more than rounding, but without full-size logits. Of
    equal logits the lowest class wins. ``rows`` and ``columns`` select a part of the result. Labels
    are uint8 up to 255 classes, else uint16, on the logits' device.

    Raises :class:`SctnetError` for logits that are not finite, because NaN cannot be compared.
    """
    if torch.compiler.is_compiling():  # and where it is exported
        return torch_label_map(logits, sizes, rows, columns)
    logits = logits.detach()
    sizes, rows, columns = _checked(logits, sizes, rows, columns)
    method = label_map_method(logits.device)
    if method == "cpu":
        labels = cpu_label_map(logits, sizes, rows, columns, torch_label_dtype(logits.shape[1]))
        if labels is None:
            raise _not_finite()
        return labels
    _require_finite(logits)
    if method == "cuda":
        return cuda_label_map(logits, sizes, rows, columns)
    return torch_label_map(logits, sizes, rows, columns)


def label_map_method(device: torch.device | str = "cpu") -> Method:
    """Say how label maps are computed on a device.

    ``"cpu"``: by a kernel of this package; ``"cuda"``: by one kernel of ``torch.compile``;
    ``"torch"``: by PyTorch's operations, class after class, on other devices and where there
    is no compiled library.
    """
    kind = torch.device(device).type
    if kind == "cpu" and instruction_set() is not None:
        return "cpu"
    return "cuda" if kind == "cuda" else "torch"


def _checked(
    logits: Tensor, sizes: tuple[Size, ...], rows: slice, columns: slice
) -> tuple[tuple[Size, ...], slice, slice]:
    """Return the sizes without repetitions (at least one), and both ends of rows and columns."""
    own = logits.shape[2], logits.shape[3]
    if min((*logits.shape[1:], *(side for size in sizes for side in size))) < 1:
        raise SctnetError(
            f"logits of {tuple(logits.shape)} cannot be resized to {sizes}: give at least one "
            "class, and heights and widths of 1 or more"
        )
    chain = [own]
    for size in sizes:
        if tuple(size) != chain[-1]:
            chain.append((int(size[0]), int(size[1])))
    height, width = chain[-1]
    rows, columns = slice(*rows.indices(height)[:2]), slice(*columns.indices(width)[:2])
    if rows.stop <= rows.start or columns.stop <= columns.start:
        raise SctnetError(f"of a map of {height} x {width} there is nothing at {rows}, {columns}")
    return tuple(chain[1:]) or (own,), rows, columns


def _require_finite(logits: Tensor) -> None:
    if logits.is_cuda and torch.cuda.is_current_stream_capturing():
        return  # values cannot be read while a CUDA graph is being captured
    if not torch.isfinite(logits).all():
        raise _not_finite()


def _not_finite() -> SctnetError:
    return SctnetError(
        "the network's logits are not finite (NaN or infinity): its weights are damaged, or "
        "precision fp16 is too coarse for it: try fp32"
    )
