"""Chooses a recipe for a data set, with the reason for every choice."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from sctnet.data.class_frequencies import refuse_unlearnable
from sctnet.data.dataset import NoSuchSplitError, SegmentationDataset
from sctnet.data.registry import open_dataset
from sctnet.data.training_size import (
    CPU,
    GPU,
    Means,
    median_size,
    surveyed_numbers,
    training_size,
)
from sctnet.errors import SctnetError
from sctnet.training.recipe import SegmentationRecipe, merged, settings_fields, validated

UNEVEN = 10
"""A class this many times as frequent as another calls for class weights."""


class Choice(NamedTuple):
    """A field of the recipe and why it has its value."""

    field: str
    value: Any
    reason: str


class _Survey(NamedTuple):
    """Properties of the data."""

    height: int
    width: int
    class_pixels: np.ndarray
    """By class, int64."""


def choose_recipe(
    source: str, settings: Sequence[str] = (), *, on_gpu: bool | None = None
) -> tuple[SegmentationRecipe, list[Choice]]:
    """Return a recipe for a data set, with the reasons for its choices.

    ``source`` is an argument of ``--data``. Unless ``settings`` (``key=value``) say otherwise, the
    run trains on the split ``train`` and validates on ``val`` if it exists. ``on_gpu`` says whether
    the run uses a GPU, by default whether this machine has one. Raises :class:`SctnetError` for
    data that cannot be read or contain nothing to learn.
    """
    if on_gpu is None:
        on_gpu = torch.cuda.is_available()
    given = settings_fields(settings)
    of_data = {"train": ["train"], "skip_broken": False, **given.get("data", {})}
    data = open_dataset(source, of_data["train"])
    survey = _look_at(data, bool(of_data["skip_broken"]))
    choices = _choices(survey, len(data), GPU if on_gpu else CPU)
    if "validation" not in of_data and _has_validation(source):
        choices.append(Choice("data.validation", ["val"], "the data have a split val"))
    elif "validation" not in of_data:
        choices.append(Choice("data.validation", [], "the data have no split val"))
    validation = of_data.get("validation", choices[-1].value)
    if validation:
        reason = f"moves the classes' borders to where {'+'.join(validation)} has the best mIoU"
        choices.append(Choice("data.calibrate", True, reason))
    choices = [choice for choice in choices if not _is_given(choice.field, given)]
    fields: dict[str, Any] = {
        "name": f"chosen for {data.name}",
        "description": " ".join(f"{choice.field}: {choice.reason}." for choice in choices),
        "data": {"source": source},
        "augmentation": {"scale": [0.5, 2.0]},
        "optimizer": {"weight_decay": 0.0125},
        "schedule": {"power": 0.9},
        "run": {"log_every": 20, "checkpoint_every": 100},
    }
    for choice in choices:
        part, _, field = choice.field.partition(".")
        fields.setdefault(part, {})[field] = choice.value
    recipe = validated(merged(fields, given), "the chosen recipe")
    if not isinstance(recipe, SegmentationRecipe):
        raise SctnetError(
            "task: only a recipe for segmentation is chosen; name one of another task"
        )
    return recipe, choices


def _is_given(field: str, given: Mapping[str, Any]) -> bool:
    part, _, name = field.partition(".")
    return name in given.get(part, {})


def _choices(survey: _Survey, pictures: int, means: Means) -> list[Choice]:
    side, crop = training_size((survey.height, survey.width), means)
    lowest, highest = means.iterations
    wanted = round(pictures * means.passes / means.batch_size, -2)
    iterations = int(min(max(wanted, lowest), highest))
    of_median = f"the median picture is {survey.height}x{survey.width} (height x width)"
    return [
        Choice("model.variant", "sctnet-s", "small enough for a CPU, the paper's fastest"),
        Choice(
            "preparation.working_size",
            {"rule": "shorter-side", "pixels": side},
            f"{of_median}, {means.name} works at {means.shorter_side} at most",
        ),
        Choice("augmentation.crop", list(crop), f"what fits of that, on {means.name}"),
        Choice("run.batch_size", means.batch_size, f"usual on {means.name}"),
        Choice(
            "schedule.iterations",
            iterations,
            f"{pictures} pictures, {iterations * means.batch_size / pictures:.0f} passes",
        ),
        Choice("schedule.warmup_iterations", iterations // 20, "a twentieth of them"),
        Choice("schedule.final_rate", 0.0, "decays to nothing"),
        Choice("optimizer.rate", 1e-3, "best of three on CamVid with a batch of 8"),
        Choice("optimizer.head_rate_factor", 4, "likewise"),
        Choice("run.validate_every", max(iterations // 10, 1), "ten times in all"),
        Choice("run.ema_decay", 0.998 if iterations >= 1500 else 0.99, "steadies the weights"),
        _class_weights(survey.class_pixels),
    ]


def _class_weights(pixels: np.ndarray) -> Choice:
    present = pixels[pixels > 0]
    if not len(present):
        return Choice("loss.class_weights", "none", "hardly any pixel is labelled")
    ratio = present.max() / present.min()
    if ratio > UNEVEN:
        reason = f"the most frequent class has {ratio:.0f} times the pixels of the rarest"
        return Choice("loss.class_weights", "balanced", reason)
    return Choice("loss.class_weights", "none", f"the classes differ by a factor of {ratio:.1f}")


def _look_at(data: SegmentationDataset, skip_broken: bool) -> _Survey:
    if len(data) == 0:
        raise SctnetError(f"{data.name}: no picture to learn from: add some, with their masks")
    refuse_unlearnable(data, skip_broken)
    sizes, counts = [], np.zeros(256, np.int64)
    for number in surveyed_numbers(len(data)):
        try:
            labels = data.labels(number)
        except SctnetError:
            if not skip_broken:
                raise
            continue
        sizes.append((labels.shape[0], labels.shape[1]))
        counts += np.bincount(labels.ravel(), minlength=256)
    return _Survey(*median_size(sizes), counts[: len(data.classes)])


def _has_validation(source: str) -> bool:
    try:
        return len(open_dataset(source, ["val"])) > 0
    except NoSuchSplitError:
        return False
