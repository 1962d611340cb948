"""Scoring a classifier: how often a picture's class is its first guess, or of its first five."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from time import perf_counter

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sctnet.data.classification.dataset import ClassificationDataset
from sctnet.data.classification.random_crops import centre_crop, to_tensor
from sctnet.data.streams import in_threads
from sctnet.errors import SctnetError
from sctnet.processes import ALONE, Processes

_THREADS = 4


@dataclass(frozen=True)
class ClassificationScores:
    """What a classifier got right."""

    top1: float
    """The share of pictures whose class had the highest logit."""
    top5: float
    """... one of the five highest."""
    images: int
    skipped: tuple[str, ...]
    """Why which pictures were not counted: they could not be read."""
    predict_seconds: float
    """Inside the classifier alone."""
    total_seconds: float


def evaluate_classifier(
    predict: Callable[[UInt8[Tensor, "n 3 c c"]], Float[Tensor, "n k"]],
    dataset: ClassificationDataset,
    crop: int,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
    processes: Processes = ALONE,
) -> ClassificationScores:
    """Score a classifier on the centre crops of a data set.

    The shorter side becomes 256 / 224 of ``crop`` pixels, the middle of it is what is shown:
    ``predict`` maps RGB bytes to logits. Of several equal logits that of the lowest class counts
    first. A picture that cannot be read is left out and named. ``processes`` share the
    pictures, and all return the scores of all. Raises :class:`SctnetError` where no picture can be
    read.
    """

    def read(index: int) -> tuple[Tensor, int] | str:
        try:
            crop_ = centre_crop(dataset.encoded(index), crop)
        except SctnetError as error:
            return str(error)
        return to_tensor(crop_), dataset.label(index)

    started, seconds, done = perf_counter(), 0.0, 0
    right = np.zeros(3, np.int64)  # first guess, first five, all
    skipped: list[str] = []
    read_ahead = in_threads(read, processes.own_part(len(dataset)), _THREADS)
    while items := list(islice(read_ahead, batch_size)):
        good = [item for item in items if not isinstance(item, str)]
        skipped += [item for item in items if isinstance(item, str)]
        if good:
            begun = perf_counter()
            logits = predict(torch.stack([image for image, _ in good])).float().cpu()
            seconds += perf_counter() - begun
            right += _counted(logits, torch.tensor([label for _, label in good]))
        done += len(items)
        if progress is not None:
            progress(min(len(dataset), done * processes.count))
    parts = processes.gather((right, skipped, seconds))
    first, five, images = np.sum([part[0] for part in parts], axis=0)
    if not images:
        raise SctnetError(f"{dataset.name}: not one picture can be read: {skipped[0]}")
    return ClassificationScores(
        float(first / images),
        float(five / images),
        int(images),
        tuple(sorted(reason for part in parts for reason in part[1])),
        max(part[2] for part in parts),
        perf_counter() - started,
    )


def _counted(logits: Tensor, labels: Tensor) -> np.ndarray:
    # Stable, so that a network that says the same of everything gains nothing by an order.
    order = logits.argsort(dim=1, descending=True, stable=True)[:, :5]
    hits = order == labels[:, None]
    return np.array([int(hits[:, 0].sum()), int(hits.any(dim=1).sum()), len(labels)])
