"""Class weights from a recipe and the data."""

import torch
from torch import Tensor

from sctnet.data.class_frequencies import balanced_weights, count_class_pixels
from sctnet.data.dataset import SegmentationDataset
from sctnet.errors import SctnetError
from sctnet.processes import ALONE, Processes
from sctnet.training.recipe import LossRecipe


def class_weights(
    recipe: LossRecipe,
    data: SegmentationDataset,
    processes: Processes = ALONE,
    skip_broken: bool = False,
) -> Tensor | None:
    """Return the weight of each class (float32, one a class), or None where all weigh the same.

    For balanced weights the processes together read every mask once.
    """
    given = recipe.class_weights
    if given == "none":
        return None
    if given == "balanced":
        counts = count_class_pixels(data, processes, skip_broken)
        return balanced_weights(torch.from_numpy(counts))
    if len(given) != len(data.classes):
        raise SctnetError(
            f"loss.class_weights: {len(given)} weights for {len(data.classes)} classes"
        )
    return torch.tensor(given)
