"""The actions of the demonstration page: label a file, an example, the same picture again."""

import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sctnet.data.picture_files import VIDEO_ENDINGS
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.errors import SctnetError
from sctnet.inference.segmentation_result import Segmentation
from sctnet.inference.segmenter import Segmenter
from sctnet.serving.demo.quiet_gradio import gradio
from sctnet.serving.demo.results import (
    Packed,
    decode_upload,
    packed_error,
    packed_overlay,
    packed_picture,
    packed_video,
)

EXAMPLES = ("drawn street 1.png", "drawn street 2.png", "drawn street 3.png")
_DRAWN = (0, 4, 3)  # of the data set below
_DRAWN_SIZE = (480, 640)  # height, width

_SESSIONS = 4  # whose last picture is held in memory, so that it can be labelled again
_ABANDONED = 600  # seconds after which an upload that was not labelled is removed


class Shown(NamedTuple):
    """A picture that a page shows; the browser names it by ``token``."""

    token: str
    name: str
    result: Segmentation


class Sessions:
    """The last picture of each open page, in memory alone, and which pages were closed."""

    def __init__(self) -> None:
        self._shown: OrderedDict[str, Shown] = OrderedDict()
        self._closed: set[str] = set()
        self._lock = threading.Lock()
        self._stopping = False

    def open(self, session: str) -> None:
        """Drop a page's picture: the page asks for a new one."""
        with self._lock:
            self._closed.discard(session)
            self._shown.pop(session, None)

    def show(self, session: str, name: str, result: Segmentation) -> Shown:
        """Hold a page's picture in place of its last one."""
        shown = Shown(secrets.token_urlsafe(16), name, result)
        with self._lock:
            self._shown.pop(session, None)
            if session not in self._closed:
                self._shown[session] = shown
            while len(self._shown) > _SESSIONS:
                self._shown.popitem(last=False)
        return shown

    def last(self, session: str) -> Shown | None:
        """Return the picture that a page shows, if it is still held."""
        return self._shown.get(session)

    def by_token(self, token: str) -> Shown | None:
        """Return the picture of this token, if it is still held."""
        with self._lock:
            return next((each for each in self._shown.values() if each.token == token), None)

    def close(self, session: str) -> None:
        """Drop a page's picture, and the work that it waits for."""
        with self._lock:
            self._closed.add(session)
            self._shown.pop(session, None)

    def stop(self) -> None:
        """Drop all pictures: the server ends."""
        self._stopping = True
        with self._lock:
            self._shown.clear()

    def check(self, session: str) -> None:
        """Raise :class:`SctnetError` if the page was closed."""
        if self._stopping or session in self._closed:
            raise SctnetError("the page was closed")


class DemoLabelling:
    """Labels for the page; uploads arrive in ``folder``, and are removed when they are labelled."""

    def __init__(self, segmenters: Mapping[str, Segmenter], folder: Path) -> None:
        self.segmenters = segmenters
        self._folder = folder
        self.sessions = Sessions()

    def label_upload(
        self,
        upload: str | None,
        model: str,
        opacity: float,
        request: gradio.Request,
        progress: gradio.Progress = gradio.Progress(),  # noqa: B008 - gradio finds it so
    ) -> tuple[Packed | None, None]:
        """Label an uploaded file; ``opacity`` (percent) is for videos.

        The second result empties the drop zone.
        """
        if upload is None:
            return None, None
        session = str(request.session_hash)
        self.sessions.open(session)
        segmenter = self.segmenters[model]
        try:
            with self._taken(Path(upload)) as file:
                if file.suffix.lower() not in VIDEO_ENDINGS:
                    image = decode_upload(file.read_bytes(), file.name)
                    return self._shown(session, file.name, segmenter(image)), None

                context = copy_context()  # gradio uses it to match the progress to its page

                def labelled(done: int, total: int | None) -> None:
                    self.sessions.check(session)
                    context.run(progress, (done, total), desc="Labelling", unit="frames")

                return packed_video(segmenter, file, opacity / 100, labelled), None
        except SctnetError as error:
            return packed_error(str(error)), None

    def label_example(
        self, model: str, chosen: gradio.EventData, request: gradio.Request
    ) -> Packed:
        """Label the drawn street that was clicked."""
        session, number = str(request.session_hash), int(chosen.number) % len(EXAMPLES)
        self.sessions.open(session)
        result = self.segmenters[model](example_picture(number))
        return self._shown(session, EXAMPLES[number], result)

    def label_again(self, model: str, request: gradio.Request) -> Any:
        """Label the picture that the page shows by another model."""
        session = str(request.session_hash)
        shown = self.sessions.last(session)
        if shown is None:
            return gradio.skip()
        return self._shown(session, shown.name, self.segmenters[model](shown.result.image))

    def overlay(self, token: str, opacity: float) -> Packed:
        """Return the overlay of a token's picture, at full size, at an opacity of 0 to 1."""
        shown = self.sessions.by_token(token)
        if shown is None:
            return packed_error("This picture is no longer held: drop it again.")
        return packed_overlay(shown.result, min(1.0, max(0.0, opacity)))

    def remove_abandoned(self) -> None:
        """Remove old uploads that were not labelled."""
        for file in self._folder.rglob("*"):
            if file.is_file() and time.time() - file.stat().st_mtime > _ABANDONED:
                file.unlink(missing_ok=True)

    def _shown(self, session: str, name: str, result: Segmentation) -> Packed:
        return packed_picture(*self.sessions.show(session, name, result))

    @contextmanager
    def _taken(self, upload: Path) -> Iterator[Path]:
        """Move an upload out of the common folder, and remove it at the end."""
        own = self._folder.parent / f"labelling-{secrets.token_hex(8)}"
        own.mkdir()
        try:
            try:
                file = upload.replace(own / upload.name)
                upload.parent.rmdir()  # gradio made it for this file
            except OSError as error:
                raise SctnetError(f"{upload.name}: did not arrive: drop it again") from error
            yield file
        finally:
            shutil.rmtree(own, ignore_errors=True)


def example_picture(number: int) -> np.ndarray:
    """Return a drawn street, RGB, H x W x 3."""
    drawn = SyntheticStreets(seed=7, count=1 + max(_DRAWN), size=_DRAWN_SIZE)
    return drawn.pair(_DRAWN[number])[0]
