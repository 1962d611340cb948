"""The task of naming pictures: its pictures, classifier, validation and backbone folder."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from sctnet.checkpoints.classifier_folder import save_classifier
from sctnet.checkpoints.initialisation import Initialisation, start
from sctnet.data.classification.dataset import ClassificationDataset
from sctnet.data.classification.loading import ClassificationStream
from sctnet.data.classification.random_crops import centre_crop, to_tensor
from sctnet.data.classification.registry import open_classified
from sctnet.errors import SctnetError
from sctnet.evaluation.classification import evaluate_classifier
from sctnet.models import create_model
from sctnet.models.classifier import Classifier
from sctnet.pipeline.preprocessing import Preprocessing
from sctnet.processes import Processes, launched_processes
from sctnet.training.classification.criterion import ClassificationCriterion
from sctnet.training.classification.soft_labels import CachedLogits, answers_file, build_soft_labels
from sctnet.training.optim import rate_factor
from sctnet.training.recipe import ClassificationRecipe
from sctnet.training.schedule import cosine_schedule
from sctnet.training.task import Task, Validation, source_of

_LOG = logging.getLogger(__name__)

_TIMED = 8  # pictures


class ClassificationTask(Task[Classifier]):
    """A backbone that learns by naming whole pictures.

    A teacher's cached answers are kept in ``folder``.
    """

    score_name, score_words = "top1", "top-1 accuracy"
    recipe: ClassificationRecipe
    data: ClassificationDataset

    def __init__(
        self,
        recipe: ClassificationRecipe,
        data: ClassificationDataset,
        validation: ClassificationDataset | None = None,
        folder: Path | None = None,
    ) -> None:
        self.recipe, self.data, self.validation = recipe, data, validation
        self.folder = folder
        self.validates = validation is not None
        size = recipe.run.batch_size
        self.schedule = cosine_schedule(
            recipe.schedule, len(data), size, rate_factor(recipe.optimizer, size)
        )

    @override
    def stream(self) -> ClassificationStream:
        recipe = self.recipe
        return ClassificationStream(
            self.data, recipe.augmentation, recipe.run.seed, recipe.data.skip_broken
        )

    @override
    def build(self, from_start: bool) -> tuple[Classifier, Initialisation | None]:
        wanted, classes = self.recipe.model, self.data.classes
        network = create_model(wanted.variant, len(classes), **wanted.options)
        network.checkpoints_stages = self.recipe.run.activation_checkpointing
        started = None
        if wanted.init is not None and from_start:
            started = start(network, wanted.init, classes)
        return Classifier(network, len(classes)), started

    @override
    def criterion(self, student: Classifier, teacher: Any) -> ClassificationCriterion:
        recipe = self.recipe
        width = student.network.widths.stage4
        assert width is not None  # of teachers that show no stages alone
        teaching = build_soft_labels(recipe.teacher, width, teacher)
        if teaching is not None and teaching.recipe.cached:
            teaching.answers = self._answers(teaching.classes)
        return ClassificationCriterion(
            student, recipe.preparation, recipe.augmentation, recipe.loss, teaching
        )

    @override
    def validate(
        self, student: Classifier, device: torch.device, processes: Processes
    ) -> Validation:
        assert self.validation is not None
        predict = self._predictor(student, device)
        training = student.training
        student.eval()
        scores = evaluate_classifier(
            predict, self.validation, self.recipe.augmentation.crop, processes=processes
        )
        student.train(training)
        for reason in scores.skipped:
            _LOG.warning("%s; the validation does without it", reason)
        return Validation({"top1": scores.top1, "top5": scores.top5})

    def _predictor(self, student: Classifier, device: torch.device) -> Callable[[Tensor], Tensor]:
        preprocessing = Preprocessing(self.recipe.preparation).to(device)

        def predict(images: Tensor) -> Tensor:
            with torch.inference_mode():
                logits: Tensor = student(preprocessing(images.to(device)))
            return logits

        return predict

    @override
    def validation_seconds(self, student: Classifier, device: torch.device) -> float | None:
        assert self.validation is not None
        predict, training = self._predictor(student, device), student.training
        crop, number = self.recipe.augmentation.crop, min(len(self.validation), _TIMED)
        student.eval()
        began = time.perf_counter()
        try:
            for picture in range(number):
                predict(to_tensor(centre_crop(self.validation.encoded(picture), crop))[None])
        except SctnetError:
            return None  # the validation does without this picture, and says so
        finally:
            student.train(training)
        return (time.perf_counter() - began) / number * len(self.validation)

    @override
    def save(self, student: Classifier, path: Path, card: str) -> None:
        """Write the backbone as a start, and the head beside it."""
        save_classifier(
            student,
            path,
            self.data.classes,
            self.recipe.augmentation.crop,
            self.recipe.preparation,
            card,
        )

    @override
    def taught_by(self) -> str:
        teacher = self.recipe.teacher
        return "" if teacher is None else f" Taught by {teacher.source}."

    def _answers(self, classes: int) -> CachedLogits | None:
        """Return the teacher's kept answers; None for a rehearsal, which keeps nothing."""
        recipe = self.recipe
        if self.folder is None:
            return None
        if launched_processes().machines > 1:
            raise SctnetError(
                "teacher.cached: processes on several machines cannot share the file of answers; "
                "set it to false"
            )
        assert recipe.teacher is not None
        assert recipe.augmentation.fixed_crops is not None
        views = len(self.data) * recipe.augmentation.fixed_crops
        crops = recipe.augmentation.model_dump(
            include={"crop", "scale", "ratio", "flip", "fixed_crops"}
        )
        shown = (recipe.teacher.source, recipe.teacher.size, crops, recipe.run.seed)
        return CachedLogits(
            answers_file(self.folder, [shown, self.data.name, len(self.data)]), views, classes
        )


def open_classification(
    recipe: ClassificationRecipe, folder: Path | None = None
) -> ClassificationTask:
    """Return the task of a recipe with its pictures.

    Raises :class:`SctnetError` for a recipe without a source, no pictures, and fewer than two
    classes.
    """
    source = source_of(recipe)
    data = _opened(source, recipe.data.train)
    validation = _opened(source, recipe.data.validation) if recipe.data.validation else None
    if len(data.classes) < 2:
        raise SctnetError(
            f"{source}: one class alone, {data.classes[0]}; there is nothing to learn"
        )
    return ClassificationTask(recipe, data, validation, folder)


def _opened(source: str, splits: tuple[str, ...]) -> ClassificationDataset:
    data = open_classified(source, splits)
    if len(data) == 0:
        raise SctnetError(f"{source}: no picture in {', '.join(splits)}")
    return data
