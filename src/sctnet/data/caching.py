"""A cache of decoded pictures in memory that a loader's workers share."""

import mmap
import multiprocessing

import numpy as np
from typing_extensions import override

from sctnet.data.dataset import Labels, Picture, SegmentationDataset
from sctnet.errors import SctnetError


class CachedDataset(SegmentationDataset):
    """A data set that decodes each picture once, within ``gigabytes`` (10^9 bytes) of memory.

    Pictures that no longer fit are decoded each time. The memory is used only as it is filled, and
    forked processes share it. The arrays are read-only. Raises :class:`SctnetError` if processes
    cannot be forked.
    """

    def __init__(self, dataset: SegmentationDataset, gigabytes: float) -> None:
        if "fork" not in multiprocessing.get_all_start_methods():
            raise SctnetError("data.cache=memory needs a system that forks: use none here")
        self.name, self.classes, self.colours = dataset.name, dataset.classes, dataset.colours
        self._dataset = dataset
        try:
            self._bytes = mmap.mmap(-1, max(1, int(gigabytes * 1e9)))
        except (OSError, OverflowError, ValueError) as error:
            raise SctnetError(
                f"data.cache_gigabytes: {gigabytes:g} GB of shared memory are not available; "
                "take fewer"
            ) from error
        # Of each picture: where it begins (0: not yet kept), its height and its width.
        count = max(1, len(dataset))
        places = mmap.mmap(-1, count * 3 * np.dtype(np.int64).itemsize)
        self._places = np.frombuffer(places, np.int64).reshape(count, 3)
        self._lock = multiprocessing.get_context("fork").Lock()
        self._end = np.frombuffer(mmap.mmap(-1, np.dtype(np.int64).itemsize), np.int64)
        self._end[0] = 1

    def __len__(self) -> int:
        return len(self._dataset)

    @override
    def item_name(self, index: int) -> str:
        return self._dataset.item_name(index)

    @override
    def image(self, index: int) -> Picture:
        return self.pair(index)[0] if self._places[index, 0] else self._dataset.image(index)

    @override
    def labels(self, index: int) -> Labels:
        return self.pair(index)[1] if self._places[index, 0] else self._dataset.labels(index)

    @override
    def pair(self, index: int) -> tuple[Picture, Labels]:
        begin, height, width = (int(value) for value in self._places[index])
        if begin == 0:
            image, labels = self._dataset.pair(index)
            self._keep(index, image, labels)
            return image, labels
        pixels = np.frombuffer(self._bytes, np.uint8, height * width * 4, begin)
        pixels.flags.writeable = False
        image, labels = pixels[: height * width * 3], pixels[height * width * 3 :]
        return image.reshape(height, width, 3), labels.reshape(height, width)

    def _keep(self, index: int, image: Picture, labels: Labels) -> None:
        size = image.size + labels.size
        with self._lock:
            begin = int(self._end[0])
            if self._places[index, 0] or begin + size > len(self._bytes):
                return
            self._end[0] = begin + size
        self._bytes[begin : begin + image.size] = image.tobytes()
        self._bytes[begin + image.size : begin + size] = labels.tobytes()
        self._places[index] = 0, *labels.shape
        self._places[index, 0] = begin  # last: from now on others read it
