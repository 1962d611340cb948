"""The files of a run: resolved recipe, checkpoint, metrics, and the model folder it becomes."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sctnet.checkpoints.model_folder import CARD_FILE, CONFIG_FILE
from sctnet.errors import SctnetError
from sctnet.training.recipe import Recipe, load_recipe, to_yaml
from sctnet.training.task import Task
from sctnet.writing import write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class RunFolder:
    """A run's folder on disk; each file appears whole or not at all."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.recipe_file = self.path / "recipe.yaml"
        self.checkpoint_file = self.path / "last.ckpt"
        self.metrics_file = self.path / "metrics.jsonl"
        self.summary_file = self.path / "summary.json"
        self._board: SummaryWriter | None = None

    def has_checkpoint(self) -> bool:
        """Say whether there is something to resume."""
        return self.checkpoint_file.exists()

    def is_finished(self) -> bool:
        """Say whether a run has come to its end here."""
        return self.summary_file.exists()

    def precision(self) -> Any:
        """Return the precision by name that the run was begun in."""
        return load_recipe(self.recipe_file).run.precision

    def check(self, recipe: Recipe, resume: bool) -> None:
        """Refuse to overwrite a run, to resume a missing run or by another recipe, and no place."""
        self.check_place(resume)
        if self.has_checkpoint():
            field = _first_difference(load_recipe(self.recipe_file), recipe)
            if field is not None:
                raise SctnetError(
                    f"{self.recipe_file}: the run was begun with other settings, the first is "
                    f"{field}; resume it with these, or choose another --out"
                )

    def check_place(self, resume: bool) -> None:
        """Refuse to overwrite a run or other files, to resume a missing run, and no place."""
        place = next(each for each in (self.path, *self.path.parents) if os.access(each, os.F_OK))
        if not (place.is_dir() and os.access(place, os.W_OK)):
            raise SctnetError(f"{self.path}: cannot be written, because of {place}: choose another")
        finished, run = self.is_finished(), self.recipe_file.exists()
        if not resume and (self.has_checkpoint() or finished):
            raise SctnetError(
                f"{self.path}: holds a run already; continue it with --resume "
                "or choose another --out"
            )
        if resume and (finished or not run) and not self.has_checkpoint():
            raise SctnetError(f"{self.path}: holds no last.ckpt; there is no run to resume")
        if not run and any((self.path / name).exists() for name in (CARD_FILE, CONFIG_FILE)):
            raise SctnetError(
                f"{self.path}: holds files that a run would replace ({CARD_FILE} or {CONFIG_FILE}) "
                "and is not the folder of a run; choose another --out"
            )

    def begin(self, recipe: Recipe) -> dict[str, Any] | None:
        """Prepare a checked folder; return the checkpoint to resume from, or None for a new run."""
        if not self.has_checkpoint():
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                write_text(self.recipe_file, to_yaml(recipe))
                self.metrics_file.write_text("")
            except OSError as error:
                raise SctnetError(f"{self.path}: cannot be written ({error.strerror})") from error
            return None
        checkpoint = self._read_checkpoint()
        self._forget_metrics_after(checkpoint["iteration"], checkpoint["validated"])
        return checkpoint

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the last checkpoint."""
        beside = self.checkpoint_file.with_suffix(".beside")
        try:
            torch.save(dict(state), beside)
            with beside.open("rb") as stream:
                os.fsync(stream.fileno())
            beside.replace(self.checkpoint_file)
        except (OSError, RuntimeError) as error:
            beside.unlink(missing_ok=True)
            raise _unwritable(self.checkpoint_file, error) from error

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to the metrics, and its values to the TensorBoard log."""
        try:
            with self.metrics_file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(dict(record)) + "\n")
        except OSError as error:
            raise _unwritable(self.metrics_file, error) from error
        if self._board is not None:
            for key, value in _flat(record).items():
                if key != "step":
                    self._board.add_scalar(key, value, int(record["step"]))
            self._board.flush()

    def summary(self) -> dict[str, Any]:
        """Return the summary of a finished run; :class:`SctnetError` where there is none."""
        try:
            found: dict[str, Any] = json.loads(self.summary_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SctnetError(f"{self.summary_file}: no finished run's summary") from error
        return found

    def save_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the summary of a finished run, and close the log."""
        if self._board is not None:
            self._board.close()
        write_text(self.summary_file, json.dumps(dict(summary), indent=2) + "\n")

    def open_board(self, iteration: int) -> None:
        """Begin a TensorBoard log, and drop the later points of a killed run."""
        from torch.utils.tensorboard import SummaryWriter  # a second of imports

        self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=iteration + 1)

    def _read_checkpoint(self) -> dict[str, Any]:
        try:
            checkpoint: dict[str, Any] = torch.load(
                self.checkpoint_file, map_location="cpu", weights_only=True
            )
            checkpoint["iteration"], checkpoint["validated"], checkpoint["meter"]
        except Exception as error:  # torch.load raises many kinds for a broken file
            raise SctnetError(
                f"{self.checkpoint_file}: not a whole checkpoint of a run; begin another"
            ) from error
        return checkpoint

    def _forget_metrics_after(self, iteration: int, validated: int) -> None:
        """Drop the lines that a killed run wrote after its last checkpoint."""
        kept = [
            line
            for line in read_metrics(self.metrics_file)
            if line["step"] <= (iteration if "loss" in line else validated)
        ]
        write_text(self.metrics_file, "".join(json.dumps(line) + "\n" for line in kept))


def _unwritable(file: Path, error: Exception) -> SctnetError:
    return SctnetError(
        f"{file}: cannot be written ({error}); free some space and continue with --resume"
    )


_HARMLESS = (
    "data.source",
    "data.unlabelled",
    "data.workers",
    "data.cache",
    "data.cache_gigabytes",
    "run.activation_checkpointing",
    "alignment.cache.folder",
    "alignment.cache.gigabytes",
)
"""Settings that a resume may change, because they do not change the results."""


def _first_difference(one: Recipe, other: Recipe) -> str | None:
    """Return the first field in which two recipes differ, in their order."""
    first, second = (_flat(recipe.model_dump()) for recipe in (one, other))
    differing = (key for key in {**first, **second} if first.get(key) != second.get(key))
    return next((key for key in differing if key not in _HARMLESS), None)


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested fields under dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        nested = isinstance(value, dict) and value
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl; a last line cut short by a kill is left out."""
    records = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SctnetError(f"{file}: cannot be read ({error})") from error
    for number, line in enumerate(lines):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number < len(lines) - 1:
                raise SctnetError(f"{file}, line {number + 1}: not valid JSON") from error
            continue
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise SctnetError(f"{file}, line {number + 1}: not a run's record, it has no step")
        records.append(record)
    return records


def model_card(
    task: Task[Any], start: Mapping[str, Any] | None, iteration: int, best: float | None
) -> str:
    """Return the README.md of a run's model: what it was trained on, how long, and how."""
    recipe, data = task.recipe, task.data
    validation = "" if best is None else f" Best validation {task.score_words} so far: {best:.4f}."
    begun = "" if start is None else f" Started from {start['origin']}"
    if start is not None:
        begun += "." if start["sha256"] is None else f" (sha256 {start['sha256']})."
        # A checkpoint of an earlier version does not know the terms.
        begun += f" Its terms hold for this model too: {x}." if (x := start.get("terms")) else ""
    classes = ", ".join(data.classes)
    return (
        f"# {recipe.name}\n\n{recipe.description}\n\n"
        f"{recipe.model.variant}, {len(data.classes)} classes ({classes}), trained "
        f"for {iteration} iterations of {recipe.run.batch_size} crops on {len(data)} pictures "
        f"({': '.join(filter(None, [data.name, ', '.join(recipe.data.train)]))}), "
        f"seed {recipe.run.seed}."
        f"{begun}{task.taught_by()}{validation}\n"
        "The resolved recipe is in `recipe.yaml`.\n"
    )
