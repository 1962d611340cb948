"""The forms in which a network of the paper's comparison is timed on this machine.

The paper's protocol is float32, PyTorch eager, one picture at a time, logits at the picture's size
and no argmax. Ours goes from a picture's bytes to its label map, as predictions do.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import torch

from sctnet.checkpoints.exported_file import Precision
from sctnet.checkpoints.model_folder import save_model
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.errors import SctnetError
from sctnet.export.exporting import FORMATS, Format, export_model
from sctnet.inference.runtimes.cpu_runtime import CpuRuntime
from sctnet.inference.segmenter import Segmenter
from sctnet.models import SegmentationNetwork, build
from sctnet.models.registry import inference_configuration
from sctnet.pipeline.precision import choose_precision

MOST_CALLS = 20
"""Of a form in one turn."""
FILES: dict[Format, tuple[str, str]] = {
    "openvino": ("OpenVINO", "openvino"),
    "onnx": ("ONNX Runtime", "onnxruntime"),
}
"""The formats for a CPU, the faster first: what runs them, and its package."""

_MEDIAN = re.compile(r"Latency: .*?median = ([0-9.]+) ms")


class Form(NamedTuple):
    """A network, ready to run in one way."""

    name: str
    timed: Callable[[float], list[float]]
    """Runs once, then for so many seconds; returns the milliseconds of each run but the first."""


class Forms(NamedTuple):
    """All ways to run a network on this machine."""

    eager: Form
    """By the paper's protocol."""
    whole: list[Form]
    """From bytes to label map."""
    left_out: list[str]
    """A sentence for each form that failed."""


def forms_of(variant: str, classes: int, size: tuple[int, int], device: str) -> Forms:
    """Build a network, with random weights that are always the same, and all its forms here.

    On a CPU these are the model folder (compiled kernels or PyTorch) and the fastest exported file
    for pictures of this size, in bf16 where the processor multiplies it. On a GPU they are the
    folder, with and without CUDA graphs, and a TensorRT engine where the program ``trtexec`` is.
    int8 is left out: it costs accuracy, which random weights cannot tell.

    Raises :class:`SctnetError` for an unknown variant, and for one whose extra is missing.
    """
    torch.manual_seed(0)
    network = build(inference_configuration(variant, classes)).eval()
    picture = SyntheticStreets(0, 1, size).image(0)
    whole: list[Form] = []
    left_out: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        folder = save_model(network, Path(place) / variant)

        def prediction(model: Path, runtime: str, compiled: bool = False) -> Form:
            ready = Segmenter(model, device, compiled=compiled)
            if isinstance(ready.runtime, CpuRuntime):
                runtime = "kernels"
            name = f"{ready.runtime.precision} {runtime}"
            return Form(name, partial(_timed, lambda: ready.predict_labels([picture])))

        ways: list[Callable[[], Form]] = [lambda: prediction(folder, "PyTorch")]
        if torch.device(device).type == "cuda":
            ways.append(lambda: prediction(folder, "CUDA graphs", compiled=True))
            if shutil.which("trtexec"):
                ways.append(lambda: tensorrt_form(folder, size))
        elif (kind := _file_format()) is not None:
            ways.append(lambda: prediction(_exported(folder, kind, size), FILES[kind][0]))
        for way in ways:
            try:
                whole.append(way())
            except SctnetError as error:
                told = str(error).removeprefix(f"{folder.parent}{os.sep}")
                left_out.append(f"{variant} at {size[0]}x{size[1]}: {told}")
    return Forms(eager_form(network, size, device), whole, left_out)


def eager_form(network: SegmentationNetwork, size: tuple[int, int], device: str) -> Form:
    """Return the paper's protocol: a float image to logits of its size."""
    place = torch.device(device)
    network = network.to(place)
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(place)

    @torch.inference_mode()
    def run() -> None:
        network(image)
        if place.type == "cuda":
            torch.cuda.synchronize(place)

    return Form("fp32 PyTorch", partial(_timed, run))


def _timed(call: Callable[[], object], seconds: float) -> list[float]:
    call()
    found: list[float] = []
    while not found or (sum(found) < 1000 * seconds and len(found) < MOST_CALLS):
        began = perf_counter()
        call()
        found.append(1000 * (perf_counter() - began))
    return found


def missing_runtimes(device: str) -> list[str]:
    """Return a sentence for each form of :func:`forms_of` that this machine cannot run."""
    if torch.device(device).type == "cuda":
        here, sentence = shutil.which("trtexec"), "TensorRT: its program trtexec is not on the PATH"
    else:
        here, sentence = _file_format(), 'OpenVINO: pip install "sctnet[openvino]"'
    return [] if here else [sentence]


def _file_format() -> Format | None:
    found = (kind for kind, (_, package) in FILES.items() if importlib.util.find_spec(package))
    return next(found, None)


def _exported(folder: Path, kind: Format, size: tuple[int, int]) -> Path:
    """Write the fastest file for one picture of this size beside the folder."""
    short = choose_precision("auto", torch.device("cpu")).name == "bf16" and kind == "openvino"
    precision: Precision = "bf16" if short else "fp32"
    file = folder.with_suffix(FORMATS[kind].suffixes[0])
    export_model(
        folder, file, format=kind, precision=precision, output="logits8", size=size, batch=1
    )
    return file


def tensorrt_form(folder: Path, size: tuple[int, int]) -> Form:
    """Return an engine in fp16, bytes to label map, timed by NVIDIA's own program ``trtexec``.

    Raises :class:`SctnetError` where it fails. It has not been tried on a GPU yet.
    """
    place = tempfile.mkdtemp()
    engine = Path(place) / "network.engine"
    export_model(folder, engine, format="tensorrt", precision="fp16", size=size, batch=1)

    def timed(seconds: float) -> list[float]:
        command = ["trtexec", f"--loadEngine={engine}", f"--duration={max(1, round(seconds))}"]
        done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - ours
        found = _MEDIAN.search(done.stdout)
        if done.returncode != 0 or found is None:
            raise SctnetError(f"{engine.name}: trtexec told no latency: run {' '.join(command)}")
        return [float(found[1])]

    weakref.finalize(timed, shutil.rmtree, place, ignore_errors=True)
    return Form("fp16 TensorRT", timed)
