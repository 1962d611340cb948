"""A run from its recipe to its model: the loop, its checkpoints and its records."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from sctnet.data.augmentation import Sample
from sctnet.data.balancing import refuse_unlearnable
from sctnet.data.dataset import SegmentationDataset
from sctnet.data.loading import StepSampler, TrainingStream, training_loader
from sctnet.data.opening import open_dataset
from sctnet.errors import SctnetError
from sctnet.evaluation.evaluator import evaluate
from sctnet.labelling import ImageToLabels
from sctnet.models import SegmentationNetwork, create_model
from sctnet.provenance import environment
from sctnet.starting import load_start
from sctnet.training.alignment import build_alignment
from sctnet.training.averaging import moving_average
from sctnet.training.interruption import deferred_interrupt
from sctnet.training.meter import Meter
from sctnet.training.recipe import Recipe
from sctnet.training.run_folder import RunFolder, model_card
from sctnet.training.schedule import build_optimizer, set_learning_rate
from sctnet.training.task import SegmentationTask
from sctnet.training.teacher_conversion import load_encoder
from sctnet.training.teachers import Teacher
from sctnet.training.weighting import class_weights
from sctnet.weights import save_model

Observer = Callable[[dict[str, float]], None]
"""Called with every record of metrics.jsonl, and with its ``step`` alone after each iteration."""

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    observe: Observer | None = None,
    teacher: Teacher | None = None,
) -> RunFolder:
    """Carry out a run and leave a run folder, which is a model folder too.

    Every iteration's randomness is a function of the seed and its number, so that a resumed run
    continues as if it had never stopped. An interrupt (Ctrl-C, SIGTERM) saves a checkpoint and
    then raises KeyboardInterrupt. A ``teacher`` takes the place of the one that the recipe's
    alignment names, which is how a network from elsewhere can teach. Raises
    :class:`SctnetError` for what the user can mend: data, recipe, folder.
    """
    folder = RunFolder(out)
    folder.check(recipe, resume)
    continues = resume and folder.has_checkpoint()
    run = _Run(recipe, folder, observe or (lambda _: None), continues, teacher)
    checkpoint = folder.begin(recipe, resume) if run.is_first else None
    checkpoint = run.fabric.broadcast(checkpoint)
    if checkpoint is not None:
        run.restore(checkpoint)
    run.loop()
    run.finish()
    return folder


class _Run:
    """The state of a run in progress."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        observe: Observer,
        continues: bool,
        teacher: Teacher | None,
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.observe = observe
        self.data = _open(recipe, recipe.data.train)
        refuse_unlearnable(self.data)
        self.validation = _open(recipe, recipe.data.validation) if recipe.data.validation else None
        self.fabric = _fabric(recipe)
        self.is_first = self.fabric.is_global_zero

        torch.manual_seed(recipe.run.seed)
        model = create_model(recipe.model.variant, len(self.data.classes), **recipe.model.options)
        self.new_keys: list[str] | None = None
        if recipe.model.init is not None and not continues:
            self.new_keys = _start(model, recipe.model.init, self.data.classes)
        if self.fabric.world_size > 1 and self.fabric.device.type == "cuda":
            model = convert_sync_batchnorm(model)
        self.model: SegmentationNetwork = model.to(  # type: ignore[call-overload]
            memory_format=torch.channels_last
        )
        # After the student, which so starts the same with a teacher and without.
        self.alignment = build_alignment(recipe.alignment, model.widths, self.data.classes, teacher)
        weights = class_weights(recipe.loss, self.data)
        task = SegmentationTask(
            self.model, recipe.preparation, recipe.loss, weights, self.alignment
        )
        outside = [] if self.alignment is None else self.alignment.learned_parameters()
        optimizer = build_optimizer(self.model, recipe.optimizer, outside)
        self.task, self.optimizer = self.fabric.setup(task, optimizer)
        decay = recipe.run.ema_decay
        self.average = None if decay is None else moving_average(self.model, decay)
        self.meter = Meter(recipe.run.batch_size)
        self.iteration = 0
        self.validated = 0  # the last iteration that was
        self.best: float | None = None
        self.seconds_before = 0.0
        self.started = time.monotonic()

    # The loop

    def loop(self) -> None:
        """Do the iterations that are left."""
        run = self.recipe.run
        batches = iter(self._batches())
        with deferred_interrupt() as interrupted:
            self.show()
            self.validate_if_due()
            while self.iteration < self.recipe.schedule.iterations:
                with self.meter.waiting():
                    batch = Sample(*self.fabric.to_device(tuple(next(batches))))
                rate, losses = self.step(batch)
                self.meter.add(losses)
                self.iteration += 1
                self.show()
                if self._is_due(run.log_every):
                    self.record({"learning_rate": rate, **self.meter.take()})
                stop = interrupted()
                # Before a validation too, which may meet a broken file of its own.
                if self._is_due(run.checkpoint_every) or self._validation_is_due() or stop:
                    self.save()
                if stop:
                    raise KeyboardInterrupt
                self.validate_if_due()

    def step(self, batch: Sample) -> tuple[float, dict[str, Tensor]]:
        """Do one iteration; return the learning rate and the losses."""
        run = self.recipe.run
        torch.manual_seed(_step_seed(run.seed, self.iteration, self.fabric.global_rank))
        rate = set_learning_rate(self.optimizer, self.iteration, self.recipe.schedule)
        parts = _divided(batch, run.accumulate)
        counted = torch.stack([self.task.pixels(part.labels) for part in parts]).sum()
        pixels = cast(Tensor, self.fabric.all_reduce(counted, reduce_op="sum")).clamp(min=1)
        # Data parallelism averages the gradients of the processes; here they are to be summed.
        share = pixels.float() / self.fabric.world_size
        losses: list[dict[str, Tensor]] = []
        self.task.train()
        for number, part in enumerate(parts, start=1):
            with self.fabric.no_backward_sync(self.task, enabled=number < len(parts)):
                losses.append(self.task(part, share, len(parts)))
                self.fabric.backward(losses[-1]["loss"])
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.model)
        summed = {
            key: torch.stack([part[key].detach() for part in losses]).sum() for key in losses[0]
        }
        return rate, cast(dict[str, Tensor], self.fabric.all_reduce(summed, reduce_op="mean"))

    def validate_if_due(self) -> None:
        """Score the model as it would be saved; keep it in ``best`` if none was better."""
        if self.validation is None or not self._validation_is_due():
            return
        if self.is_first:
            labeller = ImageToLabels(self.saved_model().fuse(), self.recipe.preparation)
            labeller = labeller.to(self.fabric.device)
            scores = evaluate(_predictor(labeller, self.fabric.device), self.validation).scores
            self.record({"miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy})
            if self.best is None or scores.miou > self.best:
                self.best = scores.miou
                self.save_model(self.folder.path / "best")
        self.best = self.fabric.broadcast(self.best)
        self.validated = self.iteration
        self.meter.pause()

    # What is kept

    def saved_model(self) -> SegmentationNetwork:
        """Return the model that the run leaves: the moving average where there is one."""
        return (
            self.model if self.average is None else cast(SegmentationNetwork, self.average.module)
        )

    def save_model(self, path: Path) -> None:
        """Write a model folder."""
        save_model(
            self.saved_model(),
            path,
            self.data.classes,
            colours=self.data.colours,
            preparation=self.recipe.preparation,
            card=model_card(self.recipe, self.data, self.iteration, self.best),
        )

    def save(self) -> None:
        """Write the checkpoint and the model as they are now."""
        self.meter.check()
        if not self.is_first:
            return
        self.folder.save_checkpoint(
            {
                "iteration": self.iteration,
                "validated": self.validated,
                "classes": list(self.data.classes),
                "train_pictures": len(self.data),
                "meter": self.meter.state(),
                "new_tensors": self.new_keys,
                "model": self.model.state_dict(),
                "alignment": None if self.alignment is None else self.alignment.learned_state(),
                "optimizer": self.optimizer.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "scaler": self._scaler_state(),
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
                "classes, and these data have changed: resume it on the same, or begin another"
            )
        self.model.load_state_dict(checkpoint["model"])
        if self.alignment is not None:
            self.alignment.load_learned_state(checkpoint["alignment"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(checkpoint["average"])
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        if scaler is not None and checkpoint["scaler"] is not None:
            scaler.load_state_dict(checkpoint["scaler"])
        self.iteration = checkpoint["iteration"]
        self.validated = checkpoint["validated"]
        self.best = checkpoint["best"]
        self.new_keys = checkpoint["new_tensors"]
        self.meter.restore(checkpoint["meter"])
        self.seconds_before = checkpoint["seconds"]

    def record(self, values: dict[str, float]) -> None:
        """Write one line of metrics and show it to the observer."""
        line = {"step": self.iteration, "seconds": round(self._seconds(), 2), **values}
        if self.is_first:
            self.folder.log(line)
            self.observe(line)

    def show(self) -> None:
        """Tell the observer how far the run is."""
        if self.is_first:
            self.observe({"step": self.iteration})

    def finish(self) -> None:
        """Leave the last checkpoint, the model and a summary."""
        if not self.is_first:
            return
        self.save()
        self.folder.save_summary(
            {
                "recipe": self.recipe.name,
                "iterations": self.iteration,
                "images": self.iteration * self.recipe.run.batch_size,
                "seconds": round(self._seconds(), 1),
                "seed": self.recipe.run.seed,
                "train_pictures": len(self.data),
                "best_validation_miou": self.best,
                "started_from": self.recipe.model.init,
                "new_tensors": self.new_keys,
                **environment(),
            }
        )

    # Small things

    def _batches(self) -> Any:
        stream = TrainingStream(
            self.data,
            self.recipe.augmentation,
            self.recipe.run.seed,
            self.recipe.preparation.working_size,
        )
        sampler = StepSampler(
            self.recipe.run.batch_size,
            self.recipe.schedule.iterations,
            self.iteration,
            self.fabric.global_rank,
            self.fabric.world_size,
        )
        return training_loader(stream, sampler, self.recipe.data.workers)

    def _is_due(self, every: int) -> bool:
        last = self.iteration == self.recipe.schedule.iterations
        return self.iteration % every == 0 or last

    def _validation_is_due(self) -> bool:
        due = self.iteration > self.validated and self._is_due(self.recipe.run.validate_every)
        return self.validation is not None and due

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _scaler_state(self) -> dict[str, Any] | None:
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        return None if scaler is None else scaler.state_dict()


def convert_sync_batchnorm(model: SegmentationNetwork) -> SegmentationNetwork:
    """Return the model with batch norms whose statistics span all processes."""
    return cast(SegmentationNetwork, torch.nn.SyncBatchNorm.convert_sync_batchnorm(model))  # type: ignore[no-untyped-call]


def _open(recipe: Recipe, splits: tuple[str, ...]) -> SegmentationDataset:
    if recipe.data.source is None:
        raise SctnetError(f"{recipe.name}: this recipe needs pictures, name their folder by --data")
    data = open_dataset(recipe.data.source, splits)
    if len(data) == 0:
        raise SctnetError(f"{recipe.data.source}: no picture in {', '.join(splits)}")
    return data


def _start(model: SegmentationNetwork, init: str, classes: Sequence[str]) -> list[str]:
    """Start a model from a folder, a hub id or a .pth file; return the keys that stay new."""
    return load_encoder(model, init) if init.endswith(".pth") else load_start(model, init, classes)


def _fabric(recipe: Recipe) -> Fabric:
    if recipe.run.precision == "fp16" and not torch.cuda.is_available():
        raise SctnetError("run.precision=fp16 needs a GPU: use bf16 or fp32 here")
    fabric = Fabric(precision=_PRECISIONS[recipe.run.precision])  # type: ignore[arg-type]
    fabric.launch()
    return fabric


def _predictor(
    labeller: ImageToLabels, device: torch.device
) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    def predict(images: list[np.ndarray]) -> list[np.ndarray]:
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(device)
        with torch.inference_mode():
            return list(labeller(batch).cpu().numpy())

    return predict


def _divided(batch: Sample, parts: int) -> list[Sample]:
    return [Sample(*tensors) for tensors in zip(*(t.chunk(parts) for t in batch), strict=True)]


def _step_seed(seed: int, iteration: int, rank: int) -> int:
    """Return the seed of one iteration of one process."""
    return int(np.random.SeedSequence([seed, iteration, rank]).generate_state(1, np.uint64)[0] >> 1)
