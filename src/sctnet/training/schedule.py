"""The learning rate as a pure function of the iteration, so that a resume cannot change it."""

from collections.abc import Sequence
from typing import Any

from torch import nn, optim

from sctnet.models import SegmentationNetwork
from sctnet.models.cfblock import TransformerBlock
from sctnet.training.recipe import OptimizerRecipe, ScheduleRecipe

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


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
    """Return AdamW: the backbone, and everything else at its higher rate.

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
        (inside, recipe.rate),
        ([*others, *outside], recipe.rate * recipe.head_rate_factor),
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


def set_learning_rate(
    optimizer: optim.Optimizer, iteration: int, schedule: ScheduleRecipe
) -> float:
    """Set the rate of every group for an iteration; return the backbone's."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(iteration, group["base_rate"], schedule)
    first: float = optimizer.param_groups[0]["lr"]
    return first
