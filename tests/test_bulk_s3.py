"""Bulk prediction from and to an object store, moto's S3 on loopback.

Runs where ``SCTNET_TEST_MOTO`` names the program ``moto_server``, of a recent "moto[server]" in an
environment of its own: it has dozens of dependencies, and older ones answer uploads wrongly.
"""

import io
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn import street
from PIL import Image
from shared import THREE_CLASSES, saved

import sctnet
from sctnet.errors import SctnetError
from sctnet.inference.files import find_pictures, predict_files
from sctnet.serving.bulk import storage

pytestmark = pytest.mark.slow
NAMES = ("in/a.png", "in/deep er/b#1.png", "in/deep er/c%20.png", "in/d.png")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket, found by the variables that every node of a cluster would have."""
    program = os.environ.get("SCTNET_TEST_MOTO")
    if program is None:
        pytest.skip("SCTNET_TEST_MOTO does not name moto_server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = subprocess.DEVNULL
    with (
        pytest.MonkeyPatch.context() as variables,
        subprocess.Popen(
            [program, "-H", "127.0.0.1", "-p", str(port)], stdout=quiet, stderr=quiet
        ) as store,
    ):
        variables.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        variables.setenv("AWS_ACCESS_KEY_ID", "id")
        variables.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        try:
            _wait_for(port)
            urlopen(Request(f"http://127.0.0.1:{port}/photos", method="PUT")).close()
            yield "s3://photos"
        finally:
            store.terminate()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as attempt:
            if not attempt.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.1)
    raise TimeoutError("moto_server does not listen")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return saved(folder, classes=THREE_CLASSES)


@pytest.fixture(scope="module")
def expected(bucket: str, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Put the pictures into the bucket; return what the local engine makes of them."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(NAMES):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(street(40 + number, 60, number)).save(file)
        storage.write_bytes(f"{bucket}/{name}", file.read_bytes())
    storage.write_bytes(f"{bucket}/in/broken.jpg", b"no picture")
    found, _ = find_pictures([str(folder / "in")], folder / "out")
    segmenter = sctnet.Segmenter(model, "cpu", batch_size=1)
    predict_files(segmenter, found, folder / "out", ["labels"])
    labels = folder / "out" / "labels"
    return {str(file.relative_to(labels)): file.read_bytes() for file in labels.rglob("*.png")}


def predict(model: Path, source: str, out: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sctnet", "predict", str(model), "--engine", "ray"]
    command += ["--input", source, "--out", out, "--workers", "2", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def objects(folder: str) -> dict[str, bytes]:
    files = storage.files_below(folder)
    return {file.removeprefix(f"{folder}/"): storage.read_bytes(file) for file in files}


def manifest(out: str) -> list[dict]:
    return pq.read_table(io.BytesIO(storage.read_bytes(f"{out}/manifest.parquet"))).to_pylist()


def test_objects_are_files(bucket: str) -> None:
    name = f"{bucket}/trial/a b#%20?.bin"
    assert not storage.exists(name)
    storage.write_bytes(name, b"content")
    assert storage.exists(name)
    assert storage.read_bytes(name) == b"content"
    assert storage.files_below(f"{bucket}/trial") == [name]
    assert storage.matching(f"{bucket}/tr*/*.bin") == [name]
    storage.remove(name)
    storage.remove(name)
    assert storage.files_below(f"{bucket}/trial") == []
    with pytest.raises(SctnetError, match=re.escape(f"{name}: no such file")):
        storage.read_bytes(name)
    with pytest.raises(SctnetError, match="s3://no-bucket/a: cannot be written"):
        storage.write_bytes("s3://no-bucket/a", b"")


def test_a_bucket_is_labelled_as_a_folder_is(bucket: str, model: Path, expected: dict) -> None:
    out = f"{bucket}/out"
    first = predict(model, f"{bucket}/in", out)
    assert first.returncode == 1, first.stderr
    assert "4 pictures labelled, 1 failed" in first.stdout
    assert "s3://photos/in/broken.jpg: not an image" in first.stderr
    assert objects(f"{out}/labels") == expected
    rows = manifest(out)
    assert {row["source"] for row in rows if row["error"] is None} == {
        f"{bucket}/{name}" for name in NAMES
    }
    assert {name.partition("/")[0] for name in objects(out)} == {"labels", "manifest.parquet"}
    again = predict(model, f"{bucket}/in", out)
    assert "0 pictures labelled, 4 were there already, 1 failed" in again.stdout
    assert manifest(out) == rows


def test_a_table_in_a_bucket_leads_to_pictures(bucket: str, model: Path, expected: dict) -> None:
    paths = [name if number % 2 else f"{bucket}/{name}" for number, name in enumerate(NAMES)]
    table = io.BytesIO()
    pq.write_table(pa.table({"path": paths}), table)
    storage.write_bytes(f"{bucket}/list.parquet", table.getvalue())
    out = f"{bucket}/codes"
    ended = predict(model, f"{bucket}/list.parquet", out, "--save", "rle")
    assert ended.returncode == 0, ended.stderr
    rows = manifest(out)
    assert {row["source"] for row in rows} == {f"{bucket}/{name}" for name in NAMES}
    written = {name for name in objects(out) if name.startswith("rle/")}
    assert {row["output"] for row in rows} == written
    labels = {
        name.removesuffix(".png"): Image.open(io.BytesIO(data)) for name, data in expected.items()
    }
    for row in rows:
        image = labels[row["name"]]
        assert (row["height"], row["width"]) == (image.height, image.width)
        counts = dict(zip(row["areas"], [0] * 3, strict=True)) | {
            ("road", "car", "tree")[label]: count for count, label in image.getcolors()
        }
        assert row["areas"] == counts
