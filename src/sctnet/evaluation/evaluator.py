"""Scoring a predictor on a data set."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from jaxtyping import Integer, UInt8

from sctnet.data.dataset import SegmentationDataset
from sctnet.data.loading import read_ahead
from sctnet.errors import SctnetError
from sctnet.evaluation.confusion import ConfusionMatrix
from sctnet.evaluation.scores import Scores

Picture = UInt8[np.ndarray, "h w 3"]
LabelMap = Integer[np.ndarray, "h w"]
Item = tuple[int, Picture, LabelMap]
"""Index, picture and truth."""


@dataclass(frozen=True)
class Evaluation:
    """Scores, and what they took."""

    scores: Scores
    images: int
    predict_seconds: float
    """Inside the predictor alone: from decoded pictures to label maps."""
    total_seconds: float
    """With reading, decoding and counting."""

    @property
    def images_per_second(self) -> float:
        """Pictures per second of the predictor alone."""
        return self.images / self.predict_seconds


def evaluate(
    predict: Callable[[list[Picture]], Sequence[LabelMap]],
    dataset: SegmentationDataset,
    batch_size: int = 1,
    on_image: Callable[[int, LabelMap], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Score label maps against the data set's labels, at the labels' own size, in one scale.

    ``predict`` maps RGB pictures (uint8, H x W x 3, all of one size, at most ``batch_size``) to
    label maps of that size. ``on_image`` receives each picture's index and prediction, in order;
    ``progress`` the number of pictures done so far. Raises :class:`SctnetError` naming the
    picture whose prediction does not fit, and for a data set without any labelled pixel.
    """
    confusion = ConfusionMatrix(len(dataset.classes))
    started, predict_seconds, done = perf_counter(), 0.0, 0
    items = read_ahead(dataset, range(len(dataset)), workers=min(4, os.cpu_count() or 1))
    for batch in _batches(items, batch_size):
        begun = perf_counter()
        predictions = predict([picture for _, picture, _ in batch])
        predict_seconds += perf_counter() - begun
        for (index, _, truth), prediction in zip(batch, predictions, strict=True):
            try:
                confusion.update(truth, prediction)
            except SctnetError as error:
                raise SctnetError(f"{dataset.item_name(index)}: {error}") from error
            if on_image is not None:
                on_image(index, prediction)
        done += len(batch)
        if progress is not None:
            progress(done)
    scores = confusion.scores(dataset.classes)
    return Evaluation(scores, done, predict_seconds, perf_counter() - started)


def _batches(items: Iterable[Item], batch_size: int) -> Iterator[list[Item]]:
    """Group neighbours of equal size, at most ``batch_size`` of them."""
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) == batch_size or item[1].shape != batch[0][1].shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
