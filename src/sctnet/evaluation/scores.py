"""The scores of segmentation, computed from a confusion matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from sctnet.errors import SctnetError


@dataclass(frozen=True)
class Scores:
    """Scores over a whole data set; all are fractions from 0 to 1.

    They are computed from summed counts, not averaged over pictures. With TP, FP and FN counted
    over all labelled pixels, a class's IoU is TP / (TP + FP + FN), its precision TP / (TP + FP),
    its recall TP / (TP + FN).
    """

    iou: dict[str, float | None]
    """IoU by class; None for a class that occurs in neither truth nor prediction and is in no
    mean."""
    precision: dict[str, float | None]
    """By class; None for a class that is never predicted."""
    recall: dict[str, float | None]
    """By class; None for a class that the truth lacks."""
    miou: float
    pixel_accuracy: float
    """The fraction of labelled pixels that are right."""
    mean_accuracy: float
    """The mean recall of the classes that occur in the truth."""
    counts: Int64[np.ndarray, "k k"]
    """Pixels, K x K: rows truth, columns prediction."""

    @classmethod
    def from_counts(cls, counts: Int64[np.ndarray, "k k"], classes: Sequence[str]) -> "Scores":
        """Score K x K counts; raises :class:`SctnetError` where there is nothing to score."""
        total = int(counts.sum())
        if total == 0:
            raise SctnetError(
                "no pixel of this data set is labelled, so there is nothing to score: check its "
                "masks and its ignored value"
            )
        right = counts.diagonal()
        truth, predicted = counts.sum(axis=1), counts.sum(axis=0)
        union = truth + predicted - right
        iou = right[union > 0] / union[union > 0]
        accuracy = right[truth > 0] / truth[truth > 0]

        def by_class(of: Int64[np.ndarray, " k"]) -> dict[str, float | None]:
            return {
                name: int(right[k]) / int(of[k]) if of[k] else None
                for k, name in enumerate(classes)
            }

        return cls(
            iou=by_class(union),
            precision=by_class(predicted),
            recall=by_class(truth),
            miou=float(iou.mean()),
            pixel_accuracy=int(right.sum()) / total,
            mean_accuracy=float(accuracy.mean()),
            counts=counts.copy(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dump`` takes: the scores, and the counts they follow from."""
        return {
            "miou": self.miou,
            "iou": dict(self.iou),
            "precision": dict(self.precision),
            "recall": dict(self.recall),
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "counts": self.counts.tolist(),
        }
