"""Thousands of bad requests: no failure of the server, no waiting, no growth."""

import json
import random
import struct
import time
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest
import schemathesis
from drawn import street
from hypothesis import HealthCheck, given, settings
from served import encoded, running, saved

from sctnet.serving.http.limits import Limits

PICTURES = [
    encoded(street(24, 31), ending) for ending in (".png", ".jpg", ".webp", ".bmp", ".tiff")
]
ACCEPTS = [
    "*/*",
    "image/png",
    "image/jpeg",
    "application/json",
    "text/html",
    ";;,q=",
    "image/*;q=x",
]
ENCODINGS = ["identity", "gzip", "deflate", "br", ""]
KINDS = ["image/png", "multipart/form-data; boundary=x", "multipart/form-data", "a;b=;c", ""]


def resident():
    """Return this process's memory in bytes."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


def damaged(content, chance):
    """Return bytes with some changed, cut, doubled or put in."""
    content = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(content) + 1)
        what = chance.randrange(5)
        if what == 0:
            content[place : place + 1] = chance.randbytes(1)
        elif what == 1:
            del content[place : place + chance.randint(1, 40)]
        elif what == 2:
            content[place:place] = chance.randbytes(chance.randint(1, 40))
        elif what == 3:
            content[place : place + 4] = struct.pack(">I", chance.choice([0, 2**31, 2**32 - 1]))
        else:
            content[place:] = b""
    return bytes(content)


def predict_request(chance):
    body = damaged(chance.choice(PICTURES), chance)
    encoding = chance.choice(ENCODINGS) if chance.random() < 0.3 else "identity"
    if encoding in {"gzip", "deflate"} and chance.random() < 0.7:
        body = damaged(zlib.compress(body), chance)
    headers = {"Accept": chance.choice(ACCEPTS), "Content-Encoding": encoding}
    if chance.random() < 0.3:
        headers["Content-Type"] = chance.choice(KINDS)
        body = b"--x\r\nA: b\r\n\r\n" + body + b"\r\n--x--\r\n" if chance.random() < 0.5 else body
    return "/predict" + chance.choice(["", "?model=street", "?model=%00"]), body, headers


def infer_request(chance):
    if chance.random() < 0.5:
        content = np.zeros((1, 4, 5, 3), np.uint8).tobytes()
        kind = {"name": "images", "shape": [1, 4, 5, 3], "datatype": "UINT8"}
    else:
        picture = chance.choice(PICTURES)
        content = struct.pack("<I", len(picture)) + picture
        kind = {"name": "encoded_images", "shape": [1], "datatype": "BYTES"}
    if chance.random() < 0.4:
        body = json.dumps({"inputs": [{**kind, "data": list(content)}]}).encode()
        return "/v2/models/street/infer", damaged(body, chance), {}
    head = json.dumps({"inputs": [{**kind, "parameters": {"binary_data_size": len(content)}}]})
    text = damaged(head.encode(), chance) if chance.random() < 0.7 else head.encode()
    content = damaged(content, chance) if chance.random() < 0.7 else content
    length = chance.choice([len(text)] * 5 + [0, 1, len(text) + 1, 10**9])
    headers = {"Inference-Header-Content-Length": str(length)}
    return "/v2/models/street/infer", text + content, headers


def fuzz(server, count, seed):
    """Send bad requests; every one has to be answered, soon, by no failure."""
    chance = random.Random(seed)
    statuses: dict[int, int] = {}
    with httpx.Client(base_url=server.url, timeout=10) as client:
        for number in range(count):
            path, body, headers = (predict_request, infer_request)[number % 2](chance)
            answer = client.post(path, content=body, headers=headers)
            assert answer.status_code < 500, (seed, number, answer.text)
            if answer.status_code != 200:
                assert list(answer.json()) == ["error"]
                assert "Traceback" not in answer.text
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
    return statuses


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = saved(tmp_path_factory.mktemp("served") / "street")
    with running(str(folder), limits=Limits(body=1_000_000, pixels=100_000, seconds=5)) as served:
        yield served


def test_hundreds_of_bad_requests_are_answered(server):
    statuses = fuzz(server, 400, seed=1)
    assert statuses[400] > 100
    assert httpx.post(f"{server.url}/predict", content=PICTURES[0]).status_code == 200


@pytest.mark.slow
def test_thousands_of_bad_requests_do_not_make_the_server_grow(server):
    fuzz(server, 500, seed=2)
    before, began = resident(), time.monotonic()
    for seed in range(3, 11):
        fuzz(server, 500, seed)
    assert time.monotonic() - began < 300
    assert resident() - before < 30_000_000
    assert httpx.post(f"{server.url}/predict", content=PICTURES[0]).status_code == 200


@pytest.mark.slow
def test_schemathesis_finds_nothing(server):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    seen = []

    for operation in schema.get_all_operations():
        run_operation(operation.ok(), server, seen)
    assert len(seen) > 300
    assert set(seen) <= {200, 400, 401, 404, 406, 408, 413, 415}


def run_operation(operation, server, seen):
    @given(case=operation.as_strategy())
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case):
        answer = case.call(base_url=server.url)
        seen.append(answer.status_code)
        assert answer.status_code < 500, answer.text

    check()
