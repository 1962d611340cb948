"""The format TensorRT: an engine, built from the ONNX model on a machine with an NVIDIA GPU."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sctnet.checkpoints.exported_file import ExportedConfig
from sctnet.errors import SctnetError
from sctnet.export.export_format import ExportFormat
from sctnet.export.onnx_format import INPUT, onnx_model, run_onnx, without_logits
from sctnet.export.parity import Run
from sctnet.models import SegmentationNetwork

if TYPE_CHECKING:
    import onnx

OPERATORS = frozenset(
    """Abs Add And ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant
    ConstantOfShape Conv ConvTranspose Cos CumSum DepthToSpace Div Einsum Elu Equal Erf Exp Expand
    Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater
    GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Identity If
    InstanceNormalization LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop
    LpNormalization MatMul Max MaxPool Mean Min Mod Mul Neg Not OneHot Or Pad Pow PRelu Range
    Reciprocal ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize Round ScatterElements ScatterND Shape Sigmoid Sign Sin Size
    Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh Tile TopK Transpose
    Trilu Unsqueeze Where Xor""".split()  # noqa: SIM905 - a list to read
)
"""Of what networks like ours may use, all that TensorRT 10.15 supports (onnx-tensorrt,
docs/operators.md)."""

_FLOATS_ONLY = ("Clip", "Ceil", "Erf", "Exp", "Floor", "MatMul", "Resize", "Softmax", "Sqrt")
_SMALLEST, _USUAL, _LARGEST = (1, 64, 64), (1, 512, 1024), (8, 2160, 3840)
"""Number, height and width of pictures that an engine for any size is built for."""


def write(network: SegmentationNetwork, config: ExportedConfig, file: Path) -> Run:
    """Build an engine with ``trtexec`` or the package ``tensorrt``.

    What is compared with PyTorch is the ONNX model that it is built from. Raises
    :class:`SctnetError`, which tells what to run, where there is no GPU or no TensorRT.
    """
    trtexec = shutil.which("trtexec")
    package = None if trtexec else _package()
    if not torch.cuda.is_available() or (trtexec is None and package is None):
        missing = "TensorRT is" if torch.cuda.is_available() else "an NVIDIA GPU is"
        raise SctnetError(
            f"{missing} not here: export --format onnx with {_onnx_options(config)}, and where it "
            f"is run trtexec {' '.join(_arguments(config, 'MODEL.onnx', 'MODEL.engine'))}"
        )
    inspected = onnx_model(network, config)
    model = without_logits(inspected)
    refuse_unsupported(model, file)
    source = file.with_suffix(".onnx")
    source.write_bytes(model.SerializeToString())
    if trtexec:
        _build_by_command([trtexec, *_arguments(config, str(source), str(file))], file)
    else:
        _build_by_package(package, source, config, file)
    return run_onnx(source, inspected)


def refuse_unsupported(model: onnx.ModelProto, file: Path) -> None:
    """Raise :class:`SctnetError` for a model that TensorRT would not take."""
    found = unsupported(model)
    if found:
        raise SctnetError(f"{file}: TensorRT lacks {', '.join(found)}: use --format onnx")


def unsupported(model: onnx.ModelProto) -> list[str]:
    """Return what a model uses and TensorRT has not: operators, and uses of them."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in inferred.initializer}
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, None}
    outputs = {value.name for value in inferred.output}
    found = []
    for node in inferred.node:
        kind = types.get(node.input[0]) if node.input else None
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type not in OPERATORS:
            found.append(node.op_type)
        elif node.op_type in _FLOATS_ONLY and kind not in floats:
            found.append(f"{node.op_type} of integers")
        elif node.op_type == "Resize" and attributes.get("antialias"):
            found.append("Resize with antialias")
        elif kind == onnx.TensorProto.UINT8 and node.op_type != "Cast":
            found.append(f"{node.op_type} of bytes")
        elif node.op_type == "Cast" and attributes["to"] == onnx.TensorProto.UINT8:
            found += [] if node.output[0] in outputs else ["bytes within the graph"]
    return sorted(set(found))


def _package() -> Any:
    try:
        import tensorrt  # type: ignore[import-not-found]
    except ImportError:
        return None
    return tensorrt


def _onnx_options(config: ExportedConfig) -> str:
    size = "" if config.size is None else f" --size {config.size[0]}x{config.size[1]}"
    batch = "" if config.batch is None else f" --batch {config.batch}"
    return f"--precision {config.precision} --output {config.output}{size}{batch}"


def _shapes(config: ExportedConfig) -> list[str]:
    """Return the smallest, the usual and the largest shape of the input, as trtexec writes it."""
    shapes = []
    for number, height, width in (_SMALLEST, _USUAL, _LARGEST):
        size = config.size or (height, width)
        shapes.append("x".join(str(side) for side in (config.batch or number, *size, 3)))
    return shapes


def _arguments(config: ExportedConfig, source: str, engine: str) -> list[str]:
    """Return the arguments of trtexec; the types are the model's own, which mixes two."""
    arguments = [f"--onnx={source}", f"--saveEngine={engine}", "--stronglyTyped"]
    if config.size is None or config.batch is None:
        names = ("--minShapes", "--optShapes", "--maxShapes")
        for name, shape in zip(names, _shapes(config), strict=True):
            arguments.append(f"{name}={INPUT}:{shape}")
    return [*arguments, "--skipInference"]


def _build_by_command(command: list[str], file: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - ours
    if done.returncode != 0 or not file.is_file():
        lines = [line for line in done.stdout.splitlines() if "[E]" in line] or ["no engine came"]
        raise SctnetError(f"{file}: trtexec failed ({lines[0].strip()}): try another --precision")


def _build_by_package(tensorrt: Any, source: Path, config: ExportedConfig, file: Path) -> None:
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    flag = tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(source.read_bytes()):
        raise SctnetError(f"{file}: TensorRT cannot read the model ({parser.get_error(0).desc()})")
    settings = builder.create_builder_config()
    if config.size is None or config.batch is None:
        profile = builder.create_optimization_profile()
        shapes = (tuple(map(int, shape.split("x"))) for shape in _shapes(config))
        profile.set_shape(INPUT, *shapes)
        settings.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, settings)
    if engine is None:
        raise SctnetError(f"{file}: TensorRT built no engine: try another --precision")
    file.write_bytes(bytes(engine))


TENSORRT = ExportFormat((".engine",), ("fp32", "fp16"), write)
