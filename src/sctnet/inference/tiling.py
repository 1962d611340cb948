"""Pictures too large to be labelled at once: in windows that overlap, composed in bands of rows.

The logits of neighbouring windows are blended where they overlap, each with a weight that falls
to its window's edge, and the class with the largest wins. Only the windows that the current rows
touch are held, at the network's own stride: memory follows the picture's width, not its height.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

_BAND_PIXELS = 4_000_000


class Grid(NamedTuple):
    """Windows of one size, evenly spread over a picture."""

    size: tuple[int, int]
    """Height and width of the picture."""
    window: tuple[int, int]
    """Height and width of every window."""
    tops: list[int]
    lefts: list[int]


def window_grid(size: tuple[int, int], side: int, overlap: int) -> Grid:
    """Cover a picture with windows of ``side`` pixels (or its own, where that is less).

    Neighbours share ``overlap`` pixels or a few more.
    """
    window = (min(size[0], side), min(size[1], side))
    tops, lefts = (
        _starts(length, part, overlap) for length, part in zip(size, window, strict=True)
    )
    return Grid(size, window, tops, lefts)


def _starts(length: int, part: int, overlap: int) -> list[int]:
    if part == length:
        return [0]
    count = -(-(length - overlap) // (part - overlap))
    return [round(start) for start in np.linspace(0, length - part, count)]


def blending_weights(starts: list[int], part: int, length: int) -> Float[Tensor, "n part"]:
    """Return each window's weights along one side; at every pixel of the side they sum to 1."""
    ramp = torch.minimum(torch.arange(1, part + 1), torch.arange(part, 0, -1)).double()
    # Flat where windows stand alone, and with a slope only where they overlap.
    closest = min((after - start for start, after in pairwise(starts)), default=part)
    ramp = ramp.clamp(max=max(1, part - closest))
    total = torch.zeros(length, dtype=torch.float64)
    for start in starts:
        total[start : start + part] += ramp
    return torch.stack([ramp / total[start : start + part] for start in starts]).float()


class ComposedLogits:
    """The logits of a whole picture at its size, computed window by window, read from the top.

    ``window_logits`` receives windows, n x 3 x h x w, and returns their logits; ``working`` is the
    size at which a window passes the network, to which its logits are resized before they are
    brought to the window's.
    """

    def __init__(
        self,
        image: UInt8[Tensor, "3 h w"],
        classes: int,
        grid: Grid,
        working: tuple[int, int],
        window_logits: Callable[[Tensor], Tensor],
        most_windows: int = 1,
    ) -> None:
        self.classes, self.size = classes, grid.size
        self._image, self._grid, self._working = image, grid, working
        self._window_logits, self._most_windows = window_logits, most_windows
        weights = (
            blending_weights(starts, part, length).to(image.device)
            for starts, part, length in zip(
                (grid.tops, grid.lefts), grid.window, grid.size, strict=True
            )
        )
        self._down, self._across = weights
        self._kept: dict[int, Float[Tensor, "n k hl wl"]] = {}

    def bands(self) -> Iterator[tuple[slice, Iterator[Float[Tensor, "rows w"]]]]:
        """Yield the picture's rows, band by band, each with the logits of class after class.

        All classes of a band are to be taken before the next band.
        """
        height, width = self._grid.size
        step = max(1, _BAND_PIXELS // width)
        for first in range(0, height, step):
            rows = slice(first, min(first + step, height))
            self._keep_only(rows)
            yield rows, self._classes(rows)

    def _keep_only(self, rows: slice) -> None:
        """Hold the logits of the windows that these rows touch, and of no others."""
        touched = [
            number
            for number, top in enumerate(self._grid.tops)
            if top < rows.stop and rows.start < top + self._grid.window[0]
        ]
        self._kept = {number: kept for number, kept in self._kept.items() if number in touched}
        for number in touched:
            if number not in self._kept:
                self._kept[number] = self._row_of_windows(self._grid.tops[number])

    def _row_of_windows(self, top: int) -> Float[Tensor, "n k hl wl"]:
        height, width = self._grid.window
        strip = self._image[:, top : top + height]
        logits = []
        for first in range(0, len(self._grid.lefts), self._most_windows):
            lefts = self._grid.lefts[first : first + self._most_windows]
            windows = [strip[..., left : left + width] for left in lefts]
            # One alone is not copied: it may be the whole of a picture that fits only once.
            batch = windows[0][None] if len(windows) == 1 else torch.stack(windows)
            logits.append(self._window_logits(batch).float())
        return torch.cat(logits)

    def _classes(self, rows: slice) -> Iterator[Float[Tensor, "rows w"]]:
        for index in range(self.classes):
            yield self._blended(rows, index)

    def _blended(self, rows: slice, index: int) -> Float[Tensor, "rows w"]:
        height, width = self._grid.window
        shape = (rows.stop - rows.start, self._grid.size[1])
        total = torch.zeros(shape, device=self._image.device)
        for number, logits in self._kept.items():
            top = self._grid.tops[number]
            first, last = max(rows.start, top), min(rows.stop, top + height)
            part = resized_rows(
                logits[:, index], [self._working, (height, width)], first - top, last - top
            )
            down = self._down[number, first - top : last - top, None]
            target = total[first - rows.start : last - rows.start]
            for column, left in enumerate(self._grid.lefts):
                target[:, left : left + width] += part[column] * (down * self._across[column])
        return total


def resized_rows(
    maps: Float[Tensor, "n h w"], sizes: list[tuple[int, int]], first: int, last: int
) -> Float[Tensor, "n rows wr"]:
    """Resize maps to each (height, width) in turn; of the last, return the rows asked for.

    The rows of ``F.interpolate`` (bilinear, align_corners=False), up to rounding.
    """
    if not sizes:
        return maps[:, first:last]
    height, width = sizes[-1]
    source_height = sizes[-2][0] if len(sizes) > 1 else maps.shape[1]
    middles = torch.arange(first, last, dtype=torch.float64, device=maps.device) + 0.5
    places = (middles * (source_height / height) - 0.5).clamp(min=0)
    above = places.long()
    below = (above + (source_height != height)).clamp(max=source_height - 1)
    start, stop = int(above[0]), int(below[-1]) + 1
    source = resized_rows(maps, sizes[:-1], start, stop)
    if source.shape[2] != width:
        source = F.interpolate(
            source[None], (stop - start, width), mode="bilinear", align_corners=False
        )[0]
    if source_height == height:
        return source
    share = (places - above).float()[:, None]
    return source[:, above - start] * (1 - share) + source[:, below - start] * share


def composed_labels(composed: ComposedLogits) -> np.ndarray:
    """Return the class with the largest logit of every pixel, of equals the lowest, on the CPU.

    uint8 up to 255 classes, else uint16.
    """
    labels = np.empty(composed.size, np.uint8 if composed.classes <= 255 else np.uint16)
    for rows, logits in composed.bands():
        largest = next(logits)
        found = torch.zeros_like(largest, dtype=torch.int32)
        for index, candidate in enumerate(logits, start=1):
            found.masked_fill_(candidate > largest, index)
            torch.maximum(largest, candidate, out=largest)
        labels[rows] = found.cpu().numpy()
    return labels


def composed_probabilities(composed: ComposedLogits) -> Float[np.ndarray, "k h w"]:
    """Return the softmax of the logits of every pixel, on the CPU."""
    probabilities = np.empty((composed.classes, *composed.size), np.float32)
    for rows, logits in composed.bands():
        probabilities[:, rows] = torch.stack(list(logits)).softmax(dim=0).cpu().numpy()
    return probabilities
