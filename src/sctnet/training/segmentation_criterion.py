"""The computation of a training step in segmentation: from a batch of crops to the losses."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from sctnet.data.augmentation import Sample, ViewedSample
from sctnet.data.dataset import IGNORE
from sctnet.models import SegmentationNetwork
from sctnet.models.layers import resize
from sctnet.pipeline.preprocessing import Preprocessing, PreprocessingConfig
from sctnet.training.alignment import Alignment
from sctnet.training.criterion import Criterion
from sctnet.training.losses import (
    boundary_cross_entropy,
    hard_example_cross_entropy,
    resized_cross_entropy,
)
from sctnet.training.recipe import LossRecipe


class SegmentationCriterion(Criterion):
    """A network and its losses: cross-entropy on the main and, weighted, on the auxiliary heads.

    A head for boundaries has its own loss. With an alignment, the terms of its teacher are added,
    each under its own name.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        model: SegmentationNetwork,
        preprocessing: PreprocessingConfig,
        loss: LossRecipe,
        class_weights: Float[Tensor, " k"] | None,
        alignment: Alignment | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._features = model.features
        self.alignment = alignment
        self.preprocessing = Preprocessing(preprocessing)
        self.loss = loss
        self.register_buffer("class_weights", class_weights, persistent=False)

    @override
    def forward(
        self,
        batch: Sample | ViewedSample,
        divisor: Float[Tensor, ""],
        parts: int = 1,
        progress: float = 0.0,
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted losses of a part of a step, and their sum as ``loss``.

        Sums over pixels are divided by ``divisor``: the labelled pixels of the whole step, in all
        parts and processes. So the result does not depend on the division into parts. Means over
        images are divided by the number of equal ``parts``. The alignment's weights decay with
        ``progress``, the fraction of the run that is over.
        """
        images = self.preprocessing.normalise_crops(batch.image, batch.size)
        labels = batch.labels.long()
        images = images.contiguous(memory_format=torch.channels_last)
        answer = None
        if self.alignment is not None:
            views = (batch.view, batch.checksum) if isinstance(batch, ViewedSample) else None
            answer = self.alignment.ask(images, self.model.logits_size(images), views)
        features = self._features(images)
        losses = {"loss_main": self._cross_entropy(features.logits, labels) / divisor}
        if features.auxiliary_logits and self.loss.auxiliary_weight > 0:
            heads = [self._cross_entropy(logits, labels) for logits in features.auxiliary_logits]
            auxiliary = torch.stack(heads).sum() / divisor
            losses["loss_auxiliary"] = self.loss.auxiliary_weight * auxiliary
        if features.boundary_logits is not None and self.loss.boundary_weight > 0:
            told = resize(features.boundary_logits.float(), (labels.shape[1], labels.shape[2]))
            boundary = boundary_cross_entropy(told, labels) / parts
            losses["loss_boundary"] = self.loss.boundary_weight * boundary
        if self.alignment is not None:
            for name, term in self.alignment.weighted(images, features, answer, progress).items():
                losses[f"loss_alignment_{name}"] = term / parts
        return {**losses, "loss": torch.stack(list(losses.values())).sum()}

    @override
    def compile_student(self) -> None:
        """Compile the network's features; its parameters and the teacher stay as they are."""
        self._features = torch.compile(self.model.features)

    @override
    def count(self, batch: Sample | ViewedSample) -> Int[Tensor, ""]:
        """Return the number of pixels that a part adds to the divisor."""
        labels = batch.labels
        if self.loss.divide_by == "all":
            return torch.tensor(labels.numel(), device=labels.device)
        return (labels != IGNORE).sum()

    @override
    def companion(self) -> Alignment | None:
        """Return the alignment."""
        return self.alignment

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits, ohem = logits.float(), self.loss.ohem
        if ohem is None:
            return resized_cross_entropy(logits, labels, self.class_weights)
        logits = resize(logits, (labels.shape[1], labels.shape[2]))
        return hard_example_cross_entropy(
            logits, labels, self.class_weights, ohem.threshold, ohem.minimal_share
        )
