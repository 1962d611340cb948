"""From a data set to training batches.

Randomness is a function of the seed and of a sample's number in the whole run, alone: not of the
worker, the process or how often a run was resumed.
"""

import os
import signal
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.queues import Queue
from typing import Any, Generic, Protocol, TypeVar

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate
from typing_extensions import override

from sctnet.data.augmentation import (
    AugmentationConfig,
    Sample,
    ViewedSample,
    augment,
    to_sample,
)
from sctnet.data.caching import CachedDataset
from sctnet.data.dataset import SegmentationDataset
from sctnet.errors import NoMemoryError, SctnetError, as_one_sentence
from sctnet.pipeline.preprocessing import WorkingSize

Result = TypeVar("Result")

_AS_IS = WorkingSize()

# Families of random streams of one seed, so that no order repeats an augmentation's numbers.
ORDER, AUGMENTATION, FIXED_CROP = 0, 1, 2


class Pictures(Protocol):
    """What every data set has."""

    name: str

    def __len__(self) -> int:
        """Return the number of pictures."""

    def item_name(self, index: int) -> str:
        """Return a picture's name."""


class EpochStream(Dataset[Any], Generic[Result]):
    """Training samples, numbered 0, 1, 2, ... without end, epoch after epoch.

    Sample k belongs to epoch e = k // pictures; its picture follows from the permutation that
    (seed, e) draws, its augmentation from (seed, k). With ``skip_broken``, a picture that cannot
    be read is replaced by the next one of its epoch that can.
    """

    def __init__(self, dataset: Pictures, seed: int, skip_broken: bool) -> None:
        self.dataset = dataset
        self.seed = seed
        self.skip_broken = skip_broken
        self._order: tuple[int, np.ndarray] | None = None

    def draw(self, sample_number: int, picture: int) -> Result:
        """Return the sample of this number, made of this picture."""
        raise NotImplementedError

    def picture_number(self, sample_number: int, further: int = 0) -> int:
        """Return the number, in the data set, of the picture behind a sample.

        ``further`` leads to the ones after it in its epoch, whose end its beginning follows.
        """
        epoch, position = divmod(sample_number, len(self.dataset))
        if self._order is None or self._order[0] != epoch:
            generator = np.random.default_rng([self.seed, ORDER, epoch])
            self._order = epoch, generator.permutation(len(self.dataset))
        return int(self._order[1][(position + further) % len(self.dataset)])

    def __getitem__(self, sample_number: int) -> Result:
        return self.load(sample_number)[0]

    def load(self, sample_number: int) -> tuple[Result, dict[int, str]]:
        """Return a sample, and why which pictures were skipped for it."""
        skipped: dict[int, str] = {}
        for further in range(len(self.dataset)):
            number = self.picture_number(sample_number, further)
            try:
                with as_one_sentence(f"{self.dataset.name}, {self.dataset.item_name(number)}"):
                    return self.draw(sample_number, number), skipped
            except SctnetError as error:
                if not self.skip_broken or isinstance(error, NoMemoryError):
                    raise
                skipped[number] = str(error)
        raise SctnetError(
            f"{self.dataset.name}: not one picture can be read; of the first: {skipped[number]}"
        )


class TrainingStream(EpochStream[Sample | ViewedSample]):
    """The samples of a segmentation: crops with their labels.

    With ``views``, each picture has so many, drawn from the seed, and epochs take them in turns.
    """

    dataset: SegmentationDataset

    def __init__(
        self,
        dataset: SegmentationDataset,
        config: AugmentationConfig,
        seed: int,
        working_size: WorkingSize = _AS_IS,
        skip_broken: bool = False,
        views: int | None = None,
    ) -> None:
        super().__init__(dataset, seed, skip_broken)
        self.working_size = working_size
        self.config = config
        self.views = views

    @override
    def draw(self, sample_number: int, picture: int) -> Sample | ViewedSample:
        if self.views is None:
            return self._crop(picture, [self.seed, AUGMENTATION, sample_number])
        pictures = len(self.dataset)
        view = sample_number // pictures % self.views * pictures + picture
        sample = self._crop(picture, [self.seed, FIXED_CROP, view])
        checksum = zlib.crc32(sample.image.numpy().data)
        return ViewedSample(*sample, torch.tensor(view), torch.tensor(checksum))

    def _crop(self, picture: int, numbers: list[int]) -> Sample:
        image, labels = self.dataset.pair(picture)
        generator = np.random.default_rng(numbers)
        image, labels = augment(image, labels, self.config, generator, self.working_size)
        return to_sample(image, labels, self.config.crop)


class StepSampler(Sampler[list[int]]):
    """The sample numbers of each training step, for one process of ``world_size``.

    Step t takes the samples t * batch_size to (t + 1) * batch_size - 1; the process ``rank`` takes
    its contiguous part of them. The first step is ``start``, the last ``steps`` - 1.
    """

    def __init__(
        self, batch_size: int, steps: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size % world_size:
            raise SctnetError(
                f"a batch of {batch_size} cannot be shared by {world_size} processes: "
                f"choose a batch size that is a multiple of {world_size}"
            )
        self._batch_size = batch_size
        self._steps = range(start, max(start, steps))
        self._share = batch_size // world_size
        self._offset = rank * self._share

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self._steps:
            first = step * self._batch_size + self._offset
            yield list(range(first, first + self._share))


def training_loader(
    stream: EpochStream[Any],
    sampler: StepSampler,
    workers: int,
    on_skip: Callable[[int, str], None] = lambda _number, _reason: None,
) -> "TrainingLoader":
    """Return a loader of collated batches of samples, one a step: one pass is a whole run.

    ``on_skip`` is told the number of each skipped picture, and why, before the batch that it was
    meant for. A :class:`SctnetError` in a worker is raised here as it was, with its one sentence.

    Close the iterator of a pass that may stop early: its workers ignore SIGTERM and leave with it.
    Whatever a worker raises is a :class:`SctnetError` here, and a worker that is lost another.
    """
    return TrainingLoader(
        _Items(stream),
        on_skip,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_begin_worker,
        # A cache is shared with forked workers alone.
        multiprocessing_context=(
            "fork" if workers and isinstance(stream.dataset, CachedDataset) else None
        ),
    )


_Item = tuple[Any, dict[int, str]] | SctnetError


class _Items(Dataset[_Item]):
    """The stream, with a user's mistake as an item.

    Raised in a worker, it would reach the main process wrapped in a traceback as its message.
    """

    def __init__(self, stream: EpochStream[Any]) -> None:
        self._stream = stream

    def __getitem__(self, sample_number: int) -> _Item:
        try:
            return self._stream.load(sample_number)
        except SctnetError as error:
            return error


class TrainingLoader(DataLoader[Any]):
    """Collated batches; see :func:`training_loader`."""

    def __init__(self, items: _Items, on_skip: Callable[[int, str], None], **options: Any) -> None:
        super().__init__(items, **options)
        self._on_skip = on_skip

    def __iter__(self) -> Generator[Any]:  # type: ignore[override]
        if self.num_workers:
            # A fork copies OpenCV's pool without its threads, and the worker then waits for them
            # for ever: end the pool before.
            cv2.setNumThreads(1)
        items = super().__iter__()
        try:
            with lost_workers_told():
                for item in items:
                    if isinstance(item, SctnetError):
                        raise item
                    batch, skipped = item
                    for number, reason in skipped:
                        self._on_skip(number, reason)
                    yield batch
        finally:
            _end_workers(items)


@contextmanager
def lost_workers_told() -> Iterator[None]:
    """Raise :class:`SctnetError` where PyTorch tells, anywhere at all, that a worker has ended."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise SctnetError(
            "a process that loads pictures ended before its time, mostly because memory or shared "
            "memory (/dev/shm; in Docker --shm-size) is full: give more, or set data.workers=0"
        ) from error


def _end_workers(items: object) -> None:
    """End the workers of a pass, whatever holds it: they ignore the signal that would do so."""
    workers = getattr(items, "_workers", ())
    if workers:
        with suppress(RuntimeError):  # of a worker that is gone already
            items._shutdown_workers()  # type: ignore[attr-defined]
    for worker in workers:
        if worker.is_alive():  # waits for something
            worker.kill()
            worker.join()


def _collate(items: list[_Item]) -> Any:
    """Return a batch and the (number, reason) of each skipped picture, or the first mistake."""
    samples: list[Any] = []
    skipped: list[tuple[int, str]] = []
    for item in items:
        if isinstance(item, SctnetError):
            return item
        samples.append(item[0])
        skipped += item[1].items()
    try:
        return default_collate(samples), skipped
    except RuntimeError as error:  # in a worker, of a full /dev/shm
        reason = str(error).strip().partition("\n")[0]
        return SctnetError(
            f"a batch cannot be handed on ({reason}): if shared memory (/dev/shm; in Docker "
            "--shm-size) is full, give more, or set data.workers=0"
        )


def _begin_worker(_: int) -> None:
    cv2.setNumThreads(1)  # where workers are not forked; PyTorch limits its own threads itself
    # Ctrl-C in a terminal and a scheduler's SIGTERM reach every process of a group; the main one
    # decides when to stop, and its workers leave with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # What a queue's thread cannot send is dropped, and would be waited for for ever.
    Queue._on_queue_feeder_error = _give_up  # type: ignore[attr-defined]


def _give_up(*_: object) -> None:
    """End this worker, which the main process notices within seconds."""
    os._exit(1)
