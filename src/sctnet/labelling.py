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
        working, size = prepared.shape[2:], images.shape[2:]
        return label_map(self.logits(prepared), (working[0], working[1]), (size[0], size[1]))

    def logits(self, prepared: Float[Tensor, "n 3 hw ww"]) -> Float[Tensor, "n k h w"]:
        """Return the network's logits, at its own stride, of prepared pictures."""
        enabled = self.autocast is not None
        with torch.autocast(prepared.device.type, dtype=self.autocast, enabled=enabled):
            logits: Tensor = self.network.features(prepared).logits  # type: ignore[operator]
        return logits


class AveragedToLabels(ImageToLabels):
    """A prediction in several scales, and mirrored: the class of the largest mean probability.

    The picture's working size is multiplied by each of ``scales``; with ``flip`` each is also seen
    mirrored. All logits are brought to the picture's own size as in :class:`ImageToLabels`, and
    their softmaxes averaged there; of equals the lowest class wins. One probability a class and
    pixel is held: some 160 MB for 19 classes at 1024 x 2048. A single scale of 1 without ``flip``
    is exactly :class:`ImageToLabels`.
    """

    def __init__(
        self,
        network: nn.Module,
        preparation: PreparationConfig,
        autocast: torch.dtype | None = None,
        scales: tuple[float, ...] = (1.0,),
        flip: bool = False,
    ) -> None:
        super().__init__(network, preparation, autocast)
        self.scales = scales
        self.flip = flip

    def forward(
        self, images: UInt8[Tensor, "n 3 h w"]
    ) -> UInt8[Tensor, "n h w"] | Int[Tensor, "n h w"]:
        """Label pictures; uint8 up to 255 classes, else int32."""
        if self.scales == (1.0,) and not self.flip:
            return super().forward(images)
        probabilities = self.probabilities(images)
        labels = probabilities.argmax(1)
        return labels.to(torch.uint8 if probabilities.shape[1] <= 255 else torch.int32)

    def probabilities(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n k h w"]:
        """Return the mean probability of each class and pixel, at the pictures' size."""
        total: Tensor | None = None
        for scale in self.scales:
            prepared = self.preparation(images, scale)
            for mirrored in (False, True)[: 1 + self.flip]:
                probabilities = self._probabilities(prepared, images, mirrored)
                total = probabilities if total is None else total.add_(probabilities)
        assert total is not None
        return total / (len(self.scales) * (1 + self.flip))

    def _probabilities(self, prepared: Tensor, images: Tensor, mirrored: bool) -> Tensor:
        logits = self.logits(prepared.flip(3) if mirrored else prepared).float()
        logits = logits.flip(3) if mirrored else logits
        working, size = prepared.shape[2:], images.shape[2:]
        sizes = (working[0], working[1]), (size[0], size[1])
        return _resized(logits.contiguous(), sizes).softmax(1)


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
