"""Classification data sets: pictures with one class each, by number."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from sctnet.data.images import EncodedImage, read_bytes


class ClassificationDataset(ABC):
    """Pictures with one class each; ``classes`` are the names by label."""

    name: str
    classes: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of pictures."""

    @abstractmethod
    def item_name(self, index: int) -> str:
        """Return the picture's name, unique in this data set."""

    @abstractmethod
    def encoded(self, index: int) -> EncodedImage:
        """Return the picture, its header read; :class:`SctnetError` where it cannot be."""

    @abstractmethod
    def label(self, index: int) -> int:
        """Return the number of its class."""


class ClassifiedFiles(ClassificationDataset):
    """Pictures in files below a folder: names relative to it, and a label for each."""

    def __init__(
        self,
        name: str,
        classes: tuple[str, ...],
        folder: Path,
        names: Sequence[str],
        labels: Sequence[int],
    ) -> None:
        self.name, self.classes = name, classes
        self._folder, self._names, self._labels = folder, names, labels

    def __len__(self) -> int:
        return len(self._names)

    @override
    def item_name(self, index: int) -> str:
        return self._names[index]

    @override
    def encoded(self, index: int) -> EncodedImage:
        path = self._folder / self._names[index]
        return EncodedImage(read_bytes(path), str(path))

    @override
    def label(self, index: int) -> int:
        return self._labels[index]
