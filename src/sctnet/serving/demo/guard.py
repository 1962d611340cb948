"""Access control for the demonstration page: allowed hosts, routes and sizes.

gradio has about seventy routes, and some of them open files or URLs that the client names. The page
needs a dozen routes, and none of those.
"""

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApplication = Callable[[Message, Receive, Send], Awaitable[None]]

_API = "/gradio_api"
_READ = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/(assets|static)/.+|"
    rf"{_API}/(theme\.css|info|app_id|startup-events|upload_progress|queue/(data|status)|"
    r"heartbeat/\w+|call/\w+/\w+)"
)
_WRITTEN = re.compile(rf"{_API}/(queue/join|cancel|reset|component_server|call/\w+)/?")
_UPLOAD = f"{_API}/upload"

_MAX_JSON = 2**20  # bytes
_MULTIPART = 100_000  # bytes around the file

_HEADERS = {
    # The browser loads nothing from elsewhere. gradio builds functions from the page's own script,
    # which needs unsafe-eval.
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "media-src 'self' data: blob:; connect-src 'self' data: blob:; font-src 'self' data:; "
        "worker-src 'self' blob:; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class AccessGuard:
    """Passes only the requests that the page needs, and only from this machine's own pages.

    Uploads may have ``most_bytes``; a file that a request names must lie in ``uploads``.
    """

    def __init__(self, application: AsgiApplication, uploads: Path, most_bytes: int) -> None:
        self._application = application
        self._uploads = uploads.resolve()
        self._most_bytes = most_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer as ASGI asks for."""
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = _refusal(scope)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        is_upload = scope["path"] == _UPLOAD
        limited = _Limited(receive, self._most_bytes + _MULTIPART if is_upload else _MAX_JSON)
        if _length(scope) > limited.most:
            await _answer(send, 413, _too_much(limited.most))
            return
        if scope["method"] == "POST" and not is_upload:
            body = await limited.whole()
            if body is None:
                await _answer(send, 413, _too_much(limited.most))
            elif _names_another_file(body, self._uploads):
                await _answer(send, 403, "Only files that were uploaded here are opened.")
            else:
                await self._application(scope, _replayed(body, receive), _with_headers(send))
            return
        await self._application(scope, limited, _with_headers(send))


class _Limited:
    """A request's body up to ``most`` bytes; after them the connection counts as lost."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self.most = most
        self._received = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        return message if self._received <= self.most else {"type": "http.disconnect"}

    async def whole(self) -> bytes | None:
        """Return the whole body; None if it is too large or breaks off."""
        parts = []
        while True:
            message = await self()
            if message["type"] != "http.request":
                return None
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                return b"".join(parts)


def _refusal(scope: Message) -> tuple[int, str] | None:
    """Return status and sentence for a refused request."""
    if not _is_local(f"//{_header(scope, b'host')}"):  # a foreign name that resolves to 127.0.0.1
        return 403, "Open this page as 127.0.0.1 or localhost."
    origin = _header(scope, b"origin")
    if origin and not _is_local(origin):
        return 403, "Other sites may not use this page."
    path, method = scope["path"], scope["method"]
    if method in {"GET", "HEAD"} and _READ.fullmatch(path):
        return None
    if method == "POST" and (path == _UPLOAD or _WRITTEN.fullmatch(path)):
        return None
    return 404, "There is no such page."


def _is_local(address: str) -> bool:
    try:
        return urlsplit(address).hostname in {"127.0.0.1", "localhost"}
    except ValueError:
        return False


def _names_another_file(body: bytes, uploads: Path) -> bool:
    """Say whether a request's JSON names a foreign file or a URL; gradio would open both."""
    try:
        waiting = [json.loads(body)] if body else []
    except (ValueError, RecursionError):
        return True  # no JSON: gradio has nothing to do with it either
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if path is not None and not _lies_in(path, uploads):
                return True
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return False


def _lies_in(path: object, folder: Path) -> bool:
    try:
        return isinstance(path, str) and Path(path).resolve().is_relative_to(folder)
    except (OSError, ValueError):  # no path at all
        return False


def _header(scope: Message, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _length(scope: Message) -> int:
    length = _header(scope, b"content-length")
    return int(length) if length.isascii() and length.isdecimal() else 0


def _too_much(most: int) -> str:
    return f"This is more than the {most // 2**20} MB that this page takes."


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return an ASGI ``receive`` that gives the body once, and then all later messages."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            ours = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            message["headers"] = [*message.get("headers", []), *ours]
        await send(message)

    return sending


async def _answer(send: Send, status: int, sentence: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": sentence.encode()})
