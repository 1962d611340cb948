"""From a recipe to its task."""

from pathlib import Path
from typing import Any

from sctnet.processes import ALONE, Processes
from sctnet.training.classification import open_classification
from sctnet.training.recipe import ClassificationRecipe, Recipe, SegmentationRecipe
from sctnet.training.segmentation import open_segmentation
from sctnet.training.task import Task


def open_task(
    recipe: Recipe, processes: Processes = ALONE, folder: Path | None = None
) -> Task[Any]:
    """Return what a recipe's run learns, with its pictures; every process must call this.

    ``folder`` is the run's, where a teacher's answers are kept.

    Raises :class:`SctnetError` for pictures that are not there or cannot be learned from.
    """
    if isinstance(recipe, ClassificationRecipe):
        return open_classification(recipe, folder)
    assert isinstance(recipe, SegmentationRecipe)
    return open_segmentation(recipe, processes, folder)
