"""The learning rate as a pure function of the iteration, so that a resume cannot change it."""

from collections.abc import Sequence

from torch import nn, optim

from sctnet.models import SegmentationNetwork
from sctnet.training.recipe import OptimizerRecipe, ScheduleRecipe


def learning_rate(iteration: int, rate: float, schedule: ScheduleRecipe) -> float:
    """Return the rate of an iteration (counted from 0) for a base rate.

    Polynomial decay from ``rate`` to ``final_rate``; during warm-up that value times a factor
    that climbs linearly from ``warmup_start`` to 1, as released.
    """
    left = max(0.0, 1 - iteration / schedule.iterations)
    value: float = (rate - schedule.final_rate) * left**schedule.power + schedule.final_rate
    if iteration < schedule.warmup_iterations:
        done = iteration / schedule.warmup_iterations
        value = value * (schedule.warmup_start + (1 - schedule.warmup_start) * done)
    return value


def build_optimizer(
    model: SegmentationNetwork, recipe: OptimizerRecipe, outside: Sequence[nn.Parameter] = ()
) -> optim.AdamW:
    """Return AdamW with two groups: the backbone, and everything else at its higher rate.

    ``outside`` are parameters that learn with the model but are no part of it. Each group keeps its
    base rate under ``base_rate``.
    """
    backbone = [p for module in model.backbone_modules() for p in module.parameters()]
    inside = {id(parameter) for parameter in backbone}
    others = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    groups = [
        {"params": backbone, "base_rate": recipe.rate},
        {"params": [*others, *outside], "base_rate": recipe.rate * recipe.head_rate_factor},
    ]
    return optim.AdamW(groups, lr=recipe.rate, betas=recipe.betas, weight_decay=recipe.weight_decay)


def set_learning_rate(
    optimizer: optim.Optimizer, iteration: int, schedule: ScheduleRecipe
) -> float:
    """Set the rate of every group for an iteration; return the backbone's."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(iteration, group["base_rate"], schedule)
    first: float = optimizer.param_groups[0]["lr"]
    return first
