"""A network of a model folder, in PyTorch."""

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from sctnet.checkpoints.exported_file import Output
from sctnet.checkpoints.model_folder import usable_device
from sctnet.errors import SctnetError
from sctnet.models import SegmentationNetwork
from sctnet.pipeline.image_to_labels import ImageToLabels
from sctnet.pipeline.preprocessing import PreprocessingConfig

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchRuntime:
    """Preprocessing and a fused network, channels last; bf16 and fp16 by autocast.

    ``precision`` ``auto`` is fp16 on a CUDA GPU and fp32 elsewhere. ``compiled`` compiles the
    network for every new size (``torch.compile``), on a GPU with CUDA graphs.
    """

    output: Output = "logits8"
    size: tuple[int, int] | None = None

    def __init__(
        self,
        network: SegmentationNetwork,
        preprocessing: PreprocessingConfig,
        device: str | torch.device | None = None,
        precision: str = "auto",
        compiled: bool = False,
    ) -> None:
        if precision not in {"auto", *_AUTOCAST}:
            raise SctnetError(
                f"precision {precision!r}: choose one of auto, {', '.join(_AUTOCAST)}"
            )
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = usable_device(device)
        automatic = "fp16" if self.device.type == "cuda" else "fp32"
        self.precision = automatic if precision == "auto" else precision
        labeller = ImageToLabels(network.fuse(), preprocessing, _AUTOCAST[self.precision])
        self.labeller = labeller.to(self.device)
        self.compiled = compiled
        self._logits = self.labeller.logits
        if compiled:
            mode = "reduce-overhead" if self.device.type == "cuda" else "default"
            self._logits = torch.compile(self.labeller.logits, mode=mode, dynamic=False)

    def __str__(self) -> str:
        """Say how it runs, in few words."""
        return f"{self.precision} on {self.device}" + (", compiled" if self.compiled else "")

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
