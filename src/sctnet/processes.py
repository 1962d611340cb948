"""The processes that torchrun or SLURM's srun started for a run or an evaluation."""

import gc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import distributed

from sctnet.errors import SctnetError


@dataclass(frozen=True)
class Processes:
    """One process among all processes of a run; by default it is alone."""

    rank: int = 0
    """Its number among all, from 0."""
    count: int = 1
    """Of all machines."""
    local_rank: int = 0
    """Its number among those of its machine, from 0; also that of its GPU."""
    local_count: int = 1
    """Of its machine; the same on every machine."""
    launcher: Literal["torchrun", "srun"] | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    @property
    def machines(self) -> int:
        """The number of machines."""
        return self.count // self.local_count

    def own_part(self, number: int) -> range:
        """Return the indices below ``number`` that are this process's: each belongs to one."""
        return range(self.rank, number, self.count)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank; every process must call this."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value, group=_host_group())
        return values

    def any(self, flag: bool) -> bool:
        """Say whether ``value`` is true in any process; every process must call this.

        The CPUs exchange it, so that no process waits for its GPU.
        """
        if self.count == 1:
            return flag
        flags = torch.tensor(int(flag))
        distributed.all_reduce(flags, group=_host_group())
        return bool(flags.item())

    def connect(self) -> None:
        """Join the process group, unless the training's Fabric does it."""
        if self.count == 1 or distributed.is_initialized():
            return
        if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
            raise SctnetError(
                f"{self.count} processes do not know where to meet: export MASTER_ADDR and "
                "MASTER_PORT before srun, or start them with torchrun"
            )
        distributed.init_process_group("gloo", rank=self.rank, world_size=self.count)

    def disconnect(self) -> None:
        """Part from the other processes; what trained with them must be out of use by now.

        A data-parallel network shares the group. Were it the last to let go of it, the group would
        end its threads under Python's lock, and wait for ever for one that wants this lock to free
        the tensors of the last exchange. So the networks go first, those in cycles too.
        """
        if distributed.is_initialized():
            _host_group.cache_clear()
            gc.collect()
            distributed.destroy_process_group()

    def device(self) -> str:
        """Return this process's own device: its GPU where there are any, else the CPU."""
        if not torch.cuda.is_available():
            return "cpu"
        self.require_gpus()
        return f"cuda:{self.local_rank}"

    def require_gpus(self) -> None:
        """Raise :class:`SctnetError` where a machine with GPUs has fewer than processes."""
        visible = torch.cuda.device_count()
        if 0 < visible < self.local_count:
            raise SctnetError(
                f"{self.local_count} processes see {visible} GPUs: start one process a GPU, and "
                "under SLURM ask for --gpus-per-node, not for --gpus-per-task"
            )


ALONE = Processes()


def launched_processes(environment: Mapping[str, str] = os.environ) -> Processes:
    """Return this process's rank and number from torchrun or srun; without either it is alone.

    Raises :class:`SctnetError` where the machines have unequal numbers of processes.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        rank, count, local_rank, local_count = (int(environment[name]) for name in names)
        return _equal(Processes(rank, count, local_rank, local_count, "torchrun"))
    # Only srun sets these; SLURM_NTASKS alone is also seen by a batch script and its commands.
    count = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    if count > 1:
        rank, local_rank = int(environment["SLURM_PROCID"]), int(environment["SLURM_LOCALID"])
        local_count = max(1, count // int(environment["SLURM_STEP_NUM_NODES"]))
        return _equal(Processes(rank, count, local_rank, local_count, "srun"))
    return Processes()


def _equal(processes: Processes) -> Processes:
    if processes.count % processes.local_count or processes.local_rank >= processes.local_count:
        raise SctnetError(
            f"{processes.count} processes are not equally many on every machine: "
            "start the same number on each"
        )
    return processes


@cache
def _host_group() -> Any:
    """Return the group in which the hosts talk; the GPUs have one of their own."""
    if distributed.get_backend() == "gloo":
        return None
    return distributed.new_group(backend="gloo")
