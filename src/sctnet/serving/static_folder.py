"""A folder of static files on this machine alone, with the headers that threads in a page need."""

import contextlib
import errno
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sctnet.errors import SctnetError

HOST = "127.0.0.1"
PORT = 7861
"""The same each time, since browsers remember the camera's permission by it."""

HEADERS = {
    # Both make a page "cross-origin isolated", which WebAssembly's threads need.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cache-Control": "no-cache",  # a page that was exported again is seen at once
    "X-Content-Type-Options": "nosniff",
}


class _Handler(SimpleHTTPRequestHandler):
    # Not those of the system, which may know neither.
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's word
        """Say nothing."""


def serve_folder(folder: Path, ready: Callable[[str], None], port: int = PORT) -> None:
    """Serve the files of a folder until Ctrl-C; ``ready`` receives the address.

    Where the port is taken, another is used. Raises :class:`SctnetError` where none can be opened.
    """
    handler = partial(_Handler, directory=str(folder))
    try:
        server = _server(port, handler)
    except OSError as error:
        raise SctnetError(
            f"{HOST}:{port}: cannot be opened ({error.strerror}): show the folder by another server"
        ) from error
    with server:
        ready(f"http://{HOST}:{server.server_address[1]}/")
        with contextlib.suppress(KeyboardInterrupt):  # as usual for a server
            server.serve_forever()


def _server(port: int, handler: Any) -> ThreadingHTTPServer:
    try:
        return ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return ThreadingHTTPServer((HOST, 0), handler)
