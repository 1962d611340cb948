"""Resize, then argmax, in the fastest of three forms; which one it is, is chosen here."""

from typing import Literal

import torch
from jaxtyping import Float, Float32, UInt8, UInt16
from torch import Tensor

from sctnet.errors import SctnetError
from sctnet.kernels import instruction_set
from sctnet.labels.compiled import compiled_label_map
from sctnet.labels.gathered import gathered_label_map
from sctnet.labels.planes import Size, planar_label_map, resized

Method = Literal["compiled", "gathered", "planar"]

_WHOLE = slice(None)


def label_map(
    logits: Float[Tensor, "n k h w"],
    *sizes: Size,
    rows: slice = _WHOLE,
    columns: slice = _WHOLE,
) -> UInt8[Tensor, "n hs ws"] | UInt16[Tensor, "n hs ws"]:
    """Resize logits to each (height, width) in turn and return the class with the largest.

    ``F.interpolate(...).argmax(1)`` in float32 (bilinear, align_corners=False, of equal logits the
    lowest class) for every pixel whose two largest logits differ by more than rounding, and
    without its full-size planes. ``rows`` and ``columns`` ask for a part of the result. Labels are
    uint8 up to 255 classes, else uint16, on the logits' device.

    Raises :class:`SctnetError` where logits are not finite: NaN has no place in any order.
    """
    if torch.compiler.is_compiling():  # and where it is exported
        return planar_label_map(logits, sizes, rows, columns)
    logits = logits.detach()
    sizes, rows, columns = _checked(logits, sizes, rows, columns)
    method = label_map_method(logits.device)
    if method == "compiled":
        made = compiled_label_map(logits, sizes, rows, columns)
        if made is None:
            raise _not_finite()
        return made[0]
    _require_finite(logits)
    if method == "gathered":
        return gathered_label_map(logits, sizes, rows, columns)
    return planar_label_map(logits, sizes, rows, columns)


def label_map_and_confidence(
    logits: Float[Tensor, "n k h w"], *sizes: Size
) -> tuple[
    UInt8[Tensor, "n hs ws"] | UInt16[Tensor, "n hs ws"],
    Float32[Tensor, "n hs ws"],
]:
    """Return the label map, as :func:`label_map` does, and each label's softmax, from 1/K to 1."""
    logits = logits.detach()
    sizes, rows, columns = _checked(logits, sizes, _WHOLE, _WHOLE)
    if label_map_method(logits.device) == "compiled":
        made = compiled_label_map(logits, sizes, rows, columns, with_confidence=True)
        if made is None:
            raise _not_finite()
        return made
    _require_finite(logits)
    labels = planar_label_map(logits, sizes, rows, columns)
    return labels, resized(logits.float(), sizes).softmax(1).amax(1)


def label_map_method(device: torch.device | str = "cpu") -> Method:
    """Say how label maps are made on a device.

    ``"compiled"``: by the compiled library on the CPU; ``"gathered"``: in one kernel of
    ``torch.compile`` on a CUDA GPU; ``"planar"``: by PyTorch's operations, class after class, on
    other devices and where there is no library.
    """
    kind = torch.device(device).type
    if kind == "cpu" and instruction_set() is not None:
        return "compiled"
    return "gathered" if kind == "cuda" else "planar"


def _checked(
    logits: Tensor, sizes: tuple[Size, ...], rows: slice, columns: slice
) -> tuple[tuple[Size, ...], slice, slice]:
    """Return the sizes that change anything, one at least, and both ends of rows and columns."""
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
        return  # the processor cannot look while the GPU's work is being recorded
    if not torch.isfinite(logits).all():
        raise _not_finite()


def _not_finite() -> SctnetError:
    return SctnetError(
        "the network's logits are not finite (NaN or infinity): its weights are damaged, or "
        "precision fp16 is too coarse for it: try fp32"
    )
