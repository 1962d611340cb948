"""What learns: a network with its losses, its teacher and its optimiser, and one step of it."""

from typing import Any, cast

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from sctnet.data.augmentation import Sample
from sctnet.models import SegmentationNetwork, create_model
from sctnet.starting import load_start
from sctnet.training.alignment import build_alignment
from sctnet.training.averaging import moving_average
from sctnet.training.devices import convert_sync_batchnorm
from sctnet.training.recipe import Recipe
from sctnet.training.schedule import build_optimizer, set_learning_rate
from sctnet.training.task import SegmentationTask
from sctnet.training.teacher_conversion import load_encoder
from sctnet.training.teachers import Teacher


class Learner:
    """The network of a recipe, ready for its first step on the devices of a Fabric.

    Every process builds the same one. ``from_start`` says whether ``model.init`` is loaded, which
    a resumed run does not need. ``class_weights`` has one weight a class, or is None.
    """

    def __init__(
        self,
        recipe: Recipe,
        classes: tuple[str, ...],
        class_weights: Tensor | None,
        fabric: Fabric,
        teacher: Teacher | None = None,
        from_start: bool = True,
    ) -> None:
        self.recipe = recipe
        self.fabric = fabric
        torch.manual_seed(recipe.run.seed)
        model = create_model(recipe.model.variant, len(classes), **recipe.model.options)
        self.new_keys: list[str] | None = None
        if recipe.model.init is not None and from_start:
            self.new_keys = _start(model, recipe.model.init, classes)
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            model = convert_sync_batchnorm(model)
        model.recomputes_stages = recipe.run.activation_checkpointing
        self.model: SegmentationNetwork = model.to(  # type: ignore[call-overload]
            memory_format=torch.channels_last
        )
        # After the student, which so starts the same with a teacher and without.
        self.alignment = build_alignment(recipe.alignment, model.widths, classes, teacher)
        task = SegmentationTask(
            self.model, recipe.preparation, recipe.loss, class_weights, self.alignment
        )
        if recipe.run.compile:
            task.compile_student()
        outside = [] if self.alignment is None else self.alignment.learned_parameters()
        optimizer = build_optimizer(self.model, recipe.optimizer, outside)
        self.task, self.optimizer = fabric.setup(task, optimizer)
        decay = recipe.run.ema_decay
        self.average = None if decay is None else moving_average(self.model, decay)

    def step(self, batch: Sample, iteration: int) -> tuple[float, dict[str, Tensor]]:
        """Do one iteration on this process's share; return the learning rate and all losses."""
        run = self.recipe.run
        torch.manual_seed(_step_seed(run.seed, iteration, self.fabric.global_rank))
        rate = set_learning_rate(self.optimizer, iteration, self.recipe.schedule)
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

    def saved_model(self) -> SegmentationNetwork:
        """Return the model that the run leaves: the moving average where there is one."""
        return (
            self.model if self.average is None else cast(SegmentationNetwork, self.average.module)
        )

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it."""
        alignment, average, scaler = self.alignment, self.average, self._scaler()
        return {
            "model": self.model.state_dict(),
            "alignment": None if alignment is None else alignment.learned_state(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if average is None else average.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.model.load_state_dict(state["model"])
        if self.alignment is not None:
            self.alignment.load_learned_state(state["alignment"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        scaler = self._scaler()
        if scaler is not None and state["scaler"] is not None:
            scaler.load_state_dict(state["scaler"])

    def _scaler(self) -> Any:
        """Return what keeps fp16 gradients in range, None in other precisions."""
        return getattr(self.fabric.strategy.precision, "scaler", None)

    def share_statistics(self) -> None:
        """Give every process the running statistics of the first, whose model is saved.

        Where norms are not synchronised (on CPUs) each process has seen its own share alone.
        """
        if self.fabric.world_size == 1:
            return
        for buffer in self.saved_model().buffers():
            torch.distributed.broadcast(buffer, 0)


def _divided(batch: Sample, parts: int) -> list[Sample]:
    return [Sample(*tensors) for tensors in zip(*(t.chunk(parts) for t in batch), strict=True)]


def _step_seed(seed: int, iteration: int, rank: int) -> int:
    """Return the seed of one iteration of one process."""
    return int(np.random.SeedSequence([seed, iteration, rank]).generate_state(1, np.uint64)[0] >> 1)


def _start(model: SegmentationNetwork, init: str, classes: tuple[str, ...]) -> list[str]:
    """Start a model from a folder, a hub id or a .pth file; return the keys that stay new."""
    return load_encoder(model, init) if init.endswith(".pth") else load_start(model, init, classes)
