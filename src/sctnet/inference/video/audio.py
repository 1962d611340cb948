"""The audio of a video, as packets for an MP4."""

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import av.audio.stream
import av.container
import av.stream
from av.error import FFmpegError

from sctnet.errors import SctnetError
from sctnet.inference.video.source import open_container

Packets: TypeAlias = Iterator[Any]  # av.Packet is generic for type checkers alone

_COPIED = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"})
"""Codecs that an MP4 can hold; all others are encoded as AAC."""

_AAC_SAMPLES = 1024  # in a frame


def seconds(packet: Any) -> Fraction:
    """Return when a packet is to be decoded."""
    return Fraction(packet.dts * packet.time_base)


def copied(
    container: av.container.InputContainer,
    source: av.stream.Stream,
    target: av.stream.Stream,
    delay: Fraction,
    end: Fraction,
) -> Packets:
    """Yield the packets of a stream for another container, ``delay`` seconds later, up to ``end``.

    A stream that breaks off ends there.
    """
    try:
        for packet in container.demux(source):
            if packet.dts is None or packet.pts is None or packet.time_base is None:
                continue
            shift = round(delay / packet.time_base)
            packet.pts += shift
            packet.dts += shift
            if packet.pts * packet.time_base >= end:
                return
            packet.stream = target
            yield packet
    except FFmpegError:
        return


class Sound:
    """The first audio track of a file; nothing if ``path`` is None or cannot be opened."""

    def __init__(self, path: Path | None) -> None:
        self._container: av.container.InputContainer | None = None
        if path is not None:
            try:
                self._container = open_container(str(path), str(path), live=False)
            except SctnetError:
                return  # the file existed a moment ago, and the frames are complete

    def packets(
        self, output: av.container.OutputContainer, delay: Fraction, end: Fraction
    ) -> Packets:
        """Add a stream to ``output`` and return its packets up to ``end``, in seconds there."""
        if self._container is None:
            return iter(())
        source = self._container.streams.audio[0]
        if source.codec_context.name.removesuffix("float") in _COPIED:
            target = output.add_stream_from_template(source)
            return copied(self._container, source, target, delay, end)
        encoder = output.add_stream("aac", source.rate)
        encoder.layout = "mono" if source.channels == 1 else "stereo"
        return self._encoded(source, encoder, delay, end)

    def _encoded(
        self,
        source: av.audio.stream.AudioStream,
        encoder: av.audio.stream.AudioStream,
        delay: Fraction,
        end: Fraction,
    ) -> Packets:
        resampler = av.AudioResampler("fltp", encoder.layout, encoder.rate, _AAC_SAMPLES)
        begin: Fraction | None = None
        samples = 0
        for frame in self._decoded(source):
            for part in resampler.resample(frame):
                if begin is None:
                    begin = delay + Fraction(part.time or 0)
                part.pts = round(begin * encoder.rate) + samples
                part.time_base = Fraction(1, encoder.rate)
                samples += part.samples
                if part.pts < end * encoder.rate:
                    yield from encoder.encode(part)
        yield from encoder.encode()

    def _decoded(self, source: av.audio.stream.AudioStream) -> Iterator[av.AudioFrame | None]:
        """Yield what can be decoded, and None to empty the resampler."""
        assert self._container is not None
        with suppress(FFmpegError):
            yield from self._container.decode(source)
        yield None

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()
