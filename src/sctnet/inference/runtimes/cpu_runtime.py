"""A network of a model folder on the CPU, computed by the kernels of this package."""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from sctnet.checkpoints.exported_file import Output
from sctnet.kernels.network import CpuNetwork
from sctnet.models import SCTNet
from sctnet.pipeline.precision import Precision
from sctnet.pipeline.preprocessing import Preprocessing, PreprocessingConfig


class CpuRuntime:
    """Preprocessing and a fused network, without PyTorch's operations in between.

    PyTorch's threads keep spinning after an operation, and would take the cores from the kernels'
    threads.
    """

    device = torch.device("cpu")
    output: Output = "logits8"
    size: tuple[int, int] | None = None

    def __init__(
        self, fused: SCTNet, preprocessing: PreprocessingConfig, precision: Precision
    ) -> None:
        self.precision: str = precision.name
        self._because = precision.because
        self.preprocessing = Preprocessing(preprocessing)
        self.network = CpuNetwork(
            fused, preprocessing.mean, preprocessing.std, short=precision.name == "bf16"
        )

    def __str__(self) -> str:
        """Say how it runs, in few words."""
        return f"{self.precision} on cpu, in {self.network.instruction_set} kernels{self._because}"

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
        size = self.preprocessing.config.working_size.apply_scaled(*own, scale)
        seen = image if size == own else self.preprocessing(image, scale)
        logits = self.network(seen.flip(3) if mirrored else seen)
        return logits.flip(3) if mirrored else logits

    def require_logits(self, purpose: str) -> None:
        """Do nothing: logits are available."""

    def side_by_side(self, callers: int) -> "CpuRuntime":
        """Return a runtime for ``callers`` concurrent calls; each uses its part of the threads."""
        if callers == 1:
            return self
        other = copy.copy(self)
        other.network = self.network.side_by_side(callers)
        return other
