"""A model of transformers, with its own preparation of pictures and its own end."""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from sctnet.checkpoints.exported_file import Output
from sctnet.checkpoints.transformers_model import TransformersModel
from sctnet.errors import SctnetError


class TransformersRuntime:
    """Logits at the picture's size, in float32; the model sees pictures at its own size."""

    precision = "fp32"
    output: Output = "logits"
    size: tuple[int, int] | None = None

    def __init__(self, model: TransformersModel, device: torch.device) -> None:
        self.model, self.device = model.to(device), device

    def __str__(self) -> str:
        """Say how it runs, in few words."""
        return f"{self.precision} in transformers on {self.device}"

    @torch.inference_mode()
    def __call__(
        self,
        images: Sequence[UInt8[Tensor, "1 3 _ _"]],
        scale: float = 1.0,
        mirrored: bool = False,
    ) -> list[Tensor]:
        """Return the logits of each picture."""
        if scale != 1:
            raise SctnetError(
                "scales: a model of transformers sees pictures at its own size: leave them out"
            )
        found = []
        for image in images:
            seen = image.flip(3) if mirrored else image
            logits = self.model(seen, (image.shape[2], image.shape[3]))
            found.append(logits.flip(3) if mirrored else logits)
        return found

    def require_logits(self, purpose: str) -> None:
        """Do nothing: logits are available."""

    def side_by_side(self, callers: int) -> "TransformersRuntime":  # noqa: ARG002 - PyTorch's
        """Return a copy: PyTorch decides on the threads of each call."""
        return copy.copy(self)
