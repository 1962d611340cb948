"""A run from its recipe to its model: the loop, its checkpoints and its records."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from sctnet.checkpoints.initialisation import require_start
from sctnet.checkpoints.model_folder import load_config, write_calibration
from sctnet.data.loading import StepSampler, TrainingLoader, lost_workers_told, training_loader
from sctnet.errors import SctnetError
from sctnet.other_programs import BUSY, OtherPrograms, slowed_by
from sctnet.processes import Processes, launched_processes
from sctnet.provenance import environment
from sctnet.training.devices import launch_fabric, resolved_precision
from sctnet.training.interruption import deferred_interrupt
from sctnet.training.learner import Learner
from sctnet.training.meter import Meter
from sctnet.training.recipe import Recipe, SegmentationRecipe
from sctnet.training.registry import open_task
from sctnet.training.remaining_time import RemainingTime
from sctnet.training.run_folder import RunFolder, model_card

Observer = Callable[[dict[str, Any]], None]
"""Called with every record of metrics.jsonl, and after each iteration with its ``step``, the number
``of`` all and the ``seconds_left``, validations included (None: not known yet)."""

_LOG = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    observe: Observer | None = None,
    teacher: Any = None,
) -> RunFolder:
    """Carry out a run and leave a run folder, which is a model folder too.

    The randomness of an iteration is a function of the seed and its number, so a resumed run
    continues as if it had never stopped. An interrupt (Ctrl-C, SIGTERM) saves a checkpoint and then
    raises KeyboardInterrupt. A finished run is left as it is. ``teacher`` replaces the teacher of
    the recipe's alignment; it may be a network of another package. Raises :class:`SctnetError` for
    mistakes in data, recipe or folder.
    """
    folder, processes = RunFolder(out), launched_processes()
    continues = resume and folder.has_checkpoint()
    recipe, precision = resolved_precision(
        recipe, processes, folder.precision() if continues else None
    )
    folder.check(recipe, resume)
    if recipe.model.init is not None and not continues:
        require_start(recipe.model.init)
    fabric = launch_fabric(recipe, processes)
    fabric.barrier()  # every process has looked at the folder before the first changes it
    if precision.reason is not None and processes.is_first:
        _LOG.info("run.precision = %s%s", precision.name, precision.because)
    with _one_sentence_for_lost_processes(processes):
        # A separate function, so that nothing of the run is alive when the process group ends.
        _carry_out(recipe, folder, observe or (lambda _: None), continues, teacher, fabric)
    if processes.count > 1:
        processes.disconnect()
    return folder


def _carry_out(
    recipe: Recipe,
    folder: RunFolder,
    observe: Observer,
    continues: bool,
    teacher: Any,
    fabric: Fabric,
) -> None:
    """Do a run, from its first iteration or its last checkpoint to its summary."""
    run = _Run(recipe, folder, observe, continues, teacher, fabric)
    checkpoint = fabric.broadcast(folder.begin(recipe) if run.processes.is_first else None)
    if checkpoint is not None:
        run.restore(checkpoint)
        if run.iteration == run.iterations and folder.is_finished():
            if run.processes.is_first:  # its model may have been calibrated since
                _LOG.info("%s: this run is finished; nothing is changed", folder.path)
            return
    if run.processes.is_first:
        folder.open_board(run.iteration)
    run.loop()
    run.finish()


class _Run:
    """The state of a run in progress."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        observe: Observer,
        continues: bool,
        teacher: Any,
        fabric: Fabric,
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.observe = observe
        self.fabric = fabric
        self.processes = launched_processes()
        self.task = open_task(recipe, self.processes, folder.path)
        self.data = self.task.data
        self.iterations = self.task.schedule.iterations
        self.skipped: dict[int, str] = {}  # by the number of the picture
        self.learner = Learner(self.task, fabric, teacher, from_start=not continues)
        self.start = None if self.learner.start is None else asdict(self.learner.start)
        if not self.task.validates and self.processes.is_first:
            _LOG.warning(
                "no validation: nothing will tell when the model was best; name pictures that "
                "training does not see, such as data.validation=[val]"
            )
        if self.learner.start is not None and self.processes.is_first:
            _LOG.info("%s", self.learner.start)
        self.meter = Meter(recipe.run.batch_size)
        self.left = RemainingTime(
            self.iterations,
            recipe.run.validate_every if self.task.validates else None,
            None,
            self.task.validations_at_end,
        )
        # Processes that share a run are not told from other programs.
        alone = self.processes.count == 1 and fabric.device.type == "cpu"
        self.others = OtherPrograms() if alone else None
        self.iteration = 0
        self.validated = 0  # the last iteration that was
        self.best: float | None = None
        self.missed: set[str] = set()  # classes of which a warning was given
        self.seconds_before = 0.0
        self.started = time.monotonic()

    # The loop

    def loop(self) -> None:
        """Do the iterations that are left."""
        run = self.recipe.run
        with (
            lost_workers_told(),
            closing(iter(self._batches())) as batches,
            deferred_interrupt() as interrupted,
        ):
            self.show()
            self.validate_if_due()
            if self.task.validates and self.iteration < self.iterations:
                student = self.learner.saved_model()
                taken = self.task.validation_seconds(student, self.fabric.device)
                if taken is not None:
                    self.left.validation_seconds = taken / self.processes.count
            while self.iteration < self.iterations:
                began = time.monotonic()
                with self.meter.waiting():
                    batch = next(batches)
                    batch = type(batch)(*self.fabric.to_device(tuple(batch)))
                rate, losses = self.learner.step(batch, self.iteration)
                self.meter.add(losses)
                self.iteration += 1
                self.show()
                if self._is_due(run.log_every):
                    self.record({"learning_rate": rate, **self.meter.take()})
                    self.tell_of_others()
                stop = self.processes.any(interrupted())
                # Also before a validation, which may stop at a broken file.
                if self._is_due(run.checkpoint_every) or self._validation_is_due() or stop:
                    self.save()
                if stop:
                    raise KeyboardInterrupt
                self.estimate(time.monotonic() - began)
                self.validate_if_due()

    def estimate(self, step_seconds: float) -> None:
        """Take a step into account, and say once after every start how long the run takes."""
        known = self.left.is_known
        self.left.step(step_seconds)
        if self.left.is_known and not known and self.processes.is_first:
            _LOG.info("%s", self.left.sentence(self.iteration, self.validated))

    def tell_of_others(self) -> None:
        """Say once, where other programs use much of a CPU that trains."""
        if self.others is None:
            return
        cores = self.others.cores()
        if cores is not None and cores >= BUSY:
            _LOG.warning("%s", slowed_by(cores, len(self.others.usable)))
            self.others = None

    def validate_if_due(self) -> None:
        """Score the current model, and save it in ``best`` if it is the best so far."""
        if not self._validation_is_due():
            return
        self.learner.share_statistics()
        student = self.learner.saved_model()
        began = time.monotonic()
        scores, missed = self.task.validate(student, self.fabric.device, self.processes)
        self.left.validation_seconds = time.monotonic() - began
        self.validated = self.iteration
        self.record(scores)
        if 3 * self.iteration >= self.iterations:
            self.tell_missed(missed)
        score = scores[self.task.score_name]
        if self.best is None or score > self.best:
            self.best = score
            if self.processes.is_first:
                self.save_model(self.folder.path / "best")
        self.meter.pause()

    def tell_missed(self, classes: Sequence[str]) -> None:
        """Warn, of each class once, that a third of the run did not teach it."""
        new = [name for name in classes if name not in self.missed]
        self.missed.update(new)
        if new and self.processes.is_first:
            recipe = self.recipe
            unweighted = (
                isinstance(recipe, SegmentationRecipe) and recipe.loss.class_weights == "none"
            )
            _LOG.warning(
                "after %s of %s iterations no pixel of %s is found (IoU 0): look at their labels "
                "(sctnet data check), add pictures that show them, or %s",
                self.iteration,
                self.iterations,
                ", ".join(new),
                "give rare classes weight (loss.class_weights=balanced)"
                if unweighted
                else "train longer",
            )

    # What is kept

    def save_model(self, path: Path) -> None:
        """Write the folder of the student as it is."""
        card = model_card(self.task, self.start, self.iteration, self.best)
        self.task.save(self.learner.saved_model(), path, card)

    def save(self) -> None:
        """Write the checkpoint and the model as they are now."""
        self.meter.check()
        for skipped in self.processes.gather(self.skipped):
            self.skipped |= skipped
        if not self.processes.is_first:
            return
        self.folder.save_checkpoint(
            {
                "iteration": self.iteration,
                "validated": self.validated,
                "classes": list(self.data.classes),
                "train_pictures": len(self.data),
                "meter": self.meter.state(),
                "start": self.start,
                "skipped": self.skipped,
                **self.learner.state(),
                "best": self.best,
                "seconds": self._seconds(),
            }
        )
        self.save_model(self.folder.path)

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        now = list(self.data.classes), len(self.data)
        if (checkpoint["classes"], checkpoint["train_pictures"]) != now:
            raise SctnetError(
                f"{self.folder.checkpoint_file}: the run was begun on "
                f"{checkpoint['train_pictures']} pictures with {len(checkpoint['classes'])} "
                "classes, and these data have changed: resume it on the same, or begin another "
                f"from its weights with model.init={self.folder.path} and another --out"
            )
        self.learner.load_state(checkpoint)
        self.iteration = checkpoint["iteration"]
        self.validated = checkpoint["validated"]
        self.best = checkpoint["best"]
        self.start = checkpoint["start"]
        self.skipped = checkpoint.get("skipped", {})
        self.meter.restore(checkpoint["meter"])
        self.seconds_before = checkpoint["seconds"]

    def record(self, values: dict[str, Any]) -> None:
        """Write one line of metrics and show it to the observer."""
        line = {"step": self.iteration, "seconds": round(self._seconds(), 2), **values}
        if self.left.is_known:
            line["seconds_left"] = round(self.left.seconds(self.iteration, self.validated))
        if self.processes.is_first:
            self.folder.log(line)
            self.observe(line)

    def show(self) -> None:
        """Report the progress to the observer."""
        if self.processes.is_first:
            left = self.left.seconds(self.iteration, self.validated) if self.left.is_known else None
            self.observe({"step": self.iteration, "of": self.iterations, "seconds_left": left})

    def finish(self) -> None:
        """Leave the last checkpoint, the model and a summary."""
        self.save()
        student = self.learner.saved_model()
        calibration = self.task.calibrate(student, self.fabric.device, self.processes)
        if not self.processes.is_first:
            return
        if calibration is not None:
            config = load_config(self.folder.path)
            changed = config.model_copy(update={"calibration": calibration})
            write_calibration(self.folder.path, changed)
        after = {} if calibration is None else {"calibrated_validation_miou": calibration.after}
        self.folder.save_summary(
            {
                "recipe": self.recipe.name,
                "iterations": self.iteration,
                "images": self.iteration * self.recipe.run.batch_size,
                "seconds": round(self._seconds(), 1),
                "seed": self.recipe.run.seed,
                "train_pictures": len(self.data),
                f"best_validation_{self.task.score_name}": self.best,
                **after,
                "started_from": self.recipe.model.init,
                "start_sha256": None if self.start is None else self.start["sha256"],
                "new_tensors": None if self.start is None else list(self.start["new"]),
                "processes": self.processes.count,
                "skipped_pictures": [
                    self.data.item_name(number) for number in sorted(self.skipped)
                ],
                **environment(),
            }
        )

    # Small things

    def _batches(self) -> TrainingLoader:
        sampler = StepSampler(
            self.recipe.run.batch_size,
            self.iterations,
            self.iteration,
            self.processes.rank,
            self.processes.count,
        )
        return training_loader(self.task.stream(), sampler, self.recipe.data.workers, self._skip)

    def _skip(self, picture: int, reason: str) -> None:
        """Record a picture that cannot be read, and report it once."""
        if picture not in self.skipped:
            _LOG.warning("%s; another picture takes its place (data.skip_broken)", reason)
            self.skipped[picture] = reason

    def _is_due(self, every: int) -> bool:
        last = self.iteration == self.iterations
        return self.iteration % every == 0 or last

    def _validation_is_due(self) -> bool:
        due = self.iteration > self.validated and self._is_due(self.recipe.run.validate_every)
        return self.task.validates and due

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started


@contextmanager
def _one_sentence_for_lost_processes(processes: Processes) -> Iterator[None]:
    """Raise :class:`SctnetError` if the other processes can no longer be reached."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
        if processes.count == 1 or not lost:
            raise
        raise SctnetError(
            f"process {processes.rank} lost the others of this run: see which of them ended and "
            "why, then continue with --resume"
        ) from error
