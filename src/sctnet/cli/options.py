"""What options of several commands share."""

from sctnet.errors import SctnetError

PRECISIONS = (
    "auto (a file's own; of a folder fp16 on a GPU, and on a CPU bf16 where the processor "
    "multiplies it, else fp32), fp32, bf16 or fp16."
)


def height_width(option: str, text: str) -> tuple[int, int]:
    """Return (height, width) of a text such as 512x1024; raises :class:`SctnetError` otherwise."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise SctnetError(f"{option} {text}: give height and width in pixels, as in 512x1024")
    return int(height), int(width)
