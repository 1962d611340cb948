"""Helpers for readers of published layouts: lists, pairs of files, and mask look-up."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from sctnet.data.dataset import IGNORE, FileDataset, Files, Labels, NoSuchSplitError, check_splits
from sctnet.data.images import read_mask
from sctnet.data.picture_files import is_file, is_hidden, tell_left_out, tell_once
from sctnet.errors import SctnetError

UNKNOWN = 254
"""In a table from a mask's values to labels: a value that the data set does not have."""

LabelOfValue = UInt8[np.ndarray, "256"]


def value_lookup(raw_values: Sequence[int], ignored_values: Sequence[int]) -> LabelOfValue:
    """Return the label of each of the 256 values a mask can hold.

    ``raw_values`` are the values by label; those of neither argument become :data:`UNKNOWN`.
    """
    table = np.full(256, UNKNOWN, np.uint8)
    table[list(ignored_values)] = IGNORE
    table[list(raw_values)] = range(len(raw_values))
    return table


def read_values(path: Path, label_of_value: LabelOfValue, expected: str) -> Labels:
    """Read a mask of one number per pixel as labels.

    ``expected`` says in errors which values there are. Raises :class:`SctnetError` for a mask
    of colours and for a value that the table does not know.
    """
    values = read_mask(path)
    if values.ndim != 2:
        raise SctnetError(
            f"{path}: the mask holds colours, not one number per pixel: "
            f"give the official masks, whose values are {expected}"
        )
    if values.dtype == np.uint8:
        labels = np.asarray(cv2.LUT(values, label_of_value))  # a tenth of NumPy's time
        known = labels != UNKNOWN
    else:
        labels = label_of_value.take(values, mode="clip")
        known = (values >= 0) & (values < len(label_of_value)) & (labels != UNKNOWN)
    if not known.all():
        raise SctnetError(
            f"{path}: the value {values[~known][0]} is unknown: "
            f"give the official masks, whose values are {expected}"
        )
    return labels


def read_list(path: Path) -> list[str]:
    """Return the lines of a split's list, empty ones as empty texts."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SctnetError(
            f"{path}: the list is not UTF-8 text: copy it again from its source"
        ) from error
    except OSError as error:
        sentence = f"{path}: the list of the split cannot be read: unpack the data set again"
        raise NoSuchSplitError(sentence) from error
    if not any(line.strip() for line in lines):
        raise SctnetError(f"{path}: the list is empty: copy it again from its source")
    return lines


def find_images(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a split's folder by a glob, in the order of their names.

    The ending may be in capitals. Other files there are counted in the log.
    """
    around = folder.glob(str(PurePosixPath(pattern).with_name("*")))
    pictures = files_like(folder, pattern)
    others = {path for path in around if not is_hidden(path, folder)} - set(pictures)
    left_out = Counter(path.suffix.lower() or "no ending" for path in others if path.is_file())
    tell_left_out(folder, left_out)
    if not pictures:
        sentence = f"{folder}: no picture {pattern} is there: unpack the data set again"
        raise NoSuchSplitError(sentence)
    return pictures


def files_like(folder: Path, pattern: str) -> list[Path]:
    """Return the files below a folder by a glob, whose ending may be in capitals, by name."""
    bare, ending = pattern[: pattern.rindex(".")], pattern[pattern.rindex(".") :]
    return sorted(
        path
        for path in folder.glob(f"{bare}.*")
        if path.suffix.lower() == ending and not is_hidden(path, folder)
    )


def in_either_case(path: Path) -> Path:
    """Return a path, with its ending in capitals where that alone exists."""
    capital = path.with_suffix(path.suffix.upper())
    return capital if not is_file(path) and is_file(capital) else path


def tell_unused_masks(masks: Sequence[Path], used: Collection[Path], pictures: Path) -> None:
    """Log how many masks have no picture, and the first."""
    unused = [mask for mask in masks if mask not in used]
    if unused:
        what = f"{pictures}: masks without a picture are left out ({len(unused)})"
        tell_once(f"{what}: {unused[0]} has no picture there")


def require_mask(files: Files) -> Files:
    """Return the files, or raise :class:`SctnetError` where the picture has no mask."""
    if not files.mask.is_file():
        raise SctnetError(
            f"{files.image} has no mask: expected {files.mask}: unpack the data set again"
        )
    return files


def have_labels(splits: Sequence[str], unlabelled: Sequence[str], source: Path) -> bool:
    """Say whether splits have published labels; splits with and without labels cannot be joined."""
    without = [split for split in splits if split in unlabelled]
    if without and len(without) < len(splits):
        raise SctnetError(f"{source}: the split {without[0]!r} has no labels: open it alone")
    return not without


def open_published(
    name: str,
    root: Path,
    splits: Sequence[str],
    known: Sequence[str],
    find_files: Callable[[str], list[Files]],
    **fields: Any,
) -> FileDataset:
    """Open splits of a data set whose split ``test`` has no published labels, joined.

    ``find_files`` returns the files of a split; ``fields`` are the further ones of
    :class:`FileDataset`. Raises :class:`SctnetError` for an unknown split and missing files.
    """
    check_splits(splits, known, root)
    labelled = have_labels(splits, ["test"], root)
    files = [item for split in splits for item in find_files(split)]
    if labelled:
        files = [require_mask(item) for item in files]
    return FileDataset(f"{name} {'+'.join(splits)}", files=files, labelled=labelled, **fields)
