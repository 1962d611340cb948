"""The demonstration page as a server on this machine alone."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sctnet.errors import SctnetError
from sctnet.inference.segmenter import Segmenter
from sctnet.serving.demo.guard import AccessGuard
from sctnet.serving.demo.results import MAX_BYTES

if TYPE_CHECKING:
    from sctnet.serving.demo.labelling import DemoLabelling

_HOST = "127.0.0.1"
_PATIENCE = 2  # seconds to finish sending when the server ends
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
_LETTERS = ("ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")


def serve_demo(
    segmenters: Mapping[str, Segmenter], port: int, ready: Callable[[str], None]
) -> None:
    """Serve the page until Ctrl-C or a signal ends it; ``ready`` receives its address.

    ``segmenters`` are the models to choose from, by name. Uploads lie in a temporary folder until
    they are labelled; it is removed in the end. Raises :class:`SctnetError` for a port that is
    taken.
    """
    with _listening(port) as listener, temporary_folder() as folder:
        application, labelling = asyncio.run(build_application(segmenters, folder))
        import uvicorn  # which gradio brings along

        config = uvicorn.Config(
            application, log_level="error", timeout_graceful_shutdown=_PATIENCE, ws="none"
        )
        try:
            with _signals_end_it():
                ready(f"http://{_HOST}:{listener.getsockname()[1]}/")  # early visitors wait
                uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:  # as usual for a server
            pass
        finally:
            labelling.sessions.stop()


async def build_application(
    segmenters: Mapping[str, Segmenter], folder: Path
) -> tuple[Any, "DemoLabelling"]:
    """Return the page as an ASGI application, and what it labels with.

    ``folder``, an existing one, is for uploads on their way; gradio is told so by its environment.
    Asynchronous because gradio makes an event loop where none runs, and never closes it.
    """
    uploads = folder / "uploads"
    uploads.mkdir()
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)  # read when gradio is imported
    from fastapi import FastAPI

    from sctnet.serving.demo.labelling import DemoLabelling
    from sctnet.serving.demo.page import build_page
    from sctnet.serving.demo.quiet_gradio import gradio

    labelling = DemoLabelling(segmenters, uploads)
    page = build_page(labelling)
    theme = gradio.themes.Soft(
        primary_hue="indigo", neutral_hue="slate", font=_FONTS, font_mono=_LETTERS
    )
    application = gradio.mount_gradio_app(
        FastAPI(openapi_url=None), page, "/", server_name=_HOST,
        theme=theme, css="footer {display: none !important}", footer_links=[], run_history=False,
        max_file_size=MAX_BYTES, show_error=False, ssr_mode=False, mcp_server=False, pwa=False,
        enable_monitoring=False, allowed_paths=[],
    )  # fmt: skip
    return AccessGuard(application, uploads, MAX_BYTES), labelling


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder that is removed in the end, and in which all temporary files are made."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="sctnet-demo-", ignore_cleanup_errors=True) as name:
        tempfile.tempdir = name
        try:
            yield Path(name).resolve()
        finally:
            tempfile.tempdir = before


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """Yield a socket on this machine's own address; port 0 is any that is free."""
    with socket.socket() as listener:
        # A port that was just given up can be taken at once; on Windows this means another thing.
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, port))
            listener.listen(100)
        except OSError as error:
            raise SctnetError(
                f"port {port}: cannot be opened ({error.strerror}): choose another by --port"
            ) from error
        yield listener


@contextmanager
def _signals_end_it() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end the program through its ``finally`` blocks."""
    wanted = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.signal(number, _exit) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)
