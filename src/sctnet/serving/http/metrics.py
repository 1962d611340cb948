"""The server's metrics for Prometheus, and a line of JSON for each request.

Of a client's data they hold only the size.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

LOGGER = logging.getLogger("sctnet.serving")
"""Writes one JSON object per line: for requests, at level INFO, and for reloads."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PICTURES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "sctnet_requests", "Requests answered.", ["route", "model", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.stage_seconds = Histogram(
            "sctnet_stage_seconds", "Time of a request in each stage: read, decode, queue, infer, "
            "encode; total is the whole.", ["model", "stage"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.batch_pictures = Histogram(
            "sctnet_batch_pictures", "Pictures that passed the network together.", ["model"],
            buckets=_PICTURES, registry=self.registry,
        )  # fmt: skip
        self.errors = Counter(
            "sctnet_errors", "Requests that were refused or failed.", ["model", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.reloads = Counter(
            "sctnet_reloads", "Reloads of models.", ["model", "result"], registry=self.registry
        )
        self._queue = Gauge(
            "sctnet_queue_pictures", "Pictures that no worker has taken yet.", ["model"],
            registry=self.registry,
        )  # fmt: skip

    def watch_queue(self, model: str, length: Callable[[], int]) -> None:
        """Report the value of ``length()`` as the model's queue."""
        self._queue.labels(model).set_function(length)

    def text(self) -> bytes:
        """Return all figures as Prometheus reads them."""
        return generate_latest(self.registry)


@dataclass
class RequestRecord:
    """The record of one request."""

    method: str
    id: str = field(default_factory=lambda: uuid4().hex)
    began: float = field(default_factory=time.perf_counter)
    model: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    pictures: int = 0
    pixels: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, also one that fails."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = time.perf_counter() - began

    def close(self, route: str, status: int, metrics: Metrics) -> None:
        """Count the request, and write its line."""
        self.stages["total"] = time.perf_counter() - self.began
        metrics.requests.labels(route, self.model, status).inc()
        if status >= 400:
            metrics.errors.labels(self.model, status).inc()
        if self.model:
            for stage, seconds in self.stages.items():
                metrics.stage_seconds.labels(self.model, stage).observe(seconds)
        log(
            "request",
            id=self.id,
            method=self.method,
            route=route,
            status=status,
            model=self.model or None,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            pictures=self.pictures,
            pixels=self.pixels,
            milliseconds={name: round(1000 * value, 2) for name, value in self.stages.items()},
        )


def log(event: str, **values: object) -> None:
    """Write a line of JSON."""
    moment = datetime.now(UTC).isoformat(timespec="milliseconds")
    LOGGER.info(json.dumps({"time": moment, "event": event, **values}))
