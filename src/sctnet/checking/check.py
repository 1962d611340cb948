"""Finds what is wrong with a data set before it spoils a run."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from sctnet.checking.colour_diagnosis import diagnose_splits
from sctnet.checking.findings import Finding, find_all
from sctnet.checking.survey import OpenedSplit, Tally, survey_split
from sctnet.checking.value_diagnosis import Diagnosis
from sctnet.data.class_frequencies import balanced_weights
from sctnet.data.dataset import (
    IGNORE,
    Colour,
    FileDataset,
    Labels,
    NoSuchSplitError,
    SegmentationDataset,
)
from sctnet.data.dataset_yaml import ALL, is_yaml, read_config
from sctnet.data.folder import find_split, folder_dataset
from sctnet.data.folds import fold_of, part_of_folds
from sctnet.data.pairing import Mismatch
from sctnet.data.registry import known_splits, open_dataset
from sctnet.data.training_size import CPU, GPU, median_size, training_size
from sctnet.errors import SctnetError

_UNEVEN = 4  # between class weights: the commonest class has 16 times the pixels of the rarest


@dataclass(frozen=True)
class Report:
    """The findings of a check, and the counts of the data set."""

    source: str
    splits: tuple[OpenedSplit, ...]
    tallies: dict[str, Tally]
    findings: tuple[Finding, ...]
    diagnoses: dict[str, Diagnosis]
    """The diagnosis of each split whose masks do not match the YAML."""
    training: str
    """The split that training reads: train, or else the first."""

    @property
    def has_errors(self) -> bool:
        """Whether something would spoil training."""
        return any(finding.is_error for finding in self.findings)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, the same in all splits."""
        return self._whole.classes

    @property
    def colours(self) -> tuple[Colour, ...] | None:
        """The classes' colours, where the data set has customary ones."""
        return self._whole.colours

    @property
    def labelled_tallies(self) -> dict[str, Tally]:
        """The splits with at least one readable label or ignored pixel."""
        return {name: tally for name, tally in self.tallies.items() if tally.pixels.any()}

    @property
    def _whole(self) -> SegmentationDataset:
        """A split that could be opened, if there is one."""
        return max((split.data for split in self.splits), key=lambda data: len(data.classes))

    def class_weights(self) -> list[float]:
        """Return the weights of ``loss.class_weights=balanced`` for the training split."""
        counts = self.tallies[self.training].pixels[: len(self.classes)]
        return [round(weight, 3) for weight in balanced_weights(torch.from_numpy(counts)).tolist()]

    def class_rows(self) -> list[list[str]]:
        """Return a table: name; by labelled split the share in % and the pictures; the weight."""
        number = len(self.classes)
        columns: list[list[str]] = [list(self.classes)]
        for tally in self.labelled_tallies.values():
            shares = 100 * tally.pixels[:number] / max(1, tally.pixels[:number].sum())
            columns.append([f"{share:.2f}" for share in shares])
            columns.append([str(count) for count in tally.occurrences[:number]])
        columns.append([f"{weight:.2f}" for weight in self.class_weights()])
        return [list(row) for row in zip(*columns, strict=True)]

    def training_size(self) -> tuple[int, tuple[int, int]] | None:
        """Return the shorter side and the crop that training chooses on this machine.

        None where no picture could be read.
        """
        sizes = self.tallies[self.training].looked_at
        if not sizes:
            return None
        return training_size(median_size(sizes), GPU if torch.cuda.is_available() else CPU)

    def suggestions(self) -> list[str]:
        """Return settings for ``sctnet train``, each as key=value, quoted for a shell.

        Those of sizes are what it chooses itself without a recipe.
        """
        settings = []
        size = self.training_size()
        if size is not None:
            side, crop = size
            rule = f"{{rule: shorter-side, pixels: {side}}}"
            settings.append(f"'preparation.working_size={rule}'")
            settings.append(f"augmentation.crop=[{crop[0]},{crop[1]}]")
        weights = self.class_weights()
        if weights and not self.diagnoses and max(weights) > _UNEVEN * min(weights):
            settings.append("loss.class_weights=balanced")
        return settings

    def ignored_share(self, split: str) -> float:
        """Return the fraction of a split's pixels that are ignored."""
        pixels = self.tallies[split].pixels
        return float(pixels[IGNORE] / max(1, pixels.sum()))

    def to_json(self) -> str:
        """Return findings, counts and suggestions for programs."""
        number = len(self.classes)
        size = self.training_size()
        opened = {split.name: split for split in self.splits}
        splits = {
            name: {
                "pictures": tally.pictures,
                "sizes": [[*size, count] for size, count in tally.sizes.most_common()],
                "pixels": tally.pixels[:number].tolist(),
                "pictures_by_class": tally.occurrences[:number].tolist(),
                "ignored_share": self.ignored_share(name),
                "left_out": dict(opened[name].left_out),
                "unlabelled": opened[name].unlabelled,
            }
            for name, tally in self.tallies.items()
        }
        fields = {
            "source": self.source,
            "findings": [asdict(finding) for finding in self.findings],
            "classes": self.classes,
            "splits": splits,
            "suggested": {
                "class_weights": self.class_weights(),
                "shorter_side": None if size is None else size[0],
                "crop": None if size is None else size[1],
            },
        }
        return json.dumps(fields, indent=2) + "\n"


def open_splits(source: str | Path, names: Sequence[str] = ()) -> list[OpenedSplit]:
    """Open splits one by one, and continue after everything that a finding can report.

    Without ``names`` all that exist, but those that join others (trainval) or hold other labels
    for the same pictures (coarse ones). Raises :class:`SctnetError` for a source that is not a data
    set, and for a split it does not have.
    """
    opened: list[OpenedSplit] = []
    for name in names or known_splits(source):
        try:
            opened.append(_told_once(_open_split(source, name), opened))
        except NoSuchSplitError:
            if names:
                raise
    if not opened:
        raise SctnetError(f"{source}: no split exists: name those there are by --splits")
    return opened if names else _without_repetitions(opened)


def check_dataset(
    source: str | Path,
    splits: Sequence[OpenedSplit],
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Read every picture and mask of the opened splits once; ``progress`` gets the number done."""
    tallies: dict[str, Tally] = {}
    done = 0
    for split in splits:
        tally = tallies[split.name] = Tally()
        for survey in survey_split(split):
            tally.add(survey, split)
            done += 1
            if progress is not None:
                progress(done)
    config = next((split.config for split in splits if split.config is not None), None)
    diagnoses = {} if config is None else diagnose_splits(config, tallies)
    training = "train" if "train" in tallies else splits[0].name
    findings = find_all(splits, tallies, diagnoses, training)
    return Report(str(source), tuple(splits), tallies, tuple(findings), diagnoses, training)


def _open_split(source: str | Path, name: str) -> OpenedSplit:
    path = Path(source)
    config = read_config(path) if is_yaml(path) else None
    mismatches: list[Mismatch] = []
    try:
        if config is None:
            return OpenedSplit(name, open_dataset(source, [name]))
        fold = fold_of(name, config)
        own = name if fold is None else ALL if config.is_undivided else "train"
        if own not in config.images:
            open_dataset(source, [name])  # says so
        found = find_split(path.parent, config, own, mismatches.append)
        data = folder_dataset(f"{path.stem} {name}", config, found.files, found.drawn)
        if fold is not None and len(data):
            data = part_of_folds(data, [name], [fold], path, config)
    except NoSuchSplitError:
        raise
    except SctnetError as error:
        nothing = FileDataset(name, (), None, (), _never)
        return OpenedSplit(name, nothing, mismatches=[*mismatches, Mismatch("split", str(error))])
    of_masks = None if own in config.polygons else config
    return OpenedSplit(name, data, of_masks, mismatches, found.left_out, found.unlabelled)


def _told_once(split: OpenedSplit, before: Sequence[OpenedSplit]) -> OpenedSplit:
    """Leave out what was told of another split: folds are found in the same files."""
    if split.mismatches and any(split.mismatches == each.mismatches for each in before):
        return replace(split, mismatches=(), left_out={}, unlabelled=0)
    if any((split.left_out, split.unlabelled) == (e.left_out, e.unlabelled) for e in before):
        is_fold = split.config is not None and fold_of(split.name, split.config) is not None
        return replace(split, left_out={}, unlabelled=0) if is_fold else split
    return split


def _never(path: Path) -> Labels:
    raise AssertionError(f"{path} belongs to no data set")


def _without_repetitions(splits: list[OpenedSplit]) -> list[OpenedSplit]:
    """Leave out joined splits, and those that have other labels for the pictures of one before."""
    files = [split.data.files if isinstance(split.data, FileDataset) else () for split in splits]
    images = [{file.image for file in own} for own in files]
    masks = [{file.mask for file in own} for own in files]
    kept = []
    for number, split in enumerate(splits):
        parts = [other for other in images if other and other < images[number]]
        is_joined = len(parts) > 1 and set().union(*parts) == images[number]
        is_relabelled = any(
            images[earlier] == images[number] and masks[earlier] != masks[number]
            for earlier in range(number)
        )
        if not is_joined and not is_relabelled:
            kept.append(split)
    return kept
