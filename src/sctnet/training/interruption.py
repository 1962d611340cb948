"""Ctrl-C and SIGTERM, held back until a step is whole."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether the run was asked to stop.

    An optimiser step cut in two could not be resumed exactly, so the first signal is only noted;
    a second Ctrl-C stops at once. A second SIGTERM changes nothing: torchrun passes on what SLURM
    has already sent to every process. Outside the main thread, which alone receives signals,
    nothing is changed.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def note(number: int, frame: FrameType | None) -> None:
        if asked.is_set() and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        asked.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
