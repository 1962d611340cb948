"""What ``--data`` takes in a classification."""

from collections.abc import Sequence
from pathlib import Path

from sctnet.data.classification import ClassificationDataset
from sctnet.data.image_folder import is_image_folder, open_image_folder
from sctnet.errors import SctnetError


def open_classified(source: str | Path, splits: Sequence[str]) -> ClassificationDataset:
    """Open splits of a classification data set, joined.

    ``source`` is a folder with a folder for each class in ``train`` and ``val``. Raises
    :class:`SctnetError` for anything else, and for an unknown split.
    """
    path = Path(source)
    if is_image_folder(path):
        return open_image_folder(path, splits)
    problem = "is no known classification data set" if path.exists() else "does not exist"
    raise SctnetError(f"{source} {problem}: give a folder with train/CLASS/picture and val/...")
