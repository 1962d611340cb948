"""Batches of items that arrive one by one, worked on by a few threads.

A worker takes the oldest item and later ones of the same key, up to ``most``. It waits for more
until the oldest is ``delay`` seconds old. It leaves items for idle workers: with two workers, four
items make two batches of two.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Closed(Exception):  # noqa: N818 - a state, not a mistake
    """The batcher is closed."""


class Finished(NamedTuple, Generic[Result]):
    """A result and its times."""

    result: Result
    waited: float
    """Seconds, until a worker took the item."""
    worked: float
    """Seconds, for the whole batch."""
    together: int
    """Items in the batch."""


@dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    key: Hashable
    future: Future[Finished[Result]] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class MicroBatcher(Generic[Item, Result]):
    """Runs ``work`` on lists of items of an equal ``key``, in ``workers`` threads.

    ``prepare`` is called once in every thread. If ``work`` fails for a batch, each item is tried
    alone, so that one cannot spoil the results of the others. The queue has no limit; the caller
    has to keep one.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Sequence[Result]],
        key: Callable[[Item], Hashable],
        *,
        most: int,
        delay: float,
        workers: int = 1,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self._work, self._key, self._prepare = work, key, prepare
        self._most, self._delay = most, delay
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._idle = 0
        self._threads = [
            threading.Thread(target=self._run, name="sctnet-batches", daemon=True)
            for _ in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Items that no worker has taken yet."""
        return len(self._waiting)

    def submit(self, items: Sequence[Item]) -> list[Future[Finished[Result]]]:
        """Submit all items, or raise :class:`Closed`; a cancelled future is skipped."""
        entries = [_Waiting[Item, Result](item, self._key(item)) for item in items]
        with self._changed:
            if self._closed:
                raise Closed
            self._waiting.extend(entries)
            self._changed.notify_all()
        return [entry.future for entry in entries]

    def close(self) -> None:
        """Take no more items, finish the submitted ones, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        self._prepare()
        while self._run_batch(self._take()):
            pass

    def _take(self) -> list[_Waiting[Item, Result]]:
        """Return the next batch; empty at the end."""
        with self._changed:
            self._idle += 1
            try:
                while True:
                    batch, wait = self._next()
                    if wait is not None and wait <= 0:
                        for entry in batch:
                            self._waiting.remove(entry)
                        return batch
                    self._changed.wait(wait)
            finally:
                self._idle -= 1

    def _next(self) -> tuple[list[_Waiting[Item, Result]], float | None]:
        """Return the next batch and the seconds to wait for it; None: until notified."""
        if not self._waiting:
            return [], 0 if self._closed else None
        oldest = self._waiting[0]
        alike = [entry for entry in self._waiting if entry.key == oldest.key]
        share = -(-len(alike) // self._idle)
        full = self._closed or len(alike) >= self._most * self._idle
        wait = 0 if full else oldest.since + self._delay - time.monotonic()
        return alike[: min(self._most, share)], wait

    def _run_batch(self, batch: list[_Waiting[Item, Result]]) -> bool:
        taken = time.monotonic()
        wanted = [entry for entry in batch if entry.future.set_running_or_notify_cancel()]
        try:
            results = self._work([entry.item for entry in wanted]) if wanted else []
        except Exception as error:
            if len(wanted) == 1:
                wanted[0].future.set_exception(error)
            else:
                self._run_each(wanted, taken)
            return True
        self._finish(wanted, results, taken)
        return bool(batch)

    def _run_each(self, entries: list[_Waiting[Item, Result]], taken: float) -> None:
        for entry in entries:
            try:
                results = self._work([entry.item])
            except Exception as error:
                entry.future.set_exception(error)
            else:
                self._finish([entry], results, taken)

    def _finish(
        self, entries: list[_Waiting[Item, Result]], results: Sequence[Result], taken: float
    ) -> None:
        worked = time.monotonic() - taken
        for entry, result in zip(entries, results, strict=True):
            done = Finished(result, taken - entry.since, worked, len(entries))
            entry.future.set_result(done)
