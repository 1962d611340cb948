"""The learning rate as a pure function of the iteration, so that a resume cannot change it."""

import math
from dataclasses import dataclass

from sctnet.training.classification.recipe import CosineScheduleRecipe
from sctnet.training.recipe import ScheduleRecipe


@dataclass(frozen=True)
class CosineSchedule:
    """Linear warm-up from ``warmup_rate``, then half a cosine; all rates are absolute."""

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
