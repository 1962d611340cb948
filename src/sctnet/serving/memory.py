"""The memory that workers, of the server and of bulk prediction, use again and again."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGE = 32 << 20  # bytes


def keep_freed_memory() -> None:
    """Let glibc keep what is freed; elsewhere nothing is changed.

    Every batch takes and frees the same tens of megabytes. glibc hands them back to the system in
    between, and with several threads nearly every time: thousands of pages a picture are then
    cleared and mapped again, which costs the server a fifth of its throughput. Blocks above 32 MB
    are still handed back.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
