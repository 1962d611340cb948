"""Delays Ctrl-C and SIGTERM until a step is complete."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether the run was asked to stop.

    The first signal is only noted, because an interrupted optimiser step could not be resumed
    exactly. A second Ctrl-C stops at once. A second SIGTERM has no effect: torchrun forwards the
    SIGTERM that SLURM already sent to every process. Only the main thread receives signals; other
    threads change nothing.
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
