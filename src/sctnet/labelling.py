"""From a picture's bytes to a label for every pixel: what prediction and validation share."""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.preparation import Preparation, PreparationConfig


class ImageToLabels(nn.Module):
    """A whole prediction: RGB bytes in, a label for every pixel of the same picture out.

    The protocol is the released one. The picture is brought to the working size; the logits are
    resized to that size and from there to the picture's own (one step where the two are equal),
    and the largest wins, of equals the lowest class. Under ``autocast`` the network computes in
    that type; preparation and resizing stay in float32.
    """

    def __init__(
        self,
        network: nn.Module,
        preparation: PreparationConfig,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.preparation = Preparation(preparation)
        self.network = network
        self.autocast = autocast

    def forward(
        self, images: UInt8[Tensor, "n 3 h w"]
    ) -> UInt8[Tensor, "n h w"] | Int[Tensor, "n h w"]:
        """Label pictures; uint8 up to 255 classes, else int32."""
        prepared = self.preparation(images)
        enabled = self.autocast is not None
        with torch.autocast(images.device.type, dtype=self.autocast, enabled=enabled):
            logits = self.network.features(prepared).logits  # type: ignore[operator]
        working, size = prepared.shape[2:], images.shape[2:]
        return label_map(logits, (working[0], working[1]), (size[0], size[1]))


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
