"""A network computed on the CPU by the compiled library."""

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from sctnet.kernels import InstructionSet, instruction_set, library
from sctnet.kernels.threads import cores
from sctnet.models.blocks import BLOCKS
from sctnet.models.sctnet import SCTNet

if TYPE_CHECKING:
    from sctnet.kernels.network.memory import Buffer
    from sctnet.kernels.network.writer import Program

_KEPT_VALUES = 100_000_000
"""Of all memories that are idle; what is more is given back after a picture."""
_KEPT_PROGRAMS = 16


def has_cpu_kernels(network: nn.Module, short: bool = False) -> bool:
    """Say whether :class:`CpuNetwork` computes such a network on this machine.

    SCTNet with the paper's block or residual ones, in float32, and of finite weights: what is not
    finite is left to PyTorch, whose logits then are not either. With ``short`` the processor has
    to multiply pairs of short floats, and the network to be wide enough for them.
    """
    kind = instruction_set()
    if not isinstance(network, SCTNet) or kind is None:
        return False
    config = network.config
    if not all(BLOCKS[name].has_cpu_kernel for name in (config.stage3_block, config.stage4_block)):
        return False
    narrowest = min(config.base_channels, config.dappm_channels)
    odd = (config.dappm_channels | config.attention_kernels) % 2
    if short and (not kind.multiplies_pairs or narrowest < kind.shape.lanes or odd):
        return False
    values = [value for value in network.state_dict().values() if value.is_floating_point()]
    return config.norm_position == "pre" and all(
        value.dtype == torch.float32 and value.device.type == "cpu" and _is_finite(value)
        for value in values
    )


def _is_finite(value: Tensor) -> bool:
    # Both ends are NaN where a value is, and are found much faster than by value.isfinite().
    return not value.numel() or all(math.isfinite(end) for end in value.aminmax())


class CpuNetwork:
    """The logits of a fused network, at stride 8, without PyTorch.

    3x3 convolutions are computed in tiles with a quarter of the products (Winograd's F(4x4, 3x3));
    rounding errors are as large as those of PyTorch. For every size of pictures a list of steps is
    written once. May be called from several threads at a time.

    ``kind`` is the instruction set, by default the one that is chosen for this process.
    """

    def __init__(
        self,
        network: SCTNet,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        short: bool = False,
        kind: InstructionSet | None = None,
    ) -> None:
        from sctnet.kernels.network.packing import Weights

        kind = kind or instruction_set()
        assert kind is not None
        self._kind = kind
        self._network, self._places = network, Weights(kind.shape, short)
        self._statistics = mean, std
        self._programs: dict[tuple[Any, ...], Program] = {}
        # Whatever the picture, its steps then find the place of their weights.
        self._program(64, 64, self._statistics, 1)
        self._weights = self._places.arrays()
        self._network = copy.deepcopy(network).to("meta")  # its shapes are still asked for
        self._callers = 1
        self._idle: list[_Workspace] = []

    @property
    def instruction_set(self) -> str:
        """Name the one that computes."""
        return self._kind.name

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made again."""
        return self.__dict__ | {"_programs": {}, "_idle": []}

    @torch.inference_mode()
    def __call__(
        self, images: Float32[Tensor, "n 3 h w"] | UInt8[Tensor, "n 3 h w"]
    ) -> Float32[Tensor, "n k h8 w8"]:
        """Return the logits, channels last, of prepared pictures, or of bytes as they are."""
        pictures = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
        number, height, width, _ = pictures.shape
        threads = _threads(self._callers)
        statistics = self._statistics if pictures.dtype == np.uint8 else None
        program = self._program(height, width, statistics, threads)
        try:
            workspace = self._idle.pop()
        except IndexError:  # all are at work
            workspace = _Workspace()
        workspace.fit(program, threads)
        logits = np.empty((number, *program.logits.shape), np.float32)
        for index in range(number):
            workspace.compute(self._kind, program, pictures[index], self._weights)
            logits[index] = workspace.read(program.logits)
        if sum(each.size for each in [workspace, *self._idle]) <= _KEPT_VALUES:
            self._idle.append(workspace)
        return torch.from_numpy(logits).permute(0, 3, 1, 2)

    def side_by_side(self, callers: int) -> "CpuNetwork":
        """Return a runtime for ``callers`` concurrent calls; each uses its part of the threads."""
        other = copy.copy(self)
        other._callers, other._idle = callers, []
        return other

    def _program(self, *key: Any) -> "Program":
        """Return the steps for a height, a width, statistics or none, and so many threads."""
        from sctnet.kernels.network.program import write_program

        program = self._programs.get(key)
        if program is None:
            program = write_program(self._network, self._places, *key)
            if len(self._programs) >= _KEPT_PROGRAMS:
                self._programs.clear()
            self._programs[key] = program
        return program


def _threads(callers: int) -> int:
    """Return a caller's share; threads that wait for each other need a core each."""
    return max(1, min(torch.get_num_threads(), cores()) // callers)


class _Workspace:
    """The memory in which one picture at a time is computed."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.float32)
        self._scratch = np.empty((0, 0), np.float32)

    @property
    def size(self) -> int:
        """Return its values."""
        return len(self._memory)

    def fit(self, program: "Program", threads: int) -> None:
        """Make room for a program."""
        from sctnet.kernels.network.packing import LINE, aligned

        if len(self._memory) < program.memory:
            self._memory = aligned(program.memory)
        if len(self._scratch) != threads or self._scratch.shape[1] < program.scratch:
            size = -(-program.scratch * 4 // LINE) * LINE // 4
            self._scratch = aligned(threads * size).reshape(threads, size)

    def compute(
        self,
        kind: InstructionSet,
        program: "Program",
        picture: np.ndarray,
        weights: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """Compute all steps."""
        kernels = library()
        assert kernels is not None
        kernels.compute(
            kind, program.steps, picture, self._memory, program.offsets, weights, self._scratch
        )

    def read(self, plane: "Buffer") -> np.ndarray:
        """Return a plane without its frame."""
        rows = self._memory[plane.begin :][: plane.height * plane.row].reshape(plane.height, -1)
        pixels = rows[:, : plane.width * plane.pixel]
        return pixels.reshape(plane.height, plane.width, plane.pixel)
