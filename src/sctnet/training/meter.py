"""Measures of a run between two records."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import Any

from torch import Tensor

from sctnet.errors import SctnetError


class Meter:
    """Mean losses, speed, and the fraction of the time spent waiting for the loader.

    Losses stay on their device until a record is due, so that no step waits for the device.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        """Forget everything and start the clock."""
        self._steps = 0
        self._timed = 0
        self._waited = 0.0
        self._since = time.monotonic()
        self._sums: dict[str, Tensor] = {}

    def pause(self) -> None:
        """Exclude the time since the last record from the speed."""
        self._since, self._waited, self._timed = time.monotonic(), 0.0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for the loader."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count a step and its losses."""
        self._steps += 1
        self._timed += 1
        for key, value in losses.items():
            self._sums[key] = self._sums[key] + value if key in self._sums else value

    def state(self) -> dict[str, Any]:
        """Return the sums of the steps since the last record, for a checkpoint."""
        return {"steps": self._steps, "sums": dict(self._sums)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's sums; the clock starts now."""
        self.restart()
        self._steps, self._sums = state["steps"], state["sums"]

    def check(self) -> None:
        """Raise :class:`SctnetError` for a loss that is not finite."""
        if self._sums and not isfinite(float(self._sums["loss"])):
            raise SctnetError(
                "the loss is no longer finite: lower optimizer.rate, or use run.precision=fp32; "
                "what was saved last is still good"
            )

    def take(self) -> dict[str, float]:
        """Return the record and reset the meter; raises what :meth:`check` raises."""
        self.check()
        losses = {key: float(value) / self._steps for key, value in self._sums.items()}
        seconds = time.monotonic() - self._since
        record = {
            **losses,
            "images_per_second": round(self._timed * self._batch_size / seconds, 3),
            "loader_share": round(self._waited / seconds, 4),
        }
        self.restart()
        return record
