"""Checks shapes and types of every call in the package: beartype, for all that it understands."""

import sys

from beartype import beartype
from beartype.roar import BeartypeDecorHintException


def checked(function):
    """Check a function's arguments and result; leave out annotations that exist for mypy alone.

    These are names imported under ``TYPE_CHECKING`` and hints that beartype does not know.
    """
    names = vars(sys.modules[function.__module__])
    for argument, hint in list(getattr(function, "__annotations__", {}).items()):
        if isinstance(hint, str):
            try:
                function.__annotations__[argument] = eval(hint, dict(names))
            except (NameError, AttributeError, TypeError):
                del function.__annotations__[argument]
    try:
        return beartype(function)
    except BeartypeDecorHintException:
        return function
