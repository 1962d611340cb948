"""Milliseconds from a picture of 512 x 1024 to its label map, on the CPU, by runtime and precision.

    python benchmarks/deploy.py [OTHER.onnx ...] [--pictures FOLDER] [--rounds N] [--threads 2]

SCTNet-S has the weights of the bundled model, so that its label maps are real; SCTNet-B and
DDRNet-23-slim have random ones. *Plain* is how such a network is usually exported: not fused, a
float image in, full-size logits out, and nothing else inside the clock. Ours are whole predictions
(``Segmenter.predict_labels``), bytes in, labels out: of a model folder as it is, and of exported
files. All forms of one model take turns in blocks of calls, beside S's plain export, so that a busy
machine slows all, and the best call counts; the figures are the ratios. Between the blocks the
threads of the engine before come to rest: timed call by call, they would spin on the cores that the
next one needs. Results are written apart for each kind of processor. Models follow each other: with
some thirty files open at once, each is slower than in the programs that people write. Further .onnx
files are run as they are, in ONNX Runtime and in OpenVINO.

With ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 SCTNET_KERNELS=avx2 only model folders are
timed, and no ratios told: ONNX Runtime heeds none of these.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from torch import nn
from torch.nn import functional as F

import sctnet
from sctnet.checkpoints.exported_file import ExportedConfig
from sctnet.checkpoints.model_folder import ModelConfig, load_config, load_model, save_model
from sctnet.data.images import read_image
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.export.exporting import FORMATS
from sctnet.export.openvino_format import OpenVinoQuantiser
from sctnet.export.quantisation import quantise
from sctnet.export.tracing import quiet_exporters
from sctnet.inference.files import find_pictures
from sctnet.inference.runtimes.cpu_runtime import CpuRuntime
from sctnet.inference.runtimes.openvino_engine import computed_precision, shared_core
from sctnet.inference.segmenter import Segmenter
from sctnet.machine import instruction_limits, processor_features
from sctnet.models import SegmentationNetwork, create_model
from sctnet.pipeline.label_map import label_map
from sctnet.pipeline.precision import is_emulated
from sctnet.pipeline.preprocessing import WorkingSize
from sctnet.provenance import environment
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
SIZE = 512, 1024
CALIBRATION = 48  # pictures

OURS = [
    ("onnx", "fp32", "labels"),
    ("onnx", "fp32", "logits8"),
    ("onnx", "int8", "logits8"),
    ("openvino", "fp32", "logits8"),
    ("openvino", "bf16", "labels"),
    ("openvino", "bf16", "logits8"),
    ("openvino", "int8", "labels"),
    ("openvino", "int8", "logits8"),
]
REST = 0.1
"""Seconds before a block of calls; engines spin for some hundredths."""
UNTIMED_CALLS, TIMED_CALLS = 2, 4
FEATURES = processor_features()
KIND = "avx512" if "AVX-512" in FEATURES else "avx2" if "AVX2" in FEATURES else "other"
if LIMITED := bool(instruction_limits()):
    KIND = "as_avx2"
BARS = {
    "avx512": {
        ("sctnet-s", "int8"): 0.30, ("sctnet-s", "bf16"): 0.38, ("sctnet-s", "fp32"): 0.55,
        ("sctnet-b", "int8"): 0.28, ("sctnet-b", "bf16"): 0.31, ("sctnet-b", "fp32"): 0.50,
    },
    "avx2": {("sctnet-s", "fp32"): 0.50, ("sctnet-b", "fp32"): 0.46},
}  # fmt: skip
"""Of the model's own plain export; the fastest form of each precision has to reach it. With AVX-512
come BF16 and VNNI."""

Run = Callable[[int], Any]
"""Labels the picture of this number."""


class Row(NamedTuple):
    """A way to run a model."""

    model: str
    how: str
    precision: str
    run: Run


class Plain(nn.Module):
    """A network and the last resize."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return full-size logits."""
        logits = self.network.features(images).logits
        return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)


def pictures_of(folder: Path | None) -> list[np.ndarray]:
    """Return pictures of the size, cut to its ratio: a folder's, or drawn streets."""
    if folder is None:
        return [SyntheticStreets(0, CALIBRATION, SIZE).image(k) for k in range(CALIBRATION)]
    found, _ = find_pictures([str(folder)], Path())
    step = -(-len(found) // CALIBRATION)
    return [_cut(read_image(picture.path)) for picture in found[::step]]


def _cut(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    rows, columns = min(height, width // 2), min(width, height * 2)
    top, left = (height - rows) // 2, (width - columns) // 2
    part = image[top : top + rows, left : left + columns]
    return np.asarray(cv2.resize(part, SIZE[::-1], interpolation=cv2.INTER_AREA))


def models() -> Iterable[tuple[str, SegmentationNetwork, ModelConfig]]:
    """Yield name, network and configuration; pictures pass as they are."""
    bundled = load_config("sctnet-s-camvid")
    preparation = bundled.preparation.model_copy(update={"working_size": WorkingSize()})
    config = bundled.model_copy(update={"preparation": preparation})
    yield "sctnet-s", load_model("sctnet-s-camvid"), config
    for name in ("sctnet-b", "ddrnet-23-slim"):
        torch.manual_seed(0)
        network = create_model(name, 19).eval()
        classes = tuple(f"class {k}" for k in range(19))
        yield name, network, ModelConfig(network=network.config, classes=classes)


def plain_export(network: SegmentationNetwork, file: Path) -> None:
    """Write a network as it is usually exported."""
    with torch.no_grad(), quiet_exporters():
        torch.onnx.export(
            Plain(network), (torch.zeros(1, 3, *SIZE),), file, dynamo=True, opset_version=18,
            external_data=False, verbose=False,
        )  # fmt: skip


def onnx_runtime(file: Path, inputs: list[np.ndarray], threads: int) -> Run:
    """Return what runs a file on prepared inputs in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda number: session.run(None, {name: inputs[number % len(inputs)]})


def open_vino(model: openvino.Model, inputs: list[np.ndarray], hint: str, threads: int) -> Run:
    """Return what runs a model on prepared inputs in OpenVINO."""
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = shared_core().compile_model(
        model, "CPU", settings | {"INFERENCE_PRECISION_HINT": hint}
    )
    request = compiled.create_infer_request()
    return lambda number: request.infer([inputs[number % len(inputs)]], share_inputs=True)


def our_rows(
    name: str, network: SegmentationNetwork, config: ModelConfig, pictures: list[np.ndarray],
    folder: Path, threads: int,
) -> list[Row]:  # fmt: skip
    """Save and export a model in all our ways."""
    saved = save_model(network, folder / name, config.classes, preparation=config.preparation)
    rows = []
    for precision in ("fp32", "bf16"):
        if is_emulated(precision, torch.device("cpu")):
            continue  # seconds a picture
        segmenter = Segmenter(saved, "cpu", precision)
        how = "folder" if isinstance(segmenter.runtime, CpuRuntime) else "folder, PyTorch"
        rows.append(Row(name, how, precision, partial(_labels, segmenter, pictures)))
    for kind, precision, output in [] if LIMITED else OURS:
        if kind == "openvino" and precision == "bf16" and computed_precision("bf16") == "fp32":
            continue  # its fp32 once more
        file = folder / f"{name}-{precision}-{output}{FORMATS[kind].suffixes[0]}"
        exported = ExportedConfig(
            model=config, output=output, precision=precision, size=SIZE, batch=1,
            weights_sha256="0" * 64, sctnet=sctnet.__version__,
        )  # fmt: skip
        quantised = None
        if precision == "int8":
            quantised = partial(_quantised, FORMATS[kind].quantiser, pictures, name)
        FORMATS[kind].write(network, exported, file, quantised)
        segmenter = Segmenter(file, threads=threads)
        run = partial(_labels, segmenter, pictures)
        rows.append(Row(name, f"{kind}, {output}", precision, run))
    return rows


def _quantised(quantiser: Any, pictures: list[np.ndarray], name: str, model: Any) -> Any:
    say = partial(print, f"{name}, {quantiser.__name__}:")
    return quantise(quantiser(model), [picture[None] for picture in pictures], say)


def _labels(segmenter: Segmenter, pictures: list[np.ndarray], number: int) -> Any:
    return segmenter.predict_labels([pictures[number % len(pictures)]])


def other_rows(file: Path, pictures: list[np.ndarray], threads: int) -> list[Row]:
    """Return the ways to run a foreign file; what comes out of it is left as it is."""
    (given, *_) = onnx.load(file, load_external_data=False).graph.input
    tensor = given.type.tensor_type
    last = tensor.shape.dim[-1].dim_value == 3
    images = [
        picture[None] if last else picture[None].transpose(0, 3, 1, 2) for picture in pictures
    ]
    if tensor.elem_type == onnx.TensorProto.FLOAT:
        images = [image.astype(np.float32) / 255 for image in images]
    images = [np.ascontiguousarray(image) for image in images]
    model = shared_core().read_model(file)
    quantiser = OpenVinoQuantiser(model, given.name)
    name = file.stem
    return [
        Row(name, "onnx, as it is", "fp32", onnx_runtime(file, images, threads)),
        Row(name, "openvino, as it is", "fp32", open_vino(model, images, "f32", threads)),
        Row(name, "openvino, as it is", "bf16", open_vino(model, images, "bf16", threads)),
        Row(
            name, "openvino, as it is", "int8",
            open_vino(quantiser.quantised(images, []), images, "bf16", threads),
        ),
    ]  # fmt: skip


def best_of(rows: list[Row], rounds: int) -> list[float]:
    """Return the fewest milliseconds of each, in turns."""
    best = [float("inf")] * len(rows)
    for number in range(rounds):
        for index, row in enumerate(rows):
            time.sleep(REST)
            for _ in range(UNTIMED_CALLS):
                row.run(number)
            for _ in range(TIMED_CALLS):
                began = time.perf_counter()
                row.run(number)
                best[index] = min(best[index], 1000 * (time.perf_counter() - began))
    return best


def measured(reference: list[Row], rows: list[Row], rounds: int) -> list[dict[str, Any]]:
    """Return the figures of a model's rows, which take turns with the reference."""
    together = [*reference, *rows]
    return table(together, best_of(together, rounds))[len(reference) :]


def gemm_peaks(side: int = 2048, runs: int = 12) -> dict[str, float]:
    """Return the tera-operations a second of square matrix products."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    whole = torch.randint(-128, 127, (2, side, side), dtype=torch.int8)
    products: dict[str, Callable[[], Any]] = {
        "fp32": lambda: a @ b,
        "bf16": partial(torch.matmul, a.bfloat16(), b.bfloat16()),
        "int8": lambda: torch._int_mm(whole[0], whole[1]),
    }
    peaks = {}
    for name, product in products.items():
        if LIMITED and name != "fp32":
            continue  # emulated: minutes
        seconds = float("inf")
        for _ in range(runs):
            began = time.perf_counter()
            product()
            seconds = min(seconds, time.perf_counter() - began)
        peaks[name] = round(2 * side**3 / seconds / 1e12, 3)
    return peaks


def label_map_milliseconds(pictures: list[np.ndarray], runs: int = 30) -> float:
    """Return what the last step takes on the bundled model's logits."""
    network = load_model("sctnet-s-camvid")
    mean, std = (
        torch.tensor(getattr(load_config("sctnet-s-camvid").preparation, part)).view(1, 3, 1, 1)
        for part in ("mean", "std")
    )
    with torch.inference_mode():
        image = torch.from_numpy(pictures[0]).permute(2, 0, 1)[None]
        logits = network.features((image - mean) / std).logits.contiguous()
        best = float("inf")
        for _ in range(runs):
            began = time.perf_counter()
            label_map(logits, SIZE)
            best = min(best, time.perf_counter() - began)
    return round(1000 * best, 3)


def table(rows: list[Row], best: list[float]) -> list[dict[str, Any]]:
    """Return the rows with their ratios, and say whether the bars are reached."""
    plain = {
        row.model: each for row, each in zip(rows, best, strict=True) if row.how == "onnx, plain"
    }
    bars, found = BARS.get(KIND, {}), []
    for row, each in zip(rows, best, strict=True):
        own = each / plain[row.model] if row.model in plain else None
        bar = None if row.how == "onnx, plain" else bars.get((row.model, row.precision))
        found.append(
            {
                "model": row.model, "how": row.how, "precision": row.precision,
                "milliseconds": round(each, 2),
                "ratio_to_sctnet_s_plain": round(each / plain["sctnet-s"], 3) if plain else None,
                "ratio_to_own_plain": None if own is None else round(own, 3),
                "bar": bar,
                "reached": None if bar is None or own is None else own <= bar,
            }
        )  # fmt: skip
    return found


def main() -> None:
    """Measure and write results/deployment_KIND.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("others", type=Path, nargs="*", help="further .onnx files of 512x1024")
    parser.add_argument("--pictures", type=Path, help="a folder; default: drawn streets")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / f"deployment_{KIND}.json")
    arguments = parser.parse_args()
    threads = arguments.threads
    torch.set_num_threads(threads)
    pictures = pictures_of(arguments.pictures)
    found: list[dict[str, Any]] = []
    reference: list[Row] = []
    with TemporaryDirectory() as folder:
        for name, network, config in models():
            rows: list[Row] = []
            if not LIMITED:
                plain = Path(folder) / f"{name}-plain.onnx"
                plain_export(network, plain)
                images = [each.transpose(2, 0, 1)[None].astype(np.float32) for each in pictures]
                run = onnx_runtime(plain, images[:4], threads)
                rows = [Row(name, "onnx, plain", "fp32", run)]
            own = rows[:]
            rows += our_rows(name, network, config, pictures, Path(folder), threads)
            found += measured(reference, rows, arguments.rounds)
            reference = reference or own
        for file in arguments.others:
            rows = other_rows(file, pictures, threads)
            found += measured(reference, rows, arguments.rounds)
    for row in found:
        own = row["ratio_to_own_plain"]
        bar = "" if row["bar"] is None else f"  (bar {row['bar']:.2f}x)"
        print(
            f"{row['model']:16} {row['how']:20} {row['precision']}  {row['milliseconds']:8.2f} ms  "
            + ("" if LIMITED else f"{row['ratio_to_sctnet_s_plain']:.3f}x S plain")
            + ("" if own is None else f"  {own:.3f}x own plain{bar}")
        )
    result = {
        "what": "512x1024, batch 1: plain, float image to full-size logits; ours, bytes to labels",
        "pictures": "drawn streets" if arguments.pictures is None else arguments.pictures.name,
        "rounds": arguments.rounds,
        "gemm_tera_operations_per_second": gemm_peaks(),
        "label_map_milliseconds": label_map_milliseconds(pictures),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "rows": found,
        "onnxruntime": onnxruntime.__version__,
        "openvino": openvino.__version__,
        **environment(),
    }
    print(
        {key: result[key] for key in ("gemm_tera_operations_per_second", "label_map_milliseconds")}
    )
    write_text(arguments.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
