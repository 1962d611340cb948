"""Pascal VOC 2012 with its 21 classes, and data of one's own in its layout.

``JPEGImages/*.jpg``, ``SegmentationClass/*.png`` and ``ImageSets/Segmentation/SPLIT.txt``; masks
hold class numbers, as a palette's indices or as grey, and 255 for ignored, or the classes' colours.
A ``class_names.txt`` beside them, such as labelme writes, gives other classes; a ``labelmap.txt``,
such as CVAT writes, their colours too, which then count, not the numbers of a palette. Otherwise
colours are VOC's: three bits of the class number at a time go to red, green and blue, from the
highest bit down. A mask that is not there is looked for in ``SegmentationClassAug``, where people
keep SBD's further ones (trainaug), and in ``SegmentationClassPNG`` of older labelmes.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8

from sctnet.data.dataset import IGNORE, Colour, FileDataset, Files, Labels, check_splits
from sctnet.data.images import read_mask, read_mask_encoding
from sctnet.data.mask_to_labels import colour_code, colour_lookup
from sctnet.data.picture_files import MASK_ENDINGS, PICTURE_ENDINGS, is_file
from sctnet.data.published_layouts import (
    UNKNOWN,
    read_list,
    read_values,
    require_mask,
    value_lookup,
)
from sctnet.errors import SctnetError, shortened

_NAMES = """
background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable,
dog, horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor
"""
CLASSES = tuple(name.strip() for name in _NAMES.split(","))

_LISTS = Path("ImageSets", "Segmentation")
_MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug", "SegmentationClassPNG")
_VOID = (224, 224, 192)
"""VOC's colour of what is ignored."""
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
    lines = [
        line.strip()
        for split in splits
        for line in read_list(base / _LISTS / f"{split}.txt")
        if line.strip()
    ]
    files = list(dict.fromkeys(_files_of(base, line) for line in lines))
    labelled = list(splits) != ["test"] or files[0].mask.is_file()
    if labelled:
        files = [require_mask(item) for item in files]
    legend = _read_legend(base)
    return FileDataset(
        f"{'VOC' if legend.classes == CLASSES else base.name} {'+'.join(splits)}",
        legend.classes,
        legend.colours,
        files,
        legend.read_labels,
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


def _files_of(base: Path, line: str) -> Files:
    """Return the files of a list's line: a picture's name, which may hold spaces or be followed.

    A name may also be a path, as far as it leads below the folder of pictures; another path after
    it may be the mask's.
    """
    pictures = base / "JPEGImages"
    first, *rest = line.split()
    candidates = dict.fromkeys(
        name for text in (line, first) for name in (text, _below(text, ("JPEGImages",))) if name
    )
    found = (_with_an_ending(pictures / name, _IMAGE_ENDINGS) for name in candidates)
    image = next(filter(None, found), None)
    if image is None:
        missing = f"{shortened(first)}.jpg"
        raise SctnetError(
            f"{pictures / missing}: the picture is missing: unpack the data set again"
        )
    stem = image.relative_to(pictures).with_suffix("")
    masks = [_with_an_ending(base / folder / stem, MASK_ENDINGS) for folder in _MASK_FOLDERS]
    if rest and f"{image.relative_to(pictures)}" != line:
        named = _below(rest[-1], _MASK_FOLDERS)
        folder = next((f for f in _MASK_FOLDERS if f in _parts(rest[-1])), "")
        masks.insert(0, _with_an_ending(base / folder / named, MASK_ENDINGS) if named else None)
    mask = next(filter(None, masks), base / _MASK_FOLDERS[0] / f"{stem}.png")
    return Files(image.relative_to(pictures).as_posix(), image, mask)


def _parts(text: str) -> tuple[str, ...]:
    return PurePosixPath(text.replace("\\", "/")).parts


def _below(text: str, folders: Sequence[str]) -> str:
    """Return what follows one of the folders in a path; nothing where none is in it."""
    parts = _parts(text)
    places = [number for number, part in enumerate(parts) if part in folders]
    return "/".join(parts[places[-1] + 1 :]) if places else ""


_IMAGE_ENDINGS = (".jpg", *sorted(PICTURE_ENDINGS - {".jpg"}))


def _with_an_ending(path: Path, endings: Sequence[str]) -> Path | None:
    """Return the file of this path, which may have its ending already; None where there is none."""
    if path.suffix.lower() in endings and is_file(path):
        return path
    options = (path.with_name(path.name + each) for e in endings for each in (e, e.upper()))
    return next(filter(is_file, options), None)


class _Legend:
    """The classes of a data set, and how masks show them."""

    def __init__(self, classes: tuple[str, ...], colours: tuple[Colour, ...] | None = None) -> None:
        self.classes = classes
        self.colours = colours or tuple(voc_colour(number) for number in range(len(classes)))
        self._by_palette = colours is not None
        self._label_of_value = value_lookup(range(len(classes)), [IGNORE])

    @cached_property
    def _label_of_colour(self) -> UInt8[np.ndarray, "16777216"]:
        return colour_lookup(self.colours, [c for c in [_VOID] if c not in self.colours])

    def read_labels(self, path: Path) -> Labels:
        """Read a mask of numbers, of a palette or of colours."""
        values = read_mask(path)
        if values.ndim == 2 and self._by_palette:
            palette = read_mask_encoding(path).palette
            if palette:
                values = np.array(palette, np.uint8)[np.minimum(values, len(palette) - 1)]
        if values.ndim == 2:
            expected = f"0-{len(self.classes) - 1} and 255"
            return read_values(path, self._label_of_value, expected)
        labels = self._label_of_colour.take(colour_code(values))
        unknown = labels == UNKNOWN
        if unknown.any():
            red, green, blue = values[unknown][0].tolist()
            advice = (
                f"add a line such as name:{red},{green},{blue}:: to the {_COLOURS_FILE}"
                if self._by_palette
                else f"write a {_COLOURS_FILE} in the root with lines such as road:128,64,128::"
            )
            raise SctnetError(
                f"{path}: the mask's colour [{red}, {green}, {blue}] is none of the classes': "
                f"{advice}"
            )
        return labels


_COLOURS_FILE = "labelmap.txt"
_COLOURED = re.compile(r"([^:]+):(?:(\d+),(\d+),(\d+))?(?::.*)?")


def _read_legend(base: Path) -> _Legend:
    """Return the classes of labelmap.txt or class_names.txt, or VOC's without such a file."""
    coloured, named = base / _COLOURS_FILE, base / "class_names.txt"
    if coloured.is_file():
        return _read_coloured(coloured)
    if not named.is_file():
        return _Legend(CLASSES)
    names = [line.strip() for line in read_list(named) if line.strip()]
    # labelme's list of labels begins with what it writes as 255 and 0.
    names = ["background" if name == "_background_" else name for name in names]
    classes = tuple(name for name in names if name != "__ignore__")
    _check_classes(classes, named)
    return _Legend(classes)


def _read_coloured(path: Path) -> _Legend:
    """Read CVAT's ``label:color_rgb:parts:actions``."""
    lines = [line.strip() for line in read_list(path)]
    matches = {
        line: _COLOURED.fullmatch(line) for line in lines if line and not line.startswith("#")
    }
    rows: list[tuple[str, Colour]] = []
    for line, match in matches.items():
        colour = voc_colour(len(rows))
        if match is not None and match[2] is not None:
            colour = int(match[2]), int(match[3]), int(match[4])
        if match is None or max(colour) > 255:
            raise SctnetError(
                f"{path}: the line {line!r} is not name:red,green,blue:: with numbers to 255: "
                "correct it"
            )
        rows.append((match[1], colour))
    classes, colours = tuple(name for name, _ in rows), tuple(colour for _, colour in rows)
    _check_classes(classes, path)
    if len(set(colours)) < len(colours):
        raise SctnetError(f"{path}: two classes have one colour: give each its own")
    return _Legend(classes, colours)


def _check_classes(classes: Sequence[str], path: Path) -> None:
    if not 2 <= len(classes) <= UNKNOWN or len(set(classes)) < len(classes):
        raise SctnetError(
            f"{path}: {len(set(classes))} different names on {len(classes)} lines: "
            f"write 2 to {UNKNOWN} names, each once"
        )
