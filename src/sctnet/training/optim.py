"""AdamW with the parameter groups of a recipe: rates, and which parameters decay."""

from collections.abc import Sequence
from typing import Any

from torch import nn, optim

from sctnet.models.cfblock import TransformerBlock
from sctnet.training.recipe import OptimizerRecipe
from sctnet.training.schedule import Schedule, learning_rate

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def rate_factor(recipe: OptimizerRecipe, batch_size: int) -> float:
    """Return the factor for all rates of a recipe at its batch size."""
    meant_for = recipe.rate_batch_size
    return 1.0 if meant_for is None else batch_size / meant_for


def build_optimizer(
    model: Any,
    recipe: OptimizerRecipe,
    outside: Sequence[nn.Parameter] = (),
    factor: float = 1.0,
) -> optim.AdamW:
    """Return AdamW: the backbone, and everything else at its higher rate.

    ``model`` is a module with ``backbone_modules``. All rates are multiplied by ``factor``.
    ``outside`` are parameters that are trained with the model but do not belong to it. Each group
    keeps its base rate under ``base_rate``. Parameters without weight decay have their own groups.
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
