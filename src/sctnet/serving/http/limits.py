"""The limits of a server: for one request, and for all accepted requests together.

A request is accepted before its body is read, and counts until it is answered. Its memory (the
body, the decoded pictures) is claimed before it is allocated. So neither many requests nor a few
large ones exhaust the server's memory.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sctnet.errors import SctnetError

MAX_PICTURES = 256
"""In one request."""

_RETRY_AFTER = "1"  # seconds; a place becomes free when any request is answered
_MAX_HELD = 1 << 30  # bytes of a model's accepted requests, or twice the largest single one


class Refusal(SctnetError):  # noqa: N818 - an answer, expected
    """The refusal of a request: an HTTP status and one sentence."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


@dataclass(frozen=True)
class Limits:
    """The bounds of one request, and the number of those that a model accepts at once."""

    body: int = 64_000_000
    """Bytes, as sent and after decompression."""
    pixels: int = 20_000_000
    """Pixels of all pictures of a request, from their headers."""
    seconds: float = 30.0
    """From a request's head to the last byte of its answer."""
    requests: int = 64
    """Of one model, accepted and not yet answered."""

    def __post_init__(self) -> None:
        for name in ("body", "pixels", "seconds", "requests"):
            if not 0 < getattr(self, name) < float("inf"):
                raise SctnetError(f"{name} {getattr(self, name)}: give a limit above 0")

    @property
    def held(self) -> int:
        """Bytes that the accepted requests of a model may hold together."""
        return max(_MAX_HELD, 2 * (6 * self.body + 3 * self.pixels))

    def check_body(self, size: int) -> None:
        """Refuse a body of at least ``size`` bytes where that is too large."""
        if size > self.body:
            raise Refusal(
                413,
                f"the body has more than {self.body:,} bytes: send fewer or smaller pictures",
            )

    def check_count(self, pictures: int) -> None:
        """Refuse a request of too many pictures."""
        if pictures > MAX_PICTURES:
            raise Refusal(413, f"{pictures} pictures in one request: send {MAX_PICTURES} at most")

    def check_pixels(self, pixels: int) -> None:
        """Refuse pictures, before they are decoded, that have too many pixels together."""
        if pixels > self.pixels:
            raise Refusal(
                413,
                f"{pixels:,} pixels in one request, more than {self.pixels:,}: "
                "send fewer or smaller pictures",
            )


Claim = Callable[[int], None]
"""Claims memory in bytes for a request before it is allocated, or raises :class:`Refusal`."""


class Admission:
    """The places of one model: requests, and the bytes that these may hold together."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._requests = self._held = 0

    @contextmanager
    def enter(self) -> Iterator[Claim]:
        """Take a place and give it back at the end with all claims; 429 without a free place."""
        with self._lock:
            if self._requests >= self._limits.requests:
                raise _busy(f"{self._requests} requests are waiting already")
            self._requests += 1
        claimed = 0

        def claim(size: int) -> None:
            nonlocal claimed
            with self._lock:
                if self._held + size > self._limits.held:
                    raise _busy("the requests that are waiting fill the memory set aside for them")
                self._held += size
                claimed += size

        try:
            yield claim
        finally:
            with self._lock:
                self._requests -= 1
                self._held -= claimed


def _busy(reason: str) -> Refusal:
    return Refusal(429, f"{reason}: try again later", {"Retry-After": _RETRY_AFTER})
