"""Pictures in a folder for each class, as ImageNet's training pictures are."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sctnet.data.classification.dataset import ClassificationDataset, ClassifiedFiles
from sctnet.data.dataset import check_splits
from sctnet.data.picture_files import is_folder, is_picture, tell_left_out, walk
from sctnet.errors import SctnetError


def is_image_folder(root: Path) -> bool:
    """Say whether the folder ``train`` has a folder for each class."""
    return (root / "train").is_dir() and bool(_folders(root / "train"))


def open_image_folder(root: Path, splits: Sequence[str]) -> ClassificationDataset:
    """Open splits of ROOT/SPLIT/CLASS/picture, joined; the classes are train's, by name.

    Raises :class:`SctnetError` for an unknown split and for a class that train does not have.
    """
    known = [split for split in _folders(root) if _folders(root / split)]
    check_splits(splits, known, root)
    classes = class_folders(root / "train")
    names: list[str] = []
    labels: list[int] = []
    for split in splits:
        found = files_of_classes(root, split, classes)
        names += found[0]
        labels += found[1]
    return ClassifiedFiles(f"{root.name} {'+'.join(splits)}", classes, root, names, labels)


def files_of_classes(root: Path, split: str, classes: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the pictures of a split, relative to ``root``, and the number of each one's class."""
    numbers = {name: number for number, name in enumerate(classes)}
    names: list[str] = []
    labels: list[int] = []
    left_out: Counter[str] = Counter()
    for folder in class_folders(root / split):
        if folder not in numbers:
            raise SctnetError(
                f"{root / split / folder}: train has no class of this name: "
                "rename the folder or remove it"
            )
        pictures = pictures_below(root / split / folder, left_out)
        names += [f"{split}/{folder}/{picture}" for picture in pictures]
        labels += [numbers[folder]] * len(pictures)
    tell_left_out(root / split, left_out)
    return names, labels


def class_folders(split: Path) -> tuple[str, ...]:
    """Return the names of the classes that have a folder; :class:`SctnetError` for none."""
    folders = _folders(split)
    if not folders:
        raise SctnetError(f"{split}: holds no folder for a class")
    return tuple(folders)


def pictures_below(folder: Path, left_out: Counter[str]) -> list[str]:
    """Return the pictures of a class by name, also those of folders within it; count the others."""
    found = []
    for path in walk(folder):
        if is_picture(path):
            found.append(path)
        else:
            left_out[Path(path).suffix.lower() or "no ending"] += 1
    return sorted(found)


def _folders(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if is_folder(e) and not e.name.startswith("."))
