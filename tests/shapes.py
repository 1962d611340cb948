"""Checks the shapes of every call in the package."""

import sys

from beartype import beartype


def checked(function):
    """Check the arguments and the result whose annotations give a shape; leave the rest to mypy."""
    names = vars(sys.modules[function.__module__])
    for argument, hint in list(getattr(function, "__annotations__", {}).items()):
        if isinstance(hint, str):
            try:
                hint = eval(hint, dict(names))
            except (NameError, AttributeError, TypeError):  # imported for mypy alone
                hint = None
        if "jaxtyping" in repr(hint):
            function.__annotations__[argument] = hint
        else:
            del function.__annotations__[argument]
    return beartype(function)
