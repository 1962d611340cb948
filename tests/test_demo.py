"""The demonstration page, asked by HTTP; test_demo_browser.py has it clicked."""

import asyncio
import base64
import io
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from drawn import street
from PIL import Image
from starlette.testclient import TestClient

import sctnet
from sctnet.checkpoints.model_folder import ModelConfig
from sctnet.errors import SctnetError
from sctnet.inference.segmenter import Segmenter
from sctnet.serving.demo import results as demo_results
from sctnet.serving.demo.guard import AccessGuard
from sctnet.serving.demo.labelling import EXAMPLES, Sessions, example_picture
from sctnet.serving.demo.quiet_gradio import gradio
from sctnet.serving.demo.server import build_application, serve_demo

API = "/gradio_api"
# What gradio calls in pandas is deprecated there.
pytestmark = pytest.mark.filterwarnings(
    "ignore:'future.no_silent_downcasting' is deprecated", "ignore:The copy keyword is deprecated"
)


def small_segmenter(seed: int) -> Segmenter:
    import torch

    torch.manual_seed(seed)
    model = sctnet.create_model("sctnet-tiny", 3)
    config = ModelConfig(
        network=model.config, classes=("sky <b>", "road", "car"),
        colours=((10, 20, 30), (40, 50, 60), (70, 80, 90)),
    )  # fmt: skip
    return Segmenter.from_model(model.eval(), config)


class Page:
    """A client of the page, and what lies behind it."""

    def __init__(self, client: TestClient, folder: Path, labelling: Any) -> None:
        self.client, self.folder, self.labelling = client, folder, labelling

    def upload(self, content: bytes, name: str) -> str:
        answer = self.client.post(f"{API}/upload", files={"files": (name, content)})
        assert answer.status_code == 200, answer.text
        return str(answer.json()[0])

    def label(self, content: bytes, name: str, session: str = "a", model: str = "one") -> Any:
        return self.ask(self.upload(content, name), session, model)

    def ask(self, path: str, session: str = "a", model: str = "one") -> Any:
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        body = {"data": [file, model, 50], "session_hash": session}
        answer = self.client.post(f"{API}/call/label", json=body)
        assert answer.status_code == 200, answer.text
        events = self.client.get(f"{API}/call/label/{answer.json()['event_id']}").text
        event, data = events.strip().split("\n\n")[-1].split("\n")[:2]
        assert event == "event: complete", events
        return json.loads(data.removeprefix("data: "))[0]

    def files(self) -> list[Path]:
        return [file for file in self.folder.rglob("*") if file.is_file()]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    segmenters = {"one": small_segmenter(0), "two": small_segmenter(1)}
    folder = tmp_path_factory.mktemp("page")
    application, labelling = asyncio.run(build_application(segmenters, folder))
    with TestClient(application, base_url="http://127.0.0.1:7860") as client:
        yield Page(client, folder, labelling)


def encoded(picture: np.ndarray, ending: str = ".png") -> bytes:
    return cv2.imencode(ending, picture[..., ::-1])[1].tobytes()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (37, 61), (200, 3), (90, 2000)])
def test_picture_is_what_the_segmenter_says(page: Page, height: int, width: int) -> None:
    picture = street(height, width)
    shown = page.label(encoded(picture), "a street.png")
    expected = page.labelling.segmenters["one"](picture)
    assert shown["name"] == "a street.png"
    assert shown["size"] == [height, width]
    mask = Image.open(io.BytesIO(base64.b64decode(shown["mask"])))
    assert mask.mode == "P"
    assert np.array_equal(np.array(mask), expected.labels)
    if max(height, width) <= 1600:
        labels = np.frombuffer(zlib.decompress(base64.b64decode(shown["labels"])), np.uint8)
        assert np.array_equal(labels.reshape(shown["shown"]), expected.labels)
    assert max(shown["shown"]) == min(1600, max(height, width))
    found = {row["name"]: row["percent"] for row in shown["classes"]}
    areas = {name: area["percent"] for name, area in expected.area().items() if area["pixels"]}
    assert found == areas
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert page.files() == []


def test_overlay_is_drawn_without_the_network(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = street(150, 200)
    shown = page.label(encoded(picture), "a.png")
    expected = np.array(page.labelling.segmenters["one"](picture).overlay(0.3))
    monkeypatch.setattr(Segmenter, "label", lambda *_: pytest.fail("the network ran"))
    body = {
        "data": [shown["token"], 0.3], "fn_name": "overlay", "session_hash": "a",
        "component_id": component(page, "viewer"),
    }  # fmt: skip
    answer = page.client.post(f"{API}/component_server", json=body).json()
    overlay = np.array(Image.open(io.BytesIO(base64.b64decode(answer["png"]))))
    assert np.array_equal(overlay, expected)
    body["data"] = ["another token", 0.3]
    assert "drop it again" in page.client.post(f"{API}/component_server", json=body).text


def component(page: Page, name: str) -> int:
    components = page.client.get("/config").json()["components"]
    return next(each["id"] for each in components if each["props"].get("elem_id") == name)


def test_other_model_labels_the_same_picture(page: Page) -> None:
    picture = street(60, 80)
    page.label(encoded(picture), "a.png", session="again")
    request = gradio.Request(session_hash="again")
    shown = page.labelling.label_again("two", request)
    expected = page.labelling.segmenters["two"](picture).labels
    mask = np.array(Image.open(io.BytesIO(base64.b64decode(shown["mask"]))))
    assert np.array_equal(mask, expected)
    nothing = page.labelling.label_again("two", gradio.Request(session_hash="never seen"))
    assert nothing == gradio.skip()


def test_examples_are_labelled(page: Page) -> None:
    for number, name in enumerate(EXAMPLES):
        chosen = gradio.EventData(None, {"number": number})
        shown = page.labelling.label_example("one", chosen, gradio.Request(session_hash="e"))
        assert (shown["name"], shown["size"]) == (name, [480, 640])
    assert not np.array_equal(example_picture(0), example_picture(1))


BROKEN = {
    "empty.png": (b"", "the file is empty"),
    "words.txt": (b"hello", "not an image"),
    "page.html": (b"<script>alert(1)</script>", "not an image"),
    "short.jpg": (encoded(street(90, 90), ".jpg")[:400], "damaged or cut short"),
    "noise.mp4": (b"noise" * 99, "give a video file that plays"),
    "list.mp4": (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/a.ts\n", "give a video file that plays"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bad_file_is_one_sentence(page: Page, name: str) -> None:
    content, reason = BROKEN[name]
    shown = page.label(content, name)
    assert shown["kind"] == "error"
    assert shown["sentence"].startswith(f"{name}: ")
    assert reason in shown["sentence"]
    assert str(page.folder) not in shown["sentence"]
    assert page.files() == []
    assert page.label(encoded(street(9, 9)), "good.png")["kind"] == "picture"


def test_too_many_pixels_are_refused_before_they_are_decoded(page: Page) -> None:
    content = io.BytesIO()
    Image.new("1", (20_000, 2_001)).save(content, "PNG")  # some kilobytes
    began = time.perf_counter()
    assert "more than 40 million pixels" in page.label(content.getvalue(), "bomb.png")["sentence"]
    assert time.perf_counter() - began < 5


def video(folder: Path, frames: int, size: tuple[int, int] = (48, 64), rate: int = 10) -> bytes:
    av = pytest.importorskip("av")
    path = folder / "made.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = size
        for number in range(frames):
            picture = street(*size, seed=number % 3)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def test_video_plays(page: Page, tmp_path: Path) -> None:
    import av

    shown = page.label(video(tmp_path, 6), "clip.mp4")
    assert (shown["kind"], shown["frames"]) == ("video", 6)
    assert sum(row["percent"] for row in shown["classes"]) == pytest.approx(100, abs=0.01)
    with av.open(io.BytesIO(base64.b64decode(shown["video"]))) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in container.decode(video=0)) == 6
    assert page.files() == []


def test_long_video_is_refused(page: Page, tmp_path: Path) -> None:
    shown = page.label(video(tmp_path, 122, rate=2), "long.mp4")
    assert "up to 60 seconds" in shown["sentence"]


def test_large_frames_are_refused(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_results, "MAX_FRAME_PIXELS", 48 * 64 - 1)
    assert "frames of 64 x 48" in page.label(video(tmp_path, 2), "large.mp4")["sentence"]


def test_video_whose_header_lies_ends_at_the_limit(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_results, "MAX_FRAMES", 3)
    assert "up to 60 seconds" in page.label(video(tmp_path, 9), "lies.mp4")["sentence"]
    assert page.files() == []


def test_closed_page_ends_its_video(page: Page, tmp_path: Path) -> None:
    frames = []
    check = page.labelling.sessions.check

    def closing(session: str) -> None:
        frames.append(session)
        page.labelling.sessions.close(session)
        check(session)

    page.labelling.sessions.check = closing
    try:
        shown = page.label(video(tmp_path, 30), "clip.mp4", session="closes")
    finally:
        page.labelling.sessions.check = check
    assert shown["sentence"] == "the page was closed"
    assert frames == ["closes"]
    assert page.files() == []


def test_sessions_hold_the_last_pictures_only() -> None:
    sessions = Sessions()
    result = small_segmenter(0)(street(8, 8))
    shown = [sessions.show(str(number), "a.png", result) for number in range(6)]
    held = [each for each in shown if sessions.by_token(each.token)]
    assert held == shown[-4:]
    sessions.close("5")
    assert sessions.by_token(shown[5].token) is None
    sessions.show("5", "late.png", result)  # labelled while the page was closing
    assert sessions.last("5") is None
    sessions.stop()
    assert sessions.last("4") is None


def test_abandoned_uploads_are_removed(page: Page) -> None:
    import os

    old, new = Path(page.upload(b"old", "old.png")), Path(page.upload(b"new", "new.png"))
    os.utime(old, (0, 0))
    page.labelling.remove_abandoned()
    assert not old.exists()
    assert new.exists()
    new.unlink()


@pytest.mark.parametrize("place", ["{tmp}/secret.png", "{uploads}/../../secret.png", "/etc/passwd"])
def test_nothing_of_this_machine_is_opened(page: Page, tmp_path: Path, place: str) -> None:
    for folder in (tmp_path, page.folder.parent):
        (folder / "secret.png").write_bytes(encoded(street(8, 8)))
    path = place.format(tmp=tmp_path, uploads=page.folder / "uploads")
    assert Path(path).exists()
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    for route in ("call/label", "queue/join"):
        answer = page.client.post(f"{API}/{route}", json={"data": [file, "one", 50], "fn_index": 0})
        assert (answer.status_code, answer.text) == (
            403, "Only files that were uploaded here are opened.",
        )  # fmt: skip
    assert Path(path).exists()


def test_link_among_the_uploads_is_not_followed(page: Page, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(encoded(street(8, 8)))
    link = page.folder / "uploads" / "link.png"
    link.symlink_to(tmp_path / "secret.png")
    with pytest.raises(AssertionError, match="uploaded here"):
        page.ask(str(link))
    link.unlink()


@pytest.mark.parametrize("path", [7, ["a"], {"path": "/etc/passwd"}, "\0", "a" * 5000])
def test_odd_paths_are_refused(page: Page, path: Any) -> None:
    answer = page.client.post(f"{API}/call/label", json={"data": [{"path": path}, "one", 50]})
    assert answer.status_code == 403


def test_no_address_is_fetched(page: Page) -> None:
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.png"
        file = {"path": address, "meta": {"_type": "gradio.FileData"}}
        for body in ({"data": [file, "one", 50]}, {"data": [[{"deep": file}]]}):
            asked.append(page.client.post(f"{API}/call/label", json=body).status_code)
            asked.append(page.client.post(f"{API}/queue/join", json=body).status_code)
        asked.append(page.client.get(f"{API}/file={address}").status_code)
        asked.append(page.client.get(f"{API}/proxy={address}").status_code)
        with pytest.raises(TimeoutError):
            server.accept()
    assert asked == [403, 403, 403, 403, 404, 404]


@pytest.mark.parametrize(
    "path",
    ["file=/etc/passwd", "file/etc/passwd", "deep_link", "run-history/buckets", "openapi.json"],
)
def test_gradios_other_addresses_are_closed(page: Page, path: str) -> None:
    assert page.client.get(f"{API}/{path}").status_code == 404
    assert page.client.post(f"{API}/{path}", json={}).status_code == 404


def test_other_sites_and_names_are_refused(page: Page) -> None:
    get = page.client.get
    assert get("/").status_code == 200
    assert get("/", headers={"host": "localhost:7860"}).status_code == 200
    assert get("/", headers={"host": "evil.example"}).status_code == 403
    assert get("/", headers={"host": "127.0.0.1.evil.example"}).status_code == 403
    assert get("/", headers={"origin": "https://evil.example"}).status_code == 403
    assert get("/", headers={"origin": "null"}).status_code == 403
    assert get("/", headers={"origin": "http://127.0.0.1:7860"}).status_code == 200


def test_page_allows_itself_no_other_server(page: Page) -> None:
    policy = page.client.get("/").headers["content-security-policy"]
    sources = {source for part in policy.split("; ") for source in part.split(" ")[1:]}
    assert sources == {"'self'", "'none'", "'unsafe-inline'", "'unsafe-eval'", "data:", "blob:"}
    assert "font" not in page.client.get("/theme.css").text.partition("url(")[2][:200]


def test_page_says_its_limits(page: Page) -> None:
    text = page.client.get("/").text
    assert "40 million pixels, videos of up to 60 seconds, 100 MB at most" in text


@pytest.mark.parametrize("announced", [True, False])
def test_too_large_a_body_is_refused(announced: bool, tmp_path: Path) -> None:
    """Also one that comes in pieces and does not say how large it is."""
    received = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            received.append(len(message.get("body", b"")))
            if message["type"] == "http.disconnect":
                await send({"type": "http.response.start", "status": 400, "headers": []})
                await send({"type": "http.response.body"})
                return

    def pieces() -> Iterator[bytes]:
        for _ in range(50):
            yield b"x" * 10_000

    client = TestClient(AccessGuard(application, tmp_path, 200_000), base_url="http://127.0.0.1")
    content = b"".join(pieces()) if announced else pieces()
    answer = client.post(f"{API}/upload", content=content)
    assert answer.status_code == (413 if announced else 400)
    assert sum(received) <= 300_000
    words = b"[" + b"1," * 600_000 + b"1]"
    answer = client.post(f"{API}/queue/join", content=words if announced else iter([words]))
    assert answer.status_code == 413


def test_server_serves_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    import uvicorn

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    addresses: list[str] = []
    servers: list[uvicorn.Server] = []
    run = uvicorn.Server.run

    def noted(server: uvicorn.Server, **arguments: Any) -> None:
        servers.append(server)
        threading.Thread(target=ask, args=(server,)).start()
        run(server, **arguments)

    def ask(server: uvicorn.Server) -> None:
        try:
            answers.append(httpx.get(addresses[0], timeout=20).status_code)
            with pytest.raises(SctnetError, match="choose another by --port"):
                serve_demo({}, int(addresses[0].rsplit(":")[-1].strip("/")), addresses.append)
            files = {"files": ("left.png", b"left")}
            answers.append(httpx.post(f"{addresses[0]}gradio_api/upload", files=files).status_code)
            answers.append(len(list(tmp_path.rglob("left.png"))))
        finally:
            server.should_exit = True

    answers: list[int] = []
    monkeypatch.setattr(uvicorn.Server, "run", noted)
    serve_demo({"one": small_segmenter(0)}, 0, addresses.append)
    assert answers == [200, 200, 1]
    assert list(tmp_path.iterdir()) == []
