"""The computation of a training step in segmentation: from a batch of crops to the losses."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from typing_extensions import override

from sctnet.data.augmentation import Sample, ViewedSample
from sctnet.data.dataset import IGNORE
from sctnet.models import Features, SegmentationNetwork
from sctnet.models.layers import resize
from sctnet.pipeline.preprocessing import Preprocessing, PreprocessingConfig
from sctnet.training.alignment import Alignment
from sctnet.training.criterion import Criterion
from sctnet.training.distillation import (
    at_larger_size,
    hard_cross_entropy,
    soft_divergence,
    targets,
)
from sctnet.training.losses import (
    boundary_cross_entropy,
    hard_example_cross_entropy,
    resized_cross_entropy,
)
from sctnet.training.recipe import DistillationRecipe, LossRecipe
from sctnet.training.teachers import Answer


class SegmentationCriterion(Criterion):
    """A network and its losses: cross-entropy on the main and, weighted, on the auxiliary heads.

    A head for boundaries has its own loss. With an alignment, the terms of its teacher are added,
    each under its own name. With a ``distillation`` the student's logits learn from the teacher's,
    too: softly everywhere, and by the teacher's labels where a crop has none of its own.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        model: SegmentationNetwork,
        preprocessing: PreprocessingConfig,
        loss: LossRecipe,
        class_weights: Float[Tensor, " k"] | None,
        alignment: Alignment | None = None,
        distillation: DistillationRecipe | None = None,
    ) -> None:
        super().__init__()
        self.distillation = distillation
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
        if self.distillation is not None:
            assert answer is not None  # the recipe has a teacher
            for name, term in self._told(self.distillation, batch, features, answer).items():
                losses[f"loss_{name}"] = term / divisor
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
        labelled = (labels != IGNORE).sum((1, 2))
        if self.distillation is not None:  # the teacher labels the crops without labels
            labelled = torch.where(labelled > 0, labelled, batch.size.prod(1))
        return labelled.sum()

    @override
    def companion(self) -> Alignment | None:
        """Return the alignment."""
        return self.alignment

    def _told(
        self,
        recipe: DistillationRecipe,
        batch: Sample | ViewedSample,
        features: Features,
        answer: Answer,
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted terms of the teacher's logits, at the larger size of the two.

        They are multiplied by the pixels of a crop that one of that size stands for, so that they
        count beside a cross-entropy at the crop's own size.
        """
        student, logits = at_larger_size(features.logits, answer.logits)
        student = student.float().contiguous()  # planes: both terms work along the classes
        size = student.shape[2], student.shape[3]
        dropped = None if answer.dropped is None else resize(answer.dropped, size)
        told = targets(logits, dropped, recipe.confidence == "margin")
        height, width = batch.labels.shape[1:]
        real = _inside(
            batch.size * batch.size.new_tensor(size) / batch.size.new_tensor([height, width]), size
        )
        pixels = height * width / (size[0] * size[1])
        told = told._replace(weights=told.weights * real * pixels)
        terms = {}
        if recipe.soft > 0:
            divergence = soft_divergence(student, told, recipe.temperature, self.class_weights)
            terms["soft"] = recipe.soft * divergence
        if recipe.hard > 0:
            unlabelled = (batch.labels == IGNORE).flatten(1).all(1)
            hard = told._replace(weights=told.weights * unlabelled[:, None, None])
            terms["hard"] = recipe.hard * hard_cross_entropy(student, hard, self.class_weights)
            if features.auxiliary_logits and self.loss.auxiliary_weight > 0:
                helpers = [resize(logits.float(), size) for logits in features.auxiliary_logits]
                losses = [hard_cross_entropy(each, hard, self.class_weights) for each in helpers]
                weight = recipe.hard * self.loss.auxiliary_weight
                terms["hard_auxiliary"] = weight * torch.stack(losses).sum()
        return terms

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits, ohem = logits.float(), self.loss.ohem
        if ohem is None:
            return resized_cross_entropy(logits, labels, self.class_weights)
        logits = resize(logits, (labels.shape[1], labels.shape[2]))
        return hard_example_cross_entropy(
            logits, labels, self.class_weights, ohem.threshold, ohem.minimal_share
        )


def _inside(sizes: Float[Tensor, "n 2"], whole: tuple[int, int]) -> Bool[Tensor, "n h w"]:
    """Return which cells of a map of the ``whole`` size lie in the first rows and columns."""
    rows, columns = (
        torch.arange(side, device=sizes.device)[None] + 0.5 < sizes[:, axis, None]
        for axis, side in enumerate(whole)
    )
    return rows[:, :, None] & columns[:, None]
