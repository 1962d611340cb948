"""OpenVINO's own files, an .xml and a .bin, made from the ONNX model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sctnet.export.onnx_format import onnx_model, required
from sctnet.export.parity import Batch, Quantise, Run
from sctnet.exported import METADATA_KEY, ExportedConfig
from sctnet.inference.openvino_engine import (
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
    """Write an .xml and its .bin; return what runs them on the CPU.

    In ``fp16`` the network is float16, which halves the file; a CPU computes it in float32 all the
    same. ``bf16`` is no kind of file: it is noted, for who loads it to ask for.
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
