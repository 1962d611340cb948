"""How alike two pictures are: finds copies that were re-encoded, resized or cropped at a border.

Details of a thumbnail are compared, not its light and shadow, which differ little between pictures
of one kind. A copy is looked for among windows of the other picture; then the likeliest are laid
over each other by ECC (Evangelidis and Psarakis, 2008), whose correlation is the likeness.
Measured on CamVid, 40 pictures changed in 12 ways (JPEG of quality 10, a quarter of the size, made
square, up to a tenth cropped at each side, lighter): all have 0.94 or more with their original. Of
400 pairs from different drives the most is 0.31. Of successive frames, a second to a fifteenth of
one apart, 19 % have 0.92 (those of a standing car, and the nearest in time), 84 % have 0.4.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from os import cpu_count
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from sctnet.data.dataset import Picture
from sctnet.data.streams import in_threads

COPY = 0.92
"""The likeness from which two pictures count as one."""
MOST = 10_000
"""Pictures among which copies are looked for: the time grows with the square, here to minutes."""

Thumbnail = UInt8[np.ndarray, "_ _"]

_SIDE = 128  # pixels of a thumbnail's longer side
_SMALLEST = 24  # pixels: smaller pictures have no details
_DETAIL = 4.0  # pixels of a thumbnail: the deviation of the blur that is taken away
_FAINT = np.float32(2)  # levels of grey: weaker details are noise
_GRID = 16  # rows and columns of a description
_CANDIDATES = 5  # that are laid over a picture
_LIKELY = 0.6  # correlation of descriptions from which that is worth its time
_UNTIL = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-4)
_STEADIED = 5  # pixels of ECC's own blur
_CHUNK = 64  # pictures whose windows are described at a time

# A border of up to a tenth at each side, or a fifth at one: where a window begins, and its size.
_SPANS = [(0.0, 1.0), (0.0, 0.9), (0.05, 0.9), (0.1, 0.9), (0.0, 0.8), (0.1, 0.8), (0.2, 0.8)]
_WINDOWS = [(x, y, width, height) for (y, height), (x, width) in product(_SPANS, _SPANS)]


class Pair(NamedTuple):
    """Two pictures by their numbers, and how alike they are."""

    first: int
    second: int
    likeness: float


def thumbnail(picture: Picture) -> Thumbnail | None:
    """Return a small grey copy; None for a picture too small to be told from others."""
    height, width = picture.shape[:2]
    if min(height, width) < _SMALLEST:
        return None
    scale = _SIDE / max(height, width)
    size = max(_GRID, round(width * scale)), max(_GRID, round(height * scale))
    return np.asarray(
        cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
    )


def likeness(one: Thumbnail, other: Thumbnail) -> float:
    """Return how alike two pictures are, of which one may be a part of the other: -1 to 1."""
    of_one, of_other = _described(one), _described(other)
    in_one, in_other = of_one @ of_other[0], of_other @ of_one[0]
    if in_one.max() >= in_other.max():
        return _overlaid(one, other, int(in_one.argmax()))
    return _overlaid(other, one, int(in_other.argmax()))


def copies_between(
    first: Sequence[Thumbnail | None], second: Sequence[Thumbnail | None]
) -> list[Pair]:
    """Return the pairs of a picture of the first and one of the second that count as one."""
    pairs = [*_copies(first, second)]
    pairs += [Pair(one, other, value) for other, one, value in _copies(second, first)]
    return list({pair[:2]: pair for pair in sorted(pairs)}.values())


def copies_within(pictures: Sequence[Thumbnail | None]) -> list[Pair]:
    """Return the pairs of pictures that count as one, each once."""
    pairs = (
        Pair(min(one, other), max(one, other), value)
        for one, other, value in _copies(pictures, pictures)
    )
    return list({pair[:2]: pair for pair in sorted(pairs)}.values())


def _copies(
    wholes: Sequence[Thumbnail | None], parts: Sequence[Thumbnail | None]
) -> Iterator[Pair]:
    """Yield the pairs of which the second is the first, or a part of it."""
    described = [_none() if part is None else _described(part)[:1] for part in parts]
    if not described:
        return
    descriptions = np.concatenate(described)
    candidates = (
        candidate
        for start in range(0, len(wholes), _CHUNK)
        for candidate in _likely(wholes, start, descriptions, wholes is parts)
    )

    def compare(candidate: tuple[int, int, int]) -> Pair:
        whole, part, window = candidate
        one, other = wholes[whole], parts[part]
        assert one is not None
        assert other is not None
        return Pair(whole, part, _overlaid(one, other, window))

    for pair in in_threads(compare, candidates, min(8, cpu_count() or 1)):
        if pair.likeness >= COPY:
            yield pair


def _likely(
    wholes: Sequence[Thumbnail | None],
    start: int,
    parts: Float32[np.ndarray, "n d"],
    is_itself: bool,
) -> Iterator[tuple[int, int, int]]:
    """Yield the likeliest pairs of a chunk, each with the window that the second seems to be."""
    chunk = wholes[start : start + _CHUNK]
    windows = np.stack(
        [
            np.repeat(_none(), len(_WINDOWS), 0) if each is None else _described(each)
            for each in chunk
        ]
    )
    scores = (windows.reshape(-1, windows.shape[-1]) @ parts.T).reshape(
        len(chunk), len(_WINDOWS), -1
    )
    best, which = scores.max(axis=1), scores.argmax(axis=1)
    for row in range(len(chunk)):
        if is_itself:
            best[row, start + row] = -1
        for part in np.argsort(-best[row], kind="stable")[:_CANDIDATES].tolist():
            if best[row, part] >= _LIKELY:
                yield start + row, part, int(which[row, part])


def _described(picture: Thumbnail) -> Float32[np.ndarray, "windows d"]:
    """Return the details in every window of a picture, the whole one first, each of length 1."""
    height, width = picture.shape
    details = _details(picture, _DETAIL, _DETAIL)
    details = cv2.blur(details, (max(1, width // _GRID), max(1, height // _GRID)))
    rows = []
    for window in _WINDOWS:
        warp = _onto(window, (_GRID, _GRID), (height, width))
        cells = cv2.warpAffine(
            details,
            warp,
            (_GRID, _GRID),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        ).ravel()
        cells = cells - cells.mean()
        rows.append(cells / max(float(np.linalg.norm(cells)), 1e-3))
    return np.array(rows, np.float32)


def _none() -> Float32[np.ndarray, "1 d"]:
    return np.zeros((1, _GRID * _GRID), np.float32)


def _overlaid(whole: Thumbnail, part: Thumbnail, window: int) -> float:
    """Lay a picture over the window of another, move it until it fits best, and compare them."""
    warp = _onto(_WINDOWS[window], part.shape, whole.shape)
    below = _details(whole, _DETAIL * float(warp[0, 0]), _DETAIL * float(warp[1, 1]))
    above = _details(part, _DETAIL, _DETAIL)
    everywhere = np.ones(below.shape, np.uint8)
    try:
        value, _ = cv2.findTransformECC(
            above, below, warp, cv2.MOTION_AFFINE, _UNTIL, everywhere, _STEADIED
        )
    except cv2.error:  # which ECC raises where nothing fits
        return -1.0
    return float(value)


def _details(picture: Thumbnail, across: float, down: float) -> Float32[np.ndarray, "h w"]:
    """Return what a blur takes away, everywhere of one strength: no edge outweighs the rest."""

    def blurred(values: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
        return np.asarray(
            cv2.GaussianBlur(values, (0, 0), across, sigmaY=down, borderType=cv2.BORDER_REFLECT)
        )

    values = picture.astype(np.float32)
    details = values - blurred(values)
    return np.asarray(details / (np.sqrt(blurred(details * details)) + _FAINT))


def _onto(
    window: tuple[float, float, float, float], size: tuple[int, int], whole: tuple[int, int]
) -> Float32[np.ndarray, "2 3"]:
    """Return the map from pixels of a picture to those of another, whose window it fills."""
    x, y, width, height = window
    across, down = width * whole[1] / size[1], height * whole[0] / size[0]
    return np.array(
        [
            [across, 0, x * whole[1] + (across - 1) / 2],
            [0, down, y * whole[0] + (down - 1) / 2],
        ],
        np.float32,
    )
