"""How many threads work here, and what each of them takes."""

import math
import os
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

_SHARES_PER_THREAD = 4  # some take longer than others
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """Return how many cores this process may use: by its affinity, and by its container's quota."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(there or 1, _quota(_QUOTA)))


@lru_cache(maxsize=1)
def _quota(file: Path) -> int:
    """Return how many cores a container may use, a part of one counted as one."""
    try:
        most, period = file.read_text().split()
        return math.ceil(int(most) / int(period))
    except (OSError, ValueError):  # no such file, or "max": there is no quota
        return 1 << 16


def parts(length: int, threads: int, times: int = 1) -> list[tuple[int, int]]:
    """Return where the pieces of a length begin and end that so many threads share.

    Each thread has some four, as some take longer than others; fewer where ``times`` lengths are
    cut alike.
    """
    count = 1 if threads <= 1 else min(length, -(-threads * _SHARES_PER_THREAD // times))
    bounds = [(length * part + count // 2) // count for part in range(count + 1)]
    return list(pairwise(bounds))
