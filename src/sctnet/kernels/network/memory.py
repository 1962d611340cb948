"""Where in the memory the maps of a network are."""

from typing import NamedTuple

from sctnet.kernels.network.packing import LINE

_VALUES = LINE // 4


class Buffer(NamedTuple):
    """Maps in the memory, channels last, in a frame of zeros."""

    begin: int
    row: int
    pixel: int
    height: int
    width: int
    channels: int
    short: bool = False
    """Whether it keeps short floats; its places and lengths count in these."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return height, width and channels."""
        return self.height, self.width, self.channels

    def part(self, first: int, channels: int) -> "Buffer":
        """Return some of its channels."""
        return self._replace(begin=self.begin + first, channels=channels)


class Memory:
    """Finds room in a row of values that grows where there is none."""

    def __init__(self) -> None:
        self.length = 0
        self._free: list[tuple[int, int]] = []  # in order, with something between any two

    def take(self, length: int) -> tuple[int, int]:
        """Return where so many values have room, in the smallest gap that is large enough."""
        length = -(-length // _VALUES) * _VALUES
        gaps = [gap for gap in self._free if gap[1] - gap[0] >= length]
        if gaps:
            begin, end = min(gaps, key=lambda gap: gap[1] - gap[0])
            self._free.remove((begin, end))
            if end - begin > length:
                self.give_back((begin + length, end))
            return begin, begin + length
        begin = self.length
        if self._free and self._free[-1][1] == self.length:
            begin = self._free.pop()[0]
        self.length = begin + length
        return begin, self.length

    def give_back(self, span: tuple[int, int]) -> None:
        """Make room again."""
        joined: list[tuple[int, int]] = []
        for begin, end in sorted([*self._free, span]):
            if joined and joined[-1][1] == begin:
                begin = joined.pop()[0]
            joined.append((begin, end))
        self._free = joined
