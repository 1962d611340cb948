"""Pictures from any source, read ahead and labelled in batches; every engine uses this."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np

from sctnet.errors import SctnetError, as_one_sentence
from sctnet.inference.picture_plan import PlannedPicture
from sctnet.inference.segmentation_result import Segmentation
from sctnet.inference.segmenter import Segmenter
from sctnet.inference.sources import Picture

Item = TypeVar("Item")

_READ_AHEAD = 50_000_000  # pixels; after a larger picture, nothing is read ahead


class PicturePredictor(Generic[Item]):
    """Labels the items of an iterable; one bad picture does not stop the others.

    ``read`` returns the RGB picture of an item, or raises :class:`SctnetError` with its name.
    ``name`` returns the item's name for messages. While a picture is labelled, a thread reads the
    next one. Neighbours that are processed at one size go through the network in batches of the
    segmenter's ``batch_size``.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        read: Callable[[Item], Picture],
        name: Callable[[Item], str],
        probabilities: bool = False,
    ) -> None:
        self.segmenter, self.probabilities = segmenter, probabilities
        self._read, self._name = read, name

    def __call__(self, items: Iterable[Item]) -> Iterator[tuple[Item, Segmentation | SctnetError]]:
        """Yield every item with its labels, or with the error that says why it has none.

        Labels come in the items' order; a failure may come before the labels of its batch.
        """
        failed: list[tuple[Item, SctnetError]] = []
        readable = self._readable(items, failed)
        for group in self.segmenter.batches(readable, lambda pair: pair[1]):
            try:
                found = self.segmenter.label([picture for _, picture in group], self.probabilities)
            except SctnetError as error:
                failed += [(item, self._told(item, error)) for item, _ in group]
                found = []
            yield from failed
            failed.clear()
            for (item, _), result in zip(group, found, strict=False):
                yield item, result
        yield from failed

    def _told(self, item: Item, error: SctnetError) -> SctnetError:
        return SctnetError(f"{self._name(item)}: {error}")

    def _readable(
        self, items: Iterable[Item], failed: list[tuple[Item, SctnetError]]
    ) -> Iterator[tuple[Item, PlannedPicture]]:
        """Yield the pictures that can be labelled, decoded; append the others to ``failed``."""
        for item, image in self._read_ahead(items):
            if isinstance(image, SctnetError):
                failed.append((item, image))
                continue
            try:
                planned = self.segmenter.plan(image, self.probabilities)
            except SctnetError as error:
                failed.append((item, self._told(item, error)))
                continue
            yield item, planned

    def _read_ahead(self, items: Iterable[Item]) -> Iterator[tuple[Item, Picture | SctnetError]]:
        """Yield items with their pictures or errors, while a thread reads the next item."""
        waiting = iter(items)
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(self._next, waiting)
            while (pair := following.result()) is not None:
                large = isinstance(pair[1], np.ndarray) and pair[1].size > 3 * _READ_AHEAD
                if not large:
                    following = pool.submit(self._next, waiting)
                yield pair
                del pair
                if large:
                    following = pool.submit(self._next, waiting)

    def _next(self, items: Iterator[Item]) -> tuple[Item, Picture | SctnetError] | None:
        for item in items:
            try:
                with as_one_sentence(self._name(item)):
                    return item, self._read(item)
            except SctnetError as error:
                return item, error
        return None
