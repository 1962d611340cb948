"""Sources of frames: video files, network streams and cameras."""

import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from sctnet.errors import SctnetError, as_one_sentence
from sctnet.inference.video.files import is_camera, is_stream
from sctnet.pictures.yuv_overlay import Standard

try:
    import av
    import av.container
    from av.error import FFmpegError

    from sctnet.inference.video.yuv import standard_of, to_rgb
except ImportError as error:
    raise SctnetError('videos need PyAV: pip install "sctnet[video]"') from error

_SECONDS = 10  # without data from a network stream
_MAX_PIXELS = 8192 * 8192  # of a frame; RGB and a float map of it then take some 500 MB
_USUAL_RATE = Fraction(25)
_NOTED_DURATION = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")  # in Matroska, of each stream


class VideoFrame(NamedTuple):
    """An upright frame, RGB, and its time from the beginning, in units of ``time_base``."""

    picture: UInt8[np.ndarray, "h w 3"]
    pts: int
    native: av.VideoFrame | None = None
    """The frame as decoded, if its planes can be drawn in; see :func:`standard_of`."""


class VideoSource(ABC):
    """Frames in order, and their properties; a context that closes the source at its end."""

    name: str
    """The name for messages, without a password."""
    time_base: Fraction
    """Seconds."""
    rate: Fraction = _USUAL_RATE
    """Frames a second, on average."""
    total: int | None = None
    """The expected number of frames; None if unknown."""
    is_live: bool = True
    """Whether the source is live, so that frames come at its own rate."""
    aspect: Fraction = Fraction(1)
    """Width of an upright pixel, divided by its height."""
    standard: Standard = "BT.709"
    """Of the native frames; known from the first frame on."""
    sound: Path | None = None
    """A file whose sound goes with the frames."""
    origin: Fraction = Fraction(0)
    """The time of the first frame in that file, in seconds."""
    damage: str | None = None
    """A sentence on unreadable parts; known after the last frame."""

    @abstractmethod
    def frames(self) -> Iterator[VideoFrame]:
        """Yield the frames; times rise strictly."""

    @abstractmethod
    def close(self) -> None:
        """Close the file, connection or device."""

    def __enter__(self) -> "VideoSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_video(source: str | Path) -> VideoSource:
    """Open a video file, a network stream (rtsp://, http:// and others) or a camera ("0").

    Raises :class:`SctnetError` for a source that cannot be opened or has no frames.
    """
    source = str(source)
    if is_camera(source):
        return _Camera(int(source))
    return _Decoded(source)


def paced(frames: Iterator[VideoFrame], time_base: Fraction) -> Iterator[VideoFrame]:
    """Yield frames no earlier than a player would show them."""
    began = time.monotonic()
    for frame in frames:
        time.sleep(max(0.0, float(frame.pts * time_base) - (time.monotonic() - began)))
        yield frame


def until(frames: Iterator[VideoFrame], stop: threading.Event) -> Iterator[VideoFrame]:
    """Yield frames until ``stop`` is set."""
    for frame in frames:
        if stop.is_set():
            return
        yield frame


class _Camera(VideoSource):
    """A camera of this machine, through OpenCV; times are those of the clock."""

    time_base = Fraction(1, 1000)

    def __init__(self, number: int) -> None:
        self.name = f"camera {number}"
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise SctnetError(f"{self.name}: cannot be opened: check that it is there and free")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        if 1 <= rate <= 1000:  # some drivers give 0 or an impossible rate
            self.rate = Fraction(rate).limit_denominator(1001)

    def frames(self) -> Iterator[VideoFrame]:
        began, last = time.monotonic(), -1
        while True:
            found, picture = self._capture.read()
            if not found:
                self.damage = f"{self.name}: gives no more pictures: check its cable"
                return
            last = max(last + 1, round((time.monotonic() - began) / self.time_base))
            yield VideoFrame(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), last)

    def close(self) -> None:
        self._capture.release()


class _Decoded(VideoSource):
    """A file or a network stream, decoded by FFmpeg through PyAV."""

    def __init__(self, source: str) -> None:
        self._stated: int | None = None
        self._ends_at: Fraction | None = None
        self.is_live = is_stream(source)
        self.name = _without_password(source) if self.is_live else source
        self._container = open_container(source, self.name, self.is_live)
        try:
            with as_one_sentence(self.name):
                self._examine(source)
        except SctnetError:
            self.close()
            raise

    def _examine(self, source: str) -> None:
        container = self._container
        if not container.streams.video:
            raise SctnetError(f"{self.name}: there are no pictures in it: give a video")
        stream = self._stream = container.streams.video[0]
        if stream.width * stream.height > _MAX_PIXELS:
            raise SctnetError(
                f"{self.name}: frames of {stream.width} x {stream.height} are more than "
                f"{_MAX_PIXELS // 1_000_000} million pixels: make the video smaller"
            )
        if stream.time_base is None:
            raise SctnetError(f"{self.name}: the times of its frames are not given: convert it")
        self.time_base = stream.time_base
        self.rate = stream.average_rate or stream.guessed_rate or _USUAL_RATE
        self.aspect = stream.sample_aspect_ratio or Fraction(1)
        stream.codec_context.thread_count = codec_threads()
        if self.is_live:
            return
        if container.start_time is not None:
            self.origin = Fraction(container.start_time, 1_000_000)
        self._stated = stream.frames or None
        self._ends_at = _end_of_pictures(container, stream)
        if container.duration is not None:
            self.total = stream.frames or round(container.duration * self.rate / 1_000_000)
        if container.streams.audio:
            self.sound = Path(source)

    def frames(self) -> Iterator[VideoFrame]:
        number, last = 0, -1
        step = max(1, round(1 / (self.rate * self.time_base)))
        for number, frame in enumerate(self._decode(), start=1):
            if number == 1:
                if self.is_live and frame.pts is not None:
                    self.origin = frame.pts * self.time_base
                first = round(self.origin / self.time_base)
                width, height = frame.width, frame.height
                self.standard = standard_of(frame) or self.standard
                if _turns(frame) % 2:
                    self.aspect = 1 / self.aspect
            pts = last + step if frame.pts is None else frame.pts - first
            last = max(last + 1, pts)
            picture = np.ascontiguousarray(np.rot90(to_rgb(frame, width, height), _turns(frame)))
            same = (frame.width, frame.height) == (width, height)
            native = same and standard_of(frame) == self.standard
            yield VideoFrame(picture, last, frame if native else None)
        if self.damage is None and self._breaks_off(number, (last + step) * self.time_base):
            self.damage = self._tell_damage(number)

    def _breaks_off(self, frames: int, seconds: Fraction) -> bool:
        """Say whether a file ends before its time.

        Of its duration alone nothing follows on the number of frames: phones and recorders of
        screens write fewer where little moves. A stated number counts those that an edit hides.
        """
        if self._stated is not None and frames >= 0.9 * self._stated:
            return False
        return self._ends_at is not None and seconds < 0.9 * self._ends_at

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Yield all frames that can be decoded; skip broken packets, end at a broken file."""
        done, packets = 0, self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError as error:
                self.damage = self._tell_damage(done, error.strerror)
                packet = None
            if packet is None:
                return
            try:
                decoded = packet.decode()
            except FFmpegError as error:
                self.damage = self._tell_damage(done, error.strerror)
                continue
            done += len(decoded)
            yield from decoded

    def _tell_damage(self, done: int, reason: str | None = None) -> str:
        told = f" ({reason})" if reason else ""
        if self.is_live:
            return f"{self.name}: the stream broke off after {done} frames{told}: connect again"
        total = "" if self._stated is None else f" of {self._stated}"
        return (
            f"{self.name}: damaged or cut short{told}, only {done}{total} frames can be read: "
            "copy it again from its source"
        )

    def close(self) -> None:
        self._container.close()


def _end_of_pictures(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Fraction | None:
    """Return how many seconds of pictures a file says it has; None where sound may be longer."""
    noted = _NOTED_DURATION.match(stream.metadata.get("DURATION", ""))
    if noted is not None:
        return Fraction(int(noted[1]) * 3600 + int(noted[2]) * 60) + Fraction(noted[3])
    # A stream without a duration of its own is given that of the whole file.
    is_own = stream.frames > 0 or len(container.streams) == 1
    if stream.duration is None or stream.time_base is None or not is_own:
        return None
    return stream.duration * stream.time_base


def codec_threads() -> int:
    """Return the number of threads for decoding, and for encoding."""
    return max(1, (os.cpu_count() or 1) // 4)


def open_container(source: str, name: str, live: bool) -> av.container.InputContainer:
    """Open a file or a stream; raises :class:`SctnetError` if that fails."""
    # A local file can be a playlist; it must not make this machine fetch anything.
    options = {"rtsp_transport": "tcp"} if live else {"protocol_whitelist": "file"}
    with as_one_sentence(name):
        try:
            return av.open(
                source if live else str(Path(source).absolute()),
                options=options,
                metadata_errors="replace",  # a title or a camera's name in another encoding
                timeout=_SECONDS if live else None,
            )
        except FileNotFoundError as error:
            raise SctnetError(f"{name}: there is no such file: check the path") from error
        except FFmpegError as error:
            advice = "check the address" if live else "give a video file that plays"
            raise SctnetError(f"{name}: cannot be opened ({error.strerror}): {advice}") from error


def _turns(frame: av.VideoFrame) -> int:
    """Return the number of counter-clockwise quarter turns that make a frame upright."""
    return round(frame.rotation / 90) % 4


def _without_password(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//", address)
