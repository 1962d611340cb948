"""A data set of one's own: image and mask folders, described by a YAML file."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sctnet.data.dataset import IGNORE, FileDataset, Files, Labels, check_splits
from sctnet.data.images import read_mask
from sctnet.data.instances import DrawnPicture, find_instances
from sctnet.data.polygons import LabelNames, read_labelme
from sctnet.errors import SctnetError
from sctnet.yaml_files import load_yaml

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
# A JPEG changes the values it stores, and so cannot be a mask.
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")

SHAPES_SUFFIX = ".json"  # of LabelMe

UNKNOWN = 254
"""In look-up tables: a value or colour that the description does not know."""
_VALUES = 1 << 16

_Byte = Annotated[int, Field(ge=0, le=255)]
_Value = Annotated[int, Field(ge=0, lt=_VALUES)]


class FolderConfig(BaseModel):
    """The YAML file; its folders are relative to it.

    A mask holds class numbers and ``ignore``; with ``ids``, raw values, of which those not
    listed are ignored; with ``rgb_masks``, ``colours`` and ``ignored_colours``. The mask of an
    image has its path below the mask folder, and its stem, in which ``mask_suffix`` takes the
    place of ``image_suffix``. A LabelMe file (.json) is as good as a mask, and a split of
    ``polygons`` has one COCO file of instances in place of a folder; shapes bear the names of
    ``classes`` or of ``ignored_labels``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: dict[str, Path] = Field(min_length=1)
    masks: dict[str, Path] = {}
    polygons: dict[str, Path] = {}
    classes: tuple[str, ...] = Field(min_length=2, max_length=UNKNOWN)
    colours: tuple[tuple[_Byte, _Byte, _Byte], ...] | None = None
    rgb_masks: bool = False
    ignore: _Value = IGNORE
    ids: dict[_Value, int] | None = None
    ignored_colours: tuple[tuple[_Byte, _Byte, _Byte], ...] = ()
    mask_suffix: str = ""
    image_suffix: str = ""
    ignored_labels: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _lists_agree(self) -> "FolderConfig":
        number = len(self.classes)
        if sorted(self.images) != sorted([*self.masks, *self.polygons]):
            raise ValueError("images and masks (or polygons) must name the same splits")
        if len(set(self.classes)) < number:
            raise ValueError("classes must not name a class twice")
        if set(self.classes) & set(self.ignored_labels):
            raise ValueError("ignored_labels must not name a class")
        if self.colours is not None and len(self.colours) != number:
            raise ValueError(f"colours has {len(self.colours)} entries for {number} classes")
        if self.ids is not None and not all(0 <= label < number for label in self.ids.values()):
            raise ValueError(f"ids must lead to class numbers, 0 to {number - 1}")
        if self.ids is None and self.ignore < number:
            raise ValueError(f"ignore is {self.ignore}, which is the class number of a class")
        if self.ids and self.ignore in self.ids and "ignore" in self.model_fields_set:
            raise ValueError(f"ignore is {self.ignore}, which ids makes a class: drop one of them")
        return self

    @model_validator(mode="after")
    def _suffixes_end_names(self) -> "FolderConfig":
        for key in ("mask_suffix", "image_suffix"):
            if "/" in getattr(self, key):
                raise ValueError(f"{key} is the end of a file's stem and cannot hold a /")
        return self

    @model_validator(mode="after")
    def _masks_are_of_one_kind(self) -> "FolderConfig":
        if not self.rgb_masks:
            if self.ignored_colours:
                raise ValueError("ignored_colours needs rgb_masks: true")
            return self
        if self.colours is None:
            raise ValueError("rgb_masks needs colours, the code of the masks")
        if self.ids is not None:
            raise ValueError("ids is for masks of numbers, not for rgb_masks")
        known = [*self.colours, *self.ignored_colours]
        if len(set(known)) < len(known):
            raise ValueError("colours and ignored_colours must not name a colour twice")
        return self


def open_folder(yaml_path: str | Path, splits: Sequence[str]) -> FileDataset:
    """Open one or more splits of the data set that a YAML file describes, joined.

    The files of every picture are looked for at once, their contents when they are read. Raises
    :class:`SctnetError` for a mistake in the YAML, an unknown split, an image without a mask,
    two images of one mask, and (on reading) a mask value or colour that is not described.
    """
    yaml_path = Path(yaml_path)
    config = read_config(yaml_path)
    check_splits(splits, list(config.images), yaml_path)
    base = yaml_path.parent
    names = LabelNames(config.classes, config.ignored_labels)
    files: list[Files] = []
    drawn: dict[Path, DrawnPicture] = {}
    for split in splits:
        if split in config.polygons:
            source, images = base / config.polygons[split], base / config.images[split]
            found = find_instances(source, images, split, names)
            files += found
            drawn |= {item.mask: picture for item, picture in found.items()}
        else:
            files += find_files(base, config, split, _refuse)
    return folder_dataset(f"{yaml_path.stem} {'+'.join(splits)}", config, files, drawn)


def folder_dataset(
    name: str,
    config: FolderConfig,
    files: Sequence[Files],
    drawn: Mapping[Path, DrawnPicture] | None = None,
) -> FileDataset:
    """Return the data set of these files, whose masks are read as the description says.

    ``drawn`` are the pictures of instances by what stands for their masks.
    """
    names = LabelNames(config.classes, config.ignored_labels)
    reader = partial(_read_labels, names, drawn or {}, _label_reader(config))
    return FileDataset(name, config.classes, config.colours, files, reader)


class Mismatch(NamedTuple):
    """Something that keeps a picture and its mask from being paired."""

    cause: str
    """A short name: missing-folder, no-pictures, missing-mask, jpeg-mask, shared-stem."""
    sentence: str


def _refuse(mismatch: Mismatch) -> None:
    raise SctnetError(mismatch.sentence)


def read_config(yaml_path: Path) -> FolderConfig:
    """Read and validate the YAML file; raises :class:`SctnetError` for a mistake in it."""
    try:
        text = yaml_path.read_text(encoding="utf-8")
    except OSError as error:
        raise SctnetError(f"{yaml_path}: cannot be read: give the data set's YAML file") from error
    except UnicodeDecodeError as error:
        raise SctnetError(f"{yaml_path}: not UTF-8 text: save it as UTF-8") from error
    fields = load_yaml(text, str(yaml_path))
    if not isinstance(fields, dict):
        raise SctnetError(f"{yaml_path}: expected the keys images, masks and classes at the top")
    try:
        return FolderConfig(**{str(key): value for key, value in fields.items()})
    except ValidationError as error:
        raise SctnetError(f"{yaml_path}: {_first_mistake(error)}") from error


def _first_mistake(error: ValidationError) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "string_type":
        return f"{key}: {first['input']!r} is not text: put names such as yes, no or 1 in quotes"
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}: the keys are {', '.join(FolderConfig.model_fields)}"
    return f"{key}: {message}" if key else message


def _read_labels(
    names: LabelNames,
    drawn: Mapping[Path, DrawnPicture],
    read_mask_labels: Callable[[Path], Labels],
    path: Path,
) -> Labels:
    if path in drawn:
        return drawn[path].labels()
    if path.suffix.lower() == SHAPES_SUFFIX:
        return read_labelme(names, path)
    return read_mask_labels(path)


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


def _label_reader(config: FolderConfig) -> Callable[[Path], Labels]:
    """Return the function from a mask file to labels that the description asks for."""
    return partial(_read_colours if config.rgb_masks else _read_values, label_table(config))


def label_table(config: FolderConfig) -> UInt8[np.ndarray, " codes"]:
    """Return the label, or :data:`UNKNOWN`, of every raw value, or of every colour's code."""
    if config.rgb_masks:
        assert config.colours is not None
        table = np.full(1 << 24, UNKNOWN, np.uint8)
        for label, colour in enumerate(config.colours):
            table[colour_code(np.array(colour))] = label
        for colour in config.ignored_colours:
            table[colour_code(np.array(colour))] = IGNORE
    elif config.ids is not None:
        table = np.full(_VALUES, IGNORE, np.uint8)
        table[list(config.ids)] = list(config.ids.values())
    else:
        table = np.full(_VALUES, UNKNOWN, np.uint8)
        table[: len(config.classes)] = range(len(config.classes))
        table[config.ignore] = IGNORE
    return table


def _read_values(table: UInt8[np.ndarray, "values"], path: Path) -> Labels:
    values = read_mask(path)
    if values.ndim != 2:
        raise SctnetError(
            f"{path}: the mask holds colours, not class numbers: "
            "set rgb_masks: true, or save it with one channel"
        )
    if values.min() < 0 or values.max() >= _VALUES:
        raise SctnetError(f"{path}: the mask's values must lie between 0 and {_VALUES - 1}")
    labels = table.take(values)
    unknown = labels == UNKNOWN
    if unknown.any():
        raise SctnetError(
            f"{path}: the mask's value {values[unknown][0]} is neither a class nor ignore: "
            "correct the mask, or map its values by ids"
        )
    return labels


def _read_colours(table: UInt8[np.ndarray, "codes"], path: Path) -> Labels:
    values = read_mask(path)
    if values.ndim != 3:
        raise SctnetError(
            f"{path}: the mask holds one number per pixel, not colours: set rgb_masks: false"
        )
    labels = table.take(colour_code(values))
    unknown = labels == UNKNOWN
    if unknown.any():
        red, green, blue = values[unknown][0]
        raise SctnetError(
            f"{path}: the mask's colour [{red}, {green}, {blue}] is in neither colours nor "
            "ignored_colours: correct the mask, or add the colour to one of them"
        )
    return labels


def colour_code(rgb: Integer[np.ndarray, "*size 3"]) -> Integer[np.ndarray, "*size"]:
    """Return the number 65536 red + 256 green + blue."""
    red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
    return np.asarray(red << 16 | green << 8 | blue)
