"""The format ExecuTorch, for phones and small computers: a .pte program, and a .json about it.

XNNPACK computes the network; what it lacks (gathering, argmax) ExecuTorch's own operators compute.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from sctnet.checkpoints.exported_file import ExportedConfig
from sctnet.errors import SctnetError
from sctnet.export.export_format import ExportFormat
from sctnet.export.graph import PictureGraph
from sctnet.export.onnx_format import required
from sctnet.export.parity import Batch, Run
from sctnet.export.tracing import quiet_exporters, trace
from sctnet.models import SegmentationNetwork


def write(network: SegmentationNetwork, config: ExportedConfig, file: Path) -> Run:
    """Write a .pte and its .json; return what runs the .pte in ExecuTorch's Python runtime."""
    required("executorch", "executorch")
    if config.size is None or config.batch is None:
        raise SctnetError(
            "a .pte plans its memory for pictures of one size: give --size HEIGHTxWIDTH and "
            "--batch 1, as the camera or the app delivers them"
        )
    graph = PictureGraph(network, config.model.preparation, config.output, inspected=True)
    graph.requires_grad_(False)  # its own copy of the network
    with _quiet(), torch.no_grad():
        program = _folded(trace(graph, config.size, config.batch))
        # First: lowering takes a program's constants out of it.
        alone = torch.export.export(_AnswerAlone(program), program.example_inputs[0])
        shown = lowered(program)
        file.write_bytes(lowered(alone))
    file.with_suffix(".json").write_text(config.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return run_executorch(file.read_bytes(), shown)


def lowered(program: ExportedProgram) -> bytes:
    """Return a program as a .pte, with XNNPACK for all that it computes."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    return bytes(edge.to_executorch().buffer)


def run_executorch(content: bytes, shown: bytes) -> Run:
    """Return what runs a .pte, and one with its logits shown, in ExecuTorch's Python runtime."""
    whole, inspected = (method_of(each) for each in (content, shown))

    def run(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        (answer,) = whole(batch)
        return answer, inspected(batch)[-1]

    return run


def method_of(content: bytes) -> Callable[[Batch], list[np.ndarray]]:
    """Return what runs a .pte in ExecuTorch's Python runtime: all its outputs."""
    with _quiet():
        from executorch.runtime import Runtime, Verification

        program = Runtime.get().load_program(content, verification=Verification.InternalConsistency)
        method = program.load_method("forward")

    def run(batch: Batch, _kept: object = (content, program)) -> list[np.ndarray]:  # else freed
        # Copied: the memory belongs to the method, and the next call writes it again.
        outputs = method.execute([torch.from_numpy(batch)])
        return [output.detach().numpy().copy() for output in outputs]

    return run


def _folded(program: ExportedProgram) -> ExportedProgram:
    """Compute now what depends on no picture: places and weights of the resize, turned kernels."""
    from executorch.exir.passes.constant_prop_pass import constant_prop_pass

    folded: ExportedProgram = constant_prop_pass(program)
    return folded


class _AnswerAlone(nn.Module):
    """A graph without its last output, the logits."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.whole = program.module()

    def forward(self, images: Tensor) -> Tensor:
        """Return the answer."""
        answer: Tensor = self.whole(images)[0]
        return answer


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


EXECUTORCH = ExportFormat((".pte", ".json"), ("fp32",), write)
