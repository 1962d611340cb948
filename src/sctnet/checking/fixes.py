"""Corrects masks that do not hold the classes: a corrected YAML, or new masks."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml

from sctnet.checking.check import Report
from sctnet.checking.survey import OpenedSplit
from sctnet.checking.value_diagnosis import Diagnosis, corrected
from sctnet.data.dataset import FileDataset, Files
from sctnet.data.dataset_yaml import FolderConfig, is_list, read_config
from sctnet.data.folder import folder_dataset
from sctnet.data.pairing import folder_of, mask_stem
from sctnet.data.streams import in_threads
from sctnet.errors import SctnetError
from sctnet.pictures.palette import default_palette, save_label_map
from sctnet.writing import write_whole

_YAML = (".yaml", ".yml")


def check_target(target: str | Path, source: str | Path) -> None:
    """Raise :class:`SctnetError` if a fix of the source cannot be written to the target."""
    target = Path(target)
    if Path(source).suffix.lower() not in _YAML:
        raise SctnetError(
            f"{source}: only a data set that a YAML file describes can be mended: write one"
        )
    if target.suffix.lower() in _YAML:
        if target.exists():
            raise SctnetError(f"{target}: the file exists already: give another name")
        if not target.parent.is_dir():
            raise SctnetError(f"{target}: no such folder: give a file in an existing one")
    elif target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise SctnetError(f"{target}: there is something already: give an empty or a new folder")


def write_fix(report: Report, target: str | Path) -> list[str]:
    """Write the correction of the masks' values, and return its description in lines.

    A target with the suffix .yaml receives the corrected description of the same masks. Any other
    target is a folder of label maps (0 to classes - 1, 255 ignored) with a YAML. Both have only the
    checked splits. Nothing is written without a diagnosis, or without a known correction. Raises
    :class:`SctnetError` as :func:`check_target` does.
    """
    check_target(target, report.source)
    target = Path(target)
    deep = any(tally.problems["deep-mask"].count for tally in report.tallies.values())
    if not report.diagnoses and not deep:
        return ["Nothing written: no wrong values that a fix would mend."]
    if deep and target.suffix.lower() in _YAML:
        return ["Nothing written: colours of 16 bits need new masks: give a folder, not a .yaml."]
    for split, diagnosis in report.diagnoses.items():
        if diagnosis.changes is None:
            return [f"Nothing written: {diagnosis.cause} in {split} needs a decision of yours."]
    lines = (_write_yaml if target.suffix.lower() in _YAML else _write_masks)(report, target)
    drawn = [split.name for split in report.splits if split.config is None]
    return lines + [f"Left out: the split {name}, whose labels are not masks" for name in drawn]


def _write_yaml(report: Report, target: Path) -> list[str]:
    splits = _with_pictures(report)
    stored = {name for name, tally in report.tallies.items() if tally.values or tally.colours}
    diagnoses = [report.diagnoses.get(split.name) for split in splits if split.name in stored]
    first = diagnoses[0]
    if first is None or any(other != first for other in diagnoses):
        return ["Nothing written: the splits need different fixes: give a folder, not a .yaml."]
    config = corrected(_config(report), first.changes or {})
    fields = config.model_dump(mode="json", include=config.model_fields_set)
    if config.ids is not None:
        fields["ids"] = dict(config.ids)  # JSON would turn the keys into strings
    base = Path(report.source).parent
    fields["images"], fields["masks"] = {}, {}
    for split in splits:
        folders = _folders(split, config, base)
        if folders is None:
            fields["images"][split.name] = [
                [_relative(item.image, target), _relative(item.mask, target)]
                for item in _files(split)
            ]
        else:
            fields["images"][split.name] = _relative(folders[0], target)
            fields["masks"][split.name] = _relative(folders[1], target)
    fields.pop("polygons", None)  # none of the splits that have masks
    _dump(fields, target, [first])
    return [f"Written to {target}: {_change(first)}.", *_guesses([first])]


def _write_masks(report: Report, target: Path) -> list[str]:
    config, base = _config(report), Path(report.source).parent
    splits = _with_pictures(report)
    for split in splits:
        folders = _folders(split, config, base)
        if folders is None:
            continue
        images, masks = folders
        if images == masks or images in masks.parents:
            raise SctnetError(
                f"{masks}: masks that lie among their images cannot be replaced by others: "
                "give --fix a name that ends in .yaml, or move them to a folder of their own"
            )
    failures = [failure for split in splits for failure in _remap(report, split, target)]
    diagnoses = list(report.diagnoses.values())
    fields: dict[str, Any] = {"images": {}, "masks": {}, "classes": list(config.classes)}
    for split in splits:
        folders = _folders(split, config, base)
        if folders is None:
            masks_of = ((item, _mended(split, config, item)) for item in _files(split))
            fields["images"][split.name] = [
                [_relative(item.image, target / "x"), mask.as_posix()]
                for item, mask in masks_of
                if (target / mask).is_file()
            ]
        else:
            fields["images"][split.name] = _relative(folders[0], target / "x")
            fields["masks"][split.name] = f"masks/{split.name}"
    colours = _colours(config, diagnoses)
    if colours is not None:
        fields["colours"] = [list(colour) for colour in colours]
    if config.image_suffix:
        fields["image_suffix"] = config.image_suffix
    yaml_path = target / Path(report.source).name
    _dump(fields, yaml_path, diagnoses)
    number = sum(len(split.data) for split in splits) - len(failures)
    lines = [f"Written to {target}: {number} masks and {yaml_path.name}.", *_guesses(diagnoses)]
    return [*lines, *(f"Left out: {failure}" for failure in failures)]


def _remap(report: Report, split: OpenedSplit, target: Path) -> list[str]:
    """Write one split's masks as label maps; return what could not be read."""
    data, config = split.data, _config(report)
    assert isinstance(data, FileDataset)
    diagnosis = report.diagnoses.get(split.name)
    mended = config if diagnosis is None else corrected(config, diagnosis.changes or {})
    reader = folder_dataset(split.name, mended, data.files, reduce=True)
    colours = _colours(config, [diagnosis] if diagnosis else []) or default_palette(
        len(config.classes)
    )

    def write(index: int) -> str | None:
        path = target / _mended(split, config, data.files[index])
        try:
            labels = reader.labels(index)
        except SctnetError as error:
            return str(error)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_label_map(labels, colours, path)
        return None

    written = in_threads(write, range(len(data)), min(8, os.cpu_count() or 1))
    return [failure for failure in written if failure is not None]


def _mended(split: OpenedSplit, config: FolderConfig, item: Files) -> Path:
    """Return the path of a mended mask below the folder that --fix names."""
    image = Path(*PurePath(item.name).parts[1:])  # without the split
    stem = mask_stem(image, config.model_copy(update={"mask_suffix": ""}))
    return Path("masks", split.name, stem.with_name(f"{stem.name}.png"))


def _files(split: OpenedSplit) -> Sequence[Files]:
    assert isinstance(split.data, FileDataset)
    return split.data.files


def _folders(split: OpenedSplit, config: FolderConfig, base: Path) -> tuple[Path, Path] | None:
    """Return a split's folders of pictures and masks; None for what is listed, and for folds."""
    images, masks = config.images.get(split.name), config.masks.get(split.name)
    if images is None or masks is None or is_list(images) or is_list(masks):
        return None
    return folder_of(base, images), folder_of(base, masks)


def _config(report: Report) -> FolderConfig:
    return read_config(Path(report.source))


def _with_pictures(report: Report) -> list[OpenedSplit]:
    """Return the splits of masks that have some; COCO instances open without a description."""
    return [split for split in report.splits if split.config is not None and len(split.data)]


def _colours(
    config: FolderConfig, diagnoses: Sequence[Diagnosis]
) -> tuple[tuple[int, int, int], ...] | None:
    """Return the colours of the classes, as given or as found in the masks."""
    if config.colours is not None:
        return config.colours
    for diagnosis in diagnoses:
        if diagnosis.cause == "rgb-masks" and diagnosis.changes:
            return tuple(diagnosis.changes["colours"])
    return None


def _dump(fields: dict[str, Any], path: Path, diagnoses: Sequence[Diagnosis]) -> None:
    causes = ", ".join(dict.fromkeys(d.cause for d in diagnoses)) or "deep-mask"
    comments = [f"Mended by sctnet data check: {causes}", *_guesses(diagnoses)]
    header = "".join(f"# {' '.join(comment.splitlines())}\n" for comment in comments)
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, default_flow_style=None)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (header + text).encode())


def _change(diagnosis: Diagnosis) -> str:
    parts = []
    for key, value in (diagnosis.changes or {}).items():
        shown = [list(colour) for colour in value] if isinstance(value, tuple) else value
        if shown not in (None, []):
            parts.append(f"{key}: {shown}")
    return ", ".join(parts) or "the keys that do not fit are gone"


def _guesses(diagnoses: Sequence[Diagnosis]) -> list[str]:
    guesses = dict.fromkeys(diagnosis.guess for diagnosis in diagnoses if diagnosis.guess)
    return [f"Confirm {guess}: this is a guess." for guess in guesses]


def _relative(folder: Path, yaml_path: Path) -> str:
    return Path(os.path.relpath(folder, yaml_path.parent)).as_posix()
