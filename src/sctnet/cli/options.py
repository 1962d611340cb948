"""What options of several commands share."""

from sctnet.errors import SctnetError

PRECISIONS = (
    "auto (a file's own; of a folder fp16 on a GPU, and on a CPU bf16 where the processor "
    "multiplies it, else fp32), fp32, bf16 or fp16."
)


SCALES = "Times the working size; several are averaged: 0.75,1.0,1.25."
FLIP = "Average with the mirrored picture; default: as the model was calibrated."
MAP = "A YAML file that renames, merges and drops the model's classes."
TILE = "Label in square windows of this many pixels of the picture."


def numbers(option: str, text: str) -> list[float]:
    """Return the numbers of a text such as 0.75,1.0; raises :class:`SctnetError` otherwise."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise SctnetError(
            f"{option}: {text} is not a list of numbers such as 0.75,1.0,1.25"
        ) from error


def height_width(option: str, text: str) -> tuple[int, int]:
    """Return (height, width) of a text such as 512x1024; raises :class:`SctnetError` otherwise."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise SctnetError(f"{option} {text}: give height and width in pixels, as in 512x1024")
    return int(height), int(width)
