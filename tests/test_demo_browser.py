"""The demonstration page in a real browser, clicked by Selenium: make test-browser."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from drawn import street
from PIL import Image

import sctnet
from sctnet.checkpoints.model_folder import save_model
from sctnet.data.synthetic.streets import SyntheticStreets

DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")

if not os.environ.get("SCTNET_TEST_BROWSER"):
    pytest.skip("make test-browser runs it", allow_module_level=True)
if not DRIVER or not BROWSER:
    pytest.skip("apt-get install chromium chromium-driver", allow_module_level=True)

webdriver = pytest.importorskip("selenium.webdriver")
# Selenium leaves the connection to its driver to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
CSS = "css selector"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the bundled model and a tiny one as users do; in the end nothing may be left."""
    folder = tmp_path_factory.mktemp("served")
    model = sctnet.create_model("sctnet-tiny", 2)
    save_model(model, folder / "tiny", ("left", "right"))
    temporary = folder / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "sctnet", "demo", "sctnet-s-camvid", str(folder / "tiny")]
    server = subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip
    assert server.stdout is not None
    try:
        yield server.stdout.readline().split()[1]
    finally:
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=20)
    assert errors == ""
    assert list(temporary.iterdir()) == []


class Browser:
    """What a user does and sees."""

    def __init__(self, driver: Any, downloads: Path) -> None:
        self.driver, self.downloads = driver, downloads

    def find(self, selector: str, seconds: float = 60) -> Any:
        """Return the first visible element, as soon as there is one."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = [e for e in self.driver.find_elements(CSS, selector) if e.is_displayed()]
            if found:
                return found[0]
            time.sleep(0.1)
        raise AssertionError(f"{selector} does not appear")

    def drop(self, file: Path) -> None:
        """Give a file to the drop zone, once it is free."""
        self.find("#upload button")
        self.driver.find_element(CSS, "#upload input[type=file]").send_keys(str(file))

    def picture(self, name: str) -> Any:
        """Wait for the result of this name and return the picture's element."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            script = "return document.querySelector('#viewer .caption')?.textContent ?? ''"
            if self.driver.execute_script(script).startswith(name):
                return self.find("#viewer .picture, #viewer video")
            time.sleep(0.1)
        raise AssertionError(f"{name} does not appear")

    def requests(self) -> list[str]:
        """Return the addresses asked for since the last call."""
        messages = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def downloaded(self, name: str) -> Path:
        end = time.monotonic() + 30
        while not (self.downloads / name).exists():
            assert time.monotonic() < end, f"{name} is not downloaded"
            time.sleep(0.1)
        return self.downloads / name


@pytest.fixture
def browser(address: str, tmp_path: Path) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    arguments = ["headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1280,900"]
    arguments += ["use-fake-device-for-media-stream", "use-fake-ui-for-media-stream"]
    for argument in arguments:
        options.add_argument(f"--{argument}")
    downloads = tmp_path / "downloads"
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        driver.get(address)
        page = Browser(driver, downloads)
        page.find("#viewer .hint")
        yield page
        kept = ("data:", "blob:", address)
        assert [url for url in page.requests() if not url.startswith(kept)] == []
    finally:
        driver.quit()


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    picture, _ = SyntheticStreets(3, 1, (360, 480)).pair(0)
    file = tmp_path / "my street.png"
    Image.fromarray(picture).save(file)
    return file


def test_picture_hover_opacity_and_downloads(browser: Browser, drawn: Path) -> None:
    expected = sctnet.Segmenter("sctnet-s-camvid")(drawn)
    browser.drop(drawn)
    picture = browser.picture("my street.png")
    box = picture.rect
    actions = webdriver.ActionChains(browser.driver)
    for across, down in [(0.1, 0.1), (0.5, 0.9), (0.9, 0.4), (0.3, 0.6)]:
        offset = round((across - 0.5) * box["width"]), round((down - 0.5) * box["height"])
        actions.move_to_element_with_offset(picture, *offset).perform()
        row, column = round(down * 360), round(across * 480)
        around = expected.labels[row - 2 : row + 3, column - 2 : column + 3]
        told = browser.find("#viewer .tip").text.split()[0]
        assert told in {expected.classes[label] for label in np.unique(around)}
    rows = browser.find("#viewer .classes").text.split("\n")
    largest = max(expected.area().items(), key=lambda item: item[1]["percent"])
    assert rows[:2] == [largest[0], f"{largest[1]['percent']:.1f} %"]

    browser.requests()
    number = browser.find("#opacity input[type=number]")
    number.send_keys("\ue009a\ue000", "80", "\ue007")  # Control-a; Enter
    canvas = browser.find("#viewer canvas")
    time.sleep(0.5)
    assert canvas.value_of_css_property("opacity") == "0.8"
    assert browser.requests() == []

    for button in browser.driver.find_elements(CSS, "#viewer .actions button"):
        button.click()
    mask = np.array(Image.open(browser.downloaded("my street_labels.png")))
    assert np.array_equal(mask, expected.labels)
    overlay = np.array(Image.open(browser.downloaded("my street_overlay.png")))
    assert np.array_equal(overlay, np.array(expected.overlay(0.8)))


def test_class_under_the_pointer_is_shown_alone(browser: Browser, drawn: Path) -> None:
    browser.drop(drawn)
    browser.picture("my street.png")
    painted = "return Array.from(document.querySelector('#viewer canvas').getContext('2d')"
    painted += ".getImageData(0, 0, 480, 360).data).filter((v, i) => i % 4 == 3 && v).length"
    assert browser.driver.execute_script(painted) == 480 * 360
    rows = browser.driver.find_elements(CSS, "#viewer .classes li")
    webdriver.ActionChains(browser.driver).move_to_element(rows[1]).perform()
    share = float(rows[1].text.split("\n")[1].removesuffix(" %"))
    assert browser.driver.execute_script(painted) / (480 * 360) == pytest.approx(
        share / 100, abs=0.001
    )


def test_other_model(browser: Browser, drawn: Path) -> None:
    browser.drop(drawn)
    browser.picture("my street.png")
    browser.find("#model input").click()
    browser.driver.find_elements(CSS, "#model [role=option], [role=option]")[1].click()
    end = time.monotonic() + 30
    while "left" not in (text := browser.find("#viewer").text) and "right" not in text:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_bad_file_then_example(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    browser.drop(bad)
    assert browser.find("#viewer [role=alert]").text.startswith("bad.jpg: not an image")
    browser.find("#examples button").click()
    browser.picture("drawn street 1")


def test_video_plays(browser: Browser, tmp_path: Path) -> None:
    import av

    file = tmp_path / "clip.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width = 90, 160
        for number in range(15):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(street(90, 160, number), "rgb24"))
            )
        container.mux(stream.encode())
    browser.drop(file)
    browser.picture("clip.mp4: 15 frames")
    state = "const video = document.querySelector('#viewer video');"
    state += "return [video.videoWidth, video.currentTime > 0]"
    end = time.monotonic() + 20
    while browser.driver.execute_script(state) != [160, True]:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_camera(browser: Browser) -> None:
    tabs = browser.driver.find_elements(CSS, "button[role=tab]")
    next(tab for tab in tabs if tab.text == "Camera").click()
    browser.find("#camera button").click()
    browser.find("#camera video")
    time.sleep(1)
    browser.find("#camera button[aria-label='capture photo']").click()
    browser.picture("image.")


def test_telephone(browser: Browser, tmp_path: Path) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    file = tmp_path / "wide.png"
    cv2.imwrite(str(file), street(60, 900))
    browser.drop(file)
    browser.picture("wide.png")
    assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= 390
