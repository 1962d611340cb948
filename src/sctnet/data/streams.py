"""Streams of items: read ahead in threads, kept in order, and grouped into batches."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

from sctnet.data.dataset import Labels, Picture, SegmentationDataset
from sctnet.errors import as_one_sentence

Item = TypeVar("Item")
Result = TypeVar("Result")
Key = TypeVar("Key")


class ReadAhead(Generic[Item]):
    """Runs an iterator in its own thread, at most ``ahead`` items ahead of the consumer.

    With ``newest_only`` the thread never waits: an item that was not taken before the next one is
    dropped and counted in :attr:`dropped`. An error of the iterator is raised in the consumer. Used
    as a context; its end ends the thread.
    """

    def __init__(self, items: Iterable[Item], ahead: int = 4, newest_only: bool = False) -> None:
        self.dropped = 0
        self._items = items
        self._ahead = ahead
        self._newest_only = newest_only
        self._waiting: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closed = self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="sctnet-read-ahead")

    def __enter__(self) -> "ReadAhead[Item]":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def __iter__(self) -> Iterator[Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    break
                item = self._waiting.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as error:
            self._error = error  # raised again where items are taken
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _put(self, item: Item) -> bool:
        """Queue an item; return False if the consumer has stopped."""
        with self._changed:
            if self._newest_only:
                self.dropped += len(self._waiting)
                self._waiting.clear()
            self._changed.wait_for(lambda: len(self._waiting) < self._ahead or self._closed)
            if not self._closed:
                self._waiting.append(item)
                self._changed.notify_all()
            return not self._closed


def ordered_map(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Yield ``function`` of every item, in order, while a pool works on the next ``ahead``."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def in_threads(
    read: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """Yield ``read`` of every item in order, computed up to 2 x ``workers`` ahead in threads."""
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        yield from ordered_map(pool, read, items, 2 * workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def read_pairs(
    dataset: SegmentationDataset, indices: Iterable[int], workers: int
) -> Iterator[tuple[int, Picture, Labels]]:
    """Yield (index, picture, labels) in order, reading up to 2 x ``workers`` ahead in threads."""

    def read(index: int) -> tuple[int, Picture, Labels]:
        with as_one_sentence(f"{dataset.name}, {dataset.item_name(index)}"):
            return (index, *dataset.pair(index))

    return in_threads(read, indices, workers)


def batches(
    items: Iterable[Item], key: Callable[[Item], Key], most: Callable[[Key], int]
) -> Iterator[list[Item]]:
    """Yield lists of consecutive items of an equal key, ``most(key)`` in one at most.

    A full list is yielded before another item is asked for.
    """
    group: list[Item] = []
    for item in items:
        if group and key(item) != key(group[0]):
            yield group
            group = []
        group.append(item)
        if len(group) >= most(key(item)):
            yield group
            group = []
    if group:
        yield group
