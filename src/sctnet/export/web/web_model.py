"""The model of a page: an ONNX file of logits, whose weights may be float16.

WebAssembly has no float16 arithmetic. ONNX Runtime computes a float16 network there by a conversion
around every operator, which takes more time than the network itself saves (measured: 1.6 times
float32's). So only the weights are float16: the file is half as large, each weight is converted
once, when the page loads, and the network computes in float32. This also holds for WebGPU, where
many devices lack float16.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sctnet.checkpoints.exported_file import EXPORTED_SUFFIXES, ExportedConfig
from sctnet.export.export_format import ExportFormat
from sctnet.export.onnx_format import OnnxQuantiser, describe, onnx_model, required, write_model
from sctnet.export.parity import Quantise, Run
from sctnet.models import SegmentationNetwork

if TYPE_CHECKING:
    import onnx

_LARGEST = float(np.finfo(np.float16).max)
_SMALL = 256  # numbers; fewer are not worth an operator


def write(
    network: SegmentationNetwork,
    config: ExportedConfig,
    file: Path,
    quantise: Quantise | None = None,
) -> Run:
    """Write an ONNX file; return a function that runs it in ONNX Runtime on the CPU."""
    required("onnxruntime")
    model = onnx_model(network, config.model_copy(update={"precision": "fp32"}))
    describe(model, config)
    if config.precision == "fp16":
        halve_weights(model)
    return write_model(model if quantise is None else quantise(model), file)


def halve_weights(model: onnx.ModelProto) -> None:
    """Store the weights as float16, each behind a conversion to float32; nothing else changes."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _SMALL:
            continue
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max() > _LARGEST:
            continue
        halves = values.astype(np.float16)
        stored = f"{tensor.name}_float16"
        casts.append(helper.make_node("Cast", [stored], [tensor.name], to=TensorProto.FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(halves, stored))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


WEB_MODEL = ExportFormat(EXPORTED_SUFFIXES["onnx"], ("fp32", "fp16", "int8"), write, OnnxQuantiser)
