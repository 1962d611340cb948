"""The origin of a measured figure: the code, its libraries and the machine."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sctnet.machine import processor


def environment() -> dict[str, Any]:
    """Return code, versions and the machine in general terms, for a JSON file."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "sctnet": version("sctnet"),
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": gpu or f"CPU, {os.cpu_count()} cores, {platform.machine()}",
        "processor": processor(),
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """Return the commit of the code, with a + where files were changed, or None if installed."""
    folder = Path(__file__).parent
    try:
        # An environment may lie inside somebody's repository, whose commit is not the code's.
        _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(  # noqa: S603 - fixed arguments
        command, capture_output=True, text=True, check=True
    ).stdout.strip()
