"""The compiled library (``native/``): found, checked, and called with numpy's arrays."""

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from sctnet.errors import SctnetError

_NAME = "sctnet_kernels"
_SETTING, _FILE = "SCTNET_KERNELS", "SCTNET_KERNELS_LIBRARY"
_INDEX, _POINTER = ctypes.c_int64, ctypes.c_void_p
_FLOATS, _BYTES = 1, 2  # kinds of steps that read the picture
_NO_MEMORY, _NOT_FINITE, _WRONG_LABEL = 1, 2, 3  # the library's Outcome
_MOST_STAGES = 16
_INTERFACE = 3
"""Of the library's functions: one more with every change of their arguments, there and here."""


class Shape(NamedTuple):
    """How an instruction set computes products."""

    lanes: int
    """Floats in a vector."""
    rows: int
    """Rows of a product that are computed at once, at most."""
    panel: int
    """Columns of a product that are computed at once."""


class InstructionSet(NamedTuple):
    """One of the processor's instruction sets for which the library was compiled."""

    number: int
    name: str
    shape: Shape
    offered: bool
    """Whether processor and operating system have it."""
    takes_pairs: bool
    """Whether pairs of bfloat16 can be multiplied, at least for tests."""
    multiplies_pairs: bool
    """Whether there is an instruction for it."""


class Side(Protocol):
    """One side of a map that is resized in stages: see kernels/interpolation.py."""

    @property
    def spans(self) -> np.ndarray:
        """Groups x levels x 2."""

    @property
    def taps(self) -> np.ndarray:
        """Stages x 3 x longest."""

    @property
    def shares(self) -> np.ndarray:
        """Stages x 2 x longest."""

    def __iter__(self) -> Iterator[Any]:
        """Yield these."""


class Library:
    """The loaded library. Every array is checked before a pointer to it is made."""

    def __init__(self, file: Path) -> None:
        try:
            self._functions = ctypes.CDLL(str(file))
            declare = self._declare
            interface = declare("sctnet_interface", _INDEX)()
            self._step_fields = declare("sctnet_step_fields", ctypes.c_char_p)
            self._describe = declare("sctnet_instruction_set", ctypes.c_char_p, _INDEX, _POINTER)
            self._compute = declare(
                "sctnet_compute", ctypes.c_int, _INDEX, _POINTER, _INDEX, *[_POINTER] * 6, _INDEX,
                _POINTER, _INDEX, _INDEX, _POINTER,
            )  # fmt: skip
            self._check = declare(
                "sctnet_check", _INDEX, _INDEX, _POINTER, _INDEX, _POINTER, _INDEX, _POINTER
            )
            self._label_maps = declare(
                "sctnet_label_maps", ctypes.c_int, _INDEX, _POINTER, _POINTER, _POINTER,
                _POINTER, _INDEX, _POINTER, _INDEX, _INDEX,
            )  # fmt: skip
            self._prepare = declare(
                "sctnet_prepare", ctypes.c_int, _INDEX, *[_POINTER] * 9, _INDEX, _INDEX
            )
            self._cross_entropy = declare(
                "sctnet_cross_entropy", ctypes.c_int, _INDEX, *[_POINTER] * 10, _INDEX, _INDEX
            )
            self._exponentials = declare(
                "sctnet_exponentials", None, _INDEX, _POINTER, _POINTER, _INDEX
            )
        except (OSError, AttributeError) as error:
            raise SctnetError(f"{file}: this is no library of sctnet's kernels: {error}") from error
        if interface != _INTERFACE:
            raise SctnetError(
                f"{file}: was compiled from other sources than this package's: install it again "
                "(pip install, or make setup)"
            )
        self.step_fields: tuple[str, ...] = tuple(self._step_fields().decode().split(","))
        """Names of the fields of a step, each a number of 8 bytes."""
        self.instruction_sets = self._instruction_sets()
        """All that it was compiled for, the newest first."""

    def compute(
        self,
        kind: InstructionSet,
        steps: np.ndarray,
        picture: np.ndarray | None,
        memory: np.ndarray,
        offsets: np.ndarray,
        weights: tuple[np.ndarray, np.ndarray],
        scratch: np.ndarray,
        nanoseconds: np.ndarray | None = None,
    ) -> None:
        """Compute steps, whose fields steps.py tells, on a memory of float32.

        ``picture`` has bytes or float32, ``weights`` are terms of float32 and factors of float32,
        or of bfloat16 by their bits. Each row of ``scratch`` is for a thread. ``nanoseconds``, one
        for each step, receives when a step ended by a steady clock.

        Raises :class:`MemoryError`, and :class:`ValueError` for a step that would read or write
        beyond its arrays.
        """
        terms, factors = weights
        assert steps.dtype.names == self.step_fields
        assert steps.dtype.itemsize == 8 * len(self.step_fields)
        assert factors.dtype == np.float32 or (factors.dtype == np.uint16 and kind.takes_pairs)
        assert kind.offered
        short = factors.dtype == np.uint16
        sizes = np.array([each.size for each in (memory, offsets, terms, factors, scratch[0])])
        wrong = self._check(
            kind.number, _place(steps), len(steps), _place(offsets, np.int64), short, _place(sizes)
        )
        if wrong >= 0:
            raise ValueError(f"step {wrong} reaches beyond its arrays: {steps[wrong]}")
        reads = steps[(steps["kind"] == _FLOATS) | (steps["kind"] == _BYTES)]
        for step in reads:
            assert picture is not None
            assert (step["kind"] == _BYTES) == (picture.dtype == np.uint8)
            assert picture.size == 3 * step["height"] * step["width"]
        as_bytes = picture is not None and picture.dtype == np.uint8
        assert nanoseconds is None or len(nanoseconds) == len(steps)
        failed = self._compute(
            kind.number,
            _place(steps),
            len(steps),
            _place(picture, np.uint8) if as_bytes else None,
            None if as_bytes else _place(picture, np.float32),
            _place(memory, np.float32),
            _place(offsets, np.int64),
            _place(terms, np.float32),
            _place(factors),
            short,
            _place(scratch, np.float32),
            scratch.shape[1],
            len(scratch),
            _place(nanoseconds, np.int64),
        )
        if failed:
            raise MemoryError("there is no memory for the counters of a network's steps")

    def label_maps(
        self,
        kind: InstructionSet,
        logits: np.ndarray,
        sides: tuple[Side, Side],
        labels: np.ndarray,
        pieces: np.ndarray,
        threads: int,
    ) -> bool:
        """Resize logits, n x k x h x w in any layout, and let the largest class win.

        ``sides`` are down and across, of what ``labels``, n x rows x columns of uint8 or uint16,
        hold. A piece is an image and which groups of rows of it. Returns whether all logits that
        are read are finite.

        Raises :class:`MemoryError`.
        """
        down, across = sides
        number, rows, columns = labels.shape
        assert kind.offered
        assert logits.dtype == np.float32
        assert len(logits) == number
        assert labels.dtype in (np.uint8, np.uint16)
        assert logits.shape[1] <= (256 if labels.dtype == np.uint8 else 65536)
        for side, inputs, outputs in (
            (down, logits.shape[2], rows),
            (across, logits.shape[3], columns),
        ):
            _check_side(side, inputs, outputs)
        assert pieces.shape[1:] == (3,)
        assert pieces.min(initial=0) >= 0
        assert pieces[:, 0].max(initial=0) < number or not len(pieces)
        assert pieces[:, 1:].max(initial=0) <= len(down.spans)
        strides = [stride // 4 for stride in logits.strides]
        numbers = np.array(
            [*strides, logits.shape[1], logits.shape[3], *_sizes(down), *_sizes(across), columns],
            np.int64,
        )
        arrays = [_place(array) for side in sides for array in side]
        outcome = self._label_maps(
            kind.number,
            _place(numbers),
            logits.ctypes.data,
            (ctypes.c_void_p * 6)(*arrays),
            _place(labels),
            labels.dtype == np.uint16,
            _place(pieces, np.int64),
            len(pieces),
            threads,
        )
        return not _failed(outcome)

    def prepare(
        self,
        kind: InstructionSet,
        pictures: np.ndarray,
        sides: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
        statistics: np.ndarray,
        prepared: np.ndarray,
        pieces: np.ndarray,
        threads: int,
    ) -> None:
        """Resize and normalise pictures of bytes, n x h x w x 3.

        Each of the ``sides`` of ``prepared``, n x rows x columns x 3 of float32, says which row or
        column is the first that a result reads, and how it weighs that one and those behind it.
        ``statistics`` are means and deviations; a piece is an image and which rows of the result.

        Raises :class:`MemoryError`.
        """
        assert kind.offered
        assert pictures.ndim == prepared.ndim == 4
        assert pictures.shape[::3] == prepared.shape[::3] == (len(pictures), 3)
        assert statistics.shape == (2, 3)
        for (first, weights), inputs, outputs in zip(
            sides, pictures.shape[1:3], prepared.shape[1:3], strict=True
        ):
            assert len(first) == len(weights) == outputs
            assert first.min() >= 0
            assert first.max() + weights.shape[1] <= inputs
        assert pieces.shape[1:] == (3,)
        assert pieces.min(initial=0) >= 0
        assert pieces[:, 0].max(initial=0) < len(pictures) or not len(pieces)
        assert pieces[:, 1:].max(initial=0) <= prepared.shape[1]
        taps = [weights.shape[1] for _, weights in sides]
        sizes = np.array([*pictures.shape[1:3], *prepared.shape[1:3], *taps], np.int64)
        (down_first, down_weights), (across_first, across_weights) = sides
        outcome = self._prepare(
            kind.number,
            _place(sizes),
            _place(pictures, np.uint8),
            _place(down_first, np.int32),
            _place(down_weights, np.float32),
            _place(across_first, np.int32),
            _place(across_weights, np.float32),
            _place(statistics, np.float32),
            _place(prepared, np.float32),
            _place(pieces, np.int64),
            len(pieces),
            threads,
        )
        _failed(outcome)

    def cross_entropy(
        self,
        kind: InstructionSet,
        logits: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray,
        ignored: int,
        sides: tuple[Side, Side],
        gradient: tuple[np.ndarray, np.ndarray],
        losses: np.ndarray,
        pieces: np.ndarray,
        threads: int,
    ) -> bool:
        """Resize logits, n x h x w x k, to labels, n x rows x columns of int64, and compare them.

        ``weights`` has one of each class. ``sides`` are down and across. The ``gradient`` has the
        logits' layout twice: what pixels give the upper of the two rows that they read, at its
        place, and what they give the lower one, at the same place. ``losses``, n x h of float64,
        has the sums of these pixels. A piece is an image and which rows of logits. Returns whether
        every label was a class or ``ignored``.

        Raises :class:`MemoryError`.
        """
        down, across = sides
        number, height, width, classes = logits.shape
        assert kind.offered
        assert labels.shape[0] == losses.shape[0] == number
        assert losses.shape == (number, height)
        assert all(each.shape == logits.shape for each in gradient)
        assert weights.shape == (classes,)
        for side, inputs, outputs in (
            (down, height, labels.shape[1]),
            (across, width, labels.shape[2]),
        ):
            _check_side(side, inputs, outputs)
            assert len(side.taps) == 1
        assert pieces.shape[1:] == (3,)
        assert pieces.min(initial=0) >= 0
        assert pieces[:, 0].max(initial=0) < number or not len(pieces)
        assert pieces[:, 1:].max(initial=0) <= height
        # Rows of labels read a row of logits and the next; none is skipped back.
        starts = np.searchsorted(down.taps[0, 0], np.arange(height + 1)).astype(np.int32)
        longest = [side.taps.shape[2] for side in sides]
        numbers = np.array([*logits.shape[1:], *labels.shape[1:], ignored, *longest], np.int64)
        arrays = [_place(array) for side in sides for array in (side.taps, side.shares)]
        outcome = self._cross_entropy(
            kind.number,
            _place(numbers),
            _place(logits, np.float32),
            _place(labels, np.int64),
            _place(weights, np.float32),
            _place(starts),
            (ctypes.c_void_p * 4)(*arrays),
            *(_place(each, np.float32) for each in gradient),
            _place(losses, np.float64),
            _place(pieces, np.int64),
            len(pieces),
            threads,
        )
        _failed(outcome)
        return bool(outcome != _WRONG_LABEL)

    def exponentials(self, kind: InstructionSet, powers: np.ndarray) -> np.ndarray:
        """Return e to the power of numbers that are not positive, as kernels compute it."""
        results = np.empty_like(powers)
        given = _place(powers, np.float32), _place(results, np.float32), powers.size
        self._exponentials(kind.number, *given)
        return results

    def _declare(self, name: str, result: Any, *arguments: Any) -> Any:
        function = getattr(self._functions, name)
        function.restype, function.argtypes = result, arguments
        return function

    def _instruction_sets(self) -> tuple[InstructionSet, ...]:
        found: list[InstructionSet] = []
        facts = np.zeros(6, np.int64)
        while name := self._describe(len(found), _place(facts)):
            shape, truths = Shape(*map(int, facts[:3])), map(bool, facts[3:])
            found.append(InstructionSet(len(found), name.decode(), shape, *truths))
        return tuple(found)


def _sizes(side: Side) -> tuple[int, int, int]:
    groups, levels, _ = side.spans.shape
    return groups, levels, side.taps.shape[2]


def _check_side(side: Side, inputs: int, outputs: int) -> None:
    groups, levels, longest = _sizes(side)
    assert groups > 0
    assert 2 <= levels <= _MOST_STAGES + 1
    assert side.spans.dtype == side.taps.dtype == np.int32
    assert side.shares.dtype == np.float32
    assert side.taps.shape == (levels - 1, 3, longest)
    assert side.shares.shape == (levels - 1, 2, longest)
    assert side.spans.min() >= 0
    assert side.spans[:, 0].max() <= inputs
    assert side.spans[-1, -1, 1] - side.spans[0, -1, 0] == outputs
    assert side.spans[:, 1:].max() <= longest


def _failed(outcome: int) -> bool:
    """Return whether what was read is not finite."""
    if outcome == _NO_MEMORY:
        raise MemoryError("there is no memory for the rows of a picture")
    return outcome == _NOT_FINITE


def _place(array: np.ndarray | None, kind: Any = None) -> int | None:
    """Return where the values of an array lie side by side."""
    if array is None:
        return None
    assert array.flags.c_contiguous
    assert kind is None or array.dtype == kind, array.dtype
    return array.ctypes.data


@lru_cache(maxsize=1)
def library() -> Library | None:
    """Return the library that was installed with this package, or None where there is none.

    The environment's SCTNET_KERNELS_LIBRARY names another file, for tests and development.

    Raises :class:`SctnetError` for a file that is no such library.
    """
    file = os.environ.get(_FILE)
    if file:
        return Library(Path(file))
    # An editable installation keeps the library in another folder than the package's files.
    for folder in sys.modules[__package__].__path__:
        for found in sorted(Path(folder).glob(f"{_NAME}.*")):
            return Library(found)
    return None


@lru_cache(maxsize=1)
def instruction_set() -> InstructionSet | None:
    """Return what kernels are computed with here; None: PyTorch computes instead of them.

    The newest instruction set that processor and operating system offer, unless the environment's
    SCTNET_KERNELS names another one, or ``torch``.

    Raises :class:`SctnetError` where what is named is not there.
    """
    setting = os.environ.get(_SETTING, "auto")
    if setting == "torch":
        return None
    found = library()
    offered = [kind for kind in found.instruction_sets if kind.offered] if found else []
    if setting == "auto":
        return offered[0] if offered else None
    return _named(setting, offered)


def _named(setting: str, offered: Sequence[InstructionSet]) -> InstructionSet:
    for kind in offered:
        if setting in ("native", kind.name):
            return kind
    names = ", ".join(
        ["auto", "torch", *(["native"] if offered else []), *(k.name for k in offered)]
    )
    raise SctnetError(f"{_SETTING}={setting}: this machine offers {names}: choose one of these")
