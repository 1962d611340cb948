"""RandAugment (Cubuk et al. 2020) on a batch, of kornia's functions.

Operations and ranges are those of the Swin Transformer's training (timm's "increasing" set, which
MMClassification follows), which the paper names as its own. kornia's ready-made RandAugment is
another: it draws one set of operations for a whole batch, counts the magnitude to 30 without noise,
solarises less where others solarise more, and only brightens where others also darken.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sctnet.errors import SctnetError
from sctnet.training.classification.recipe import RandAugmentRecipe

_GREY = 128 / 255
"""What comes in from outside where a picture is moved."""

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of pictures (n x 3 x h x w, 0-1), their strengths (0-1) and their signs (1 or -1)."""


class RandAugment(nn.Module):
    """Some of the operations, drawn for each picture, one after the other.

    A drawn operation is done with ``recipe.probability``; its strength is ``recipe.magnitude`` of
    10, with normal noise of ``recipe.magnitude_std``. Random numbers come from PyTorch's global
    generator. Raises :class:`SctnetError` where kornia is missing.
    """

    def __init__(self, recipe: RandAugmentRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.operations = operations()

    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Map RGB pictures in 0-1 to such pictures."""
        recipe, count = self.recipe, len(pixels)
        for _ in range(recipe.operations):
            # Drawn on the host: which pictures get what must be known there.
            chosen = torch.randint(len(self.operations), (count,))
            chosen[torch.rand(count) >= recipe.probability] = -1
            strength = (recipe.magnitude + recipe.magnitude_std * torch.randn(count)) / 10
            strength, sign = strength.clamp(0, 1), 1 - 2.0 * torch.randint(2, (count,))
            pixels = pixels.clone()
            for number, operation in enumerate(self.operations.values()):
                rows = (chosen == number).nonzero().flatten()
                if len(rows):
                    of_rows = (part[rows].to(pixels) for part in (strength, sign))
                    pixels[rows.to(pixels.device)] = operation(
                        pixels[rows.to(pixels.device)], *of_rows
                    ).clamp(0, 1)
        return pixels


def operations() -> dict[str, Operation]:
    """Return the operations by name."""
    kornia = import_kornia()
    geometry, enhance = kornia.geometry.transform, kornia.enhance

    def moved(pixels: Tensor, matrices: Tensor) -> Tensor:
        size = pixels.shape[2:]
        return Tensor(
            geometry.warp_affine(
                pixels, matrices, size, padding_mode="fill", fill_value=torch.full((3,), _GREY)
            )
        )

    def rotated(pixels: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        centre = pixels.new_tensor([[(width - 1) / 2, (height - 1) / 2]]).expand(len(pixels), 2)
        scale = torch.ones_like(centre)
        return moved(pixels, geometry.get_rotation_matrix2d(centre, 30 * strength * sign, scale))

    def sheared(axis: int) -> Operation:
        def operation(pixels: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
            matrices = _identities(pixels)
            slope = 0.3 * strength * sign
            matrices[:, axis, 1 - axis] = slope
            # About the middle.
            matrices[:, axis, 2] = -slope * (pixels.shape[2 + axis] - 1) / 2
            return moved(pixels, matrices)

        return operation

    def translated(axis: int) -> Operation:
        def operation(pixels: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
            matrices = _identities(pixels)
            matrices[:, axis, 2] = 0.45 * strength * sign * pixels.shape[3 - axis]
            return moved(pixels, matrices)

        return operation

    def blended(neutral: Callable[[Tensor], Tensor]) -> Operation:
        """Move away from a neutral picture, or towards it, by up to 0.9 of the way."""

        def operation(pixels: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
            factor = (1 + 0.9 * strength * sign)[:, None, None, None]
            plain = neutral(pixels)
            return plain + factor * (pixels - plain)

        return operation

    def posterised(pixels: Tensor, strength: Tensor, sign: Tensor) -> Tensor:  # noqa: ARG001
        return Tensor(enhance.posterize(pixels, 4 - (4 * strength).int().clamp(max=3)))

    def solarised(pixels: Tensor, strength: Tensor, sign: Tensor) -> Tensor:  # noqa: ARG001
        return torch.where(pixels < (1 - strength)[:, None, None, None], pixels, 1 - pixels)

    def lightened(pixels: Tensor, strength: Tensor, sign: Tensor) -> Tensor:  # noqa: ARG001
        more = (110 / 255 * strength)[:, None, None, None]
        return torch.where(pixels < _GREY, pixels + more, pixels)

    def grey(pixels: Tensor) -> Tensor:
        return Tensor(kornia.color.rgb_to_grayscale(pixels)).expand_as(pixels)

    return {
        "auto contrast": lambda pixels, _strength, _sign: _stretched(pixels),
        "equalise": lambda pixels, _strength, _sign: Tensor(enhance.equalize(pixels)),
        "invert": lambda pixels, _strength, _sign: 1 - pixels,
        "rotate": rotated,
        "posterise": posterised,
        "solarise": solarised,
        "solarise add": lightened,
        "colour": blended(grey),
        "contrast": blended(lambda pixels: grey(pixels).mean((1, 2, 3), keepdim=True)),
        "brightness": blended(torch.zeros_like),
        "sharpness": blended(lambda pixels: Tensor(kornia.filters.box_blur(pixels, 3))),
        "shear x": sheared(0),
        "shear y": sheared(1),
        "translate x": translated(0),
        "translate y": translated(1),
    }


def import_kornia() -> Any:
    """Return the package; :class:`SctnetError` where it is missing."""
    try:
        import kornia
    except ImportError as error:
        raise SctnetError(
            "augmentation.rand_augment and .erasing need one more package: "
            'pip install "sctnet[pretraining]"'
        ) from error
    return kornia


def _identities(pixels: Tensor) -> Tensor:
    """Return an affine matrix (2 x 3) a picture that changes nothing."""
    return torch.eye(2, 3, device=pixels.device, dtype=pixels.dtype).repeat(len(pixels), 1, 1)


def _stretched(pixels: Tensor) -> Tensor:
    """Stretch every channel to 0-1; one of a single value stays."""
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    return torch.where(high > low, (pixels - low) / (high - low).clamp(min=1e-6), pixels)
