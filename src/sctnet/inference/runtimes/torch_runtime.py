"""A network of a model folder, in PyTorch."""

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from sctnet.checkpoints.exported_file import Output
from sctnet.models import SegmentationNetwork
from sctnet.pipeline.image_to_labels import ImageToLabels
from sctnet.pipeline.precision import DTYPES, Precision
from sctnet.pipeline.preprocessing import PreprocessingConfig

_CPU, _FP32 = torch.device("cpu"), Precision("fp32")


class TorchRuntime:
    """Preprocessing and a fused network, channels last; bf16 and fp16 by autocast.

    ``compiled`` compiles the network for every size that comes (``torch.compile``), on a GPU with
    CUDA graphs.
    """

    output: Output = "logits8"
    size: tuple[int, int] | None = None

    def __init__(
        self,
        fused: SegmentationNetwork,
        preprocessing: PreprocessingConfig,
        device: torch.device = _CPU,
        precision: Precision = _FP32,
        compiled: bool = False,
    ) -> None:
        self.device, self.precision = device, str(precision.name)
        self._because = precision.because
        labeller = ImageToLabels(fused, preprocessing, DTYPES[precision.name])
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
        # One after the other, so that only one large picture exists as floats.
        preprocessing = self.labeller.preprocessing
        batch = torch.cat([preprocessing(image, scale) for image in images])
        if mirrored:
            batch = batch.flip(3)
        # In the layout of the decoder's bytes, as validation in training has it.
        logits = self._logits(batch.contiguous(memory_format=torch.channels_last))
        if self.compiled:
            logits = logits.clone()  # the next call writes its own where a CUDA graph left these
        return list(torch.split(logits.flip(3) if mirrored else logits, 1))

    def require_logits(self, purpose: str) -> None:
        """Do nothing: logits are available."""

    def side_by_side(self, callers: int) -> "TorchRuntime":  # noqa: ARG002 - PyTorch's
        """Return the same runtime: PyTorch decides on the threads of each call."""
        return self
