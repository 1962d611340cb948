"""Augmentations of a batch of crops on its device, before it is mixed."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sctnet.pipeline.preprocessing import Preprocessing
from sctnet.training.classification.rand_augment import RandAugment, import_kornia
from sctnet.training.classification.recipe import ClassificationAugmentation

_AREA, _RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)
"""Of the erased rectangle: its share of the picture, and its height over its width."""


class BatchAugmentation(nn.Module):
    """RandAugment, then random erasing, as far as the recipe asks for them.

    Erased is one rectangle, filled with normal noise of the mean and std that pictures are
    normalised by, as in the Swin Transformer's training. Random numbers come from PyTorch's global
    generator. Raises :class:`SctnetError` where kornia is needed and missing.
    """

    def __init__(self, recipe: ClassificationAugmentation, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.rand_augment = (
            None if recipe.rand_augment is None else RandAugment(recipe.rand_augment)
        )
        self.erasing: nn.Module | None = None
        if recipe.erasing:
            self.erasing = import_kornia().augmentation.RandomErasing(
                scale=_AREA, ratio=_RATIO, value=0.0, p=recipe.erasing
            )

    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Map RGB crops in units of 0-255 to such crops."""
        if self.rand_augment is not None:
            pixels = 255 * self.rand_augment(pixels / 255)
        if self.erasing is not None:
            kept = self.erasing(torch.ones_like(pixels[:, :1]))
            noise = torch.randn_like(pixels) * self.preprocessing.std + self.preprocessing.mean
            pixels = torch.where(kept > 0.5, pixels, noise.clamp(0, 255))
        return pixels
