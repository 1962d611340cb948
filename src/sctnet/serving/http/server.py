"""The server process: loads models, binds a socket, handles signals."""

import logging
import re
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from queue import SimpleQueue
from types import FrameType

import cv2
import uvicorn
from fastapi import FastAPI

from sctnet.errors import SctnetError
from sctnet.serving.http.application import create_application
from sctnet.serving.http.limits import Limits
from sctnet.serving.http.metrics import LOGGER, Metrics, log
from sctnet.serving.http.served_model import ModelChoice, ServedModel
from sctnet.serving.memory import keep_freed_memory

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+")
_GRACE = 5  # seconds beyond the time limit of a request, after which stopping waits no longer
_MAX_HEAD = 65_536  # bytes of a request's line and headers


def serve(
    choices: Sequence[ModelChoice],
    host: str,
    port: int,
    limits: Limits,
    api_key: str | None = None,
    origins: Sequence[str] = (),
) -> None:
    """Serve models until SIGTERM or SIGINT, and then finish what was accepted.

    SIGHUP reloads every model and replaces the old ones without dropping a request. ``origins`` are
    those of :func:`create_application`. Raises :class:`SctnetError` for a model that cannot be
    loaded, an address that is in use, and what is not an origin.
    """
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise SctnetError(
                f"--allow-origin {origin}: give what a browser sends, such as "
                "https://example.org or http://localhost:3000, or * for every page"
            )
    if api_key is not None and not (
        api_key.isascii() and api_key.isprintable() and api_key.strip()
    ):
        raise SctnetError("the API key is empty or not plain ASCII: choose another one")
    with _bound(host, port) as listening:
        keep_freed_memory()
        cv2.setNumThreads(1)  # several requests at a time keep the cores busy
        metrics = Metrics()
        models = [ServedModel(choice, limits, metrics) for choice in choices]
        _log_to_stdout()
        _say_where(listening, host, models, api_key)
        _heed_signals(models)
        app = create_application(models, limits, metrics, api_key, origins)
        uvicorn.Server(_configuration(app, limits)).run(sockets=[listening])


def _configuration(app: FastAPI, limits: Limits) -> uvicorn.Config:
    # No uvloop and no httptools, where they happen to be installed: the latter reads headers
    # without end.
    return uvicorn.Config(
        app,
        http="h11",
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=_MAX_HEAD,
        timeout_graceful_shutdown=int(limits.seconds) + _GRACE,
    )


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:  # UnicodeError: an impossible host name
        reason = getattr(error, "strerror", None) or error
        raise SctnetError(
            f"{host}:{port}: cannot be listened on ({reason}): choose another --host or --port"
        ) from error
    return listening


def _log_to_stdout() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOGGER.handlers, LOGGER.propagate = [handler], False
    LOGGER.setLevel(logging.INFO)


def _say_where(
    listening: socket.socket, host: str, models: Sequence[ServedModel], api_key: str | None
) -> None:
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    for model in models:
        print(f"{model.name}: {model.segmenter}", file=sys.stderr)  # noqa: T201
    print(f"Serving at http://{shown}:{port}, described at /docs", file=sys.stderr)  # noqa: T201
    if host not in _LOOPBACK and api_key is None:
        print(  # noqa: T201
            f"Warning: whoever reaches {host} may use this server: set SCTNET_API_KEY",
            file=sys.stderr,
        )
    log("start", port=port, models=[model.name for model in models])


def _heed_signals(models: Sequence[ServedModel]) -> None:
    # uvicorn handles these two itself and raises them again at its end: print no traceback then.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _pass)
    if hasattr(signal, "SIGHUP"):
        asked: SimpleQueue[None] = SimpleQueue()  # may be filled in the midst of anything
        signal.signal(signal.SIGHUP, lambda *_: asked.put(None))
        threading.Thread(
            target=_reload, args=(asked, models), name="sctnet-reloading", daemon=True
        ).start()


def _pass(_: int, __: FrameType | None) -> None:
    pass


def _reload(asked: "SimpleQueue[None]", models: Sequence[ServedModel]) -> None:
    """Reload all models on request; requests during a reload are answered by one more."""
    while True:
        asked.get()
        while not asked.empty():
            asked.get()
        for model in models:
            try:
                model.reload()
            except SctnetError as error:
                log("reload", model=model.name, ok=False, error=str(error))
            else:
                log("reload", model=model.name, ok=True)
