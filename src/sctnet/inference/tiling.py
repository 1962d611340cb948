"""Tiled prediction: overlapping windows, composed in bands of rows.

The logits of neighbouring windows are blended where they overlap, each with a weight that falls
to its window's edge, and the class with the largest wins. Only the windows that the current rows
touch are held, at the network's own stride: memory follows the picture's width, not its height.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from sctnet.pipeline.argmax_torch import resize_region, torch_label_dtype
from sctnet.pipeline.label_dtype import label_dtype
from sctnet.pipeline.label_map import label_map

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
    resized to the window's.
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
        everywhere = slice(0, self.size[1])
        for rows in self._bands():
            yield rows, self._blended(rows, everywhere)

    def labels(self) -> Iterator[tuple[slice, slice, Integer[Tensor, "rows columns"]]]:
        """Yield rows, columns and the labels there, until the picture is covered.

        Logits are blended only where windows overlap.
        """
        stretches = _stretches(self._grid.lefts, self._grid.window[1])
        for rows in self._bands():
            for columns, across in stretches:
                if len(self._kept) == len(across) == 1:
                    yield rows, columns, self._labels_of_one(rows, columns, across[0])
                else:
                    yield rows, columns, _largest(self._blended(rows, columns), self.classes)

    def _bands(self) -> Iterator[slice]:
        """Yield the picture's rows, band by band, with the logits of their windows kept."""
        step = max(1, _BAND_PIXELS // self._grid.size[1])
        for stretch, down in _stretches(self._grid.tops, self._grid.window[0]):
            for first in range(stretch.start, stretch.stop, step):
                self._keep_only(down)
                yield slice(first, min(first + step, stretch.stop))

    def _keep_only(self, touched: list[int]) -> None:
        """Hold the logits of these rows of windows, and of no others."""
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

    def _labels_of_one(
        self, rows: slice, columns: slice, column: int
    ) -> Integer[Tensor, "rows columns"]:
        ((number, logits),) = self._kept.items()
        top, left = self._grid.tops[number], self._grid.lefts[column]
        return label_map(
            logits[column : column + 1],
            self._working,
            self._grid.window,
            rows=slice(rows.start - top, rows.stop - top),
            columns=slice(columns.start - left, columns.stop - left),
        )[0]

    def _blended(self, rows: slice, columns: slice) -> Iterator[Float[Tensor, "rows columns"]]:
        """Yield the logits of class after class, blended of all windows that are there."""
        for index in range(self.classes):
            yield self._blended_class(rows, columns, index)

    def _blended_class(
        self, rows: slice, columns: slice, index: int
    ) -> Float[Tensor, "rows columns"]:
        height, width = self._grid.window
        shape = rows.stop - rows.start, columns.stop - columns.start
        total = torch.zeros(shape, device=self._image.device)
        for number, logits in self._kept.items():
            top = self._grid.tops[number]
            inside = slice(rows.start - top, rows.stop - top)
            down = self._down[number, inside, None]
            for column, left in enumerate(self._grid.lefts):
                begin, end = max(columns.start, left), min(columns.stop, left + width)
                if begin >= end:
                    continue
                beside = slice(begin - left, end - left)
                sizes = (self._working, (height, width))
                part = resize_region(logits[column, index], sizes, inside, beside)
                target = total[:, begin - columns.start : end - columns.start]
                target += part * (down * self._across[column, beside])
        return total


def _stretches(starts: list[int], part: int) -> list[tuple[slice, list[int]]]:
    """Cut a side where windows begin and end: the stretches, and the windows that cover each."""
    edges = sorted({*starts, *(start + part for start in starts)})
    return [
        (
            slice(begin, end),
            [n for n, start in enumerate(starts) if start <= begin and end <= start + part],
        )
        for begin, end in pairwise(edges)
    ]


def composed_labels(composed: ComposedLogits) -> np.ndarray:
    """Return the class with the largest logit of every pixel, of equals the lowest, on the CPU.

    uint8 up to 255 classes, else uint16.
    """
    labels = np.empty(composed.size, label_dtype(composed.classes))
    for rows, columns, found in composed.labels():
        labels[rows, columns] = found.cpu().numpy()
    return labels


def _largest(
    logits: Iterator[Float[Tensor, "rows columns"]], classes: int
) -> Integer[Tensor, "rows columns"]:
    largest = next(logits)
    found = torch.zeros_like(largest, dtype=torch.int32)
    for index, candidate in enumerate(logits, start=1):
        found.masked_fill_(candidate > largest, index)
        torch.maximum(largest, candidate, out=largest)
    return found.to(torch_label_dtype(classes))


def composed_probabilities(composed: ComposedLogits) -> Float[np.ndarray, "k h w"]:
    """Return the softmax of the logits of every pixel, on the CPU."""
    probabilities = np.empty((composed.classes, *composed.size), np.float32)
    for rows, logits in composed.bands():
        probabilities[:, rows] = torch.stack(list(logits)).softmax(dim=0).cpu().numpy()
    return probabilities
