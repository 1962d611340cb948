"""Class maps: which classes of a model make the classes that somebody wants."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from sctnet.errors import SctnetError, did_you_mean, shortened
from sctnet.yaml_files import load_yaml

EVERYTHING_ELSE = "everything else"
"""Stands in a map for all classes that no other line names."""

Rules = dict[str, tuple[str, ...]]
"""By the name of a new class: the model's classes that make it, or :data:`EVERYTHING_ELSE`."""

Item = TypeVar("Item")


class ClassMap:
    """The classes of one model, renamed, merged and dropped.

    The probability of a new class is the sum of those that make it. ``dropped`` says whether some
    of the model's classes make none. Raises :class:`SctnetError`, which begins with ``origin``, for
    a class that the model does not have and for one in two places.
    """

    def __init__(self, rules: Rules, known: Sequence[str], origin: str) -> None:
        number_of = {name: number for number, name in enumerate(known)}
        home: dict[str, str] = {}
        for new, names in rules.items():
            for name in names:
                if name == EVERYTHING_ELSE:
                    continue
                if name not in number_of:
                    raise SctnetError(
                        f"{origin}: the model has no class {name!r}, which is to make {new!r}"
                        f"{did_you_mean(name, known)}; it has {shortened(', '.join(known))}"
                    )
                if name in home:
                    raise SctnetError(
                        f"{origin}: {name!r} makes both {home[name]!r} and {new!r}: keep one"
                    )
                home[name] = new
        others = [number for number, name in enumerate(known) if name not in home]
        self.classes = tuple(rules)
        self._origin = origin
        self._groups: list[list[int]] = []
        for new, names in rules.items():
            takes_others = names == (EVERYTHING_ELSE,)
            group = others if takes_others else [number_of[name] for name in names]
            if not group:
                raise SctnetError(f"{origin}: no class of the model is left for {new!r}: drop it")
            self._groups.append(group)
        takes_all = any(EVERYTHING_ELSE in names for names in rules.values())
        self._rest = [] if takes_all else others

    def __str__(self) -> str:
        """Name the new classes and the numbers that make them."""
        return f"{dict(zip(self.classes, self._groups, strict=True))}, dropped {self._rest}"

    @property
    def dropped(self) -> bool:
        """Whether some classes of the model are none of these."""
        return bool(self._rest)

    def ordered(self, classes: Sequence[str]) -> "ClassMap":
        """Return the map with its classes in this order; SctnetError unless they are the same."""
        missing = [name for name in classes if name not in self.classes]
        extra = [name for name in self.classes if name not in classes]
        if missing or extra:
            what = f"makes no {missing[0]!r}" if missing else f"makes {extra[0]!r}"
            raise SctnetError(
                f"{self._origin}: {what}, but the data have the classes "
                f"{shortened(', '.join(classes))}: name each of them once"
            )
        other = object.__new__(ClassMap)
        other.classes, other._origin, other._rest = tuple(classes), self._origin, self._rest
        other._groups = [self._groups[self.classes.index(name)] for name in classes]
        return other

    def scores(self, logits: Float[Tensor, "n _ *size"]) -> Float[Tensor, "n _ *size"]:
        """Return the logits of the new classes; a class made of one keeps its logits, to the bit.

        Their softmax is that of the model among the classes that are not dropped.
        """
        return torch.cat([_joined(logits, group) for group in self._groups], dim=1)

    def rest(self, logits: Float[Tensor, "n _ *size"]) -> Float[Tensor, "n 1 *size"] | None:
        """Return the logits of all dropped classes together; None where none is dropped."""
        return _joined(logits, self._rest) if self._rest else None

    def first_of_each(self, values: Sequence[Item] | None) -> tuple[Item, ...] | None:
        """Return what the first class of each group has of ``values``, such as its colour."""
        return None if values is None else tuple(values[group[0]] for group in self._groups)


def _joined(logits: Tensor, group: Sequence[int]) -> Tensor:
    if len(group) == 1:
        return logits[:, group[0] : group[0] + 1]
    # In float32 at least: in bf16 a sum of small probabilities would be lost.
    chosen = logits[:, list(group)]
    chosen = chosen.to(torch.promote_types(chosen.dtype, torch.float32))
    return chosen.logsumexp(dim=1, keepdim=True).to(logits.dtype)


def read_rules(source: str | os.PathLike[str] | Mapping[str, Any]) -> Rules:
    """Return the rules of a YAML file or of a mapping.

    A line is ``road: [road, lane marking]``, ``sky: sky``, or ``background: everything else``.
    Raises :class:`SctnetError` for anything else.
    """
    if isinstance(source, Mapping):
        return _rules(source, "map")
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SctnetError(
            f"{path}: cannot be read as text; give a map of classes (YAML)"
        ) from error
    return _rules(load_yaml(text, str(path)), str(path))


def _rules(content: Any, origin: str) -> Rules:
    if not isinstance(content, Mapping) or not content:
        raise SctnetError(
            f"{origin}: a map of classes has a line for each class, such as "
            "road: [road, lane marking]"
        )
    rules: Rules = {}
    for new, names in content.items():
        listed = [names] if isinstance(names, str) else names
        if not isinstance(new, str) or not (
            isinstance(listed, list | tuple)
            and listed
            and all(isinstance(name, str) for name in listed)
        ):
            raise SctnetError(
                f"{origin}: {new}: write the name of a class, or a list of names (yes, no and "
                "numbers in quotes)"
            )
        rules[new] = tuple(listed)
    if len(rules) < 2:
        raise SctnetError(f"{origin}: names one class; two are the fewest to tell apart")
    catching = [new for new, names in rules.items() if EVERYTHING_ELSE in names]
    if len(catching) > 1:
        raise SctnetError(
            f"{origin}: {catching[0]!r} and {catching[1]!r} both take everything else: keep one"
        )
    if catching and len(rules[catching[0]]) > 1:
        raise SctnetError(
            f"{origin}: {catching[0]}: {EVERYTHING_ELSE!r} stands alone: drop the names beside it"
        )
    return rules
