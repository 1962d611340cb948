"""Writes steps, and cuts them into pieces."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.kernels.network import steps as kinds
from sctnet.kernels.network.memory import Buffer, Memory
from sctnet.kernels.network.packing import Weights, at_points, by_taps, of_stripe, whole_panels

_CACHE_VALUES = 150_000
"""Of one side of a product, which should stay in a core's own cache."""
_TILES = 64
"""Of a piece, at most."""
_LARGE_FACTORS = 1_000_000
"""Beyond so many, few pieces read them from the main memory, of as many tiles as can be."""
_PIECES = 16
"""Of a step whose pieces are rows, at least, where there are so many; for any number of threads,
as sums of pieces are rounded."""
_MAKE_FACTORS = kinds.FLOATS, kinds.BYTES, kinds.POOL, kinds.NORMALISE
"""What these make is always multiplied next."""

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and deviation of red, green and blue."""


class Norm(NamedTuple):
    """A batch norm, or a part of its channels."""

    name: str
    module: nn.Module
    """A batch norm, or an identity, which changes nothing."""
    first: int = 0

    def scale_and_shift(self, channels: int) -> Float[np.ndarray, "2 channels"]:
        """Return what it multiplies with, and what it adds."""
        norm = self.module
        if isinstance(norm, nn.Identity):
            return np.stack([np.ones(channels), np.zeros(channels)])
        assert isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm), norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        given = norm.weight, norm.bias, norm.running_mean, norm.running_var
        part = slice(self.first, self.first + channels)
        weight, bias, mean, variance = (each.detach().double().numpy()[part] for each in given)
        scale = weight / np.sqrt(variance + norm.eps)
        return np.stack([scale, bias - mean * scale])


class Program(NamedTuple):
    """Steps for pictures of one size, and what they need."""

    steps: np.ndarray
    offsets: Int64[np.ndarray, " offsets"]
    memory: int
    """Values."""
    scratch: int
    """Values for each thread."""
    logits: Buffer


class Writer:
    """Writes steps; planes that are no longer read make room for others."""

    def __init__(self, weights: Weights, threads: int) -> None:
        self._weights, self._threads = weights, threads
        self._shape = weights.shape
        self._steps: list[dict[str, int]] = []
        self._offsets = [0]
        self._scratch = 0
        self._memory = Memory()
        self._spans: dict[Buffer, tuple[int, int]] = {}

    def plane(
        self, height: int, width: int, channels: int, *, frame: int = 1, short: bool = False
    ) -> Buffer:
        """Return a place for maps; its frame is wider below and to the right, as far as tiles go.

        Only the step that clears the frame writes there, at the same time as the next one makes
        the maps. What is only multiplied may be ``short``, and then is where the factors are.
        """
        short = short and self._weights.short
        row = (width + 2 * frame + kinds.TILE - 1) * channels
        length = (height + 2 * frame + kinds.TILE - 1) * row
        span = self._memory.take(-(-length // 2) if short else length)
        begin = (2 if short else 1) * span[0] + frame * (row + channels)
        plane = Buffer(begin, row, channels, height, width, channels, short)
        self._spans[plane] = span
        self._rows(kinds.CLEAR, None, plane, {"frame": frame, "joins": False})
        return plane

    def strided(self, convolution: nn.Conv2d, x: Buffer, short: bool = False) -> Buffer:
        """Return a place for what a convolution makes that pads with half of its size."""
        stride = int(convolution.stride[0])
        height, width = ((side - 1) // stride + 1 for side in (x.height, x.width))
        return self.plane(height, width, convolution.out_channels, short=short)

    def sum(self, term: Buffer, short: bool) -> Buffer:
        """Return a place for a sum: that of its term, which is read for the last time."""
        return self.plane(*term.shape, short=True) if short and self._weights.short else term

    def release_term(self, term: Buffer, result: Buffer) -> None:
        """Release a term, unless the sum is in its place."""
        if result is not term:
            self.release(term)

    def release(self, *planes: Buffer) -> None:
        """Let what comes now write over planes."""
        for plane in planes:
            self._memory.give_back(self._spans.pop(plane))

    def picture(self, height: int, width: int, statistics: Statistics | None) -> Buffer:
        """Write the step that reads the picture; return where it is then.

        With ``statistics`` it is one of bytes, else prepared. Pairs of short floats are multiplied:
        there it has a fourth channel.
        """
        target = self.plane(height, width, 4 if self._weights.short else 3, short=True)
        if statistics is None:
            self._rows(kinds.FLOATS, None, target, {})
        else:
            begin = self._weights.terms("statistics", lambda: _repeated(statistics))
            values = {"mean": begin, "deviation": begin + kinds.PERIOD}
            self._rows(kinds.BYTES, None, target, values)
            self._scratch = max(self._scratch, 3 * width)
        return target

    def affine(self, source: Buffer, norm: Norm, target: Buffer, rectify: bool = True) -> None:
        """Write a batch norm of running statistics, and a ReLU."""
        self._rows(kinds.AFFINE, source, target, self._affine(norm, target, rectify))

    def pool(self, source: Buffer, size: int, stride: int, norm: Norm, target: Buffer) -> None:
        """Write an average of size x size pixels, 0: of all, a batch norm and a ReLU."""
        pieces = target.height * target.width
        values = self._affine(norm, target, True) | {"window": size, "stride": stride}
        self._step(kinds.POOL, source, target, pieces, values)

    def resize(
        self, source: Buffer, norm: Norm, target: Buffer, plus: Buffer | None = None
    ) -> None:
        """Write a bilinear resize, a sum, a batch norm and a ReLU."""
        assert not target.short
        self._rows(kinds.RESIZE, source, target, self._affine(norm, target, True), plus)

    def normalise(self, maps: Buffer, group: int, squared: bool, target: Buffer) -> None:
        """Write a grouped double normalisation; each group has so many maps, which are lost."""
        pieces = _rows_at_once(maps)[1]
        parts = [self.plane(1, pieces, maps.channels, frame=0) for _ in range(2)]
        values = {"largest": parts[0].begin, "totals": parts[1].begin}
        values |= {"maps_of_group": group, "squared": squared}
        for kind in (kinds.LARGEST, kinds.EXPONENTIAL):
            self._rows(kind, maps, maps, values)
        self._rows(kinds.NORMALISE, maps, target, values)
        self.release(*parts)

    def convolution(
        self,
        name: str,
        module: nn.Conv2d,
        source: Buffer,
        target: Buffer,
        activation: int = kinds.LINEAR,
        plus: Buffer | None = None,
    ) -> None:
        """Write a module, a sum and an activation."""
        stride, weight = int(module.stride[0]), module.weight
        self.convolve(name, weight, module.bias, source, target, stride, activation, plus)

    def convolve(
        self,
        name: str,
        kernels: Float[Tensor, "out depth h w"],
        bias: Float[Tensor, " out"] | None,
        source: Buffer,
        target: Buffer,
        stride: int = 1,
        activation: int = kinds.LINEAR,
        plus: Buffer | None = None,
    ) -> None:
        """Write a convolution that pads with half of its kernels' size, a sum, an activation."""
        if kernels.shape[1] < source.channels:  # a picture's fourth channel
            kernels = F.pad(kernels, (0, 0, 0, 0, 0, source.channels - kernels.shape[1]))
        panel = self._shape.panel
        panels = -(-len(kernels) // panel)
        values = {"panels": panels, "stride": stride, "activation": activation}
        columns = panels * panel
        values["bias"] = self._weights.terms(f"{name}.bias", lambda: whole_panels(bias, columns))
        cut = self._taps
        if stride == 1 and self._in_tiles(kernels):
            cut = self._winograd
        elif stride == 1 and self._in_stripes(kernels):
            cut = self._stripe
        cut(name, kernels, source, target, values, plus)

    def program(self, logits: Buffer) -> Program:
        """Return what was written."""
        steps = np.zeros(len(self._steps), kinds.STEP)
        for index, step in enumerate(self._steps):
            for name, value in step.items():
                steps[index][name] = value
        # Vectors of Winograd's transform reach beyond the last channels of a pixel.
        memory, scratch = self._memory.length + self._shape.lanes, self._scratch + self._shape.lanes
        return Program(steps, np.array(self._offsets, np.int64), memory, scratch, logits)

    def _step(
        self,
        kind: int,
        source: Buffer | None,
        target: Buffer,
        pieces: int,
        values: Mapping[str, int],
        residual: Buffer | None = None,
    ) -> None:
        height, width, channels = target.shape
        if kind in _MAKE_FACTORS:
            assert target.short == self._weights.short
        step = {"kind": kind, "pieces": pieces, "height": height, "width": width}
        step |= {"channels": channels, "short_target": target.short, "residual": -1, "joins": True}
        for name, plane in (("source", source), ("target", target), ("residual", residual)):
            if plane is not None:
                step |= {name: plane.begin, f"{name}_row": plane.row, f"{name}_pixel": plane.pixel}
        if source is not None:
            step |= {"source_height": source.height, "source_width": source.width}
        self._steps.append({**step, **values})

    def _rows(
        self,
        kind: int,
        source: Buffer | None,
        target: Buffer,
        values: Mapping[str, int],
        residual: Buffer | None = None,
    ) -> None:
        """Write a step of which a piece is some rows."""
        rows, pieces = _rows_at_once(target)
        self._step(kind, source, target, pieces, {**values, "rows_of_piece": rows}, residual)
        self._scratch = max(self._scratch, 2 * target.channels)

    def _affine(self, norm: Norm, target: Buffer, rectify: bool) -> dict[str, int]:
        channels = target.channels
        begin = self._weights.terms(
            f"{norm.name}[{norm.first}:{norm.first + channels}]",
            lambda: norm.scale_and_shift(channels),
        )
        activation = kinds.RELU if rectify else kinds.LINEAR
        return {"scale": begin, "shift": begin + channels, "activation": activation}

    def _winograd(
        self,
        name: str,
        kernels: Tensor,
        source: Buffer,
        target: Buffer,
        values: Mapping[str, int],
        plus: Buffer | None,
    ) -> None:
        """Write a step whose pieces are some tiles, and of these some panels."""
        tiles = -(-target.height // kinds.TILE) * -(-target.width // kinds.TILE)
        lanes, _, panel = self._shape
        depth, panels = kernels.shape[1], values["panels"]
        wide = -(-depth // lanes) * lanes
        held = _CACHE_VALUES // kinds.POINTS
        most = min(max(held * (2 if self._weights.short else 1) // wide, 1), _TILES)
        large = kinds.POINTS * depth * panels * panel > _LARGE_FACTORS
        if large:
            most = _TILES
        group, groups = self._even(tiles, most)
        of_piece = self._panels_of_piece(groups, panels)
        at_once = max(1, min(max(held // (group * panel), 8 if large else 1), of_piece))
        columns = at_once * panel
        scratch = kinds.POINTS * (group * (wide + columns) + 2 * lanes)
        self._scratch = max(self._scratch, scratch)
        how = {
            "factors": self._weights.factors(f"{name}.winograd", lambda: at_points(kernels, panel)),
            "depth": depth,
            "tiles_of_piece": group,
            "panels_at_once": at_once,
        }
        self._products(kinds.WINOGRAD, source, target, (groups, of_piece), values, how, plus)

    def _stripe(
        self,
        name: str,
        kernels: Tensor,
        source: Buffer,
        target: Buffer,
        values: Mapping[str, int],
        plus: Buffer | None,
    ) -> None:
        """Write a step whose pieces are some tiles of 4 pixels, and of these some panels."""
        lanes, _, panel = self._shape
        _, depth, down, across = kernels.shape
        downwards, taps = down > 1, max(down, across)
        long, other = (target.height, target.width)[:: 1 if downwards else -1]
        tiles = -(-long // kinds.TILE) * other
        threes, ones = divmod(taps, 3)
        read = (6 * threes + 4 * ones) * depth
        group, groups = self._even(tiles, max(1, min(_CACHE_VALUES // read, _TILES)))
        of_piece = self._panels_of_piece(groups, values["panels"])
        at_once = max(1, min(_CACHE_VALUES // (10 * group * panel), of_piece))
        scratch = group * (read + 10 * at_once * panel) + 20 * lanes
        self._scratch = max(self._scratch, scratch)
        line = kernels.flatten(2)
        how = {
            "factors": self._weights.factors(f"{name}.stripe", lambda: of_stripe(line, panel)),
            "depth": depth,
            "taps": taps,
            "downwards": downwards,
            "tiles_of_piece": group,
            "panels_at_once": at_once,
        }
        self._products(kinds.STRIPE, source, target, (groups, of_piece), values, how, plus)

    def _taps(
        self,
        name: str,
        kernels: Tensor,
        source: Buffer,
        target: Buffer,
        values: Mapping[str, int],
        plus: Buffer | None,
    ) -> None:
        """Write a step whose pieces are some rows, and of these some panels."""
        _, depth, down, across = kernels.shape
        rows = [(y - down // 2) * source.row for y in range(down)]
        columns = [(x - across // 2) * source.pixel for x in range(across)]
        if source.pixel == depth:  # neighbours in a row lie side by side: they are one tap
            columns, depth = columns[:1], depth * across
        offsets = [row + column for row in rows for column in columns]
        panel, panels = self._shape.panel, values["panels"]
        most = 2 * _CACHE_VALUES // (target.width * panels * panel)
        most = max(min(most, target.height // _PIECES), 1)
        group, groups = self._even(target.height, most)
        of_piece = self._panels_of_piece(groups, panels)
        how = {
            "factors": self._weights.factors(f"{name}.taps", lambda: by_taps(kernels, panel)),
            "offsets": len(self._offsets),
            "taps": len(offsets),
            "depth": depth,
        }
        self._offsets += offsets
        how["rows_of_piece"] = group
        how["rows_at_once"] = max(1, _CACHE_VALUES // 2 // (values["stride"] * source.row))
        self._products(kinds.CONVOLVE, source, target, (groups, of_piece), values, how, plus)

    def _products(
        self,
        kind: int,
        source: Buffer,
        target: Buffer,
        cut: tuple[int, int],
        values: Mapping[str, int],
        how: Mapping[str, int],
        plus: Buffer | None,
    ) -> None:
        groups, of_piece = cut
        shares = -(-values["panels"] // of_piece)
        pieces = {"shares": shares, "panels_of_piece": of_piece}
        self._step(kind, source, target, groups * shares, {**values, **how, **pieces}, plus)

    def _even(self, length: int, most: int) -> tuple[int, int]:
        """Return how many of a length a piece takes, ``most`` at most, and how many pieces are.

        All are about as long, and as many for every thread.
        """
        pieces = -(-length // most)
        if pieces > 1:
            pieces = -(-pieces // self._threads) * self._threads
        each = -(-length // pieces)
        return each, -(-length // each)

    def _in_tiles(self, kernels: Tensor) -> bool:
        return kernels.shape[2:] == (3, 3) and kernels.shape[1] >= self._shape.lanes

    def _in_stripes(self, kernels: Tensor) -> bool:
        """Say whether kernels are 1xN or Nx1 of a few taps; short factors are read as they are."""
        _, depth, down, across = kernels.shape
        line = min(down, across) == 1 and 3 <= max(down, across) <= 9
        return line and not self._weights.short and depth % self._shape.lanes == 0

    def _panels_of_piece(self, groups: int, panels: int) -> int:
        """Return how many panels a piece takes, so that there are pieces enough for all threads."""
        of_piece = panels
        while of_piece > 1 and groups * -(-panels // of_piece) < 2 * self._threads:
            of_piece = -(-of_piece // 2)
        return of_piece


def _repeated(statistics: Statistics) -> Float[np.ndarray, " values"]:
    return np.tile(statistics, kinds.PERIOD // 3).ravel()


def _rows_at_once(plane: Buffer) -> tuple[int, int]:
    """Return how many rows a piece has, and how many pieces there are."""
    rows = max(1, plane.height // _PIECES)
    return rows, -(-plane.height // rows)
