"""Writes frames as an H.264 MP4 that browsers play, with the audio of their source."""

import heapq
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from pathlib import Path

import av
import av.video.stream
from av.error import FFmpegError

from sctnet.errors import SctnetError
from sctnet.inference.video.audio import Sound, copied, seconds
from sctnet.inference.video.source import VideoSource, codec_threads
from sctnet.inference.video.yuv import CODES

_ENCODER = {"preset": "ultrafast", "crf": "23", "bf": "0"}
# A fragment per second: if the process is killed, the file plays up to the last fragment.
_FRAGMENTS = {
    "movflags": "empty_moov+default_base_moof",
    "frag_duration": "1000000",
    "flush_packets": "1",
}
_BT709 = 1


class VideoWriter:
    """Writes ``NAME.part.mp4``, which plays at any time, and renames it to ``NAME.mp4``.

    Frames keep the times and the time base of ``source``, and their planes have its standard. Used
    as a context: :meth:`finish` completes the file, an error removes it.
    """

    def __init__(self, path: Path, source: VideoSource) -> None:
        self._path = path
        self._part = path.with_name(f"{path.stem}.part.mp4")
        self._source = source
        self._begin = self._end = Fraction(0)  # seconds
        self._stream: av.video.stream.VideoStream | None = None
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self._part), "w", "mp4", options=_FRAGMENTS)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *_: object) -> None:
        with self._errors():
            try:
                self._container.close()
            finally:
                self._part.unlink(missing_ok=True)

    def write(self, frame: av.VideoFrame, pts: int) -> None:
        """Append a yuv420p frame; all have the first one's size, and rising times."""
        with self._errors():
            if self._stream is None:
                self._stream = self._add_stream(frame.height, frame.width)
                self._begin = pts * self._source.time_base
            frame.pts, frame.time_base = pts, self._source.time_base
            frame.colorspace = CODES[self._source.standard]
            frame.color_primaries = frame.color_trc = _BT709
            self._container.mux(self._stream.encode(frame))
        self._end = pts * self._source.time_base + 1 / self._source.rate

    def finish(self) -> None:
        """Add the audio, move the index to the front, and rename the file."""
        beside = self._path.with_name(f".{self._path.name[:40]}.{os.getpid()}.part")
        with self._errors():
            if self._stream is None:
                raise SctnetError(f"{self._source.name}: no frame of it can be read: check it")
            self._container.mux(self._stream.encode())
            self._container.close()
            try:
                self._remux(beside)
                beside.replace(self._path)
            finally:
                beside.unlink(missing_ok=True)

    def _add_stream(self, height: int, width: int) -> av.video.stream.VideoStream:
        try:
            stream = self._container.add_stream("libx264", self._source.rate, dict(_ENCODER))
        except ValueError as error:
            raise SctnetError(
                "this PyAV has no H.264 encoder: install the one of PyPI (pip install av)"
            ) from error
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = self._source.time_base
        context = stream.codec_context
        context.sample_aspect_ratio = self._source.aspect
        context.thread_count = codec_threads()
        context.gop_size = max(1, round(2 * self._source.rate))
        context.colorspace = CODES[self._source.standard]
        context.color_primaries = context.color_trc = _BT709
        return stream

    def _remux(self, target: Path) -> None:
        """Copy the part into an ordinary MP4, frames interleaved with audio."""
        with (
            av.open(str(self._part)) as part,
            av.open(str(target), "w", "mp4", options={"movflags": "faststart"}) as output,
            closing(Sound(self._source.sound)) as sound,
        ):
            frames = part.streams.video[0]
            video = output.add_stream_from_template(frames)
            # A fragmented file loses the time of its first frame: it begins at 0.
            packets = copied(part, frames, video, self._begin, self._end)
            heard = sound.packets(output, -self._source.origin, self._end)
            for packet in heapq.merge(packets, heard, key=seconds):
                output.mux_one(packet)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, FFmpegError) as error:
            reason = error.strerror or str(error)
            raise SctnetError(
                f"{self._path}: cannot be written ({reason}): check the disk and the folder"
            ) from error
