"""A user's data set: image and mask folders, or lists, described by a YAML file."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sctnet.data.coco_instances import DrawnPicture, find_instances
from sctnet.data.dataset import FileDataset, Files, Labels, check_splits
from sctnet.data.dataset_yaml import FolderConfig, is_list, read_config
from sctnet.data.file_lists import find_listed
from sctnet.data.labelme import LabelNames, read_labelme
from sctnet.data.mask_to_labels import label_reader
from sctnet.data.pairing import (
    SHAPES_SUFFIX,
    SPOIL_NOTHING,
    Mismatch,
    find_files,
    folder_of,
    overlap,
)
from sctnet.data.picture_files import pictures_below, tell_left_out, tell_once
from sctnet.errors import SctnetError


class SplitFiles(NamedTuple):
    """What a split has."""

    files: list[Files]
    drawn: dict[Path, DrawnPicture]
    """The pictures of a file of instances, by what stands for their masks."""
    left_out: Mapping[str, int]
    """The number of files among the pictures that are not taken for some, by their endings."""
    unlabelled: int = 0


def open_folder(yaml_path: str | Path, splits: Sequence[str]) -> FileDataset:
    """Open one or more splits of the data set that a YAML file describes, joined.

    The files of every picture are looked for at once, their contents when they are read. Raises
    :class:`SctnetError` for a mistake in the YAML, an unknown split, an image without a mask,
    two images of one mask, and (on reading) a mask value or colour that is not described.
    """
    yaml_path = Path(yaml_path)
    config = read_config(yaml_path)
    check_splits(splits, list(config.images), yaml_path)
    base = yaml_path.parent
    files: list[Files] = []
    drawn: dict[Path, DrawnPicture] = {}
    for split in splits:
        unused: list[Mismatch] = []
        found = find_split(base, config, split, partial(_refuse, unused))
        files += found.files
        drawn |= found.drawn
        place = config.images[split]
        tell_left_out(base / place if isinstance(place, Path) else yaml_path, found.left_out)
        if found.unlabelled:
            tell_once(
                f"{yaml_path}: {found.unlabelled} pictures of {split} have no mask and are left "
                "out, as unlabelled: allowed has it"
            )
        for cause, what in SPOIL_NOTHING.items():
            sentences = [mismatch.sentence for mismatch in unused if mismatch.cause == cause]
            if sentences:
                tell_once(f"{yaml_path}: {what} are left out ({len(sentences)}): {sentences[0]}")
    return folder_dataset(f"{yaml_path.stem} {'+'.join(splits)}", config, files, drawn)


def find_split(
    base: Path, config: FolderConfig, split: str, complain: Callable[[Mismatch], None]
) -> SplitFiles:
    """Return what a split has, be it listed, in folders or in a file of instances.

    ``complain`` is told of everything that does not pair; where it returns, the rest is paired.
    """
    if split in config.polygons:
        found, left_out = find_drawn(base, config, split, complain)
        drawn = {item.mask: picture for item, picture in found.items()}
        return SplitFiles(list(found), drawn, left_out)
    find = find_listed if is_list(config.images[split]) else find_files
    paired = find(base, config, split, complain)
    return SplitFiles(paired.files, {}, paired.left_out, paired.unlabelled)


def find_drawn(
    base: Path, config: FolderConfig, split: str, complain: Callable[[Mismatch], None]
) -> tuple[dict[Files, DrawnPicture], Mapping[str, int]]:
    """Return the pictures of a file of instances, and the number of files that are no pictures.

    ``complain`` is told of what is left out, too: pictures that the file does not list count where
    no other split has its pictures there.
    """
    source, images = base / config.polygons[split], folder_of(base, config.images[split])
    names = LabelNames(config.classes, config.ignored_labels)
    found = find_instances(source, images, split, names, complain)
    below = pictures_below(images)
    listed = {item.image for item in found}
    others = [
        folder_of(base, place)
        for other, place in config.images.items()
        if other != split and not is_list(place)
    ]
    if not any(overlap(images, other) for other in others):
        for picture in below.taken:
            if picture not in listed:
                complain(Mismatch("unlisted-picture", f"{picture} is not listed in {source}"))
    if images in source.parents:
        below.left_out.pop(source.suffix.lower(), None)
    return found, below.left_out


def folder_dataset(
    name: str,
    config: FolderConfig,
    files: Sequence[Files],
    drawn: Mapping[Path, DrawnPicture] | None = None,
    *,
    reduce: bool = False,
) -> FileDataset:
    """Return the data set of these files, whose masks are read as the description says.

    ``drawn`` are the pictures of instances by what stands for their masks. ``reduce`` is that of
    :func:`~sctnet.data.images.read_mask`.
    """
    names = LabelNames(config.classes, config.ignored_labels)
    reader = partial(_read_labels, names, drawn or {}, label_reader(config, reduce))
    return FileDataset(name, config.classes, config.colours, files, reader)


def _refuse(unused: list[Mismatch], mismatch: Mismatch) -> None:
    if mismatch.cause not in SPOIL_NOTHING:
        raise SctnetError(mismatch.sentence)
    unused.append(mismatch)


def _read_labels(
    names: LabelNames,
    drawn: Mapping[Path, DrawnPicture],
    read_mask_labels: Callable[[Path], Labels],
    path: Path,
) -> Labels:
    if path in drawn:
        return drawn[path].labels()
    if path.suffix.lower() == SHAPES_SUFFIX:
        return read_labelme(names, path)
    return read_mask_labels(path)
