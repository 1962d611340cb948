"""The parts of a recipe for classification only."""

from pydantic import Field, model_validator

from sctnet.data.classification.random_crops import CropConfig
from sctnet.training.recipe_part import PicturesRecipe, RecipePart


class ClassificationDataRecipe(PicturesRecipe):
    """Which pictures; among a million, one that is broken does not end a run."""

    skip_broken: bool = True


class CosineScheduleRecipe(RecipePart):
    """Linear warm-up from ``warmup_rate``, then half a cosine down to ``final_rate``.

    The length is given in ``epochs`` or in ``iterations``, that of the warm-up in
    ``warmup_epochs`` or in ``warmup_iterations``.
    """

    epochs: float | None = Field(default=None, gt=0)
    iterations: int | None = Field(default=None, ge=1)
    warmup_epochs: float | None = Field(default=None, ge=0)
    warmup_iterations: int | None = Field(default=None, ge=0)
    warmup_rate: float = Field(default=1e-6, gt=0, description="at iteration 0")
    final_rate: float = Field(default=1e-5, ge=0)

    @model_validator(mode="after")
    def _each_length_is_given_once(self) -> "CosineScheduleRecipe":
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError("give epochs or iterations, and the other as null")
        if self.warmup_epochs is not None and self.warmup_iterations is not None:
            raise ValueError("give warmup_epochs or warmup_iterations, and the other as null")
        return self


class RandAugmentRecipe(RecipePart):
    """RandAugment (Cubuk et al. 2020): ``operations`` drawn for each picture.

    ``magnitude_std`` is the deviation with which each draws its magnitude.
    """

    operations: int = Field(default=2, ge=1, le=14)
    magnitude: float = Field(default=9.0, gt=0, le=10, description="of 10")
    magnitude_std: float = Field(default=0.5, ge=0)
    probability: float = Field(default=0.5, gt=0, le=1, description="that a drawn one is done")


class ClassificationAugmentation(CropConfig):
    """Random resized crops and flips in the loader, the rest on the device."""

    rand_augment: RandAugmentRecipe | None = None
    erasing: float = Field(default=0.0, ge=0, le=1, description="probability")
    """Whether a rectangle of a picture becomes noise (random erasing, Zhong et al. 2020)."""
    mixup: float = Field(default=0.0, ge=0, description="alpha of the Beta distribution")
    cutmix: float = Field(default=0.0, ge=0, description="alpha of the Beta distribution")


class ClassificationLossRecipe(RecipePart):
    """Cross-entropy with soft targets, of which ``label_smoothing`` is shared by all classes."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


class ClassifierTeacherRecipe(RecipePart):
    """A classifier as a teacher: the student learns its softened probabilities beside the labels.

    It may have other classes than the data. A second linear layer of the student predicts them, and
    is discarded after training.
    """

    source: str = Field(description="efficientnet-lite2, a run's folder, or transformers'")
    weight: float = Field(default=1.0, gt=0, description="beside the labels' loss, which has 1")
    temperature: float = Field(default=1.0, gt=0, description="that softens both sides")
    size: int | None = Field(default=None, ge=32, description="pixels a side that it is shown")
    cached: bool = False
    """Whether its answers to ``augmentation.fixed_crops`` are kept in the run's folder."""
