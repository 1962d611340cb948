"""The pictures that a recipe names, as a run reads them."""

from sctnet.data.caching import CachedDataset
from sctnet.data.dataset import SegmentationDataset
from sctnet.data.loading import TrainingStream
from sctnet.data.opening import open_dataset
from sctnet.errors import SctnetError
from sctnet.training.recipe import Recipe


def open_pictures(recipe: Recipe) -> SegmentationDataset:
    """Return the training pictures, behind the recipe's cache.

    Raises :class:`SctnetError` for a recipe without a source, and for no pictures.
    """
    data = open_split(recipe, recipe.data.train)
    if recipe.data.cache == "memory":
        return CachedDataset(data, recipe.data.cache_gigabytes)
    return data


def open_split(recipe: Recipe, splits: tuple[str, ...]) -> SegmentationDataset:
    """Return splits of the recipe's data set; raises as :func:`open_pictures` does."""
    if recipe.data.source is None:
        raise SctnetError(f"{recipe.name}: this recipe needs pictures, name their folder by --data")
    data = open_dataset(recipe.data.source, splits)
    if len(data) == 0:
        raise SctnetError(f"{recipe.data.source}: no picture in {', '.join(splits)}")
    return data


def training_stream(data: SegmentationDataset, recipe: Recipe) -> TrainingStream:
    """Return the endless stream of the recipe's samples."""
    return TrainingStream(
        data,
        recipe.augmentation,
        recipe.run.seed,
        recipe.preparation.working_size,
        recipe.data.skip_broken,
    )
