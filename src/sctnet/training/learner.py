"""The learner: a network with its losses, teacher and optimiser, and one training step."""

from typing import Any, cast

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from sctnet.training.devices import convert_sync_batchnorm, tell_if_emulated
from sctnet.training.ema import ema_weights
from sctnet.training.optim import build_optimizer, rate_factor, set_learning_rate
from sctnet.training.task import Task


class Learner:
    """The student of a task, ready for its first step on the devices of a Fabric.

    Every process builds the same learner. ``from_start`` says whether ``model.init`` is loaded; a
    resumed run does not need it.
    """

    def __init__(
        self,
        task: Task[Any],
        fabric: Fabric,
        teacher: Any = None,
        from_start: bool = True,
    ) -> None:
        recipe = task.recipe
        self.recipe = recipe
        self.fabric = fabric
        self.schedule = task.schedule
        torch.manual_seed(recipe.run.seed)
        model, self.start = task.build(from_start)
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            model = convert_sync_batchnorm(model)
        self.model = model.to(memory_format=torch.channels_last)
        tell_if_emulated(recipe.run.precision, self.model, fabric)
        # Built after the student, so that a teacher does not change the student's random start.
        criterion = task.criterion(self.model, teacher)
        self.companion = criterion.companion()
        if recipe.run.compile:
            criterion.compile_student()
        outside = [] if self.companion is None else self.companion.learned_parameters()
        factor = rate_factor(recipe.optimizer, recipe.run.batch_size)
        optimizer = build_optimizer(self.model, recipe.optimizer, outside, factor)
        self.criterion, self.optimizer = fabric.setup(criterion, optimizer)
        decay = recipe.run.ema_decay
        self.average = None if decay is None else ema_weights(self.model, decay)

    def step(self, batch: Any, iteration: int) -> tuple[float, dict[str, Tensor]]:
        """Do one iteration on this process's part; return the learning rate and all losses."""
        run = self.recipe.run
        torch.manual_seed(_step_seed(run.seed, iteration, self.fabric.global_rank))
        rate = set_learning_rate(self.optimizer, iteration, self.schedule)
        parts = _divided(batch, run.accumulate)
        counted = torch.stack([self.criterion.count(part) for part in parts]).sum()
        whole = cast(Tensor, self.fabric.all_reduce(counted, reduce_op="sum")).clamp(min=1)
        # Data parallelism averages the gradients of the processes; they have to be summed here.
        divisor = whole.float() / self.fabric.world_size
        losses: list[dict[str, Tensor]] = []
        progress = iteration / self.schedule.iterations
        self.criterion.train()
        for number, part in enumerate(parts, start=1):
            with self.fabric.no_backward_sync(self.criterion, enabled=number < len(parts)):
                losses.append(self.criterion(part, divisor, len(parts), progress))
                self.fabric.backward(losses[-1]["loss"])
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.model)
        summed = {
            key: torch.stack([part[key].detach() for part in losses]).sum() for key in losses[0]
        }
        return rate, cast(dict[str, Tensor], self.fabric.all_reduce(summed, reduce_op="mean"))

    def saved_model(self) -> nn.Module:
        """Return the model of the run: the EMA weights if there are any."""
        return self.model if self.average is None else self.average.module

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        companion, average, scaler = self.companion, self.average, self._scaler()
        return {
            "model": self.model.state_dict(),
            "companion": None if companion is None else companion.learned_state(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if average is None else average.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.model.load_state_dict(state["model"])
        if self.companion is not None:
            self.companion.load_learned_state(state["companion"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        scaler = self._scaler()
        if scaler is not None and state["scaler"] is not None:
            scaler.load_state_dict(state["scaler"])

    def _scaler(self) -> Any:
        """Return the gradient scaler for fp16; None in other precisions."""
        return getattr(self.fabric.strategy.precision, "scaler", None)

    def share_statistics(self) -> None:
        """Give every process the running statistics of the first, whose model is saved.

        Norms on CPUs are not synchronised, so each process has statistics of its own part only.
        """
        if self.fabric.world_size == 1:
            return
        for buffer in self.saved_model().buffers():
            torch.distributed.broadcast(buffer, 0)


def _divided(batch: Any, parts: int) -> list[Any]:
    kind = type(batch)
    return [kind(*tensors) for tensors in zip(*(t.chunk(parts) for t in batch), strict=True)]


def _step_seed(seed: int, iteration: int, rank: int) -> int:
    """Return the seed of one iteration of one process."""
    return int(np.random.SeedSequence([seed, iteration, rank]).generate_state(1, np.uint64)[0] >> 1)
