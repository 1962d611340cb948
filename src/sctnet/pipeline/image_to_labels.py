"""From a picture's bytes to its label map: the steps that prediction and validation share."""

import torch
from jaxtyping import Float, UInt8, UInt16
from torch import Tensor, nn

from sctnet.pipeline.argmax_torch import resize_logits
from sctnet.pipeline.label_map import label_map
from sctnet.pipeline.preprocessing import Preprocessing, PreprocessingConfig


class ImageToLabels(nn.Module):
    """A whole prediction: RGB bytes in, a label for every pixel of the same picture out.

    The protocol is the released one. The picture is resized to the working size. The logits are
    resized to that size and from there to the picture's own (in one step if the two are equal).
    Each pixel gets the class with the largest logit; of equal logits the lowest class wins. The
    network computes in the type ``autocast``; preprocessing and resizing stay in float32.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocessing: PreprocessingConfig,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(preprocessing)
        self.network = network
        self.autocast = autocast

    def forward(
        self, images: UInt8[Tensor, "n 3 h w"]
    ) -> UInt8[Tensor, "n h w"] | UInt16[Tensor, "n h w"]:
        """Label pictures; uint8 up to 255 classes, else uint16."""
        prepared = self.preprocessing(images)
        working, size = prepared.shape[2:], images.shape[2:]
        return label_map(self.logits(prepared), (working[0], working[1]), (size[0], size[1]))

    def probabilities(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n k h w"]:
        """Return the probability of each class and pixel, at the pictures' size."""
        prepared = self.preprocessing(images)
        sizes = tuple((each.shape[2], each.shape[3]) for each in (prepared, images))
        return resize_logits(self.logits(prepared).float(), sizes).softmax(1)

    def logits(self, prepared: Float[Tensor, "n 3 hw ww"]) -> Float[Tensor, "n k h w"]:
        """Return the network's logits, at its own stride, of preprocessed pictures."""
        enabled = self.autocast is not None
        with torch.autocast(prepared.device.type, dtype=self.autocast, enabled=enabled):
            logits: Tensor = self.network.features(prepared).logits  # type: ignore[operator]
        return logits
