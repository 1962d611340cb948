"""Lightning Fabric for a recipe's precision and the launcher's processes."""

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
from sctnet.processes import Processes
from sctnet.training.recipe import Recipe, SegmentationRecipe

Module = TypeVar("Module", bound=torch.nn.Module)

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
_MEETING_PLACES = {"torchrun": TorchElasticEnvironment, "srun": SLURMEnvironment}


def launch_fabric(recipe: Recipe, processes: Processes) -> Fabric:
    """Return a launched Fabric: a device for each process that torchrun or srun started.

    A plain start is one process with one device, a GPU if there is one. Raises :class:`SctnetError`
    for a precision or a number of processes that the machine does not support.
    """
    if recipe.run.precision == "fp16" and not torch.cuda.is_available():
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
    # With a weight of 0, no loss reaches the auxiliary head.
    idle = isinstance(recipe, SegmentationRecipe) and recipe.loss.auxiliary_weight == 0
    fabric = Fabric(
        accelerator="auto" if torch.cuda.is_available() or not several else "cpu",
        devices=processes.local_count,
        num_nodes=processes.machines,
        strategy=DDPStrategy(find_unused_parameters=idle) if several else "auto",
        precision=_PRECISIONS[recipe.run.precision],  # type: ignore[arg-type]
        plugins=[place],
    )
    fabric.launch()
    return fabric


def convert_sync_batchnorm(model: Module) -> Module:
    """Return the model with batch norms whose statistics span all processes.

    With two processes a norm has at least two values, so the fallback of
    :class:`~sctnet.models.layers.BatchNorm` for a single value is not needed.
    """
    return cast(Module, torch.nn.SyncBatchNorm.convert_sync_batchnorm(model))  # type: ignore[no-untyped-call]
