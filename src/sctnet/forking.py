"""Makes forks safe: a process copied by ``os.fork``, as multiprocessing does, has no threads.

PyTorch and OpenCV would wait in it for their pools for ever, so there each computes alone.
"""

import os
import sys
from typing import Any

_threads_of_opencv: list[int] = []


def _before() -> None:
    opencv: Any = sys.modules.get("cv2")
    if hasattr(opencv, "getNumThreads"):
        _threads_of_opencv.append(opencv.getNumThreads())
        opencv.setNumThreads(1)  # ends the pool, which the copy could no longer do


def _after_in_parent() -> None:
    opencv: Any = sys.modules.get("cv2")
    if _threads_of_opencv and hasattr(opencv, "setNumThreads"):
        opencv.setNumThreads(_threads_of_opencv.pop())


def _after_in_child() -> None:
    _threads_of_opencv.clear()
    torch: Any = sys.modules.get("torch")
    if hasattr(torch, "set_num_threads"):
        torch.set_num_threads(1)


def make_forks_safe() -> None:
    """Register what happens at a fork, where the system has forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
        )
