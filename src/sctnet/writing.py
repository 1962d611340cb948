"""Files appear whole or not at all; and where those are kept that can be made again."""

import os
from pathlib import Path

from sctnet.errors import SctnetError


def cache_folder() -> Path:
    """Return the user's folder for caches: ``XDG_CACHE_HOME``, by default ``~/.cache``.

    Raises :class:`SctnetError` where neither is set, as for a user that the system does not know.
    """
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(named) if named else Path.home() / ".cache"
    except RuntimeError as error:
        raise SctnetError(
            "there is no home folder to keep files in: name a folder in XDG_CACHE_HOME"
        ) from error


def write_whole(path: str | Path, content: bytes) -> None:
    """Write the bytes beside ``path`` and rename; raises :class:`SctnetError` where it cannot."""
    target = Path(path)
    # Shortened, so that the longest name a system takes stays possible.
    beside = target.with_name(f".{target.name[:40]}.{os.getpid()}.part")
    try:
        try:
            beside.write_bytes(content)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise SctnetError(
            f"{target}: cannot be written ({reason}); give a file in an existing folder with space"
        ) from error


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8, as :func:`write_whole` does."""
    write_whole(path, text.encode())
