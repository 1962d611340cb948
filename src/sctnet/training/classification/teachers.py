"""Classifiers as teachers of a classifier; they see the same crops as the student."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.checkpoints.classifier_folder import is_classifier_folder, load_classifier
from sctnet.checkpoints.model_folder import find_model
from sctnet.errors import SctnetError
from sctnet.models.efficientnet import load_efficientnet_classifier

EFFICIENTNET = "efficientnet-lite2"

TeacherLogits = Callable[[Float[Tensor, "n 3 h w"]], Float[Tensor, "n k"]]
"""From RGB pictures in units of 0-255 to logits; what a teacher from elsewhere has to be."""


class ClassifierTeacher(nn.Module):
    """A frozen classifier with its own normalisation and input size.

    ``mean`` and ``std`` are in units of 0-255, ``size`` is what it is shown: pixels a side.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module | TeacherLogits,
        size: int | None,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        logits: Callable[[Any], Tensor] = lambda output: output,
    ) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self._logits = logits
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.requires_grad_(False)
        if isinstance(network, nn.Module):
            network.eval()

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        """Map RGB pictures, in units of 0-255, to logits."""
        if self.size is not None and images.shape[2:] != (self.size, self.size):
            images = F.interpolate(
                images, (self.size, self.size), mode="bicubic", antialias=True
            ).clamp(0, 255)
        logits = self._logits(self.network((images - self.mean) / self.std))
        if (
            not isinstance(logits, Tensor)
            or logits.shape[:1] != images.shape[:1]
            or logits.ndim != 2
        ):
            raise SctnetError(
                "teacher: gives no logits (one row a picture, one column a class); "
                "wrap it in a function that does"
            )
        return logits

    def train(self, mode: bool = True) -> "ClassifierTeacher":  # noqa: ARG002
        """Stay in eval mode."""
        return self

    def class_count(self) -> int:
        """Return how many classes it knows, as it answers."""
        side = self.size or 64
        logits: Tensor = self(torch.zeros(1, 3, side, side, device=self.mean.device))
        return logits.shape[1]


def load_classifier_teacher(source: str | os.PathLike[str], size: int | None) -> ClassifierTeacher:
    """Return the teacher that a recipe names.

    ``source`` is ``efficientnet-lite2`` (the ImageNet classifier of its packages), the folder of a
    classification's run, or a folder or hub id of an image classifier as transformers writes it.
    ``size`` takes the place of the size that it was trained at. Raises :class:`SctnetError` for
    anything else.
    """
    if str(source) == EFFICIENTNET:
        network = load_efficientnet_classifier()
        return ClassifierTeacher(network, size or 260, (127.0,), (128.0,))
    path = find_model(source)
    if is_classifier_folder(path):
        model, config = load_classifier(path)
        preprocessing = config.preparation
        return ClassifierTeacher(model, size or config.crop, preprocessing.mean, preprocessing.std)
    return _of_transformers(path, size)


def _of_transformers(path: Path, size: int | None) -> ClassifierTeacher:
    try:
        from transformers import AutoImageProcessor, AutoModelForImageClassification
    except ImportError as error:
        raise SctnetError(
            f'{path}: such a teacher needs one more package: pip install "sctnet[teachers]"'
        ) from error
    try:
        network = AutoModelForImageClassification.from_pretrained(
            path, local_files_only=True, use_safetensors=True
        )
        shown = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            path, local_files_only=True
        )
        own = shown.crop_size if getattr(shown, "crop_size", None) else shown.size
        own_size = int(next(iter(dict(own).values())))
        mean = tuple(255 * float(value) for value in shown.image_mean)
        std = tuple(255 * float(value) for value in shown.image_std)
    except Exception as error:  # whatever its loaders raise
        raise SctnetError(
            f"{path}: no image classifier of transformers with its preprocessor_config.json "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from error
    return ClassifierTeacher(network, size or own_size, mean, std, lambda output: output.logits)
