"""Pascal VOC 2012 with its 21 classes, and data of one's own in its layout.

``JPEGImages/*.jpg``, ``SegmentationClass/*.png`` and ``ImageSets/Segmentation/SPLIT.txt``; masks
hold class numbers, as a palette's indices or as grey, and 255 for ignored. A ``class_names.txt``
beside them, such as labelme writes, gives other classes. Colours are VOC's: three bits of the
class number at a time go to red, green and blue, from the highest bit down. A mask that is not
there is looked for in ``SegmentationClassAug``, where people keep SBD's further ones (trainaug).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sctnet.data.dataset import Colour, FileDataset, Files, Labels, check_splits
from sctnet.data.published_layouts import (
    UNKNOWN,
    LabelOfValue,
    read_list,
    read_values,
    require_mask,
    value_lookup,
)
from sctnet.errors import SctnetError

_NAMES = """
background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable,
dog, horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor
"""
CLASSES = tuple(name.strip() for name in _NAMES.split(","))

_LISTS = Path("ImageSets", "Segmentation")
_MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug")
_ROOTS = (".", "VOC2012", "VOCdevkit/VOC2012")


def voc_colour(number: int) -> Colour:
    """Return VOC's colour of a class number, 0 to 255."""
    red = green = blue = 0
    for place in range(7, -1, -1):
        red |= (number & 1) << place
        green |= (number >> 1 & 1) << place
        blue |= (number >> 2 & 1) << place
        number >>= 3
    return red, green, blue


def is_voc(root: Path) -> bool:
    """Say whether ``root`` is a VOC, by its folder of pictures and its lists or masks."""
    return _find_root(root) is not None


def open_voc(root: str | Path, splits: Sequence[str]) -> FileDataset:
    """Open one or more of the splits that have a list, joined; each picture once.

    ``root`` is VOC2012, VOCdevkit or the folder that holds it. The test split has no labels
    where its masks are missing. Raises :class:`SctnetError` for an unknown split, for files that
    are missing, and for a class_names.txt that cannot be.
    """
    base = _find_root(Path(root)) or Path(root)
    known = sorted(path.stem for path in (base / _LISTS).glob("[!.]*.txt"))
    if not known:
        raise SctnetError(
            f"{base / _LISTS}: no list is there: write train.txt and val.txt, a picture's name "
            "without its ending on each line"
        )
    check_splits(splits, known, root)
    names = [
        line.split()[0]
        for split in splits
        for line in read_list(base / _LISTS / f"{split}.txt")
        if line.strip()
    ]
    files = [_files_of(base, name) for name in dict.fromkeys(names)]
    labelled = list(splits) != ["test"] or files[0].mask.is_file()
    if labelled:
        files = [require_mask(item) for item in files]
    classes = _read_classes(base / "class_names.txt")
    return FileDataset(
        f"{'VOC' if classes == CLASSES else base.name} {'+'.join(splits)}",
        classes,
        tuple(voc_colour(number) for number in range(len(classes))),
        files,
        partial(_read_labels, value_lookup(range(len(classes)), [255])),
        labelled=labelled,
    )


def _find_root(root: Path) -> Path | None:
    for inner in _ROOTS:
        base = root / inner
        if (base / "JPEGImages").is_dir() and (
            (base / _LISTS).is_dir() or any((base / folder).is_dir() for folder in _MASK_FOLDERS)
        ):
            return base
    return None


def _files_of(base: Path, name: str) -> Files:
    image = base / "JPEGImages" / f"{name}.jpg"
    if not image.is_file():
        raise SctnetError(f"{image}: the picture is missing: unpack the data set again")
    masks = [base / folder / f"{name}.png" for folder in _MASK_FOLDERS]
    return Files(f"{name}.jpg", image, next(filter(Path.is_file, masks), masks[0]))


def _read_classes(path: Path) -> tuple[str, ...]:
    """Return the names of class_names.txt, or VOC's without such a file."""
    if not path.is_file():
        return CLASSES
    names = [line.strip() for line in read_list(path) if line.strip()]
    # labelme's list of labels begins with what it writes as 255 and 0.
    names = ["background" if name == "_background_" else name for name in names]
    classes = tuple(name for name in names if name != "__ignore__")
    if not 2 <= len(classes) <= UNKNOWN or len(set(classes)) < len(classes):
        raise SctnetError(
            f"{path}: {len(set(classes))} different names on {len(classes)} lines: "
            f"write 2 to {UNKNOWN} names, each once"
        )
    return classes


def _read_labels(label_of_value: LabelOfValue, path: Path) -> Labels:
    return read_values(path, label_of_value, f"0-{(label_of_value < UNKNOWN).sum() - 1} and 255")
