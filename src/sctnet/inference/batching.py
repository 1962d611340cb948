"""Batches of what comes one by one."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Key = TypeVar("Key")


def batches(
    items: Iterable[Item], key: Callable[[Item], Key], most: Callable[[Key], int]
) -> Iterator[list[Item]]:
    """Yield lists of consecutive items of an equal key, ``most(key)`` in one at most.

    A full list is yielded before another item is asked for.
    """
    group: list[Item] = []
    for item in items:
        if group and key(item) != key(group[0]):
            yield group
            group = []
        group.append(item)
        if len(group) >= most(key(item)):
            yield group
            group = []
    if group:
        yield group
