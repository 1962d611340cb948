"""One training step's arithmetic: from a batch of crops to the losses."""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from sctnet.data.augmentation import Sample
from sctnet.data.dataset import IGNORE
from sctnet.models import SegmentationNetwork
from sctnet.models.layers import resize
from sctnet.preparation import Preparation, PreparationConfig
from sctnet.training.alignment import Alignment
from sctnet.training.losses import cross_entropy, hard_example_cross_entropy
from sctnet.training.recipe import LossRecipe


class SegmentationTask(nn.Module):
    """A network and its losses: cross-entropy on the main head and, less, on the auxiliary one.

    With an alignment, the terms of its teacher are added, each under its own name.

    It is one module, so that precision and data parallelism wrap all of a step.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        model: SegmentationNetwork,
        preparation: PreparationConfig,
        loss: LossRecipe,
        class_weights: Float[Tensor, " k"] | None,
        alignment: Alignment | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._features = model.features
        self.alignment = alignment
        self.preparation = Preparation(preparation)
        self.loss = loss
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(
        self, batch: Sample, pixels: Float[Tensor, ""], parts: int = 1
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted losses of a part of a step, and their sum as ``loss``.

        ``pixels`` is what the sums over pixels are divided by: the labelled pixels of the whole
        step, all parts and processes, so that the result does not depend on how it is divided.
        What is a mean over images is divided by the number of equal ``parts``.
        """
        images = self.preparation.normalise_crops(batch.image, batch.size)
        labels = batch.labels.long()
        images = images.contiguous(memory_format=torch.channels_last)
        features = self._features(images)
        losses = {"loss_main": self._cross_entropy(features.logits, labels) / pixels}
        if features.auxiliary_logits is not None and self.loss.auxiliary_weight > 0:
            auxiliary = self._cross_entropy(features.auxiliary_logits, labels) / pixels
            losses["loss_auxiliary"] = self.loss.auxiliary_weight * auxiliary
        if self.alignment is not None:
            for name, term in self.alignment.weighted(images, features).items():
                losses[f"loss_alignment_{name}"] = term / parts
        return {**losses, "loss": torch.stack(list(losses.values())).sum()}

    def compile_student(self) -> None:
        """Compile the network's features; its parameters and the teacher stay as they are."""
        self._features = torch.compile(self.model.features)

    def pixels(self, labels: UInt8[Tensor, "n h w"]) -> Int[Tensor, ""]:
        """Return the number of pixels that a part adds to the divisor."""
        if self.loss.divide_by == "all":
            return torch.tensor(labels.numel(), device=labels.device)
        return (labels != IGNORE).sum()

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = resize(logits.float(), (labels.shape[1], labels.shape[2]))
        ohem = self.loss.ohem
        if ohem is None:
            return cross_entropy(logits, labels, self.class_weights)
        return hard_example_cross_entropy(
            logits, labels, self.class_weights, ohem.threshold, ohem.minimal_share
        )
