"""What ``--data`` takes: one function from its argument to a data set."""

from collections.abc import Sequence
from pathlib import Path

from sctnet.data.camvid import SPLITS, open_camvid
from sctnet.data.dataset import SegmentationDataset
from sctnet.data.folder import open_folder
from sctnet.data.synthetic import open_synthetic
from sctnet.errors import SctnetError


def open_dataset(source: str | Path, splits: Sequence[str]) -> SegmentationDataset:
    """Open splits of a data set, joined.

    ``source`` is a data set's YAML file (``.yaml`` or ``.yml``), the root of a CamVid in the
    SegNet authors' layout, or the word ``synthetic``, for drawn streets that need no files.
    Raises :class:`SctnetError` for anything else, and for an unknown split.
    """
    if str(source) == "synthetic":
        return open_synthetic(splits)
    path = Path(source)
    if path.suffix.lower() in {".yaml", ".yml"}:
        return open_folder(path, splits)
    if any(
        (path / f"{split}.txt").is_file() and (path / f"{split}annot").is_dir() for split in SPLITS
    ):
        return open_camvid(path, splits)
    problem = "is not a known data set" if path.exists() else "does not exist"
    raise SctnetError(
        f"{source} {problem}: give a data set's YAML file, a CamVid folder "
        "(with train.txt, train and trainannot), or the word synthetic"
    )
