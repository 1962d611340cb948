"""Loops that numba compiles: made once, without holding who called for them, and shared by threads.

numba's own threads may not be entered by two threads at once, and do not survive a fork: a loop is
a plain one that releases Python's lock, and Python's threads share its work.
"""

import ctypes
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache, lru_cache
from hashlib import sha256
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

# Unlike the rest of fast mathematics, contraction (a product and a sum rounded once) assumes
# nothing about the values; PyTorch's kernels are compiled with it.
_OPTIONS: dict[str, Any] = {"fastmath": {"contract"}, "nogil": True, "error_model": "numpy"}

Function = TypeVar("Function", bound=Callable[..., Any])
Part = TypeVar("Part")
Work = Callable[[Iterator[Part]], bool]
"""Works on shares until none is left; returns whether all went well."""

_LOG = logging.getLogger(__name__)
_LONG = 2.0  # seconds; what was compiled earlier is loaded in less

_SHARES_PER_THREAD = 4  # some take longer than others

_compiling = threading.Lock()


@cache
def has_numba() -> bool:
    """Say whether loops can be compiled here."""
    if find_spec("numba") is None:
        return False
    try:
        import numba  # noqa: F401 - it may be there and too old for this Python
    except ImportError:
        return False
    return True


def part_of_loop(function: Function) -> Function:
    """Let a loop call a function, for whatever types it does."""
    from numba import njit

    return njit(**_OPTIONS)(function)  # type: ignore[no-any-return]


def compile_loop(
    function: Callable[..., Any], signature: Any, cached: bool, *parts: ModuleType
) -> Any:
    """Compile a loop for arguments of these types, or take it from numba's cache on the disk.

    ``parts`` are the modules beside its own that it is made of: numba looks at no other file than
    the loop's, but at its name.
    """
    from numba import njit

    if cached:
        digest = sha256(repr(_OPTIONS).encode())
        for module in (sys.modules[function.__module__], *parts):
            digest.update(Path(str(module.__file__)).read_bytes())
        function.__qualname__ = f"{function.__name__}_{digest.hexdigest()[:12]}"
    return njit([signature], cache=cached, **_OPTIONS)(function)


def compiled(make: Callable[..., Any], *arguments: Any) -> Any:
    """Return the loop ``make(*arguments, cached=True)``, made once in this process.

    Where there is no place on the disk for what is ``cached`` it is made without.
    """
    with _compiling:
        return _made(make, *arguments)


@cache
def _made(make: Callable[..., Any], *arguments: Any) -> Any:
    # In a thread of its own: numba keeps an exception that it met, and with it the frames of all
    # who called, their pictures and data loaders too, as long as the process lives.
    future: Future[Any] = Future()
    thread = threading.Thread(target=_make, args=(future, make, *arguments))
    thread.start()
    thread.join(_LONG)
    if thread.is_alive():
        _LOG.info(
            "Compiling for this processor, which takes up to a minute, once for each installation."
        )
        thread.join()
    return future.result()


def _make(future: Future[Any], make: Callable[..., Any], *arguments: Any) -> None:
    try:
        try:
            future.set_result(make(*arguments, cached=True))
        except Exception:  # no folder can be written, the disk is full, a file is damaged
            future.set_result(make(*arguments, cached=False))
    except Exception as error:
        future.set_exception(error)


def parts(length: int, threads: int, times: int = 1) -> list[tuple[int, int]]:
    """Return where the pieces of a length begin and end that so many threads share.

    Each thread has some four, as some take longer than others; fewer where ``times`` lengths are
    cut alike.
    """
    count = 1 if threads <= 1 else min(length, -(-threads * _SHARES_PER_THREAD // times))
    bounds = [(length * part + count // 2) // count for part in range(count + 1)]
    return list(pairwise(bounds))


def run_parts(work: Work[Part], shares: Sequence[Part], threads: int) -> bool:
    """Let threads, this one among them, take shares until none is left."""
    left = iter(shares)  # each is taken once: Python's lock sees to it
    if threads <= 1:
        return work(left)
    helping = _helpers(os.getpid()).start(work, left, threads - 1)
    return all([work(left), *(future.result() for future in helping)])


class _Helpers:
    """Threads that begin on other cores than the one that calls for them.

    Linux starts them beside it where an engine's own threads still spin on the other cores, waiting
    for their next picture: both then share one core (measured: no faster than one thread alone).
    """

    def __init__(self) -> None:
        self._threads: list[int] = []
        self._pool = ThreadPoolExecutor(
            os.cpu_count(),
            "sctnet-loops",
            lambda: self._threads.append(threading.get_native_id()),
        )

    def start(self, work: Work[Part], shares: Iterator[Part], number: int) -> list[Future[bool]]:
        if sys.platform == "linux":
            others = os.sched_getaffinity(0) - {_this_core()}
            for thread in self._threads if others else ():
                os.sched_setaffinity(thread, others)
        helping: list[Future[bool]] = []
        with suppress(RuntimeError):  # the program's main thread has ended, and with it all pools
            helping += (self._pool.submit(work, shares) for _ in range(number))
        return helping


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
