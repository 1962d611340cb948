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
    low_high = np.empty((2, classes), np.float32)
    candidates = np.empty(classes, np.int32)
    blocks = np.empty((4, _most(spans), _most(columns)), np.float32)
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
            label, left = _winner(agreed, columns[place, 0]), columns[place, -1, 0] - first_column
            if label < 0:
                right = columns[place, -1, 1] - first_column
                count = _find_candidates(
                    lines, spans[group, 0], columns[place, 0], reach, low_high, candidates
                )
                _decide(
                    lines, candidates[:count], group, down, place, across, blocks,
                    labels[begin:end, left:right],
                    confidence[begin:end, left:right],
                )  # fmt: skip
                place += 1
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
    lines: Any, rows: Any, columns: Any, reach: Any, low_high: Any, candidates: Any
) -> int:
    """List the classes that come within ``reach`` of winning somewhere between these samples."""
    classes = lines.shape[2]
    low, high = low_high[0], low_high[1]
    low[:], high[:] = _LARGEST, -_LARGEST
    for row in range(rows[0], rows[1]):
        line = lines[row % len(lines)]
        for column in range(columns[0], columns[1]):
            for index in range(classes):
                value = line[column, index]
                low[index] = min(low[index], value)
                high[index] = max(high[index], value)
    floor = low.max()
    count = 0
    for index in range(classes):
        room = reach + _ROUNDING * (abs(high[index]) + abs(floor))
        if high[index] >= floor - room:
            candidates[count] = index
            count += 1
    return count


@_compiled
def _decide(
    lines: Any,
    candidates: Any,
    group: int,
    down: Any,
    place: int,
    across: Any,
    blocks: Any,
    labels: Any,
    confidence: Any,
) -> None:
    """Interpolate the candidates and let the largest win, of equals the lowest."""
    values, scratch, largest, total = blocks[0], blocks[1], blocks[2], blocks[3]
    height, width = labels.shape
    for number in range(len(candidates)):
        index = candidates[number]
        _interpolate(lines, index, group, down, place, across, values, scratch)
        for row in range(height):
            for column in range(width):
                value = values[row, column]
                if number == 0:
                    largest[row, column], total[row, column] = value, 1
                    labels[row, column] = index
                elif value > largest[row, column]:
                    if confidence.size:
                        lost = np.exp(largest[row, column] - value)
                        total[row, column] = total[row, column] * lost + 1
                    largest[row, column] = value
                    labels[row, column] = index
                elif confidence.size:
                    total[row, column] += np.exp(value - largest[row, column])
    if confidence.size:
        for row in range(height):
            for column in range(width):
                confidence[row, column] = 1 / total[row, column]


@_compiled
def _interpolate(
    lines: Any,
    index: int,
    group: int,
    down: Any,
    place: int,
    across: Any,
    values: Any,
    scratch: Any,
) -> None:
    """Resize a class's samples into ``values``, stage after stage: first across, then down."""
    rows, row_taps, row_shares = down[0][group], down[1], down[2]
    columns, column_taps, column_shares = across[0][place], across[1], across[2]
    for row in range(rows[0, 0], rows[0, 1]):
        for column in range(columns[0, 0], columns[0, 1]):
            value = lines[row % len(lines), column, index]
            values[row - rows[0, 0], column - columns[0, 0]] = value
    for stage in range(len(row_taps)):
        top, left = rows[stage, 0], columns[stage, 0]
        begin, width = columns[stage + 1, 0], columns[stage + 1, 1] - columns[stage + 1, 0]
        for row in range(rows[stage, 1] - top):
            for column in range(width):
                pixel = begin + column
                near = values[row, column_taps[stage, 0, pixel] - left]
                far = values[row, column_taps[stage, 1, pixel] - left]
                scratch[row, column] = (
                    column_shares[stage, 0, pixel] * near + column_shares[stage, 1, pixel] * far
                )
        for pixel in range(rows[stage + 1, 0], rows[stage + 1, 1]):
            above = scratch[row_taps[stage, 0, pixel] - top]
            below = scratch[row_taps[stage, 1, pixel] - top]
            upper, lower = row_shares[stage, 0, pixel], row_shares[stage, 1, pixel]
            target = values[pixel - rows[stage + 1, 0]]
            for column in range(width):
                target[column] = upper * above[column] + lower * below[column]
