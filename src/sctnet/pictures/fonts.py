"""Fonts for text in pictures."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont


@lru_cache(maxsize=64)
def font(pixels: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans (Latin, Greek, Cyrillic and more), which matplotlib brings along."""
    # Found without importing matplotlib, which takes half a second.
    package = find_spec("matplotlib")
    assert package is not None, "matplotlib is a dependency"
    assert package.origin is not None
    file = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), pixels)


def fitting_font(text: str, pixels: int, width: int) -> ImageFont.FreeTypeFont:
    """Return the largest font of at most ``pixels`` in which the text is at most ``width`` wide."""
    while pixels > 1 and font(pixels).getlength(text) > width:
        pixels -= 1
    return font(pixels)
