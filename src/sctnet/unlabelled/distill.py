"""From a teacher and pictures without labels to a small network, by one run of training.

What is new stands before and after the run: the pictures are found, some are held back and labelled
by the teacher, a recipe is chosen; and the student is compared with its teacher.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from sctnet.checkpoints.class_map import Rules, read_rules
from sctnet.data.dataset import IGNORE, FileDataset
from sctnet.data.images import read_image
from sctnet.data.registry import known_splits, open_dataset
from sctnet.errors import SctnetError
from sctnet.pictures.palette import save_label_map
from sctnet.processes import launched_processes
from sctnet.training.auto_recipe import Choice, choose_recipe
from sctnet.training.dry_run import Needs, dry_run
from sctnet.training.recipe import (
    Recipe,
    SegmentationRecipe,
    load_recipe,
    settings_fields,
)
from sctnet.training.run_folder import RunFolder
from sctnet.training.trainer import Observer, train
from sctnet.unlabelled.report import HELD_BACK_FILE, write_report
from sctnet.unlabelled.sources import gather_pictures, write_list
from sctnet.unlabelled.teacher import Labeller, open_teacher
from sctnet.writing import write_text

LIST_FILE = "pictures.txt"
HELD_BACK_FOLDER = "held_back"

_LEAST = 4  # pictures; one of them is held back
_HELD_BACK_SHARE, _MOST_HELD_BACK = 20, 50
_LABELLED_SHARE = 3  # labelled pictures come in an epoch so that they are one in so many
_MOST_VIEWS, _USES_OF_A_VIEW = 8, 3
_CACHE_GIGABYTES = 10

_LOG = logging.getLogger(__name__)


class Plan(NamedTuple):
    """A distillation that is ready to run."""

    recipe: SegmentationRecipe
    choices: list[Choice]
    teacher: Any
    """The opened teacher, for :func:`sctnet.training.trainer.train`."""


def distill(
    teacher: str | Path,
    pictures: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    data: str | Path | None = None,
    recipe: str | Path | None = None,
    settings: Sequence[str] = (),
    class_map: str | Path | Mapping[str, Any] | None = None,
    minutes: float | None = None,
    resume: bool = False,
    observe: Observer | None = None,
    explain: Callable[[str], None] = _LOG.info,
) -> RunFolder:
    """Train a small network on what a large one says of pictures without labels.

    ``teacher`` is a model folder, a bundled name, a hub id, a model of transformers or an exported
    file; ``class_map`` renames, merges and drops its classes. ``pictures`` are folders, globs,
    lists (.txt) and videos. ``data`` are labelled pictures of the same classes, if there are any.
    Without a ``recipe`` one is chosen, and ``explain`` is told why; ``settings`` are its fields as
    ``key=value``. ``minutes`` chooses the iterations that take as long here. The run's folder
    ``out`` becomes a model folder; summary.json and sheet.jpg compare student and teacher. A
    stopped run continues with ``resume``. Raises :class:`SctnetError` for mistakes.
    """
    if launched_processes().count > 1:
        raise SctnetError(
            "distill: runs in one process: prepare it here (it writes recipe.yaml), stop it, and "
            "continue with sctnet train OUT/recipe.yaml --out OTHER under torchrun"
        )
    folder = RunFolder(out)
    plan = prepare(
        teacher, pictures, folder.path, data=data, recipe=recipe, settings=settings,
        class_map=class_map, minutes=minutes, resume=resume, explain=explain,
    )  # fmt: skip
    train(plan.recipe, folder.path, resume=resume, observe=observe, teacher=plan.teacher)
    write_report(folder, plan.recipe, str(teacher))
    return folder


def rehearse(
    teacher: str | Path, pictures: str | Path | Sequence[str | Path], **options: Any
) -> Needs:
    """Do a few steps of :func:`distill` in a folder that is removed, and say what it will need."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="sctnet-distill-") as place:
        plan = prepare(teacher, pictures, Path(place) / "run", **options)
        return dry_run(plan.recipe, teacher=plan.teacher)


def prepare(
    teacher: str | Path,
    pictures: str | Path | Sequence[str | Path],
    out: Path,
    *,
    data: str | Path | None = None,
    recipe: str | Path | None = None,
    settings: Sequence[str] = (),
    class_map: str | Path | Mapping[str, Any] | None = None,
    minutes: float | None = None,
    resume: bool = False,
    explain: Callable[[str], None] = _LOG.info,
) -> Plan:
    """Write the list of pictures and those held back into ``out``, and choose the recipe.

    With ``resume``, the run's own recipe and files are taken.
    """
    folder = RunFolder(out)
    folder.check_place(resume)
    if resume and folder.recipe_file.exists():
        begun = load_recipe(folder.recipe_file, settings)
        if not isinstance(begun, SegmentationRecipe) or begun.distillation is None:
            raise SctnetError(f"{out}: holds no distillation; continue it with sctnet train")
        assert begun.alignment is not None
        if begun.alignment.teacher != str(teacher):
            raise SctnetError(
                f"{folder.recipe_file}: the run was begun with the teacher "
                f"{begun.alignment.teacher}; resume it with this one, or choose another --out"
            )
        return Plan(begun, [], open_teacher(str(teacher), begun.preparation))
    rules = None if class_map is None else read_rules(class_map)
    sources = [pictures] if isinstance(pictures, str | Path) else list(pictures)
    if not sources:
        raise SctnetError("--pictures: name a folder, a video or a list of pictures")
    labeller = Labeller(str(teacher), rules)
    labelled = () if data is None else _labelled_files(str(data), labeller.classes, str(teacher))
    found = gather_pictures([str(source) for source in sources], out, labelled)
    for remark in found.remarks:
        explain(remark)
    if len(found.pictures) < _LEAST:
        raise SctnetError(
            f"{', '.join(map(str, sources))}: {len(found.pictures)} pictures are too few to learn "
            f"from and to compare by: give {_LEAST} or more"
        )
    kept, held_back = _divided(found.pictures)
    _label_held_back(labeller, held_back, out, explain)
    del labeller
    write_list(kept, out / LIST_FILE)
    explain(f"{len(kept)} pictures teach, {len(held_back)} are held back to compare by")
    chosen, choices = _choose(str(teacher), rules, out, len(kept), data, recipe, settings)
    opened = open_teacher(str(teacher), chosen.preparation)
    if opened.widths.stage3 is None or opened.widths.decoder_input is None:
        chosen, more = _without_what_it_hides(chosen, opened.widths.stage3 is None, settings)
        choices += more
    for choice in choices:
        explain(f"{choice.field} = {choice.value}  ({choice.reason})")
    if minutes is not None:
        chosen = for_minutes(chosen, minutes, opened, explain)
    return Plan(chosen, choices, opened)


def _labelled_files(data: str, classes: Sequence[str], teacher: str) -> list[Path]:
    """Return the pictures of a data set, which teach by their labels and nothing else."""
    found: list[Path] = []
    for split in known_splits(data):
        dataset = open_dataset(data, [split])
        if tuple(dataset.classes) != tuple(classes):
            raise SctnetError(
                f"{data}: has the classes {', '.join(dataset.classes)}, and the teacher {teacher} "
                f"labels {', '.join(classes)}: give a map (--map) that makes these, in this order"
            )
        if isinstance(dataset, FileDataset):
            found += [item.image for item in dataset.files]
    return found


def _divided(pictures: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the pictures that teach, and those held back, spread evenly."""
    count = min(max(1, len(pictures) // _HELD_BACK_SHARE), _MOST_HELD_BACK)
    places = {int(place) for place in np.linspace(0, len(pictures) - 1, count + 2)[1:-1]}
    kept = [picture for number, picture in enumerate(pictures) if number not in places]
    return kept, [pictures[place] for place in sorted(places)]


def _label_held_back(
    labeller: Labeller, pictures: Sequence[Path], out: Path, explain: Callable[[str], None]
) -> None:
    """Copy these pictures, with the teacher's labels, into a data set of the split ``val``."""
    folder = out / HELD_BACK_FOLDER
    images, masks = folder / "images", folder / "masks"
    seconds: list[float] = []
    some = False
    with _writing(folder):
        shutil.rmtree(folder, ignore_errors=True)
        images.mkdir(parents=True)
        masks.mkdir()
        for number, picture in enumerate(pictures):
            try:
                image = read_image(picture)
                began = time.perf_counter()
                (labels,) = labeller([image])
            except SctnetError as error:
                explain(f"{error}; it is left out")
                continue
            seconds.append(time.perf_counter() - began)
            some = some or bool((labels != IGNORE).any())
            name = f"{number:03d}"
            shutil.copyfile(picture, images / f"{name}{picture.suffix.lower()}")
            save_label_map(labels, labeller.colours, masks / f"{name}.png")
    if not seconds:
        raise SctnetError(
            f"{pictures[0].parent}: not one of the pictures that were to be held back can be read; "
            "give others"
        )
    if not some:
        raise SctnetError(
            f"{', '.join(labeller.classes)}: the teacher sees none of these classes in the "
            f"{len(seconds)} pictures that were held back: give other pictures, or another --map"
        )
    described = {
        "images": {"val": f"{HELD_BACK_FOLDER}/images"},
        "masks": {"val": f"{HELD_BACK_FOLDER}/masks"},
        "classes": list(labeller.classes),
        "colours": [list(map(int, colour)) for colour in labeller.colours],
    }
    if len(set(map(tuple, labeller.colours))) < len(labeller.colours):
        del described["colours"]
    write_text(out / HELD_BACK_FILE, yaml.safe_dump(described, sort_keys=False, allow_unicode=True))
    explain(f"the teacher labels a picture in {sorted(seconds)[len(seconds) // 2]:.2f} s")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SctnetError(f"{folder}: cannot be written ({error.strerror})") from error


def _choose(
    teacher: str,
    rules: Rules | None,
    out: Path,
    count: int,
    data: str | Path | None,
    name: str | Path | None,
    settings: Sequence[str],
) -> tuple[SegmentationRecipe, list[Choice]]:
    """Return the recipe and what was chosen, before the teacher is known to show its stages."""
    source = str(out / HELD_BACK_FILE) if data is None else str(data)
    own = [
        Choice("alignment.teacher", teacher, "the teacher"),
        Choice("data.unlabelled", str(out / LIST_FILE), f"{count} pictures"),
        Choice("data.skip_broken", True, "a broken picture is reported, and another taken"),
        Choice("distillation", {}, "the student's logits learn from the teacher's"),
    ]
    if rules is not None:
        own.append(
            Choice("alignment.map", {k: list(v) for k, v in rules.items()}, "the classes' map")
        )
    if data is None:
        own += [
            Choice("data.train", [], "nobody labelled a picture"),
            Choice(
                "data.validation", ["val"], "the pictures held back, as the teacher labels them"
            ),
            Choice("data.calibrate", False, "these pictures compare student and teacher"),
        ]
    else:
        labelled = len(open_dataset(source, ["train"]))
        repeat = max(1, round(count / ((_LABELLED_SHARE - 1) * labelled)))
        own.append(
            Choice("data.repeat", repeat, f"{labelled} labelled pictures beside {count} without")
        )
    given = settings_fields(settings)
    own = [choice for choice in own if not _is_given(choice.field, given)]
    fields = [f"{choice.field}={json.dumps(choice.value)}" for choice in own]
    if name is not None:
        return _segmentation(load_recipe(name, [*fields, *settings], source=source)), own
    # The labels at hand are surveyed: the teacher's where there are no others.
    surveyed = ["data.train=[val]"] if data is None else []
    passing = [f for f in fields if not f.startswith("data.train=")]
    first, choices = choose_recipe(source, [*passing, *surveyed, *settings], pictures=count)
    recipe = first.model_copy(update={"name": f"distilled from {Path(teacher).name}"})
    if data is None and not _is_given("data.train", given):
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": ()})})
    choices = [choice for choice in choices if choice.field != "data.calibrate" or data]
    return _with_cache(recipe, [*choices, *own], count, given)


def _is_given(field: str, given: Mapping[str, Any]) -> bool:
    part, _, name = field.partition(".")
    return part in given if not name else name in given.get(part, {})


def _with_cache(
    recipe: SegmentationRecipe, choices: list[Choice], count: int, given: Mapping[str, Any]
) -> tuple[SegmentationRecipe, list[Choice]]:
    """Keep the teacher's answers where each will be used several times."""
    assert recipe.alignment is not None
    passes = recipe.schedule.iterations * recipe.run.batch_size / count
    views = min(int(passes // _USES_OF_A_VIEW), _MOST_VIEWS)
    if views < 1 or "cache" in given.get("alignment", {}):
        return recipe, choices
    cache = {"views": views, "gigabytes": _CACHE_GIGABYTES}
    reason = f"{passes:.0f} passes see each of {views} crops of a picture several times"
    return _changed(recipe, "alignment", cache=cache), [
        *choices,
        Choice("alignment.cache", cache, reason),
    ]


def _without_what_it_hides(
    recipe: SegmentationRecipe, logits_alone: bool, settings: Sequence[str]
) -> tuple[SegmentationRecipe, list[Choice]]:
    """Leave out the terms that a teacher without these features cannot have."""
    given = settings_fields(settings)
    hidden: dict[str, Any] = {"decoder": 0.0, "shared_head": False}
    if logits_alone:
        hidden |= {"stage4": 0.0, "stage3": 0.0}
    reason = "the teacher shows its logits alone" if logits_alone else "the teacher's is not shown"
    choices = [
        Choice(f"alignment.{name}", value, reason)
        for name, value in hidden.items()
        if not _is_given(f"alignment.{name}", given)
    ]
    values = {choice.field.partition(".")[2]: choice.value for choice in choices}
    return _changed(recipe, "alignment", **values), choices


def _changed(recipe: SegmentationRecipe, part: str, **values: Any) -> SegmentationRecipe:
    """Return the recipe with other values in a part, validated again."""
    fields = recipe.model_dump()
    fields[part] = {**fields[part], **values}
    return SegmentationRecipe.model_validate(fields)


def _segmentation(recipe: Recipe) -> SegmentationRecipe:
    if not isinstance(recipe, SegmentationRecipe):
        raise SctnetError(f"{recipe.name}: a recipe for classification; distill labels pixels")
    return recipe


def for_minutes(
    recipe: SegmentationRecipe, minutes: float, teacher: Any, explain: Callable[[str], None]
) -> SegmentationRecipe:
    """Return the recipe with as many iterations as fit, by a few measured steps."""
    needs = dry_run(recipe, teacher=teacher)
    step = needs.seconds / recipe.schedule.iterations
    iterations = max(10, int(minutes * 60 / step))
    explain(
        f"schedule.iterations = {iterations}  (a step takes {step:.2f} s here, so these are "
        f"{minutes:g} minutes)"
    )
    warmup = min(recipe.schedule.warmup_iterations, iterations // 20)
    recipe = _changed(recipe, "schedule", iterations=iterations, warmup_iterations=warmup)
    return _changed(recipe, "run", validate_every=max(iterations // 4, 1))
