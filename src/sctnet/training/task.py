"""The task of a run: everything that segmentation and classification do differently."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import nn

from sctnet.checkpoints.calibration import Calibration
from sctnet.checkpoints.initialisation import Initialisation
from sctnet.data.loading import EpochStream, Pictures
from sctnet.errors import SctnetError
from sctnet.processes import Processes
from sctnet.training.criterion import Criterion
from sctnet.training.recipe import Recipe
from sctnet.training.schedule import Schedule


class ClassPictures(Pictures, Protocol):
    """The pictures of a run, for any task."""

    classes: tuple[str, ...]

    def item_name(self, index: int) -> str:
        """Return a picture's name."""


class Validation(NamedTuple):
    """What a validation found."""

    scores: dict[str, Any]
    """A line of metrics.jsonl: numbers, or numbers by class."""
    missed: tuple[str, ...] = ()
    """The classes that the pictures show, of which no pixel was found."""


Student = TypeVar("Student", bound=nn.Module)


class Task(ABC, Generic[Student]):
    """The pictures, the student and its losses, its score, and the folder that it leaves.

    ``score_name`` is the score that selects the best model, a key of the scores of
    :meth:`validate`.
    """

    score_name: str
    score_words: str
    """The same for people."""
    recipe: Recipe
    data: ClassPictures
    schedule: Schedule
    validates: bool
    """Whether there are pictures to validate on."""

    @abstractmethod
    def stream(self) -> EpochStream[Any]:
        """Return the endless stream of training samples, named tuples of tensors."""

    @abstractmethod
    def build(self, from_start: bool) -> tuple[Student, Initialisation | None]:
        """Return a new student and, if requested, the record of its initialisation."""

    @abstractmethod
    def criterion(self, student: Student, teacher: Any) -> Criterion:
        """Return the student with its losses; ``teacher`` replaces the recipe's teacher."""

    @abstractmethod
    def validate(self, student: Student, device: torch.device, processes: Processes) -> Validation:
        """Score the student; every process returns the same."""

    @abstractmethod
    def validation_seconds(self, student: Student, device: torch.device) -> float | None:
        """Estimate by a few pictures how long one process validates; None: not known."""

    validations_at_end: float = 0
    """How long :meth:`calibrate` takes, in validations."""

    @abstractmethod
    def save(self, student: Student, path: Path, card: str) -> None:
        """Write the model folder of a run."""

    def calibrate(
        self,
        student: Student,  # noqa: ARG002 - of those that calibrate
        device: torch.device,  # noqa: ARG002
        processes: Processes,  # noqa: ARG002
    ) -> Calibration | None:
        """Return what the validation pictures choose for a finished model, None for nothing.

        Every process must call this.
        """
        return None

    def taught_by(self) -> str:
        """Return a sentence for the card, which begins with a space; empty without a teacher."""
        return ""


def source_of(recipe: Recipe) -> str:
    """Return the recipe's source; :class:`SctnetError` without one."""
    if recipe.data.source is None:
        raise SctnetError(f"{recipe.name}: this recipe needs pictures, name their folder by --data")
    return recipe.data.source
