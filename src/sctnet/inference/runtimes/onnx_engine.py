"""ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from sctnet.checkpoints.exported_file import METADATA_KEY, ExportedConfig
from sctnet.errors import SctnetError
from sctnet.inference.runtimes.exported_runtime import Port, first_line

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_KINDS = {"tensor(float)": "float32", "tensor(float16)": "float16"}
_SILENT = 4  # it would print the errors that are raised here


class OnnxEngine:
    """A session of ONNX Runtime; the precision is the file's."""

    rounds_pixels = False

    def __init__(
        self, file: Path, device: str | torch.device | None, precision: str, threads: int
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise SctnetError(
                'an .onnx file needs ONNX Runtime: pip install "sctnet[onnx]"'
            ) from error
        onnxruntime.disable_telemetry_events()  # some builds report home
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _SILENT
        options.intra_op_num_threads = threads
        self._file, self._threads = file.absolute(), threads
        self._stamp = _stamp(self._file)
        self._device = str(device or "cpu")
        kind, _, number = self._device.partition(":")
        provider = _PROVIDERS.get(kind)
        known = provider in onnxruntime.get_available_providers()
        if not known or not (number or "0").isdecimal():
            raise SctnetError(
                f"device {self._device!r} cannot be used by ONNX Runtime here: try 'cpu'"
            )
        chosen = provider if kind == "cpu" else (provider, {"device_id": int(number or 0)})
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=[chosen])
        except Exception as error:  # its own errors have no common family
            raise SctnetError(
                f"{file}: not an ONNX file that can be run ({first_line(error)})"
            ) from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.config = ExportedConfig.from_text(metadata.get(METADATA_KEY), file)
        self.precision: str = self.config.precision
        if precision not in {"auto", self.precision}:
            raise SctnetError(
                f"precision {precision!r}: {file} computes in {self.precision}, which stands in "
                "the file: export it again with --precision"
            )
        self.inputs = [_port(given) for given in self._session.get_inputs()]
        self.outputs = [_port(given) for given in self._session.get_outputs()]

    def __str__(self) -> str:
        """Name it, and its device."""
        return f"ONNX Runtime on {self._device}"

    def __call__(self, images: UInt8[np.ndarray, "n h w 3"]) -> np.ndarray:
        """Return the graph's output."""
        found: np.ndarray = self._session.run(None, {"images": images})[0]
        return found

    def side_by_side(self, callers: int) -> "OnnxEngine":
        """Return the same for so many callers at a time, each in its share of the threads.

        A session's own threads help one caller after the other, so that several callers wait. The
        file is opened again: where it is gone or another, they have to.
        """
        share = self._threads // min(callers, self._threads)
        if share == self._threads or self._session.get_providers() != [_PROVIDERS["cpu"]]:
            return self
        try:
            beside = OnnxEngine(self._file, self._device, self.precision, share)
        except SctnetError:
            return self
        return beside if beside._stamp == self._stamp else self


def _stamp(file: Path) -> tuple[int, ...]:
    """Return values that change when a file is replaced or rewritten."""
    try:
        facts = file.stat()
    except OSError:
        return ()
    return facts.st_ino, facts.st_mtime_ns, facts.st_size


def _port(given: Any) -> Port:
    sides = tuple(side if isinstance(side, int) else None for side in given.shape)
    plain = given.type.removeprefix("tensor(").removesuffix(")")
    return Port(frozenset({given.name}), sides, _KINDS.get(given.type, plain))
