"""The middleware of all requests: checks the API key and keeps the record for the log."""

import hmac

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sctnet.serving.http.metrics import Metrics, RequestRecord
from sctnet.serving.http.request_handler import RECORD

_OPEN = {"/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready"}
"""Routes without a key; they reveal nothing about models, traffic or pictures."""


class RequestMiddleware:
    """Asks for the API key, if there is one, before a request is read; keeps records."""

    def __init__(self, app: ASGIApp, metrics: Metrics, api_key: str | None) -> None:
        self._app, self._metrics = app, metrics
        self._key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the routes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(scope["method"])
        scope[RECORD] = record
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", record.id.encode())]
            else:
                record.bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            if self._may_pass(scope):
                await self._app(scope, receive, watched)
            else:
                await _refused(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            record.close(route, status, self._metrics)

    def _may_pass(self, scope: Scope) -> bool:
        if self._key is None or scope["path"] in _OPEN:
            return True
        scheme, _, given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(given, self._key)


_refused = JSONResponse(
    {"error": "the API key is missing or wrong: send it as the header Authorization: Bearer KEY"},
    401,
    {"WWW-Authenticate": "Bearer"},
)
