"""Chooses a recipe for a data set, with the reason for every choice."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from sctnet.checkpoints.model_folder import load_config
from sctnet.data.class_frequencies import refuse_unlearnable
from sctnet.data.dataset import NoSuchSplitError, SegmentationDataset
from sctnet.data.registry import open_dataset
from sctnet.data.training_size import (
    CPU,
    GPU,
    Means,
    crop_of,
    median_size,
    surveyed_numbers,
    training_size,
)
from sctnet.errors import SctnetError
from sctnet.pipeline.preprocessing import WorkingSize
from sctnet.training.recipe import SegmentationRecipe, merged, settings_fields, validated

BACKBONE, BACKBONE_OF = "sctnet-s-tiny-imagenet", "sctnet-s"
"""The backbone in the package that a chosen recipe starts from, and its variant."""

UNEVEN = 10
"""A class this many times as frequent as another calls for class weights."""


_FEWEST_VALIDATED = 50
_CROPS_A_VALIDATED_PICTURE = 40
"""Ten validations and the offsets look at each picture some 14 times, a third of the work of a
training step each: about a tenth of the crops' work."""


class Choice(NamedTuple):
    """A field of the recipe and why it has its value."""

    field: str
    value: Any
    reason: str


class _Survey(NamedTuple):
    """Properties of the data."""

    pictures: int
    height: int
    width: int
    class_pixels: np.ndarray
    """By class, int64."""


class _Choices:
    """Fields that are chosen one after the other, where a user did not give them.

    What follows from a field follows from the value that is used: the given one, if there is one.
    ``used`` is a recipe of the given fields, in which all others have no meaning but as defaults.
    """

    def __init__(self, given: Mapping[str, Any], used: SegmentationRecipe) -> None:
        self._given, self.used = given, used
        self.made: list[Choice] = []

    def has(self, field: str) -> bool:
        """Say whether the user gave a field, ``part.name``."""
        part, _, name = field.partition(".")
        return name in self._given.get(part, {})

    def given_part(self, part: str, name: str) -> Mapping[str, Any]:
        """Return the fields that the user gave of a part of a part."""
        return _part(_part(self._given, part), name)

    def __call__(self, field: str, value: Any, reason: str) -> Any:
        """Choose a field, unless it was given; return the value that is used."""
        if self.has(field):
            part, _, name = field.partition(".")
            return getattr(getattr(self.used, part), name)
        self.made.append(Choice(field, value, reason))
        return value


def choose_recipe(
    source: str,
    settings: Sequence[str] = (),
    *,
    on_gpu: bool | None = None,
    pictures: int | None = None,
) -> tuple[SegmentationRecipe, list[Choice]]:
    """Return a recipe for a data set, with the reasons for its choices.

    ``source`` is an argument of ``--data``. ``settings`` (``key=value``) come before every choice,
    and what follows from a field follows from theirs. Unless they say otherwise, the run trains on
    the split ``train``, validates on ``val`` if it exists, and starts from the backbone in the
    package (``model.init=null``: from random weights). ``on_gpu`` says whether the run uses a GPU,
    by default whether this machine has one. ``pictures`` is how many there are where the data set
    is only a part of them. Raises :class:`SctnetError` for invalid settings, before the data are
    looked at, and for data that cannot be read or contain nothing to learn.
    """
    if on_gpu is None:
        on_gpu = torch.cuda.is_available()
    means = GPU if on_gpu else CPU
    given = settings_fields(settings)
    used = _checked(source, given)
    data = open_dataset(source, used.data.train)
    survey = _look_at(data, used.data.skip_broken)
    if pictures is not None:
        survey = survey._replace(pictures=pictures)
    choose = _Choices(given, used)
    _choose_network(choose, survey, means)
    crops = _choose_schedule(choose, survey, means)
    _choose_validation(choose, source, crops)
    recipe = validated(merged(_fields(source, data.name, choose.made), given), "the chosen recipe")
    assert isinstance(recipe, SegmentationRecipe)
    return recipe, choose.made


def _checked(source: str, given: Mapping[str, Any]) -> SegmentationRecipe:
    """Return the given fields in a recipe whose others mean nothing; refuse invalid ones."""
    if given.get("task", "segmentation") != "segmentation":
        raise SctnetError(
            "task: only a recipe for segmentation is chosen; name one of another task"
        )
    accumulate = _part(given, "run").get("accumulate", 1)
    size = _part(_part(given, "preparation"), "working_size")
    stand_ins: dict[str, Any] = {
        "name": "the chosen recipe",
        "model": {"variant": BACKBONE_OF},
        "data": {"source": source},
        "preparation": {"working_size": _completed(size, (1, 1))},
        "augmentation": {"crop": [1, 1]},
        "optimizer": {"rate": 1e-3},
        "schedule": {"iterations": 1},
        "run": {"batch_size": accumulate if isinstance(accumulate, int) else 1},
    }
    recipe = validated(merged(stand_ins, given), "the chosen recipe")
    assert isinstance(recipe, SegmentationRecipe)
    return recipe


def _part(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the given fields of a part; {} where there are none, or what is no part."""
    part = given.get(name)
    return part if isinstance(part, Mapping) else {}


def _completed(given: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Return a given part of a working size with what it lacks: the sizes of a rule, or the rule.

    The sizes are those of ``size``, a height and a width.
    """
    rule = given.get("rule", "fixed" if {"height", "width"} & {*given} else "shorter-side")
    sizes: dict[Any, dict[str, int]] = {
        "shorter-side": {"pixels": min(size)},
        "longer-side": {"pixels": max(size)},
        "fixed": {"height": size[0], "width": size[1]},
    }
    return {"rule": rule, **sizes.get(str(rule), {}), **given}


def _fields(source: str, name: str, choices: Sequence[Choice]) -> dict[str, Any]:
    """Return the fields of a recipe with these choices."""
    fields: dict[str, Any] = {
        "name": f"{name}, chosen recipe",
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
    return fields


def _choose_network(choose: _Choices, survey: _Survey, means: Means) -> None:
    """Choose the network, its start, the size at which it works, and the crops of that."""
    variant = choose("model.variant", BACKBONE_OF, "small enough for a CPU, the paper's fastest")
    start = choose.used.model.init
    if variant == BACKBONE_OF and not choose.has("model.options"):
        reason = (
            "the backbone in the package, whose terms hold for what starts from it "
            f"({load_config(BACKBONE).terms}); model.init=null starts from random weights"
        )
        start = choose("model.init", BACKBONE, reason)
    if start is not None and choose.used.alignment is not None:
        _choose_alignment(choose)
    picture = survey.height, survey.width
    of_median = f"the median picture is {survey.height}x{survey.width} (height x width)"
    side, _ = training_size(picture, means)
    rule = WorkingSize(rule="shorter-side", pixels=side)
    part = choose.given_part("preparation", "working_size")
    if not part:
        reason = f"{of_median}, {means.name} works at {means.shorter_side} at most"
        choose("preparation.working_size", {"rule": rule.rule, "pixels": side}, reason)
    else:
        completed = _completed(part, rule.apply(*picture))
        rule = WorkingSize(**completed)
        if completed != part:
            reason = f"the rest of what is given; {of_median}"
            choose.made.append(Choice("preparation.working_size", completed, reason))
    height, width = rule.apply(*picture)
    reason = f"what fits of {height}x{width}, on {means.name}"
    choose("augmentation.crop", list(crop_of((height, width), means)), reason)


def _choose_alignment(choose: _Choices) -> None:
    """Choose what keeps a student that was trained before from forgetting what it knows."""
    reason = "best of what was tried on CamVid for a student that was trained before"
    choose("alignment.projections", "fitted", reason)
    for term, weight in (("logits", 0.3), ("decoder", 1.5), ("stage4", 1.5), ("stage3", 1.5)):
        choose(f"alignment.{term}", weight, "a tenth of the paper's, likewise")


def _choose_schedule(choose: _Choices, survey: _Survey, means: Means) -> int:
    """Choose how long is trained and what follows from that; return the number of crops."""
    parts = choose.used.run.accumulate
    batch = -(-means.batch_size // parts) * parts
    batch = choose("run.batch_size", batch, f"usual on {means.name}")
    lowest, highest = means.iterations
    wanted = round(survey.pictures * means.passes / batch, -2)
    iterations = int(min(max(wanted, lowest), highest))
    passes = f"{survey.pictures} pictures, {iterations * batch / survey.pictures:.0f} passes"
    iterations = choose("schedule.iterations", iterations, passes)
    twentieth = f"a twentieth of the {iterations} iterations"
    choose("schedule.warmup_iterations", iterations // 20, twentieth)
    choose("schedule.final_rate", 0.0, "decays to nothing")
    choose("optimizer.rate", 1e-3, "best of three on CamVid with a batch of 8")
    choose("optimizer.head_rate_factor", 4, "likewise")
    choose("run.validate_every", max(iterations // 10, 1), "ten times in all")
    choose("run.ema_decay", 0.998 if iterations >= 1500 else 0.99, "steadies the weights")
    choose(*_class_weights(survey.class_pixels))
    return int(iterations * batch)


def _choose_validation(choose: _Choices, source: str, crops: int) -> None:
    """Choose what to validate on, how much of it, and whether it chooses class offsets."""
    has_val = not choose.has("data.validation") and _has_validation(source)
    reason = f"the data have {'a' if has_val else 'no'} split val"
    splits = choose("data.validation", ["val"] if has_val else [], reason)
    if not splits:
        return
    name, number = "+".join(splits), len(open_dataset(source, splits))
    most = max(_FEWEST_VALIDATED, crops // _CROPS_A_VALIDATED_PICTURE)
    if number > most:
        reason = f"of {number}, evenly spaced, so that validating stays a small part of the run"
        choose("data.validation_pictures", most, reason)
    if number > 1:
        reason = f"moves the classes' borders to where {name} has the best mIoU"
        choose("data.calibrate", True, reason)


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
    return _Survey(len(data), *median_size(sizes), counts[: len(data.classes)])


def _has_validation(source: str) -> bool:
    try:
        return len(open_dataset(source, ["val"])) > 0
    except NoSuchSplitError:
        return False
