"""The confusion matrix."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, Integer
from torch import Tensor

from sctnet.data.dataset import IGNORE
from sctnet.errors import SctnetError
from sctnet.evaluation.scores import Scores

LabelMap = Integer[np.ndarray, "..."] | Integer[Tensor, "..."]


class ConfusionMatrix:
    """Counts, over label maps, how many pixels of each true class were predicted as each class.

    ``counts[t, p]`` is the number of pixels of class t that were predicted as p. Pixels whose
    truth is 255 are left out. The order of updates does not matter.
    """

    def __init__(self, num_classes: int) -> None:
        if not 1 <= num_classes <= IGNORE:
            raise SctnetError(f"{num_classes} classes: labels of 8 bits hold 1 to {IGNORE}")
        self.num_classes = num_classes
        self.counts: Int64[np.ndarray, "k k"] = np.zeros((num_classes, num_classes), np.int64)

    def update(self, truth: LabelMap, prediction: LabelMap) -> None:
        """Count label maps of equal shape, whatever it is.

        Raises :class:`SctnetError`, and counts nothing, for unequal shapes or a value that is no
        class (a prediction may hold anything where the truth is ignored).
        """
        truth, prediction = _array(truth), _array(prediction)
        if truth.shape != prediction.shape:
            raise SctnetError(
                f"truth of shape {truth.shape} and prediction of shape {prediction.shape} cannot "
                "be compared: predict at the size of the labels"
            )
        labelled = truth != IGNORE
        rows = self._classes(truth[labelled], "truth")
        columns = self._classes(prediction[labelled], "prediction")
        cells = np.bincount(rows * self.num_classes + columns, minlength=self.counts.size)
        self.counts += cells.reshape(self.counts.shape)

    def scores(self, classes: Sequence[str]) -> Scores:
        """Return the scores of all that was counted; ``classes`` names them in order."""
        return Scores.from_counts(self.counts, classes)

    def _classes(self, values: Integer[np.ndarray, "n"], name: str) -> Int64[np.ndarray, "n"]:
        if values.size and not (values.min() >= 0 and values.max() < self.num_classes):
            wrong = values.min() if values.min() < 0 else values.max()
            raise SctnetError(
                f"the {name} holds the value {wrong}, but there are {self.num_classes} classes "
                f"(0 to {self.num_classes - 1}): use the classes of the data"
            )
        return values.astype(np.int64)


def _array(labels: LabelMap) -> Integer[np.ndarray, "..."]:
    return labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels
