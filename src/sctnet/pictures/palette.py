"""Colours of classes, and label maps as files."""

from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int, Integer, UInt8
from PIL import Image

from sctnet.errors import SctnetError
from sctnet.pipeline.label_dtype import UINT8_CLASSES
from sctnet.writing import write_whole

Colour = tuple[int, int, int]
"""Red, green, blue; 0 to 255."""

MAX_CLASSES = 65535
"""A 16-bit label map holds this many classes beside the value for pixels without a class."""

_SEPARATED = 256  # colours are chosen one by one up to here; people cannot tell more apart
_LEVELS = 41  # 41 levels a channel are the fewest whose cube exceeds MAX_CLASSES


def default_palette(count: int) -> tuple[Colour, ...]:
    """Return ``count`` different colours (at most 65535), the first of them far apart.

    The first 256 are chosen greedily: each is the colour of the candidates that lies farthest, in
    CIELAB, from all before it. A shorter palette is therefore the beginning of a longer one.
    """
    if not 1 <= count <= MAX_CLASSES:
        raise SctnetError(f"a palette of {count} colours: ask for 1 to {MAX_CLASSES}")
    candidates, order = _candidates(), _separated_order(min(count, _SEPARATED))
    if count > _SEPARATED:
        rest = np.setdiff1d(np.arange(len(candidates)), order)
        # A stride of the golden ratio, so that neighbours in the cube are far apart in the list.
        stride = int(len(rest) * 0.6180339887) | 1
        while np.gcd(stride, len(rest)) != 1:
            stride += 2
        order = np.concatenate([order, rest[np.arange(len(rest)) * stride % len(rest)]])
    return tuple((int(r), int(g), int(b)) for r, g, b in candidates[order[:count]])


def _candidates() -> UInt8[np.ndarray, "n 3"]:
    levels = np.round(np.linspace(0, 255, _LEVELS)).astype(np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)


@lru_cache(maxsize=8)
def _separated_order(count: int) -> Int[np.ndarray, "n"]:
    """Return the candidates' indices by farthest-point selection, starting at a calm blue."""
    candidates = _candidates()
    lab = cv2.cvtColor(candidates[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    # Neither near black or white, which overlays use for lines and letters, nor grey, which is
    # most of a street, nor so saturated that the eye sees nothing else.
    pleasant = np.flatnonzero((lightness > 35) & (lightness < 88) & (chroma > 25) & (chroma < 72))
    lab = lab[pleasant]
    chosen = [int(np.argmin(np.linalg.norm(lab - (52, 0, -45), axis=1)))]
    distance = np.full(len(lab), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.square(lab - lab[chosen[-1]]).sum(axis=1))
        chosen.append(int(np.argmax(distance)))
    return pleasant[chosen]


def save_label_map(
    labels: Integer[np.ndarray, "h w"], colours: Sequence[Colour], path: str | Path
) -> None:
    """Save class indices, H x W, as :func:`encode_label_map` makes them.

    Raises :class:`SctnetError` for a path that does not end in .png or cannot be written.
    """
    if Path(path).suffix.lower() != ".png":
        raise SctnetError(f"{path}: a label map is exact only as a PNG; end its name in .png")
    write_whole(path, encode_label_map(labels, colours))


def encode_label_map(labels: Integer[np.ndarray, "h w"], colours: Sequence[Colour]) -> bytes:
    """Return class indices, H x W, as a PNG whose pixel values are the indices themselves.

    Up to 255 classes it is a paletted PNG, shown in the classes' colours and black where a pixel
    has no class; above that, a grey PNG of 16 bits.
    """
    if len(colours) > UINT8_CLASSES:
        picture = Image.fromarray(labels.astype(np.uint16))
    else:
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(colours)] = colours
        picture = Image.fromarray(labels.astype(np.uint8, copy=False))
        picture.putpalette(palette.tobytes())
    content = BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()
