"""Label maps by PyTorch's operations, on every device and in every exported graph."""

from functools import lru_cache

import torch
from jaxtyping import Float, Float32, Int32, UInt8, UInt16
from torch import Tensor
from torch.nn import functional as F

from sctnet.kernels.interpolation import composed_weights, interpolation_weights
from sctnet.pipeline.label_dtype import UINT8_CLASSES

Size = tuple[int, int]
SampleWeights = tuple[Int32[Tensor, "_ _"], Float32[Tensor, "_ _"]]


def torch_label_dtype(classes: int) -> torch.dtype:
    """Return uint8 up to 255 classes, else uint16, as a type of PyTorch."""
    return torch.uint8 if classes <= UINT8_CLASSES else torch.uint16


def torch_label_map(
    logits: Float[Tensor, "n k h w"], sizes: tuple[Size, ...], rows: slice, columns: slice
) -> UInt8[Tensor, "n hs ws"] | UInt16[Tensor, "n hs ws"]:
    """Return the label map, one class at a time, so that only two full-size planes exist at once.

    A plane for each class would take 5 GB at 4K with 150 classes, and is several times slower.
    """
    logits = logits.float().contiguous()
    classes = logits.shape[1]
    largest = _plane(logits, 0, sizes, rows, columns)
    # PyTorch has few operations for uint16.
    narrow = torch_label_dtype(classes) == torch.uint8
    labels = torch.zeros_like(largest, dtype=torch.uint8 if narrow else torch.int32)
    for index in range(1, classes):
        candidate = _plane(logits, index, sizes, rows, columns)
        labels.masked_fill_(candidate > largest, index)
        largest = torch.maximum(largest, candidate)
    return labels.to(torch_label_dtype(classes))


def resize_logits(
    logits: Float[Tensor, "n k h w"], sizes: tuple[Size, ...]
) -> Float[Tensor, "n k _ _"]:
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
        plane = resize_logits(logits[:, index : index + 1], sizes)[:, 0]
    else:
        sizes = sizes or ((logits.shape[2], logits.shape[3]),)
        return torch.stack([resize_region(each, sizes, rows, columns) for each in logits[:, index]])
    return plane[:, :, columns]


def resize_region(
    plane: Float[Tensor, "h w"], sizes: tuple[Size, ...], rows: slice, columns: slice
) -> Float[Tensor, "rows columns"]:
    """Resize a plane to each size in turn, and compute only these rows and columns of the last.

    Equal to ``F.interpolate`` (bilinear, align_corners=False), up to rounding.
    """
    height, width = plane.shape
    down = weights_on((height, *(size[0] for size in sizes)), rows.start, rows.stop, plane.device)
    across = weights_on(
        (width, *(size[1] for size in sizes)), columns.start, columns.stop, plane.device
    )
    lines = _weighted(plane, 0, down)
    return _weighted(lines, 1, across)


def _weighted(plane: Tensor, side: int, taps: SampleWeights) -> Tensor:
    total: Tensor | None = None
    for places, weights in zip(*taps, strict=True):
        part = plane.index_select(side, places)
        part *= weights[:, None] if side == 0 else weights
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


@lru_cache(maxsize=256)
def weights_on(
    lengths: tuple[int, ...], begin: int, end: int, device: torch.device
) -> SampleWeights:
    """Return the samples that each pixel of a side reads, and their weights, on a device."""
    places, weights = composed_weights(interpolation_weights(lengths, begin, end))
    return torch.from_numpy(places).to(device), torch.from_numpy(weights).to(device)
