# ruff: noqa: ARG001 - numba and LLVM call these, with what they may want to know
"""What numba cannot say itself, as pieces of LLVM's code: vectors of this processor, and atomics.

Importing this imports numba. Every function here is called from within compiled loops only; all
lengths and distances are in values, not bytes.
"""

import platform
from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import llvmlite.binding
import numba.extending
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target

_intrinsic: Callable[[Any], Any] = numba.extending.intrinsic


class _ShortFloat(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite has no name for."""

    def __str__(self) -> str:
        return "bfloat"

    _to_string = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ShortFloat)

    def __hash__(self) -> int:
        return hash(_ShortFloat)


_FLOAT, _INDEX, _INT, _SHORT = ir.FloatType(), ir.IntType(64), ir.IntType(32), ir.IntType(16)


def _features() -> set[str]:
    """Return what the processor can do of which numba makes use."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return {each[1:] for each in features.split(",") if each.startswith("+")}


_FEATURES = _features()
_ARM = platform.machine().lower() in {"arm64", "aarch64"}


def _shape() -> tuple[int, int, int]:
    """Return the lanes of a vector, and how many rows and vectors a product holds at once.

    Their product, and what is loaded beside, has to fit into the registers: 32 or 16.
    """
    if "avx512f" in _FEATURES:
        return 16, 8, 2
    if "avx" in _FEATURES:
        return 8, 6, 2
    return (4, 12, 2) if _ARM else (4, 6, 2)


def multiplies_and_adds() -> bool:
    """Say whether this processor does both in one go; others are better left to PyTorch."""
    return _ARM or {"avx", "fma"} <= _FEATURES


def multiplies_pairs() -> bool:
    """Say whether it multiplies pairs of short floats (bfloat16) and sums them."""
    # Before LLVM 16 the instruction was named with other types.
    known = llvmlite.binding.llvm_version_info >= (16, 0, 0)
    return known and LANES == 16 and "avx512bf16" in _FEATURES


LANES, ROWS, _VECTORS = _shape()
PANEL = LANES * _VECTORS
"""Columns of a product that are computed at once."""

NEAR, FAR = sqrt(0.5), sqrt(2)
"""The points, beside 0 and infinity, of which the transforms evaluate polynomials; with each its
opposite. Rounding errors are half of those of the usual 1 and 2 (measured). Their product is 1, as
``_at_points`` presumes."""

_VECTOR, _INTS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES)
_SHORTS, _PAIRS = ir.VectorType(_ShortFloat(), LANES), ir.VectorType(_ShortFloat(), 2 * LANES)


class _Code:
    """Writes arithmetic on vectors into a function."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        self._scale_add: Any = cgutils.get_or_insert_function(
            builder.module, kind, f"llvm.fma.v{LANES}f32"
        )  # type: ignore[no-untyped-call]

    def place(self, pointer: Any, *distances: Any) -> Any:
        for distance in distances:
            by = ir.Constant(_INDEX, distance) if isinstance(distance, int) else distance
            pointer = self.builder.gep(pointer, [by])
        return pointer

    def times(self, distance: Any, number: int) -> Any:
        return self.builder.mul(distance, ir.Constant(_INDEX, number))

    def load(self, pointer: Any, kind: Any = _VECTOR) -> Any:
        address = self.builder.bitcast(pointer, kind.as_pointer())
        return self.builder.load(address, align=2)

    def store(self, value: Any, pointer: Any) -> None:
        address = self.builder.bitcast(pointer, value.type.as_pointer())
        self.builder.store(value, address, align=2)

    def everywhere(self, value: Any) -> Any:
        kind = ir.VectorType(value.type, LANES)
        none = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(none, value, ir.Constant(_INT, 0))
        return self.builder.shuffle_vector(first, none, ir.Constant(_INTS, [0] * LANES))

    def add_pairs(self, first: Any, second: Any, total: Any) -> Any:
        """Add the products of pairs of short floats, which are passed as the bits of integers."""
        kind = ir.FunctionType(_VECTOR, [_VECTOR, _PAIRS, _PAIRS])
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)  # type: ignore[no-untyped-call]
        pairs = [self.builder.bitcast(each, _PAIRS) for each in (first, second)]
        return self.builder.call(function, [total, *pairs])

    def rounded(self, value: Any) -> Any:
        """Return floats as short ones."""
        return self.builder.fptrunc(value, _SHORTS)

    def add(self, *terms: Any) -> Any:
        total = terms[0]
        for term in terms[1:]:
            total = self.builder.fadd(total, term)
        return total

    def subtract(self, first: Any, second: Any) -> Any:
        return self.builder.fsub(first, second)

    def scale(self, factor: float, value: Any) -> Any:
        return self.builder.fmul(ir.Constant(_VECTOR, [factor] * LANES), value)

    def scale_add(self, factor: float | Any, value: Any, term: Any) -> Any:
        if isinstance(factor, float):
            factor = ir.Constant(_VECTOR, [factor] * LANES)
        return self.builder.call(self._scale_add, [factor, value, term])


@_intrinsic
def place(typing: Any, array: Any, index: Any) -> Any:
    """Return the address of a value of an array."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.gep(data, [arguments[1]])

    return types.CPointer(array.dtype)(array, index), write  # type: ignore[no-untyped-call]


@_intrinsic
def as_kept(typing: Any, value: Any, array: Any) -> Any:
    """Return a float as an array keeps it: rounded to the bits of a short one, or as it is."""
    short = array.dtype == types.uint16

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if not short:
            return arguments[0]
        return builder.bitcast(builder.fptrunc(arguments[0], _ShortFloat()), _SHORT)

    return array.dtype(types.float32, array), write


@_intrinsic
def multiply(
    typing: Any,
    left: Any,
    distance: Any,
    offsets: Any,
    taps: Any,
    depth: Any,
    right: Any,
    start: Any,
    product: Any,
    stride: Any,
) -> Any:
    """Write ``ROWS`` x ``PANEL`` sums of products.

    Row r of the left side begins at ``left + r * distance``; it consists of ``taps`` pieces of
    ``depth`` values, piece t at ``offsets[t]`` from there. The right side holds a line of ``PANEL``
    values for each of these, one after the other. Each sum begins at ``start[column]``; row r of
    the product begins at ``product + r * stride``.

    Short floats, ``uint16`` by their bits, are multiplied in pairs: the depth is even, and each
    line of the right side holds ``PANEL`` pairs.
    """

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _write_multiply(_Code(builder), left.dtype == types.uint16, arguments)
        return context.get_dummy_value()

    given = left, distance, offsets, taps, depth, right, start, product, stride
    return types.void(*given), write


def _write_multiply(code: _Code, short: bool, arguments: Sequence[Any]) -> None:
    left, distance, offsets, taps, depth, right, start, product, stride = arguments
    builder, columns = code.builder, range(_VECTORS)
    kind, vector, at_once = (_INT, _INTS, 2) if short else (_FLOAT, _VECTOR, 1)
    add_products = code.add_pairs if short else code.scale_add
    starts = [code.load(code.place(start, LANES * column)) for column in columns]
    before = builder.block
    each_tap, each_value, tap_done, done = (
        builder.append_basic_block(name) for name in ("tap", "value", "tap_done", "done")
    )
    zero, one = ir.Constant(_INDEX, 0), ir.Constant(_INDEX, 1)

    def sums() -> list[list[Any]]:
        return [[builder.phi(_VECTOR) for _ in columns] for _ in range(ROWS)]

    builder.branch(each_tap)
    builder.position_at_end(each_tap)
    tap, tap_right, tap_sums = builder.phi(_INDEX), builder.phi(right.type), sums()
    tap_left = code.place(left, builder.load(code.place(offsets, tap)))
    builder.branch(each_value)

    builder.position_at_end(each_value)
    index, here, line = builder.phi(_INDEX), builder.phi(left.type), builder.phi(right.type)
    sofar = sums()
    factors = [code.load(code.place(line, at_once * LANES * k), vector) for k in columns]
    added = []
    for row in range(ROWS):
        value = code.load(code.place(here, code.times(distance, row)), kind)
        spread = code.everywhere(value)
        added.append([add_products(spread, factors[k], sofar[row][k]) for k in columns])
    next_index = builder.add(index, ir.Constant(_INDEX, at_once))
    next_here, next_line = code.place(here, at_once), code.place(line, at_once * PANEL)
    builder.cbranch(builder.icmp_signed("<", next_index, depth), each_value, tap_done)

    builder.position_at_end(tap_done)
    next_tap = builder.add(tap, one)
    builder.cbranch(builder.icmp_signed("<", next_tap, taps), each_tap, done)

    for phi, first, further in (
        (index, zero, next_index),
        (here, tap_left, next_here),
        (line, tap_right, next_line),
    ):
        phi.add_incoming(first, each_tap)
        phi.add_incoming(further, each_value)
    tap.add_incoming(zero, before)
    tap.add_incoming(next_tap, tap_done)
    tap_right.add_incoming(right, before)
    tap_right.add_incoming(next_line, tap_done)
    for row in range(ROWS):
        for k in columns:
            sofar[row][k].add_incoming(tap_sums[row][k], each_tap)
            sofar[row][k].add_incoming(added[row][k], each_value)
            tap_sums[row][k].add_incoming(starts[k], before)
            tap_sums[row][k].add_incoming(added[row][k], tap_done)

    builder.position_at_end(done)
    for row in range(ROWS):
        for k in columns:
            at = code.place(product, code.times(stride, row), LANES * k)
            code.store(added[row][k], at)


@_intrinsic
def transform_pixels(
    typing: Any, pixels: Any, down: Any, across: Any, values: Any, stride: Any
) -> Any:
    """Evaluate 6 x 6 pixels, of ``LANES`` channels each, at the 36 pairs of points.

    The pixels are ``down`` and ``across`` from each other, the values ``stride``; they are rounded
    where they are to be short floats.
    """
    short = values.dtype == types.uint16

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pixels, down, across, values, stride = arguments
        code = _Code(builder)
        columns = [
            _at_points(
                code,
                [
                    code.load(code.place(pixels, code.times(down, y), code.times(across, x)))
                    for y in range(6)
                ],
            )
            for x in range(6)
        ]
        for y in range(6):
            row = _at_points(code, [column[y] for column in columns])
            for x, value in enumerate(row):
                kept = code.rounded(value) if short else value
                code.store(kept, code.place(values, code.times(stride, 6 * y + x)))
        return context.get_dummy_value()

    return types.void(pixels, down, across, values, stride), write


@_intrinsic
def transform_products(
    typing: Any, products: Any, stride: Any, start: Any, pixels: Any, across: Any
) -> Any:
    """Return from products at the 36 pairs of points to 4 x 4 pixels, of ``LANES`` channels each.

    The products are ``stride`` from each other, the pixels ``across``, row after row;
    ``start`` is added.
    """

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        products, stride, start, pixels, across = arguments
        code = _Code(builder)
        columns = [
            _from_points(
                code,
                [code.load(code.place(products, code.times(stride, 6 * y + x))) for y in range(6)],
            )
            for x in range(6)
        ]
        bias = code.load(start)
        for y in range(4):
            row = _from_points(code, [column[y] for column in columns])
            for x, value in enumerate(row):
                at = code.place(pixels, code.times(across, 4 * y + x))
                code.store(code.add(value, bias), at)
        return context.get_dummy_value()

    return types.void(products, stride, start, pixels, across), write


def _at_points(code: _Code, d: Sequence[Any]) -> list[Any]:
    """Return six neighbours' combinations: rows 0, near, -near, far, -far, infinity of B^T."""
    even_near = code.scale_add(-(FAR**2), d[2], d[4])
    odd_near = code.scale(NEAR, code.scale_add(-(FAR**2), d[1], d[3]))
    even_far = code.scale_add(-(NEAR**2), d[2], d[4])
    odd_far = code.scale(FAR, code.scale_add(-(NEAR**2), d[1], d[3]))
    middle = -(NEAR**2 + FAR**2)
    return [
        code.add(code.scale_add(middle, d[2], d[0]), d[4]),
        code.add(even_near, odd_near),
        code.subtract(even_near, odd_near),
        code.add(even_far, odd_far),
        code.subtract(even_far, odd_far),
        code.add(code.scale_add(middle, d[3], d[1]), d[5]),
    ]


def _from_points(code: _Code, m: Sequence[Any]) -> list[Any]:
    """Return four neighbours of what was multiplied at the points: A^T."""
    near, far = code.add(m[1], m[2]), code.add(m[3], m[4])
    near_odd, far_odd = code.subtract(m[1], m[2]), code.subtract(m[3], m[4])
    return [
        code.add(m[0], near, far),
        code.scale_add(FAR, far_odd, code.scale(NEAR, near_odd)),
        code.scale_add(FAR**2, far, code.scale(NEAR**2, near)),
        code.scale_add(FAR**3, far_odd, code.scale_add(NEAR**3, near_odd, m[5])),
    ]


@_intrinsic
def take_next(typing: Any, counters: Any, index: Any) -> Any:
    """Add 1 to a counter that threads share; return what it was."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        counter = builder.gep(data, [arguments[1]])
        return builder.atomic_rmw("add", counter, ir.Constant(_INDEX, 1), "acq_rel")

    return types.int64(counters, index), write


@_intrinsic
def look(typing: Any, counters: Any, index: Any) -> Any:
    """Return a counter that threads share, as it is now."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(builder.gep(data, [arguments[1]]), "acquire", 8)

    return types.int64(counters, index), write
