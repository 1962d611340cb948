"""Write the table of measured figures into README.md, from results/.

    python tools/readme_figures.py [--check]

Only what stands between the two markers is replaced; --check says whether it is up to date.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from sctnet.writing import write_text

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- figures: made by `make bench` from results/ -->", "<!-- end of figures -->"


def small_table() -> str:
    """Return the README's table: the bundled model's score, and its speed on two cores."""
    scores, video = _read("camvid_sctnet-s/scores.json"), _read("video.json")
    large = _read("large_picture.json")
    rows = [
        (
            f"mIoU, pixel accuracy on CamVid's {scores['images']} test pictures",
            f"{100 * scores['miou']:.1f} %, {100 * scores['pixel_accuracy']:.1f} %",
        ),
        *(
            (
                f"a picture of 512x1024, bytes to labels, {_PROCESSORS[kind]}",
                ", ".join(f"{what} {_fastest(rows, 'sctnet-s', what)}" for what in _forms(rows)),
            )
            for kind in _PROCESSORS
            for rows in _deployment_rows(kind)
        ),
        (
            "a video of {1}x{0}, from file to file".format(*video["size"]),
            f"{video['rows'][0]['pipeline_frames_per_second']:.0f} frames/s",
        ),
        (
            f"memory for a picture of {large['side']:,} x {large['side']:,} pixels",
            f"{max(run['peak_gib'] for run in large['runs']):.1f} GiB",
        ),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"""
| `sctnet-s-camvid` on two CPU cores | |
|---|---|
{table}

In brackets: times as long as the same network exported plainly and run by ONNX Runtime.
"""


def _deployment_rows(kind: str) -> list[list[dict[str, Any]]]:
    """Return the measured forms on a kind of processor, or nothing where it was not measured."""
    file = f"deployment_{kind}.json"
    return [_read(file)["rows"]] if (ROOT / "results" / file).is_file() else []


def _forms(rows: list[dict[str, Any]]) -> list[str]:
    forms = ("plain", "fp32", "bf16", "int8")
    return [what for what in forms if _fastest(rows, "sctnet-s", what) != "-"]


def figures() -> str:
    """Return all figures in words, for the site."""
    run = _read("camvid_sctnet-s/summary.json")
    scores = _read("camvid_sctnet-s/scores.json")
    step = _read("training_step.json")
    fusing = {(row["variant"], tuple(row["size"])): row for row in _read("fusing.json")["rows"]}
    iou = " | ".join(f"{100 * value:.1f}" for value in scores["iou"].values())
    s, b = (fusing[name, (512, 1024)]["ratio"] for name in ("sctnet-s", "sctnet-b"))
    start = "from scratch" if run.get("started_from") is None else "from the backbone beside it"
    return f"""

SCTNet-S on CamVid (11 classes, 360x480), {start}, trained on train + val for
{run["iterations"]:,} iterations of {run["images"] // run["iterations"]} crops
({run["seconds"] / 60:.0f} minutes on two shared cores with AVX-512 and BF16,
seed {run["seed"]}), last weights, class offsets by `sctnet calibrate` on val,
on the {scores["images"]} test pictures ({scores["protocol"]}):
**mIoU {100 * scores["miou"]:.1f} %, pixel accuracy {100 * scores["pixel_accuracy"]:.1f} %.**

| {" | ".join(scores["iou"])} |
|{"---|" * len(scores["iou"])}
| {iou} |

Speed of that training: the step alone processes {step["step_images_per_second"]:.1f} images/s, the
loader alone delivers {step["loader_images_per_second"]:.0f}. `fuse()` takes {s:.2f} of SCTNet-S's
time at 512x1024 and {b:.2f} of SCTNet-B's (PyTorch eager on the same CPU, float32).
{_of_starts()}{_of_alignment()}{_of_prediction()}{_of_deployment()}"""


def _of_starts() -> str:
    """Say what the backbone in the package is worth on CamVid."""
    scratch, backbone = (
        100 * sum(_read(f"camvid_starts/{start}-{seed}/scores.json")["miou"] for seed in (0, 1)) / 2
        for start in ("scratch", "backbone")
    )
    run = _read("camvid_starts/backbone-0/summary.json")
    return f"""
What the pre-trained backbone is worth there, same recipe and {run["iterations"]} iterations, two
seeds: {scratch:.1f} % mIoU from scratch, {backbone:.1f} % from the backbone.
"""


def _of_alignment() -> str:
    """Say what a teacher was worth on CamVid, and what it costs."""
    scores = {
        name: _read(f"camvid_alignment/{name}/scores.json")
        for name in ("plain", "aligned", "teacher_efficientnet-lite2", "teacher_segformer-b0")
    }
    first, *_, large = _read("alignment_step.json")["cases"]
    miou = {name: 100 * found["miou"] for name, found in scores.items()}
    plain, aligned = miou["plain"], miou["aligned"]
    teacher, small = miou["teacher_efficientnet-lite2"], miou["teacher_segformer-b0"]
    run = _read("camvid_alignment/aligned/summary.json")
    crops = run["images"] // run["iterations"]
    ratio = first["time_ratio"]
    memory = [large[f"{key}_alignment"]["peak_memory_gib"] for key in ("without", "with")]
    return f"""
What a teacher is worth there, same recipe, seed and {run["iterations"]} iterations of {crops}
crops, test pictures: SCTNet-S alone {plain:.1f} % mIoU, taught {aligned:.1f} %. Its teacher,
EfficientNet-Lite2 with SegFormer's head, has {teacher:.1f} % itself (a SegFormer-B0 from scratch,
after minutes, {small:.1f} %). One seed. A taught step takes {ratio:.1f} times as long, so in the
same time an untaught run gets further than this shows. A step of SCTNet-B with SegFormer-B3 on one
1024x1024 crop takes {large["time_ratio"]:.1f} times as long, and {memory[1]:.1f} instead of
{memory[0]:.1f} GiB.
"""


def _of_prediction() -> str:
    """Say how fast videos are labelled, and how much memory a very large picture takes."""
    video, large = _read("video.json"), _read("large_picture.json")
    height, width = video["size"]
    folder, folder_bf16, onnx, fp32, _, int8 = (
        f"{row['pipeline_frames_per_second']:.0f}" for row in video["rows"]
    )
    alone = video["rows"][0]["bare_model_frames_per_second"]
    side, most = large["side"], max(run["peak_gib"] for run in large["runs"])
    return f"""
A video of {width}x{height} is labelled, from file to file, at {folder} frames/s (the model alone:
{alone:.0f}), {folder_bf16} in bf16, {onnx} in ONNX Runtime, {fp32} in OpenVINO and {int8} there in
int8, on two cores with AVX-512 and BF16. A picture of {side:,} x {side:,} pixels takes at most
{most:.1f} GiB.
"""


_PROCESSORS = {
    "avx2": "AVX2",
    "as_avx2": "AVX-512 processor as AVX2",
    "avx512": "AVX-512, BF16, VNNI",
}


def _of_deployment() -> str:
    """Say how fast a picture is labelled on each kind of processor, in the best form."""
    reports = {
        name: _read(file)
        for kind, name in _PROCESSORS.items()
        if (ROOT / "results" / (file := f"deployment_{kind}.json")).is_file()
    }
    lines = [("", *reports), ("---",) * (1 + len(reports))]
    for what in ("fp32", "bf16", "int8"):
        peaks = (r["gemm_tera_operations_per_second"].get(what) for r in reports.values())
        cells = ("-" if peak is None else f"{1000 * peak:.0f} G/s" for peak in peaks)
        lines.append((f"PyTorch's large products, {what}", *cells))
    for model in ("sctnet-s", "sctnet-b", "ddrnet-23-slim"):
        for what in ("plain", "fp32", "bf16", "int8"):
            cells = (_fastest(report["rows"], model, what) for report in reports.values())
            lines.append((f"`{model}` {what}", *cells))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"""
A picture of 512x1024 on two cores of each kind of processor, from bytes to label map, beside the
model as it is usually exported (*plain*: float image in, full-size logits out, ONNX Runtime); the
fastest form of each precision, of a model folder where nothing else is named:

{table}
"""


def _fastest(rows: list[dict[str, Any]], model: str, what: str) -> str:
    """Return milliseconds, and their ratio to the plain export, of the fastest form."""
    own = [row for row in rows if row["model"] == model]
    if what == "plain":
        plain = (f"{row['milliseconds']:.1f} ms" for row in own if row["how"] == "onnx, plain")
        return next(plain, "-")
    forms = [row for row in own if row["precision"] == what and row["how"] != "onnx, plain"]
    if not forms:
        return "-"
    row = min(forms, key=lambda row: row["milliseconds"])
    form = {"folder": "", "onnx": ", ONNX", "openvino": ", OpenVINO"}[row["how"].split(",")[0]]
    ratio = row["ratio_to_own_plain"]
    return f"{row['milliseconds']:.1f} ms" + ("" if ratio is None else f" ({ratio:.2f}x{form})")


def _read(name: str) -> Any:
    return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))


def main() -> None:
    """Replace the section, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    text = f"{before}{BEGIN}\n{small_table()}{END}{after}"
    if check and text != readme.read_text(encoding="utf-8"):
        sys.exit(
            "README.md: its figures are not those of results/; run python tools/readme_figures.py"
        )
    if not check:
        write_text(readme, text)


if __name__ == "__main__":
    main()
