"""The findings of the check, one function per rule."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sctnet.checking.survey import EXAMPLES, Examples, OpenedSplit, Tally
from sctnet.checking.value_diagnosis import Diagnosis, histogram
from sctnet.data.dataset import IGNORE
from sctnet.data.dataset_yaml import FolderConfig
from sctnet.data.likeness import copies_between
from sctnet.data.mask_to_labels import colour_code
from sctnet.data.pairing import SPOIL_NOTHING

_MOSTLY = 0.9  # a larger fraction of ignored pixels gives a finding

_PROBLEMS = {
    "split": "the split cannot be opened",
    "missing-folder": "a folder of the YAML is missing",
    "no-pictures": "no picture was found",
    "missing-mask": "pictures without a mask",
    "listed-missing": "files that are listed and not there",
    "listed-twice": "pictures that are listed again, which count once",
    "jpeg-mask": "masks saved as JPEG, which changes their values: export them again as PNG",
    "shared-stem": "files that share one stem, and so one mask",
    "unreadable-image": "pictures that cannot be read",
    "unreadable-mask": "masks that cannot be used",
    "deep-mask": "masks of colours of 16 bits that are not 8-bit ones; --fix writes label maps",
    "sizes-differ": "pictures whose masks are of another size",
    "missing-picture": "masks without a picture, which are not used",
    "other-suffix": "files without the suffix that the YAML file states, which are not used",
    "unlisted-picture": "pictures that the file of instances does not list, which are not used",
    "empty-area": "annotations that cover no pixel: are their coordinates right?",
    "several-frames": "pictures of several frames or pages, of which the first is used",
}
_WARNINGS = {*SPOIL_NOTHING, "several-frames"}


@dataclass(frozen=True)
class Finding:
    """A thing that is wrong, or may be wrong."""

    cause: str
    """A short name that stays the same, such as off-by-one."""
    is_error: bool
    """Whether it would spoil training or scores; otherwise it is a warning."""
    split: str
    """Several are joined by commas."""
    sentence: str
    count: int = 0
    """The number of pictures or files; 0 for all."""
    details: tuple[str, ...] = ()
    """The first of them, by name or sentence."""
    pictures: tuple[tuple[str, int], ...] = ()
    """Split and index of the first of them, where there are pictures to show."""


def find_all(
    splits: Sequence[OpenedSplit],
    tallies: Mapping[str, Tally],
    diagnoses: Mapping[str, Diagnosis],
    training: str,
) -> list[Finding]:
    """Return all findings, errors first."""
    findings = [
        *(finding for split in splits for finding in _files(split, tallies[split.name])),
        *_values(tallies, diagnoses),
    ]
    for split in splits:
        # Wrong values explain the other findings, which are therefore left out.
        if split.name not in diagnoses and tallies[split.name].pixels.any():
            findings += _labels(split, tallies[split.name], split.name == training)
    known = [split for split in splits if split.name not in diagnoses]
    findings += [*_absent_classes(known, tallies, training), *_shared_pictures(splits, tallies)]
    findings += _copies(splits, tallies)
    findings += [
        _repeated(name, tally.repeated) for name, tally in tallies.items() if tally.repeated.count
    ]
    return sorted(findings, key=lambda finding: not finding.is_error)


def _files(split: OpenedSplit, tally: Tally) -> Iterator[Finding]:
    """Find pictures and masks that have no partner, cannot be read, or differ in size."""
    unpaired: dict[str, Examples] = defaultdict(Examples)
    for mismatch in split.mismatches:
        unpaired[mismatch.cause].add(None, mismatch.sentence)
    for cause, examples in (*unpaired.items(), *tally.problems.items()):
        is_error = cause not in _WARNINGS
        yield _finding(cause, is_error, split.name, _PROBLEMS[cause], examples)


def _values(tallies: Mapping[str, Tally], diagnoses: Mapping[str, Diagnosis]) -> Iterator[Finding]:
    """Find masks that do not hold the classes, once for all splits with the same diagnosis."""
    different: list[Diagnosis] = []
    for diagnosis in diagnoses.values():
        if diagnosis not in different:
            different.append(diagnosis)
    for diagnosis in different:
        names = [name for name, other in diagnoses.items() if other == diagnosis]
        shown = [(name, index) for name in names for index in _suspects(tallies[name])]
        count = sum(tallies[name].unknown.count for name in names)
        details = tuple(d for name in names for d in tallies[name].unknown.details)[:EXAMPLES]
        yield Finding(
            diagnosis.cause,
            True,
            ", ".join(names),
            diagnosis.sentence,
            count,
            details,
            tuple(shown[:EXAMPLES]),
        )


def _suspects(tally: Tally) -> list[int]:
    """Return examples of a diagnosis: pictures with values outside the classes, or any."""
    unknown = [index for index in tally.unknown.indices if index is not None]
    return unknown or list(range(min(EXAMPLES // 2, tally.pictures)))


def _labels(split: OpenedSplit, tally: Tally, is_training: bool) -> Iterator[Finding]:
    """Find labels that teach nothing."""
    number = len(split.data.classes)
    occurring = np.flatnonzero(tally.occurrences[:number])
    stored = f"; the masks hold {histogram(tally.values)}" if tally.values else ""
    if tally.unknown.count:
        sentence = f"labels that are not one of the {number} classes"
        yield _finding("unknown-values", True, split.name, sentence, tally.unknown)
    if not len(occurring):
        sentence = f"no pixel is labelled, there is nothing to learn or to score{stored}"
        yield _finding("no-labels", True, split.name, sentence, tally.unlabelled)
        return
    if is_training and len(occurring) == 1:
        only = split.data.classes[occurring[0]]
        sentence = f"every labelled pixel is {only!r}, there is nothing to tell apart{stored}"
        yield Finding("one-class", True, split.name, sentence)
    if tally.unlabelled.count:
        sentence = "pictures without a single labelled pixel teach nothing"
        yield _finding("unlabelled-picture", False, split.name, sentence, tally.unlabelled)
    ignored = tally.pixels[IGNORE] / tally.pixels.sum()
    if ignored > _MOSTLY:
        sentence = f"{100 * ignored:.3g} % of the pixels are ignored{stored}"
        yield Finding("mostly-ignored", False, split.name, sentence)


def _absent_classes(
    splits: Sequence[OpenedSplit], tallies: Mapping[str, Tally], training: str
) -> Iterator[Finding]:
    """Find classes that a split lacks: an error if training lacks a class of another split."""
    with_labels = [
        split
        for split in splits
        if tallies[split.name].occurrences[: len(split.data.classes)].any()
    ]
    anywhere = sum(
        (tallies[split.name].occurrences for split in with_labels), np.zeros(256, np.int64)
    )
    for split in with_labels:
        missed: list[str] = []
        unused: list[str] = []
        for label, name in enumerate(split.data.classes):
            if not tallies[split.name].occurrences[label]:
                is_missed = split.name == training and anywhere[label]
                (missed if is_missed else unused).append(name)
        if missed:
            sentence = f"classes that other splits show and training never does: {_listed(missed)}"
            yield Finding("absent-class", True, split.name, sentence, len(missed))
        if unused:
            hint = " (are the ids counted from 1?)" if unused == [split.data.classes[0]] else ""
            instead = _ignored_values(split.config, tallies[split.name])
            sentence = f"classes that never occur: {_listed(unused)}{hint}{instead}"
            yield Finding("absent-class", False, split.name, sentence, len(unused))


def _ignored_values(config: FolderConfig | None, tally: Tally) -> str:
    """Tell which values or colours masks hold that the description has ignored by name or by ids.

    One of them may be what an absent class really looks like.
    """
    if config is None or (config.ids is None and not config.holds_colours):
        return ""
    taken = set(config.ids or ())
    if config.holds_colours:
        taken = {int(colour_code(np.array(colour))) for colour in config.colours or ()}
    stored = tally.colours if config.holds_colours else tally.values
    total = max(1, sum(stored.values()))
    others = {code: pixels for code, pixels in stored.items() if code not in taken}
    if not others:
        return ""
    shown = histogram(others, colours=config.holds_colours, total=total)
    return f"; what the masks hold instead is ignored: {shown}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - EXAMPLES
    return ", ".join(names[:EXAMPLES]) + (f" and {more} more" if more > 0 else "")


def _repeated(split: str, examples: Examples) -> Finding:
    sentence = "pictures that repeat another one of the split, pixel by pixel"
    return _finding("repeated-picture", False, split, sentence, examples)


def _shared_pictures(
    splits: Sequence[OpenedSplit], tallies: Mapping[str, Tally]
) -> Iterator[Finding]:
    """Find pictures that are in two splits, which makes scores too good."""
    for position, first in enumerate(splits):
        for second in splits[position + 1 :]:
            known = tallies[first.name].digests
            shared = Examples()
            pictures = []
            for digest, index in tallies[second.name].digests.items():
                if digest in known:
                    one = first.data.item_name(known[digest])
                    shared.add(index, f"{one} = {second.data.item_name(index)}")
                    if shared.count <= EXAMPLES // 2:
                        pictures += [(first.name, known[digest]), (second.name, index)]
            if shared.count:
                sentence = (
                    f"pictures of {second.name} are also in {first.name}, pixel by pixel (leakage):"
                    " scores would be too good"
                )
                yield Finding(
                    "shared-picture",
                    True,
                    f"{first.name}, {second.name}",
                    sentence,
                    shared.count,
                    tuple(shared.details),
                    tuple(pictures),
                )


def _copies(splits: Sequence[OpenedSplit], tallies: Mapping[str, Tally]) -> Iterator[Finding]:
    """Find pictures that are in two splits as copies: re-encoded, resized, cropped at a border."""
    for position, first in enumerate(splits):
        for second in splits[position + 1 :]:
            one, other = tallies[first.name], tallies[second.name]
            same = one.digests.keys() & other.digests.keys()
            apart = {one.digests[digest] for digest in same}
            others_apart = {other.digests[digest] for digest in same}
            numbers = [number for number in one.thumbnails if number not in apart]
            other_numbers = [n for n in other.thumbnails if n not in others_apart]
            pairs = copies_between(
                [one.thumbnails[number] for number in numbers],
                [other.thumbnails[number] for number in other_numbers],
            )
            examples, pictures = Examples(), []
            for pair in sorted(pairs, key=lambda pair: -pair.likeness):
                index, other_index = numbers[pair.first], other_numbers[pair.second]
                names = first.data.item_name(index), second.data.item_name(other_index)
                examples.add(index, f"{' ~ '.join(names)} ({pair.likeness:.2f})")
                if examples.count <= EXAMPLES // 2:
                    pictures += [(first.name, index), (second.name, other_index)]
            if examples.count:
                sentence = (
                    f"pictures of {second.name} look like pictures of {first.name}: copies "
                    "(re-encoded, resized, cropped) or frames of one scene make scores too good; "
                    "keep each pair in one split"
                )
                yield Finding(
                    "near-duplicate",
                    False,
                    f"{first.name}, {second.name}",
                    sentence,
                    examples.count,
                    tuple(examples.details),
                    tuple(pictures),
                )


def _finding(cause: str, is_error: bool, split: str, sentence: str, examples: Examples) -> Finding:
    pictures = tuple((split, index) for index in examples.indices if index is not None)
    return Finding(
        cause, is_error, split, sentence, examples.count, tuple(examples.details), pictures
    )
