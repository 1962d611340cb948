"""From a recipe's precision and what the launcher says to Lightning Fabric."""

import copy
import os
from typing import TypeVar, cast

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy

from sctnet.errors import SctnetError
from sctnet.pipeline.precision import (
    DTYPES,
    Precision,
    PrecisionName,
    choose_precision,
    is_emulated,
    tell_of_emulation,
)
from sctnet.processes import Processes
from sctnet.training.recipe import Recipe, SegmentationRecipe

Module = TypeVar("Module", bound=torch.nn.Module)
RecipeKind = TypeVar("RecipeKind", bound=Recipe)

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
_MEETING_PLACES = {"torchrun": TorchElasticEnvironment, "srun": SLURMEnvironment}


def resolved_precision(
    recipe: RecipeKind, processes: Processes, begun_with: PrecisionName | None = None
) -> tuple[RecipeKind, Precision]:
    """Return the recipe with a precision by name in place of ``auto``, and why it is this one.

    A run that is resumed keeps the precision that it was ``begun_with``.
    """
    if recipe.run.precision == "auto" and begun_with is not None:
        precision = Precision(begun_with, "the run was begun in it")
    else:
        precision = choose_precision(recipe.run.precision, _device(processes))
    run = recipe.run.model_copy(update={"precision": precision.name})
    return recipe.model_copy(update={"run": run}), precision


def _device(processes: Processes) -> torch.device:
    """Return the kind of device that :func:`launch_fabric` gives each process."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    on_mac = processes.count == 1 and torch.backends.mps.is_available()
    return torch.device("mps" if on_mac else "cpu")


def launch_fabric(recipe: Recipe, processes: Processes) -> Fabric:
    """Return a launched Fabric: a device for each process that torchrun or srun started.

    A plain start is one process with one device, a GPU where
    there is one. Raises :class:`SctnetError` for a precision and a number of processes that the
    machine cannot serve, and for processes that chose different precisions.
    """
    recipe, precision = resolved_precision(recipe, processes)
    if precision.name == "fp16" and not torch.cuda.is_available():
        raise SctnetError("run.precision=fp16 needs a GPU: use bf16 or fp32 here")
    parts = processes.count * recipe.run.accumulate
    if recipe.run.batch_size % parts:
        raise SctnetError(
            f"run.batch_size={recipe.run.batch_size} cannot be shared by {processes.count} "
            f"processes with run.accumulate={recipe.run.accumulate}: give a multiple of {parts}"
        )
    if processes.launcher == "srun" and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise SctnetError("SLURM: ask for --ntasks-per-node=N (and --nodes=M), not for --ntasks")
    processes.require_gpus()
    place: ClusterEnvironment = LightningEnvironment()
    if processes.launcher is not None:
        place = _MEETING_PLACES[processes.launcher]()
    several = processes.count > 1
    # With a weight of 0, no loss reaches a head that helps in training.
    idle = isinstance(recipe, SegmentationRecipe) and 0 in (
        recipe.loss.auxiliary_weight,
        recipe.loss.boundary_weight,
    )
    fabric = Fabric(
        accelerator="auto" if torch.cuda.is_available() or not several else "cpu",
        devices=processes.local_count,
        num_nodes=processes.machines,
        strategy=DDPStrategy(find_unused_parameters=idle) if several else "auto",
        precision=_PRECISIONS[precision.name],  # type: ignore[arg-type]
        plugins=[place],
    )
    fabric.launch()
    if len(chosen := set(processes.gather(precision.name))) > 1:
        raise SctnetError(
            f"run.precision=auto gives {' and '.join(sorted(chosen))} on these machines, which "
            "differ: name one"
        )
    return fabric


def tell_if_emulated(precision: str, student: torch.nn.Module, fabric: Fabric) -> None:
    """Log how many times slower a step is, where the device emulates the precision."""
    if precision == "auto" or not fabric.is_global_zero:
        return
    named = choose_precision(precision, fabric.device).name
    if not is_emulated(named, fabric.device):
        return
    student = copy.deepcopy(student)
    images = torch.zeros(2, 3, 128, 256, device=fabric.device)

    def step(kind: torch.dtype | None) -> float:
        with torch.autocast(fabric.device.type, kind, enabled=kind is not None):
            loss = student(images).float().sum()
        loss.backward()
        return float(loss.detach())

    tell_of_emulation(named, lambda: step(DTYPES[named]), lambda: step(None))


def convert_sync_batchnorm(model: Module) -> Module:
    """Return the model with batch norms whose statistics span all processes.

    With two processes a norm has at least two values, so the fallback of
    :class:`~sctnet.models.layers.BatchNorm` for a single value is not needed.
    """
    return cast(Module, torch.nn.SyncBatchNorm.convert_sync_batchnorm(model))  # type: ignore[no-untyped-call]
