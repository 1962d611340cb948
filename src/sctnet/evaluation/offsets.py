"""Offsets of the classes' logits that maximise a score, found on a sample of labelled pixels.

A pixel's label is the class with the largest logit plus offset. Where all offsets but one stand
still, the pixels that change their label with the last are known, and so is the score for every
value of it: the search takes the best value of one offset after the other until none improves.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from sctnet.data.dataset import IGNORE, SegmentationDataset
from sctnet.data.streams import read_pairs
from sctnet.errors import SctnetError
from sctnet.processes import ALONE, Processes

Picture = UInt8[np.ndarray, "h w 3"]
Likelihoods = Float32[np.ndarray, "k h w"]

LARGEST = 4.0
"""The bounds of an offset: a factor of 55 on the odds of a class."""
STEP = 0.01
"""All offsets are multiples of it; a hundredth of one moves hardly a pixel."""

_BYTES = 64_000_000  # of the sample's logits
_MOST_PIXELS = 1_000_000
_MOST_SWEEPS = 30
_ODDS = 1e-30  # the smallest probability that is told from 0


@dataclass(frozen=True)
class Objective:
    """What offsets maximise: mIoU, or mIoU among those that reach a recall of one class."""

    must_find: int | None = None
    """The class that must not be missed, by its number; None: no such class."""
    recall: float = 0.0
    """The least share of this class's pixels to be found, 0 to 1."""

    def value(
        self,
        right: Float64[np.ndarray, "g k"],
        predicted: Float64[np.ndarray, "g k"],
        truth: Float64[np.ndarray, "k"],
    ) -> Float64[np.ndarray, "g"]:
        """Return what is to be as large as possible, of each of G cases, from pixels by class.

        ``right`` are those that have their true class, ``predicted`` those that have the class.
        Where the recall is reached, this is the mIoU (0 to 1, over the classes that occur), else a
        number below 0 that grows with the recall.
        """
        union = truth + predicted - right
        occurs = union > 0
        iou = np.divide(right, union, out=np.zeros_like(union), where=occurs)
        miou: Float64[np.ndarray, g] = iou.sum(-1) / np.maximum(occurs.sum(-1), 1)
        if self.must_find is None:
            return miou
        found = right[:, self.must_find] / max(float(truth[self.must_find]), 1e-9)
        return np.where(found >= self.recall, miou, found - 1)

    def of_counts(self, counts: np.ndarray) -> float:
        """Return the value of a confusion matrix, K x K, rows truth."""
        table = counts.astype(np.float64)
        return float(self.value(table.diagonal()[None], table.sum(0)[None], table.sum(1))[0])


@dataclass(frozen=True)
class PixelSample:
    """Labelled pixels of many pictures, each with the number of pixels that it stands for."""

    logits: Float32[np.ndarray, "k n"]
    """Up to a number of each pixel's own."""
    truth: Int64[np.ndarray, "n"]
    weight: Float64[np.ndarray, "n"]
    picture: Int64[np.ndarray, "n"]
    """The number of the picture."""

    def of_pictures(self, chosen: Int64[np.ndarray, "p"]) -> "PixelSample":
        """Return the pixels of some pictures."""
        here = np.isin(self.picture, chosen)
        return PixelSample(
            self.logits[:, here], self.truth[here], self.weight[here], self.picture[here]
        )

    def counts(self, offsets: Float64[np.ndarray, "k"]) -> Float64[np.ndarray, "k k"]:
        """Return the confusion matrix with these offsets: rows truth, columns prediction."""
        classes = len(self.logits)
        found = (self.logits + offsets[:, None].astype(np.float32)).argmax(0)
        cells = np.bincount(self.truth * classes + found, self.weight, classes * classes)
        return cells.reshape(classes, classes)


@dataclass(frozen=True)
class FoundOffsets:
    """Offsets, and what they are worth on pictures that did not choose them."""

    offsets: Float64[np.ndarray, "k"]
    before: Float64[np.ndarray, "k k"]
    """Pixels, rows truth, columns prediction, without offsets."""
    held_out: Float64[np.ndarray, "k k"]
    """... of each half of the pictures with the offsets that the other half chose."""

    @property
    def gain(self) -> float:
        """The mIoU (0 to 1) that the held-out pictures gain."""
        return Objective().of_counts(self.held_out) - Objective().of_counts(self.before)

    def helps(self, objective: Objective) -> bool:
        """Whether the held-out pictures gain."""
        return objective.of_counts(self.held_out) > objective.of_counts(self.before)


def sample_pixels(
    likelihoods: Callable[[Picture], Likelihoods],
    dataset: SegmentationDataset,
    progress: Callable[[int], None] | None = None,
    processes: Processes = ALONE,
) -> PixelSample:
    """Return labelled pixels of all pictures: a million at most, and 64 MB of logits.

    ``likelihoods`` maps a picture to the probability of each class and pixel at the picture's size.
    Of every picture as many pixels are taken, of each of its classes the same number as far as they
    go, so that rare classes are seen whole; the choice depends on the picture's number alone.
    ``processes`` divide the pictures, and each returns the pixels of all. Raises
    :class:`SctnetError` where no pixel is labelled.
    """
    classes = len(dataset.classes)
    most = min(_MOST_PIXELS, _BYTES // (4 * classes)) // max(len(dataset), 1)
    logits: list[np.ndarray] = []
    about: list[np.ndarray] = []  # truth, weight and picture
    for done, (index, image, labels) in enumerate(
        read_pairs(dataset, processes.own_part(len(dataset)), 2), start=1
    ):
        places, weights = _chosen_pixels(labels.ravel(), max(most, classes), index)
        if len(places):
            likely = likelihoods(image).reshape(classes, -1)[:, places]
            logits.append(np.log(np.maximum(likely, _ODDS)))
            truth = labels.ravel()[places].astype(np.float64)
            about.append(np.stack([truth, weights, np.full(len(places), float(index))]))
        if progress is not None:
            progress(min(len(dataset), done * processes.count))
    parts = processes.gather((logits, about))
    logits, about = ([array for part in parts for array in part[side]] for side in (0, 1))
    if not logits:
        raise SctnetError(f"{dataset.name}: no pixel is labelled: check its masks")
    truth, weight, picture = np.concatenate(about, axis=1)
    return PixelSample(
        np.concatenate(logits, axis=1), truth.astype(np.int64), weight, picture.astype(np.int64)
    )


def _chosen_pixels(
    labels: UInt8[np.ndarray, "n"], most: int, seed: int
) -> tuple[Int64[np.ndarray, "m"], Float64[np.ndarray, "m"]]:
    """Return the places of chosen pixels, and how many of its class each stands for."""
    generator = np.random.default_rng(seed)
    by_class = [np.flatnonzero(labels == label) for label in np.unique(labels[labels != IGNORE])]
    places, weights = [np.empty(0, np.int64)], [np.empty(0)]
    # The rarest first, so that what it leaves over goes to the others.
    for left, pixels in zip(range(len(by_class), 0, -1), sorted(by_class, key=len), strict=True):
        share = min(len(pixels), most // left)
        most -= share
        places.append(generator.choice(pixels, share, replace=False, shuffle=False))
        weights.append(np.full(share, len(pixels) / max(share, 1)))
    return np.concatenate(places), np.concatenate(weights)


def find_offsets(sample: PixelSample, objective: Objective) -> FoundOffsets:
    """Return the best offsets of all pictures, and what those of one half do for the other.

    The halves are the first and the second pictures, for neighbours are often alike. Raises
    :class:`SctnetError` for fewer than two pictures, and for a class that must be found and does
    not occur.
    """
    pictures = np.unique(sample.picture)
    if len(pictures) < 2:
        raise SctnetError(
            "one labelled picture is not enough to choose offsets by: give two or more, so that "
            "each half can be held out from the other"
        )
    if objective.must_find is not None and not (sample.truth == objective.must_find).any():
        raise SctnetError(
            "the class that must not be missed does not occur in these pictures: give a split "
            "that shows it"
        )
    middle = len(pictures) // 2
    halves = [sample.of_pictures(part) for part in (pictures[:middle], pictures[middle:])]
    held_out = [
        one.counts(best_offsets(other, objective)) for one, other in (halves, reversed(halves))
    ]
    nothing = np.zeros(len(sample.logits))
    return FoundOffsets(
        best_offsets(sample, objective), sample.counts(nothing), held_out[0] + held_out[1]
    )


def best_offsets(sample: PixelSample, objective: Objective) -> Float64[np.ndarray, "k"]:
    """Return the offsets of the best value, multiples of :data:`STEP` up to :data:`LARGEST`.

    A class that does not occur in the truth keeps 0: nothing is known about it.
    """
    offsets = np.zeros(len(sample.logits))
    best = objective.of_counts(sample.counts(offsets))
    occurring = np.unique(sample.truth)
    for _ in range(_MOST_SWEEPS):
        before = best
        for label in occurring:
            values = _values_along(sample, objective, offsets, int(label))
            place = int(values.argmax())
            if values[place] > best + 1e-9:
                best, offsets[label] = float(values[place]), _GRID[place]
        if best - before < 1e-6:
            break
    if len(occurring) == len(offsets):
        offsets -= offsets.mean().round(2)  # a number added to all of them changes no label
    return offsets.round(2)


_GRID = np.arange(round(-LARGEST / STEP), round(LARGEST / STEP) + 1) * STEP


def _values_along(
    sample: PixelSample, objective: Objective, offsets: Float64[np.ndarray, "k"], label: int
) -> Float64[np.ndarray, "g"]:
    """Return the value for every offset of one class, the others as they are."""
    classes = len(sample.logits)
    shifted = sample.logits + offsets[:, None].astype(np.float32)
    shifted[label] = -np.inf
    second = shifted.argmax(0)
    # The offset above which a pixel gets this class, instead of the second.
    needed = np.take_along_axis(shifted, second[None], 0)[0] - sample.logits[label]
    first = np.searchsorted(_GRID, needed, side="right")  # its place on the grid; at the end: never
    cells = (len(_GRID) + 1, classes)

    def gained(of: np.ndarray, weight: np.ndarray) -> np.ndarray:
        at = np.bincount(first * classes + of, weight, cells[0] * cells[1]).reshape(cells)
        return at.cumsum(0)[:-1]

    weight, truth = sample.weight, sample.truth
    taken = gained(second, weight)
    lost = gained(second, weight * (second == truth))
    won = gained(second, weight * (truth == label)).sum(1)
    predicted = np.bincount(second, weight, classes) - taken
    predicted[:, label] = taken.sum(1)
    right = np.bincount(second, weight * (second == truth), classes) - lost
    right[:, label] = won
    return objective.value(right, predicted, np.bincount(truth, weight, classes))
