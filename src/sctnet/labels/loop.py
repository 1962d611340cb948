"""The loop that makes a label map, as numba compiles it; importing this imports numba.

Most of a label map is uniform between neighbouring samples, and most of the rest is decided between
two or three classes. So the map is made in groups of pixels that read the same few samples:

- where one class is certain at all of these samples it is certain between them, since a bilinear
  resize, and a second one after it, averages samples with weights that are never negative and sum
  to 1: the group is filled;
- elsewhere a class can win only if its largest sample reaches the largest of all classes' smallest
  samples: these are interpolated, the others are not.

Both hold with room for rounding, and what is interpolated is computed in the order of PyTorch's
kernel for contiguous planes: ties fall as they fall there.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import boolean, float32, int32, njit, types, uint8, uint16

# What rounding can do to the difference of two classes, as a share of their size: some ten times
# the error of two resizes in float32.
_ROUNDING = np.float32(4e-6)
_LARGEST = np.finfo(np.float32).max
_RUN = 16
"""Groups of pixels of a row that are decided together, at most."""

Function = TypeVar("Function", bound=Callable[..., Any])


def _compiled(function: Function) -> Function:
    return _numba(function)  # type: ignore[no-any-return]


def _numba(function: Callable[..., Any], signatures: Any = None, cache: bool = False) -> Any:
    # Unlike the rest of fast mathematics, contraction (a product and a sum rounded once) assumes
    # nothing about the values; PyTorch's kernels are compiled with it.
    options: Any = {"fastmath": {"contract"}, "nogil": True, "error_model": "numpy"}
    return njit(signatures, cache=cache, **options)(function)


def compiled_loop(wide: bool, cached: bool) -> Any:
    """Compile the loop for labels of two bytes, or of one; or take it from the disk's cache."""
    side = types.Tuple((int32[:, :, ::1], int32[:, :, ::1], float32[:, :, ::1]))  # type: ignore[no-untyped-call]
    kind = uint16 if wide else uint8
    signature = boolean(float32[:, :, :], int32, side, side, float32, kind[:, ::1], float32[:, ::1])
    return _numba(_fill, [signature], cache=cached)


def _fill(
    samples: Any, top: int, down: Any, across: Any, reach: Any, labels: Any, confidence: Any
) -> bool:
    """Make the label map of some rows; return whether all samples that it reads are finite.

    ``samples``, K x h x w, begin with row ``top`` of the map; ``down`` and ``across`` are its two
    sides, the groups those of ``labels``. Where ``confidence`` is not empty it receives the
    winner's softmax over the classes that come within ``reach`` of it.
    """
    classes, _, width = samples.shape
    spans, columns = down[0], across[0]
    first_row, first_column = spans[0, -1, 0], columns[0, -1, 0]
    held = _most(spans[:, :1])
    lines = np.empty((held, width, classes), np.float32)
    winners = np.empty((held, width), np.int32)
    loaded = np.full(held, -1, np.int32)
    agreed = np.empty(width, np.int32)
    low, high = np.empty(classes, np.float32), np.empty(classes, np.float32)
    can_win = np.empty(classes, np.bool_)
    candidates = np.empty(classes, np.int32)
    blocks = np.empty((4, _most(spans), _longest_run(columns)), np.float32)
    for group in range(len(spans)):
        for row in range(spans[group, 0, 0], spans[group, 0, 1]):
            slot = row % held
            if loaded[slot] != row:
                if not _load(samples, row - top, reach, lines[slot], winners[slot]):
                    return False
                loaded[slot] = row
        _agree(winners, spans[group, 0], agreed)
        begin, end = spans[group, -1, 0] - first_row, spans[group, -1, 1] - first_row
        place = 0
        while place < len(columns):
            label, first = _winner(agreed, columns[place, 0]), place
            left = columns[first, -1, 0] - first_column
            if label < 0:
                # Some of them together, and one more rather than one alone: long rows are computed
                # many pixels at a time.
                last, can_win[:] = min(first + _RUN, len(columns)), False
                while place < last and (
                    place < first + 2 or _winner(agreed, columns[place, 0]) < 0
                ):
                    _find_candidates(
                        lines, spans[group, 0], columns[place, 0], reach, low, high, can_win
                    )
                    place += 1
                _decide(
                    lines, _listed(can_win, candidates), spans[group], down,
                    _joined(columns[first], columns[place - 1]), across, blocks,
                    labels, confidence, begin, left,
                )  # fmt: skip
                continue
            # Neighbouring groups of one class are filled together.
            while place < len(columns) and _winner(agreed, columns[place, 0]) == label:
                place += 1
            right = columns[place - 1, -1, 1] - first_column
            labels[begin:end, left:right] = label
            confidence[begin:end, left:right] = 1
    return True


@_compiled
def _most(spans: Any) -> int:
    """Return the length of the longest of these spans."""
    most = 1
    for group in range(spans.shape[0]):
        for level in range(spans.shape[1]):
            most = max(most, spans[group, level, 1] - spans[group, level, 0])
    return most


@_compiled
def _longest_run(columns: Any) -> int:
    """Return how many places of one level are held for groups that are decided together."""
    most = 1
    for first in range(len(columns)):
        joined = _joined(columns[first], columns[min(first + _RUN, len(columns)) - 1])
        for level in range(len(joined)):
            most = max(most, joined[level, 1] - joined[level, 0])
    return most


@_compiled
def _joined(first: Any, last: Any) -> Any:
    """Return the span, at every level, of neighbouring groups."""
    joined = first.copy()
    joined[:, 1] = last[:, 1]
    return joined


@_compiled
def _load(samples: Any, row: int, reach: Any, line: Any, winners: Any) -> bool:
    """Copy a row of samples, classes last, and note the class that is certain at each, else -1.

    Return whether all are finite.
    """
    classes, _, width = samples.shape
    finite = True
    for column in range(width):
        largest = second = -_LARGEST
        winner = 0
        for index in range(classes):
            value = samples[index, row, column]
            line[column, index] = value
            finite &= abs(value) <= _LARGEST
            if value > largest:
                second, largest, winner = largest, value, index
            elif value > second:
                second = value
        room = reach + _ROUNDING * (abs(largest) + abs(second))
        winners[column] = winner if largest - second > room or classes == 1 else -1
    return finite


@_compiled
def _agree(winners: Any, rows: Any, agreed: Any) -> None:
    """Note the class that is certain in all of these rows of a column, else -1."""
    held = len(winners)
    agreed[:] = winners[rows[0] % held]
    for row in range(rows[0] + 1, rows[1]):
        others = winners[row % held]
        for column in range(len(agreed)):
            if agreed[column] != others[column]:
                agreed[column] = -1


@_compiled
def _winner(agreed: Any, columns: Any) -> int:
    label: int = agreed[columns[0]]
    for column in range(columns[0] + 1, columns[1]):
        if agreed[column] != label:
            return -1
    return label


@_compiled
def _find_candidates(
    lines: Any, rows: Any, columns: Any, reach: Any, low: Any, high: Any, can_win: Any
) -> None:
    """Note the classes that come within ``reach`` of winning somewhere between these samples."""
    classes = lines.shape[2]
    low[:], high[:] = _LARGEST, -_LARGEST
    for row in range(rows[0], rows[1]):
        slot = row % len(lines)
        for column in range(columns[0], columns[1]):
            for index in range(classes):
                value, lowest, highest = lines[slot, column, index], low[index], high[index]
                low[index] = value if value < lowest else lowest
                high[index] = value if value > highest else highest
    floor = low.max()
    for index in range(classes):
        room = reach + _ROUNDING * (abs(high[index]) + abs(floor))
        can_win[index] |= high[index] >= floor - room


@_compiled
def _listed(can_win: Any, candidates: Any) -> Any:
    """Return the numbers of the classes that can win, the lowest first."""
    count = 0
    for index in range(len(can_win)):
        if can_win[index]:
            candidates[count] = index
            count += 1
    return candidates[:count]


@_compiled
def _decide(
    lines: Any,
    candidates: Any,
    rows: Any,
    down: Any,
    columns: Any,
    across: Any,
    blocks: Any,
    labels: Any,
    confidence: Any,
    top: int,
    left: int,
) -> None:
    """Interpolate the candidates and let the largest win, of equals the lowest.

    ``top`` and ``left`` are the place in ``labels``. No part of an array is taken in these loops,
    which would cost more than they do, and the inner ones have no branches.
    """
    values, scratch, largest, total = blocks[0], blocks[1], blocks[2], blocks[3]
    height, width = rows[-1, 1] - rows[-1, 0], columns[-1, 1] - columns[-1, 0]
    _interpolate(lines, candidates[0], rows, down, columns, across, largest, scratch)
    for row in range(height):
        for column in range(width):
            labels[top + row, left + column] = candidates[0]
            total[row, column] = 1
    for number in range(1, len(candidates)):
        index = candidates[number]
        _interpolate(lines, index, rows, down, columns, across, values, scratch)
        if confidence.size:
            _weigh(values, largest, total, height, width)
        for row in range(height):
            for column in range(width):
                value, before = values[row, column], largest[row, column]
                label = labels[top + row, left + column]
                larger = value > before
                largest[row, column] = value if larger else before
                labels[top + row, left + column] = index if larger else label
    if confidence.size:
        for row in range(height):
            for column in range(width):
                confidence[top + row, left + column] = 1 / total[row, column]


@_compiled
def _weigh(values: Any, largest: Any, total: Any, height: int, width: int) -> None:
    """Add a class to the softmax's denominator, in units of the largest's exponential."""
    for row in range(height):
        for column in range(width):
            value, before = values[row, column], largest[row, column]
            if value > before:
                total[row, column] = total[row, column] * np.exp(before - value) + 1
            else:
                total[row, column] += np.exp(value - before)


@_compiled
def _interpolate(
    lines: Any,
    index: int,
    rows: Any,
    down: Any,
    columns: Any,
    across: Any,
    values: Any,
    scratch: Any,
) -> None:
    """Resize a class's samples into ``values``, stage after stage: first across, then down."""
    row_taps, row_shares = down[1], down[2]
    column_taps, column_shares = across[1], across[2]
    for row in range(rows[0, 0], rows[0, 1]):
        slot, place = row % len(lines), row - rows[0, 0]
        for column in range(columns[0, 0], columns[0, 1]):
            values[place, column - columns[0, 0]] = lines[slot, column, index]
    for stage in range(len(row_taps)):
        top, left = rows[stage, 0], columns[stage, 0]
        begin, width = columns[stage + 1, 0], columns[stage + 1, 1] - columns[stage + 1, 0]
        for row in range(rows[stage, 1] - top):
            for column in range(width):
                near = values[row, column_taps[stage, 0, begin + column] - left]
                far = values[row, column_taps[stage, 1, begin + column] - left]
                scratch[row, column] = (
                    column_shares[stage, 0, begin + column] * near
                    + column_shares[stage, 1, begin + column] * far
                )
        for pixel in range(rows[stage + 1, 0], rows[stage + 1, 1]):
            above, below = row_taps[stage, 0, pixel] - top, row_taps[stage, 1, pixel] - top
            upper, lower = row_shares[stage, 0, pixel], row_shares[stage, 1, pixel]
            place = pixel - rows[stage + 1, 0]
            for column in range(width):
                values[place, column] = (
                    upper * scratch[above, column] + lower * scratch[below, column]
                )
