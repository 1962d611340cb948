"""An encoded picture, as workers receive it."""

from typing import NamedTuple

from sctnet.data.images import FirstFrame, decode_first, read_first
from sctnet.errors import SctnetError
from sctnet.serving.bulk.storage import is_url, read_bytes

MAX_BYTES = 2_000_000_000
"""The limit for an encoded picture; the largest picture, uncompressed, has 1.2 GB."""


class Encoded(NamedTuple):
    """An encoded picture, or the sentence that says why it is missing."""

    source: str
    """Its name in the manifest: a path, a URL, TABLE::ID or SHARD::MEMBER."""
    name: str
    """The path of its results below the destination, without a suffix."""
    data: bytes | None = None
    """None: to be read from ``source``."""
    problem: str | None = None


def decode(item: Encoded) -> FirstFrame:
    """Return a picture's pixels and the number of its frames.

    Raises :class:`SctnetError`, which names a damaged picture.
    """
    if item.problem is not None:
        raise SctnetError(item.problem)
    if item.data is not None:
        return decode_first(item.data, item.source)
    if not is_url(item.source):
        return read_first(item.source)
    return decode_first(read_bytes(item.source, MAX_BYTES), item.source)
