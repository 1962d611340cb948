"""Diagnoses masks of colours and palettes that do not hold the classes."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sctnet.checking.survey import Tally, joined_values
from sctnet.checking.value_diagnosis import (
    FEW,
    Diagnosis,
    corrected,
    diagnose_values,
    histogram,
    mapped_by,
    rgb,
)
from sctnet.data.dataset import IGNORE, Colour
from sctnet.data.dataset_yaml import FolderConfig
from sctnet.data.mask_to_labels import value_table
from sctnet.data.published_layouts import UNKNOWN

_NEAR = 8  # levels of a channel: what rounding and colour profiles change
_TOLD = 3


def diagnose_splits(config: FolderConfig, tallies: Mapping[str, Tally]) -> dict[str, Diagnosis]:
    """Diagnose all masks together; if no correction fits all, diagnose each split."""
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
    """Say whether masks hold 255 and several classes, so that 255 probably means ignored."""
    return config.ignore == 255 and 255 in values and len(values.keys() - {0, 255}) > 0


def diagnose(config: FolderConfig, seen: Tally) -> Diagnosis | None:
    """Return why the masks do not match the description; None if they do."""
    if config.rgb_masks == "mixed":
        of_colours = _unknown_colours(config, seen) if seen.masks_of_colours else None
        return of_colours or diagnose_values(config, seen.values)
    if seen.masks_of_values and seen.masks_of_colours:
        return _mixed(config, seen)
    if seen.masks_of_colours:
        if config.rgb_masks:
            return _unknown_colours(config, seen)
        return _colours_for_numbers(config, seen)
    if config.rgb_masks:
        return _numbers_for_colours(config, seen)
    return _shuffled_palette(config, seen) or diagnose_values(config, seen.values)


def _mixed(config: FolderConfig, seen: Tally) -> Diagnosis:
    found = f"{seen.masks_of_values} masks hold numbers and {seen.masks_of_colours} RGB colours"
    if config.colours is None:
        advice = "list colours and set rgb_masks: mixed, or export them all in one way"
        return Diagnosis("mixed-masks", f"{found}: {advice}")
    known = {_code(colour) for colour in (*config.colours, *config.ignored_colours)}
    changes: dict[str, Any] = {"rgb_masks": "mixed"}
    if 0 in seen.colours and 0 not in known:  # black usually means void
        changes["ignored_colours"] = (*config.ignored_colours, (0, 0, 0))
    mended = corrected(config, changes)
    if set(seen.colours) - known - {0} or diagnose_values(mended, seen.values) is not None:
        advice = "and not all of them are described: export them all in one way"
        return Diagnosis("mixed-masks", f"{found}, {advice}")
    return Diagnosis("mixed-masks", f"{found}, and rgb_masks is not mixed", changes)


def _colours_for_numbers(config: FolderConfig, seen: Tally) -> Diagnosis:
    found = f"the masks hold the RGB colours {histogram(seen.colours, colours=True)}"
    if all(_is_grey(code) for code in seen.colours):
        return _grey_as_colours(config, seen)
    known = {_code(colour) for colour in config.colours or ()}
    more = set(seen.colours) - known
    if config.colours is not None and more <= {0}:  # black usually means void
        changes = _rgb_changes(config.colours, more)
        return Diagnosis("rgb-masks", f"{found}, and rgb_masks is false", changes)
    number = len(config.classes)
    if config.colours is None and len(seen.colours) in (number, number + 1):
        return _new_colours(config, seen, found)
    advice = "set rgb_masks: true, and list colours and ignored_colours"
    if len(seen.colours) > FEW:
        advice = (
            "so many colours are not a code: this is a photo, "
            "or a mask resized smoothly or saved as JPEG"
        )
    return Diagnosis("rgb-masks", f"{found}, and rgb_masks is false: {advice}")


def _new_colours(config: FolderConfig, seen: Tally, found: str) -> Diagnosis:
    codes = sorted(seen.colours)
    has_void = len(codes) > len(config.classes)
    if has_void and codes[0] != 0:
        advice = "one colour more than classes: list colours and ignored_colours"
        return Diagnosis("rgb-masks", f"{found}, and rgb_masks is false: {advice}")
    colours = tuple(rgb(code) for code in codes[has_void:])
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
    table = value_table(mended)
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
        return Diagnosis("palette-masks", sentence, {**changes, **mapped_by(by_palette)})
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
    return Diagnosis("palette-masks", sentence, mapped_by(ids))


def _ids_by_palette(config: FolderConfig, seen: Tally) -> dict[int, int] | None:
    """Return the class of every palette index; None if the palettes do not determine it.

    The index ``ignore`` is ignored, and so is black if no class is black.
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
    swapped = _swapped(config)
    if all(code in swapped for code in unknown):
        return Diagnosis(
            "swapped-channels",
            f"{found}: they are the colours of the YAML with red and blue in each other's place",
            {
                "colours": tuple(colour[::-1] for colour in config.colours),
                "ignored_colours": tuple(colour[::-1] for colour in config.ignored_colours) or None,
            },
        )
    if len(unknown) > FEW:
        sentence = f"{found}: the masks were resized smoothly or saved as JPEG; export them again"
        return Diagnosis("blended-colours", sentence)
    if set(unknown) == {0}:
        changes = {"ignored_colours": (*config.ignored_colours, (0, 0, 0))}
        sentence = f"{found}: black is probably what has no class"
        return Diagnosis("unknown-colours", sentence, changes, "that black means ignored")
    near = _nearest(config, unknown)
    if near:
        return Diagnosis(
            "unknown-colours", f"{found}: {near}; correct the YAML, or export the masks again"
        )
    return Diagnosis("unknown-colours", f"{found}: add each to one of them")


def _swapped(config: FolderConfig) -> set[int]:
    """Return the codes of all colours with red and blue swapped."""
    return {_code(colour[::-1]) for colour in (*(config.colours or ()), *config.ignored_colours)}


def _nearest(config: FolderConfig, unknown: Mapping[int, int]) -> str:
    """Name the class's colour beside each of the commonest unknown ones; nothing without one."""
    named = [*zip(config.colours or (), config.classes, strict=False)]
    named += [(colour, "ignored") for colour in config.ignored_colours]
    parts = []
    for code in sorted(unknown, key=lambda code: -unknown[code])[:_TOLD]:
        levels, colour, name = min(
            (max(abs(a - b) for a, b in zip(rgb(code), colour, strict=True)), colour, name)
            for colour, name in named
        )
        if levels <= _NEAR:
            off = "1 level" if levels == 1 else f"{levels} levels"
            parts.append(f"{list(rgb(code))} is {off} off {name}'s {list(colour)}")
    return ", ".join(parts)


def _rgb_changes(colours: Iterable[Colour], ignored: Iterable[int]) -> dict[str, Any]:
    ignored_colours = tuple(rgb(code) for code in ignored)
    return {
        "rgb_masks": True,
        "colours": tuple(colours),
        "ignored_colours": ignored_colours or None,
        "ids": None,
        "ignore": None,
    }


def _is_grey(code: int) -> bool:
    red, green, blue = rgb(code)
    return red == green == blue


def _code(colour: Colour) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue
