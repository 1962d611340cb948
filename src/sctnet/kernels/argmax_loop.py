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

What is undecided in a row of groups is gathered in runs that lie beside each other, without the
rest between them, and of which each has its own candidates: so the innermost loops are long and
have no branches, and the compiler makes vectors of them.
"""

from typing import Any

import numpy as np
from numba import boolean, float32, int32, types, uint8, uint16

import sctnet.kernels.exponential as exponentials
from sctnet.kernels.exponential import exponential
from sctnet.kernels.jit import compile_loop, part_of_loop

# What rounding can do to the difference of two classes, as a share of their size: some ten times
# the error of two resizes in float32.
_ROUNDING = np.float32(4e-6)
_LARGEST = np.finfo(np.float32).max

_ONE = np.float32(1)

_LANES = 8
"""Pixels computed together, and how far apart runs lie: the last of one may reach into that."""
_RUN = 16
"""Groups of pixels of a row that are decided together, at most."""


def compiled_loop(wide: bool, cached: bool) -> Any:
    """Compile the loop for labels of two bytes, or of one; or take it from the disk's cache."""
    side = types.Tuple((int32[:, :, ::1], int32[:, :, ::1], float32[:, :, ::1]))  # type: ignore[no-untyped-call]
    kind = uint16 if wide else uint8
    signature = boolean(float32[:, :, :], int32, side, side, float32, kind[:, ::1], float32[:, ::1])
    return compile_loop(_fill, signature, cached, exponentials)


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
    held, window = _most(spans[:, :1]), _most(columns[:, :1])
    lines = np.empty((held, classes, width), np.float32)
    winners = np.empty((held, width), np.int32)
    loaded = np.full(held, -1, np.int32)
    agreed = np.empty(width, np.int32)
    ahead = np.empty((classes, width), np.float32)
    low, high = np.empty(width, np.float32), np.empty(width, np.float32)
    floor = np.empty(width - window + 1, np.float32)
    runs = np.empty((len(columns), columns.shape[1], 3), np.int32)
    candidates = np.empty((len(columns), classes), np.int32)
    counts = np.empty(len(columns), np.int32)
    longest = _sum(columns) + len(columns) * _LANES
    blocks = np.empty((2, len(down[1]), _most(spans), longest), np.float32)
    shape = _most(spans[:, -1:]), longest
    largest, total = np.empty(shape, np.float32), np.empty(shape, np.float32)
    winning = np.empty(shape, np.int32)
    for group in range(len(spans)):
        for row in range(spans[group, 0, 0], spans[group, 0, 1]):
            slot = row % held
            if loaded[slot] != row:
                if not _load(samples, row - top, reach, lines[slot], winners[slot]):
                    return False
                loaded[slot] = row
        _agree(winners, spans[group, 0], agreed)
        begin, end = spans[group, -1, 0] - first_row, spans[group, -1, 1] - first_row
        place = found = 0
        while place < len(columns):
            label, first = _winner(agreed, columns[place, 0]), place
            # Neighbouring groups of one class are filled together, and so are those undecided.
            while place < len(columns) and _winner(agreed, columns[place, 0]) == label:
                place += 1
            if label >= 0:
                left = columns[first, -1, 0] - first_column
                right = columns[place - 1, -1, 1] - first_column
                labels[begin:end, left:right] = label
                confidence[begin:end, left:right] = 1
                continue
            if found == 0:
                _look_ahead(lines, spans[group, 0], window, reach, low, high, floor, ahead)
            while first < place:
                last = min(first + _RUN, place)
                _add_run(columns, first, last, found, runs)
                counts[found] = _list(ahead, columns, first, last, window, candidates, found)
                first, found = last, found + 1
        if found == 0:
            continue
        _decide(
            lines, candidates, counts[:found], spans[group], down, runs, across, blocks[0],
            blocks[1], largest, total, winning, confidence.size > 0,
        )  # fmt: skip
        _write(winning, runs, found, begin, end, first_column, labels)
        if confidence.size:
            _write(total, runs, found, begin, end, first_column, confidence)
    for row in range(confidence.shape[0]):
        for column in range(confidence.shape[1]):
            confidence[row, column] = 1 / confidence[row, column]
    return True


@part_of_loop
def _most(spans: Any) -> int:
    """Return the length of the longest of these spans."""
    most = 1
    for group in range(spans.shape[0]):
        for level in range(spans.shape[1]):
            most = max(most, spans[group, level, 1] - spans[group, level, 0])
    return most


@part_of_loop
def _sum(columns: Any) -> int:
    """Return how many places all runs can have together, at the level where they have most.

    Those of their groups, of which neighbours may share some, and the gaps between these.
    """
    most = 0
    for level in range(columns.shape[1]):
        held = columns[-1, level, 1] - columns[0, level, 0]
        for group in range(len(columns)):
            held += columns[group, level, 1] - columns[group, level, 0]
        most = max(most, held)
    return most


@part_of_loop
def _load(samples: Any, row: int, reach: Any, line: Any, winners: Any) -> bool:
    """Copy a row of samples, and note the class that is certain at each, else -1.

    Return whether all are finite.
    """
    classes, width = line.shape
    for index in range(classes):
        for column in range(width):
            line[index, column] = samples[index, row, column]
    wrong = 0
    largest, second = np.empty(width, np.float32), np.empty(width, np.float32)
    for column in range(width):
        largest[column], second[column], winners[column] = -_LARGEST, -_LARGEST, 0
    for index in range(classes):
        for column in range(width):
            value, before, winner = line[index, column], largest[column], winners[column]
            wrong += not abs(value) <= _LARGEST
            second[column] = max(second[column], min(value, before))
            largest[column] = max(value, before)
            winners[column] = winner + (np.int32(index) - winner) * np.int32(value > before)
    for column in range(width):
        room = reach + _ROUNDING * (abs(largest[column]) + abs(second[column]))
        if not (largest[column] - second[column] > room or classes == 1):
            winners[column] = -1
    return wrong == 0


@part_of_loop
def _agree(winners: Any, rows: Any, agreed: Any) -> None:
    """Note the class that is certain in all of these rows of a column, else -1."""
    held = len(winners)
    agreed[:] = winners[rows[0] % held]
    for row in range(rows[0] + 1, rows[1]):
        others = winners[row % held]
        for column in range(len(agreed)):
            if agreed[column] != others[column]:
                agreed[column] = -1


@part_of_loop
def _winner(agreed: Any, columns: Any) -> int:
    label: int = agreed[columns[0]]
    for column in range(columns[0] + 1, columns[1]):
        if agreed[column] != label:
            return -1
    return label


@part_of_loop
def _look_ahead(
    lines: Any, rows: Any, window: int, reach: Any, low: Any, high: Any, floor: Any, ahead: Any
) -> None:
    """Note how far each class is from losing everywhere between some neighbouring samples.

    Those of ``rows``, and of as many columns as ``window`` from the one where it is noted. A class
    below 0 comes nowhere within ``reach`` of winning. (Smallest and largest in one loop would not
    become vectors.)
    """
    held, classes, width = lines.shape
    places, first = width - window + 1, rows[0] % held
    floor[:] = -_LARGEST
    for index in range(classes):
        for column in range(width):
            low[column] = lines[first, index, column]
        for column in range(width):
            high[column] = lines[first, index, column]
        for row in range(rows[0] + 1, rows[1]):
            slot = row % held
            for column in range(width):
                value, lowest = lines[slot, index, column], low[column]
                low[column] = value if value < lowest else lowest
            for column in range(width):
                value, highest = lines[slot, index, column], high[column]
                high[column] = value if value > highest else highest
        for _ in range(window - 1):  # each with its neighbour, which was with its own
            for column in range(width - 1):
                lowest, next_lowest = low[column], low[column + 1]
                low[column] = lowest if lowest < next_lowest else next_lowest
            for column in range(width - 1):
                highest, next_highest = high[column], high[column + 1]
                high[column] = highest if highest > next_highest else next_highest
        for place in range(places):
            lowest, above = low[place], floor[place]
            floor[place] = lowest if lowest > above else above
        for place in range(places):
            ahead[index, place] = high[place]
    for index in range(classes):
        for place in range(places):
            room = reach + _ROUNDING * (abs(ahead[index, place]) + abs(floor[place]))
            ahead[index, place] += room - floor[place]


@part_of_loop
def _add_run(columns: Any, first: int, last: int, number: int, runs: Any) -> None:
    """Note begin and end of neighbouring groups at every level, and where the run is held."""
    for level in range(columns.shape[1]):
        runs[number, level, 0] = columns[first, level, 0]
        runs[number, level, 1] = columns[last - 1, level, 1]
        runs[number, level, 2] = 0
        if number > 0:
            length = runs[number - 1, level, 1] - runs[number - 1, level, 0]
            runs[number, level, 2] = runs[number - 1, level, 2] + length + _LANES


@part_of_loop
def _list(
    ahead: Any, columns: Any, first: int, last: int, window: int, candidates: Any, number: int
) -> int:
    """List the classes that can win in a run, the lowest first; return how many they are."""
    classes, width = ahead.shape
    count = 0
    for index in range(classes):
        for group in range(first, last):
            if ahead[index, min(columns[group, 0, 0], width - window)] >= 0:
                candidates[number, count] = index
                count += 1
                break
    return count


@part_of_loop
def _decide(
    lines: Any,
    candidates: Any,
    counts: Any,
    rows: Any,
    down: Any,
    runs: Any,
    across: Any,
    values: Any,
    scratch: Any,
    largest: Any,
    total: Any,
    winning: Any,
    with_confidence: bool,
) -> None:
    """Interpolate the candidates of all runs and let the largest win, of equals the lowest."""
    stages, (begin, end) = len(down[1]), rows[-1]
    shares = np.zeros((stages, 2, scratch.shape[2]), np.float32)
    lengths = _bring_shares(across, runs, len(counts), shares)
    named = np.zeros(lengths[-1], np.int32)
    for row in range(end - begin):
        for column in range(len(named)):
            largest[row, column], winning[row, column], total[row, column] = -np.inf, 0, 0
    for turn in range(counts.max()):
        # A run without further candidates keeps its last, which does not win again.
        for number in range(len(counts)):
            if turn < counts[number]:
                index = candidates[number, turn]
                offset = runs[number, -1, 2]
                for column in range(offset, offset + runs[number, -1, 1] - runs[number, -1, 0]):
                    named[column] = index
                begin, end, offset = runs[number, 0, 0], runs[number, 0, 1], runs[number, 0, 2]
                for row in range(rows[0, 0], rows[0, 1]):
                    slot, place = row % len(lines), row - rows[0, 0]
                    for column in range(end - begin):
                        values[0, place, offset + column] = lines[slot, index, begin + column]
        for stage in range(stages):
            for row in range(rows[stage, 1] - rows[stage, 0]):
                for number in range(len(counts)):
                    if turn < counts[number]:
                        _across(values, across[1], shares, stage, row, runs, number, scratch)
            if stage < stages - 1:
                _down(scratch[stage], rows, down, stage, lengths[stage], values[stage + 1])
        last = scratch[stages - 1]
        if with_confidence:
            for number in range(len(counts)):
                if turn < counts[number]:
                    _weigh(last, rows, down, runs[number, -1], largest, total)
        _let_win(last, rows, down, named, largest, winning)


@part_of_loop
def _bring_shares(across: Any, runs: Any, count: int, shares: Any) -> Any:
    """Bring the shares to where the runs are held; return how long all are at the next levels."""
    lengths = np.empty(len(shares), np.int32)
    for stage in range(len(shares)):
        for number in range(count):
            begin, offset = runs[number, stage + 1, 0], runs[number, stage + 1, 2]
            length = runs[number, stage + 1, 1] - begin
            for column in range(length):
                shares[stage, 0, offset + column] = across[2][stage, 0, begin + column]
                shares[stage, 1, offset + column] = across[2][stage, 1, begin + column]
            lengths[stage] = offset + length
    return lengths


@part_of_loop
def _write(
    decided: Any, runs: Any, count: int, begin: int, end: int, first_column: int, target: Any
) -> None:
    """Put what was decided for the runs where it belongs."""
    for number in range(count):
        left, offset = runs[number, -1, 0] - first_column, runs[number, -1, 2]
        for row in range(end - begin):
            for column in range(runs[number, -1, 1] - runs[number, -1, 0]):
                target[begin + row, left + column] = decided[row, offset + column]


@part_of_loop
def _across(
    values: Any, taps: Any, shares: Any, stage: int, row: int, runs: Any, number: int, scratch: Any
) -> None:
    """Resize a row of a run to the width of the next level.

    Everything that is read stands before what is written, so that the compiler need not fear that
    they overlap; nor is a part of an array taken, which would cost more than what is done with it.
    """
    shift = runs[number, stage, 2] - runs[number, stage, 0]
    first, end = runs[number, stage + 1, 0], runs[number, stage + 1, 1]
    offset = runs[number, stage + 1, 2] - first
    while first < end:
        left = values[stage, row, shift + taps[stage, 0, first]]
        right = values[stage, row, shift + taps[stage, 1, first]]
        last = min(taps[stage, 2, first], end)
        for place in range(offset + first, offset + last, _LANES):
            a = shares[stage, 0, place + 0] * left + shares[stage, 1, place + 0] * right
            b = shares[stage, 0, place + 1] * left + shares[stage, 1, place + 1] * right
            c = shares[stage, 0, place + 2] * left + shares[stage, 1, place + 2] * right
            d = shares[stage, 0, place + 3] * left + shares[stage, 1, place + 3] * right
            e = shares[stage, 0, place + 4] * left + shares[stage, 1, place + 4] * right
            f = shares[stage, 0, place + 5] * left + shares[stage, 1, place + 5] * right
            g = shares[stage, 0, place + 6] * left + shares[stage, 1, place + 6] * right
            h = shares[stage, 0, place + 7] * left + shares[stage, 1, place + 7] * right
            scratch[stage, row, place + 0] = a
            scratch[stage, row, place + 1] = b
            scratch[stage, row, place + 2] = c
            scratch[stage, row, place + 3] = d
            scratch[stage, row, place + 4] = e
            scratch[stage, row, place + 5] = f
            scratch[stage, row, place + 6] = g
            scratch[stage, row, place + 7] = h
        first = last


@part_of_loop
def _down(scratch: Any, rows: Any, down: Any, stage: int, width: int, values: Any) -> None:
    """Resize all runs to the height of the next level."""
    taps, shares, top = down[1], down[2], rows[stage, 0]
    for pixel in range(rows[stage + 1, 0], rows[stage + 1, 1]):
        above, below = taps[stage, 0, pixel] - top, taps[stage, 1, pixel] - top
        upper, lower = shares[stage, 0, pixel], shares[stage, 1, pixel]
        place = pixel - rows[stage + 1, 0]
        for column in range(width):
            values[place, column] = upper * scratch[above, column] + lower * scratch[below, column]


@part_of_loop
def _let_win(scratch: Any, rows: Any, down: Any, named: Any, largest: Any, winning: Any) -> None:
    """Resize the candidates of all runs to their last height, and note those that are larger."""
    stage = len(down[1]) - 1
    taps, shares, top = down[1], down[2], rows[stage, 0]
    for pixel in range(rows[-1, 0], rows[-1, 1]):
        above, below = taps[stage, 0, pixel] - top, taps[stage, 1, pixel] - top
        upper, lower = shares[stage, 0, pixel], shares[stage, 1, pixel]
        row = pixel - rows[-1, 0]
        for column in range(len(named)):
            value = upper * scratch[above, column] + lower * scratch[below, column]
            before, winner = largest[row, column], winning[row, column]
            larger = value > before
            largest[row, column] = max(value, before)
            winning[row, column] = winner + (named[column] - winner) * np.int32(larger)


@part_of_loop
def _weigh(scratch: Any, rows: Any, down: Any, run: Any, largest: Any, total: Any) -> None:
    """Add a run's candidate to the softmax's denominator, in units of the largest's exponential."""
    stage = len(down[1]) - 1
    taps, shares, top = down[1], down[2], rows[stage, 0]
    for pixel in range(rows[-1, 0], rows[-1, 1]):
        above, below = taps[stage, 0, pixel] - top, taps[stage, 1, pixel] - top
        upper, lower = shares[stage, 0, pixel], shares[stage, 1, pixel]
        row = pixel - rows[-1, 0]
        # Unsigned: a place that may be negative would be looked at, one by one.
        for column in range(np.uint64(run[2]), np.uint64(run[2] + run[1] - run[0])):
            value = upper * scratch[above, column] + lower * scratch[below, column]
            apart = value - largest[row, column]
            smaller = exponential(-abs(apart))
            sofar, larger = total[row, column], apart > 0
            # Either total * smaller + 1, in units of the new largest, or total + smaller.
            kept, added = (smaller, _ONE) if larger else (_ONE, smaller)
            total[row, column] = sofar * kept + added
