"""ImageNet (ILSVRC 2012) as its organisers publish it: flat validation pictures and the devkit.

```
ROOT/train/n01440764/n01440764_10026.JPEG      or ROOT/Data/CLS-LOC/train/... as Kaggle ships it
ROOT/val/ILSVRC2012_val_00000001.JPEG
ROOT/ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt and meta.mat
```
The ground truth has an ILSVRC2012_ID from 1 to 1000 for each validation picture, by number;
meta.mat tells which WNID, the name of a training folder, has which ID.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sctnet.data.classification.dataset import ClassificationDataset, ClassifiedFiles
from sctnet.data.classification.image_folder import class_folders, files_of_classes, pictures_below
from sctnet.data.dataset import check_splits
from sctnet.data.picture_files import tell_left_out
from sctnet.errors import SctnetError

_SPLITS = ("train", "val")
_KAGGLE = Path("Data/CLS-LOC")
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_KAGGLE_TRUTH = "LOC_val_solution.csv"


def is_imagenet(root: Path) -> bool:
    """Say whether a folder has ImageNet's flat validation pictures and their list."""
    return _list_of(root) is not None


def open_imagenet(root: Path, splits: Sequence[str]) -> ClassificationDataset:
    """Open splits of ImageNet; the classes are the WNIDs, sorted, as everywhere.

    Raises :class:`SctnetError` for a list that does not fit the pictures, and for missing files.
    """
    check_splits(splits, _SPLITS, root)
    pictures = root / _KAGGLE if (root / _KAGGLE).is_dir() else root
    if not (pictures / "train").is_dir():
        raise SctnetError(
            f"{pictures / 'train'}: not there: unpack the training pictures, a folder each class"
        )
    classes = class_folders(pictures / "train")
    names: list[str] = []
    labels: list[int] = []
    for split in splits:
        found = (
            files_of_classes(pictures, "train", classes)
            if split == "train"
            else _validation(root, pictures, classes)
        )
        names += found[0]
        labels += found[1]
    return ClassifiedFiles(f"ImageNet {'+'.join(splits)}", classes, pictures, names, labels)


def _list_of(root: Path) -> Path | None:
    """Return the file that tells the classes of the validation pictures."""
    places = (root / "ILSVRC2012_devkit_t12" / "data", root / "data", root)
    lists = [*(place / _TRUTH for place in places), root / _KAGGLE_TRUTH]
    return next((file for file in lists if file.is_file()), None)


def _validation(root: Path, pictures: Path, classes: Sequence[str]) -> tuple[list[str], list[int]]:
    truth = _list_of(root)
    assert truth is not None
    numbers = {wnid: number for number, wnid in enumerate(classes)}
    if not (pictures / "val").is_dir():
        raise SctnetError(f"{pictures / 'val'}: not there: unpack the validation pictures into it")
    left_out: Counter[str] = Counter()
    files = pictures_below(pictures / "val", left_out)
    tell_left_out(pictures / "val", left_out)
    wnids = _kaggle_wnids(truth, files) if truth.suffix == ".csv" else _wnids(truth, files)
    unknown = next((wnid for wnid in wnids if wnid not in numbers), None)
    if unknown is not None:
        raise SctnetError(f"{truth}: its class {unknown} has no folder in {pictures / 'train'}")
    return [f"val/{name}" for name in files], [numbers[wnid] for wnid in wnids]


def _wnids(truth: Path, files: Sequence[str]) -> list[str]:
    """Return the WNID of each picture; line n of the list is the picture of number n."""
    by_id = _wnid_by_id(truth.with_name("meta.mat"))
    try:
        ids = [int(line) for line in _text(truth).split()]
        numbers = [int(Path(name).stem.rpartition("_")[2]) for name in files]
        return [by_id[ids[_position(number, len(ids))]] for number in numbers]
    except (ValueError, IndexError, KeyError) as error:
        raise SctnetError(
            f"{truth}: does not fit the pictures in val ({error}): its line n is the class of "
            "ILSVRC2012_val_n.JPEG, 1 to 1000; take list and pictures from one release"
        ) from error


def _position(number: int, count: int) -> int:
    if not 1 <= number <= count:
        raise IndexError(f"picture {number} of {count} lines")
    return number - 1


def _wnid_by_id(meta: Path) -> dict[int, str]:
    """Return the WNID of each ILSVRC2012_ID in the devkit's meta.mat."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise SctnetError(
            f'{meta}: MATLAB files need one more package: pip install "sctnet[pretraining]"'
        ) from error
    try:
        synsets: Any = loadmat(meta, squeeze_me=True, variable_names=["synsets"])["synsets"]
        rows = np.atleast_1d(synsets)
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}
    except Exception as error:  # its reader raises many kinds for a broken file
        raise SctnetError(
            f"{meta}: not the devkit's file of synsets ({type(error).__name__}): unpack "
            "ILSVRC2012_devkit_t12 again"
        ) from error


def _kaggle_wnids(truth: Path, files: Sequence[str]) -> list[str]:
    """Return the WNID of each picture of Kaggle's list: name,WNID box WNID box ..."""
    rows = (line.partition(",") for line in _text(truth).splitlines()[1:])
    by_name = {name: boxes.split(" ", 1)[0] for name, _, boxes in rows}
    absent = next((name for name in files if Path(name).stem not in by_name), None)
    if absent is not None:
        raise SctnetError(
            f"{truth}: has no line for {absent}; take list and pictures of one release"
        )
    return [by_name[Path(name).stem] for name in files]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SctnetError(f"{file}: cannot be read as text ({error})") from error
