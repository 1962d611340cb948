"""From a recipe to its task."""

from pathlib import Path
from typing import Any

from sctnet.processes import ALONE, Processes
from sctnet.training.classification.classification_task import open_classification
from sctnet.training.recipe import ClassificationRecipe, Recipe, SegmentationRecipe
from sctnet.training.segmentation_task import open_segmentation
from sctnet.training.task import Task


def open_task(
    recipe: Recipe, processes: Processes = ALONE, folder: Path | None = None
) -> Task[Any]:
    """Return the task of a recipe, with its pictures; every process must call this.

    ``folder`` is the run's folder, which keeps a teacher's answers.

    Raises :class:`SctnetError` for missing pictures, and for labels that teach nothing.
    """
    if isinstance(recipe, ClassificationRecipe):
        return open_classification(recipe, folder)
    assert isinstance(recipe, SegmentationRecipe)
    return open_segmentation(recipe, processes, folder)
