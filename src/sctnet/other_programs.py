"""Other programs on this machine: how much of it they use, and how threads wait beside them.

PyTorch's threads share every step, and whoever is done first waits for the others by spinning.
Beside a busy program the spinning takes the time that the slowest thread needs. Nothing heavy is
imported here, because the way to wait has to be chosen before PyTorch is.
"""

import os
import time
from collections.abc import MutableMapping
from pathlib import Path

BUSY = 0.5
"""Cores: what others use of them slows down all threads that share a step."""

_WAITING = "OMP_WAIT_POLICY"
_LOOK = 0.3  # seconds
_IDLE = (3, 4)  # the places of idle and iowait among a core's times in /proc/stat


class OtherPrograms:
    """Measures how many of the cores that this process may use are busy for others.

    Its children count as itself. Only Linux tells; elsewhere nothing is known.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self.usable = _usable()
        self._before = self._now()

    def cores(self) -> float | None:
        """Return the number since the last call, on average; None where it is unknown."""
        before, self._before = self._before, self._now()
        if before is None or self._before is None:
            return None
        seconds, busy, own = (now - then for now, then in zip(self._before, before, strict=True))
        if seconds <= 0:
            return None
        return min(max(0.0, (busy - own) / seconds), float(len(self.usable)))

    def _now(self) -> tuple[float, float, float] | None:
        """Return the time, and what all programs and this one used so far, in seconds."""
        try:
            ticks = os.sysconf("SC_CLK_TCK")
            return time.monotonic(), self._busy() / ticks, self._own() / ticks
        except (OSError, ValueError, AttributeError, IndexError):
            return None

    def _busy(self) -> int:
        """Return the ticks that the usable cores were busy, for any program or virtual machine."""
        busy = 0
        for line in (self._proc / "stat").read_text(encoding="ascii").splitlines():
            name, *times = line.split()
            if name[:3] == "cpu" and name[3:].isdecimal() and int(name[3:]) in self.usable:
                # user nice system idle iowait irq softirq steal; what follows is within user
                busy += sum(int(each) for at, each in enumerate(times[:8]) if at not in _IDLE)
        return busy

    def _own(self) -> int:
        """Return the ticks of this process and its children, the ended ones too."""
        own, me = 0, os.getpid()
        for folder in self._proc.iterdir():
            if not folder.name.isdecimal():
                continue
            try:
                text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue  # it has ended
            fields = text.rpartition(")")[2].split()  # after the name: state, parent and so on
            if me in (int(folder.name), int(fields[1])):
                own += sum(map(int, fields[11:15]))
        return own


def wait_passively_beside_others(
    environment: MutableMapping[str, str] = os.environ, others: OtherPrograms | None = None
) -> str | None:
    """Let PyTorch's threads sleep while they wait, where other programs are busy now.

    Has to come before PyTorch is imported. Returns the sentence that says so; None where nothing
    was changed: on a quiet machine, and where a user decided it.
    """
    if _WAITING in environment:
        return None
    if others is None:
        others = OtherPrograms()
        time.sleep(_LOOK)
    cores = others.cores()
    if cores is None or cores < BUSY:
        return None
    environment[_WAITING] = "PASSIVE"
    return (
        f"Other programs use {cores:.1f} of {len(others.usable)} cores, so threads sleep while "
        f"they wait for each other ({_WAITING}=PASSIVE; set {_WAITING}=ACTIVE to prevent it)."
    )


def slowed_by(cores: float, usable: int, environment: MutableMapping[str, str] = os.environ) -> str:
    """Return the sentence that other programs slow a run down, and what helps."""
    sentence = f"other programs use {cores:.1f} of {usable} cores, which slows this run down"
    if environment.get(_WAITING, "").upper() == "PASSIVE":
        return sentence
    return f"{sentence}; if they stay, stop it and start it with --resume: threads then wait asleep"


def _usable() -> frozenset[int]:
    """Return the numbers of the cores that this process may run on."""
    ask = getattr(os, "sched_getaffinity", None)
    return frozenset(ask(0) if ask is not None else range(os.cpu_count() or 1))
