"""A folder with everything that labels pictures in a browser: page, module, model and runtime."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sctnet.checkpoints.exported_file import ExportedConfig, Precision
from sctnet.checkpoints.model_folder import find_model, load_config, save_model
from sctnet.data.dataset import SegmentationDataset
from sctnet.errors import SctnetError
from sctnet.export.exporting import ExportReport, write_proven
from sctnet.export.web.onnxruntime_web import FILES, WEBASSEMBLY, runtime_files
from sctnet.export.web.web_model import WEB_MODEL
from sctnet.models import SegmentationNetwork
from sctnet.pictures.palette import default_palette

_ASSETS = Path(__file__).parent / "assets"
AGREEMENT = 0.99
"""The share of equal labels from which int8 is chosen: WebAssembly computes it twice as fast as
float32 (measured), and its file is half as large as one in float16."""


class WebReport(NamedTuple):
    """The written page, and what a browser has to fetch."""

    folder: Path
    model: ExportReport
    webassembly: float
    """Megabytes of the runtime."""
    webgpu: float
    """Instead, where the browser has a graphics processor."""

    def __str__(self) -> str:
        """Say it in three lines."""
        return (
            f"{self.folder}: a page and a JavaScript module; {self.model.config.precision}, "
            f"{self.model.megabytes:.1f} MB, runtime {self.webassembly:.1f} MB (with WebGPU "
            f"{self.webgpu:.1f} MB)\nBeside PyTorch: {self.model.parity}\n"
            "Any static server shows it; its README.md names the headers for threads."
        )


def export_web_page(
    model: str | os.PathLike[str] | SegmentationNetwork,
    out: str | os.PathLike[str],
    *,
    precision: Precision | None = None,
    images: str | os.PathLike[str] | None = None,
    calibrate: str | os.PathLike[str] | None = None,
    dataset: SegmentationDataset | None = None,
    max_drop: float = 1.0,
    runtime_folder: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> WebReport:
    """Write ``model`` as the folder ``out`` that labels pictures, videos and a camera in a browser.

    Nothing in it is fetched from elsewhere. Without a ``precision`` the model has float16 weights,
    or is int8 where pictures to ``calibrate`` on are given and at least 99 % of the labels on them
    are PyTorch's. ``images``, ``calibrate``, ``dataset``, ``max_drop`` and ``say`` are as in
    :func:`sctnet.export.exporting.export_model`; ``runtime_folder`` is as in
    :func:`~sctnet.export.web.onnxruntime_web.runtime_files`.

    Raises :class:`SctnetError` as these do, for an ``out`` that exists, and for a model that was
    calibrated to see mirrored pictures too; no folder is left then.
    """
    target = Path(out)
    if target.exists():
        raise SctnetError(f"{target}: exists already: choose another folder, or remove it")
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as beside:
            page = Path(beside) / "page"
            shutil.copytree(_ASSETS, page)
            (page / "model").mkdir()
            file = page / "model" / "model.onnx"
            if isinstance(model, SegmentationNetwork):
                model = save_model(model, Path(beside) / "model")
            folder = find_model(model)
            if load_config(folder).flip:
                raise SctnetError(
                    f"{model}: was calibrated to average with the mirrored picture, which a page "
                    "does not, to stay fast: calibrate it without --flip"
                )
            runtime = runtime_files(runtime_folder)
            common: dict[str, Any] = {
                "images": images, "dataset": dataset, "max_drop": max_drop, "say": say
            }  # fmt: skip
            report = _written(folder, file, precision, calibrate, common)
            described = json.dumps(describe(report.config), ensure_ascii=False, indent=1)
            (page / "model" / "model.json").write_text(described + "\n", encoding="utf-8")
            (page / "runtime").mkdir()
            for name in FILES:
                shutil.copyfile(runtime / name, page / "runtime" / name)
            page.replace(target)
    except OSError as error:
        raise SctnetError(
            f"{target}: cannot be written ({error.strerror or error}); "
            "give a new folder in an existing one"
        ) from error
    sizes = {name: (target / "runtime" / name).stat().st_size / 1e6 for name in FILES}
    webassembly = sum(sizes[name] for name in WEBASSEMBLY)
    in_place = report._replace(file=target / "model" / "model.onnx")
    return WebReport(target, in_place, webassembly, sum(sizes.values()) - webassembly)


def _written(
    folder: Path,
    file: Path,
    precision: Precision | None,
    calibrate: str | os.PathLike[str] | None,
    common: dict[str, Any],
) -> ExportReport:
    """Write the model in a precision, or in the one whose labels agree."""
    wanted = precision or ("fp16" if calibrate is None else "int8")
    if wanted not in WEB_MODEL.precisions:
        raise SctnetError(
            f"{wanted} does not go with web, which has {', '.join(WEB_MODEL.precisions)}: choose "
            "one of these, or leave --precision out"
        )
    report = write_proven(
        WEB_MODEL, folder, file, precision=wanted, output="logits8", calibrate=calibrate, **common
    )
    if precision is not None or wanted == "fp16":
        return report
    equal = report.parity.equal_labels
    if equal >= AGREEMENT:
        common["say"](f"int8: {100 * equal:.2f} % of the labels are PyTorch's, so it is taken")
        return report
    common["say"](
        f"int8: {100 * equal:.2f} % of the labels are PyTorch's, fewer than {100 * AGREEMENT:g} %, "
        "so float16 is taken"
    )
    images = common["images"] or calibrate
    return write_proven(
        WEB_MODEL, folder, file, precision="fp16", output="logits8", images=images,
        say=common["say"],
    )  # fmt: skip


def describe(config: ExportedConfig) -> dict[str, Any]:
    """Return what the page has to know of a model, as JSON."""
    model = config.model
    colours = model.colours or default_palette(len(model.classes))
    named = zip(model.classes, colours, strict=True)
    return {
        "format_version": 1,
        "name": model.network.variant,
        "classes": [
            {"index": index, "name": name, "colour": list(colour)}
            for index, (name, colour) in enumerate(named)
        ],
        "working_size": model.preparation.working_size.model_dump(),
        "precision": config.precision,
        "terms": model.terms,
        "sctnet": config.sctnet,
    }
