"""A server in a thread, for tests."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import shared
import uvicorn
from shared import CLASSES

from sctnet.pipeline.preprocessing import WorkingSize
from sctnet.serving.http.application import create_application
from sctnet.serving.http.limits import Limits
from sctnet.serving.http.metrics import Metrics
from sctnet.serving.http.served_model import ServedModel, read_choices


def saved(folder: Path, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> Path:
    """Save a small model that works at a shorter side of 64 pixels."""
    return shared.saved(folder, WorkingSize(rule="shorter-side", pixels=64), classes, seed)


def encoded(picture: np.ndarray, ending: str = ".png") -> bytes:
    """Return an RGB picture as a file's bytes."""
    return cv2.imencode(ending, picture[..., ::-1])[1].tobytes()


@dataclass
class Running:
    url: str
    address: str
    models: list[ServedModel]
    server: uvicorn.Server
    thread: threading.Thread


@contextmanager
def running(
    *texts: str,
    limits: Limits | None = None,
    api_key: str | None = None,
    origins: tuple[str, ...] = (),
    **defaults: object,
) -> Iterator[Running]:
    """Serve models on a free port, and stop."""
    limits, metrics = limits or Limits(), Metrics()
    choices = read_choices(texts, {"workers": 1, "device": "cpu", **defaults})
    models = [ServedModel(choice, limits, metrics) for choice in choices]
    app = create_application(models, limits, metrics, api_key, origins)
    config = uvicorn.Config(app, port=0, http="h11", log_level="error", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    address = f"127.0.0.1:{port}"
    try:
        yield Running(f"http://{address}", address, models, server, thread)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
