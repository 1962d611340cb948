"""Scores of a classifier: top-1 and top-5 accuracy."""

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
from sctnet.errors import SctnetError, as_one_sentence
from sctnet.processes import ALONE, Processes

_THREADS = 4


@dataclass(frozen=True)
class ClassificationScores:
    """The scores of a classifier."""

    top1: float
    """The fraction of pictures whose class had the highest logit."""
    top5: float
    """... one of the five highest."""
    images: int
    skipped: tuple[str, ...]
    """Pictures that could not be read and were not counted, with the reason."""
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

    The shorter side is resized to 256 / 224 of ``crop`` pixels, then the centre is cropped.
    ``predict`` maps RGB bytes to logits. Equal logits are ranked by class number. A picture that
    cannot be read is left out and reported. ``processes`` divide the pictures, and each returns the
    scores of all. Raises :class:`SctnetError` if no picture can be read.
    """

    def read(index: int) -> tuple[Tensor, int] | str:
        try:
            with as_one_sentence(dataset.item_name(index)):
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
    # A stable sort, so that a constant network gains nothing from the order of classes.
    order = logits.argsort(dim=1, descending=True, stable=True)[:, :5]
    hits = order == labels[:, None]
    return np.array([int(hits[:, 0].sum()), int(hits.any(dim=1).sum()), len(labels)])
