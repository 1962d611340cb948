"""The loop that computes a network, step by step, as numba compiles it; importing this imports it.

Threads share the pieces of each step and pass to the next together. None of them is needed: who
comes late helps with what is left, and who never comes is not waited for.
"""

from typing import Any

import numpy as np
from numba import float32, from_dtype, int64, types, uint8, uint16

import sctnet.kernels.exponential as exponentials
from sctnet.kernels.exponential import exponential
from sctnet.kernels.jit import compile_loop, part_of_loop
from sctnet.kernels.network import steps, vectors
from sctnet.kernels.network.steps import (
    AFFINE,
    BYTES,
    CLEAR,
    CONVOLVE,
    EXPONENTIAL,
    FLOATS,
    GELU,
    LARGEST,
    NORMALISE,
    PERIOD,
    POINTS,
    POOL,
    RELU,
    RESIZE,
    STEP,
    TILE,
    WINOGRAD,
)
from sctnet.kernels.network.vectors import (
    LANES,
    PANEL,
    ROWS,
    as_kept,
    look,
    multiply,
    place,
    take_next,
    transform_pixels,
    transform_products,
)

_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_ROOT_HALF = np.float32(0.5**0.5)
_SMALL = np.float32(1e-6)
# Abramowitz and Stegun, 7.1.26: the error function within 1.5e-7.
_ERF_P = np.float32(0.3275911)
_ERF = tuple(
    np.float32(factor)
    for factor in (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
)


def network_loop(short: bool, cached: bool) -> Any:
    """Compile the loop, or take it from the disk's cache.

    With ``short`` what is multiplied is rounded to short floats; sums are not.
    """
    values = float32[::1]
    both: Any = types.UniTuple(values, 2)  # type: ignore[no-untyped-call]
    if short:
        both = types.Tuple((values, uint16[::1]))  # type: ignore[no-untyped-call]
    picture = types.Tuple((uint8[::1], values))  # type: ignore[no-untyped-call]
    signature = types.void(
        from_dtype(STEP)[::1], int64[:, ::1], picture, both, int64[::1], both, both
    )
    return compile_loop(_compute, signature, cached, steps, vectors, exponentials)


def _compute(
    steps: Any, counters: Any, picture: Any, memory: Any, offsets: Any, weights: Any, scratch: Any
) -> None:
    """Compute all steps; ``counters`` are of pieces taken and pieces done, for each step.

    The picture is either bytes or floats. What is multiplied is the second form of the memory and
    of the scratch, and the second array of the weights.
    """
    taken, done = counters[0], counters[1]
    finished = 0
    for index in range(len(steps)):
        step = steps[index]
        piece = take_next(taken, index)
        while piece < step.pieces:
            _work(step, piece, picture, memory, offsets, weights, scratch)
            take_next(done, index)
            piece = take_next(taken, index)
        while step.joins and finished <= index:
            while look(done, finished) < steps[finished].pieces:
                pass
            finished += 1


@part_of_loop
def _work(
    step: Any, piece: int, picture: Any, memory: Any, offsets: Any, weights: Any, scratch: Any
) -> None:
    """Do a piece of a step.

    What some kinds make is always multiplied next, what a resize makes never is.
    """
    kind = step.kind
    floats, factors = memory
    if kind == WINOGRAD:
        if step.short:
            _winograd(step, piece, floats, factors, offsets, weights, scratch)
        else:
            _winograd(step, piece, floats, floats, offsets, weights, scratch)
    elif kind == CONVOLVE:
        if step.short:
            _convolve(step, piece, memory, factors, offsets, weights, scratch[0])
        else:
            _convolve(step, piece, memory, floats, offsets, weights, scratch[0])
    elif kind == AFFINE:
        if step.short:
            _affine(step, piece, floats, factors, weights[0])
        else:
            _affine(step, piece, floats, floats, weights[0])
    elif kind == CLEAR:
        if step.short:
            _clear(step, piece, factors)
        else:
            _clear(step, piece, floats)
    elif kind in (FLOATS, BYTES):
        _read(step, piece, picture, factors, weights[0], scratch[0])
    elif kind == POOL:
        _pool(step, piece, floats, factors, weights[0], scratch[0])
    elif kind == RESIZE:
        _resize(step, piece, floats, weights[0], scratch[0])
    elif kind == LARGEST:
        _largest(step, piece, floats)
    elif kind == EXPONENTIAL:
        _exponentials(step, piece, floats, scratch[0])
    elif kind == NORMALISE:
        _normalise(step, piece, floats, factors, scratch[0])


@part_of_loop
def _winograd(
    step: Any, piece: int, memory: Any, target: Any, offsets: Any, weights: Any, scratch: Any
) -> None:
    """Convolve 3 x 3 in tiles of 4 x 4 pixels with a quarter of the products (Winograd).

    Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015: F(4 x 4, 3 x 3).
    """
    across = (step.width + TILE - 1) // TILE
    tiles = across * ((step.height + TILE - 1) // TILE)
    group, share = divmod(piece, step.shares)
    begin = group * step.group
    count = min(step.group, tiles - begin)
    depth = step.depth
    wide = (depth + LANES - 1) // LANES * LANES
    # Not a power of 2 apart: the 36 would share the few places of one line in the cache.
    apart = step.group * wide + LANES
    results, values = scratch
    for tile in range(count):
        y, x = divmod(begin + tile, across)
        corner = step.source + (TILE * y - 1) * step.source_row + (TILE * x - 1) * step.source_pixel
        for channel in range(0, wide, LANES):
            transform_pixels(
                place(memory, corner + channel),
                step.source_row,
                step.source_pixel,
                place(values, tile * wide + channel),
                apart,
            )
    last = min((share + 1) * step.panels_of_piece, step.panels)
    for first in range(share * step.panels_of_piece, last, step.panels_at_once):
        panels = min(step.panels_at_once, last - first)
        columns = panels * PANEL
        products, products_apart = POINTS * apart, step.group * columns + LANES
        drawn = products + POINTS * products_apart
        for point in range(POINTS):
            for panel in range(panels):
                factors = step.weights + (point * step.panels + first + panel) * depth * PANEL
                for row in range(0, count, ROWS):
                    product = products + point * products_apart + row * columns + panel * PANEL
                    multiply(
                        place(values, point * apart + row * wide),
                        wide,
                        place(offsets, 0),
                        1,
                        depth,
                        place(weights[1], factors),
                        place(weights[0], 0),
                        place(results, product),
                        columns,
                    )
        channel = first * PANEL
        for tile in range(count):
            for column in range(0, columns, LANES):
                transform_products(
                    place(results, products + tile * columns + column),
                    products_apart,
                    place(weights[0], step.bias + channel + column),
                    place(results, drawn + column),
                    columns,
                )
            y, x = divmod(begin + tile, across)
            y, x = TILE * y, TILE * x
            wanted = min(TILE, step.width - x)
            for row in range(min(TILE, step.height - y)):
                line = results[drawn + row * TILE * columns :][: wanted * columns]
                _finish(step, line, columns, memory, target, y + row, x, channel)


@part_of_loop
def _convolve(
    step: Any, piece: int, memory: Any, target: Any, offsets: Any, weights: Any, results: Any
) -> None:
    """Convolve as it is defined, some rows at a time."""
    group, share = divmod(piece, step.shares)
    top = group * step.group
    rows = min(step.group, step.height - top)
    first = share * step.panels_of_piece
    panels = min(step.panels_of_piece, step.panels - first)
    columns = panels * PANEL
    wide = (step.width + ROWS - 1) // ROWS * ROWS
    distance = step.stride * step.source_pixel
    long = step.taps * step.depth * PANEL
    for panel in range(panels):
        for row in range(rows):
            line = step.source + (top + row) * step.stride * step.source_row
            for x in range(0, step.width, ROWS):
                multiply(
                    place(memory[1], line + x * distance),
                    distance,
                    place(offsets, step.offsets),
                    step.taps,
                    step.depth,
                    place(weights[1], step.weights + (first + panel) * long),
                    place(weights[0], step.bias + (first + panel) * PANEL),
                    place(results, (row * wide + x) * columns + panel * PANEL),
                    columns,
                )
    for row in range(rows):
        line = results[row * wide * columns :][: step.width * columns]
        _finish(step, line, columns, memory[0], target, top + row, 0, first * PANEL)


@part_of_loop
def _finish(
    step: Any, made: Any, columns: int, memory: Any, target: Any, y: int, x: int, channel: int
) -> None:
    """Add the residual to pixels of some columns, apply the activation, and keep them."""
    channels = min(columns, step.channels - channel)
    count = len(made) // columns
    if channels == columns == step.target_pixel and (
        step.residual < 0 or step.residual_pixel == channels
    ):  # all pixels lie side by side
        channels, count = channels * count, 1
    for pixel in range(count):
        values = made[pixel * columns :][:channels]
        at = step.target + y * step.target_row + (x + pixel) * step.target_pixel + channel
        kept = target[at:][:channels]
        if step.residual >= 0:
            at = step.residual + y * step.residual_row + (x + pixel) * step.residual_pixel
            residual = memory[at + channel :][:channels]
            if step.activation == RELU:
                for c in range(channels):
                    kept[c] = as_kept(_rectified(values[c] + residual[c]), kept)
            else:
                for c in range(channels):
                    kept[c] = as_kept(values[c] + residual[c], kept)
        elif step.activation == RELU:
            for c in range(channels):
                kept[c] = as_kept(_rectified(values[c]), kept)
        elif step.activation == GELU:
            for c in range(channels):
                kept[c] = as_kept(_gelu(values[c]), kept)
        else:
            for c in range(channels):
                kept[c] = as_kept(values[c], kept)


@part_of_loop
def _rectified(x: Any) -> Any:
    return _ZERO if x < _ZERO else x  # what is not a number stays so


@part_of_loop
def _gelu(x: Any) -> Any:
    z = abs(x) * _ROOT_HALF
    t = _ONE / (_ONE + _ERF_P * z)
    series = ((((_ERF[4] * t + _ERF[3]) * t + _ERF[2]) * t + _ERF[1]) * t + _ERF[0]) * t
    tail = _HALF * series * exponential(-z * z)  # of the normal distribution, beyond |x|
    return x * (_ONE - tail if x > _ZERO else tail)


@part_of_loop
def _clear(step: Any, piece: int, target: Any) -> None:
    """Write zeros into the frame of a plane, as wide as ``taps``; see ``Writer.plane``."""
    frame = step.taps
    before, behind = frame * step.channels, (frame + TILE - 1) * step.channels
    long = step.width * step.channels
    begin, end = piece * step.group, min((piece + 1) * step.group, step.height)
    for y in range(begin, end):
        at = step.target + y * step.target_row
        target[at - before : at] = 0
        target[at + long : at + long + behind] = 0
    if begin == 0:
        at = step.target - frame * step.target_row - before
        target[at : at + frame * step.target_row] = 0
    if end == step.height:
        at = step.target + end * step.target_row - before
        target[at : at + (frame + TILE - 1) * step.target_row] = 0


@part_of_loop
def _read(step: Any, piece: int, picture: Any, target: Any, weights: Any, scratch: Any) -> None:
    """Put rows of the picture into their frame, bytes normalised; a fourth channel is 0."""
    long = 3 * step.width
    for y in range(piece * step.group, min((piece + 1) * step.group, step.height)):
        if step.kind == BYTES:
            line = scratch[:long]
            _normalise_bytes(picture[0][y * long :][:long], weights[step.weights :], line)
        else:
            line = picture[1][y * long :][:long]
        kept = target[step.target + y * step.target_row :][: step.width * step.channels]
        if step.channels == 3:
            for k in range(long):
                kept[k] = as_kept(line[k], kept)
        else:
            for x in range(step.width):
                for c in range(3):
                    kept[4 * x + c] = as_kept(line[3 * x + c], kept)
                kept[4 * x + 3] = 0


@part_of_loop
def _normalise_bytes(line: Any, statistics: Any, normalised: Any) -> None:
    """Subtract the mean, then divide, as PyTorch does; both are repeated for ``PERIOD`` values."""
    mean, deviation = statistics[:PERIOD], statistics[PERIOD:][:PERIOD]
    for begin in range(0, len(line), PERIOD):
        part, made = line[begin:][:PERIOD], normalised[begin:][:PERIOD]
        for k in range(len(part)):
            made[k] = (np.float32(part[k]) - mean[k]) / deviation[k]


@part_of_loop
def _affine(step: Any, piece: int, memory: Any, target: Any, weights: Any) -> None:
    """Scale and shift each channel, then rectify where asked to."""
    for y in range(piece * step.group, min((piece + 1) * step.group, step.height)):
        for x in range(step.width):
            at = step.source + y * step.source_row + x * step.source_pixel
            _affine_pixel(step, memory[at:][: step.channels], weights, target, y, x)


@part_of_loop
def _affine_pixel(step: Any, values: Any, weights: Any, target: Any, y: int, x: int) -> None:
    channels = step.channels
    scale, shift = weights[step.weights :][:channels], weights[step.bias :][:channels]
    kept = target[step.target + y * step.target_row + x * step.target_pixel :][:channels]
    if step.activation == RELU:
        for c in range(channels):
            kept[c] = as_kept(_rectified(values[c] * scale[c] + shift[c]), kept)
    else:
        for c in range(channels):
            kept[c] = as_kept(values[c] * scale[c] + shift[c], kept)


@part_of_loop
def _pool(step: Any, piece: int, memory: Any, target: Any, weights: Any, scratch: Any) -> None:
    """Average windows, zeros beyond the border included, then as ``_affine``."""
    channels = step.channels
    y, x = divmod(piece, step.width)
    size = step.taps
    top, left = y * step.stride - size // 2, x * step.stride - size // 2
    bottom, right = top + size, left + size
    area = size * size
    if size == 0:
        top, left, bottom, right = 0, 0, step.source_height, step.source_width
        area = bottom * right
    total = scratch[:channels]
    total[:] = 0
    for row in range(max(top, 0), min(bottom, step.source_height)):
        for column in range(max(left, 0), min(right, step.source_width)):
            at = step.source + row * step.source_row + column * step.source_pixel
            values = memory[at:][:channels]
            for c in range(channels):
                total[c] += values[c]
    share = _ONE / np.float32(area)
    for c in range(channels):
        total[c] *= share
    _affine_pixel(step, total, weights, target, y, x)


@part_of_loop
def _resize(step: Any, piece: int, memory: Any, weights: Any, scratch: Any) -> None:
    """Resize, bilinear with align_corners=False, add the residual, then as ``_affine``."""
    channels = step.channels
    sums = scratch[:channels]
    for y in range(piece * step.group, min((piece + 1) * step.group, step.height)):
        upper, lower, down = _between(y, step.source_height, step.height)
        above = step.source + upper * step.source_row
        below = step.source + lower * step.source_row
        for x in range(step.width):
            left, right, across = _between(x, step.source_width, step.width)
            a = memory[above + left * step.source_pixel :][:channels]
            b = memory[above + right * step.source_pixel :][:channels]
            c = memory[below + left * step.source_pixel :][:channels]
            d = memory[below + right * step.source_pixel :][:channels]
            for k in range(channels):
                first = a[k] + across * (b[k] - a[k])
                second = c[k] + across * (d[k] - c[k])
                sums[k] = first + down * (second - first)
            if step.residual >= 0:
                at = step.residual + y * step.residual_row + x * step.residual_pixel
                residual = memory[at:][:channels]
                for k in range(channels):
                    sums[k] += residual[k]
            _affine_pixel(step, sums, weights, memory, y, x)


@part_of_loop
def _between(place: int, inputs: int, outputs: int) -> Any:
    """Return a sample's place, its neighbour's, and the neighbour's weight."""
    at = (np.float32(place) + _HALF) * (np.float32(inputs) / np.float32(outputs)) - _HALF
    at = max(at, _ZERO)
    first = min(int(at), inputs - 1)
    return first, min(first + 1, inputs - 1), at - np.float32(first)


@part_of_loop
def _largest(step: Any, piece: int, memory: Any) -> None:
    """Find the largest value of each map in some rows."""
    channels = step.channels
    largest = memory[step.largest + piece * channels :][:channels]
    largest[:] = -np.inf
    for y in range(piece * step.group, min((piece + 1) * step.group, step.height)):
        for x in range(step.width):
            values = memory[step.source + y * step.source_row + x * step.source_pixel :][:channels]
            for c in range(channels):
                largest[c] = max(largest[c], values[c])


@part_of_loop
def _exponentials(step: Any, piece: int, memory: Any, scratch: Any) -> None:
    """Take exponentials of how far values are from their map's largest, and sum some rows."""
    channels = step.channels
    largest, total = scratch[:channels], scratch[channels:][:channels]
    largest[:] = -np.inf
    for part in range(step.pieces):
        values = memory[step.largest + part * channels :][:channels]
        for c in range(channels):
            largest[c] = max(largest[c], values[c])
    total[:] = 0
    for y in range(piece * step.group, min((piece + 1) * step.group, step.height)):
        for x in range(step.width):
            values = memory[step.source + y * step.source_row + x * step.source_pixel :][:channels]
            for c in range(channels):
                total[c] += _ZERO * values[c]  # what is not finite stays so: see ``exponential``
                values[c] = exponential(values[c] - largest[c])
                total[c] += values[c]
    memory[step.totals + piece * channels :][:channels] = total


@part_of_loop
def _normalise(step: Any, piece: int, memory: Any, target: Any, scratch: Any) -> None:
    """Divide by each map's sum, then by the norm over the maps of each group."""
    channels = step.channels
    share, factors = scratch[:channels], scratch[channels:][:channels]
    share[:] = 0
    for part in range(step.pieces):
        values = memory[step.totals + part * channels :][:channels]
        for c in range(channels):
            share[c] += values[c]
    for c in range(channels):
        share[c] = _ONE / share[c]
    for y in range(piece * step.group, min((piece + 1) * step.group, step.height)):
        for x in range(step.width):
            values = memory[step.source + y * step.source_row + x * step.source_pixel :][:channels]
            kept = target[step.target + y * step.target_row + x * step.target_pixel :][:channels]
            for c in range(channels):
                values[c] *= share[c]
            for begin in range(0, channels, step.taps):
                group = slice(begin, begin + step.taps)
                factors[group] = _ONE / (_norm(values[group], step.stride) + _SMALL)
            for c in range(channels):
                kept[c] = as_kept(values[c] * factors[c], kept)


@part_of_loop
def _norm(values: Any, power: int) -> Any:
    total = _ZERO
    if power == 1:  # they are positive
        for value in values:
            total += value
        return total
    for value in values:
        total += value * value
    return np.sqrt(total)
