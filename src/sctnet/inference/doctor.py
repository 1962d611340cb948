"""What this installation is and would do, for bug reports: ``sctnet doctor``."""

import os
import platform
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import torch

from sctnet.checkpoints.model_folder import bundled_models
from sctnet.errors import SctnetError
from sctnet.inference.segmenter import Segmenter
from sctnet.kernels import instruction_set, library
from sctnet.machine import (
    container_limits,
    instruction_limits,
    processor_features,
    processor_name,
    total_memory,
    usable_cores,
)
from sctnet.pipeline.label_map import label_map_method
from sctnet.pipeline.precision import choose_precision
from sctnet.provenance import environment
from sctnet.writing import cache_folder

_TOLD_PACKAGES = (
    "torch", "numpy", "opencv-python-headless", "pillow", "lightning",
    "onnxruntime", "openvino", "nncf", "transformers", "ray", "gradio", "av",
)  # fmt: skip
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "SCTNET_KERNELS")


def examine() -> dict[str, dict[str, Any]]:
    """Return what there is to know, by section; every value can be written as JSON.

    Nothing is changed, and nothing fails: what cannot be found out is said in its place.
    """
    return {
        "versions": _versions(),
        "processor": _processor(),
        "memory": _memory(),
        "gpu": _gpu(),
        "bundled models": {name: _attempt(_opened, name) for name in bundled_models()},
        "training": {"precision": _in_words(choose_precision("auto", _training_device()))},
        "caches": _attempt(_caches),
        "extras": _extras(),
    }


def _versions() -> dict[str, Any]:
    known = environment()
    found = {"sctnet": known["sctnet"], "commit": known["commit"], "python": known["python"]}
    found["system"] = platform.platform()
    return found | {
        name: installed for name in _TOLD_PACKAGES if (installed := _installed(name)) is not None
    }


def _processor() -> dict[str, Any]:
    set_here = {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ}
    return {
        "name": processor_name(),
        "features": list(processor_features()),
        "cores": os.cpu_count(),
        "usable cores": usable_cores(),
        "cores by the container": container_limits().cores,
        "threads of PyTorch": torch.get_num_threads(),
        "kernels": _kernels(),
        "PyTorch's instructions": torch.backends.cpu.get_cpu_capability(),
        "variables": instruction_limits() | set_here,
    }


def _kernels() -> str:
    kind = instruction_set()
    if kind is not None:
        return f"compiled library, {kind.name}"
    if library() is None:
        return "none: no library was built, so PyTorch computes; install a C++ compiler and CMake"
    return "none: the library has no form for this processor, or SCTNET_KERNELS asks for PyTorch"


def _memory() -> dict[str, Any]:
    return {
        "total": _gigabytes(total_memory()),
        "by the container": _gigabytes(container_limits().memory),
    }


def _gpu() -> dict[str, Any]:
    if not torch.cuda.is_available():
        build = "CPU build" if torch.version.cuda is None else f"CUDA {torch.version.cuda}"
        return {"names": [], "PyTorch": build}
    count = torch.cuda.device_count()
    return {
        "names": [torch.cuda.get_device_name(number) for number in range(count)],
        "memory": [
            _gigabytes(torch.cuda.get_device_properties(number).total_memory)
            for number in range(count)
        ],
        "PyTorch": f"CUDA {torch.version.cuda}",
    }


def _opened(name: str) -> dict[str, Any]:
    segmenter = Segmenter(name)
    return {
        "runs": str(segmenter.runtime),
        "working size": str(segmenter.config.preparation.working_size),
        "label maps": label_map_method(segmenter.device),
    }


def _training_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _caches() -> dict[str, Any]:
    cache, home = cache_folder(), Path(os.path.expanduser("~"))  # noqa: PTH111 - never raises
    hub = os.environ.get("HF_HOME") or str(cache / "huggingface")
    places = {"exported models": str(cache / "sctnet"), "hub": hub}
    return {name: _without_home(place, home) for name, place in places.items()}


def _without_home(place: str, home: Path) -> str:
    """Write the home folder, which holds a person's name, as ``~``."""
    inside = Path(place).is_relative_to(home) and home != Path("/")
    return str("~" / Path(place).relative_to(home)) if inside else place


def _extras() -> dict[str, Any]:
    """Return ``installed`` or the command that installs it, by extra."""
    needed: dict[str, list[str]] = {}
    for requirement in requires("sctnet") or []:
        extra = re.search(r"extra == ['\"]([^'\"]+)", requirement)
        package = re.match(r"[\w.-]+", requirement)
        if extra is not None and package is not None:
            needed.setdefault(extra[1], []).append(package[0])
    needed.pop("dev", None)
    found: dict[str, Any] = {}
    for name, packages in sorted(needed.items()):
        missing = [each for each in sorted(packages) if _installed(each) is None]
        command = f'missing {", ".join(missing)}: pip install "sctnet[{name}]"'
        found[name] = command if missing else "installed"
    return found


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _attempt(ask: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return ask(*arguments)
    except SctnetError as error:
        return {"fails": str(error)}
    except Exception as error:  # the report is for exactly such cases
        return {"fails": f"{type(error).__name__}: {error}"}


def _in_words(precision: Any) -> str:
    return f"{precision.name}{precision.because}"


def _gigabytes(size: int | None) -> str | None:
    return None if size is None else f"{size / 2**30:.1f} GiB"
