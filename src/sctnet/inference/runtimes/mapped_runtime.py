"""Any runtime behind a map of its classes."""

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from sctnet.checkpoints.class_map import ClassMap
from sctnet.inference.runtimes.runtime import Runtime


class MappedRuntime:
    """The logits of the new classes, at the runtime's stride.

    Raises :class:`SctnetError` for a runtime that gives labels alone.
    """

    def __init__(self, runtime: Runtime, class_map: ClassMap) -> None:
        runtime.require_logits("a map of its classes")
        self.inner, self._map = runtime, class_map
        self.device, self.precision = runtime.device, runtime.precision
        self.output, self.size = runtime.output, runtime.size

    def __str__(self) -> str:
        """Say how it runs, in few words."""
        return str(self.inner)

    def __call__(
        self,
        images: Sequence[UInt8[Tensor, "1 3 _ _"]],
        scale: float = 1.0,
        mirrored: bool = False,
    ) -> list[Tensor]:
        """Return the logits of each picture."""
        with torch.inference_mode():
            found = self.inner(images, scale, mirrored)
            return [self._map.scores(logits) for logits in found]

    def require_logits(self, purpose: str) -> None:
        """Do nothing: logits are available."""

    def side_by_side(self, callers: int) -> "MappedRuntime":
        """Return the same around what the runtime returns."""
        return MappedRuntime(self.inner.side_by_side(callers), self._map)
