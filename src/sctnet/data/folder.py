"""A user's data set: image and mask folders, described by a YAML file."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from sctnet.data.coco_instances import DrawnPicture, find_instances
from sctnet.data.dataset import FileDataset, Files, Labels, check_splits
from sctnet.data.dataset_yaml import FolderConfig, read_config
from sctnet.data.labelme import LabelNames, read_labelme
from sctnet.data.mask_to_labels import label_reader
from sctnet.data.pairing import SHAPES_SUFFIX, Mismatch, find_files
from sctnet.data.picture_files import tell_left_out, tell_once
from sctnet.errors import SctnetError


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
    names = LabelNames(config.classes, config.ignored_labels)
    files: list[Files] = []
    drawn: dict[Path, DrawnPicture] = {}
    for split in splits:
        if split in config.polygons:
            source, images = base / config.polygons[split], base / config.images[split]
            found = find_instances(source, images, split, names)
            files += found
            drawn |= {item.mask: picture for item, picture in found.items()}
        else:
            unused: list[Mismatch] = []
            paired = find_files(base, config, split, partial(_refuse, unused))
            files += paired.files
            tell_left_out(base / config.images[split], paired.left_out)
            if unused:
                count = "1 mask" if len(unused) == 1 else f"{len(unused)} masks"
                tell_once(f"{yaml_path}: {count} without a picture: {unused[0].sentence}")
    return folder_dataset(f"{yaml_path.stem} {'+'.join(splits)}", config, files, drawn)


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
    if mismatch.cause != "missing-picture":
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
