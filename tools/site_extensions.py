"""What the site's builder does not do by itself: equations as MathML, docstrings as Markdown."""

import re
from typing import Any

import griffe
import latex2mathml.converter


def equation(source: str, *_: Any, **__: Any) -> str:
    """Return a fence of the language math as MathML, which browsers draw without a script."""
    return latex2mathml.converter.convert(source.strip(), display="block")


class Docstrings(griffe.Extension):
    """Turns the roles and literals of docstrings into Markdown."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change an object's docstring in place."""
        if obj.docstring:
            text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", obj.docstring.value)
            obj.docstring.value = text.replace("``", "`")
