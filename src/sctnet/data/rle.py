"""COCO's run-length code of a mask: how ``pycocotools`` and the files of instances hold pixels.

https://github.com/cocodataset/cocoapi, ``common/maskApi.c``. A mask is read column by column; the
code is the lengths of its runs, first without, then with the object, in turn.
"""

from typing import Annotated

import numpy as np
from jaxtyping import Bool, Int, Integer
from pydantic import BaseModel, Field

_COLUMNS = 512  # that are looked at together: a large map is not copied whole


class Runs(BaseModel):
    """A run-length code: pixels without and with the instance in turn, column by column."""

    size: tuple[int, int]
    """Height, width."""
    counts: list[Annotated[int, Field(ge=0)]] | str


def decode_runs(runs: Runs) -> Bool[np.ndarray, "h w"]:
    """Return which pixels a run-length code covers; ValueError where it does not fill its size."""
    height, width = runs.size
    counts = decode_counts(runs.counts) if isinstance(runs.counts, str) else runs.counts
    if min(counts, default=-1) < 0 or sum(counts) != height * width:
        raise ValueError(f"a run-length code does not fill its {width} x {height} pixels")
    covered = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return covered.reshape(width, height).T


def decode_counts(text: str) -> list[int]:
    """Return the run lengths of a compressed code, as COCO's ``maskApi.c`` writes it.

    Each character holds, above 48, five bits of a number, lowest first, and 32 if more follow; the
    last one's highest bit is the sign. From the fourth on, a number is the difference to the
    length two places before. Raises ValueError for a code cut short or of other characters.
    """
    lengths: list[int] = []
    digits: list[int] = []
    for character in text:
        digits.append(ord(character) - 48)
        if not 0 <= digits[-1] < 64 or len(digits) > 7:
            raise ValueError(f"a run-length code holds {character!r} where it cannot")
        if digits[-1] & 32:
            continue
        number = sum((digit & 31) << 5 * place for place, digit in enumerate(digits))
        number -= (digits[-1] & 16) << 5 * len(digits) - 4
        lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
        digits = []
    if digits:
        raise ValueError("a run-length code is cut short")
    return lengths


def encode_counts(lengths: Int[np.ndarray, "n"]) -> str:
    """Return the compressed code of run lengths, which :func:`decode_counts` reads."""
    numbers = lengths.astype(np.int64)
    numbers[3:] -= lengths[1:-2]
    places, pending = [], np.ones(len(numbers), bool)
    while pending.any():
        digits = numbers & 31
        numbers = numbers >> 5
        more = numbers != np.where(digits & 16, -1, 0)
        places.append(np.where(pending, digits + 32 * more + 48, 0))
        pending &= more
    characters = np.stack(places, axis=1) if places else np.zeros((0, 1))
    return characters[characters > 0].astype(np.uint8).tobytes().decode("ascii")


def label_runs(labels: Integer[np.ndarray, "h w"], classes: int) -> dict[int, Int[np.ndarray, "_"]]:
    """Return the run lengths of every class of a label map that occurs, all found in one pass.

    Labels of ``classes`` or more belong to no class.
    """
    bounds = np.concatenate([[0], _changes(labels), [labels.size]])
    column, row = np.divmod(bounds[:-1], len(labels))
    labels_of_runs = labels[row, column]
    found = {}
    for index in np.unique(labels_of_runs[labels_of_runs < classes]).tolist():
        mine = np.flatnonzero(labels_of_runs == index)
        edges = np.stack([bounds[mine], bounds[mine + 1]], axis=1).ravel()
        lengths = np.diff(np.concatenate([[0], edges, [labels.size]]))
        found[index] = lengths if lengths[-1] else lengths[:-1]
    return found


def _changes(labels: Integer[np.ndarray, "h w"]) -> Int[np.ndarray, "_"]:
    """Return where, column by column, a label is another than the one before."""
    height, width = labels.shape
    found = []
    for left in range(0, width, _COLUMNS):
        first = max(0, left - 1)  # the column before is seen once more
        part = labels[:, first : left + _COLUMNS].ravel(order="F")
        places = np.flatnonzero(part[1:] != part[:-1]) + 1
        found.append(places[places >= (left - first) * height] + first * height)
    return np.concatenate(found)
