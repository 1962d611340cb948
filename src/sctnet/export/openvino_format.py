"""The format OpenVINO: an .xml and a .bin, made from the ONNX model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sctnet.checkpoints.exported_file import EXPORTED_SUFFIXES, METADATA_KEY, ExportedConfig
from sctnet.export.byte_convolution import convolve_bytes, find_first_convolution
from sctnet.export.export_format import ExportFormat
from sctnet.export.onnx_format import INPUT, onnx_model, required
from sctnet.export.parity import Batch, Quantise, Run
from sctnet.export.quantisation import Node
from sctnet.inference.runtimes.openvino_engine import (
    CompiledModels,
    computed_precision,
    precision_hint,
    shared_core,
)
from sctnet.models import SegmentationNetwork

if TYPE_CHECKING:
    import openvino

_LOG = logging.getLogger(__name__)


def write(
    network: SegmentationNetwork,
    config: ExportedConfig,
    file: Path,
    quantise: Quantise | None = None,
) -> Run:
    """Write an .xml and its .bin; return a function that runs them on the CPU.

    In ``fp16`` the network is float16, which halves the file; a CPU computes it in float32 all the
    same. A file cannot be ``bf16``: it notes the precision, and whoever loads it asks the device.
    """
    openvino = required("openvino", "openvino")
    model = openvino_model(network, config)
    if quantise is not None:
        model = quantise(model)
    inspected = model.clone()
    without_logits(model)
    openvino.save_model(model, file, compress_to_fp16=False)
    if config.precision == "bf16" and computed_precision("bf16") == "fp32":
        _LOG.warning("%s: compared in fp32, since this processor does not multiply bf16", file.name)
    return run_openvino(file, inspected, config)


def openvino_model(network: SegmentationNetwork, config: ExportedConfig) -> openvino.Model:
    """Return the model whose logits are shown beside its answer; see :func:`without_logits`."""
    required("openvino", "openvino")
    in_file = "fp16" if config.precision == "fp16" else "fp32"
    in_floats = config.model_copy(update={"precision": in_file})
    content = onnx_model(network, in_floats, channels_last=True)
    model: openvino.Model = shared_core().read_model(content.SerializeToString(), b"")
    model.set_rt_info(config.model_dump_json(), [METADATA_KEY])
    model.set_rt_info(", ".join(config.model.classes), ["classes"])
    return model


def without_logits(model: openvino.Model) -> None:
    """Take out the outputs behind the first."""
    for result in model.get_results()[1:]:
        model.remove_result(result)


def run_openvino(file: Path, inspected: openvino.Model, config: ExportedConfig) -> Run:
    """Return what runs a file, and the model with its logits shown, on the CPU."""
    core = shared_core()
    in_floats = "fp32" if config.precision == "fp16" else config.precision
    settings = {"INFERENCE_PRECISION_HINT": precision_hint(in_floats)}
    whole, shown = (
        CompiledModels(model, "CPU", settings) for model in (core.read_model(file), inspected)
    )
    last = len(shown.any.outputs) - 1

    def run(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        return whole(batch.shape)(batch)[0], shown(batch.shape)(batch)[last]

    return run


class OpenVinoQuantiser:
    """By NNCF, symmetric weights and asymmetric activations, biases corrected."""

    def __init__(self, model: openvino.Model, inputs: str = INPUT) -> None:
        required("openvino", "openvino")
        self._nncf = required("nncf", "openvino")
        # Not nncf.set_log_level, which sets the handlers' level too, whosesoever they are.
        logging.getLogger("nncf").setLevel(logging.ERROR)
        self.model, self._input = model, inputs

    def nodes(self) -> list[Node]:
        """Return the operators of the float model in topological order."""
        return [
            Node(
                node.get_friendly_name(),
                node.get_type_name(),
                tuple(
                    port.get_source_output().get_node().get_friendly_name()
                    for port in node.inputs()
                ),
            )
            for node in self.model.get_ordered_ops()
            if node.get_type_name() not in {"Constant", "Parameter", "Result"}
        ]

    def quantised(self, pictures: Sequence[Batch], floats: Sequence[str]) -> Any:
        """Return the quantised model; the nodes ``floats`` stay in floats."""
        start = find_first_convolution(self.model)
        first = {start.convolution.get_friendly_name()} if start is not None else set[str]()
        quantised = self._nncf.quantize(
            self.model.clone(),
            self._nncf.Dataset(pictures, lambda picture: {self._input: picture}),
            preset=self._nncf.QuantizationPreset.MIXED,
            subset_size=len(pictures),
            ignored_scope=self._nncf.IgnoredScope(
                names=sorted(first.union(floats)), validate=False
            ),
        )
        if not first.issubset(floats):
            convolve_bytes(quantised, pictures)
        return quantised

    def run(self, model: openvino.Model) -> Callable[[Batch], np.ndarray]:
        """Return what maps pictures to logits, N x K x h x w."""
        compiled = CompiledModels(model, "CPU", {})
        last = len(compiled.any.outputs) - 1
        return lambda picture: compiled(picture.shape)(picture)[last]


OPENVINO = ExportFormat(
    EXPORTED_SUFFIXES["openvino"], ("fp32", "fp16", "bf16", "int8"), write, OpenVinoQuantiser
)
