"""Soft labels of a teacher, which a second linear layer of the student predicts."""

import hashlib
import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sctnet.errors import SctnetError
from sctnet.training.classification.recipe import ClassifierTeacherRecipe
from sctnet.training.classification.teachers import ClassifierTeacher, load_classifier_teacher


class SoftLabels(nn.Module):
    """A frozen classifier, and the linear layer with which the student predicts its classes.

    It may have any classes. The layer is trained with the student and then discarded.
    """

    def __init__(
        self, recipe: ClassifierTeacherRecipe, teacher: ClassifierTeacher, width: int
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.teacher = teacher
        self.classes = teacher.class_count()
        self.linear = nn.Linear(width, self.classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)
        self.answers: CachedLogits | None = None

    def probabilities(
        self, pixels: Float[Tensor, "n 3 h w"], views: Int[Tensor, " n"]
    ) -> Float[Tensor, "n k"]:
        """Return the softened probabilities of RGB crops in units of 0-255."""
        logits: Tensor
        if self.answers is None:
            logits = self.teacher(pixels)
        else:
            logits = self.answers.of(views, pixels, self.teacher)
        return (logits.float() / self.recipe.temperature).softmax(1)

    def learned_parameters(self) -> list[nn.Parameter]:
        """Return the linear layer's."""
        return list(self.linear.parameters())

    def learned_state(self) -> dict[str, Tensor]:
        """Return the linear layer's."""
        return self.linear.state_dict()

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a checkpoint."""
        self.linear.load_state_dict(state)


class CachedLogits:
    """A teacher's logits of fixed crops, asked for once and kept in a file (float16).

    The file has room for all; it takes space as it is filled. Processes of one machine share it.
    """

    def __init__(self, file: Path, views: int, classes: int) -> None:
        size = views * (classes * 2 + 1)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            with file.open("r+b") as stream:
                stream.truncate(size)  # as long as it will be: other processes may do the same
                self._bytes = mmap.mmap(stream.fileno(), size)
        except OSError as error:
            raise SctnetError(
                f"{file}: {size / 1e9:.1f} GB of disk space are missing for the teacher's answers "
                f"({error.strerror}); free some space, or set teacher.cached=false"
            ) from error
        self._known = np.frombuffer(self._bytes, np.uint8, views)
        self._logits = np.frombuffer(self._bytes, np.float16, views * classes, views).reshape(
            views, classes
        )

    def of(
        self, views: Int[Tensor, " n"], pixels: Float[Tensor, "n 3 h w"], teacher: ClassifierTeacher
    ) -> Float[Tensor, "n k"]:
        """Return the logits of these crops; those that are not known are asked for and kept."""
        rows = views.cpu().numpy()
        unknown = np.flatnonzero(self._known[rows] == 0)
        if len(unknown):
            asked = torch.from_numpy(unknown).to(pixels.device)
            found = teacher(pixels[asked]).float().clamp(-60000, 60000)
            self._logits[rows[unknown]] = found.cpu().numpy().astype(np.float16)
            self._known[rows[unknown]] = 1
        return torch.from_numpy(self._logits[rows]).float().to(pixels.device)


def build_soft_labels(
    recipe: ClassifierTeacherRecipe | None, width: int, given: Any = None
) -> SoftLabels | None:
    """Return the recipe's teaching, None where it has none.

    ``given``, a callable from RGB pictures (N x 3 x H x W, in units of 0-255) to logits, takes
    the place of the classifier that the recipe names.
    """
    if recipe is None:
        if given is not None:
            raise SctnetError(
                "teacher: the recipe has none; set its weight, such as teacher.weight=1"
            )
        return None
    if given is None:
        teacher = load_classifier_teacher(recipe.source, recipe.size)
    elif isinstance(given, ClassifierTeacher):
        teacher = given
    else:
        teacher = ClassifierTeacher(given, recipe.size)
    return SoftLabels(recipe, teacher, width)


def answers_file(folder: Path, decided_by: Any) -> Path:
    """Return where answers are kept that everything in ``decided_by`` decides."""
    digest = hashlib.sha256(json.dumps(decided_by, sort_keys=True, default=str).encode())
    return folder / f"teacher-{digest.hexdigest()[:12]}.answers"
