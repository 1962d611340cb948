"""Where a network is computed: here, in PyTorch, ONNX Runtime or OpenVINO, behind one protocol."""

import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor

from sctnet.checkpoints.exported_file import EXPORTED_SUFFIXES, Output
from sctnet.checkpoints.model_folder import ModelConfig, usable_device
from sctnet.errors import SctnetError
from sctnet.inference.runtimes.cpu_runtime import CpuRuntime
from sctnet.inference.runtimes.torch_runtime import TorchRuntime
from sctnet.kernels import instruction_set
from sctnet.kernels.network import has_cpu_kernels
from sctnet.machine import processor
from sctnet.models import NetworkConfig, SCTNet, SegmentationNetwork
from sctnet.pipeline.precision import Precision, choose_precision, is_emulated, tell_of_emulation
from sctnet.pipeline.preprocessing import PreprocessingConfig

if TYPE_CHECKING:
    from sctnet.inference.runtimes.exported_runtime import ExportedRuntime

RUNTIMES = {suffixes[0]: name for name, suffixes in EXPORTED_SUFFIXES.items()}
"""The runtime of an exported file, by its suffix."""

KERNELS = "auto", "native", "torch"
"""What computes a network of a model folder on the CPU: the compiled library where it can, the
library and nothing else, or PyTorch."""

_TOLERANCES = {"fp32": 1e-3, "bf16": 0.25}
"""Of the difference from PyTorch, as a share of the largest logit: as of exported files, the first
ten times as large."""

_CODE = {".pt2", ".pt", ".pth", ".engine", ".plan"}


@runtime_checkable
class Runtime(Protocol):
    """A network with its preprocessing; may be called from several threads."""

    device: torch.device
    """The device of the pictures and the results."""
    precision: str
    """fp32, fp16, bf16 or int8."""
    output: Output
    """The output of a call: at the network's stride (logits8) or at the picture's size."""
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

        The pictures, RGB and channels last in memory, have the same working size, which ``scale``
        multiplies. With ``mirrored`` the network sees them mirrored, and the result is mirrored
        back. Probabilities are returned as their logarithms, which are logits.
        """

    def require_logits(self, purpose: str) -> None:
        """Raise :class:`SctnetError`, which names ``purpose``, where there are no logits."""

    def side_by_side(self, callers: int) -> "Runtime":
        """Return a runtime for ``callers`` concurrent calls; each uses its part of the threads.

        This is faster than one picture after the other in all threads, because threads that share
        a picture wait for each other after every layer.
        """


def exported_file(model: str | Path) -> Path | None:
    """Return the path of an exported file that a user named; None for any other model.

    Raises :class:`SctnetError` for files that run code when they are read.
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
    preprocessing: PreprocessingConfig,
    device: str | torch.device | None,
    precision: str = "auto",
    compiled: bool = False,
    kernels: str = "auto",
) -> Runtime:
    """Return the runtime of a network in memory; it keeps a fused copy.

    On a CPU the compiled library computes an SCTNet in fp32 or bf16. PyTorch computes all else:
    what it has to compile (``compiled``), other networks, and bf16 where the processor does not
    multiply it. That is slow, and one sentence says how slow. ``kernels``, one of :data:`KERNELS`,
    asks for one of both. The library's logits of a small picture are compared with PyTorch's; where
    they differ too much, PyTorch computes, after a warning.

    Raises :class:`SctnetError` for an unusable device, an unknown precision, and where the library
    is asked for and does not compute this network.
    """
    if kernels not in KERNELS:
        raise SctnetError(f"kernels {kernels!r}: choose one of {', '.join(KERNELS)}")
    place = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    fused = network.fuse()
    chosen = choose_precision(precision, place, on_gpu="fp16")
    native: CpuRuntime | None = None
    if place.type == "cpu" and kernels != "torch" and not compiled and isinstance(fused, SCTNet):
        kernels_have_it = has_cpu_kernels(fused, short=chosen.name == "bf16")
        if precision == "auto" and not kernels_have_it and has_cpu_kernels(fused):
            chosen = Precision("fp32", "the CPU kernels compute this network in fp32 alone")
            kernels_have_it = True
        if kernels_have_it and chosen.name != "fp16":
            native = CpuRuntime(fused, preprocessing, chosen)
    runtime = TorchRuntime(fused, preprocessing, place, chosen, compiled)
    if kernels == "native" and native is None:
        raise SctnetError(
            "kernels 'native': the compiled library is not there, or does not compute this network "
            f"({runtime}): leave kernels out, and PyTorch computes"
        )
    if native is not None and _agree(native, runtime):
        return native
    if is_emulated(chosen.name, place):
        plain = TorchRuntime(fused, preprocessing, place)
        picture = torch.zeros(1, 3, 128, 256, dtype=torch.uint8, device=place)
        tell_of_emulation(
            chosen.name,
            lambda: [logits.cpu() for logits in runtime([picture])],
            lambda: [logits.cpu() for logits in plain([picture])],
        )
    return runtime


def _agree(native: CpuRuntime, plain: TorchRuntime) -> bool:
    """Say whether the library's logits are PyTorch's; warn where they are not."""
    difference = _difference(native, plain)
    if difference <= _TOLERANCES[native.precision]:
        return True
    kind = instruction_set()
    warnings.warn(
        f"the compiled kernels ({'none' if kind is None else kind.name}; {processor()}; sctnet "
        f"{version('sctnet')}) differ from PyTorch by {100 * difference:.3g} % of the largest "
        "logit on a small picture, so PyTorch computes: please report this",
        RuntimeWarning,
        stacklevel=4,
    )
    return False


def _difference(native: CpuRuntime, plain: TorchRuntime) -> float:
    """Return the largest difference on a small picture, as a share of the largest logit.

    0 where PyTorch's logits are not finite: pictures are refused then, whoever computes.
    """
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (1, 48, 64, 3), dtype=torch.uint8, generator=generator)
    image = picture.permute(0, 3, 1, 2)
    found = native.network(image)
    mean, std = plain.labeller.preprocessing.mean, plain.labeller.preprocessing.std
    with torch.inference_mode():
        expected = plain.labeller.logits((image - mean) / std)
    if not expected.isfinite().all():
        return 0.0
    difference = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    return float(difference) if difference.isfinite() else float("inf")


def open_exported(
    file: Path, device: str | torch.device | None, precision: str, threads: int
) -> "ExportedRuntime":
    """Return the runtime of an exported file, with what the file says of itself.

    Raises :class:`SctnetError` for files that are missing, damaged or not made by this package, for
    a package that is not installed, and for a device and a precision that cannot be.
    """
    from sctnet.inference.runtimes.exported_runtime import ExportedRuntime

    if not file.is_file():
        raise SctnetError(f"{file}: there is no such file")
    if RUNTIMES[file.suffix.lower()] == "onnx":
        from sctnet.inference.runtimes.onnx_engine import OnnxEngine

        return ExportedRuntime(file, OnnxEngine(file, device, precision, threads))
    from sctnet.inference.runtimes.openvino_engine import OpenVinoEngine

    return ExportedRuntime(file, OpenVinoEngine(file, device, precision, threads))


def open_transformers(
    folder: Path, device: str | torch.device | None, precision: str, compiled: bool = False
) -> tuple[Runtime, ModelConfig]:
    """Return the runtime of a model of transformers, and what a model folder would say of it.

    Raises :class:`SctnetError` as :class:`TransformersModel` does, for an unusable device, and for
    a precision other than fp32.
    """
    from sctnet.checkpoints.transformers_model import TransformersModel
    from sctnet.inference.runtimes.transformers_runtime import TransformersRuntime

    if precision not in ("auto", "fp32") or compiled:
        raise SctnetError(f"{folder}: a model of transformers runs in fp32, as it is")
    place = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = TransformersModel(folder)
    classes = model.classes
    network = NetworkConfig(variant=f"{model.kind} (transformers)", num_classes=len(classes))
    return TransformersRuntime(model, place), ModelConfig(network=network, classes=classes)
