"""The answers of ``POST /predict``: the kind that the header ``Accept`` names, as bytes."""

import json
from collections.abc import Callable
from email.message import Message
from typing import NamedTuple

import numpy as np

from sctnet.inference.segmentation_result import Segmentation
from sctnet.pictures.encoding import encode_picture
from sctnet.pictures.palette import encode_label_map
from sctnet.serving.http.limits import Refusal


class Answer(NamedTuple):
    """A kind of answer."""

    media_type: str
    what: str
    kind: str | None
    """The value of ``kind=...`` that selects one of several kinds with the same media type."""
    encode: Callable[[Segmentation], bytes]


def _labels(result: Segmentation) -> bytes:
    return encode_label_map(result.labels, result.colours)


def _overlay(result: Segmentation, ending: str) -> bytes:
    return encode_picture(np.asarray(result.overlay()), ending)


def _summary(result: Segmentation) -> bytes:
    return json.dumps({**result.summary(), "polygons": result.polygons()}).encode()


def _polygons(result: Segmentation) -> bytes:
    return json.dumps(result.polygons()).encode()


ANSWERS = (
    Answer("image/png", "the label map, a paletted PNG of class indices", None, _labels),
    Answer("image/jpeg", "the overlay", None, lambda result: _overlay(result, ".jpg")),
    Answer(
        "application/json", "areas, COCO run lengths and polygons of each class", None, _summary
    ),
    Answer("application/geo+json", "the polygons alone", None, _polygons),
    Answer("image/png", "the overlay", "overlay", lambda result: _overlay(result, ".png")),
)
"""In the order of preference where a client has none."""


def chosen_answer(accept: str | None) -> Answer:
    """Return the answer that ``Accept`` prefers; raises :class:`Refusal` (406) if none fits."""
    wishes = [_parsed(part) for part in (accept or "*/*").split(",")]
    best, best_weight = None, 0.0
    for answer in ANSWERS:
        # The most specific entry that matches an answer decides its quality value.
        fitting = [wish for wish in wishes if _fits(wish, answer)]
        weight = max(fitting, key=lambda wish: wish.specific).weight if fitting else 0
        if weight > best_weight:
            best, best_weight = answer, weight
    if best is None:
        raise Refusal(406, f"Accept: choose from {', '.join(_written(each) for each in ANSWERS)}")
    return best


class _Wish(NamedTuple):
    media_range: str
    kind: str | None
    weight: float

    @property
    def specific(self) -> int:
        return (self.media_range != "*/*") + (not self.media_range.endswith("/*"))


def _parsed(text: str) -> _Wish:
    message = Message()
    message["Content-Type"] = text.strip()
    media_range = text.partition(";")[0].strip().lower()
    kind = message.get_param("kind")
    try:
        weight = float(str(message.get_param("q", "1")))
    except ValueError:
        weight = 0
    return _Wish(media_range, str(kind) if kind is not None else None, weight)


def _fits(wish: _Wish, answer: Answer) -> bool:
    main = answer.media_type.partition("/")[0]
    return wish.media_range in {answer.media_type, f"{main}/*", "*/*"} and wish.kind == answer.kind


def _written(answer: Answer) -> str:
    return answer.media_type + (f";kind={answer.kind}" if answer.kind else "")
