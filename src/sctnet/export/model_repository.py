"""Model repositories for Triton and OpenVINO Model Server, made from an exported file.

Triton: ``NAME/config.pbtxt`` by ``model_config.proto``
(https://github.com/triton-inference-server/common), ``NAME/labels.txt`` and ``NAME/1/model.onnx``;
its scheduler puts requests of one picture size together. OpenVINO Model Server: ``config.json`` by
the schema in its ``src/schema.cpp`` (https://github.com/openvinotoolkit/model_server),
``NAME/1/model.xml`` and ``model.bin``, and ``NAME/labels.txt`` for whoever reads the results.
"""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal, Unpack

from sctnet.checkpoints.exported_file import EXPORTED_SUFFIXES, ExportedConfig
from sctnet.errors import SctnetError
from sctnet.export.exporting import ExportOptions, ExportReport, export_model
from sctnet.models import SegmentationNetwork
from sctnet.pipeline.label_dtype import UINT8_CLASSES

Server = Literal["triton", "openvino-model-server"]

FORMATS: dict[Server, Literal["onnx", "openvino"]] = {
    "triton": "onnx",
    "openvino-model-server": "openvino",
}
"""The format of the files that a server takes."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_TOGETHER = 8  # pictures of one size that Triton lets pass the network together
_QUEUE_MICROSECONDS = 2000  # that a request waits for others at most


def export_model_repository(
    model: str | os.PathLike[str] | SegmentationNetwork,
    out: str | os.PathLike[str],
    server: Server,
    **options: Unpack[ExportOptions],
) -> ExportReport:
    """Export a model, with the ``options`` of :func:`export_model`, as a new model repository.

    Clients know it by the name of the folder ``out``. Raises :class:`SctnetError` as
    :func:`export_model` and :func:`write_model_repository` do, and leaves no folder then.
    """
    target = Path(out)
    _checked_name(target, server, None)
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as folder:
            file = Path(folder) / f"model{EXPORTED_SUFFIXES[FORMATS[server]][0]}"
            report = export_model(model, file, format=FORMATS[server], **options)
            return report._replace(file=write_model_repository(file, report.config, server, target))
    except OSError as error:
        raise SctnetError(
            f"{target}: cannot be written ({error.strerror or error}); "
            "give a new folder in an existing one"
        ) from error


def write_model_repository(
    file: str | os.PathLike[str],
    config: ExportedConfig,
    server: Server,
    out: str | os.PathLike[str],
    name: str | None = None,
) -> Path:
    """Write the model repository ``out`` for a server, and return its path.

    ``file`` is what ``sctnet export`` made, of which ``config`` tells: an .onnx for Triton, an .xml
    with its .bin for OpenVINO Model Server. ``name``, by which clients know the model, is by
    default that of ``out``. The folder appears whole or not at all. Raises :class:`SctnetError`
    for a file of another kind, a name that servers do not take, an ``out`` that exists, and
    where writing fails.
    """
    source, target = Path(file), Path(out)
    model = _checked_name(target, server, name)
    if source.suffix != EXPORTED_SUFFIXES[FORMATS[server]][0]:
        raise SctnetError(
            f"{source}: {server} takes a file that ends in {EXPORTED_SUFFIXES[FORMATS[server]][0]}"
        )
    beside = target.with_name(f".{target.name[:40]}.{os.getpid()}.part")
    try:
        _write(source, config, server, beside, model)
        beside.replace(target)
    except OSError as error:
        named = error.filename or target
        raise SctnetError(
            f"{target}: cannot be written ({error.strerror or error}: {named})"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def _checked_name(target: Path, server: Server, name: str | None) -> str:
    """Return the model's name, for which there is a server and a place."""
    model = target.resolve().name if name is None else name
    if server not in FORMATS:
        raise SctnetError(f"unknown server {server!r}: choose one of {', '.join(FORMATS)}")
    if _NAME.fullmatch(model) is None:
        raise SctnetError(
            f"{model!r}: not a valid model name: use letters, digits, ., _ and -, 100 at most"
        )
    if target.exists():
        raise SctnetError(f"{target}: exists already: choose another folder, or remove it")
    return model


def _write(source: Path, config: ExportedConfig, server: Server, folder: Path, name: str) -> None:
    version = folder / name / "1"
    version.mkdir(parents=True)
    for suffix in EXPORTED_SUFFIXES[FORMATS[server]]:
        shutil.copyfile(source.with_suffix(suffix), version / f"model{suffix}")
    names = [" ".join(each.split()) for each in config.model.classes]  # one a line
    (folder / name / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    if server == "triton":
        text = triton_configuration(config, name)
        (folder / name / "config.pbtxt").write_text(text, encoding="utf-8")
    else:
        content = json.dumps(openvino_configuration(config, name), indent=2) + "\n"
        (folder / "config.json").write_text(content, encoding="utf-8")


def triton_configuration(config: ExportedConfig, name: str) -> str:
    """Return a model's config.pbtxt, a ``ModelConfig`` in protobuf's text format.

    A file that takes any number of pictures gets dynamic batching, and its tensors stand there
    without their first dimension, as Triton wants it; any other stands there as it is.
    """
    output, kind, sides = _output(config)
    dynamic = config.batch is None
    batch = [] if dynamic else [config.batch]
    height_width = [-1, -1] if config.size is None else list(config.size)
    lines = [
        f'name: "{name}"',
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {_MAX_TOGETHER if dynamic else 0}",
        "input {",
        '  name: "images"',
        "  data_type: TYPE_UINT8",
        f"  dims: {[*batch, *height_width, 3]}",
        "}",
        "output {",
        f'  name: "{output}"',
        f"  data_type: {kind}",
        f"  dims: {[*batch, *sides]}",
        *(['  label_filename: "labels.txt"'] if config.output == "labels" else []),
        "}",
    ]
    if dynamic:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {_QUEUE_MICROSECONDS} }}")
    return "\n".join(lines) + "\n"


def openvino_configuration(config: ExportedConfig, name: str) -> dict[str, Any]:
    """Return the config.json of OpenVINO Model Server; its paths are relative to that file.

    The server keeps several requests under way at once instead of putting them together. A file
    in floats is computed in the precision that it says, not in the CPU's own choice.
    """
    plugin: dict[str, Any] = {"PERFORMANCE_HINT": "THROUGHPUT"}
    precision = {"fp32": "f32", "fp16": "f32", "bf16": "bf16"}.get(config.precision)
    if precision is not None:
        plugin["INFERENCE_PRECISION_HINT"] = precision
    entry = {"name": name, "base_path": name, "plugin_config": plugin}
    return {"model_config_list": [{"config": entry}]}


def _output(config: ExportedConfig) -> tuple[str, str, list[int]]:
    """Return the output's name, Triton's type, and its dimensions behind the first."""
    classes = len(config.model.classes)
    sides = [-1, -1]
    if config.size is not None and config.output != "logits8":
        sides = list(config.size)
    if config.output == "labels":
        return "labels", "TYPE_UINT8" if classes <= UINT8_CLASSES else "TYPE_INT32", sides
    name = "probabilities" if config.output == "probabilities" else "logits"
    return name, "TYPE_FP32", [classes, *sides]
