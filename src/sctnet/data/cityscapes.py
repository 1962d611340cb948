"""Cityscapes with its 19 classes, in the layout and the codes of its authors.

``leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`` and ``gtFine/SPLIT/CITY/*_gtFine_labelIds.png``;
names, ids and colours are those of cityscapesScripts, ``helpers/labels.py``. Masks of train ids
(``*_labelTrainIds.png``) serve where those of ids are absent. The splits ``train_coarse``,
``val_coarse`` and ``train_extra`` have the coarse labels, in ``gtCoarse``.
"""

from collections.abc import Sequence
from pathlib import Path

from sctnet.data.dataset import FileDataset, Files, Labels, NoSuchSplitError
from sctnet.data.published_layouts import (
    files_like,
    find_images,
    in_either_case,
    open_published,
    read_values,
    tell_unused_masks,
    value_lookup,
)

# Name: id and colour, in the order of the train ids.
_CLASSES = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
CLASSES = tuple(_CLASSES)
IDS = tuple(number for number, _ in _CLASSES.values())
COLOURS = tuple(colour for _, colour in _CLASSES.values())

# Split: folder of the pictures' and of the masks' split, and kind of the labels.
_FOLDERS = {
    "train": ("train", "gtFine"),
    "val": ("val", "gtFine"),
    "test": ("test", "gtFine"),
    "train_coarse": ("train", "gtCoarse"),
    "val_coarse": ("val", "gtCoarse"),
    "train_extra": ("train_extra", "gtCoarse"),
}
SPLITS = tuple(_FOLDERS)

# The licence plate's id is -1, which a mask of bytes holds as 255.
_LABEL_OF_ID = value_lookup(IDS, [*range(34), 255])
_LABEL_OF_TRAIN_ID = value_lookup(range(len(CLASSES)), [255])
_TRAIN_IDS_END = "_labelTrainIds"


def is_cityscapes(root: Path) -> bool:
    """Say whether ``root`` is a Cityscapes, by its folder of pictures."""
    return (root / "leftImg8bit").is_dir()


def open_cityscapes(root: str | Path, splits: Sequence[str]) -> FileDataset:
    """Open one or more of :data:`SPLITS` below ``root``, joined.

    The test split's published masks are dummies, so it is opened without labels. Raises
    :class:`SctnetError` for an unknown split, and for files that are missing.
    """
    root = Path(root)
    return open_published(
        "Cityscapes",
        root,
        splits,
        SPLITS,
        lambda split: _find_files(root, split),
        classes=CLASSES,
        colours=COLOURS,
        read_labels=_read_labels,
        raw_values=IDS,
    )


def _find_files(root: Path, split: str) -> list[Files]:
    folder, kind = _FOLDERS[split]
    images, masks = root / "leftImg8bit" / folder, root / kind / folder
    if kind == "gtCoarse" and not masks.is_dir():
        raise NoSuchSplitError(f"{masks}: no such folder: unpack {kind} for {split}")
    found = find_images(images, "*/*_leftImg8bit.png")
    files = [_files_of(split, image, masks, kind) for image in found]
    of_ids = files_like(masks, f"*/*_{kind}_labelIds.png")
    tell_unused_masks(of_ids, {item.mask for item in files}, images)
    return files


def _files_of(split: str, image: Path, masks: Path, kind: str) -> Files:
    city, frame = image.parent.name, image.stem.removesuffix("_leftImg8bit")
    mask = in_either_case(masks / city / f"{frame}_{kind}_labelIds.png")
    of_train_ids = in_either_case(masks / city / f"{frame}_{kind}{_TRAIN_IDS_END}.png")
    if not mask.is_file() and of_train_ids.is_file():
        mask = of_train_ids
    return Files(f"{split}/{city}/{image.name}", image, mask)


def _read_labels(path: Path) -> Labels:
    if path.stem.endswith(_TRAIN_IDS_END):
        return read_values(path, _LABEL_OF_TRAIN_ID, "0-18 and 255")
    return read_values(path, _LABEL_OF_ID, "0-33 and 255")
