"""A network of a model folder, in PyTorch."""

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from sctnet.exported import Output
from sctnet.labelling import ImageToLabels
from sctnet.models import SegmentationNetwork
from sctnet.precision import DTYPES, Precision
from sctnet.preparation import PreparationConfig

_CPU, _FP32 = torch.device("cpu"), Precision("fp32")


class TorchRuntime:
    """Preparation and a fused network, channels last; the network under autocast where it is short.

    ``compiled`` compiles the network for every size that comes (``torch.compile``), on a GPU with
    CUDA graphs.
    """

    output: Output = "logits8"
    size: tuple[int, int] | None = None

    def __init__(
        self,
        fused: SegmentationNetwork,
        preparation: PreparationConfig,
        device: torch.device = _CPU,
        precision: Precision = _FP32,
        compiled: bool = False,
    ) -> None:
        self.device, self.precision = device, str(precision.name)
        self._because = precision.because
        labeller = ImageToLabels(fused, preparation, DTYPES[precision.name])
        self.labeller = labeller.to(self.device)
        self.compiled = compiled
        self._logits = self.labeller.logits
        if compiled:
            mode = "reduce-overhead" if self.device.type == "cuda" else "default"
            self._logits = torch.compile(self.labeller.logits, mode=mode, dynamic=False)

    def __str__(self) -> str:
        """Say how it runs, in few words."""
        how = ", compiled" if self.compiled else ""
        return f"{self.precision} on {self.device}{how}{self._because}"

    @torch.inference_mode()
    def __call__(
        self,
        images: Sequence[UInt8[Tensor, "1 3 _ _"]],
        scale: float = 1.0,
        mirrored: bool = False,
    ) -> list[Tensor]:
        """Return the logits, at the network's stride, of pictures of one working size."""
        # Prepared one after the other: of large pictures only one exists as floats in full.
        preparation = self.labeller.preparation
        batch = torch.cat([preparation(image, scale) for image in images])
        if mirrored:
            batch = batch.flip(3)
        # In the layout of the decoder's bytes, as validation in training has it.
        logits = self._logits(batch.contiguous(memory_format=torch.channels_last))
        if self.compiled:
            logits = logits.clone()  # the next call writes its own where a CUDA graph left these
        return list(torch.split(logits.flip(3) if mirrored else logits, 1))

    def require_logits(self, purpose: str) -> None:
        """Raise nothing: they are here."""

    def side_by_side(self, callers: int) -> "TorchRuntime":  # noqa: ARG002 - PyTorch's
        """Return the same: each caller has as many threads as PyTorch is told."""
        return self
