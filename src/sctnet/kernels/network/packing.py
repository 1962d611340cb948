"""A network's weights in the order in which the steps read them."""

import mmap
import sys
from collections.abc import Callable
from contextlib import suppress
from math import sqrt

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from sctnet.kernels.library import Shape
from sctnet.kernels.network.steps import POINTS

NEAR, FAR = sqrt(0.5), sqrt(2)
"""The points, beside 0 and infinity, of which Winograd's transforms evaluate polynomials; with each
its opposite. Rounding errors are half of those of the usual 1 and 2 (measured). The library's side
of it presumes that their product is 1."""

LINE = 64
"""Bytes of a line of the cache."""
_LARGE_PAGE = 2 << 20


class Weights:
    """What is added, and what is multiplied, each brought into an instruction set's order once."""

    def __init__(self, shape: Shape, short: bool = False) -> None:
        self.shape, self.short = shape, short
        """Whether factors are short floats, of which pairs are multiplied."""
        self._terms, self._factors = _Row(np.float32), _Row(np.uint16 if short else np.float32)
        self.terms("nothing", lambda: np.zeros(shape.panel))

    def terms(self, name: str, make: Callable[[], np.ndarray]) -> int:
        """Return where the array of a name lies; it is made where the name is new."""
        return self._terms.place(name, lambda: make().astype(np.float32))

    def factors(self, name: str, make: Callable[[], np.ndarray]) -> int:
        """Return where panels lie that are multiplied."""
        return self._factors.place(name, lambda: self._as_factors(make()))

    def _as_factors(self, panels: Float[np.ndarray, "..."]) -> np.ndarray:
        """Return factors as the library reads them; of bfloat16, pairs of neighbours in depth."""
        values: np.ndarray = np.ascontiguousarray(panels, np.float32)
        if not self.short:
            return values
        *before, depth, columns = values.shape
        pairs = torch.from_numpy(values).view(*before, depth // 2, 2, columns).transpose(-1, -2)
        rounded: np.ndarray = pairs.bfloat16().contiguous().view(torch.uint16).numpy()
        return rounded

    def arrays(self) -> tuple[Float32[np.ndarray, " terms"], np.ndarray]:
        """Return all terms and all factors."""
        return self._terms.array(), self._factors.array()


class _Row:
    """Arrays, one behind the other."""

    def __init__(self, kind: type) -> None:
        self._kind, self._length, self._joined = kind, 0, False
        self._places: dict[str, int] = {}
        self._arrays: list[np.ndarray] = []

    def place(self, name: str, make: Callable[[], np.ndarray]) -> int:
        if name not in self._places:
            assert not self._joined, name
            self._places[name] = self._length
            self._arrays.append(make().ravel())
            self._length += self._arrays[-1].size
        return self._places[name]

    def array(self) -> np.ndarray:
        """Return them as one, which begins where a line of the cache does."""
        joined = aligned(self._length, self._kind)
        np.concatenate(self._arrays, out=joined)
        self._arrays, self._joined = [], True
        return joined


def aligned(length: int, kind: type = np.float32) -> np.ndarray:
    """Return memory that begins where a line of the cache does, in large pages where there are.

    Small ones lie anywhere: some thousand that are read again and again displace each other from
    the caches, in one process more than in another (measured: up to twice the time).
    """
    size = length * np.dtype(kind).itemsize
    try:
        region = _own_memory(size + _LARGE_PAGE)
    except OSError as error:
        raise MemoryError(f"{size} bytes cannot be had") from error
    memory = np.frombuffer(region, np.uint8)
    return memory[-memory.ctypes.data % _LARGE_PAGE :][:size].view(kind)


def _own_memory(size: int) -> mmap.mmap:
    """Return memory that a fork gets a copy of."""
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    region = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux":
        with suppress(OSError):  # a kernel may be built without them
            region.madvise(mmap.MADV_HUGEPAGE)
    return region


def as_panels(matrix: Float[np.ndarray, "*before depth columns"], panel: int) -> np.ndarray:
    """Return a matrix as panels x depth x ``panel``, zeros beyond its last column."""
    *before, depth, columns = matrix.shape
    panels = -(-columns // panel)
    wide = np.zeros((*before, depth, panels * panel), matrix.dtype)
    wide[..., :columns] = matrix
    return np.moveaxis(wide.reshape(*before, depth, panels, panel), -2, -3)


def whole_panels(bias: Float[Tensor, " out"] | None, columns: int) -> np.ndarray:
    """Return a bias for so many columns, zeros beyond it."""
    given = np.zeros(0) if bias is None else bias.detach().numpy()
    return np.pad(given, (0, columns - len(given)))


def by_taps(kernels: Float[Tensor, "out depth h w"], panel: int) -> np.ndarray:
    """Return kernels as panels x (h x w x depth) x ``panel``."""
    return as_panels(kernels.detach().permute(2, 3, 1, 0).flatten(0, 2).numpy(), panel)


def at_points(kernels: Float[Tensor, "out depth 3 3"], panel: int) -> np.ndarray:
    """Return kernels, as polynomials, at the 36 pairs of points: x panels x depth x ``panel``.

    G of F(4 x 4, 3 x 3), computed in float64.
    """
    values = kernels.detach().double().numpy()
    found = np.einsum("ij,ocjk,lk->ilco", _EVALUATE, values, _EVALUATE, optimize=True)
    return as_panels(found.reshape(POINTS, *found.shape[2:]), panel)


def of_stripe(kernels: Float[Tensor, "out depth taps"], panel: int) -> np.ndarray:
    """Return three taps after three at 6 points, and behind these the taps that are left.

    Points x panels x (threes x depth) x ``panel``, then panels x (ones x depth) x ``panel``.
    """
    values = kernels.detach().double().permute(1, 2, 0).numpy()  # depth, taps, out
    depth, taps, out = values.shape
    threes = taps // 3
    cut = values[:, : 3 * threes].reshape(depth, threes, 3, out)
    found = np.einsum("ij,ctjo->itco", _EVALUATE, cut).reshape(6, threes * depth, out)
    left = values[:, 3 * threes :].transpose(1, 0, 2).reshape(-1, out)
    return np.concatenate([as_panels(found, panel).ravel(), as_panels(left, panel).ravel()])


def _evaluation() -> Float[np.ndarray, "6 3"]:
    """Return G of F(4, 3)."""
    points = np.array([0, NEAR, -NEAR, FAR, -FAR])
    distances = points[:, None] - points
    np.fill_diagonal(distances, 1)
    powers = points[:, None] ** np.arange(3) / distances.prod(1, keepdims=True)
    return np.vstack([powers, [0, 0, 1]])


_EVALUATE = _evaluation()
