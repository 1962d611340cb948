"""The computation of a training step: from a batch to losses, for any task."""

from abc import abstractmethod
from typing import Any, Protocol

from jaxtyping import Float, Int
from torch import Tensor, nn


class Companion(Protocol):
    """A module that is trained beside the student but does not belong to it."""

    def learned_parameters(self) -> list[nn.Parameter]:
        """Return the parameters for the optimiser, at the heads' rate."""

    def learned_state(self) -> dict[str, Tensor]:
        """Return the state for a checkpoint, without frozen tensors."""

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a checkpoint."""


class Criterion(nn.Module):
    """A network and its losses, in one module, so that precision and data parallelism wrap both."""

    @abstractmethod
    def forward(
        self, batch: Any, divisor: Float[Tensor, ""], parts: int = 1, progress: float = 0.0
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted losses of a part of a step, and their sum as ``loss``.

        Sums are divided by ``divisor``, the total of :meth:`count` over the whole step. Means over
        images are divided by the number of equal ``parts``. ``progress`` is the fraction of the
        run's iterations that were done before, on which weights may depend.
        """

    @abstractmethod
    def count(self, batch: Any) -> Int[Tensor, ""]:
        """Return the number that a part adds to the divisor of the sums."""

    @abstractmethod
    def compile_student(self) -> None:
        """Compile the student's computation."""

    @abstractmethod
    def companion(self) -> Companion | None:
        """Return the modules that are trained beside the student, if any."""
