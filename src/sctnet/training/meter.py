"""What a run measures between two of its records."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite

from torch import Tensor

from sctnet.errors import SctnetError


class Meter:
    """Mean losses, speed, and the share of the time that the loader was waited for.

    Losses stay on their device until a record is due, so that no step waits for the device.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        """Forget everything and start the clock."""
        self._steps = 0
        self._waited = 0.0
        self._since = time.monotonic()
        self._sums: dict[str, Tensor] = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for the loader."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count a step and its losses."""
        self._steps += 1
        for key, value in losses.items():
            self._sums[key] = self._sums[key] + value if key in self._sums else value

    def take(self) -> dict[str, float]:
        """Return the record and start anew; raises :class:`SctnetError` for a loss of NaN."""
        losses = {key: float(value) / self._steps for key, value in self._sums.items()}
        if not isfinite(losses["loss"]):
            raise SctnetError(
                "the loss is no longer finite: lower optimizer.rate, or use run.precision=fp32"
            )
        seconds = time.monotonic() - self._since
        record = {
            **losses,
            "images_per_second": round(self._steps * self._batch_size / seconds, 3),
            "loader_share": round(self._waited / seconds, 4),
        }
        self.restart()
        return record
