"""Diagnoses masks of numbers that do not hold the classes, and finds the correction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sctnet.data.dataset import Colour
from sctnet.data.dataset_yaml import FolderConfig

FEW = 64
"""More different values or colours than this cannot be a code for classes."""

_SHOWN = 8  # values in a histogram


@dataclass(frozen=True)
class Diagnosis:
    """Why masks do not hold the classes."""

    cause: str
    sentence: str
    changes: Mapping[str, Any] | None = None
    """Fields of the YAML that correct it (None removes a field); None without a correction."""
    guess: str = ""
    """The guesses in the changes, which a person has to confirm."""


def corrected(config: FolderConfig, changes: Mapping[str, Any]) -> FolderConfig:
    """Return the description with changed fields, validated again."""
    fields = {name: getattr(config, name) for name in config.model_fields_set}
    fields.update(changes)
    return FolderConfig(**{name: value for name, value in fields.items() if value is not None})


def diagnose_values(config: FolderConfig, values: Mapping[int, int]) -> Diagnosis | None:
    """Return why these values, with their pixels, are not the classes' numbers."""
    if config.ids is not None or not values:
        return None
    number = len(config.classes)
    unknown = sorted(v for v in values if v >= number and v != config.ignore)
    used = sorted(v for v in values if v != config.ignore)
    found = f"the masks hold {histogram(values)}"
    if set(values) == {0, 255}:
        return _binary(number, found)
    if not unknown:
        return None
    if used == list(range(1, number + 1)):
        shift = {value: value - 1 for value in used}
        sentence = f"{found}: the ids are counted from 1, and classes from 0 (off by one)"
        return Diagnosis("off-by-one", sentence, mapped_by(shift))
    numbered_otherwise = _other_ids(config, values, used, unknown, found)
    if numbered_otherwise is not None:
        return numbered_otherwise
    if unknown == [number]:
        sentence = (
            f"{found}: {number} lies beyond the {number} classes. If it means no class, set "
            f"ignore: {number}; if 0 means no class, map 1 to {number} by ids; or a class is "
            "missing from classes"
        )
        return Diagnosis("one-value-more", sentence)
    if len(unknown) == 1:
        return _other_ignore(config, values, unknown[0])
    advice = "name all classes, or map the values by ids"
    if len(unknown) > max(FEW, number):
        advice = (
            "so many values are not labels: this is a photo, "
            "or a mask resized smoothly or saved as JPEG"
        )
    outside = f"{len(unknown)} values outside the {number} classes and ignore {config.ignore}"
    return Diagnosis("unknown-values", f"{found}, {outside}: {advice}")


def histogram(values: Mapping[int, int], colours: bool = False, total: int | None = None) -> str:
    """Return the commonest values with their share of ``total`` pixels, or theirs, in a line."""
    total = sum(values.values()) if total is None else total
    commonest = sorted(values.items(), key=lambda item: -item[1])[:_SHOWN]
    parts = [
        f"{list(rgb(code)) if colours else code} ({100 * pixels / total:.3g} %)"
        for code, pixels in commonest
    ]
    rest = len(values) - len(commonest)
    return ", ".join(parts) + (f" and {rest} more" if rest else "")


def _binary(number: int, found: str) -> Diagnosis:
    if number == 2:
        sentence = f"{found}: in 0/255 masks 255 is the second class, not ignored"
        return Diagnosis("binary-0-255", sentence, mapped_by({0: 0, 255: 1}))
    sentence = f"{found}: 0/255 masks tell two classes apart, and the YAML names {number}"
    return Diagnosis("binary-0-255", sentence)


def _other_ids(
    config: FolderConfig,
    values: Mapping[int, int],
    used: list[int],
    unknown: list[int],
    found: str,
) -> Diagnosis | None:
    """Diagnose as many values as classes that are not 0, 1, 2, ..."""
    number = len(config.classes)
    for candidates in (sorted(values), used):
        steps = set(np.diff(candidates).tolist())
        is_even = candidates[:1] == [0] and len(steps) == 1 and candidates[-1] > number
        if len(candidates) == number and is_even:
            sentence = f"{found}: the class numbers were multiplied by {steps.pop()} to be seen"
            return Diagnosis("stretched-ids", sentence, *_ids_in_order(config, candidates))
    if len(used) != number or len(unknown) < 2 or 255 in used:
        return None
    sentence = f"{found}: as many values as classes, but other numbers"
    return Diagnosis("other-ids", sentence, *_ids_in_order(config, used))


def _ids_in_order(config: FolderConfig, values: list[int]) -> tuple[dict[str, Any], str]:
    pairs = zip(values, config.classes, strict=True)
    order = ", ".join(f"{value} is {name}" for value, name in pairs)
    return mapped_by({value: label for label, value in enumerate(values)}), f"that {order}"


def _other_ignore(config: FolderConfig, values: Mapping[int, int], value: int) -> Diagnosis:
    sentence = (
        f"the masks hold {histogram(values)}: {value} is not a class and probably stands for "
        f"ignored pixels, where the YAML says {config.ignore}"
    )
    changes: dict[str, Any] = {"ignore": value}
    if config.ignore in values:  # both are to be ignored
        changes = mapped_by({label: label for label in range(len(config.classes))})
    return Diagnosis("other-ignore", sentence, changes, f"that {value} means ignored")


def mapped_by(ids: dict[int, int]) -> dict[str, Any]:
    """Return the changes of a YAML that map raw values to labels."""
    return {"ids": ids, "ignore": None}


def rgb(code: int) -> Colour:
    """Return the colour of the number 65536 red + 256 green + blue."""
    return code >> 16, code >> 8 & 255, code & 255
