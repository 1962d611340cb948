"""The computation of a training step in classification: from a batch of crops to the losses."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from sctnet.data.classification.loading import ClassifiedSample
from sctnet.models.classifier import Classifier
from sctnet.pipeline.preprocessing import Preprocessing, PreprocessingConfig
from sctnet.training.classification.batch_augmentation import BatchAugmentation
from sctnet.training.classification.mixup import (
    Mix,
    draw_mix,
    soft_cross_entropy,
    soft_targets,
    softened_divergence,
)
from sctnet.training.classification.recipe import (
    ClassificationAugmentation,
    ClassificationLossRecipe,
)
from sctnet.training.classification.soft_labels import SoftLabels
from sctnet.training.criterion import Criterion


class ClassificationCriterion(Criterion):
    """A classifier and its losses: cross-entropy with soft targets and, with a teacher, its own.

    Everything random here comes from PyTorch's global generator, which a step seeds.
    """

    def __init__(
        self,
        model: Classifier,
        preprocessing: PreprocessingConfig,
        augmentation: ClassificationAugmentation,
        loss: ClassificationLossRecipe,
        teaching: SoftLabels | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._pooled = model.pooled
        self.preprocessing = Preprocessing(preprocessing)
        self.augmentation = augmentation
        self.augment = BatchAugmentation(augmentation, self.preprocessing)
        self.loss = loss
        self.teaching = teaching

    @override
    def forward(
        self,
        batch: ClassifiedSample,
        divisor: Float[Tensor, ""],
        parts: int = 1,
        progress: float = 0.0,
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the losses of a part of a step, divided by all its pictures, and their sum."""
        targets = soft_targets(
            batch.label, self.model.linear.out_features, self.loss.label_smoothing
        )
        pixels = self.augment(batch.image.float())
        mix = self._drawn_mix(batch.image.shape[2])
        if mix is not None:
            pixels, targets = mix.images(pixels), mix.targets(targets)
        images = (pixels - self.preprocessing.mean) / self.preprocessing.std
        images = images.contiguous(memory_format=torch.channels_last)
        pooled = self._pooled(images)
        losses = {"loss_main": soft_cross_entropy(self.model.linear(pooled), targets) / divisor}
        if self.teaching is not None:
            # Of a fixed crop the answer is known, of what is mixed the mixed answer; otherwise
            # the teacher sees what the student sees.
            cached = self.teaching.answers is not None
            seen = batch.image.float() if cached else pixels
            answers = self.teaching.probabilities(seen, batch.view)
            if mix is not None and cached:
                answers = mix.targets(answers)
            recipe = self.teaching.recipe
            divergence = softened_divergence(
                self.teaching.linear(pooled), answers, recipe.temperature
            )
            losses["loss_teacher"] = recipe.weight * divergence / divisor
        return {**losses, "loss": torch.stack(list(losses.values())).sum()}

    @override
    def count(self, batch: ClassifiedSample) -> Int[Tensor, ""]:
        """Return the number of pictures."""
        return torch.tensor(len(batch.label), device=batch.label.device)

    @override
    def compile_student(self) -> None:
        """Compile the backbone; parameters and teacher stay as they are."""
        self._pooled = torch.compile(self.model.pooled)

    @override
    def companion(self) -> SoftLabels | None:
        """Return the teaching."""
        return self.teaching

    def _drawn_mix(self, side: int) -> Mix | None:
        seed = int(torch.randint(2**62, ()).item())
        generator = np.random.default_rng(seed)
        return draw_mix(self.augmentation.mixup, self.augmentation.cutmix, side, side, generator)
