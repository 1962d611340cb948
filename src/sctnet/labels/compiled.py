"""Label maps on the CPU by a compiled loop, whose rows are shared by several threads.

numba's own threads may not be entered by two threads at once, and do not survive a fork: the loop
is a plain one that releases Python's lock, and Python's threads share the rows.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from math import log
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8, UInt16
from torch import Tensor

from sctnet.labels.planes import Size, label_kind
from sctnet.labels.taps import side_of

_SHARE_PIXELS = 60_000  # fewer are sooner done than handed to another thread
_SHARES_PER_THREAD = 4  # some rows take longer than others

_compiling = threading.Lock()


def compiled_label_map(
    logits: Float[Tensor, "n k h w"],
    sizes: tuple[Size, ...],
    rows: slice,
    columns: slice,
    with_confidence: bool = False,
) -> (
    tuple[
        UInt8[Tensor, "n rows columns"] | UInt16[Tensor, "n rows columns"],
        Float32[Tensor, "n _ _"],
    ]
    | None
):
    """Return labels, and confidences where asked for, of logits on the CPU.

    None where what is read is not finite. As many threads are at work as PyTorch uses.
    """
    number, classes, height, width = logits.shape
    down = side_of((height, *(size[0] for size in sizes)), rows.start, rows.stop)
    across = side_of((width, *(size[1] for size in sizes)), columns.start, columns.stop)
    shape = number, rows.stop - rows.start, columns.stop - columns.start
    labels = torch.empty(shape, dtype=label_kind(classes))
    confidence = torch.empty(shape if with_confidence else (number, 0, 0))
    # All classes that are further from the largest are together less than its share's rounding.
    reach = 17 + log(classes) if with_confidence else 0.0
    loop = _loop(labels.dtype == torch.uint16)
    samples, drawn, sure = _readable(logits), labels.numpy(), confidence.numpy()

    def work(shares: Iterator[tuple[int, int, int]]) -> bool:
        for image, first, last in shares:
            spans = down.spans[first:last]
            top, bottom = int(spans[0, 0, 0]), int(spans[-1, 0, 1])
            pixels = slice(int(spans[0, -1, 0]) - rows.start, int(spans[-1, -1, 1]) - rows.start)
            read = _as_float32(samples[image, :, top:bottom])
            sides = (spans, *down[1:]), tuple(across)
            if not loop(read, top, *sides, reach, drawn[image, pixels], sure[image, pixels]):
                return False
        return True

    threads = min(torch.get_num_threads(), labels.numel() // _SHARE_PIXELS)
    finite = _share_out(work, _shares(number, len(down.spans), threads), threads)
    return (labels, confidence) if finite else None


@lru_cache(maxsize=64)  # videos ask for the same again and again
def _shares(images: int, groups: int, threads: int) -> list[tuple[int, int, int]]:
    """Return which groups of which image are drawn in one piece."""
    parts = 1 if threads <= 1 else min(groups, -(-threads * _SHARES_PER_THREAD // images))
    bounds = np.linspace(0, groups, parts + 1).round().astype(int).tolist()
    return [
        (image, bounds[part], bounds[part + 1]) for image in range(images) for part in range(parts)
    ]


def _share_out(work: Any, shares: list[tuple[int, int, int]], threads: int) -> bool:
    """Let threads, this one among them, take shares until none is left."""
    left = iter(shares)  # each is taken once: Python's lock sees to it
    if threads <= 1:
        return bool(work(left))
    helping = _helpers(os.getpid()).start(work, left, threads - 1)
    finite = [work(left), *(future.result() for future in helping)]
    return all(finite)


class _Helpers:
    """Threads that begin on other cores than the one that calls for them.

    Linux starts them beside it where an engine's own threads still spin on the other cores, waiting
    for their next picture: both then share one core (measured: no faster than one thread alone).
    """

    def __init__(self) -> None:
        self._threads: list[int] = []
        self._pool = ThreadPoolExecutor(
            os.cpu_count(),
            "sctnet-labels",
            lambda: self._threads.append(threading.get_native_id()),
        )

    def start(self, work: Any, shares: Any, number: int) -> list[Future[bool]]:
        if sys.platform == "linux":
            others = os.sched_getaffinity(0) - {_this_core()}
            for thread in self._threads if others else ():
                os.sched_setaffinity(thread, others)
        return [self._pool.submit(work, shares) for _ in range(number)]


@lru_cache(maxsize=1)
def _helpers(process: int) -> _Helpers:  # noqa: ARG001 - a fork has no threads
    return _Helpers()


def _this_core() -> int:
    """Return the number of the core that runs this, or -1."""
    ask = _sched_getcpu()
    return -1 if ask is None else int(ask())


@lru_cache(maxsize=1)
def _sched_getcpu() -> Any:
    """Return the C library's function, or None where it has none; looked up once."""
    try:
        return ctypes.CDLL(None).sched_getcpu
    except (AttributeError, OSError):
        return None


def _readable(logits: Tensor) -> np.ndarray:
    # numpy has no bfloat16: its bits are read as the upper half of a float32's.
    return (logits.view(torch.uint16) if logits.dtype == torch.bfloat16 else logits).numpy()


def _as_float32(samples: np.ndarray) -> Float32[np.ndarray, "..."]:
    if samples.dtype == np.uint16:
        return (samples.astype(np.uint32) << 16).view(np.float32)
    return samples.astype(np.float32, copy=False)


def _loop(wide: bool) -> Any:
    with _compiling:
        return _compiled_once(wide)


@lru_cache(maxsize=2)
def _compiled_once(wide: bool) -> Any:
    # In a thread of its own: numba keeps an exception that it met, and with it the frames of all
    # who called, their pictures and data loaders too, as long as the process lives.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_compile, wide).result()


def _compile(wide: bool) -> Any:
    from sctnet.labels.loop import compiled_loop

    try:
        return compiled_loop(wide, cached=True)
    except Exception:  # no folder can be written, the disk is full, a file is damaged
        return compiled_loop(wide, cached=False)
