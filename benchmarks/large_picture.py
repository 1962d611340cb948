"""Peak memory and time of labelling a picture of 400 million pixels, whole and in tiles.

    python benchmarks/large_picture.py [--side 20000] [--model sctnet-s-camvid] [--tile 1024]

Writes the pictures itself (smooth noise, as a PNG and as a tiled TIFF) and labels each by
``sctnet predict`` in a process of its own, whose peak resident memory the system then tells.
"""

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sctnet.provenance import environment
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"


def smooth_noise(side: int) -> np.ndarray:
    """Return a BGR picture with regions of all sizes, and some grain as photographs have it."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (40, 40, 3), np.uint8)
    picture = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_LINEAR)
    for top in range(0, side, 1000):
        rows = picture[top : top + 1000]
        rows += generator.integers(0, 4, rows.shape, np.uint8)
    return picture


def write_pictures(folder: Path, side: int) -> list[Path]:
    """Write the picture as a PNG and as a tiled TIFF."""
    picture = smooth_noise(side)
    png, tiff = folder / "large.png", folder / "large.tif"
    if not cv2.imwrite(str(png), picture, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise SystemExit(f"{png} could not be written")
    write_tiled(tiff, picture)
    return [png, tiff]


def write_tiled(file: Path, picture: np.ndarray, tile: int = 512) -> None:
    """Write an RGB picture as an uncompressed TIFF of tiles, which OpenCV and Pillow cannot."""
    side, across = len(picture), -(-len(picture) // tile)
    count, size = across * across, 3 * tile * tile
    lists = 8 + 2 + 12 * 11 + 4
    first = lists + 6 + 8 * count
    entries = [
        (256, 4, 1, side), (257, 4, 1, side), (258, 3, 3, lists), (259, 3, 1, 1), (262, 3, 1, 2),
        (277, 3, 1, 3), (284, 3, 1, 1), (322, 4, 1, tile), (323, 4, 1, tile),
        (324, 4, count, lists + 6), (325, 4, count, lists + 6 + 4 * count),
    ]  # fmt: skip
    with file.open("wb") as out:
        out.write(struct.pack("<2sHIH", b"II", 42, 8, len(entries)))
        out.write(b"".join(struct.pack("<HHII", *entry) for entry in entries))
        out.write(struct.pack("<I3H", 0, 8, 8, 8))
        out.write(np.arange(first, first + size * count, size, dtype="<u4").tobytes())
        out.write(np.full(count, size, "<u4").tobytes())
        for top in range(0, side, tile):
            for left in range(0, side, tile):
                part = np.zeros((tile, tile, 3), np.uint8)
                shown = picture[top : top + tile, left : left + tile, ::-1]
                part[: shown.shape[0], : shown.shape[1]] = shown
                out.write(part.tobytes())


def measure(model: str, file: Path, out: Path, options: list[str]) -> dict[str, Any]:
    """Label a picture in another process; return seconds and peak resident memory."""
    program = [sys.executable, "-c", "from sctnet.cli import main; main()"]
    command = [*program, "predict", model, str(file)]
    began = time.perf_counter()
    child = subprocess.Popen([*command, "--out", str(out), *options])  # noqa: S603
    _, status, usage = os.wait4(child.pid, 0)
    return {
        "file": file.name,
        "megabytes": round(file.stat().st_size / 1e6, 1),
        "options": " ".join(options),
        "status": os.waitstatus_to_exitcode(status),
        "seconds": round(time.perf_counter() - began, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
    }


def main() -> None:
    """Measure and write results/large_picture.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--model", default="sctnet-s-camvid")
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--out", type=Path, default=RESULTS / "large_picture.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        png, tiff = write_pictures(folder, arguments.side)
        tiles = ["--tile", str(arguments.tile)]
        runs = [
            measure(arguments.model, png, folder / "whole", ["--save", "labels,overlay,json"]),
            measure(arguments.model, png, folder / "tiles", ["--save", "labels,overlay", *tiles]),
            measure(arguments.model, tiff, folder / "tiff", ["--save", "labels"]),
        ]
    for run in runs:
        print(run)
    report = {"side": arguments.side, "model": arguments.model, "runs": runs, **environment()}
    write_text(arguments.out, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
