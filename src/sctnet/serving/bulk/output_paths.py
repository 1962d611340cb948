"""Safe paths of results, from names in tables and shards that cannot be trusted."""

import re
from pathlib import Path, PurePosixPath

from sctnet.data.picture_files import is_picture

_LONGEST = 200  # bytes of a part of a path; systems allow 255, and suffixes are added
_UNFIT = re.compile(r"[\x00-\x1f\x7f]")


def safe_place(text: str) -> Path:
    """Return a name from a table or a shard as a relative path that cannot leave its folder."""
    parts = []
    for part in PurePosixPath(text.replace("\\", "/")).parts:
        fit = _UNFIT.sub("_", part.strip("/"))
        if fit not in {"", ".", ".."}:
            parts.append(_shortened(fit))
    return Path(*parts) if parts else Path("unnamed")


def _shortened(part: str) -> str:
    encoded = part.encode(errors="replace")
    if len(encoded) <= _LONGEST:
        return encoded.decode()
    ending = PurePosixPath(part).suffix if is_picture(part) else ""
    return encoded[: _LONGEST - len(ending)].decode(errors="ignore") + ending
