"""``--runtime``: the model in the form that the requested runtime needs."""

import sys
from pathlib import Path
from typing import Any

from sctnet.errors import SctnetError


def model_for(runtime: str | None, model: str, precision: str) -> str | Path:
    """Return the model itself, or, for another runtime than PyTorch, a file exported from it."""
    from sctnet.inference.runtimes.runtime import RUNTIMES, exported_file

    known = ["torch", *RUNTIMES.values()]
    if runtime not in {None, *known}:
        raise SctnetError(f"--runtime {runtime}: choose one of {', '.join(known)}")
    file = exported_file(model)
    if file is not None:
        own = RUNTIMES[file.suffix.lower()]
        if runtime not in {None, own}:
            raise SctnetError(
                f"--runtime {runtime}: {file} runs in {own}: leave it out, or give the model folder"
            )
        return model
    if runtime in {None, "torch"}:
        return model
    import torch

    from sctnet.export.caching import cached_export
    from sctnet.pipeline.precision import choose_precision

    of: Any = runtime
    wanted: Any = precision
    if precision == "auto":  # ONNX files have no bf16
        on_cpu = choose_precision("auto", torch.device("cpu"))
        wanted = on_cpu.name if runtime == "openvino" else "fp32"
    print("Exporting the model, unless that was done before ...", file=sys.stderr)  # noqa: T201
    return cached_export(model, of, wanted)
