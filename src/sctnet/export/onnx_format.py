"""The format ONNX: from a traced graph, by PyTorch's dynamo exporter."""

from __future__ import annotations

import ast
import importlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sctnet.checkpoints.exported_file import EXPORTED_SUFFIXES, METADATA_KEY, ExportedConfig
from sctnet.errors import SctnetError
from sctnet.export.export_format import ExportFormat
from sctnet.export.graph import DTYPES, PictureGraph
from sctnet.export.parity import Batch, Quantise, Run
from sctnet.export.quantisation import Node
from sctnet.export.tracing import quiet_exporters, trace
from sctnet.models import SegmentationNetwork

if TYPE_CHECKING:
    import onnx

OPSET = 18
"""The oldest opset with all operators of the graphs; every runtime in use reads it."""

IR_VERSION = 8
"""The format's version of that opset's time: the exporter writes its newest, which older ONNX
Runtimes refuse, and uses nothing of it."""

INPUT = "images"
LOGITS = "inspected_logits"
"""The name of the network's own logits, in a model that shows them to be compared."""

_AXES = {INPUT: ("batch", "height", "width"), "labels": ("batch", "height", "width")}
_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where the exporter notes the modules, each in the one before, that a node comes from."""
_FOLDED = 1 << 24  # bytes; the kernels that an attention uses a second time, turned around


def write(
    network: SegmentationNetwork,
    config: ExportedConfig,
    file: Path,
    quantise: Quantise | None = None,
) -> Run:
    """Write an ONNX file; return a function that runs it in ONNX Runtime on the CPU."""
    required("onnxruntime")
    inspected = onnx_model(network, config)
    return write_model(inspected if quantise is None else quantise(inspected), file)


def write_model(inspected: onnx.ModelProto, file: Path) -> Run:
    """Write a model whose logits are shown without them; return what runs both."""
    inspected.ir_version = IR_VERSION
    file.write_bytes(without_logits(inspected).SerializeToString())
    return run_onnx(file, inspected)


def run_onnx(file: Path, inspected: onnx.ModelProto) -> Run:
    """Return what runs a file, and the model with its logits shown, in ONNX Runtime on the CPU."""
    import onnxruntime

    def session(content: bytes) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    whole, shown = session(file.read_bytes()), session(inspected.SerializeToString())

    def run(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        (answer,) = whole.run(None, {INPUT: batch})
        return answer, shown.run(None, {INPUT: batch})[-1]

    return run


def onnx_model(
    network: SegmentationNetwork, config: ExportedConfig, channels_last: bool = False
) -> onnx.ModelProto:
    """Return the model whose logits are shown beside its answer; see :func:`without_logits`.

    The model is checked by ``onnx.checker`` (with its shape inference) and describes itself under
    the key ``sctnet``, and in plain words for users without this package. Constants are
    folded, which is exact; nothing else is simplified. Raises :class:`SctnetError` where a package
    is missing, or a network has an operator that ONNX has not.
    """
    checker = required("onnx").checker
    required("onnxscript")
    inspected = config.output != "logits8"
    graph = PictureGraph(
        network,
        config.model.preparation,
        config.output,
        DTYPES[config.precision],
        inspected,
        channels_last,
        config.mirrors,
    )
    program = trace(graph, config.size, config.batch)
    names = [config.output.removesuffix("8"), LOGITS][: 1 + inspected]
    try:
        with quiet_exporters():
            exported = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, verbose=False,
                input_names=[INPUT], output_names=names,
            )  # fmt: skip
    except torch.onnx.errors.OnnxExporterError as error:
        raise SctnetError(
            f"{config.model.network.variant}: cannot be written as ONNX "
            f"({str(error).strip().splitlines()[0]}); --format torch may do"
        ) from error
    assert exported is not None
    _fold_constants(exported.model)
    model: onnx.ModelProto = exported.model_proto
    _cast_first(model)
    _name_nodes(model)
    _forget_origin(model)
    _name_axes(model, config)
    describe(model, config)
    checker.check_model(model, full_check=True)
    return model


def without_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its answer as the only output."""
    import onnx

    answer_alone = onnx.ModelProto()
    answer_alone.CopyFrom(model)
    del answer_alone.graph.output[1:]
    return answer_alone


def required(package: str, extra: str = "onnx") -> Any:
    """Import a package of an extra; raises :class:`SctnetError` that tells how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise SctnetError(
            f'this export needs the package {package}: pip install "sctnet[{extra}]"'
        ) from error


def _fold_constants(model: Any) -> None:
    from onnxscript import optimizer

    with quiet_exporters():
        optimizer.fold_constants(
            model, input_size_limit=_FOLDED, output_size_limit=_FOLDED, onnx_shape_inference=False
        )
        optimizer.remove_unused_nodes(model)


def _cast_first(model: onnx.ModelProto) -> None:
    """Let sizes be read from the pictures as numbers: TensorRT does nothing with bytes but cast."""
    nodes = model.graph.node
    cast = next(node for node in nodes if node.op_type == "Cast" and node.input[0] == INPUT)
    for node in nodes:
        if node is not cast and INPUT in node.input:
            node.input[:] = [cast.output[0] if name == INPUT else name for name in node.input]
    first = type(cast)()
    first.CopyFrom(cast)
    nodes.remove(cast)
    nodes.insert(0, first)


def _name_nodes(model: onnx.ModelProto) -> None:
    """Let a node's name begin with that of the part of the network that it belongs to."""
    for node in model.graph.node:
        for entry in node.metadata_props:
            if entry.key == _SCOPES:
                scopes: list[str] = ["", *ast.literal_eval(entry.value)]
                node.name = f"{scopes[-2]}/{node.name.removeprefix('node_')}".lstrip("/")


def _forget_origin(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes of every node: names and places of the code it came from."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]


def _name_axes(model: onnx.ModelProto, config: ExportedConfig) -> None:
    """Give free sizes the names that people look for."""
    for value in (*model.graph.input, *model.graph.output):
        names = _AXES.get(value.name, ("batch", "classes", "height", "width"))
        if value.name == LOGITS or (config.output == "logits8" and value.name == "logits"):
            names = ("batch", "classes", "logits_height", "logits_width")
        dimensions = value.type.tensor_type.shape.dim
        for dimension, name in zip(dimensions, names, strict=False):
            if not dimension.HasField("dim_value"):
                dimension.dim_param = name


def describe(model: onnx.ModelProto, config: ExportedConfig) -> None:
    """Let a model tell, in its metadata, all that is needed to use it."""
    model.producer_name, model.producer_version = "sctnet", config.sctnet
    model.doc_string = (
        f"{config.model.network.variant}: RGB bytes (N x H x W x 3) in, {config.output} out."
    )
    properties = {
        METADATA_KEY: config.model_dump_json(),
        "classes": "\n".join(config.model.classes),
        "precision": config.precision,
        "terms": config.model.terms or "",
    }
    del model.metadata_props[:]
    for key, value in properties.items():
        model.metadata_props.add(key=key, value=value)


class OnnxQuantiser:
    """By ONNX Runtime, as pairs of QuantizeLinear and DequantizeLinear; weights by channel."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._runtime = required("onnxruntime")
        self.model = model

    def nodes(self) -> list[Node]:
        """Return the operators of the float model in topological order."""
        maker = {output: node.name for node in self.model.graph.node for output in node.output}
        return [
            Node(node.name, node.op_type, tuple(maker[x] for x in node.input if x in maker))
            for node in self.model.graph.node
        ]

    def quantised(self, pictures: Sequence[Batch], floats: Sequence[str]) -> Any:
        """Return the quantised model; the nodes ``floats`` stay in floats."""
        import onnx
        from onnxruntime import quantization

        with tempfile.TemporaryDirectory(prefix="sctnet-int8-") as folder, _quiet():
            whole, file = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
            onnx.save(self.model, whole)
            quantization.quantize_static(
                whole,
                file,
                _reader(quantization, pictures),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                # Sums too would save no time (measured) and cost a quarter of the labels.
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=list(floats),
            )
            quantised = onnx.load(file)
        del quantised.metadata_props[:]
        quantised.metadata_props.extend(self.model.metadata_props)
        return quantised

    def run(self, model: onnx.ModelProto) -> Callable[[Batch], np.ndarray]:
        """Return what maps pictures to logits, N x K x h x w."""
        content = model.SerializeToString()
        session = self._runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return lambda picture: session.run(None, {INPUT: picture})[-1]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence ONNX Runtime's advice on the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _reader(quantization: Any, pictures: Sequence[Batch]) -> Any:
    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(pictures)

        def get_next(self) -> dict[str, Batch] | None:
            picture = next(self._left, None)
            return None if picture is None else {INPUT: picture}

    return Reader()


ONNX = ExportFormat(EXPORTED_SUFFIXES["onnx"], ("fp32", "fp16", "int8"), write, OnnxQuantiser)
