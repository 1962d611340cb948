"""From a mask's class numbers, other values or RGB colours to the labels of a data set."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Integer, UInt8

from sctnet.data.dataset import IGNORE, Colour, Labels
from sctnet.data.dataset_yaml import RAW_VALUE_LIMIT, FolderConfig
from sctnet.data.images import read_mask, read_mask_encoding
from sctnet.data.published_layouts import UNKNOWN
from sctnet.errors import SctnetError


def label_reader(config: FolderConfig, reduce: bool) -> Callable[[Path], Labels]:
    """Return the function from a mask file to labels that the description asks for.

    ``reduce`` is that of :func:`~sctnet.data.images.read_mask`.
    """
    if config.rgb_masks == "mixed":
        return partial(_read_either, value_table(config), value_table(config, True), reduce)
    if config.rgb_masks:
        return partial(_read_colours, value_table(config, True), reduce)
    return partial(_read_values, value_table(config))


def value_table(config: FolderConfig, of_colours: bool = False) -> UInt8[np.ndarray, " codes"]:
    """Return the label, or :data:`UNKNOWN`, of every raw value, or of every colour's code."""
    if of_colours:
        assert config.colours is not None
        table = colour_lookup(config.colours, config.ignored_colours)
    elif config.ids is not None:
        table = np.full(RAW_VALUE_LIMIT, IGNORE, np.uint8)
        table[list(config.ids)] = list(config.ids.values())
    else:
        table = np.full(RAW_VALUE_LIMIT, UNKNOWN, np.uint8)
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
    return _labels_of_values(table, values, path)


def _read_colours(table: UInt8[np.ndarray, "codes"], reduce: bool, path: Path) -> Labels:
    values = read_mask(path, reduce=reduce)
    if values.ndim != 3:
        raise SctnetError(
            f"{path}: the mask holds one number per pixel, not colours: set rgb_masks: false"
        )
    return _labels_of_colours(table, values, path)


def _read_either(
    of_values: UInt8[np.ndarray, "values"],
    of_colours: UInt8[np.ndarray, "codes"],
    reduce: bool,
    path: Path,
) -> Labels:
    values = as_meant(read_mask(path, reduce=reduce), of_colours, path)
    if values.ndim == 3:
        return _labels_of_colours(of_colours, values, path)
    return _labels_of_values(of_values, values, path)


def as_meant(
    values: Integer[np.ndarray, "h w *stored"], of_colours: UInt8[np.ndarray, "codes"], path: Path
) -> Integer[np.ndarray, "h w *meant"]:
    """Return a mask's colours where its palette has those of classes alone, else what it stores."""
    if values.ndim == 3 or values.dtype != np.uint8:
        return values
    palette = np.array(read_mask_encoding(path).palette, np.uint8)
    if not len(palette) or values.max() >= len(palette):
        return values
    used = palette[np.unique(values)]
    if (of_colours.take(colour_code(used)) == UNKNOWN).any():
        return values
    return np.asarray(palette[values])


def _labels_of_values(
    table: UInt8[np.ndarray, "values"], values: Integer[np.ndarray, "h w"], path: Path
) -> Labels:
    if values.dtype != np.uint8 and (values.min() < 0 or values.max() >= RAW_VALUE_LIMIT):
        raise SctnetError(f"{path}: the mask's values must lie between 0 and {RAW_VALUE_LIMIT - 1}")
    # Of bytes, OpenCV's look-up takes a third of NumPy's time.
    labels = cv2.LUT(values, table[:256]) if values.dtype == np.uint8 else table.take(values)
    unknown = labels == UNKNOWN
    if unknown.any():
        raise SctnetError(
            f"{path}: the mask's value {values[unknown][0]} is neither a class nor ignore: "
            "correct the mask, or map its values by ids"
        )
    return np.asarray(labels)


def _labels_of_colours(
    table: UInt8[np.ndarray, "codes"], values: Integer[np.ndarray, "h w 3"], path: Path
) -> Labels:
    labels = table.take(colour_code(values))
    unknown = labels == UNKNOWN
    if unknown.any():
        red, green, blue = values[unknown][0]
        raise SctnetError(
            f"{path}: the mask's colour [{red}, {green}, {blue}] is in neither colours nor "
            "ignored_colours: correct the mask, or add the colour to one of them"
        )
    return labels


def colour_lookup(
    colours: Sequence[Colour], ignored_colours: Sequence[Colour]
) -> UInt8[np.ndarray, "16777216"]:
    """Return the label of every :func:`colour_code`; those of neither argument are UNKNOWN."""
    table = np.full(1 << 24, UNKNOWN, np.uint8)
    for label, colour in enumerate(colours):
        table[colour_code(np.array(colour))] = label
    for colour in ignored_colours:
        table[colour_code(np.array(colour))] = IGNORE
    return table


def colour_code(rgb: Integer[np.ndarray, "*size 3"]) -> Integer[np.ndarray, "*size"]:
    """Return the number 65536 red + 256 green + blue."""
    red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
    return np.asarray(red << 16 | green << 8 | blue)
