"""Class weights from a recipe and the data."""

import torch
from torch import Tensor

from sctnet.data.balancing import balanced_weights, count_pixels
from sctnet.data.dataset import SegmentationDataset
from sctnet.errors import SctnetError
from sctnet.training.recipe import LossRecipe


def class_weights(recipe: LossRecipe, data: SegmentationDataset) -> Tensor | None:
    """Return the weight of each class (float32, one a class), or None where all weigh the same.

    Balanced weights read every mask once.
    """
    given = recipe.class_weights
    if given == "none":
        return None
    if given == "balanced":
        return balanced_weights(torch.from_numpy(count_pixels(data)))
    if len(given) != len(data.classes):
        raise SctnetError(
            f"loss.class_weights: {len(given)} weights for {len(data.classes)} classes"
        )
    return torch.tensor(given)
