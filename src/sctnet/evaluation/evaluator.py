"""Scoring a predictor on a data set."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from jaxtyping import Integer, UInt8

from sctnet.data.dataset import SegmentationDataset
from sctnet.data.streams import batches, read_pairs
from sctnet.errors import SctnetError
from sctnet.evaluation.confusion import ConfusionMatrix
from sctnet.evaluation.scores import Scores
from sctnet.processes import ALONE, Processes

_LOG = logging.getLogger(__name__)
_LONG = 1.0  # seconds, after which a person wonders

Picture = UInt8[np.ndarray, "h w 3"]
LabelMap = Integer[np.ndarray, "h w"]
EvaluatedItem = tuple[int, Picture, LabelMap]
"""Index, picture and truth."""


@dataclass(frozen=True)
class Evaluation:
    """Scores, and the time that they took."""

    scores: Scores
    images: int
    predict_seconds: float
    """Time inside the predictor alone: from decoded pictures to label maps."""
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
    processes: Processes = ALONE,
) -> Evaluation:
    """Score label maps against the data set's labels, at the labels' own size.

    ``predict`` maps RGB pictures (uint8, H x W x 3, all of one size, at most ``batch_size``) to
    label maps of that size. ``on_image`` receives each picture's index and prediction, in order;
    ``progress`` the number of finished pictures. ``processes`` divide the pictures, and each
    returns the scores of the summed counts. Each process's ``on_image`` receives its own pictures;
    the seconds are those of the slowest process. The first batch is predicted once before the
    clock runs, so loading and compiling do not count. Raises :class:`SctnetError`, which names the
    picture, for a prediction that does not fit, and for a data set without labelled pixels.
    """
    confusion = ConfusionMatrix(len(dataset.classes))
    started, predict_seconds, done = perf_counter(), 0.0, 0
    threads = max(1, min(4, (os.cpu_count() or 1) // processes.local_count))
    items = read_pairs(dataset, processes.own_part(len(dataset)), threads)
    for batch in batches(items, lambda item: item[1].shape, lambda _: batch_size):
        pictures = [picture for _, picture, _ in batch]
        if done == 0:
            warm_up(predict, pictures)
        begun = perf_counter()
        predictions = predict(pictures)
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
            progress(min(len(dataset), done * processes.count))
    parts = processes.gather((confusion.counts, predict_seconds))
    counts = np.sum([part[0] for part in parts], axis=0)
    scores = Scores.from_counts(counts, dataset.classes)
    slowest = max(part[1] for part in parts)
    return Evaluation(scores, len(dataset), slowest, perf_counter() - started)


def warm_up(predict: Callable[..., object], pictures: list[Picture], name: str = "") -> None:
    """Predict once; where that takes longer than a second, say that no speed includes it.

    ``name`` tells which of several predictors it is.
    """
    begun = perf_counter()
    predict(pictures)
    seconds = perf_counter() - begun
    if seconds > _LONG:
        of = f" of {name}" if name else ""
        _LOG.info("The first prediction%s took %.1f s; the speed leaves it out.", of, seconds)
