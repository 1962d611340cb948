"""Measures the time of predictions: from decoded bytes to label maps."""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cv2
import numpy as np

from sctnet.data.images import read_image
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.errors import SctnetError
from sctnet.evaluation.evaluator import warm_up
from sctnet.inference.files import find_pictures
from sctnet.inference.segmenter import Segmenter
from sctnet.inference.sources import Picture

MAX_PICTURES = 16
REST = 0.02
"""Seconds before a turn, until the threads of the one before no longer spin."""


class Timing(NamedTuple):
    """What one batch takes."""

    best: float
    """Milliseconds, the fewest of all."""
    median: float
    """Milliseconds."""


def time_predictions(
    segmenters: Sequence[Segmenter], pictures: Sequence[Picture], batch: int, rounds: int
) -> list[Timing]:
    """Return what :meth:`Segmenter.predict_labels` takes for ``batch`` pictures, of each segmenter.

    They take turns, two batches a round behind one that is not counted, so that whatever else the
    machine does slows all of them. Each labels a batch before the first turn.
    """
    found: list[list[float]] = [[] for _ in segmenters]
    first = [pictures[place % len(pictures)] for place in range(batch)]
    for segmenter in segmenters:
        warm_up(segmenter.predict_labels, first, str(segmenter.runtime))
    for number in range(rounds):
        seen = [pictures[(number + place) % len(pictures)] for place in range(batch)]
        for segmenter, milliseconds in zip(segmenters, found, strict=True):
            time.sleep(REST)
            segmenter.predict_labels(seen)
            for _ in range(2):
                began = time.perf_counter()
                segmenter.predict_labels(seen)
                milliseconds.append(1000 * (time.perf_counter() - began))
    return [Timing(min(each), median(each)) for each in found]


def pictures_to_time(size: tuple[int, int], folder: Path | None) -> list[Picture]:
    """Return pictures of ``size`` (height, width): some of a folder's, or drawn streets.

    Raises :class:`SctnetError` for a folder without pictures.
    """
    if folder is None:
        streets = SyntheticStreets(0, MAX_PICTURES, size)
        return [streets.image(number) for number in range(MAX_PICTURES)]
    found, failures = find_pictures([str(folder)], Path())
    if failures:
        raise SctnetError(failures[0])
    step = -(-len(found) // MAX_PICTURES)
    return [
        np.asarray(cv2.resize(read_image(each.path), size[::-1], interpolation=cv2.INTER_AREA))
        for each in found[::step]
    ]
