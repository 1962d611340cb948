"""Milliseconds from a picture of 480 x 640 to its label map, as phones and browsers compute it.

    python benchmarks/browser_and_phone.py files FOLDER [--pictures PHOTOS]   # exports, minutes
    python benchmarks/browser_and_phone.py time FOLDER                        # under a minute
    python benchmarks/browser_and_phone.py browser FOLDER                     # under a minute

``files`` writes, for SCTNet-S (bundled weights), SCTNet-B and SCTNet-tiny (random ones), the files
of ExecuTorch in fp32 and int8 and those of ONNX Runtime in fp32, fp16 and int8, and a page for
browsers. int8 is calibrated on the pictures, or on drawn streets. ``time`` runs all of them on one
core and on all cores: each in a process of its own that may use so many, since not every runtime
can be told. ``browser`` reads the frames per second that the page shows of a fake camera, in one
thread and in all; it needs chromium, chromedriver and selenium. ``files`` needs the extras ``onnx``
and ``executorch``, and npm. Results: ``results/browser_and_phone.json``.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import sctnet
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.export.exporting import export_model
from sctnet.export.web.web_page import export_web_page
from sctnet.machine import usable_cores
from sctnet.pictures.encoding import encode_picture
from sctnet.pipeline.preprocessing import PreprocessingConfig, WorkingSize
from sctnet.provenance import environment
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results" / "browser_and_phone.json"
SIZE = 480, 640
FILES = [
    ("executorch", ".pte", "fp32"),
    ("executorch", ".pte", "int8"),
    ("onnx", ".onnx", "fp32"),
    ("onnx", ".onnx", "fp16"),
    ("onnx", ".onnx", "int8"),
]
SECONDS = 0.5
"""Of timed calls of each file."""


def models(folder: Path) -> dict[str, str]:
    """Return the model folders; the networks without weights of their own are random."""
    found = {"sctnet-s": "sctnet-s-camvid"}
    for name in ("sctnet-b", "sctnet-tiny"):
        torch.manual_seed(0)
        preparation = PreprocessingConfig(working_size=WorkingSize(rule="shorter-side", pixels=360))
        classes = tuple(f"class {k}" for k in range(11))
        network = sctnet.create_model(name, 11)
        found[name] = str(
            sctnet.save_model(network, folder / name, classes, preparation=preparation)
        )
    return found


def write_files(folder: Path, pictures: Path | None) -> None:
    """Write what :func:`time_files` times; tell size and equal labels of each."""
    folder.mkdir(parents=True, exist_ok=True)
    if pictures is None:
        pictures = folder / "drawn"
        pictures.mkdir(exist_ok=True)
        drawn = SyntheticStreets(1, 48, SIZE)
        for number in range(48):
            (pictures / f"{number}.png").write_bytes(encode_picture(drawn.image(number), ".png"))
    told: dict[str, Any] = {}
    for name, model in models(folder).items():
        for kind, suffix, precision in FILES:
            report = export_model(
                model, folder / f"{name}-{precision}{suffix}", format=kind, precision=precision,
                size=SIZE, batch=1, images=pictures,
                calibrate=pictures if precision == "int8" else None,
            )  # fmt: skip
            told[report.file.name] = {
                "megabytes": round(report.megabytes, 2),
                "equal_labels": report.parity.equal_labels,
            }
            print(report, flush=True)
    shutil.rmtree(folder / "page", ignore_errors=True)
    print(export_web_page("sctnet-s-camvid", folder / "page"))
    write_text(folder / "files.json", json.dumps(told, indent=1) + "\n")


def opened(file: Path, cores: int) -> Callable[[np.ndarray], Any]:
    """Return what labels a picture."""
    if file.suffix == ".pte":
        from sctnet.export.executorch_format import method_of

        return method_of(file.read_bytes())
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda picture: session.run(None, {"images": picture})


def time_here(folder: Path, cores: int) -> dict[str, float]:
    """Time every file in this process, on so many cores; return the medians in milliseconds."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    picture = SyntheticStreets(2, 1, SIZE).image(0)[None]
    found = {}
    for file in sorted([*folder.glob("*.pte"), *folder.glob("*.onnx")]):
        run = opened(file, cores)
        run(picture)
        times: list[float] = []
        while sum(times) < SECONDS or len(times) < 3:
            start = time.perf_counter()
            run(picture)
            times.append(time.perf_counter() - start)
        found[file.name] = round(1000 * float(np.median(times)), 1)
    return found


def rates(folder: Path, threads: int) -> str:
    """Return what the page tells of its speed, of a fake camera in Chromium."""
    from selenium import webdriver

    frames = [SyntheticStreets(0, 8, SIZE).image(number)[..., ::-1] for number in range(8)]
    camera = folder / "camera.mjpeg"
    camera.write_bytes(b"".join(cv2.imencode(".jpg", frame)[1] for frame in frames))
    program = "import sys; from pathlib import Path; "
    program += "from sctnet.serving.static_folder import serve_folder; "
    program += "serve_folder(Path(sys.argv[1]), lambda at: print(at, flush=True), 0)"
    server = subprocess.Popen(  # noqa: S603 - ours
        [sys.executable, "-c", program, str(folder / "page")], stdout=subprocess.PIPE, text=True
    )
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    usual = ["headless=new", "no-sandbox", "use-fake-device-for-media-stream"]
    usual += ["use-fake-ui-for-media-stream", f"use-file-for-fake-video-capture={camera}"]
    for argument in usual:
        options.add_argument(f"--{argument}")
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.get(f"{address}?backend=wasm&threads={threads}")
        camera_button = driver.find_element("id", "camera")
        while not camera_button.is_enabled():
            time.sleep(0.1)
        camera_button.click()
        time.sleep(6)
        return str(driver.find_element("id", "live").text)
    finally:
        driver.quit()
        server.terminate()
        server.wait()


def write_results(found: dict[str, Any]) -> None:
    """Print what was found, and put it beside what was found before."""
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    print(json.dumps(found, indent=1))
    told = before | found | {"environment": environment()}
    write_text(RESULTS, json.dumps(told, indent=1) + "\n")


def time_files(folder: Path) -> None:
    """Time all files on one core and on all."""
    files = json.loads((folder / "files.json").read_text())
    command = [sys.executable, __file__, "here", str(folder)]
    for cores in sorted({1, usable_cores()}):
        done = subprocess.run(  # noqa: S603 - this file
            [*command, "--cores", str(cores)], stdout=subprocess.PIPE, text=True, check=True
        )
        for name, milliseconds in json.loads(done.stdout.splitlines()[-1]).items():
            files[name][f"ms_{cores}"] = milliseconds
    write_results({"files": files})


def time_browser(folder: Path) -> None:
    """Read the page's own figures, in one thread and in all."""
    found = {}
    for threads in sorted({1, usable_cores()}):
        rate, milliseconds = map(float, re.findall(r"[\d.]+", rates(folder, threads)))
        found[f"{threads} threads"] = {"frames_per_second": rate, "ms": milliseconds}
    write_results({"browser": found})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("task", choices=["files", "time", "browser", "here"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--cores", type=int, default=1)
    given = parser.parse_args()
    if given.task == "files":
        write_files(given.folder, given.pictures)
    elif given.task == "time":
        time_files(given.folder)
    elif given.task == "browser":
        time_browser(given.folder)
    else:
        print(json.dumps(time_here(given.folder, given.cores)))
