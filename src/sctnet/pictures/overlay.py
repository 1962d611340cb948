"""The overlay of a label map on its picture."""

from collections.abc import Collection, Sequence

import cv2
import numpy as np
from jaxtyping import Integer, UInt8

from sctnet.errors import SctnetError
from sctnet.pictures.legend import find_legend
from sctnet.pictures.palette import Colour

Picture = UInt8[np.ndarray, "h w 3"]
LabelMap = Integer[np.ndarray, "h w"]

_BAND = 512  # rows that are tinted at a time: a picture of gigabytes is held once
_LIGHT = np.uint8(120)  # what a boundary adds to half of a value


def overlay(
    image: Picture,
    labels: Integer[np.ndarray, "_ _"],
    colours: Sequence[Colour],
    classes: Sequence[str],
    alpha: float = 0.5,
    legend: bool = True,
    boundaries: bool = True,
    shown: Collection[int] | None = None,
) -> Picture:
    """Tint every pixel of an RGB picture, H x W x 3, with its class's colour.

    ``alpha`` is the opacity of the colour. Thin light lines separate the classes, and a strip at
    the bottom names those that occur; lines and letters scale with the picture. Pixels without a
    class, or of a class that is not ``shown``, change only below that strip. A picture that is too
    small for readable letters gets no legend. With too many classes the legend names the largest
    and counts the others.
    """
    if image.shape[:2] != labels.shape:
        raise SctnetError(
            f"an image of {image.shape[:2]} and labels of {labels.shape} (height, width) cannot "
            "be laid over each other: give labels of the image's size"
        )
    check_alpha(alpha)
    if shown is not None:
        labels = np.where(np.isin(labels, list(shown)), labels, np.iinfo(labels.dtype).max)
    result = image.copy()
    for top in range(0, len(result), _BAND):
        rows = slice(top, top + _BAND)
        _tint(result[rows], labels[rows], colours, alpha)
    if boundaries:
        lines = boundaries_of(labels)
        lines[labels >= len(colours)] = 0
        cv2.copyTo((result >> 1) + _LIGHT, lines, result)
    if legend:
        pixels = np.bincount(labels.ravel(), minlength=len(classes))[: len(classes)]
        strip = find_legend(labels.shape, pixels, colours, classes)
        if strip is not None:
            strip.layer().lay_over(result)
    return result


def check_alpha(alpha: float) -> None:
    """Raise :class:`SctnetError` for a value outside 0 to 1."""
    if not 0 <= alpha <= 1:
        raise SctnetError(f"alpha {alpha}: give 0 (the picture alone) to 1 (the colours alone)")


def _tint(picture: Picture, labels: LabelMap, colours: Sequence[Colour], alpha: float) -> None:
    """Lay the classes' colours over a picture, in place."""
    blend = cv2.addWeighted(picture, 1 - alpha, _tints(labels, colours), alpha, 0)
    known = labels < len(colours)
    if known.all():
        picture[:] = blend
    else:
        np.copyto(picture, blend, where=known[..., None])


def _tints(labels: LabelMap, colours: Sequence[Colour]) -> Picture:
    if labels.dtype != np.uint8:
        tints: Picture = np.asarray(colours, np.uint8)[np.minimum(labels, len(colours) - 1)]
        return tints
    # A look-up of four bytes is faster than one of three; the fourth is not used.
    table = np.zeros((256, 4), np.uint8)
    table[: len(colours), :3] = colours[:256]
    found = cv2.LUT(np.ascontiguousarray(labels), table.view(np.int32))
    return np.asarray(
        cv2.cvtColor(found.view(np.uint8).reshape(*labels.shape, 4), cv2.COLOR_RGBA2RGB)
    )


def boundaries_of(labels: LabelMap) -> UInt8[np.ndarray, "h w"]:
    """Return 1 where a label differs from the one to its left or above, thicker in large maps."""
    changes = np.zeros(labels.shape, bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=changes[:, 1:])
    changes[1:] |= labels[1:] != labels[:-1]
    lines: np.ndarray = changes.view(np.uint8)
    thickness = round(min(labels.shape) / 500)
    if thickness > 1:
        lines = cv2.dilate(lines, np.ones((thickness, thickness), np.uint8))
    return lines
