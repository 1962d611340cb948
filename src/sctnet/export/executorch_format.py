"""The format ExecuTorch, for phones and small computers: a .pte program, and a .json about it.

XNNPACK computes the network; what it lacks (gathering, argmax) ExecuTorch's own operators compute.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sctnet.checkpoints.exported_file import ExportedConfig
from sctnet.errors import SctnetError
from sctnet.export.export_format import ExportFormat
from sctnet.export.graph import PictureGraph
from sctnet.export.onnx_format import required
from sctnet.export.parity import Batch, Quantise, Run
from sctnet.export.quantisation import Node
from sctnet.export.tracing import quiet_exporters, trace
from sctnet.models import SegmentationNetwork

if TYPE_CHECKING:
    from torch.fx import GraphModule

_KINDS = {"aten.conv2d.default": "Conv", "aten.convolution.default": "Conv"}
_RELU = {"aten.relu.default", "aten.relu_.default"}


def write(
    network: SegmentationNetwork,
    config: ExportedConfig,
    file: Path,
    quantise: Quantise | None = None,
) -> Run:
    """Write a .pte and its .json; return what runs the .pte in ExecuTorch's Python runtime."""
    required("executorch", "executorch")
    if config.size is None or config.batch is None:
        raise SctnetError(
            "a .pte plans its memory for pictures of one size: give --size HEIGHTxWIDTH and "
            "--batch 1, as the camera or the app delivers them"
        )
    graph = PictureGraph(network, config.model.preparation, config.output, inspected=True)
    graph.requires_grad_(False)  # its own copy of the network
    if quantise is not None:
        replace_norms(graph)
    with _quiet(), torch.no_grad():
        program = _folded(trace(graph, config.size, config.batch))
    if quantise is not None:  # which tells what it finds
        module = quantise(program.module())
        with _quiet(), torch.no_grad():
            program = torch.export.export(module, program.example_inputs[0])
    with _quiet(), torch.no_grad():
        # Both first: lowering takes a program's constants out of it. Apart: where a delegate gives
        # an int8 network's logits and resizes them too, it takes their axes for another order.
        answer, logits = (
            torch.export.export(_OutputAlone(program, number), program.example_inputs[0])
            for number in (0, -1)
        )
        file.write_bytes(lowered(answer))
        shown = lowered(logits)
    file.with_suffix(".json").write_text(config.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return run_executorch(file.read_bytes(), shown)


def lowered(program: ExportedProgram) -> bytes:
    """Return a program as a .pte, with XNNPACK for all that it computes."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    return bytes(edge.to_executorch().buffer)


def run_executorch(content: bytes, shown: bytes) -> Run:
    """Return what runs a .pte, and one that gives its logits, in ExecuTorch's Python runtime."""
    whole, inspected = (method_of(each) for each in (content, shown))

    def run(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        (answer,), (logits,) = whole(batch), inspected(batch)
        return answer, logits

    return run


def method_of(content: bytes) -> Callable[[Batch], list[np.ndarray]]:
    """Return what runs a .pte in ExecuTorch's Python runtime: all its outputs."""
    with _quiet():
        from executorch.runtime import Runtime, Verification

        program = Runtime.get().load_program(content, verification=Verification.InternalConsistency)
        method = program.load_method("forward")

    def run(batch: Batch, _kept: object = (content, program)) -> list[np.ndarray]:  # else freed
        # Copied: the memory belongs to the method, and the next call writes it again.
        outputs = method.execute([torch.from_numpy(np.ascontiguousarray(batch))])
        return [output.detach().numpy().copy() for output in outputs]

    return run


def replace_norms(graph: nn.Module) -> None:
    """Make a convolution of each norm that no convolution precedes.

    The quantiser knows convolutions only. A norm in the graph would also make PyTorch's conversion
    look for norms in training, which takes minutes, at each trial.
    """
    for part in graph.modules():
        for name, norm in part.named_children():
            if isinstance(norm, nn.BatchNorm2d):
                channels = norm.num_features
                same = nn.Conv2d(channels, channels, 1, groups=channels, bias=False).eval()
                nn.init.ones_(same.weight)
                setattr(part, name, fuse_conv_bn_eval(same, norm).requires_grad_(False))


def _folded(program: ExportedProgram) -> ExportedProgram:
    """Compute now what depends on no picture: places and weights of the resize, turned kernels."""
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass

    folded: ExportedProgram = constant_prop_pass(program)
    return folded


class _OutputAlone(nn.Module):
    """A graph with one of its outputs."""

    def __init__(self, program: ExportedProgram, number: int) -> None:
        super().__init__()
        self.whole, self.number = program.module(), number

    def forward(self, images: Tensor) -> Tensor:
        """Return the output."""
        output: Tensor = self.whole(images)[self.number]
        return output


class ExecutorchQuantiser:
    """By PyTorch's quantisation for XNNPACK: symmetric, weights by channel."""

    def __init__(self, model: GraphModule) -> None:
        self.model = model

    def nodes(self) -> list[Node]:
        """Return the operators of the float model in topological order.

        A convolution and the ReLU behind it are one, since XNNPACK computes them at once.
        """

        def whole(node: Any) -> Any:
            if str(node.target) not in _RELU:
                return node
            (source,) = node.all_input_nodes
            return source if str(source.target) in _KINDS and len(source.users) == 1 else node

        return [
            Node(
                _name(node),
                _KINDS.get(str(node.target), str(node.target)),
                tuple(_name(whole(x)) for x in node.all_input_nodes if x.op == "call_function"),
            )
            for node in self.model.graph.nodes
            if node.op == "call_function" and whole(node) is node
        ]

    def quantised(self, pictures: Sequence[Batch], floats: Sequence[str]) -> Any:
        """Return the quantised model; the nodes ``floats`` stay in floats."""
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        class Quantizer(XNNPACKQuantizer):  # type: ignore[misc]
            """Without the patterns of training, which no graph here has: each costs seconds."""

            SUPPORTED_PATTERNS = tuple(
                pattern for pattern in XNNPACKQuantizer.SUPPORTED_PATTERNS if not pattern.is_qat
            )

        kept = frozenset(floats)
        quantizer = Quantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        quantizer.set_filter_function(lambda node: _name(node) not in kept)
        with _quiet(), torch.no_grad():
            prepared = prepare_pt2e(copy.deepcopy(self.model), quantizer)
            for picture in pictures:
                prepared(torch.from_numpy(picture))
            return convert_pt2e(prepared)

    def run(self, model: Any) -> Callable[[Batch], np.ndarray]:
        """Return what maps pictures to logits, N x K x h x w."""

        def run(picture: Batch) -> np.ndarray:
            with torch.no_grad():
                logits: Tensor = model(torch.from_numpy(picture))[-1]
            return logits.numpy()

        return run


def _name(node: Any) -> str:
    """Return a node's name behind that of the part of the network that it belongs to."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return f"{path}/{node.name}".lstrip("/")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the libraries print on the way; they still raise errors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quiet_exporters(), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


EXECUTORCH = ExportFormat((".pte", ".json"), ("fp32", "int8"), write, ExecutorchQuantiser)
