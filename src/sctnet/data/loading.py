"""From a data set to training batches.

Randomness is a function of the seed and of a sample's number in the whole run, alone: not of the
worker, the process or how often a run was resumed.
"""

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from sctnet.data.augmentation import AugmentationConfig, Sample, augment, to_sample
from sctnet.data.dataset import Labels, Picture, SegmentationDataset
from sctnet.errors import SctnetError
from sctnet.preparation import WorkingSize

Result = TypeVar("Result")

_AS_IS = WorkingSize()

# Two families of random streams of one seed, so that no order repeats an augmentation's numbers.
_ORDER, _AUGMENTATION = 0, 1


class TrainingStream(Dataset[Sample]):
    """The training samples, numbered 0, 1, 2, ... without end, epoch after epoch.

    Sample k belongs to epoch e = k // pictures; its picture follows from the permutation that
    (seed, e) draws, its augmentation from (seed, k).
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        config: AugmentationConfig,
        seed: int,
        working_size: WorkingSize = _AS_IS,
    ) -> None:
        self.dataset = dataset
        self.working_size = working_size
        self.config = config
        self.seed = seed
        self._order: tuple[int, np.ndarray] | None = None

    def picture_number(self, sample_number: int) -> int:
        """Return the number, in the data set, of the picture behind a sample."""
        epoch, position = divmod(sample_number, len(self.dataset))
        if self._order is None or self._order[0] != epoch:
            generator = np.random.default_rng([self.seed, _ORDER, epoch])
            self._order = epoch, generator.permutation(len(self.dataset))
        return int(self._order[1][position])

    def __getitem__(self, sample_number: int) -> Sample:
        image, labels = self.dataset.pair(self.picture_number(sample_number))
        generator = np.random.default_rng([self.seed, _AUGMENTATION, sample_number])
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


def training_loader(stream: TrainingStream, sampler: StepSampler, workers: int) -> DataLoader[Any]:
    """Return a loader of collated :class:`Sample` batches, one a step: one pass is a whole run.

    A :class:`SctnetError` in a worker is raised here as it was, with its one sentence.
    """
    return _Loader(
        _ErrorsAsItems(stream),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_begin_worker,
    )


def read_ahead(
    dataset: SegmentationDataset, indices: Iterable[int], workers: int
) -> Iterator[tuple[int, Picture, Labels]]:
    """Yield (index, picture, labels) in order, reading up to 2 x ``workers`` ahead in threads."""
    return in_threads(lambda index: (index, *dataset.pair(index)), indices, workers)


def in_threads(
    read: Callable[[int], Result], indices: Iterable[int], workers: int
) -> Iterator[Result]:
    """Yield ``read`` of every index in order, computed up to 2 x ``workers`` ahead in threads."""
    pool = ThreadPoolExecutor(max(1, workers))
    window: deque[Future[Result]] = deque()
    try:
        for index in indices:
            window.append(pool.submit(read, index))
            if len(window) > 2 * workers:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _ErrorsAsItems(Dataset[Sample | SctnetError]):
    """The stream, with a user's mistake as an item.

    Raised in a worker, it would reach the main process wrapped in a traceback as its message.
    """

    def __init__(self, stream: TrainingStream) -> None:
        self._stream = stream

    def __getitem__(self, sample_number: int) -> Sample | SctnetError:
        try:
            return self._stream[sample_number]
        except SctnetError as error:
            return error


class _Loader(DataLoader[Any]):
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if self.num_workers:
            # A fork copies OpenCV's pool without its threads, and the worker then waits for them
            # for ever: end the pool before.
            cv2.setNumThreads(1)
        for batch in super().__iter__():
            if isinstance(batch, SctnetError):
                raise batch
            yield batch


def _collate(items: list[Sample | SctnetError]) -> Any:
    errors = [item for item in items if isinstance(item, SctnetError)]
    return errors[0] if errors else default_collate(items)


def _begin_worker(_: int) -> None:
    cv2.setNumThreads(1)  # where workers are not forked; PyTorch limits its own threads itself
    # Ctrl-C in a terminal and a scheduler's SIGTERM reach every process of a group; the main one
    # decides when to stop, and its workers leave with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
