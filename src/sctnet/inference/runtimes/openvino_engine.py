"""OpenVINO."""

import copy
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from sctnet.checkpoints.exported_file import METADATA_KEY, ExportedConfig
from sctnet.errors import SctnetError
from sctnet.inference.runtimes.exported_runtime import Port, first_line
from sctnet.machine import instruction_limits

_LOG = logging.getLogger(__name__)
_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_HEAD = 1000  # bytes, in which a model's first element begins
_MAX_SHAPES = 4  # compiled models are some 50 MB each


def shared_core() -> Any:
    """Return this process's one Core of OpenVINO, which is kept to the end.

    A Core gives the thread that loads its first device a stack for signals, and takes it back when
    it goes. Where two lived at once, the last to go leaves the other's freed stack behind (OpenVINO
    2026.4), and the next signal ends the process. Raises ImportError without OpenVINO.
    """
    import openvino

    return _only(openvino.Core)


@cache
def _only(make: Callable[[], Any]) -> Any:
    return make()


class CompiledModels:
    """A model, compiled once, or for every shape of pictures, with the last few kept.

    The latter is for int8: with free sizes OpenVINO 2026.4 computes it less exactly (2 % of the
    labels of CamVid differ from float32's, not 0.3 %), whatever its settings.
    """

    def __init__(self, model: Any, device: str, settings: dict[str, Any]) -> None:
        self._core, self._model = shared_core(), model
        self._target = device, settings
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        quantised = any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
        self._by_shape = quantised and model.is_dynamic()
        self.any = self._core.compile_model(model, *self._target)

    def side_by_side(self, callers: int) -> "CompiledModels":
        """Return a runtime for ``callers`` concurrent calls; each uses its part of the threads."""
        device, settings = self._target
        other = copy.copy(self)
        other._target = device, settings | {"NUM_STREAMS": callers}
        other._lock, other._kept = threading.Lock(), OrderedDict()
        if not self._by_shape:
            other.any = self._core.compile_model(self._model, *other._target)
        return other

    def __call__(self, shape: tuple[int, ...]) -> Any:
        """Return the compiled model for pictures of this shape."""
        if not self._by_shape:
            return self.any
        with self._lock:
            if shape not in self._kept:
                model = self._model.clone()
                model.reshape(list(shape))
                self._kept[shape] = self._core.compile_model(model, *self._target)
            self._kept.move_to_end(shape)
            if len(self._kept) > _MAX_SHAPES:
                self._kept.popitem(last=False)
            return self._kept[shape]


class OpenVinoEngine:
    """A compiled model of OpenVINO; floats can be computed in fp32 or bf16, whatever the file."""

    def __init__(
        self, file: Path, device: str | torch.device | None, precision: str, threads: int
    ) -> None:
        try:
            core = shared_core()
        except ImportError as error:
            raise SctnetError(
                'an .xml file needs OpenVINO: pip install "sctnet[openvino]"'
            ) from error
        self._device, self._threads = str(device or "cpu"), threads
        if self._device.upper() not in core.available_devices:
            raise SctnetError(
                f"device {self._device!r} cannot be used by OpenVINO here: choose one of "
                f"{', '.join(name.lower() for name in core.available_devices)}"
            )
        # OpenVINO would try the formats of all frameworks, and print messages.
        if b"<net" not in _head(file):
            raise SctnetError(f"{file}: not an OpenVINO model")
        try:
            model = core.read_model(file)
        except Exception as error:  # RuntimeError, or whatever else it lets through
            beside = file.with_suffix(".bin")
            missing = "" if beside.is_file() else f"; {beside.name} is missing beside it"
            raise SctnetError(
                f"{file}: not an OpenVINO model that can be read ({first_line(error)}){missing}"
            ) from error
        self.config = ExportedConfig.from_text(_metadata(model), file)
        wanted = _chosen_precision(precision, self.config, file)
        self.precision = computed_precision(wanted, self._device)
        self._because = ""
        if self.precision != wanted:
            self._because = f" (this processor does not multiply {wanted})"
        if self._because and precision == wanted:
            _LOG.warning(
                "%s: computed in fp32, since this processor does not multiply %s", file, wanted
            )
        try:
            self._compiled = CompiledModels(
                model, self._device.upper(), _settings(self._device, self.precision, threads)
            )
        except Exception as error:
            raise SctnetError(f"{file}: cannot be compiled ({first_line(error)})") from error
        self.inputs = [_port(given) for given in self._compiled.any.inputs]
        self.outputs = [_port(given) for given in self._compiled.any.outputs]
        self.rounds_pixels = any(map(_rounds_to_bytes, model.get_ops()))
        self._requests = threading.local()  # one request serves one thread at a time

    def __str__(self) -> str:
        """Name it, and its device."""
        return f"OpenVINO on {self._device}{self._because}"

    def __call__(self, images: UInt8[np.ndarray, "n h w 3"]) -> np.ndarray:
        """Return the graph's output, copied: the request writes the next one where it lies."""
        compiled = self._compiled(images.shape)
        last, request = getattr(self._requests, "last", (None, None))
        if last is not compiled:
            request = compiled.create_infer_request()
            self._requests.last = compiled, request
        assert request is not None
        found: np.ndarray = request.infer([images], share_inputs=True)[0]
        return found

    def side_by_side(self, callers: int) -> "OpenVinoEngine":
        """Return the same for so many callers at a time, each in its share of the threads.

        Otherwise they would have to wait for each other.
        """
        streams = min(callers, self._threads)
        if streams == 1 or self._device.lower() != "cpu":
            return self
        other = copy.copy(self)
        try:
            other._compiled = self._compiled.side_by_side(streams)
        except Exception:  # memory, say: the other goes on
            return self
        other._requests = threading.local()
        return other


def _rounds_to_bytes(operator: Any) -> bool:
    """Say whether an operator rounds to the whole numbers from 0 to 255."""
    if operator.get_type_name() != "FakeQuantize" or operator.get_levels() != 256:
        return False
    ends = [operator.input_value(place).get_node() for place in range(1, 5)]
    if any(end.get_type_name() != "Constant" for end in ends):
        return False
    return [end.data.ravel().tolist() for end in ends] == [[0], [255], [0], [255]]


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(_HEAD)
    except OSError as error:
        raise SctnetError(f"{file}: cannot be read ({error.strerror})") from error


def _metadata(model: Any) -> str | None:
    if not model.has_rt_info(METADATA_KEY):
        return None
    value = model.get_rt_info(METADATA_KEY).value
    return value if isinstance(value, str) else str(value)


def _chosen_precision(wanted: str, config: ExportedConfig, file: Path) -> str:
    possible = {"int8"} if config.precision == "int8" else {"fp32", "bf16", config.precision}
    if wanted not in {"auto", *possible}:
        raise SctnetError(
            f"precision {wanted!r}: {file} can be computed in {' or '.join(sorted(possible))}; for "
            "another, export it again with --precision"
        )
    return config.precision if wanted == "auto" else wanted


def computed_precision(precision: str, device: str = "cpu") -> str:
    """Return what OpenVINO computes where it is asked for ``precision``.

    On a CPU that does not multiply short floats it computes in float32. int8 stays int8.
    """
    return "fp32" if device == "cpu" and not _multiplies(precision) else precision


def precision_hint(precision: str) -> str:
    """Return the CPU's INFERENCE_PRECISION_HINT; for int8 that of the parts left in floats."""
    floats = "bf16" if precision == "int8" else precision
    return _HINTS[floats] if _multiplies(floats) else "f32"


def _multiplies(precision: str) -> bool:
    if precision in {"fp32", "int8"}:
        return True
    # OpenVINO names what the processor has, but its kernels heed these variables too, and fail.
    if {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"} & set(instruction_limits()):
        return False
    return precision.upper() in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _settings(device: str, precision: str, threads: int) -> dict[str, Any]:
    if device != "cpu":
        return {"PERFORMANCE_HINT": "LATENCY"}
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision_hint(precision),
    }


def _port(given: Any) -> Port:
    sides = tuple(
        side.get_length() if side.is_static else None for side in given.get_partial_shape()
    )
    kind = given.get_element_type()
    return Port(frozenset(given.get_names()), sides, np.dtype(kind.to_dtype()).name)
