"""Writes a model as a file that runs without this package, after a comparison with PyTorch."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, get_args

from pydantic import ValidationError

from sctnet.checkpoints.exported_file import ExportedConfig, Output, Precision
from sctnet.checkpoints.model_folder import (
    WEIGHTS_FILE,
    find_model,
    first_message,
    load_config,
    load_model,
    save_model,
)
from sctnet.data.dataset import SegmentationDataset
from sctnet.errors import SctnetError
from sctnet.export.executorch_format import EXECUTORCH
from sctnet.export.export_format import ExportFormat
from sctnet.export.onnx_format import ONNX
from sctnet.export.openvino_format import OPENVINO
from sctnet.export.parity import (
    LIMITS,
    Parity,
    Quantise,
    Reference,
    batches_for,
    compare,
    refuse_difference,
)
from sctnet.export.quantisation import (
    CalibrationPictures,
    labels_by_logits,
    quantise,
    require_accuracy,
)
from sctnet.export.tensorrt_format import TENSORRT
from sctnet.export.torch_format import TORCH
from sctnet.inference.runtimes.runtime import RUNTIMES
from sctnet.inference.scoring import require_same_classes
from sctnet.inference.segmenter import Segmenter
from sctnet.models import SegmentationNetwork

Format = Literal["onnx", "openvino", "torch", "tensorrt", "executorch"]
FORMATS: dict[str, ExportFormat] = {
    "onnx": ONNX,
    "openvino": OPENVINO,
    "torch": TORCH,
    "tensorrt": TENSORRT,
    "executorch": EXECUTORCH,
}
MAX_PIXELS = 100_000_000
"""The limit for a fixed size times a fixed batch."""


class ExportOptions(TypedDict, total=False):
    """The keyword arguments of :func:`export_model` but its ``format``."""

    precision: Precision
    output: Output
    size: tuple[int, int] | None
    batch: int | None
    images: str | os.PathLike[str] | None
    calibrate: str | os.PathLike[str] | None
    dataset: SegmentationDataset | None
    max_drop: float
    say: Callable[[str], None]


class ExportReport(NamedTuple):
    """The written file, and its comparison with PyTorch."""

    file: Path
    config: ExportedConfig
    parity: Parity
    megabytes: float

    def __str__(self) -> str:
        """Say it in two lines."""
        height_width = self.config.size
        size = "any size" if height_width is None else "x".join(map(str, height_width))
        batch = "any number" if self.config.batch is None else f"{self.config.batch} at a time"
        return (
            f"{self.file}: {self.config.precision}, {self.config.output}, pictures of {size}, "
            f"{batch}, {self.megabytes:.1f} MB\nBeside PyTorch: {self.parity}"
        )


def export_model(
    model: str | os.PathLike[str] | SegmentationNetwork,
    out: str | os.PathLike[str],
    *,
    format: Format = "onnx",  # noqa: A002 - the command's own word
    precision: Precision = "fp32",
    output: Output = "labels",
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    images: str | os.PathLike[str] | None = None,
    calibrate: str | os.PathLike[str] | None = None,
    dataset: SegmentationDataset | None = None,
    max_drop: float = 1.0,
    say: Callable[[str], None] = lambda _: None,
) -> ExportReport:
    """Write ``model`` (a folder, bundled name, hub id or network) as the file ``out``.

    The file takes RGB bytes, N x H x W x 3, and gives ``labels`` (uint8, int32 above 255 classes),
    ``logits`` or ``probabilities`` (float32) at the pictures' size, or ``logits8``, the logits at
    the network's own stride. Pictures may have any size and number, unless ``size`` (height,
    width) and ``batch`` fix them. Resizing and normalisation are part of the file, and so is the
    whole description of the model's folder. Before the file appears, it is compared with PyTorch on
    the pictures of the folder ``images``, or on drawn streets. It replaces an earlier file.

    int8 needs pictures like those to come, in the folder ``calibrate``; up to 300 of them are
    taken; it is compared on these. With a ``dataset`` the mIoU before and after is reported, and a
    file that lost more than ``max_drop`` points is not written. ``say`` receives what is found on
    the way, a line at a time.

    Raises :class:`SctnetError`, and leaves no file, if the file differs more than
    :data:`sctnet.export.parity.LIMITS` allows, for options that exclude each other, a missing
    package, a model that cannot be loaded, and a folder that cannot be written.
    """
    chosen = _checked_format(format, precision, Path(out))
    return write_proven(
        chosen, model, Path(out), precision=precision, output=output, size=size, batch=batch,
        images=images, calibrate=calibrate, dataset=dataset, max_drop=max_drop, say=say,
    )  # fmt: skip


def write_proven(
    chosen: ExportFormat,
    model: str | os.PathLike[str] | SegmentationNetwork,
    file: Path,
    *,
    precision: Precision,
    output: Output,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    images: str | os.PathLike[str] | None = None,
    calibrate: str | os.PathLike[str] | None = None,
    dataset: SegmentationDataset | None = None,
    max_drop: float = 1.0,
    say: Callable[[str], None] = lambda _: None,
) -> ExportReport:
    """Do what :func:`export_model` does, for a format that need not have a row of its own."""
    _check_int8(precision, calibrate, dataset)
    with _beside(file) as beside:
        folder = _folder_of(model, beside)
        config = _configuration(folder, precision, output, size, batch)
        # What can be refused is refused before the minutes that writing takes.
        seen = images or calibrate
        pictures = batches_for(config, None if seen is None else Path(seen))
        if dataset is not None:
            dataset.require_labels()
            require_same_classes(config.model.classes, dataset)
        network = load_model(folder)
        written = beside / file.name
        quantised = _quantise(chosen, calibrate, config, say)
        run = chosen.write(network, config, written, *([quantised] if quantised else []))
        parity = compare(run, Reference(network, config), pictures)
        refuse_difference(parity, LIMITS[precision], file)
        if dataset is not None:
            opened = file.suffix in RUNTIMES
            predict = Segmenter(written).predict_labels if opened else labels_by_logits(run, config)
            say(require_accuracy(folder, predict, file, dataset, max_drop))
        megabytes = _put_in_place(written, file, chosen)
    return ExportReport(file, config, parity, megabytes)


def _quantise(
    chosen: ExportFormat,
    calibrate: str | os.PathLike[str] | None,
    config: ExportedConfig,
    say: Callable[[str], None],
) -> Quantise | None:
    """Return the function that quantises the float model; None for other precisions."""
    if config.precision != "int8":
        return None
    assert chosen.quantiser is not None
    assert calibrate is not None
    pictures, quantiser = CalibrationPictures(Path(calibrate), config), chosen.quantiser

    def quantised(model: Any) -> Any:
        say(f"calibrating on {len(pictures)} pictures of {calibrate}")
        return quantise(quantiser(model), pictures, say)

    return quantised


def _check_int8(
    precision: Precision,
    calibrate: str | os.PathLike[str] | None,
    dataset: SegmentationDataset | None,
) -> None:
    if precision == "int8" and calibrate is None:
        raise SctnetError(
            "int8 is calibrated on pictures like those to come: give --calibrate FOLDER"
        )
    if precision != "int8" and (calibrate is not None or dataset is not None):
        raise SctnetError(
            f"--calibrate and --data go with --precision int8, not {precision}: leave them out"
        )


def _checked_format(name: str, precision: str, file: Path) -> ExportFormat:
    if name not in FORMATS:
        raise SctnetError(f"unknown format {name!r}: choose one of {', '.join(FORMATS)}")
    chosen = FORMATS[name]
    known = get_args(Precision)
    if precision not in known:
        raise SctnetError(f"unknown precision {precision!r}: choose one of {', '.join(known)}")
    if precision not in chosen.precisions:
        others = [other for other in FORMATS if precision in FORMATS[other].precisions]
        raise SctnetError(
            f"{precision} does not go with {name}, which has {', '.join(chosen.precisions)}: "
            f"choose one of these, or --format {' or '.join(others)}"
        )
    if file.suffix != chosen.suffixes[0]:
        raise SctnetError(
            f"{file}: the name of such a file ends in {chosen.suffixes[0]}: "
            f"give {file.with_suffix(chosen.suffixes[0])}"
        )
    if file.is_dir():
        raise SctnetError(f"{file}: is a folder: give the name of a file in it")
    return chosen


@contextlib.contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``file``."""
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=file.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise SctnetError(
            f"{file}: cannot be written ({error.strerror or error}); "
            "give a file in an existing folder with space"
        ) from error


def _put_in_place(written: Path, file: Path, chosen: ExportFormat) -> float:
    """Rename the files, the named one last; return their size in megabytes."""
    size = 0
    for suffix in reversed(chosen.suffixes):
        part = written.with_suffix(suffix)
        size += part.stat().st_size
        part.replace(file.with_suffix(suffix))
    return size / 1e6


def _folder_of(model: str | os.PathLike[str] | SegmentationNetwork, beside: Path) -> Path:
    """Return the model's folder; a network in memory is saved to one."""
    if isinstance(model, SegmentationNetwork):
        return save_model(model, beside / "model")
    if str(model).endswith(tuple(each.suffixes[0] for each in FORMATS.values())):
        raise SctnetError(f"{model}: exported already: give the model folder that it was made from")
    return find_model(model)


def _configuration(
    folder: Path,
    precision: Precision,
    output: Output,
    size: tuple[int, int] | None,
    batch: int | None,
) -> ExportedConfig:
    with (folder / WEIGHTS_FILE).open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    try:
        config = ExportedConfig(
            model=load_config(folder),
            output=output,
            precision=precision,
            size=size,
            batch=batch,
            weights_sha256=sha256,
            sctnet=version("sctnet"),
        )
    except ValidationError as error:
        raise SctnetError(f"cannot export: {first_message(error)}") from error
    height, width = config.size or (1, 1)
    if height * width * (config.batch or 1) > MAX_PIXELS:
        raise SctnetError(
            f"{batch or 1} pictures of {height}x{width} are more than {MAX_PIXELS:,} pixels: "
            "give a smaller --size or --batch"
        )
    return config
