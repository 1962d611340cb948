"""Several runs of one recipe, one after the other: other seeds, or other folds of the pictures."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sctnet.data.folds import MOST_FOLDS, Fold
from sctnet.errors import SctnetError
from sctnet.processes import launched_processes
from sctnet.training.devices import resolved_precision
from sctnet.training.recipe import Recipe, settings_fields
from sctnet.training.run_folder import RunFolder, read_metrics
from sctnet.training.trainer import Observer, train
from sctnet.writing import write_text

SUMMARY = "repetitions.json"

_NO_SCORES = {"step", "seconds", "loss", "learning_rate"}


class Repetition(NamedTuple):
    """One of the runs: the name of its folder, and what is set for it."""

    name: str
    settings: tuple[str, ...]


class Spread(NamedTuple):
    """A score over all runs that have it."""

    mean: float
    deviation: float | None
    """The standard deviation of a sample (n - 1); None for a single run."""
    lowest: float
    highest: float
    runs: int


@dataclass(frozen=True)
class Repetitions:
    """What the runs scored at their ends, on their own validation pictures."""

    runs: dict[str, dict[str, float]]
    """The scores by the name of the run's folder, fractions as in metrics.jsonl."""

    def spreads(self) -> dict[str, Spread]:
        """Return the mean and the spread of every score."""
        spreads = {}
        for name in dict.fromkeys(name for scores in self.runs.values() for name in scores):
            values = [scores[name] for scores in self.runs.values() if name in scores]
            deviation = statistics.stdev(values) if len(values) > 1 else None
            spreads[name] = Spread(
                statistics.fmean(values), deviation, min(values), max(values), len(values)
            )
        return spreads

    def to_json(self) -> str:
        """Return runs and spreads for programs."""
        scores = {name: spread._asdict() for name, spread in self.spreads().items()}
        return json.dumps({**asdict(self), "scores": scores}, indent=2) + "\n"


def repetitions(
    seeds: int | None, folds: int | None, first_seed: int, settings: Sequence[str]
) -> list[Repetition]:
    """Return the runs that are asked for.

    Raises :class:`SctnetError` for both of them, for less than two runs, and for settings that
    folds decide.
    """
    if launched_processes().count > 1:
        raise SctnetError(
            "--seeds, --folds: their runs are of one process each: start them without torchrun or "
            "srun, or start each run by itself with run.seed=... or data.train=[...]"
        )
    if seeds is not None and folds is not None:
        raise SctnetError("--seeds, --folds: give one of them")
    if seeds is not None:
        if seeds < 2:
            raise SctnetError("--seeds: give 2 or more: one run has no spread")
        numbers = range(first_seed, first_seed + seeds)
        return [Repetition(f"seed-{number}", (f"run.seed={number}",)) for number in numbers]
    assert folds is not None
    if not 2 <= folds <= MOST_FOLDS:
        raise SctnetError(f"--folds: give 2 to {MOST_FOLDS}")
    given = {"train", "validation"} & settings_fields(settings).get("data", {}).keys()
    if given:
        raise SctnetError(f"--folds: decides data.{min(given)}: leave it out")
    return [
        Repetition(
            f"fold-{number}",
            (
                f"data.train=[{Fold(number, folds, True)}]",
                f"data.validation=[{Fold(number, folds, False)}]",
            ),
        )
        for number in range(1, folds + 1)
    ]


def train_repeatedly(
    wanted: list[Repetition],
    recipe_of: Callable[[Repetition, Path], Recipe],
    out: Path,
    resume: bool,
    observing: Callable[[Repetition], AbstractContextManager[Observer]],
) -> Repetitions:
    """Carry out the runs below ``out``, and leave their scores there.

    With ``resume`` finished runs are kept, the one that was stopped goes on. Raises
    :class:`SctnetError` as :func:`~sctnet.training.trainer.train` does.
    """
    if not resume:
        for repetition in wanted:
            if (out / repetition.name).exists():
                raise SctnetError(
                    f"{out / repetition.name}: holds a run already; continue with --resume or "
                    "choose another --out"
                )
    for repetition in wanted:
        folder = RunFolder(out / repetition.name)
        recipe = recipe_of(repetition, folder.path)
        if resume and folder.is_finished():
            kept, _ = resolved_precision(recipe, launched_processes(), folder.precision())
            folder.check(kept, resume=True)
            continue
        continues = resume and folder.has_checkpoint()
        with observing(repetition) as observe:
            train(recipe, folder.path, resume=continues, observe=observe)
    found = Repetitions({each.name: _scores(RunFolder(out / each.name)) for each in wanted})
    write_text(out / SUMMARY, found.to_json())
    return found


def _scores(folder: RunFolder) -> dict[str, float]:
    """Return a finished run's last scores of a validation, and the best that its summary has."""
    validations = [record for record in read_metrics(folder.metrics_file) if "loss" not in record]
    last = validations[-1] if validations else {}
    scores = {key: value for key, value in _flat(last).items() if key not in _NO_SCORES}
    summary = json.loads(folder.summary_file.read_text(encoding="utf-8"))
    scores |= {
        key: value
        for key, value in summary.items()
        if "validation" in key and isinstance(value, float)
    }
    return scores


def _flat(record: Mapping[str, Any], before: str = "") -> dict[str, float]:
    """Return the numbers of a record, those within by names such as iou.road."""
    flat: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{key}.")
        elif isinstance(value, (int, float)):
            flat[f"{before}{key}"] = float(value)
    return flat
