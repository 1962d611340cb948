"""The exported page in a real browser, clicked by Selenium: make test-browser."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from drawn import street
from PIL import Image

import sctnet
from sctnet.data.synthetic.streets import SyntheticStreets

DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DATA = os.environ.get("SCTNET_TEST_DATA")
MODEL = "sctnet-s-camvid"

if not os.environ.get("SCTNET_TEST_BROWSER"):
    pytest.skip("make test-browser runs it", allow_module_level=True)
if not DRIVER or not BROWSER:
    pytest.skip("apt-get install chromium chromium-driver", allow_module_level=True)

webdriver = pytest.importorskip("selenium.webdriver")
# Selenium leaves the connection to its driver to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
SECONDS = 120
"""To wait at most; a browser computes a picture in less than one, on a free machine."""


class Page:
    """What a user does and sees."""

    def __init__(self, driver: Any, downloads: Path) -> None:
        self.driver, self.downloads = driver, downloads

    def run(self, script: str) -> Any:
        return self.driver.execute_script(f"return {script}")

    def text(self, name: str) -> str:
        return str(self.run(f"document.getElementById('{name}').textContent"))

    def until(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + SECONDS
        while not (found := condition()):
            parts = ("problem", "caption", "live", "hint-text", "about")
            assert time.monotonic() < end, {part: self.text(part) for part in parts}
            time.sleep(0.1)
        return found

    def open(self, address: str) -> None:
        self.driver.get(address)
        self.until(lambda: self.text("about") or self.text("problem"))

    def give(self, file: Path) -> None:
        self.driver.find_element("id", "file").send_keys(str(file))

    def label(self, file: Path) -> str:
        """Give a picture; return the caption of its result."""
        self.give(file)
        self.until(lambda: self.text("caption").startswith(file.name) or self.text("problem"))
        assert self.text("problem") == ""
        return self.text("caption")

    def refusal(self, file: Path) -> str:
        self.give(file)
        self.until(lambda: self.text("problem").startswith(file.name))
        assert not self.driver.find_element("id", "box").is_displayed()
        return self.text("problem")

    def mask(self, name: str) -> np.ndarray:
        """Return the label map that is downloaded."""
        self.driver.find_element("id", "mask").click()
        file = self.downloads / name
        self.until(file.exists)
        return np.asarray(Image.open(file))

    def classes(self) -> list[Any]:
        found = self.driver.find_elements("css selector", "#classes button")
        return [each for each in found if each.is_displayed()]

    def requests(self) -> list[str]:
        """Return the addresses asked for since the last call."""
        messages = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export as users do; npm fetches the runtime, unless it lies in the cache."""
    out = tmp_path_factory.mktemp("page") / "page"
    command = [sys.executable, "-m", "sctnet", "export", MODEL, "--format", "web", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def serving(program: str, folder: Path) -> Iterator[str]:
    """Serve a folder by a program that prints its address."""
    server = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait(20)
        server.stdout.close()


_PRINT = "lambda address: print(address, flush=True)"


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Serve the page as ``--serve`` does."""
    imports = "import sys; from pathlib import Path; "
    imports += "from sctnet.serving.static_folder import serve_folder; "
    yield from serving(f"{imports}serve_folder(Path(sys.argv[1]), {_PRINT}, 0)", folder)


_PLAIN = """
import functools, http.server, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *said): pass
handler = functools.partial(Handler, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
print(f"http://127.0.0.1:{server.server_address[1]}/", flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def plain_address(folder: Path) -> Iterator[str]:
    """Serve the page without the headers that threads need."""
    yield from serving(_PLAIN, folder)


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what Chromium's fake camera shows: a real video, or drawn streets."""
    file = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    frames = [SyntheticStreets(0, 8, (360, 640)).image(number) for number in range(8)]
    if DATA:
        video = cv2.VideoCapture(str(Path(DATA) / "data" / "videos" / "highway-720p-short.mp4"))
        frames = [cv2.cvtColor(video.read()[1], cv2.COLOR_BGR2RGB) for _ in range(8)]
        video.release()
    file.write_bytes(b"".join(cv2.imencode(".jpg", frame[..., ::-1])[1] for frame in frames))
    return file


FAKE = ("use-fake-device-for-media-stream", "use-fake-ui-for-media-stream")


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Start browsers; in the end none of them may have asked for anything elsewhere."""
    started: list[Page] = []

    def start(*arguments: str, **preferences: Any) -> Page:
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        usual = ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1280,900")
        for argument in (*usual, *arguments):
            options.add_argument(f"--{argument}")
        downloads = tmp_path / "downloads"
        preferences = {"download.default_directory": str(downloads), **preferences}
        options.add_experimental_option("prefs", preferences)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        page = Page(webdriver.Chrome(options, webdriver.ChromeService(DRIVER)), downloads)
        page.driver.set_script_timeout(SECONDS)
        started.append(page)
        return page

    try:
        yield start
        asked = [url for page in started for url in page.requests()]
        assert asked
        assert [u for u in asked if not re.match(r"data:|(blob:)?http://127\.0\.0\.1:", u)] == []
    finally:
        for page in started:
            page.driver.quit()


@pytest.fixture
def page(browse: Callable[..., Page], address: str, camera: Path) -> Page:
    made = browse(*FAKE, f"use-file-for-fake-video-capture={camera}")
    made.open(address)
    return made


def ten_pictures(folder: Path) -> list[Path]:
    """Return ten: photos where there are any, and drawn streets."""
    found = sorted((Path(DATA) / "data" / "photos").glob("*.jpg"))[:8] if DATA else []
    for number in range(10 - len(found)):
        file = folder / f"drawn {number}.png"
        Image.fromarray(SyntheticStreets(7, 10, (300 + number, 480)).image(number)).save(file)
        found.append(file)
    return found


def test_ten_pictures_have_the_labels_of_pytorch(page: Page, tmp_path: Path) -> None:
    segmenter = sctnet.Segmenter(MODEL, "cpu", "fp32")
    shares = {}
    for file in ten_pictures(tmp_path):
        page.label(file)
        labels = page.mask(f"{file.stem}_labels.png")
        shares[file.name] = float((labels == segmenter(file).labels).mean())
    assert len(shares) == 10
    assert min(shares.values()) >= 0.99


@pytest.mark.parametrize("threads", [1, 2])
def test_camera_is_labelled_live(page: Page, address: str, threads: int) -> None:
    page.open(f"{address}?backend=wasm&threads={threads}")
    noun = "thread" if threads == 1 else "threads"
    assert f"fp16, 11 classes, computed by WebAssembly, {threads} {noun}." in page.text("about")
    page.driver.find_element("id", "camera").click()
    rate = r"([\d.]+) frames per second, (\d+) ms each"
    page.until(lambda: (m := re.match(rate, page.text("live"))) and float(m[1]) > 0)
    time.sleep(3)
    assert sum(float(each.text.split()[-2]) > 1 for each in page.classes()) >= 2
    assert page.text("summary").startswith("camera shows: ")
    page.driver.find_element("id", "camera").click()  # stops it
    assert not page.driver.find_element("id", "box").is_displayed()
    assert page.run("document.getElementById('video').srcObject") is None


def test_without_the_headers_for_threads_it_works(
    browse: Callable[..., Page], plain_address: str, tmp_path: Path
) -> None:
    page = browse()
    page.open(plain_address)
    assert "1 thread (this server does not send the headers" in page.text("about")
    (file,) = ten_pictures(tmp_path)[-1:]
    page.label(file)
    labels = page.mask(f"{file.stem}_labels.png")
    assert (labels == sctnet.Segmenter(MODEL, "cpu", "fp32")(file).labels).mean() >= 0.99


def test_pointer_opacity_and_one_class_alone(page: Page, tmp_path: Path) -> None:
    (file,) = ten_pictures(tmp_path)[-1:]
    page.label(file)
    labels = page.mask(f"{file.stem}_labels.png")
    height, width = labels.shape
    box = page.driver.find_element("id", "box")
    actions = webdriver.ActionChains(page.driver)
    names = [each["name"] for each in json.loads(page.driver.execute_async_script(
        "const done = arguments[0]; fetch('model/model.json').then((a) => a.text()).then(done)"
    ))["classes"]]  # fmt: skip
    for across, down in [(0.1, 0.1), (0.5, 0.9), (0.9, 0.4)]:
        offset = ((across - 0.5) * box.rect["width"], (down - 0.5) * box.rect["height"])
        actions.move_to_element_with_offset(box, *map(round, offset)).perform()
        row, column = round(down * height), round(across * width)
        around = np.unique(labels[row - 2 : row + 3, column - 2 : column + 3])
        told = page.driver.find_element("id", "tip").text
        assert any(told.startswith(names[label]) for label in around)
    slider = page.driver.find_element("id", "opacity")
    slider.send_keys("\ue014" * 5)  # arrow right
    assert page.text("percent") == "55 %"
    overlay = page.driver.find_element("id", "overlay")
    assert overlay.value_of_css_property("opacity") == "0.55"
    chosen = page.classes()[1]
    share = float(re.findall(r"([\d.]+) %", chosen.text)[0]) / 100
    chosen.send_keys("\ue007")  # Enter, as without a pointer
    assert chosen.get_attribute("aria-pressed") == "true"
    painted = page.run(
        "Array.from(document.getElementById('overlay').getContext('2d').getImageData(0, 0, "
        f"{width}, {height}).data).filter((value, at) => at % 4 === 3 && value).length"
    )
    assert painted / labels.size == pytest.approx(share, abs=0.001)


def test_a_picture_of_forty_megapixels_is_labelled_and_more_refused(
    page: Page, tmp_path: Path
) -> None:
    large = tmp_path / "large.jpg"
    cv2.imwrite(str(large), street(5464, 7330))
    told = page.label(large)
    assert "7330 x 5464" in told
    assert "shrunk to 12 million pixels" in told
    labels = page.mask("large_labels.png")
    assert labels.shape == (5464, 7330)
    assert (labels == sctnet.Segmenter(MODEL, "cpu", "fp32")(large).labels).mean() > 0.95
    huge = tmp_path / "huge.jpg"
    cv2.imwrite(str(huge), np.zeros((10_100, 10_000), np.uint8))
    assert "10000 x 10100 is more than the 100 million pixels" in page.refusal(huge)


def test_files_that_cannot_be_shown_are_one_sentence(page: Page, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    assert page.refusal(text) == "notes.txt: not a picture or video that this browser can read."
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"\xff\xd8\xff\xe0 and no more")
    assert page.refusal(damaged).startswith("damaged.jpg: not a picture")
    page.label(ten_pictures(tmp_path)[-1])  # and it goes on


def video(file: Path, codec: str) -> Path:
    import av

    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(street(96, 160, number), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def test_videos_play_or_a_sentence_says_why_not(page: Page, tmp_path: Path) -> None:
    page.give(video(tmp_path / "clip.webm", "libvpx"))
    page.until(lambda: "frames per second" in page.text("live"))
    assert page.text("caption") == "clip.webm, 160 x 96."
    told = page.refusal(video(tmp_path / "old.mp4", "mpeg4"))
    assert told.startswith("old.mp4: this browser cannot play it, its codec")
    assert "convert it to" in told


def test_no_camera(browse: Callable[..., Page], address: str) -> None:
    page = browse("use-fake-ui-for-media-stream")
    page.open(address)
    page.driver.find_element("id", "camera").click()
    page.until(lambda: page.text("problem"))
    assert page.text("problem").startswith("There is no camera on this device: ")


def test_camera_refused(browse: Callable[..., Page], address: str) -> None:
    blocked = {"profile.default_content_setting_values.media_stream_camera": 2}
    page = browse("use-fake-device-for-media-stream", **blocked)
    page.open(address)
    page.driver.find_element("id", "camera").click()
    page.until(lambda: page.text("problem"))
    assert page.text("problem").startswith("The camera was refused: allow it for this page")


def test_a_folder_that_is_not_complete(
    browse: Callable[..., Page], folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "page", ignore=shutil.ignore_patterns("*.onnx"))
    for address in serving(_PLAIN, tmp_path / "page"):
        page = browse()
        page.open(address)
        assert page.text("problem").startswith("/model/model.onnx cannot be fetched (status 404)")


def test_telephone(page: Page, tmp_path: Path) -> None:
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    file = tmp_path / "wide.png"
    cv2.imwrite(str(file), street(60, 900))
    page.label(file)
    assert page.run("document.documentElement.scrollWidth") <= 360
    for name in ("camera", "mask"):
        assert page.driver.find_element("id", name).rect["height"] >= 44


def test_what_a_screen_reader_finds_has_names(page: Page, tmp_path: Path) -> None:
    page.label(ten_pictures(tmp_path)[-1])
    assert re.search(r" shows: \w+ \d+ percent", page.text("summary"))
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = ("button", "slider", "image", "checkbox")
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree
        if not node.get("ignored") and node.get("role", {}).get("value") in roles
    ]
    assert len(named) >= 6
    assert [role for role, name in named if not name] == []
