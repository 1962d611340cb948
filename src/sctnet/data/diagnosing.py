"""From the raw values that masks hold to why they are not the classes, and what would mend it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sctnet.data.dataset import IGNORE, Colour
from sctnet.data.folder import UNKNOWN, FolderConfig, label_table
from sctnet.data.surveying import Tally, joined_values

_SHOWN = 8  # values in a histogram
_FEW = 64  # more different colours than this are no code


@dataclass(frozen=True)
class Diagnosis:
    """Why masks do not hold the classes."""

    cause: str
    sentence: str
    changes: Mapping[str, Any] | None = None
    """Fields of the YAML that mend it (None takes a field away); None where nothing does."""
    guess: str = ""
    """What in the changes a person has to confirm."""


def corrected(config: FolderConfig, changes: Mapping[str, Any]) -> FolderConfig:
    """Return the description with changed fields, validated anew."""
    fields = {name: getattr(config, name) for name in config.model_fields_set}
    fields.update(changes)
    return FolderConfig(**{name: value for name, value in fields.items() if value is not None})


def diagnose_splits(config: FolderConfig, tallies: Mapping[str, Tally]) -> dict[str, Diagnosis]:
    """Diagnose all masks together, which shows every value; where nothing mends all, by split."""
    read = {name: tally for name, tally in tallies.items() if tally.values or tally.colours}
    together = diagnose(config, joined_values(read.values()))
    if together is not None and together.changes is not None:
        return dict.fromkeys(read, together)
    diagnoses = {}
    for name, tally in read.items():
        diagnosis = diagnose(config, tally)
        others = joined_values(other for key, other in read.items() if key != name).values
        if diagnosis is not None and not (
            diagnosis.cause == "binary-0-255" and _is_ignored_by(others, config)
        ):
            diagnoses[name] = diagnosis
    if together is not None and not diagnoses:
        return dict.fromkeys(read, together)
    return diagnoses


def _is_ignored_by(values: Mapping[int, int], config: FolderConfig) -> bool:
    """Tell whether masks hold both 255 and classes beside 0, and so mean to ignore 255."""
    return config.ignore == 255 and 255 in values and len(values.keys() - {0, 255}) > 0


def diagnose(config: FolderConfig, seen: Tally) -> Diagnosis | None:
    """Return why the masks are not what the description says; None where they are."""
    if seen.masks_of_values and seen.masks_of_colours:
        return Diagnosis(
            "mixed-masks",
            f"{seen.masks_of_values} masks hold numbers and {seen.masks_of_colours} RGB colours: "
            "export them all in one way",
        )
    if seen.masks_of_colours:
        if config.rgb_masks:
            return _unknown_colours(config, seen)
        return _colours_for_numbers(config, seen)
    if config.rgb_masks:
        return _numbers_for_colours(config, seen)
    return _shuffled_palette(config, seen) or diagnose_values(config, seen.values)


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
        return Diagnosis("off-by-one", sentence, _ids(shift))
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
    if len(unknown) > max(_FEW, number):
        advice = "so many are no labels but a photo, or a mask resized smoothly or saved as JPEG"
    outside = f"{len(unknown)} values outside the {number} classes and ignore {config.ignore}"
    return Diagnosis("unknown-values", f"{found}, {outside}: {advice}")


def histogram(values: Mapping[int, int], colours: bool = False) -> str:
    """Return the commonest values with their share of the pixels, in a line."""
    total = sum(values.values())
    commonest = sorted(values.items(), key=lambda item: -item[1])[:_SHOWN]
    parts = [
        f"{list(_rgb(code)) if colours else code} ({100 * pixels / total:.3g} %)"
        for code, pixels in commonest
    ]
    rest = len(values) - len(commonest)
    return ", ".join(parts) + (f" and {rest} more" if rest else "")


def _binary(number: int, found: str) -> Diagnosis:
    if number == 2:
        sentence = f"{found}: in 0/255 masks 255 is the second class, not ignored"
        return Diagnosis("binary-0-255", sentence, _ids({0: 0, 255: 1}))
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
    return _ids({value: label for label, value in enumerate(values)}), f"that {order}"


def _other_ignore(config: FolderConfig, values: Mapping[int, int], value: int) -> Diagnosis:
    sentence = (
        f"the masks hold {histogram(values)}: {value} is no class, and probably what stands for "
        f"ignored pixels, where the YAML says {config.ignore}"
    )
    changes: dict[str, Any] = {"ignore": value}
    if config.ignore in values:  # both are to be ignored
        changes = _ids({label: label for label in range(len(config.classes))})
    return Diagnosis("other-ignore", sentence, changes, f"that {value} means ignored")


def _colours_for_numbers(config: FolderConfig, seen: Tally) -> Diagnosis:
    found = f"the masks hold the RGB colours {histogram(seen.colours, colours=True)}"
    if all(_is_grey(code) for code in seen.colours):
        return _grey_as_colours(config, seen)
    known = {_code(colour) for colour in config.colours or ()}
    more = set(seen.colours) - known
    if config.colours is not None and more <= {0}:  # black is the customary void
        changes = _rgb_changes(config.colours, more)
        return Diagnosis("rgb-masks", f"{found}, and rgb_masks is false", changes)
    number = len(config.classes)
    if config.colours is None and len(seen.colours) in (number, number + 1):
        return _new_colours(config, seen, found)
    advice = "set rgb_masks: true, and list colours and ignored_colours"
    if len(seen.colours) > _FEW:
        advice = "so many are no code but a photo, or a mask resized smoothly or saved as JPEG"
    return Diagnosis("rgb-masks", f"{found}, and rgb_masks is false: {advice}")


def _new_colours(config: FolderConfig, seen: Tally, found: str) -> Diagnosis:
    codes = sorted(seen.colours)
    has_void = len(codes) > len(config.classes)
    if has_void and codes[0] != 0:
        advice = "one colour more than classes: list colours and ignored_colours"
        return Diagnosis("rgb-masks", f"{found}, and rgb_masks is false: {advice}")
    colours = tuple(_rgb(code) for code in codes[has_void:])
    order = ", ".join(
        f"{list(colour)} is {name}" for colour, name in zip(colours, config.classes, strict=True)
    )
    changes = _rgb_changes(colours, {0} if has_void else ())
    sentence = f"{found}, rgb_masks is false and no colours are given"
    return Diagnosis("rgb-masks", sentence, changes, f"that {order}")


def _grey_as_colours(config: FolderConfig, seen: Tally) -> Diagnosis:
    """Diagnose masks of numbers that were saved with three equal channels."""
    values = {code & 255: pixels for code, pixels in seen.colours.items()}
    sentence = "the masks hold their numbers three times, as red, green and blue"
    below = diagnose_values(config, values)
    if below is not None and below.changes is None:
        return Diagnosis("grey-as-rgb", f"{sentence}; and {below.sentence}")
    mended = config if below is None else corrected(config, below.changes or {})
    table = label_table(mended)
    colours: dict[int, Colour] = {
        int(label): (value, value, value)
        for value, label in enumerate(table[:256].tolist())
        if label not in (UNKNOWN, IGNORE)
    }
    if len(colours) < len(config.classes) or any(table[value] == UNKNOWN for value in values):
        return Diagnosis("grey-as-rgb", f"{sentence}: save them with one channel")
    ignored = [_code((v, v, v)) for v in values if table[v] == IGNORE]
    in_order = tuple(colours[label] for label in range(len(config.classes)))
    diagnosis = Diagnosis("grey-as-rgb", sentence, _rgb_changes(in_order, ignored))
    if below is None:
        return diagnosis
    return replace(diagnosis, sentence=f"{sentence}; and {below.sentence}", guess=below.guess)


def _numbers_for_colours(config: FolderConfig, seen: Tally) -> Diagnosis:
    assert config.colours is not None
    changes: dict[str, Any] = {"rgb_masks": None, "ignored_colours": None}
    by_palette = _ids_by_palette(config, seen)
    if by_palette is not None:
        sentence = "rgb_masks is true, and the masks are palette images: they hold indices"
        return Diagnosis("palette-masks", sentence, {**changes, **_ids(by_palette)})
    sentence = f"rgb_masks is true, and the masks hold the numbers {histogram(seen.values)}"
    below = diagnose_values(corrected(config, changes), seen.values)
    if below is None:
        return Diagnosis("number-masks", sentence, changes)
    if below.changes is None:
        return Diagnosis("number-masks", f"{sentence}; and {below.sentence}")
    merged = {**changes, **below.changes}
    return Diagnosis("number-masks", f"{sentence}; and {below.sentence}", merged, below.guess)


def _shuffled_palette(config: FolderConfig, seen: Tally) -> Diagnosis | None:
    """Compare the palette with the colours of the classes, where both are given."""
    if config.ids is not None or config.colours is None:
        return None
    ids = _ids_by_palette(config, seen)
    if ids is None or all(value == label for value, label in ids.items()):
        return None
    sentence = (
        "the masks are palette images whose indices are not the class numbers: their palettes "
        f"show the classes' colours at {', '.join(str(value) for value in sorted(ids))}"
    )
    return Diagnosis("palette-masks", sentence, _ids(ids))


def _ids_by_palette(config: FolderConfig, seen: Tally) -> dict[int, int] | None:
    """Return the class of every palette index; None where the palettes do not tell.

    Black in a palette, where no class is black, is ignored, as is what lies at ``ignore``.
    """
    if seen.without_palette or len({index for index, _ in seen.palette}) < len(seen.palette):
        return None
    label_of_colour = {colour: label for label, colour in enumerate(config.colours or ())}
    ids: dict[int, int] = {}
    for index, colour in seen.palette:
        if colour in label_of_colour:
            ids[index] = label_of_colour[colour]
        elif colour not in {(0, 0, 0), *config.ignored_colours} and index != config.ignore:
            return None
    return ids or None


def _unknown_colours(config: FolderConfig, seen: Tally) -> Diagnosis | None:
    assert config.colours is not None
    known = {_code(colour) for colour in (*config.colours, *config.ignored_colours)}
    unknown = {code: pixels for code, pixels in seen.colours.items() if code not in known}
    if not unknown:
        return None
    share = sum(unknown.values()) / sum(seen.colours.values())
    found = (
        f"{100 * share:.3g} % of the pixels have one of {len(unknown)} colours in neither colours "
        f"nor ignored_colours, of which {histogram(unknown, colours=True)}"
    )
    if len(unknown) > _FEW:
        sentence = f"{found}: the masks were resized smoothly or saved as JPEG; export them anew"
        return Diagnosis("blended-colours", sentence)
    if set(unknown) == {0}:
        changes = {"ignored_colours": (*config.ignored_colours, (0, 0, 0))}
        sentence = f"{found}: black is probably what has no class"
        return Diagnosis("unknown-colours", sentence, changes, "that black means ignored")
    return Diagnosis("unknown-colours", f"{found}: add each to one of them")


def _ids(ids: dict[int, int]) -> dict[str, Any]:
    return {"ids": ids, "ignore": None}


def _rgb_changes(colours: Iterable[Colour], ignored: Iterable[int]) -> dict[str, Any]:
    ignored_colours = tuple(_rgb(code) for code in ignored)
    return {
        "rgb_masks": True,
        "colours": tuple(colours),
        "ignored_colours": ignored_colours or None,
        "ids": None,
        "ignore": None,
    }


def _is_grey(code: int) -> bool:
    red, green, blue = _rgb(code)
    return red == green == blue


def _rgb(code: int) -> Colour:
    return code >> 16, code >> 8 & 255, code & 255


def _code(colour: Colour) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue
