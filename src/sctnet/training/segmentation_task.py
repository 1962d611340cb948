"""The task of labelling pixels: its pictures, network, validation and model folder."""

import copy
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from sctnet.checkpoints.calibration import Calibration
from sctnet.checkpoints.initialisation import Initialisation, start
from sctnet.checkpoints.model_folder import save_model
from sctnet.data.caching import CachedDataset
from sctnet.data.class_frequencies import refuse_unlearnable
from sctnet.data.dataset import FileDataset, JoinedDataset, SegmentationDataset
from sctnet.data.loading import TrainingStream
from sctnet.data.registry import open_dataset
from sctnet.data.streams import in_threads
from sctnet.data.unlabelled import UnlabelledPictures
from sctnet.data.views import RecordedPictures, SomePictures
from sctnet.errors import SctnetError
from sctnet.evaluation.evaluator import evaluate
from sctnet.evaluation.offsets import Objective, find_offsets, sample_pixels
from sctnet.models import SegmentationNetwork, create_model
from sctnet.pipeline.image_to_labels import ImageToLabels
from sctnet.processes import ALONE, Processes
from sctnet.training.alignment import Alignment, build_alignment
from sctnet.training.losses import class_weights
from sctnet.training.optim import rate_factor
from sctnet.training.recipe import SegmentationRecipe, TeacherCacheRecipe
from sctnet.training.segmentation_criterion import SegmentationCriterion
from sctnet.training.task import Task, Validation, source_of
from sctnet.training.teacher_cache import FILE, TeacherCache, digest

_LOG = logging.getLogger(__name__)

_TIMED = 3  # pictures
_OF_CALIBRATION = 4.0  # two validations, a pass for probabilities and the search


class SegmentationTask(Task[SegmentationNetwork]):
    """A network that labels pixels; ``class_weights`` has one weight a class, or is None.

    A teacher's answers are kept in ``folder`` where the recipe names no other; without one, as in a
    rehearsal, none are kept.
    """

    score_name, score_words = "miou", "mIoU"
    recipe: SegmentationRecipe
    data: SegmentationDataset

    def __init__(
        self,
        recipe: SegmentationRecipe,
        data: SegmentationDataset,
        validation: SegmentationDataset | None = None,
        class_weights: Tensor | None = None,
        folder: Path | None = None,
    ) -> None:
        self.recipe, self.data, self.validation = recipe, data, validation
        self.folder = folder
        self.validates = validation is not None
        factor = rate_factor(recipe.optimizer, recipe.run.batch_size)
        final_rate = recipe.schedule.final_rate * factor
        self.schedule = recipe.schedule.model_copy(update={"final_rate": final_rate})
        self._class_weights = class_weights
        if recipe.data.calibrate:
            self.validations_at_end = _OF_CALIBRATION

    @override
    def stream(self) -> TrainingStream:
        """Return the endless stream of the recipe's samples."""
        return TrainingStream(
            self.data,
            self.recipe.augmentation,
            self.recipe.run.seed,
            self.recipe.preparation.working_size,
            self.recipe.data.skip_broken,
            None if self._caching is None else self._caching.views,
        )

    @override
    def build(self, from_start: bool) -> tuple[SegmentationNetwork, Initialisation | None]:
        wanted, classes = self.recipe.model, self.data.classes
        network = create_model(wanted.variant, len(classes), **wanted.options)
        network.checkpoints_stages = self.recipe.run.activation_checkpointing
        if wanted.init is None or not from_start:
            return network, None
        return network, start(network, wanted.init, classes)

    @override
    def criterion(self, student: SegmentationNetwork, teacher: Any) -> SegmentationCriterion:
        recipe = self.recipe
        alignment = build_alignment(
            recipe.alignment, student.widths, self.data.classes, teacher, recipe.preparation
        )
        if alignment is not None:
            alignment.cache = self._cache(alignment, student)
        return SegmentationCriterion(
            student,
            recipe.preparation,
            recipe.loss,
            self._class_weights,
            alignment,
            recipe.distillation,
        )

    @override
    def validate(
        self, student: SegmentationNetwork, device: torch.device, processes: Processes
    ) -> Validation:
        assert self.validation is not None
        predict = self._predictor(student, device)
        scores = evaluate(predict, self.validation, processes=processes).scores
        found = {
            "miou": scores.miou,
            "pixel_accuracy": scores.pixel_accuracy,
            "iou": {name: iou for name, iou in scores.iou.items() if iou is not None},
        }
        return Validation(found, tuple(name for name, x in scores.recall.items() if x == 0))

    @override
    def validation_seconds(
        self, student: SegmentationNetwork, device: torch.device
    ) -> float | None:
        assert self.validation is not None
        predict, seconds = self._predictor(student, device), []
        for number in np.linspace(0, len(self.validation) - 1, _TIMED).round():
            began = time.perf_counter()
            try:
                predict([self.validation.pair(int(number))[0]])
            except SctnetError:
                return None  # the validation will say so
            seconds.append(time.perf_counter() - began)
        return sorted(seconds)[_TIMED // 2] * len(self.validation)

    @override
    def calibrate(
        self, student: SegmentationNetwork, device: torch.device, processes: Processes
    ) -> Calibration | None:
        """Return the offsets that maximise the mIoU, where they help held-out pictures too."""
        if self.validation is None or not self.recipe.data.calibrate:
            return None
        labeller = ImageToLabels(student.fuse(), self.recipe.preparation).to(device)

        def likelihoods(image: np.ndarray) -> np.ndarray:
            batch = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(device)
            with torch.inference_mode():
                return labeller.probabilities(batch)[0].cpu().numpy()

        recorded = RecordedPictures(self.validation)
        sample = sample_pixels(likelihoods, recorded, processes=processes)
        found = find_offsets(sample, Objective())
        digests = set().union(*processes.gather(recorded.digests))
        moved = copy.deepcopy(student)
        moved.add_offsets(found.offsets.tolist())
        before, after = (
            self.validate(each, device, processes).scores["miou"] for each in (student, moved)
        )
        helps = found.helps(Objective()) and after > before
        if processes.is_first:
            _LOG.info(
                "Class offsets chosen on %s: mIoU %.4f -> %.4f there, %+.4f on held-out halves; %s",
                self.validation.name,
                before,
                after,
                found.gain,
                "kept (sctnet calibrate RUN --undo leaves them out)" if helps else "not kept",
            )
        if not helps:
            return None
        return Calibration(
            offsets=tuple(found.offsets.tolist()),
            trained_size=self.recipe.preparation.working_size,
            objective="mIoU",
            before=before,
            after=after,
            held_out_gain=found.gain,
            data=self.validation.name,
            pictures="".join(sorted(digests)),
        )

    @override
    def save(self, student: SegmentationNetwork, path: Path, card: str) -> None:
        """Write a model folder."""
        save_model(
            student,
            path,
            self.data.classes,
            colours=self.data.colours,
            preparation=self.recipe.preparation,
            card=card,
        )

    @override
    def taught_by(self) -> str:
        alignment = self.recipe.alignment
        return "" if alignment is None else f" Taught by {alignment.teacher}."

    def _predictor(
        self, student: SegmentationNetwork, device: torch.device
    ) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
        labeller = ImageToLabels(student.fuse(), self.recipe.preparation).to(device)

        def predict(images: list[np.ndarray]) -> list[np.ndarray]:
            batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(device)
            with torch.inference_mode():
                return list(labeller(batch).cpu().numpy())

        return predict

    @property
    def _caching(self) -> TeacherCacheRecipe | None:
        alignment = self.recipe.alignment
        return None if alignment is None else alignment.cache

    def _cache(self, alignment: Alignment, student: SegmentationNetwork) -> TeacherCache | None:
        """Return the teacher's kept answers, with a description of all that decides them."""
        chosen, recipe, data = self._caching, self.recipe, self.data
        if chosen is None or self.folder is None:
            return None
        names = [data.item_name(number) for number in range(len(data))]
        about = {
            "data set": digest([data.name, data.classes, names]),
            "augmentation": digest(
                [recipe.augmentation.model_dump(), recipe.preparation.model_dump()]
            ),
            "seed": str(recipe.run.seed),
            "teacher": alignment.fingerprint(),
            "stride of the student": str(student.logits_stride),
        }
        file = Path(chosen.folder or self.folder) / FILE
        return TeacherCache(file, len(data) * chosen.views, chosen.gigabytes, about)


def open_segmentation(
    recipe: SegmentationRecipe, processes: Processes = ALONE, folder: Path | None = None
) -> SegmentationTask:
    """Return the task of a recipe with its pictures, cached as the recipe says.

    ``folder`` is the run's.

    Raises :class:`SctnetError` for a recipe without a source, for no pictures, for labels that
    teach nothing, and for pictures to validate on that cannot be read: each is read once.
    """
    splits = recipe.data.validation
    validation = open_split(recipe, splits) if splits else None
    labelled = open_split(recipe, recipe.data.train) if recipe.data.train else validation
    if labelled is None:
        raise SctnetError(
            f"{recipe.data.source}: data.train and data.validation name no split, so there are no "
            "classes: name one of them"
        )
    data = labelled
    if recipe.data.unlabelled is not None:
        data = _with_unlabelled(recipe, labelled)
    if recipe.data.cache == "memory":
        data = CachedDataset(data, recipe.data.cache_gigabytes)
    refuse_unlearnable(labelled, recipe.data.skip_broken)
    if validation is not None:
        validation, whole = _capped(validation, recipe, processes), validation
        if recipe.data.calibrate and len(validation) < 2:
            raise SctnetError(
                "data.calibrate: one picture to validate on is not enough to choose offsets by: "
                "give two or more, or set it to false"
            )
        if isinstance(whole, FileDataset):
            _refuse_unreadable(validation, processes)
    weights = class_weights(recipe.loss, labelled, processes, recipe.data.skip_broken)
    return SegmentationTask(recipe, data, validation, weights, folder)


def _capped(
    data: SegmentationDataset, recipe: SegmentationRecipe, processes: Processes
) -> SegmentationDataset:
    """Return the pictures that validate: all, or as many as the recipe allows, evenly spaced."""
    most = recipe.data.validation_pictures
    if most is None or len(data) <= most:
        return data
    begin = np.random.default_rng(recipe.run.seed).random()
    numbers = [int((place + begin) * len(data) / most) for place in range(most)]
    if processes.is_first:
        _LOG.info(
            "validates on %s of the %s pictures of %s, evenly spaced (data.validation_pictures)",
            most,
            len(data),
            data.name,
        )
    return SomePictures(data, numbers)


def _with_unlabelled(
    recipe: SegmentationRecipe, labelled: SegmentationDataset
) -> SegmentationDataset:
    """Return the pictures of an epoch: the labelled ones, repeated, and those without labels."""
    source, given = recipe.data.unlabelled, labelled
    assert source is not None
    unlabelled = UnlabelledPictures(Path(source), given.classes, given.colours)
    if not recipe.data.train:
        return unlabelled
    parts = [labelled] * recipe.data.repeat
    return JoinedDataset(f"{labelled.name} and {source}", [*parts, unlabelled])


def _refuse_unreadable(data: SegmentationDataset, processes: Processes) -> None:
    """Raise :class:`SctnetError` where the first validation would, perhaps hours later."""

    def problem(index: int) -> str | None:
        try:
            data.pair(index)
        except SctnetError as error:
            return str(error)
        return None

    read = in_threads(problem, processes.own_part(len(data)), min(8, os.cpu_count() or 1))
    parts = processes.gather([sentence for sentence in read if sentence is not None])
    found = [sentence for part in parts for sentence in part]
    if found:
        raise SctnetError(
            f"{len(found)} of {len(data)} pictures to validate on cannot be used: mend or remove "
            f"them, sctnet data check lists all; the first: {found[0]}"
        )


def open_split(recipe: SegmentationRecipe, splits: tuple[str, ...]) -> SegmentationDataset:
    """Return splits of the recipe's data set; raises as :func:`open_segmentation` does."""
    data = open_dataset(source_of(recipe), splits)
    if len(data) == 0:
        raise SctnetError(f"{recipe.data.source}: no picture in {', '.join(splits)}")
    return data
