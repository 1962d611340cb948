"""Pictures without labels: a list of files, as a data set in which nothing is labelled."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from typing_extensions import override

from sctnet.data.dataset import IGNORE, Colour, Labels, Picture, SegmentationDataset
from sctnet.data.images import read_image
from sctnet.errors import SctnetError


class UnlabelledPictures(SegmentationDataset):
    """The pictures of a list, whose pixels all have the label :data:`IGNORE`.

    ``list_file`` has one path a line; a relative one is below the list's folder. The list is kept
    as its text: of a million pictures it takes as much memory as on the disk, and no worker copies
    it. Raises :class:`SctnetError` for a file that cannot be read and for an empty one.
    """

    def __init__(
        self, list_file: Path, classes: tuple[str, ...], colours: tuple[Colour, ...] | None
    ) -> None:
        self.name, self.classes, self.colours = str(list_file), classes, colours
        self._folder = list_file.parent
        try:
            self._text = list_file.read_bytes().rstrip(b"\n")
            self._text.decode()
        except OSError as error:
            raise SctnetError(
                f"{list_file}: cannot be read ({error.strerror}); give a list of pictures, one "
                "path a line"
            ) from error
        except UnicodeDecodeError as error:
            raise SctnetError(
                f"{list_file}: not UTF-8 text; give a list of pictures, one path a line"
            ) from error
        if not self._text.strip():
            raise SctnetError(f"{list_file}: names no picture: write one path a line")
        ends = np.flatnonzero(np.frombuffer(self._text, np.uint8) == ord("\n"))
        self._begins = np.concatenate([[0], ends + 1, [len(self._text) + 1]])

    def __len__(self) -> int:
        return len(self._begins) - 1

    @override
    def item_name(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        begin, end = (int(place) for place in self._begins[index : index + 2])
        return self._text[begin : end - 1].decode().rstrip("\r")

    def path(self, index: int) -> Path:
        """Return where a picture is."""
        return self._folder / self.item_name(index)

    @override
    def image(self, index: int) -> Picture:
        return read_image(self.path(index))

    @override
    def labels(self, index: int) -> Labels:
        return self.pair(index)[1]

    @override
    def pair(self, index: int) -> tuple[Picture, Labels]:
        image = self.image(index)
        return image, np.full(image.shape[:2], IGNORE, np.uint8)


def list_text(pictures: Sequence[Path]) -> str:
    """Return the text of a list of these pictures, by their absolute paths.

    Raises :class:`SctnetError` for a name with a line break, which no list can hold.
    """
    lines = [str(path.absolute()) for path in pictures]
    broken = next((line for line in lines if "\n" in line or "\r" in line), None)
    if broken is not None:
        raise SctnetError(f"{broken!r}: has a line break in its name: rename it")
    return "".join(f"{line}\n" for line in lines)
