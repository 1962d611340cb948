"""Traces a graph with ``torch.export``, for pictures of any size or of one."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch
from torch.export import Dim, ExportedProgram

from sctnet.export.graph import PictureGraph

Size = tuple[int, int]

_EXAMPLE_SIZE = (601, 805)
"""The size of the example; no ratio or divisor that tracing could take for a rule."""


def trace(graph: PictureGraph, size: Size | None, batch: int | None) -> ExportedProgram:
    """Trace the graph for pictures of ``size``, ``batch`` at a time; None: any.

    Raises :class:`sctnet.errors.SctnetError` where the network refuses the size.
    """
    example = torch.zeros(batch or 2, *(size or _EXAMPLE_SIZE), 3, dtype=torch.uint8)
    free = [axis for axis in range(3) if (batch if axis == 0 else size) is None]
    shapes = (dict.fromkeys(free, Dim.DYNAMIC),)
    with torch.no_grad(), quiet_exporters():
        return torch.export.export(
            graph.eval(),
            (example,),
            dynamic_shapes=shapes,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Silence the progress messages of PyTorch's exporters; they still raise errors."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
