"""The format PyTorch: a program of ``torch.export``, and a library compiled by AOTInductor."""

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from sctnet.checkpoints.exported_file import METADATA_KEY, ExportedConfig
from sctnet.errors import SctnetError
from sctnet.export.export_format import ExportFormat
from sctnet.export.graph import DTYPES, PictureGraph
from sctnet.export.parity import Batch, Run
from sctnet.export.tracing import quiet_exporters, trace
from sctnet.models import SegmentationNetwork

METADATA_FILE = f"{METADATA_KEY}.json"
"""Within the archive."""


def write(network: SegmentationNetwork, config: ExportedConfig, file: Path) -> Run:
    """Write a .pt2 archive; return what runs the program in it, and the compiled one if any.

    It holds the program, which ``torch.export.load`` reads, and where size and batch are fixed also
    the library that AOTInductor compiles from it, for ``torch._inductor.aoti_load_package``: a
    compiler wants to know the sizes. That needs a C++ compiler, and takes a minute.
    """
    from torch.export.pt2_archive._package import package_pt2

    program = torch_program(network, config, inspected=False)
    compiled = _compiled(program) if config.size and config.batch else None
    with quiet_exporters():
        package_pt2(
            file,
            exported_programs=program,
            aoti_files=compiled,
            extra_files={METADATA_FILE: config.model_dump_json()},
        )
    return run_torch(file, torch_program(network, config, inspected=True), compiled is not None)


def torch_program(
    network: SegmentationNetwork, config: ExportedConfig, inspected: bool
) -> ExportedProgram:
    """Return the traced graph, for every size that was asked for."""
    graph = PictureGraph(
        network,
        config.model.preparation,
        config.output,
        DTYPES[config.precision],
        inspected,
        mirrors=config.mirrors,
    )
    return _for_any_size(trace(graph, config.size, config.batch))


def run_torch(file: Path, inspected: ExportedProgram, is_compiled: bool) -> Run:
    """Return what runs a file: the compiled library if there is one, held to the program."""
    with quiet_exporters():
        program = torch.export.load(file).module(check_guards=False)
        shown = inspected.module(check_guards=False)
        library = torch._inductor.aoti_load_package(str(file)) if is_compiled else None

    def run(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        images = torch.from_numpy(batch)
        with torch.no_grad():
            (answer,) = program(images) if library is None else library(images)
            return answer.numpy(), shown(images)[-1].numpy()

    return run


def _for_any_size(program: ExportedProgram) -> ExportedProgram:
    """Take out the assertions on sizes.

    They forbid sizes that the example did not have (one picture, a pool of one cell), on which the
    graph makes no use: parity is proven there too.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and "_assert" in str(node.target):
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _compiled(program: ExportedProgram) -> Any:
    """Return the files that AOTInductor makes of a program."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise SctnetError(
            "a compiled .pt2 needs a C++ compiler: install g++, or leave --size or --batch out "
            "for the program alone"
        )
    try:
        with quiet_exporters(), torch.no_grad():
            return torch._inductor.aot_compile(
                copy.deepcopy(program).module(),
                program.example_inputs[0],
                options={"aot_inductor.package": True},
            )
    except Exception as error:  # a compiler's own family of errors, of no common kind
        raise SctnetError(
            f"AOTInductor cannot compile this program ({str(error).strip().splitlines()[0]}): "
            "leave --size or --batch out for the program alone"
        ) from error


TORCH = ExportFormat((".pt2",), ("fp32", "fp16", "bf16"), write)
