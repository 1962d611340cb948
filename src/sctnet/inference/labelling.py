"""From coarse logits to a label map."""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F


def label_map(
    logits: Float[Tensor, "n k h w"], *sizes: tuple[int, int]
) -> UInt8[Tensor, "n hs ws"] | Int[Tensor, "n hs ws"]:
    """Resize logits to each (height, width) in turn and return the class with the largest.

    Exactly ``F.interpolate(...).argmax(1)`` (bilinear, align_corners=False, of equal logits the
    lowest class), but one class at a time: only two maps of the last size exist at once, not one
    for every class, which at 4K and 150 classes would take 5 GB. It is also several times faster.
    The labels are uint8 up to 255 classes, else int32.
    """
    logits = logits.float().contiguous()
    classes = logits.shape[1]
    largest = _resized(logits[:, :1], sizes)
    labels = torch.zeros_like(largest, dtype=torch.uint8 if classes <= 255 else torch.int32)
    for index in range(1, classes):
        candidate = _resized(logits[:, index : index + 1], sizes)
        labels.masked_fill_(candidate > largest, index)
        largest = torch.maximum(largest, candidate)
    return labels[:, 0]


def _resized(logits: Tensor, sizes: tuple[tuple[int, int], ...]) -> Tensor:
    for size in sizes:
        if logits.shape[2:] != size:
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    return logits
