"""Segmentation data sets: pictures and label maps by number, independent of their files."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from typing_extensions import override

from sctnet.data.images import read_image
from sctnet.errors import SctnetError, as_one_sentence

IGNORE = 255
"""The label of pixels that no loss and no score counts; the same everywhere."""

Colour = tuple[int, int, int]
Labels = UInt8[np.ndarray, "h w"]
Picture = UInt8[np.ndarray, "h w 3"]


class SegmentationDataset(ABC):
    """Pictures with a class for every pixel.

    ``classes`` are the names by label, ``colours`` their usual RGB colours if there are any.
    ``raw_values`` are the values by label in the publishers' label maps, which their servers
    expect; None if the values are the labels. ``labelled`` is False if the publishers keep the
    labels secret, as for many test splits.
    """

    name: str
    classes: tuple[str, ...]
    colours: tuple[Colour, ...] | None
    raw_values: tuple[int, ...] | None = None
    labelled: bool = True

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of pictures."""

    @abstractmethod
    def item_name(self, index: int) -> str:
        """Return the picture's name: a relative path, unique in this data set."""

    @abstractmethod
    def image(self, index: int) -> Picture:
        """Return the picture, RGB, upright."""

    @abstractmethod
    def labels(self, index: int) -> Labels:
        """Return the label map: 0 to the number of classes - 1, or :data:`IGNORE`."""

    def pair(self, index: int) -> tuple[Picture, Labels]:
        """Return the picture and its label map, which are of one size."""
        return self.image(index), self.labels(index)

    def require_labels(self) -> None:
        """Raise :class:`SctnetError` where the labels are the publishers' secret."""
        if not self.labelled:
            raise SctnetError(
                f"{self.name} has no published labels: train and score on another split, "
                "or write label maps of this one by sctnet eval --save-predictions"
            )


class Files(NamedTuple):
    """One picture of a data set on disk; ``mask`` is where the labels are, or would be."""

    name: str
    image: Path
    mask: Path


class FileDataset(SegmentationDataset):
    """Pictures and masks in files; ``read_labels`` turns a mask file into a label map.

    Where the data set is not ``labelled``, asking for labels raises :class:`SctnetError`.
    """

    def __init__(
        self,
        name: str,
        classes: tuple[str, ...],
        colours: tuple[Colour, ...] | None,
        files: Sequence[Files],
        read_labels: Callable[[Path], Labels],
        *,
        raw_values: tuple[int, ...] | None = None,
        labelled: bool = True,
    ) -> None:
        self.name = name
        self.classes = classes
        self.colours = colours
        self.raw_values = raw_values
        self.labelled = labelled
        self.files = tuple(files)
        self._read_labels = read_labels

    def part(self, name: str, numbers: Sequence[int]) -> "FileDataset":
        """Return some of the pictures, by their numbers here, as a data set of another name."""
        files = [self.files[number] for number in numbers]
        return FileDataset(
            name,
            self.classes,
            self.colours,
            files,
            self._read_labels,
            raw_values=self.raw_values,
            labelled=self.labelled,
        )

    def __len__(self) -> int:
        return len(self.files)

    @override
    def item_name(self, index: int) -> str:
        return self.files[index].name

    @override
    def image(self, index: int) -> Picture:
        return read_image(self.files[index].image)

    @override
    def labels(self, index: int) -> Labels:
        self.require_labels()
        mask = self.files[index].mask
        with as_one_sentence(str(mask)):
            return self._read_labels(mask)

    @override
    def pair(self, index: int) -> tuple[Picture, Labels]:
        """Return the picture and its label map; :class:`SctnetError` where their sizes differ."""
        image, labels = self.image(index), self.labels(index)
        if image.shape[:2] != labels.shape:
            files = self.files[index]
            (height, width), (mask_height, mask_width) = image.shape[:2], labels.shape
            raise SctnetError(
                f"{files.image} is {width} x {height} but its mask {files.mask} is "
                f"{mask_width} x {mask_height}: they must be of one size"
            )
        return image, labels


class JoinedDataset(SegmentationDataset):
    """Several data sets of the same classes, one after the other."""

    def __init__(self, name: str, parts: Sequence[SegmentationDataset]) -> None:
        self.name = name
        self.classes = parts[0].classes
        self.colours = parts[0].colours
        self.raw_values = parts[0].raw_values
        self.labelled = all(part.labelled for part in parts)
        self._parts = tuple(parts)
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def _locate(self, index: int) -> tuple[SegmentationDataset, int]:
        number = bisect_right(self._ends, index)
        if index < 0 or number == len(self._parts):
            raise IndexError(index)
        return self._parts[number], index - (self._ends[number] - len(self._parts[number]))

    @override
    def item_name(self, index: int) -> str:
        part, own_index = self._locate(index)
        return part.item_name(own_index)

    @override
    def image(self, index: int) -> Picture:
        part, own_index = self._locate(index)
        return part.image(own_index)

    @override
    def labels(self, index: int) -> Labels:
        part, own_index = self._locate(index)
        return part.labels(own_index)

    @override
    def pair(self, index: int) -> tuple[Picture, Labels]:
        part, own_index = self._locate(index)
        return part.pair(own_index)


class NoSuchSplitError(SctnetError):
    """A split that a data set does not have; ``known`` are those it may have."""

    def __init__(self, message: str, known: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.known = tuple(known)


def check_splits(splits: Sequence[str], known: Sequence[str], source: str | Path) -> None:
    """Raise :class:`SctnetError` unless ``splits`` are one or more of ``known``, each once."""
    choices = ", ".join(known)
    if not splits:
        raise NoSuchSplitError(f"{source}: no split was named: choose from {choices}", known)
    for split in splits:
        if split not in known:
            sentence = f"{source}: there is no split {split!r}: choose from {choices}"
            raise NoSuchSplitError(sentence, known)
    if len(set(splits)) < len(splits):
        raise SctnetError(f"{source}: a split is named twice in {'+'.join(splits)}: name it once")
