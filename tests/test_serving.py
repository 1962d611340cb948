"""The server as clients meet it: answers, refusals, load, reload, and its end."""

import gzip
import io
import json
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from drawn import street
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from served import CLASSES, encoded, running, saved
from typer.testing import CliRunner

import sctnet
from sctnet.cli import app
from sctnet.errors import SctnetError
from sctnet.serving.http.answers import chosen_answer
from sctnet.serving.http.limits import Limits, Refusal
from sctnet.serving.http.served_model import read_choices
from sctnet.serving.http.server import serve

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("served") / "street")


@pytest.fixture(scope="module")
def server(folder):
    with running(str(folder)) as served:
        yield served


@pytest.fixture(scope="module")
def segmenter(folder):
    return sctnet.Segmenter(folder, "cpu")


def post(server, content, path="/predict", **headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(server.url + path, content=content, headers=names, timeout=20)


def assert_error(answer, status, *named):
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    for text in named:
        assert text in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert "Traceback" not in answer.text


def make_slow(server, seconds):
    """Let a model take its time; return how often it was asked."""
    predictor = server.models[0].segmenter.predictor
    label, calls = predictor.labels, []

    def slow(pictures):
        calls.append(len(pictures))
        time.sleep(seconds)
        return label(pictures)

    predictor.labels = slow
    return calls


# What comes back


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".bmp", ".tiff"])
@pytest.mark.parametrize("size", [(48, 64), (97, 33), (1, 1)])
def test_a_picture_comes_back_as_its_label_map(server, segmenter, ending, size):
    content = encoded(street(*size), ending)
    answer = post(server, content)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    found = Image.open(io.BytesIO(answer.content))
    assert found.mode == "P"
    np.testing.assert_array_equal(np.asarray(found), segmenter(content).labels)
    colours = np.reshape(found.getpalette()[: 3 * len(CLASSES)], (-1, 3))
    np.testing.assert_array_equal(colours, segmenter.colours)


def test_accept_chooses_overlay_json_or_polygons(server, segmenter):
    content = encoded(street(120, 160))
    expected = segmenter(content)
    jpeg = post(server, content, Accept="image/jpeg")
    assert Image.open(io.BytesIO(jpeg.content)).format == "JPEG"
    png = post(server, content, Accept="image/png;kind=overlay")
    drawn = np.asarray(Image.open(io.BytesIO(png.content)))
    np.testing.assert_array_equal(drawn, np.asarray(expected.overlay()))
    found = post(server, content, Accept="application/json").json()
    assert found == json.loads(json.dumps({**expected.summary(), "polygons": expected.polygons()}))
    geojson = post(server, content, Accept="application/geo+json")
    assert geojson.headers["content-type"] == "application/geo+json"
    assert geojson.json() == found["polygons"]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("image/jpeg, image/png;q=0.5", "image/jpeg"),
        ("application/*;q=0.9, image/png;q=0.1", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "image/png"),
        ("IMAGE/JPEG", "image/jpeg"),
        ("image/png;q=0, */*", "image/jpeg"),
        ("image/png; kind=overlay; q=1", "image/png;kind=overlay"),
        ("text/html", None),
        ("image/png;q=0", None),
        ("image/png;q=nonsense", None),
        ("", "image/png"),
        (",;=,,;q", None),
    ],
)
def test_accept_is_read_as_http_says(accept, expected):
    if expected is None:
        with pytest.raises(Refusal, match="image/png, image/jpeg") as caught:
            chosen_answer(accept)
        assert caught.value.status == 406
        return
    answer = chosen_answer(accept)
    assert answer.media_type + (f";kind={answer.kind}" if answer.kind else "") == expected


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_further_frames_are_told_in_a_header(server, segmenter, kind):
    frames = [Image.fromarray(street(40, 50, number)) for number in range(2)]
    for count in (1, 2):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:count], lossless=True)
        answer = post(server, file.getvalue())
        assert answer.status_code == 200
        assert ("X-Frames" in answer.headers) == (count == 2)
        labels = np.asarray(Image.open(io.BytesIO(answer.content)))
        np.testing.assert_array_equal(labels, segmenter(np.asarray(frames[0])).labels)


def test_a_form_and_compressed_bodies_are_taken(server, segmenter):
    content = encoded(street(40, 50))
    expected = post(server, content).content
    form = httpx.post(f"{server.url}/predict", files={"image": ("a.png", content, "image/png")})
    assert form.content == expected
    for name, packed in (("gzip", gzip.compress(content)), ("deflate", zlib.compress(content))):
        assert post(server, packed, Content_Encoding=name).content == expected
    two = httpx.post(f"{server.url}/predict", files={"a": content, "b": content})
    assert_error(two, 400, "one file")
    for kind in ("multipart/form-data", "multipart/form-data; boundary=elsewhere"):
        assert_error(post(server, content, Content_Type=kind), 400, "one file")
    assert_error(post(server, content, Content_Encoding="br"), 415, "gzip")
    assert_error(post(server, content, Content_Encoding="gzip"), 400, "gzip")
    cut = gzip.compress(content)[:-9]
    assert_error(post(server, cut, Content_Encoding="gzip"), 400, "too early")


def test_the_documents_and_pages_are_there(server):
    described = httpx.get(f"{server.url}/openapi.json").json()
    assert {"/predict", "/v2", "/v2/models/{model_name}/infer"} <= set(described["paths"])
    body = described["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert body["image/jpeg"]["schema"]["format"] == "binary"
    assert "swagger" in httpx.get(f"{server.url}/docs").text
    page = httpx.get(server.url)
    assert "<form>" in page.text
    assert "http" not in page.text.replace(server.url, "")  # it needs nothing from elsewhere


# Several models


def test_models_are_chosen_by_name(folder, tmp_path):
    other = saved(tmp_path / "other", seed=3, classes=("left", "right"))
    content = encoded(street(40, 50))
    with running(str(folder), f"{other},name=second,batch=2,workers=2") as server:
        named = post(server, content, "/predict?model=second", Accept="application/json").json()
        assert [each["name"] for each in named["classes"]] == ["left", "right"]
        first = post(server, content, Accept="application/json").json()
        assert [each["name"] for each in first["classes"]] == list(CLASSES)
        missing = post(server, content, "/predict?model=third")
        assert_error(missing, 404, "street", "second")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("m,workers=0", "workers"),
        ("m,workers=two", "workers"),
        ("m,speed=fast", "speed=fast"),
        ("m,fast", "'fast'"),
        ("m,name=a/b", "name=NAME"),
        ("m,delay=-1", "delay"),
        ("m,delay=nan", "delay"),
        ("m,model=x", "model=x"),
        ("a b", "name=NAME"),
    ],
)
def test_a_wrong_setting_of_a_model_is_named(text, named):
    with pytest.raises(SctnetError) as caught:
        read_choices([text], {})
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_come_from_paths_and_must_differ(tmp_path):
    strange = tmp_path / "a,b=c"
    strange.mkdir()
    choices = read_choices(["runs/x", "y.onnx,workers=3"], {"batch": 2})
    assert [choice.name for choice in choices] == ["x", "y"]
    assert [choice.workers for choice in choices] == [None, 3]
    assert [choice.batch for choice in choices] == [2, 2]
    with pytest.raises(SctnetError, match="two models"):
        read_choices(["a/x", "b/x"], {})
    assert read_choices([f"{strange}"], {"name": "kept"})[0].model == str(strange)


# Refusals


def png_of(width, height, data=b""):
    """Return a PNG that claims a size, whatever it holds."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("content", "status", "named"),
    [
        (b"", 400, "empty"),
        (b"hello", 400, "not an image"),
        (b"/etc/passwd", 400, "not an image"),
        (b"file:///etc/passwd", 400, "not an image"),
        (b"http://localhost/a.png", 400, "not an image"),
        (b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", 400, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", 400, "not an image"),
        (png_of(50_000, 50_000, zlib.compress(bytes(1000))), 400, "million pixels"),
        (png_of(5_000, 5_000, zlib.compress(bytes(1000))), 413, "25,000,000 pixels"),
        (png_of(10, 10, b"nonsense"), 400, "damaged"),
        (encoded(street(64, 64), ".jpg")[:-200], 400, "damaged"),
        (bytes(1_100_000), 413, "1,000,000 bytes"),
    ],
)
def test_what_is_no_picture_or_too_large_is_refused(folder, content, status, named):
    with running(str(folder), limits=Limits(body=1_000_000)) as server:
        assert_error(post(server, content), status, named)
        tensor = {"name": "encoded_images", "shape": [1], "datatype": "BYTES"}
        head = json.dumps(
            {"inputs": [{**tensor, "parameters": {"binary_data_size": len(content) + 4}}]}
        ).encode()
        body = head + struct.pack("<I", len(content)) + content
        answer = post(
            server, body, "/v2/models/street/infer",
            Inference_Header_Content_Length=str(len(head)),
        )  # fmt: skip
        assert_error(answer, status, named)
        assert post(server, encoded(street(9, 9))).status_code == 200


def test_the_pixels_of_a_bomb_are_never_held(server):
    import resource

    bomb = png_of(4400, 4400, zlib.compress(bytes(4400 * (4400 * 3 + 1))))  # 58 MB in 57 kB
    large = png_of(4600, 4600, zlib.compress(bytes(4600 * (4600 * 3 + 1))))
    assert_error(post(server, large), 413, "pixels")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    packed = gzip.compress(bytes(200_000_000), 1)
    assert_error(post(server, packed, Content_Encoding="gzip"), 413, "64,000,000 bytes")
    assert_error(post(server, large), 413, "pixels")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250_000  # kB
    assert len(bomb) < 100_000


def test_a_body_that_goes_on_is_cut_off(folder):
    with running(str(folder), limits=Limits(body=100_000)) as server:

        def endless():
            for _ in range(100):
                yield bytes(10_000)

        assert_error(httpx.post(f"{server.url}/predict", content=endless()), 413, "100,000")


def test_pages_of_allowed_origins_alone_may_ask(folder):
    page = "https://example.org"
    asking = {"Access-Control-Request-Method": "POST"}
    asking["Access-Control-Request-Headers"] = "authorization,content-type"
    with running(str(folder), api_key="open sesame", origins=(page,)) as server:
        for origin, status in ((page, 200), ("https://evil.example", 400)):
            answer = httpx.options(f"{server.url}/predict", headers={"Origin": origin, **asking})
            assert answer.status_code == status
            assert answer.headers.get("access-control-allow-origin") == (
                page if status == 200 else None
            )
        answer = post(server, encoded(street(20, 20)), Origin=page, Authorization="Bearer no")
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, page)
    with running(str(folder)) as server:
        answer = httpx.get(server.url + "/v2", headers={"Origin": page})
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/page", ""])
def test_what_is_no_origin_is_told(folder, origin):
    with pytest.raises(SctnetError, match="--allow-origin"):
        serve([], "127.0.0.1", 0, Limits(), origins=(origin,))


def test_a_key_is_asked_for_everywhere_but_at_health(folder):
    with running(str(folder), api_key="open sesame") as server:
        content = encoded(street(20, 20))
        for path in ("/metrics", "/v2", "/v2/models/street", "/nowhere"):
            assert_error(httpx.get(server.url + path), 401, "Authorization: Bearer")
        for given in ("", "Bearer", "Bearer wrong", "open sesame", "Basic open sesame"):
            answer = post(server, content, Authorization=given)
            assert_error(answer, 401, "API key")
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/v2/health/live", "/v2/health/ready", "/docs", "/"):
            assert httpx.get(server.url + path).status_code == 200
        assert post(server, content, Authorization="Bearer open sesame").status_code == 200
        assert post(server, content, Authorization="bearer open sesame").status_code == 200


@pytest.mark.parametrize("path", ["/nowhere", "/v2/models/other", "/v2/models/street/versions/2"])
def test_what_is_not_there_is_an_error_in_json(server, path):
    assert_error(httpx.get(server.url + path), 404)
    assert_error(httpx.get(f"{server.url}/predict"), 405)


# Load


def test_a_full_queue_is_answered_429_and_nothing_else(folder):
    with running(str(folder), limits=Limits(requests=4), batch=1) as server:
        make_slow(server, 0.05)
        content = encoded(street(20, 20))
        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(lambda _: post(server, content), range(48)))
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 4
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert_error(refused, 429, "try again")
        assert int(refused.headers["retry-after"]) >= 1
        assert post(server, content).status_code == 200


def test_memory_that_is_set_aside_bounds_what_waits(folder):
    limits = Limits()
    with running(str(folder)) as server:
        with server.models[0].admission.enter() as claim:
            claim(limits.held - 100)
            assert_error(post(server, encoded(street(20, 20))), 429, "memory")
        assert post(server, encoded(street(20, 20))).status_code == 200


def test_time_is_limited(folder):
    with running(str(folder), limits=Limits(seconds=0.3), batch=1) as server:
        calls = make_slow(server, 0.8)
        content = encoded(street(20, 20))
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda _: post(server, content), range(3)))
        for answer in answers:
            assert_error(answer, 503, "0.3 seconds")
        time.sleep(0.8)
        assert len(calls) == 1  # what nobody waits for any more is not computed
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port)), 5) as slow:
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nabc")
            assert slow.recv(9999).startswith(b"HTTP/1.1 408")


def test_who_hangs_up_is_not_computed_for(folder):
    with running(str(folder), batch=1) as server:
        calls = make_slow(server, 0.3)
        content = encoded(street(20, 20))
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(post, server, content)
            while not calls:
                time.sleep(0.01)
            host, port = server.address.split(":")
            with socket.create_connection((host, int(port)), 5) as client:
                client.sendall(
                    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
                    % (len(content), content)
                )
                time.sleep(0.1)
            assert first.result().status_code == 200
        assert post(server, content).status_code == 200
        assert len(calls) == 2


def test_pictures_of_one_size_are_labelled_together(folder):
    with running(str(folder), batch=4, delay=500) as server:
        calls = make_slow(server, 0)
        small, large = encoded(street(20, 20)), encoded(street(20, 30))
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda each: post(server, each), [small, large] * 4))
        assert {answer.status_code for answer in answers} == {200}
        assert sorted(calls) == [4, 4]
        for answer, content in zip(answers, [small, large] * 4, strict=True):
            expected = sctnet.Segmenter(folder, "cpu")(content).labels
            found = np.asarray(Image.open(io.BytesIO(answer.content)))
            assert (found == expected).mean() > 0.99  # a batch may round otherwise


def test_a_failure_is_a_500_in_one_sentence_and_the_next_is_answered(folder, caplog):
    with running(str(folder)) as server:
        segmenter = server.models[0].segmenter
        label = segmenter.predictor.labels
        segmenter.predictor.labels = lambda _: 1 / 0
        with caplog.at_level(logging.CRITICAL, "uvicorn.error"):
            assert_error(post(server, encoded(street(20, 20))), 500, "log")
        segmenter.predictor.labels = label
        assert post(server, encoded(street(20, 20))).status_code == 200


def test_figures_and_lines_tell_of_sizes_and_times_alone(folder, caplog):
    with running(str(folder)) as server, caplog.at_level(logging.INFO, "sctnet.serving"):
        content = encoded(street(20, 30))
        post(server, content)
        post(server, b"my secret", "/predict", X_Private="my secret")
        httpx.get(f"{server.url}/my-secret")
        text = httpx.get(f"{server.url}/metrics").text
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    assert found["sctnet_requests_total", "street", "/predict", "200"] == 1
    assert found["sctnet_errors_total", "street", "400"] == 1
    assert found["sctnet_queue_pictures", "street"] == 0
    assert found["sctnet_batch_pictures_count", "street"] == 1
    for stage in ("read", "decode", "queue", "infer", "encode", "total"):
        assert found["sctnet_stage_seconds_count", "street", stage] >= 1
    lines = [json.loads(record.getMessage()) for record in caplog.records]
    first = lines[0]
    assert (first["route"], first["status"], first["model"]) == ("/predict", 200, "street")
    assert (first["bytes_in"], first["pictures"], first["pixels"]) == (len(content), 1, 600)
    assert sum(first["milliseconds"].values()) > first["milliseconds"]["total"]
    assert "secret" not in json.dumps(lines) + text


# Reload and end


def test_a_reload_drops_no_request_and_changes_the_model(tmp_path):
    folder = saved(tmp_path / "street")
    with running(str(folder)) as server:
        content, failed, stop = encoded(street(30, 40)), [], threading.Event()

        def ask():
            while not stop.is_set():
                if post(server, content).status_code != 200:
                    failed.append(1)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        saved(folder, seed=5, classes=("left", "right"))
        for _ in range(3):
            server.models[0].reload()
        stop.set()
        for thread in threads:
            thread.join()
        assert not failed
        found = post(server, content, Accept="application/json").json()
        assert [each["name"] for each in found["classes"]] == ["left", "right"]
        (folder / "model.safetensors").write_bytes(b"broken")
        with pytest.raises(SctnetError, match="safetensors"):
            server.models[0].reload()
        assert post(server, content).status_code == 200


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def process(folder):
    """Run the command itself; yield it with its address."""
    command = [sys.executable, "-m", "sctnet", "serve", str(folder), "--port", "0"]
    environment = {**os.environ, "SCTNET_API_KEY": ""}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as started:
        try:
            port = json.loads(started.stdout.readline())["port"]
            url = f"http://127.0.0.1:{port}"

            def answers():
                try:
                    return httpx.get(f"{url}/v2/health/ready").status_code == 200
                except httpx.TransportError:
                    return False

            wait_for(answers)
            yield started, url
        finally:
            started.kill()


def test_signals_reload_and_end_after_what_was_accepted(process):
    started, url = process
    started.send_signal(signal.SIGHUP)
    reloaded = []

    def read():
        reloaded.append(json.loads(started.stdout.readline()))
        return reloaded[-1]["event"] == "reload"

    wait_for(read)
    assert reloaded[-1]["ok"] is True
    content = encoded(street(1500, 2000))
    with ThreadPoolExecutor(6) as pool:
        answers = [
            pool.submit(httpx.post, f"{url}/predict", content=content, timeout=30) for _ in range(6)
        ]
        metric = 'sctnet_requests_total{model="",route="/v2/health/ready",status="200"}'
        wait_for(lambda: metric in httpx.get(f"{url}/metrics").text)
        time.sleep(0.3)
        started.send_signal(signal.SIGTERM)
        assert [answer.result().status_code for answer in answers] == [200] * 6
    assert started.wait(20) == 0
    assert "Traceback" not in started.stderr.read()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/v2/health/ready")


def test_the_example_of_the_documentation_runs(process, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    _, url = process
    (tmp_path / "street.jpg").write_bytes(encoded(street(90, 120), ".jpg"))
    text = (ROOT / "docs" / "serving.md").read_text()
    commands = re.findall(r"^curl .*$", text.replace("\\\n", " "), re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        words = shlex.split(command.replace("http://127.0.0.1:8000", url))
        done = subprocess.run(
            [*words, "--fail-with-body", "-sS"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    with Image.open(tmp_path / "labels.png") as labels:
        assert labels.mode == "P"
    with Image.open(tmp_path / "overlay.jpg") as overlay:
        assert overlay.size == (120, 90)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere"], "nowhere"),
        (["sctnet-s-camvid", "--port", "70000"], "port"),
        (["sctnet-s-camvid", "--host", "no.such.host.invalid"], "--host"),
        (["sctnet-s-camvid", "--timeout", "0"], "seconds"),
        (["sctnet-s-camvid", "--max-megabytes", "0"], "body"),
        (["sctnet-s-camvid", "--api-key", " "], "API key"),
        (["sctnet-s-camvid", "--api-key", "schlüssel"], "API key"),
        (["sctnet-s-camvid", "sctnet-s-camvid"], "two models"),
        (["sctnet-s-camvid,precision=int3"], "int3"),
        ([], "models"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(arguments, named):
    result = CliRunner().invoke(app, ["serve", *arguments])
    said = str(result.exception) if isinstance(result.exception, SctnetError) else result.output
    assert isinstance(result.exception, SctnetError) or result.exit_code == 2
    assert named in said


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, ["serve", "sctnet-s-camvid", "--port", port])
    assert port in str(result.exception)
    assert "--port" in str(result.exception)
