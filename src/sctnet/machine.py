"""What this machine is: its processor, and the limits that a container or a launcher sets."""

import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Environment variables that keep PyTorch from instructions which the processor has."""

# Those that decide how fast a network is computed, by the names that PyTorch and Linux give them.
_TOLD = {
    "avx2": "AVX2",
    "fma3": "FMA",
    "fma": "FMA",
    "avx_vnni": "AVX-VNNI",
    "avx_ne_convert": "AVX-NE-CONVERT",
    "avx512_f": "AVX-512",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_bf16": "AMX BF16",
    "amx_int8": "AMX INT8",
    "asimd": "NEON",
    "neon": "NEON",
    "asimddp": "dot product",
    "bf16": "BF16",
    "sve": "SVE",
}


@cache
def processor_features() -> tuple[str, ...]:
    """Return the vector instructions of the processor, such as ``("AVX2", "FMA")``; () unknown."""
    found = {name for name, here in _capabilities().items() if here is True} | _linux_flags()
    return tuple(dict.fromkeys(told for name, told in _TOLD.items() if name in found))


def processor_name() -> str:
    """Return architecture and name of the processor, such as ``x86_64 AMD EPYC``."""
    return f"{platform.machine()} {_capabilities().get('cpu_name') or ''}".strip()


def processor() -> str:
    """Return name and features of the processor, in words, for a result that depends on them."""
    return f"{processor_name()} ({', '.join(processor_features()) or 'features unknown'})"


def usable_cores() -> int:
    """Return on how many cores this process may run, whatever share of them a container has."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable is not None else os.cpu_count() or 1


def instruction_limits(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that are set to keep PyTorch from some instructions."""
    return {name: environment[name] for name in ISA_LIMITS if environment.get(name)}


class Limits(NamedTuple):
    """What a container (a control group) may use; None: as much as there is."""

    cores: float | None
    memory: int | None
    """Bytes."""


def container_limits(root: Path = Path("/sys/fs/cgroup")) -> Limits:
    """Return the limits of this process's control group, of version 2 or 1."""
    quota = _words(root / "cpu.max")
    if len(quota) == 2 and quota[0] != "max":
        cores: float | None = int(quota[0]) / int(quota[1])
    else:
        used, period = (_words(root / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        cores = int(used[0]) / int(period[0]) if used and period and int(used[0]) > 0 else None
    memory = _words(root / "memory.max") or _words(root / "memory" / "memory.limit_in_bytes")
    known = bool(memory) and memory[0] != "max"
    # Version 1 says "no limit" by a number near 2**63.
    limit = int(memory[0]) if known and int(memory[0]) < 2**60 else None
    return Limits(cores, limit)


def total_memory() -> int | None:
    """Return the machine's memory in bytes, None where it cannot be asked."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _capabilities() -> dict[str, Any]:
    """Return what PyTorch knows of the processor; before 2.11 it does not say."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    return {} if ask is None else ask()


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []


def _linux_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    for line in text.splitlines():
        name, _, flags = line.partition(":")
        if name.strip().lower() in {"flags", "features"}:
            return set(flags.split())
    return set()
