"""Sizes as they are written on the command line."""

from sctnet.errors import SctnetError


def height_width(option: str, text: str) -> tuple[int, int]:
    """Return (height, width) of a text such as 512x1024; raises :class:`SctnetError` otherwise."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise SctnetError(f"{option} {text}: give height and width in pixels, as in 512x1024")
    return int(height), int(width)
