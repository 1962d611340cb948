"""Soft targets: label smoothing, mixup and cutmix."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


class Mix(NamedTuple):
    """How a batch is mixed with itself, in reverse order."""

    weight: float
    """Of the pictures themselves; the rest is of their partners."""
    box: tuple[int, int, int, int] | None
    """Top, left, bottom, right of what is the partners' (cutmix); None: all pixels are mixed."""

    def images(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return the mixed pictures."""
        partners = images.flip(0)
        if self.box is None:
            return self.weight * images + (1 - self.weight) * partners
        top, left, bottom, right = self.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
        return mixed

    def targets(self, targets: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Return the targets, weighted like the pictures."""
        return self.weight * targets + (1 - self.weight) * targets.flip(0)


def soft_targets(
    labels: Int[Tensor, " n"], classes: int, label_smoothing: float = 0.0
) -> Float[Tensor, "n k"]:
    """Return probabilities: 1 - ``label_smoothing`` at the label, the rest over all classes."""
    hot = F.one_hot(labels, classes).float()
    return hot * (1 - label_smoothing) + label_smoothing / classes


def draw_mix(
    mixup: float, cutmix: float, height: int, width: int, generator: np.random.Generator
) -> Mix | None:
    """Draw how to mix a batch: by mixup (Zhang et al. 2018) or cutmix (Yun et al. 2019).

    ``mixup`` and ``cutmix`` are the alpha of their Beta(alpha, alpha) distributions, 0 for never;
    with both, each is taken half of the time (as in timm and MMClassification). A cutmix box
    that reaches over the border is cut there, and the share follows. None without either.
    """
    kinds = [kind for kind, alpha in (("mixup", mixup), ("cutmix", cutmix)) if alpha > 0]
    if not kinds:
        return None
    kind = kinds[int(generator.integers(len(kinds)))]
    alpha = mixup if kind == "mixup" else cutmix
    weight = float(generator.beta(alpha, alpha))
    if kind == "mixup":
        return Mix(weight, None)
    side = (1 - weight) ** 0.5
    box_height, box_width = int(height * side), int(width * side)
    y, x = int(generator.integers(height)), int(generator.integers(width))
    top, bottom = max(0, y - box_height // 2), min(height, y + (box_height + 1) // 2)
    left, right = max(0, x - box_width // 2), min(width, x + (box_width + 1) // 2)
    weight = 1 - (bottom - top) * (right - left) / (height * width)
    return Mix(weight, (top, left, bottom, right))


def soft_cross_entropy(
    logits: Float[Tensor, "n k"], targets: Float[Tensor, "n k"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy with probabilities as targets, summed over the pictures."""
    return -(targets * logits.float().log_softmax(1)).sum()


def softened_divergence(
    student: Float[Tensor, "n k"], teacher: Float[Tensor, "n k"], temperature: float
) -> Float[Tensor, ""]:
    """Return KL(teacher || student), times the temperature squared, summed over the pictures.

    (Hinton et al. 2015.) ``student`` holds logits, ``teacher`` probabilities that have been
    softened by the same temperature.
    """
    log_student = (student.float() / temperature).log_softmax(1)
    return F.kl_div(log_student, teacher, reduction="sum") * temperature**2
