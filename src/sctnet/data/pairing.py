"""Which mask belongs to which picture, by their names in the folders of a YAML file."""

import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sctnet.data.dataset import Files
from sctnet.data.dataset_yaml import FolderConfig, Listed, is_list
from sctnet.data.picture_files import (
    JPEG_ENDINGS,
    MASK_ENDINGS,
    PICTURE_ENDINGS,
    files_below,
    is_picture,
)

SHAPES_SUFFIX = ".json"  # of LabelMe
MASK_SUFFIXES = (*MASK_ENDINGS, SHAPES_SUFFIX)

SPOIL_NOTHING = {
    "missing-picture": "masks without a picture",
    "other-suffix": "files without the suffix of the YAML file",
    "unlisted-picture": "pictures that are not listed",
    "empty-area": "annotations without a pixel",
    "listed-twice": "pictures listed again",
}
"""The causes of mismatches that leave something out and no more, and what that is."""


class Mismatch(NamedTuple):
    """Something that keeps a picture and its mask from being paired."""

    cause: str
    """A short name: missing-folder, no-pictures, missing-mask, jpeg-mask, shared-stem,
    listed-missing, or one of :data:`SPOIL_NOTHING`."""
    sentence: str


class Paired(NamedTuple):
    """The pictures of a split with their masks, and what lies among them."""

    files: list[Files]
    left_out: Mapping[str, int]
    """The number of files that are not taken for pictures, by their endings."""
    unlabelled: int = 0
    """The number of pictures without a mask, where the YAML allows them."""


def find_files(
    base: Path, config: FolderConfig, split: str, complain: Callable[[Mismatch], None]
) -> Paired:
    """Pair every image of a split with its mask, in the order of their names.

    ``complain`` is told of everything that does not pair; where it returns, the rest is paired.
    """
    image_folder = folder_of(base, config.images[split])
    mask_folder = folder_of(base, config.masks[split])
    for key, folder in (("images", image_folder), ("masks", mask_folder)):
        if not folder.is_dir():
            complain_of_folder(folder, f"{key}.{split}", complain)
            return Paired([], {})
    beside = mask_folder == image_folder and config.mask_suffix == config.image_suffix
    suffixes = (SHAPES_SUFFIX,) if beside else MASK_SUFFIXES
    masks = find_masks(mask_folder, suffixes, complain)
    image_of_mask, left_out = _images_by_stem(image_folder, mask_folder, config, complain)
    if not image_of_mask:
        sentence = (
            f"{image_folder}: no image named *{config.image_suffix}"
            f" with one of {', '.join(sorted(PICTURE_ENDINGS))}: correct images.{split} in the "
            "YAML file"
        )
        complain(Mismatch("no-pictures", sentence))
    unlabelled = 0
    end = "" if config.mask_suffix else _end_of_masks(image_of_mask, masks)
    for stem, image in image_of_mask.items():
        if stem not in masks:
            longer = masks.get(stem.with_name(stem.name + end))
            mismatch = _without_mask(image, mask_folder / stem, suffixes)
            if longer is not None:
                sentence = f"{image} has no mask, but there is {longer}: set mask_suffix: {end}"
                mismatch = Mismatch(mismatch.cause, sentence)
            if config.unlabelled == "allowed" and mismatch.cause == "missing-mask":
                unlabelled += 1
            else:
                complain(mismatch)
    unused = _without_picture(base, config, split, masks, image_of_mask) if image_of_mask else []
    for mask in unused:
        complain(Mismatch("missing-picture", f"{mask} has no picture below {image_folder}"))
    for mask in _unlike_any_picture(masks, image_of_mask, config):
        if mask_folder != image_folder and not _is_image(mask, config, image_folder, mask_folder):
            complain(_without_suffix(mask, "mask_suffix", config.mask_suffix))
    files = [
        Files(f"{split}/{image.relative_to(image_folder).as_posix()}", image, masks[stem])
        for stem, image in image_of_mask.items()
        if stem in masks
    ]
    return Paired(files, left_out, unlabelled)


def folder_of(base: Path, place: Path | Listed) -> Path:
    """Return a folder of the YAML file; a place that is no list."""
    assert isinstance(place, Path)
    return base / place


def complain_of_folder(folder: Path, key: str, complain: Callable[[Mismatch], None]) -> None:
    """Tell that a folder of the YAML file is missing."""
    sentence = f"{folder}: no such folder: correct {key} in the YAML file"
    complain(Mismatch("missing-folder", sentence))


def _images_by_stem(
    image_folder: Path,
    mask_folder: Path,
    config: FolderConfig,
    complain: Callable[[Mismatch], None],
) -> tuple[dict[Path, Path], Counter[str]]:
    """Return the pictures by the stems of their masks, and the number of other files."""
    images: dict[Path, Path] = {}
    below = files_below(image_folder, is_picture)
    left_out = below.left_out
    if mask_folder == image_folder:
        left_out.pop(SHAPES_SUFFIX, None)
    for image in below.taken:
        if not _is_image(image, config, image_folder, mask_folder):
            if _lacks_suffix(image, config, image_folder, mask_folder):
                complain(_without_suffix(image, "image_suffix", config.image_suffix))
            continue
        stem = mask_stem(image.relative_to(image_folder), config)
        if stem in images:
            sentence = f"{images[stem]} and {image} share one stem, and so one mask: rename one"
            complain(Mismatch("shared-stem", sentence))
        else:
            images[stem] = image
    return images, left_out


def find_masks(
    folder: Path,
    suffixes: Sequence[str],
    complain: Callable[[Mismatch], None],
    pictures: Collection[Path] = (),
) -> dict[Path, Path]:
    """Return the masks below a folder by their relative path without its ending.

    What is among ``pictures`` is none.
    """
    masks: dict[Path, Path] = {}
    for path in files_below(folder, lambda name: Path(name).suffix.lower() in suffixes).taken:
        if path in pictures:
            continue
        stem = path.relative_to(folder).with_suffix("")
        if stem in masks:
            sentence = f"{masks[stem]} and {path} share one stem: keep one of them"
            complain(Mismatch("shared-stem", sentence))
        else:
            masks[stem] = path
    return masks


def _without_picture(
    base: Path,
    config: FolderConfig,
    split: str,
    masks: Mapping[Path, Path],
    images: Mapping[Path, Path],
) -> list[Path]:
    """Return the masks that no split has a picture for; splits may share a folder of masks."""
    folder = folder_of(base, config.masks[split])
    used = {folder / stem for stem in images}
    for other, place in config.masks.items():
        if is_list(place) or is_list(config.images[other]):
            continue
        others, pictures = folder_of(base, place), folder_of(base, config.images[other])
        if other != split and pictures.is_dir() and overlap(folder, others):
            found, _ = _images_by_stem(pictures, others, config, lambda _: None)
            used |= {others / stem for stem in found}
    return [
        mask
        for stem, mask in masks.items()
        if folder / stem not in used
        and (mask.suffix.lower() in MASK_ENDINGS or _holds_shapes(mask))
        and stem.name.endswith(config.mask_suffix)
        and not _is_image(mask, config, folder_of(base, config.images[split]), folder)
    ]


def _unlike_any_picture(
    masks: Mapping[Path, Path], images: Iterable[Path], config: FolderConfig
) -> list[Path]:
    """Return the masks without the suffix that are not of a picture either, of another kind."""
    beginnings = {(stem.parent, stem.name.removesuffix(config.mask_suffix)) for stem in images}
    return [
        mask
        for stem, mask in masks.items()
        if not stem.name.endswith(config.mask_suffix)
        and mask.suffix.lower() in MASK_ENDINGS
        and not any(
            (stem.parent, stem.name[:length]) in beginnings
            for length in range(1, len(stem.name) + 1)
        )
    ]


def _without_suffix(path: Path, key: str, suffix: str) -> Mismatch:
    return Mismatch("other-suffix", f"{path} does not end in {suffix}, the {key}")


def _lacks_suffix(
    picture: Path, config: FolderConfig, image_folder: Path, mask_folder: Path
) -> bool:
    """Say whether a picture is left out for its name alone, and is no mask."""
    if mask_folder != image_folder and mask_folder in picture.parents:
        return False
    is_mask = mask_folder == image_folder and picture.stem.endswith(config.mask_suffix or "\0")
    return not is_mask and not picture.stem.endswith(config.image_suffix)


def _holds_shapes(path: Path) -> bool:
    """Say whether a JSON file is one of LabelMe; its picture may stand before the shapes."""
    sign, before = b'"shapes"', b""
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                if sign in before + chunk:
                    return True
                before = chunk[-len(sign) :]
    except OSError:
        pass
    return False


def overlap(one: Path, other: Path) -> bool:
    """Say whether two folders are one, or one lies in the other."""
    return one.is_relative_to(other) or other.is_relative_to(one)


def _end_of_masks(images: Mapping[Path, Path], masks: Mapping[Path, Path]) -> str:
    """Return what most pictures' masks have at the end of their names, such as ``_L``; or ""."""
    names = sorted(mask.as_posix() for mask in masks.keys() - images.keys())
    ends: Counter[str] = Counter()
    for stem in (image.as_posix() for image in images):
        last = bisect_left(names, stem + chr(sys.maxunicode))
        for name in names[bisect_left(names, stem) : last]:  # those that begin like it
            end = name.removeprefix(stem)
            if not end[0].isalnum() and "/" not in end:
                ends[end] += 1
    end, count = max(ends.items(), key=lambda item: item[1], default=("", 0))
    return end if 2 * count > len(images) else ""


def _without_mask(image: Path, expected: Path, suffixes: Sequence[str]) -> Mismatch:
    for suffix in (each for ending in sorted(JPEG_ENDINGS) for each in (ending, ending.upper())):
        lossy = expected.with_name(expected.name + suffix)
        if lossy != image and lossy.is_file():
            sentence = (
                f"{image} has no mask but {lossy}, and a JPEG changes the values it stores: "
                "export the masks again as PNG"
            )
            return Mismatch("jpeg-mask", sentence)
    sentence = (
        f"{image} has no mask: expected {expected} with one of {', '.join(suffixes)}, or set "
        "unlabelled: allowed"
    )
    return Mismatch("missing-mask", sentence)


def _is_image(path: Path, config: FolderConfig, image_folder: Path, mask_folder: Path) -> bool:
    if not is_picture(path.name) or not path.stem.endswith(config.image_suffix):
        return False
    if mask_folder == image_folder:  # told apart by the suffix alone
        return not config.mask_suffix or not path.stem.endswith(config.mask_suffix)
    return mask_folder not in path.parents


def mask_stem(image: Path, config: FolderConfig) -> Path:
    """Return the relative path, without its ending, of the mask of an image's relative path."""
    return image.with_name(image.stem.removesuffix(config.image_suffix) + config.mask_suffix)
