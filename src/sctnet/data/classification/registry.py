"""The registry of classification data sets: opens the data set that ``--data`` names."""

from collections.abc import Sequence
from pathlib import Path

from sctnet.data.classification.dataset import ClassificationDataset
from sctnet.data.classification.image_folder import is_image_folder, open_image_folder
from sctnet.data.classification.imagenet import is_imagenet, open_imagenet
from sctnet.data.classification.webdataset import open_shards
from sctnet.errors import SctnetError


def open_classified(source: str | Path, splits: Sequence[str]) -> ClassificationDataset:
    """Open splits of a classification data set, joined.

    ``source`` is ImageNet's root as its organisers (or Kaggle) publish it, a folder with a folder
    for each class in its ``train`` and other splits, or the YAML file of WebDataset shards. Raises
    :class:`SctnetError` for anything else, and for an unknown split.
    """
    path = Path(source)
    if path.suffix.lower() in {".yaml", ".yml"}:
        return open_shards(path, splits)
    if is_imagenet(path):
        return open_imagenet(path, splits)
    if is_image_folder(path):
        return open_image_folder(path, splits)
    problem = "is no known classification data set" if path.exists() else "does not exist"
    raise SctnetError(
        f"{source} {problem}: give a folder with train/CLASS/picture and val/CLASS/picture, "
        "ImageNet's root with its devkit, or the YAML file of shards"
    )
