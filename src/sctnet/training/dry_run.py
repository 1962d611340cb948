"""A dry run: a few steps that show what the whole run will need."""

import resource
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from lightning.fabric import Fabric
from typing_extensions import override

from sctnet.data.augmentation import AugmentationConfig
from sctnet.data.dataset import IGNORE, Labels, Picture, SegmentationDataset
from sctnet.data.loading import StepSampler, training_loader
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.pipeline.precision import Precision
from sctnet.processes import Processes, launched_processes
from sctnet.training.devices import launch_fabric, resolved_precision
from sctnet.training.learner import Learner
from sctnet.training.losses import class_weights
from sctnet.training.recipe import Recipe, SegmentationRecipe
from sctnet.training.registry import open_task
from sctnet.training.segmentation_task import SegmentationTask
from sctnet.training.task import Task
from sctnet.training.teachers import Teacher, load_teacher

_TIMED_STEPS = 4
_DRAWN_PICTURES = 16


@dataclass(frozen=True)
class Needs:
    """The needs of a run, measured on its own steps."""

    pictures: str
    """The machine of the measurement, in words."""
    device: str
    precision: str
    """With the reason for it, in words."""
    peak_gigabytes: float
    """Peak memory in 10^9 bytes: of a process's GPU or, on a CPU, of the whole main process."""
    step_images_per_second: float
    """Of all processes together; so is the next figure."""
    loader_images_per_second: float | None
    """None for drawn pictures, which are not decoded."""
    seconds: float
    """Of the whole run, without its validations."""

    def __str__(self) -> str:
        """Say it in six lines."""
        loader = self.loader_images_per_second
        limit = "" if loader is None or loader > self.step_images_per_second else ", the bottleneck"
        return "\n".join(
            [
                f"measured on     {self.pictures}; nothing was written",
                f"precision       {self.precision}",
                f"peak memory     {self.peak_gigabytes:.2f} GB ({self.device}, each process)",
                f"training step   {self.step_images_per_second:.2f} images/s",
                "loader          "
                + ("not measured without --data" if loader is None else f"{loader:.2f} images/s")
                + limit,
                f"whole run       {timedelta(seconds=round(self.seconds))}, without validations",
            ]
        )


def dry_run(recipe: Recipe, drawn_classes: int = 19, teacher: Any = None) -> Needs:
    """Build everything of a run, do a few steps, and return what the whole run will need.

    A segmentation without a source is measured on drawn pictures with ``drawn_classes`` classes, or
    with the classes of its teacher. Raises the errors of a run; writes nothing.
    """
    processes = launched_processes()
    recipe, precision = resolved_precision(recipe, processes)
    fabric = launch_fabric(recipe, processes)
    # In a function of its own, so that nothing of the run is left when the processes part.
    needs = _needs(recipe, precision, drawn_classes, teacher, fabric, processes)
    processes.disconnect()
    return needs


def seconds_per_step(learner: Learner, batch: Any, steps: int) -> float:
    """Return the median seconds of a training step on a loaded batch, after a warm-up step."""
    seconds = []
    for iteration in range(1 + steps):
        began = time.perf_counter()
        _, losses = learner.step(batch, iteration)
        float(losses["loss"])  # waits for the device
        seconds.append(time.perf_counter() - began)
    return sorted(seconds[1:])[steps // 2]


def _needs(
    recipe: Recipe,
    precision: Precision,
    drawn_classes: int,
    teacher: Any,
    fabric: Fabric,
    processes: Processes,
) -> Needs:
    drawn = recipe.data.source is None and isinstance(recipe, SegmentationRecipe)
    task: Task[Any]
    if drawn:
        assert isinstance(recipe, SegmentationRecipe)
        if recipe.alignment is not None and teacher is None:
            teacher = load_teacher(recipe.alignment.teacher)
        names = _drawn_names(recipe, drawn_classes, teacher)
        task = _drawn_task(recipe, names, processes)
    else:
        task = open_task(recipe, processes)
    learner = Learner(task, fabric, teacher)
    step, batch_seconds = _measure(task, learner, fabric, processes)
    slower = step if drawn else max(step, batch_seconds)
    size = recipe.run.batch_size
    return Needs(
        _words(task, drawn),
        str(fabric.device),
        f"{precision.name}{precision.because}",
        max(processes.gather(_peak_gigabytes(fabric))),
        size / step,
        None if drawn else size / batch_seconds,
        slower * task.schedule.iterations,
    )


def _measure(
    task: Task[Any], learner: Learner, fabric: Fabric, processes: Processes
) -> tuple[float, float]:
    """Return the seconds of a step and of the loader's batch, of the slowest process."""
    recipe = task.recipe
    workers = recipe.data.workers
    # The first batches are not timed: the workers load them while they start.
    timed = max(_TIMED_STEPS, 2 * workers)
    steps = 1 + 2 * workers + timed
    sampler = StepSampler(recipe.run.batch_size, steps, 0, processes.rank, processes.count)
    with closing(iter(training_loader(task.stream(), sampler, workers))) as batches:
        batch = next(batches)
        batch = type(batch)(*fabric.to_device(tuple(batch)))
        for _ in range(2 * workers):
            next(batches)
        began = time.perf_counter()
        for _ in batches:
            pass
        loading = (time.perf_counter() - began) / timed
    measured = processes.gather((seconds_per_step(learner, batch, _TIMED_STEPS), loading))
    return max(part[0] for part in measured), max(part[1] for part in measured)


def _drawn_names(
    recipe: SegmentationRecipe, classes: int, teacher: Teacher | None
) -> tuple[str, ...]:
    if recipe.alignment is not None and recipe.alignment.map is not None:
        return tuple(recipe.alignment.map)
    names = tuple(f"class {number}" for number in range(classes))
    return names if teacher is None else teacher.classes


def _drawn_task(
    recipe: SegmentationRecipe, names: tuple[str, ...], processes: Processes
) -> SegmentationTask:
    data = _DrawnPictures(names, _picture_size(recipe.augmentation))
    weights = class_weights(recipe.loss, data, processes, recipe.data.skip_broken)
    return SegmentationTask(recipe, data, None, weights)


def _words(task: Task[Any], drawn: bool) -> str:
    if not drawn:
        return f"{len(task.data)} pictures of {task.data.name}"
    assert isinstance(task.recipe, SegmentationRecipe)
    height, width = _picture_size(task.recipe.augmentation)
    return (
        f"drawn pictures of {width} x {height} with {len(task.data.classes)} classes, "
        "for want of --data"
    )


def _picture_size(augmentation: AugmentationConfig) -> tuple[int, int]:
    """Return the height and width of a recipe's pictures, as far as the recipe says."""
    if augmentation.scaled_from is None:
        return augmentation.crop
    width, height = augmentation.scaled_from
    return height, width


class _DrawnPictures(SegmentationDataset):
    """Drawn streets with labels of any number of classes."""

    def __init__(self, classes: tuple[str, ...], size: tuple[int, int]) -> None:
        self.name, self.classes, self.colours = "drawn pictures", classes, None
        self._streets = SyntheticStreets(0, _DRAWN_PICTURES, size)

    def __len__(self) -> int:
        return len(self._streets)

    @override
    def item_name(self, index: int) -> str:
        return self._streets.item_name(index)

    @override
    def image(self, index: int) -> Picture:
        return self._streets.image(index)

    @override
    def labels(self, index: int) -> Labels:
        return self.pair(index)[1]

    @override
    def pair(self, index: int) -> tuple[Picture, Labels]:
        image, labels = self._streets.pair(index)
        moved = (labels.astype(int) + 11 * index) % len(self.classes)
        moved[labels == IGNORE] = IGNORE
        return image, moved.astype("uint8")


def _peak_gigabytes(fabric: Fabric) -> float:
    if fabric.device.type == "cuda":
        return torch.cuda.max_memory_reserved(fabric.device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
