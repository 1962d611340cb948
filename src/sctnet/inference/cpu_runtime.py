"""A network of a model folder on the CPU, computed by the compiled library."""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from sctnet.compiled_network import CompiledNetwork
from sctnet.exported import Output
from sctnet.models import SCTNet
from sctnet.preparation import Preparation, PreparationConfig


class CpuRuntime:
    """Preparation and a fused network, without any work of PyTorch's in between.

    Its threads would go on spinning, to be quick for the next operation, where the library's
    threads then work.
    """

    device = torch.device("cpu")
    output: Output = "logits8"
    size: tuple[int, int] | None = None

    def __init__(self, fused: SCTNet, preparation: PreparationConfig, precision: str) -> None:
        self.precision = precision
        self.preparation = Preparation(preparation)
        self.network = CompiledNetwork(
            fused, preparation.mean, preparation.std, short=precision == "bf16"
        )

    def __str__(self) -> str:
        """Say how it runs, in few words."""
        return f"{self.precision} on cpu, in {self.network.instruction_set} kernels"

    def __call__(
        self,
        images: Sequence[UInt8[Tensor, "1 3 _ _"]],
        scale: float = 1.0,
        mirrored: bool = False,
    ) -> list[Tensor]:
        """Return the logits, at the network's stride, of each picture."""
        return [self._logits(image, scale, mirrored) for image in images]

    def _logits(self, image: Tensor, scale: float, mirrored: bool) -> Tensor:
        own = image.shape[2], image.shape[3]
        size = self.preparation.config.working_size.apply_scaled(*own, scale)
        seen = image if size == own else self.preparation(image, scale)
        logits = self.network(seen.flip(3) if mirrored else seen)
        return logits.flip(3) if mirrored else logits

    def require_logits(self, purpose: str) -> None:
        """Raise nothing: they are here."""

    def side_by_side(self, callers: int) -> "CpuRuntime":
        """Return the same for so many callers at a time, each in its share of the threads."""
        if callers == 1:
            return self
        other = copy.copy(self)
        other.network = self.network.side_by_side(callers)
        return other
