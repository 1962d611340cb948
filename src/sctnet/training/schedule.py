"""The learning rate as a pure function of the iteration, so that a resume cannot change it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn, optim

from sctnet.models.cfblock import TransformerBlock
from sctnet.training.classification.recipe import CosineScheduleRecipe
from sctnet.training.recipe import OptimizerRecipe, ScheduleRecipe

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class CosineSchedule:
    """Linear warm-up from a rate of its own, then half a cosine; all rates are absolute."""

    iterations: int
    warmup_iterations: int
    warmup_rate: float
    final_rate: float


Schedule = ScheduleRecipe | CosineSchedule


def cosine_schedule(
    recipe: CosineScheduleRecipe, pictures: int, batch_size: int, factor: float
) -> CosineSchedule:
    """Return a schedule in iterations, and its rates times ``factor``."""

    def length(iterations: int | None, epochs: float | None) -> int:
        return (
            math.ceil((epochs or 0) * pictures / batch_size) if iterations is None else iterations
        )

    return CosineSchedule(
        max(1, length(recipe.iterations, recipe.epochs)),
        length(recipe.warmup_iterations, recipe.warmup_epochs),
        recipe.warmup_rate * factor,
        recipe.final_rate * factor,
    )


def learning_rate(iteration: int, rate: float, schedule: Schedule) -> float:
    """Return the rate of an iteration (counted from 0) for a base rate.

    Polynomial decay from ``rate`` to ``final_rate``; during warm-up that value times a factor
    that climbs linearly from ``warmup_start`` to 1, as released. Or, by a :class:`CosineSchedule`,
    linearly from ``warmup_rate`` to ``rate`` and on to ``final_rate`` by half a cosine, which
    begins after the warm-up.
    """
    if isinstance(schedule, CosineSchedule):
        return _cosine(iteration, rate, schedule)
    left = max(0.0, 1 - iteration / schedule.iterations)
    value: float = (rate - schedule.final_rate) * left**schedule.power + schedule.final_rate
    if iteration < schedule.warmup_iterations:
        done = iteration / schedule.warmup_iterations
        value = value * (schedule.warmup_start + (1 - schedule.warmup_start) * done)
    return value


def _cosine(iteration: int, rate: float, schedule: CosineSchedule) -> float:
    warmup = schedule.warmup_iterations
    if iteration < warmup:
        return schedule.warmup_rate + (rate - schedule.warmup_rate) * iteration / warmup
    done = min(1.0, (iteration - warmup) / max(1, schedule.iterations - warmup))
    return schedule.final_rate + (rate - schedule.final_rate) * (1 + math.cos(math.pi * done)) / 2


def rate_factor(recipe: OptimizerRecipe, batch_size: int) -> float:
    """Return what all rates of a recipe are multiplied by for its batch size."""
    meant_for = recipe.rate_batch_size
    return 1.0 if meant_for is None else batch_size / meant_for


def build_optimizer(
    model: Any,
    recipe: OptimizerRecipe,
    outside: Sequence[nn.Parameter] = (),
    factor: float = 1.0,
) -> optim.AdamW:
    """Return AdamW: the backbone, and everything else at its higher rate.

    ``model`` is a module that tells its ``backbone_modules``. All rates are times ``factor``.
    ``outside`` are parameters that learn with the model but are no part of it. Each group keeps its
    base rate under ``base_rate``; parameters that the recipe spares from decay have groups of their
    own.
    """
    backbone = {id(p) for module in model.backbone_modules() for p in module.parameters()}
    spared = _spared(model, recipe.undecayed)
    others = [parameter for parameter in model.parameters() if id(parameter) not in backbone]
    inside = [parameter for parameter in model.parameters() if id(parameter) in backbone]
    groups: list[dict[str, Any]] = []
    for parameters, rate in (
        (inside, recipe.rate * factor),
        ([*others, *outside], recipe.rate * factor * recipe.head_rate_factor),
    ):
        for is_spared, decay in ((False, recipe.weight_decay), (True, 0.0)):
            chosen = [
                parameter for parameter in parameters if (id(parameter) in spared) is is_spared
            ]
            if chosen:
                groups.append({"params": chosen, "base_rate": rate, "weight_decay": decay})
    return optim.AdamW(groups, lr=recipe.rate, betas=recipe.betas)


def _spared(model: nn.Module, kind: str) -> set[int]:
    """Return the identities of the parameters without weight decay."""
    match kind:
        case "norms":
            within: list[nn.Module] = [model]
        case "cfblock-norms":
            within = [module for module in model.modules() if isinstance(module, TransformerBlock)]
        case _:
            within = []
    norms = (m for part in within for m in part.modules() if isinstance(m, _NORMS))
    return {id(parameter) for norm in norms for parameter in norm.parameters()}


def set_learning_rate(optimizer: optim.Optimizer, iteration: int, schedule: Schedule) -> float:
    """Set the rate of every group for an iteration; return the backbone's."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(iteration, group["base_rate"], schedule)
    first: float = optimizer.param_groups[0]["lr"]
    return first
