"""COCO-Stuff-10K (version 1.1) with 171 classes: 80 things and 91 kinds of stuff.

``images/*.jpg``, ``annotations/*.mat``, and ``imageLists/train.txt`` and ``test.txt`` with names
without endings. The field S of a .mat holds 0 for unlabeled, 1-91 for things and 92-182 for
stuff; eleven of the things never occur and are not classes. The .mat files are turned once into
``labels/*.png`` (:mod:`sctnet.data.prepared_labels`), which hold labels, 255 for ignored.
https://github.com/nightrome/cocostuff10k
"""

from collections.abc import Sequence
from pathlib import Path

from sctnet.data.dataset import FileDataset, Files, Labels, check_splits
from sctnet.data.picture_files import is_file
from sctnet.data.published_layouts import read_list, read_values, require_mask, value_lookup
from sctnet.errors import SctnetError, shortened

_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant,
bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard,
sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket,
bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,
toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush, banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard,
carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain,
desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile,
floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other,
hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net,
paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing, railroad,
river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow,
solid-other, stairs, stone, straw, structural-other, table, tent, textile-other, towel,
tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile,
wall-wood, water-other, waterdrops, window-blind, window-other, wood
"""
CLASSES = tuple(name.strip() for name in _NAMES.split(","))
SPLITS = ("train", "test")

# Street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush.
ABSENT = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
RAW_VALUES = tuple(value for value in range(1, 183) if value not in ABSENT)
LABEL_OF_RAW_VALUE = value_lookup(RAW_VALUES, [0, *ABSENT])

_LABEL_OF_VALUE = value_lookup(range(len(CLASSES)), [255])


def is_cocostuff(root: Path) -> bool:
    """Say whether ``root`` is a COCO-Stuff-10K, by its lists."""
    return any((root / "imageLists" / f"{split}.txt").is_file() for split in SPLITS)


def open_cocostuff(root: str | Path, splits: Sequence[str]) -> FileDataset:
    """Open one or both of the splits ``train`` and ``test`` below ``root``, joined.

    Raises :class:`SctnetError` for an unknown split, for files that are missing, and where the
    .mat files were not prepared yet.
    """
    root = Path(root)
    check_splits(splits, SPLITS, root)
    names = [name for split in splits for name in names_of(root, split)]
    return FileDataset(
        f"COCO-Stuff-10K {'+'.join(splits)}",
        CLASSES,
        None,
        [_files_of(root, name) for name in names],
        _read_labels,
        raw_values=RAW_VALUES,
    )


def names_of(root: Path, split: str) -> list[str]:
    """Return the names of a split's pictures, without endings."""
    lines = read_list(root / "imageLists" / f"{split}.txt")
    return [line.strip() for line in lines if line.strip()]


def annotation_file(root: Path, name: str) -> Path:
    """Return where the publishers' labels of a picture lie."""
    return root / "annotations" / f"{name}.mat"


def label_file(root: Path, name: str) -> Path:
    """Return where the prepared labels of a picture lie."""
    return root / "labels" / f"{name}.png"


def _files_of(root: Path, name: str) -> Files:
    files = Files(f"{name}.jpg", root / "images" / f"{name}.jpg", label_file(root, name))
    if not is_file(files.image):
        missing = root / "images" / f"{shortened(name)}.jpg"
        raise SctnetError(f"{missing}: the picture is missing: unpack the data set again")
    if not files.mask.is_file() and annotation_file(root, name).is_file():
        raise SctnetError(
            f"{root}: the labels are still .mat files, such as that of {name}: "
            f"run sctnet data prepare {root}"
        )
    return require_mask(files)


def _read_labels(path: Path) -> Labels:
    return read_values(path, _LABEL_OF_VALUE, "0-170 and 255")
