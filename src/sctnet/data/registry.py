"""The registry of data sets: opens the data set that ``--data`` names."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from sctnet.data.ade20k import is_ade20k, open_ade20k
from sctnet.data.camvid import is_camvid, open_camvid
from sctnet.data.cityscapes import is_cityscapes, open_cityscapes
from sctnet.data.cocostuff import is_cocostuff, open_cocostuff
from sctnet.data.dataset import (
    FileDataset,
    NoSuchSplitError,
    SegmentationDataset,
    check_splits,
)
from sctnet.data.dataset_yaml import ALL, is_yaml, read_config
from sctnet.data.folder import open_folder
from sctnet.data.folds import FOLDED, fold_of, part_of_folds
from sctnet.data.synthetic.streets import open_synthetic
from sctnet.data.voc import is_voc, open_voc
from sctnet.errors import SctnetError


class _Layout(NamedTuple):
    is_at: Callable[[Path], bool]
    open: Callable[[Path, Sequence[str]], SegmentationDataset]
    description: str


_LAYOUTS = (
    _Layout(is_camvid, open_camvid, "CamVid (train.txt, train, trainannot)"),
    _Layout(is_cityscapes, open_cityscapes, "Cityscapes (leftImg8bit, gtFine)"),
    _Layout(is_cocostuff, open_cocostuff, "COCO-Stuff-10K (images, annotations, imageLists)"),
    _Layout(is_ade20k, open_ade20k, "ADE20K (images/training, annotations/training)"),
    _Layout(is_voc, open_voc, "Pascal VOC (JPEGImages, SegmentationClass, ImageSets)"),
)


def open_dataset(source: str | Path, splits: Sequence[str]) -> SegmentationDataset:
    """Open splits of a data set, joined.

    ``source`` is a data set's YAML file (``.yaml`` or ``.yml``), the root of a CamVid in the
    SegNet authors' layout, of a Cityscapes, ADE20K, COCO-Stuff-10K or Pascal VOC as published,
    or the word ``synthetic``, for drawn streets that need no files. A split may be one of its
    folds (:func:`~sctnet.data.folds.fold_of`): of the split ``train``, or of all pictures where a
    YAML file names no split; ``train`` and ``val`` are then folds themselves. Raises
    :class:`SctnetError` for anything else, and for an unknown split.
    """
    path = Path(source)
    config = read_config(path) if is_yaml(path) else None
    undivided = config is not None and config.is_undivided
    own = [split for split in splits if fold_of(split) is None]
    if undivided and (own or not splits):
        check_splits(own, [*FOLDED, ALL], source)
    folds = [fold_of(split, config) for split in splits]
    wanted = [fold for fold in folds if fold is not None]
    if not wanted:
        return _open(source, splits)
    if len(wanted) < len(folds):
        raise SctnetError(f"{source}: folds and other splits overlap: name the one or the others")
    whole = _open(source, [ALL if undivided else "train"])
    if not isinstance(whole, FileDataset):
        raise SctnetError(f"{source}: only pictures in files are divided into folds: choose others")
    return part_of_folds(whole, splits, wanted, path, config)


def _open(source: str | Path, splits: Sequence[str]) -> SegmentationDataset:
    """Open splits that the source itself names."""
    if str(source) == "synthetic":
        return open_synthetic(splits)
    path = Path(source)
    if is_yaml(path):
        return open_folder(path, splits)
    for layout in _LAYOUTS:
        if layout.is_at(path):
            return layout.open(path, splits)
    problem = "is not a known data set" if path.exists() else "does not exist"
    raise SctnetError(
        f"{source} {problem}: give a data set's YAML file, the word synthetic, or the root of "
        f"one of {', '.join(layout.description for layout in _LAYOUTS)}"
    )


def known_splits(source: str | Path) -> tuple[str, ...]:
    """Return the splits that a data set may have; raises as :func:`open_dataset` does."""
    try:
        open_dataset(source, [])
    except NoSuchSplitError as error:  # every reader answers so, before it looks for any file
        return error.known
    raise AssertionError(f"{source} was opened without a split")
