"""Which mask belongs to which picture, by their names in the folders of a YAML file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from sctnet.data.dataset import Files
from sctnet.data.dataset_yaml import FolderConfig

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
# A JPEG changes the values it stores, and so cannot be a mask.
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
SHAPES_SUFFIX = ".json"  # of LabelMe


class Mismatch(NamedTuple):
    """Something that keeps a picture and its mask from being paired."""

    cause: str
    """A short name: missing-folder, no-pictures, missing-mask, jpeg-mask, shared-stem."""
    sentence: str


def find_files(
    base: Path, config: FolderConfig, split: str, complain: Callable[[Mismatch], None]
) -> list[Files]:
    """Pair every image of a split with its mask, in the order of their names.

    ``complain`` is told of everything that does not pair; where it returns, the rest is paired.
    """
    image_folder, mask_folder = base / config.images[split], base / config.masks[split]
    for key, folder in (("images", image_folder), ("masks", mask_folder)):
        if not folder.is_dir():
            sentence = f"{folder}: no such folder: correct {key}.{split} in the YAML file"
            complain(Mismatch("missing-folder", sentence))
            return []
    beside = mask_folder == image_folder and config.mask_suffix == config.image_suffix
    suffixes = (SHAPES_SUFFIX,) if beside else (*MASK_SUFFIXES, SHAPES_SUFFIX)
    masks = _find_masks(mask_folder, suffixes, complain)
    image_of_mask = _images_by_stem(image_folder, mask_folder, config, complain)
    if not image_of_mask:
        sentence = (
            f"{image_folder}: no image named *{config.image_suffix}"
            f" with one of {', '.join(IMAGE_SUFFIXES)}: correct images.{split} in the YAML file"
        )
        complain(Mismatch("no-pictures", sentence))
    for stem, image in image_of_mask.items():
        if stem not in masks:
            complain(_without_mask(image, mask_folder / stem, suffixes))
    return [
        Files(f"{split}/{image.relative_to(image_folder).as_posix()}", image, masks[stem])
        for stem, image in image_of_mask.items()
        if stem in masks
    ]


def _images_by_stem(
    image_folder: Path,
    mask_folder: Path,
    config: FolderConfig,
    complain: Callable[[Mismatch], None],
) -> dict[Path, Path]:
    images: dict[Path, Path] = {}
    for image in sorted(image_folder.rglob("*")):
        if not _is_image(image, config, image_folder, mask_folder):
            continue
        stem = mask_stem(image.relative_to(image_folder), config)
        if stem in images:
            sentence = f"{images[stem]} and {image} share one stem, and so one mask: rename one"
            complain(Mismatch("shared-stem", sentence))
        else:
            images[stem] = image
    return images


def _find_masks(
    folder: Path, suffixes: Sequence[str], complain: Callable[[Mismatch], None]
) -> dict[Path, Path]:
    """Return the masks below a folder by their relative path without its ending."""
    masks: dict[Path, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes and path.is_file():
            stem = path.relative_to(folder).with_suffix("")
            if stem in masks:
                sentence = f"{masks[stem]} and {path} share one stem: keep one of them"
                complain(Mismatch("shared-stem", sentence))
            else:
                masks[stem] = path
    return masks


def _without_mask(image: Path, expected: Path, suffixes: Sequence[str]) -> Mismatch:
    for suffix in (".jpg", ".jpeg", ".JPG", ".JPEG"):
        lossy = expected.with_name(expected.name + suffix)
        if lossy != image and lossy.is_file():
            sentence = (
                f"{image} has no mask but {lossy}, and a JPEG changes the values it stores: "
                "export the masks again as PNG"
            )
            return Mismatch("jpeg-mask", sentence)
    sentence = f"{image} has no mask: expected {expected} with one of {', '.join(suffixes)}"
    return Mismatch("missing-mask", sentence)


def _is_image(path: Path, config: FolderConfig, image_folder: Path, mask_folder: Path) -> bool:
    if path.suffix.lower() not in IMAGE_SUFFIXES or not path.stem.endswith(config.image_suffix):
        return False
    if not path.is_file():
        return False
    if mask_folder == image_folder:  # told apart by the suffix alone
        return not config.mask_suffix or not path.stem.endswith(config.mask_suffix)
    return mask_folder not in path.parents


def mask_stem(image: Path, config: FolderConfig) -> Path:
    """Return the relative path, without its ending, of the mask of an image's relative path."""
    return image.with_name(image.stem.removesuffix(config.image_suffix) + config.mask_suffix)
