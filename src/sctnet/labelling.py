"""From a picture's bytes to a label for every pixel: what prediction and validation share."""

import torch
from jaxtyping import Float, UInt8, UInt16
from torch import Tensor, nn

from sctnet.labels import label_map
from sctnet.labels.planes import label_kind, resized
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
    ) -> UInt8[Tensor, "n h w"] | UInt16[Tensor, "n h w"]:
        """Label pictures; uint8 up to 255 classes, else uint16."""
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
    ) -> UInt8[Tensor, "n h w"] | UInt16[Tensor, "n h w"]:
        """Label pictures; uint8 up to 255 classes, else uint16."""
        if self.scales == (1.0,) and not self.flip:
            return super().forward(images)
        probabilities = self.probabilities(images)
        return probabilities.argmax(1).to(label_kind(probabilities.shape[1]))

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
        return resized(logits.contiguous(), sizes).softmax(1)
