"""Views of a data set: some of its pictures, and a record of those that were read."""

import zlib
from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from sctnet.data.dataset import Labels, Picture, SegmentationDataset


class SomePictures(SegmentationDataset):
    """Some pictures of a data set, by their numbers there."""

    def __init__(self, dataset: SegmentationDataset, numbers: Sequence[int]) -> None:
        self.name, self.classes, self.colours = dataset.name, dataset.classes, dataset.colours
        self.raw_values, self.labelled = dataset.raw_values, dataset.labelled
        self._dataset, self._numbers = dataset, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @override
    def item_name(self, index: int) -> str:
        return self._dataset.item_name(self._numbers[index])

    @override
    def image(self, index: int) -> Picture:
        return self._dataset.image(self._numbers[index])

    @override
    def labels(self, index: int) -> Labels:
        return self._dataset.labels(self._numbers[index])

    @override
    def pair(self, index: int) -> tuple[Picture, Labels]:
        return self._dataset.pair(self._numbers[index])


class RecordedPictures(SomePictures):
    """All pictures of a data set; ``digests`` grows by that of every pair that is read."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        super().__init__(dataset, range(len(dataset)))
        self.digests: set[str] = set()

    @override
    def pair(self, index: int) -> tuple[Picture, Labels]:
        image, labels = super().pair(index)
        self.digests.add(picture_digest(image))
        return image, labels


def picture_digest(image: Picture) -> str:
    """Return eight hexadecimal digits that tell a picture from others, by its pixels."""
    return f"{zlib.crc32(np.ascontiguousarray(image).data):08x}"
