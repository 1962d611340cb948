"""The overlay on a frame of a video, drawn in its YUV planes.

The result equals :func:`sctnet.pictures.overlay.overlay` in half the time. Blending is linear in
YUV as in RGB, so no conversion to RGB and back is needed.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Integer, UInt8

from sctnet.pictures.legend import KEPT, Layer, Legend
from sctnet.pictures.overlay import boundaries_of
from sctnet.pictures.palette import Colour

Standard = Literal["BT.601", "BT.709"]
"""By which red, green and blue become brightness and colour differences."""

_RED_AND_BLUE = {"BT.601": (0.299, 0.114), "BT.709": (0.2126, 0.0722)}  # shares in the brightness
_ZERO = (16.0, 128.0, 128.0)  # what black has; brightness ends at 235, the differences at 240
_LIGHTER = (np.arange(256) // 2 + 111).astype(np.uint8)  # half the value and 120, as in RGB


class Planes(NamedTuple):
    """A picture of even sides, 4:2:0, 8 bits, limited range: three arrays that may be views."""

    brightness: UInt8[np.ndarray, "h w"]
    blue: UInt8[np.ndarray, "half_h half_w"]
    red: UInt8[np.ndarray, "half_h half_w"]


def overlay_planes(
    source: Planes,
    target: Planes,
    labels: Integer[np.ndarray, "h w"],
    colours: Sequence[Colour],
    alpha: float,
    standard: Standard,
    legend: Legend | None,
) -> None:
    """Write into ``target`` what ``source`` shows, tinted with the classes' colours.

    ``alpha`` is the share of the colour. Every label is one of a class. Boundaries are lighter,
    but keep their colour.
    """
    tables = np.rint(_components(np.array(colours, np.uint8), standard)).astype(np.uint8).T
    quarter = np.ascontiguousarray(labels[::2, ::2])
    for plane, drawn, shown, table in zip(
        source, target, (labels, quarter, quarter), tables, strict=True
    ):
        cv2.addWeighted(plane, 1 - alpha, _looked_up(shown, table), alpha, 0, drawn)
    bright = target.brightness
    cv2.copyTo(cv2.LUT(bright, _LIGHTER), boundaries_of(labels), bright)
    if legend is not None:
        for plane, layer in zip(target, _layers(legend, standard), strict=True):
            layer.lay_over(plane)


def _looked_up(
    labels: Integer[np.ndarray, "h w"], table: UInt8[np.ndarray, "k"]
) -> UInt8[np.ndarray, "h w"]:
    if labels.dtype != np.uint8:
        found: np.ndarray = table[labels]
        return found
    whole = np.zeros(256, np.uint8)
    whole[: len(table)] = table[:256]
    return np.asarray(cv2.LUT(labels, whole))


def _components(
    colours: UInt8[np.ndarray, "*n 3"], standard: Standard
) -> Float[np.ndarray, "*n 3"]:
    """Return brightness and colour differences, in steps of 8 bits in the limited range."""
    red_share, blue_share = _RED_AND_BLUE[standard]
    red, green, blue = np.moveaxis(colours / 255, -1, 0)
    bright = red_share * red + (1 - red_share - blue_share) * green + blue_share * blue
    return np.stack(
        [
            _ZERO[0] + 219 * bright,
            _ZERO[1] + 112 * (blue - bright) / (1 - blue_share),
            _ZERO[2] + 112 * (red - bright) / (1 - red_share),
        ],
        axis=-1,
    )


@lru_cache(maxsize=16)
def _layers(legend: Legend, standard: Standard) -> tuple[Layer, Layer, Layer]:
    """Return a strip for each plane, with an even number of rows."""
    kept, ink = legend.layer()
    odd = len(kept) % 2
    share = np.pad(kept, ((odd, 0), (0, 0)), "edge") / KEPT
    # What is kept of zero has to be added to what the ink adds to it.
    added = _components(np.pad(ink, ((odd, 0), (0, 0), (0, 0)), "edge"), standard)
    added -= share[..., None] * _ZERO
    half = legend.width // 2, len(share) // 2
    layers = []
    for index, size in enumerate((None, half, half)):
        values = [share, added[..., index]]
        if size is not None:
            values = [cv2.resize(value, size, interpolation=cv2.INTER_AREA) for value in values]
        layers.append(
            Layer(np.rint(KEPT * values[0]).astype(np.uint16), np.rint(values[1]).astype(np.uint8))
        )
    return layers[0], layers[1], layers[2]
