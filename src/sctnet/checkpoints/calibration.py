"""What ``sctnet calibrate`` chose for a model, as config.json and the card record it."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sctnet.pipeline.preprocessing import WorkingSize

_DIGITS = 8
"""Hexadecimal ones, of each picture."""

_TITLE = "## Calibration"


class Calibration(BaseModel):
    """The offsets of a model's classes, and what undoing them needs: a part of config.json.

    The offsets are added to the classifier's bias when the model is loaded. model.safetensors
    keeps the trained weights, so that one file is replaced, the whole can be undone, and nothing
    is ever added twice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    offsets: tuple[float, ...]
    """By class, in units of logits."""
    trained_size: WorkingSize
    """The working size before."""
    objective: str
    """What was maximised, in words."""
    before: float = Field(ge=0, le=1)
    """mIoU on the pictures that chose, 0 to 1."""
    after: float = Field(ge=0, le=1)
    held_out_gain: float
    """... that the offsets of each half of the pictures bring to the other half."""
    data: str
    """The name of the data set, with its split."""
    pictures: Annotated[str, Field(pattern=f"^([0-9a-f]{{{_DIGITS}}})*$")]
    """The digest of each picture that chose, one behind the other."""

    def chosen_by(self, digests: Iterable[str]) -> int:
        """Return how many of these pictures, by their digests, were among those that chose."""
        return len({*digests} & {*re.findall(f".{{{_DIGITS}}}", self.pictures)})

    def card_section(self, classes: Sequence[str], working_size: WorkingSize, flip: bool) -> str:
        """Return the section of the card that says it."""
        moved = ", ".join(
            f"{name} {offset:+.2f}"
            for name, offset in zip(classes, self.offsets, strict=True)
            if offset
        )
        is_scaled = working_size != self.trained_size
        scaled = (
            f"working size {working_size} instead of {self.trained_size}; " if is_scaled else ""
        )
        mirrored = "averaged with the mirrored picture; " if flip else ""
        text = (
            f"By `sctnet calibrate` on {len(self.pictures) // _DIGITS} pictures of {self.data}, "
            f"for the best {self.objective}: {scaled}{mirrored}added to the logits: "
            f"{moved or 'nothing'}. mIoU there {100 * self.before:.2f} % before, "
            f"{100 * self.after:.2f} % after; scores on these pictures flatter the model. "
            "`sctnet calibrate MODEL --undo` undoes it."
        )
        return f"{_TITLE}\n\n{textwrap.fill(text, 100, break_on_hyphens=False)}\n"


def with_section(card: str, section: str | None) -> str:
    """Return a card with this section of calibration instead of its own; None: with none."""
    rest = re.sub(rf"\n*^{_TITLE}\n.*?(?=^## |\Z)", "\n\n", card, flags=re.DOTALL | re.MULTILINE)
    rest = rest.rstrip("\n") + "\n"
    return rest if section is None else f"{rest}\n{section}"
