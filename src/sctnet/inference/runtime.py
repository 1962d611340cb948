"""Where a network is computed: here, in PyTorch, ONNX Runtime or OpenVINO, behind one protocol."""

import platform
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor

from sctnet.compiled_network import can_be_compiled
from sctnet.errors import SctnetError
from sctnet.exported import Output
from sctnet.inference.cpu_runtime import CpuRuntime
from sctnet.inference.torch_runtime import TorchRuntime
from sctnet.kernels import instruction_set
from sctnet.models import SCTNet, SegmentationNetwork
from sctnet.preparation import PreparationConfig

if TYPE_CHECKING:
    from sctnet.inference.exported_runtime import ExportedRuntime

RUNTIMES = {".onnx": "onnx", ".xml": "openvino"}
"""The runtime of an exported file, by its ending."""

KERNELS = "auto", "native", "torch"
"""Who computes a network of a model folder on the CPU: the compiled library where it can, that and
nothing else, or PyTorch."""

_TOLERANCES = {"fp32": 1e-3, "bf16": 0.25}
"""Of the difference from PyTorch, as a share of the largest logit: as of exported files, the first
ten times as large."""

_CODE = {".pt2", ".pt", ".pth", ".engine", ".plan"}


@runtime_checkable
class Runtime(Protocol):
    """A network with the preparation of its pictures; may be called from several threads."""

    device: torch.device
    """Where pictures are wanted and results are returned."""
    precision: str
    """fp32, fp16, bf16 or int8."""
    output: Output
    """What a call returns: at the network's stride (logits8) or at the picture's size."""
    size: tuple[int, int] | None
    """Height and width of the only pictures that can be taken; None: any."""

    def __str__(self) -> str:
        """Say how it runs, in few words."""

    def __call__(
        self,
        images: Sequence[UInt8[Tensor, "1 3 _ _"]],
        scale: float = 1.0,
        mirrored: bool = False,
    ) -> list[Tensor]:
        """Return logits (float, 1 x K x h x w) or labels (integers, 1 x H x W) of each picture.

        The pictures, RGB and channels last in memory, share one working size, which ``scale``
        multiplies. ``mirrored`` shows them to the network the other way round; what is returned
        fits the picture as it is. Probabilities are returned as their logarithms, which are logits.
        """

    def require_logits(self, purpose: str) -> None:
        """Raise :class:`SctnetError` where there are none for this purpose, which it names."""

    def side_by_side(self, callers: int) -> "Runtime":
        """Return the same for so many callers at a time, each in its share of the threads.

        Several pictures pass faster so than one after the other in all threads, which wait for each
        other behind every layer.
        """


def exported_file(model: str | Path) -> Path | None:
    """Return the path of an exported file that a user named; None for any other model.

    Raises :class:`SctnetError` for files that are code: to read them is to run them.
    """
    path = Path(model)
    ending = path.suffix.lower()
    if ending not in RUNTIMES | dict.fromkeys(_CODE) or path.is_dir():
        return None
    if ending in RUNTIMES:
        return path
    raise SctnetError(
        f"{path}: such a file runs code when it is read, so it is not taken here: give a model "
        "folder, an .onnx or an OpenVINO .xml file"
    )


def open_network(
    network: SegmentationNetwork,
    preparation: PreparationConfig,
    device: str | torch.device | None,
    precision: str = "auto",
    compiled: bool = False,
    kernels: str = "auto",
) -> Runtime:
    """Return the runtime of a network in memory, of which it keeps a fused copy.

    On a CPU an SCTNet in fp32 or bf16 is computed by the compiled library, all else in PyTorch:
    what is ``compiled`` by that, other networks, and bf16 where the processor does not multiply it.
    ``kernels`` asks for one of both.

    Raises :class:`SctnetError` where what is asked for cannot be.
    """
    if kernels not in KERNELS:
        raise SctnetError(f"kernels {kernels!r}: choose one of {', '.join(KERNELS)}")
    runtime = TorchRuntime(network, preparation, device, precision, compiled)
    fused = runtime.labeller.network
    ours = runtime.device.type == "cpu" and runtime.precision in {"fp32", "bf16"} and not compiled
    short = runtime.precision == "bf16"
    ours = ours and isinstance(fused, SCTNet) and can_be_compiled(fused, short)
    if kernels == "native" and not ours:
        raise SctnetError(
            "kernels 'native': the compiled library is not there, or does not compute this network "
            f"{runtime}: leave kernels out, and PyTorch computes"
        )
    if not ours or kernels == "torch":
        return runtime
    assert isinstance(fused, SCTNet)
    native = CpuRuntime(fused, preparation, runtime.precision)
    difference = _difference(native, runtime)
    if difference <= _TOLERANCES[runtime.precision]:
        return native
    warnings.warn(
        f"the compiled kernels ({_instruction_set()}, {_processor()}, sctnet "
        f"{version('sctnet')}) differ from PyTorch by {100 * difference:.3g} % of the largest "
        "logit on a small picture, so PyTorch computes: please report this",
        RuntimeWarning,
        stacklevel=3,
    )
    return runtime


def _difference(native: CpuRuntime, plain: TorchRuntime) -> float:
    """Return the largest difference on a small picture, as a share of the largest logit.

    0 where PyTorch's logits are not finite: pictures are refused then, whoever computes.
    """
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (1, 48, 64, 3), dtype=torch.uint8, generator=generator)
    image = picture.permute(0, 3, 1, 2)
    found = native.network(image)
    mean, std = plain.labeller.preparation.mean, plain.labeller.preparation.std
    with torch.inference_mode():
        expected = plain.labeller.logits((image - mean) / std)
    if not expected.isfinite().all():
        return 0.0
    difference = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    return float(difference) if difference.isfinite() else float("inf")


def _instruction_set() -> str:
    kind = instruction_set()
    return "none" if kind is None else kind.name


def _processor() -> str:
    """Name the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def open_exported(
    file: Path, device: str | torch.device | None, precision: str, threads: int
) -> "ExportedRuntime":
    """Return the runtime of an exported file, with what the file says of itself.

    Raises :class:`SctnetError` for files that are missing, damaged or not made by this package, for
    a package that is not installed, and for a device and a precision that cannot be.
    """
    from sctnet.inference.exported_runtime import ExportedRuntime

    if not file.is_file():
        raise SctnetError(f"{file}: there is no such file")
    if RUNTIMES[file.suffix.lower()] == "onnx":
        from sctnet.inference.onnx_engine import OnnxEngine

        return ExportedRuntime(file, OnnxEngine(file, device, precision, threads))
    from sctnet.inference.openvino_engine import OpenVinoEngine

    return ExportedRuntime(file, OpenVinoEngine(file, device, precision, threads))
