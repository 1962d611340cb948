"""Videos made here, through PyAV: what comes in, in time, comes out, in time, and plays."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import sctnet
from sctnet.checkpoints.model_folder import ModelConfig
from sctnet.cli import app
from sctnet.data.streams import ReadAhead, ordered_map
from sctnet.errors import SctnetError
from sctnet.inference.segmenter import Segmenter
from sctnet.inference.video import source as video_source
from sctnet.inference.video.files import find_videos
from sctnet.inference.video.overlay import tinted
from sctnet.inference.video.prediction import VideoOptions, _pixels_of_each, predict_video
from sctnet.inference.video.smoothing import ExponentialSmoothing, Flicker
from sctnet.inference.video.source import VideoFrame, open_video
from sctnet.inference.video.yuv import CODES, from_rgb, standard_of, to_rgb
from sctnet.models.network import Features, SegmentationNetwork, Widths
from sctnet.pictures.overlay import boundaries_of, overlay

CLASSES = ("left", "right")
MILLISECOND = Fraction(1, 1000)


class FakeNetwork(SegmentationNetwork):
    """Sees class 1 in the right half; may be slow, noisy or broken."""

    backbone_parts = ()

    def __init__(self, seconds=0.0, noise=0.0, fails_at=None):
        super().__init__()
        self.config = sctnet.create_model("sctnet-tiny", num_classes=2).config
        self.widths = Widths(1, 1, 1, 1)
        self.weight = nn.Parameter(torch.zeros(()))
        self.seconds, self.noise, self.fails_at = seconds, noise, fails_at
        self.calls = 0

    def features(self, images):
        self.calls += 1
        if self.calls == self.fails_at:
            raise SctnetError("the network broke: mend it")
        time.sleep(self.seconds)
        height, width = -(-images.shape[2] // 8), -(-images.shape[3] // 8)
        side = torch.linspace(-1, 1, width).expand(len(images), 1, height, width)
        generator = torch.Generator().manual_seed(self.calls)
        logits = torch.cat([-side, side], 1)
        logits = logits + self.noise * torch.randn(logits.shape, generator=generator)
        return Features(None, images, images, None, None, logits)

    def decode(self, decoder_input):
        raise NotImplementedError


def fake(**options):
    network = FakeNetwork(**options)
    config = ModelConfig(
        network=network.config, classes=CLASSES, colours=((255, 0, 0), (0, 0, 255))
    )
    return Segmenter.from_model(network, config, "cpu")


def scene(number, height, width):
    """A grey picture with a bright upper half and a square that moves."""
    picture = np.full((height, width, 3), 60, np.uint8)
    picture[: height // 2] = 200
    left = 2 * number % max(1, width - 8)
    picture[-8:, left : left + 8] = (250, 20, 20)
    return picture


def make_video(path, times, size=(48, 64), rotation=None, sound=None, time_base=MILLISECOND):
    """Write frames shown at ``times``, in units of the time base, and a second of a sine."""
    with av.open(str(path), "w") as container:
        codec = "libvpx" if path.suffix == ".webm" else "libx264"
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
        stream.time_base = stream.codec_context.time_base = time_base
        if rotation is not None:
            stream.set_display_rotation(rotation)
        audio = None
        if sound is not None:
            audio = container.add_stream(sound, rate=48000)
            audio.layout = "mono"
        for number, pts in enumerate(times):
            frame = av.VideoFrame.from_ndarray(scene(number, *size), "rgb24")
            frame.pts, frame.time_base = pts, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            write_sine(container, audio)
    return path


def write_sine(container, stream):
    wave = np.sin(np.arange(48000) * 2 * np.pi * 440 / 48000)
    resampler = av.AudioResampler(stream.format, "mono", 48000, stream.frame_size or 1024)
    frame = av.AudioFrame.from_ndarray((wave * 20000).astype(np.int16)[None], "s16", "mono")
    frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(part))
    container.mux(stream.encode())


def shown(path):
    """Return the times, in seconds, and the pictures of a video."""
    with av.open(str(path)) as container:
        frames = [
            (frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)
        ]
    return [moment for moment, _ in frames], [picture for _, picture in frames]


def heard(path):
    """Return the samples of a video's sound, and their rate."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None, 0
        frames = list(container.decode(audio=0))
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]), frames[0].sample_rate


def predict(path, out, segmenter=None, **options):
    options = VideoOptions(**options)
    return predict_video(segmenter or fake(), path, out, Path(Path(path).stem), options)


@pytest.fixture(autouse=True)
def no_thread_stays():
    before = set(threading.enumerate())
    threads = torch.get_num_threads(), cv2.getNumThreads()
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(2)  # a progress bar's own is told to end, not waited for
    assert set(threading.enumerate()) <= before
    assert (torch.get_num_threads(), cv2.getNumThreads()) == threads


STEADY = [40 * number for number in range(25)]
UNEVEN = [40 * number + 7 * (number % 5) for number in range(25)]


@pytest.mark.parametrize(
    ("ending", "times"),
    [
        pytest.param(".mp4", STEADY, id="steady"),
        pytest.param(".mp4", UNEVEN, id="variable frame rate"),
        pytest.param(".mkv", UNEVEN, id="another container"),
        pytest.param(".webm", STEADY, id="another codec"),
        pytest.param(".mp4", [0], id="one frame"),
    ],
)
def test_every_frame_keeps_its_time(tmp_path, ending, times):
    clip = make_video(tmp_path / f"clip{ending}", times)
    report = predict(clip, tmp_path)
    moments, pictures = shown(tmp_path / "overlay" / "clip.mp4")
    assert moments == pytest.approx([pts / 1000 for pts in times], abs=1e-3)
    assert report.frames == len(pictures) == len(times)
    assert (report.dropped, report.damage, report.interrupted) == (0, None, False)
    assert pictures[0].shape == (48, 64, 3)


def test_overlays_show_the_classes_over_the_picture(tmp_path):
    clip = make_video(tmp_path / "clip.mp4", STEADY, size=(96, 128))
    report = predict(clip, tmp_path, alpha=0.5)
    picture = shown(tmp_path / "overlay" / "clip.mp4")[1][3].astype(int)
    # The upper half is 200, tinted half red on the left and half blue on the right.
    np.testing.assert_allclose(picture[20:30, 8:40].mean((0, 1)), (228, 100, 100), atol=8)
    np.testing.assert_allclose(picture[20:30, 88:120].mean((0, 1)), (100, 100, 228), atol=8)
    np.testing.assert_allclose(picture[60:70, 8:40].mean((0, 1)), (158, 30, 30), atol=8)
    assert report.share == pytest.approx({"left": 0.5, "right": 0.5}, abs=0.02)


def squares(height, width, values, seed):
    """Random values in squares of 8 pixels: planes hold the colour of each, too."""
    generator = np.random.default_rng(seed)
    few = generator.integers(0, values, (-(-height // 8), -(-width // 8)), np.uint8)
    return few.repeat(8, 0).repeat(8, 1)[:height, :width]


@pytest.mark.parametrize("standard", ["BT.601", "BT.709"])
@pytest.mark.parametrize("size", [(96, 160), (95, 161)])
@pytest.mark.parametrize("native", [True, False])
def test_frames_are_tinted_as_pictures_are(standard, size, native):
    picture = np.stack([squares(*size, 200, seed) for seed in range(3)], -1)
    labels = squares(*size, 3, 9)
    colours, classes = ((250, 30, 30), (40, 60, 220), (90, 200, 10)), ("a", "b", "c")
    frame = VideoFrame(picture, 0, from_rgb(picture, standard) if native else None)
    drawn = tinted(frame, standard, labels, np.ones(3, int), colours, classes, 0.4)
    assert (drawn.height, drawn.width) == (96, size[1] + size[1] % 2)
    drawn.colorspace = CODES[standard]
    found = to_rgb(drawn, drawn.width, drawn.height)[: size[0], : size[1]].astype(int)
    lines = boundaries_of(labels) > 0
    expected = overlay(picture, labels, colours, classes, 0.4, legend=False)
    # A sample of colour is shared by neighbours, so that it is soft at the squares' edges.
    row, column = np.indices(size) % 8
    inside = (row > 2) & (row < 6) & (column > 2) & (column < 6)
    np.testing.assert_allclose(found[inside], expected[inside], atol=4)
    np.testing.assert_allclose(found[lines].mean(0), expected[lines].mean(0), atol=12)


def test_a_legend_is_the_same_in_planes():
    picture = np.full((362, 480, 3), 90, np.uint8)
    labels = np.zeros((362, 480), np.uint8)
    colours, classes = ((250, 30, 30), (40, 60, 220)), ("road", "pedestrian")
    frame = VideoFrame(picture, 0)
    drawn = tinted(frame, "BT.709", labels, np.array([1, 0]), colours, classes, 0.0)
    drawn.colorspace = CODES["BT.709"]
    expected = overlay(picture, labels, colours, classes, 0.0)
    assert (expected[-1] < 40).all(), "there is a strip"
    np.testing.assert_allclose(to_rgb(drawn, 480, 362)[..., 1], expected[..., 1], atol=40)
    assert np.abs(to_rgb(drawn, 480, 362).astype(int) - expected).mean() < 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({}, "BT.601", id="small, unspecified"),
        pytest.param({"size": (1280, 720)}, "BT.709", id="large, unspecified"),
        pytest.param({"colorspace": 1}, "BT.709", id="BT.709"),
        pytest.param({"colorspace": 6}, "BT.601", id="BT.601"),
        pytest.param({"colorspace": 9}, None, id="BT.2020"),
        pytest.param({"color_range": 2}, None, id="full range"),
        pytest.param({"size": (64, 49)}, None, id="odd"),
        pytest.param({"kind": "yuv444p"}, None, id="4:4:4"),
        pytest.param({"kind": "yuv420p10le"}, None, id="10 bits"),
    ],
)
def test_planes_are_drawn_in_only_where_they_are_ordinary(change, expected):
    frame = av.VideoFrame(*change.pop("size", (64, 48)), change.pop("kind", "yuv420p"))
    for name, value in change.items():
        setattr(frame, name, value)
    assert standard_of(frame) == expected


@pytest.mark.parametrize("code", [1, 6])
def test_untinted_videos_keep_their_colours(tmp_path, code):
    standard = {1: "BT.709", 6: "BT.601"}[code]
    picture = np.full((64, 96, 3), (200, 40, 90), np.uint8)
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.colorspace = code
        frame = from_rgb(picture, standard)
        frame.colorspace = code
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    predict(tmp_path / "clip.mp4", tmp_path, alpha=0.0)
    with av.open(str(tmp_path / "overlay" / "clip.mp4")) as container:
        (frame,) = container.decode(video=0)
    assert frame.colorspace == code
    np.testing.assert_allclose(to_rgb(frame, 96, 64)[:, :40], picture[:, :40], atol=5)


def test_labels_and_json_tell_every_frame(tmp_path):
    clip = make_video(tmp_path / "clip.mp4", UNEVEN)
    for times in (UNEVEN, UNEVEN[:5]):  # the second, shorter run leaves nothing of the first
        make_video(clip, times)
        report = predict(clip, tmp_path, kinds=("labels", "json"))
        files = sorted((tmp_path / "labels" / "clip.video").iterdir())
        assert [file.name for file in files] == [f"{n:06}.png" for n in range(len(times))]
    labels = cv2.imread(str(files[0]), cv2.IMREAD_UNCHANGED)
    assert labels.shape[:2] == (48, 64)
    content = json.loads((tmp_path / "json" / "clip.video.json").read_text())
    assert content["over_time"]["seconds"] == pytest.approx(
        [t / 1000 for t in UNEVEN[:5]], abs=1e-3
    )
    shares = np.array(list(content["over_time"]["share"].values()))
    assert shares.shape == (2, 5)
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-4)
    assert content["share"] == report.share
    assert not (tmp_path / "overlay").exists()


def test_a_flipped_model_sees_frames_mirrored_too(tmp_path):
    """What is right of the middle is left of it in the mirror: together nothing is on one side."""
    clip, network = make_video(tmp_path / "clip.mp4", STEADY[:2]), FakeNetwork()
    config = ModelConfig(network=network.config, classes=CLASSES, flip=True)
    segmenter = Segmenter.from_model(network, config, "cpu")
    report = predict(clip, tmp_path, kinds=("json",), segmenter=segmenter)
    assert report.share["left"] == pytest.approx(1)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_phone_videos_come_out_upright(tmp_path, rotation):
    clip = make_video(tmp_path / "clip.mp4", STEADY[:4], size=(48, 96), rotation=rotation)
    with open_video(clip) as video:
        frame = next(video.frames()).picture
    expected = np.rot90(scene(0, 48, 96), rotation // 90)
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected).mean() < 12
    predict(clip, tmp_path)
    with av.open(str(tmp_path / "overlay" / "clip.mp4")) as container:
        result = next(container.decode(video=0))
        assert (result.height, result.width, result.rotation) == (*expected.shape[:2], 0)


def test_odd_sizes_grow_by_a_row_and_a_column(tmp_path):
    clip = make_video(tmp_path / "clip.mkv", STEADY[:3], size=(51, 67))
    predict(clip, tmp_path, kinds=("overlay", "labels"))
    assert shown(tmp_path / "overlay" / "clip.mp4")[1][0].shape == (52, 68, 3)
    assert cv2.imread(str(tmp_path / "labels" / "clip.video" / "000000.png")).shape[:2] == (51, 67)


@pytest.mark.parametrize(
    ("ending", "sound"),
    [
        pytest.param(".mp4", "aac", id="copied"),
        pytest.param(".mkv", "flac", id="copied from another container"),
        pytest.param(".avi", "pcm_s16le", id="encoded"),
    ],
)
def test_sound_is_kept(tmp_path, ending, sound):
    clip = make_video(tmp_path / f"clip{ending}", range(25), sound=sound, time_base=Fraction(1, 25))
    predict(clip, tmp_path)
    samples, rate = heard(tmp_path / "overlay" / "clip.mp4")
    assert len(samples) / rate == pytest.approx(1, abs=0.06)
    middle = samples[rate // 4 : rate // 4 + rate // 2].astype(float)
    peak = np.argmax(np.abs(np.fft.rfft(middle * np.hanning(len(middle))))) * rate / len(middle)
    assert peak == pytest.approx(440, abs=4)
    with av.open(str(tmp_path / "overlay" / "clip.mp4")) as container:
        assert container.streams.audio[0].codec_context.name == {"pcm_s16le": "aac"}.get(
            sound, sound
        )


def test_late_pictures_stay_late_beside_the_sound(tmp_path):
    clip = make_video(tmp_path / "clip.mp4", [400 + pts for pts in STEADY], sound="aac")
    predict(clip, tmp_path)
    moments, _ = shown(tmp_path / "overlay" / "clip.mp4")
    before, _ = shown(clip)
    assert before[0] > 0.3
    assert moments == pytest.approx(before, abs=0.03)


def test_the_index_lies_in_front_and_nothing_beside(tmp_path):
    predict(make_video(tmp_path / "clip.mp4", STEADY, sound="aac"), tmp_path)
    (result,) = (tmp_path / "overlay").iterdir()
    content = result.read_bytes()
    assert result.name == "clip.mp4"
    assert 0 < content.find(b"moov") < content.find(b"mdat")
    assert b"moof" not in content, "an ordinary file, not fragments"


def test_what_a_killed_process_wrote_plays(tmp_path):
    clip = make_video(tmp_path / "clip.mp4", [40 * number for number in range(400)])
    model = tmp_path / "model"
    network = sctnet.create_model("sctnet-tiny", num_classes=2)
    sctnet.save_model(network, model, classes=CLASSES)
    command = "import sys; from sctnet.cli import main; main()"
    arguments = ["predict", str(model), str(clip), "--out", str(tmp_path / "out")]
    part = tmp_path / "out" / "overlay" / "clip.part.mp4"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", command, *arguments], stderr=subprocess.DEVNULL, env=environment
    )
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 4000):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    moments, pictures = shown(part)
    assert 0 < len(pictures) < 400
    assert moments == pytest.approx([0.04 * number for number in range(len(moments))], abs=1e-3)
    assert not (part.parent / "clip.mp4").exists()


@pytest.fixture
def heeded_ctrl_c():
    """Let Ctrl-C interrupt, which a shell makes its background programs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_ctrl_c")
def test_ctrl_c_ends_the_file_properly(tmp_path):
    clip = make_video(tmp_path / "clip.mp4", [40 * n for n in range(250)], sound="aac")

    def interrupt(done, total):
        if done == 20:
            os.kill(os.getpid(), signal.SIGINT)

    segmenter = fake(seconds=0.01)
    report = predict_video(
        segmenter, clip, tmp_path, Path("clip"), VideoOptions(), progress=interrupt
    )
    assert report.interrupted
    moments, _ = shown(tmp_path / "overlay" / "clip.mp4")
    assert 20 <= report.frames == len(moments) < 100
    assert [file.name for file in (tmp_path / "overlay").iterdir()] == ["clip.mp4"]


def test_realtime_drops_frames_instead_of_lagging(tmp_path):
    clip = make_video(tmp_path / "clip.mp4", STEADY)  # a second
    began = time.monotonic()
    report = predict(clip, tmp_path, fake(seconds=0.4), realtime=True)  # also on a busy machine
    elapsed = time.monotonic() - began
    moments, _ = shown(tmp_path / "overlay" / "clip.mp4")
    assert report.frames + report.dropped == 25
    assert report.dropped >= 10
    assert elapsed < 25 * 0.4
    assert moments[-1] == pytest.approx(0.96, abs=1e-3), "the newest frame wins"
    assert set(np.round(moments, 2)) <= {round(pts / 1000, 2) for pts in STEADY}


def test_smoothing_calms_a_noisy_network(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "sctnet.inference.video.prediction._MAX_WORKERS", 1
    )  # the noise is the call's
    clip = make_video(tmp_path / "clip.mp4", STEADY, size=(64, 96))
    plain = predict(clip, tmp_path, fake(noise=1.0))
    smoothed = predict(clip, tmp_path, fake(noise=1.0), smooth=0.8)
    assert plain.flicker == pytest.approx(smoothed.flicker)
    assert plain.flicker_smoothed is None
    assert smoothed.flicker_smoothed < 0.5 * smoothed.flicker


def test_any_number_of_threads_gives_the_same_labels(tmp_path, monkeypatch):
    asked, side_by_side = [], Segmenter.side_by_side
    monkeypatch.setattr(
        Segmenter,
        "side_by_side",
        lambda segmenter, callers: asked.append(callers) or side_by_side(segmenter, callers),
    )
    torch.manual_seed(0)
    network = sctnet.create_model("sctnet-tiny", num_classes=2)
    nn.init.normal_(network.head.classifier.weight, std=1)
    segmenter = Segmenter.from_model(
        network, ModelConfig(network=network.config, classes=CLASSES), "cpu"
    )
    clip = make_video(tmp_path / "clip.mp4", STEADY)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            predict(clip, tmp_path, segmenter, kinds=("labels",), smooth=0.3)
        finally:
            torch.set_num_threads(1)
        files = sorted((tmp_path / "labels" / "clip.video").iterdir())
        results.append([file.read_bytes() for file in files])
    assert results[0] == results[1]
    assert asked == [1, 2]
    with open_video(clip) as video:
        first = segmenter(next(video.frames()).picture).labels
    saved = np.array(Image.open(tmp_path / "labels" / "clip.video" / "000000.png"))
    np.testing.assert_array_equal(saved, first)
    assert len(np.unique(first)) == 2, "a map of one class would prove nothing"


def test_smoothing_of_nothing_changes_nothing():
    logits = torch.randn(3, 1, 2, 4, 5)
    none, half = ExponentialSmoothing(0.0), ExponentialSmoothing(0.5)
    assert all(none(frame) is frame for frame in logits)
    results = [half(frame) for frame in logits]
    expected = logits[0] / 4 + logits[1] / 4 + logits[2] / 2
    torch.testing.assert_close(results[2], expected)
    other = torch.randn(1, 2, 7, 5)
    assert torch.equal(half(other), other), "another size starts anew"


def test_flicker_counts_still_cells_alone():
    flicker = Flicker()
    still = torch.tensor([[[True, True, False, True]]])
    flicker.add(torch.tensor([[[0, 1, 0, 1]]]), None)
    assert flicker.share is None
    flicker.add(torch.tensor([[[1, 1, 1, 1]]]), still)
    assert flicker.share == pytest.approx(1 / 3)


def broken_inputs():
    def text(path):
        path.write_text("this is no video")

    def playlist(path):
        path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")

    def sound(path):
        with av.open(str(path), "w", "mp4") as container:
            stream = container.add_stream("aac", rate=48000)
            stream.layout = "mono"
            write_sine(container, stream)

    def headless(path):  # the index of an ordinary MP4 comes last
        make_video(path, STEADY)
        path.write_bytes(path.read_bytes()[:600])

    return [
        pytest.param(lambda _: None, "no such file", id="missing"),
        pytest.param(lambda path: path.touch(), "cannot be opened", id="empty"),
        pytest.param(text, "cannot be opened", id="not a video"),
        pytest.param(playlist, "clip.mp4", id="a playlist fetches nothing"),
        pytest.param(sound, "no pictures", id="sound alone"),
        pytest.param(headless, "cannot be opened", id="cut before its index"),
    ]


@pytest.mark.parametrize(("make", "told"), broken_inputs())
def test_what_is_no_video_is_told_in_a_sentence(tmp_path, make, told):
    make(tmp_path / "clip.mp4")
    with pytest.raises(SctnetError, match=told) as caught:
        predict(tmp_path / "clip.mp4", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.mp4"))


def test_a_truncated_video_is_labelled_as_far_as_it_goes(tmp_path):
    clip = make_video(tmp_path / "clip.mkv", [40 * number for number in range(100)])
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    report = predict(clip, tmp_path)
    assert 0 < report.frames < 90
    assert "cut short" in report.damage
    assert len(shown(tmp_path / "overlay" / "clip.mp4")[0]) == report.frames


@pytest.mark.parametrize("ending", ["mkv", "webm", "mp4"])
@pytest.mark.parametrize(
    "moments",
    [
        pytest.param([40 * number for number in range(90) if number % 3], id="a phone's"),
        pytest.param([*range(0, 400, 40), 2000, 4000, 4040], id="a screen's"),
    ],
)
def test_a_whole_video_with_fewer_frames_than_its_rate_says_is_whole(tmp_path, moments, ending):
    clip = make_video(tmp_path / f"clip.{ending}", moments)
    report = predict(clip, tmp_path)
    assert (report.frames, report.damage) == (len(moments), None)


def test_sound_may_be_longer_than_the_pictures(tmp_path):
    clip = make_video(tmp_path / "clip.mkv", [0, 40, 80], sound="aac")  # a second of it
    assert predict(clip, tmp_path).damage is None


def test_impossible_options_are_told_before_anything_is_written(tmp_path):
    clip = make_video(tmp_path / "clip.mp4", STEADY[:2])
    with pytest.raises(SctnetError, match=r"alpha 1\.5: give 0"):
        predict(clip, tmp_path, alpha=1.5)
    with pytest.raises(SctnetError, match="smoothing of 1"):
        predict(clip, tmp_path, smooth=1.0)
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_an_error_in_the_network_ends_everything(tmp_path):
    clip = make_video(tmp_path / "clip.mp4", STEADY)
    with pytest.raises(SctnetError, match="the network broke"):
        predict(clip, tmp_path, fake(fails_at=8))
    assert list((tmp_path / "overlay").iterdir()) == []


def test_an_error_in_writing_ends_everything(tmp_path):
    clip = make_video(tmp_path / "clip.mp4", STEADY)
    (tmp_path / "overlay" / "clip.mp4" / "in the way").mkdir(parents=True)
    with pytest.raises(SctnetError, match="cannot be written"):
        predict(clip, tmp_path)
    assert [file.name for file in (tmp_path / "overlay").iterdir()] == ["clip.mp4"]


class FakeCamera:
    """Ten pictures, then the cable comes off."""

    opens = True

    def __init__(self, _):
        self.left, self.released = 10, False

    def isOpened(self):
        return self.opens

    def get(self, _):
        return 0.0

    def read(self):
        self.left -= 1
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[..., 0] = 255  # blue: OpenCV's order
        return self.left >= 0, picture

    def release(self):
        self.released = True


def test_cameras_are_read_until_they_end(tmp_path, monkeypatch):
    monkeypatch.setattr(video_source.cv2, "VideoCapture", FakeCamera)
    report = predict_video(fake(), "0", tmp_path, Path("camera0"), VideoOptions(alpha=0.0))
    moments, pictures = shown(tmp_path / "overlay" / "camera0.mp4")
    assert report.frames == len(pictures) == 10
    assert "camera 0" in report.damage
    assert all(a < b for a, b in pairwise(moments))
    np.testing.assert_allclose(pictures[0][5, 5], (0, 0, 255), atol=6)


def test_cameras_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(FakeCamera, "opens", False)
    monkeypatch.setattr(video_source.cv2, "VideoCapture", FakeCamera)
    with pytest.raises(SctnetError, match="camera 3: cannot be opened"):
        predict("3", tmp_path)


def test_streams_hide_their_password(tmp_path):
    with pytest.raises(SctnetError, match=r"rtsp://127.0.0.1:9/door") as caught:
        predict("rtsp://me:secret@127.0.0.1:9/door", tmp_path)
    assert "secret" not in str(caught.value)


def test_videos_are_parted_from_pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.mp4", "in/sub/a.mp4", "in/p.png", "only/b.MOV", "b.mov", "b.avi", "x.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("in/overlay").mkdir()
    Path("in/overlay/a.mp4").touch()
    inputs = ["in", "only", "*.*", "0", "rtsp://u:p@host/cam/1?x=2", "http://h/p.png", "gone.txt"]
    videos, others = find_videos(inputs, Path("in"))
    assert [(video.source, str(video.name)) for video in videos] == [
        ("in/a.mp4", "a"),
        ("in/sub/a.mp4", "sub/a"),
        ("only/b.MOV", "b"),
        ("b.avi", "b_avi"),
        ("b.mov", "b_mov"),
        ("0", "camera0"),
        ("rtsp://u:p@host/cam/1?x=2", "1"),
    ]
    assert others == ["in", "x.jpg", "http://h/p.png", "gone.txt"]


def test_pipelines_keep_the_order_and_raise_what_happened():
    from concurrent.futures import ThreadPoolExecutor

    def uneven(number):
        time.sleep(0.01 * (number % 3))
        return number

    with ReadAhead(iter(range(30)), 2) as ahead, ThreadPoolExecutor(3) as pool:
        assert list(ordered_map(pool, uneven, ahead, 3)) == list(range(30))

    def failing():
        yield 1
        raise KeyError("gone")

    with ReadAhead(failing()) as ahead, pytest.raises(KeyError, match="gone"):
        list(ahead)
    with ReadAhead(iter(int, 1), 3) as ahead:  # without end
        assert next(iter(ahead)) == 0


def test_the_command_labels_videos_beside_pictures(tmp_path):
    network = sctnet.create_model("sctnet-tiny", num_classes=2)
    model = sctnet.save_model(network, tmp_path / "model", classes=CLASSES)
    make_video(tmp_path / "clip.mp4", STEADY[:5])
    cv2.imwrite(str(tmp_path / "picture.png"), scene(0, 40, 60))
    given = [tmp_path / name for name in ("clip.mp4", "picture.png", "gone.mp4")]
    arguments = ["predict", model, *given, "--out", tmp_path / "out", "--smooth", "0.5"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 1, result.output
    assert "clip.mp4: 5 frames in" in result.output
    assert "smoothed" in result.output
    assert "gone.mp4: there is no such file" in result.output
    files = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.*")}
    results = {"overlay/clip.mp4", "overlay/picture.png", "labels/picture.png"}
    assert files == {*results, ".pictures.jsonl"}


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_pixels_of_classes_are_counted_exactly(kind):
    labels = np.zeros((4100, 4100), kind)  # more of one class than float32 can count
    labels[-1, :5] = [1, 2, 2, 4, 4]
    assert _pixels_of_each(labels, 5).tolist() == [labels.size - 5, 1, 2, 0, 2]
