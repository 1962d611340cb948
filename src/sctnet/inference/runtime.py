"""Where a network is computed: here, in PyTorch, ONNX Runtime or OpenVINO, behind one protocol."""

from collections.abc import Sequence
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
from sctnet.models import SCTNet, SegmentationNetwork
from sctnet.precision import Precision, choose_precision, is_emulated, tell_of_emulation
from sctnet.preparation import PreparationConfig
from sctnet.weights import usable_device

if TYPE_CHECKING:
    from sctnet.inference.exported_runtime import ExportedRuntime

RUNTIMES = {".onnx": "onnx", ".xml": "openvino"}
"""The runtime of an exported file, by its ending."""

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
) -> Runtime:
    """Return the runtime of a network in memory, of which it keeps a fused copy.

    On a CPU the package's own kernels compute an SCTNet in fp32 or bf16. PyTorch computes all else:
    what it has to compile (``compiled``), other networks, and bf16 where the processor does not
    multiply it. That is slow, and one sentence says how slow.

    Raises :class:`SctnetError` for an unusable device and an unknown precision.
    """
    place = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    fused = network.fuse()
    chosen = choose_precision(precision, place, on_gpu="fp16")
    if place.type == "cpu" and not compiled and isinstance(fused, SCTNet):
        kernels_have_it = can_be_compiled(fused, short=chosen.name == "bf16")
        if precision == "auto" and not kernels_have_it and can_be_compiled(fused):
            chosen = Precision("fp32", "the CPU kernels compute this network in fp32 alone")
            kernels_have_it = True
        if kernels_have_it and chosen.name != "fp16":
            return CpuRuntime(fused, preparation, chosen)
    runtime = TorchRuntime(fused, preparation, place, chosen, compiled)
    if is_emulated(chosen.name, place):
        plain = TorchRuntime(fused, preparation, place)
        picture = torch.zeros(1, 3, 128, 256, dtype=torch.uint8, device=place)
        tell_of_emulation(
            chosen.name,
            lambda: [logits.cpu() for logits in runtime([picture])],
            lambda: [logits.cpu() for logits in plain([picture])],
        )
    return runtime


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
