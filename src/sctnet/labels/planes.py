"""Label maps by PyTorch's own operations: on every device, and in every graph."""

import torch
from jaxtyping import Float, UInt8, UInt16
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


def label_kind(classes: int) -> torch.dtype:
    """Return the smallest type that holds the labels of so many classes, and 255 for none."""
    return torch.uint8 if classes <= 255 else torch.uint16


def planar_label_map(
    logits: Float[Tensor, "n k h w"], sizes: tuple[Size, ...], rows: slice, columns: slice
) -> UInt8[Tensor, "n hs ws"] | UInt16[Tensor, "n hs ws"]:
    """Return the label map, one class at a time, so that only two of its planes exist at once.

    For every class one, at 4K and 150 classes, would take 5 GB. It is also several times faster.
    """
    logits = logits.float().contiguous()
    classes = logits.shape[1]
    largest = _plane(logits, 0, sizes, rows, columns)
    # PyTorch computes little with uint16.
    labels = torch.zeros_like(largest, dtype=torch.uint8 if classes <= 255 else torch.int32)
    for index in range(1, classes):
        candidate = _plane(logits, index, sizes, rows, columns)
        labels.masked_fill_(candidate > largest, index)
        largest = torch.maximum(largest, candidate)
    return labels.to(label_kind(classes))


def resized(logits: Float[Tensor, "n k h w"], sizes: tuple[Size, ...]) -> Float[Tensor, "n k _ _"]:
    """Resize logits to each (height, width) in turn: bilinear, align_corners=False."""
    for size in sizes:
        if logits.shape[2:] != size:
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    return logits


def _plane(
    logits: Tensor, index: int, sizes: tuple[Size, ...], rows: slice, columns: slice
) -> Float[Tensor, "n rows columns"]:
    height = sizes[-1][0] if sizes else logits.shape[2]
    if (rows.start, rows.stop) in {(None, None), (0, height)}:
        plane = resized(logits[:, index : index + 1], sizes)[:, 0]
    else:
        plane = resized_rows(logits[:, index], list(sizes), rows.start, rows.stop)
    return plane[:, :, columns]


def resized_rows(
    maps: Float[Tensor, "n h w"], sizes: list[tuple[int, int]], first: int, last: int
) -> Float[Tensor, "n rows wr"]:
    """Resize maps to each (height, width) in turn; of the last, return the rows asked for.

    The rows of ``F.interpolate`` (bilinear, align_corners=False), up to rounding.
    """
    if not sizes:
        return maps[:, first:last]
    height, width = sizes[-1]
    source_height = sizes[-2][0] if len(sizes) > 1 else maps.shape[1]
    middles = torch.arange(first, last, dtype=torch.float64, device=maps.device) + 0.5
    places = (middles * (source_height / height) - 0.5).clamp(min=0)
    above = places.long()
    below = (above + (source_height != height)).clamp(max=source_height - 1)
    start, stop = int(above[0]), int(below[-1]) + 1
    source = resized_rows(maps, sizes[:-1], start, stop)
    if source.shape[2] != width:
        source = F.interpolate(
            source[None], (stop - start, width), mode="bilinear", align_corners=False
        )[0]
    if source_height == height:
        return source
    share = (places - above).float()[:, None]
    return source[:, above - start] * (1 - share) + source[:, below - start] * share
