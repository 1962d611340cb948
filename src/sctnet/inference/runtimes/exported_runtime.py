"""The runtime of exported files, for every engine."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from sctnet.checkpoints.exported_file import ExportedConfig
from sctnet.errors import SctnetError
from sctnet.pipeline.preprocessing import LARGE_PICTURE, Preprocessing

_OUTPUTS = {"logits8": "logits"}  # every other is named as its kind
_SMALLEST = float(np.finfo(np.float32).tiny)


class Port(NamedTuple):
    """An input or an output of a graph."""

    names: frozenset[str]
    sides: tuple[int | None, ...]
    """None: any."""
    kind: str
    """uint8, int32, float32 and so on."""


@runtime_checkable
class Engine(Protocol):
    """What computes the graph of a file."""

    config: ExportedConfig
    precision: str
    inputs: list[Port]
    outputs: list[Port]
    rounds_pixels: bool
    """Whether the graph rounds what it resized to bytes."""

    def __str__(self) -> str:
        """Name it, and its device."""

    def __call__(self, images: UInt8[np.ndarray, "n h w 3"]) -> np.ndarray:
        """Return the graph's output, in memory of its own; may be called from several threads."""

    def side_by_side(self, callers: int) -> "Engine":
        """Return an engine for ``callers`` concurrent calls, or itself; see ``Runtime``."""


class ExportedRuntime:
    """Logits or labels of pictures, from a file that includes the preprocessing."""

    device = torch.device("cpu")

    def __init__(self, file: Path, engine: Engine) -> None:
        self.config = engine.config
        self.precision, self.output, self.size = (
            engine.precision,
            self.config.output,
            self.config.size,
        )
        self._file, self._engine = file, engine
        self._beside: dict[int, ExportedRuntime] = {}  # to open one takes up to half a second
        self._check_ports()
        plain = self.config.model.preparation.model_copy(
            update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        )
        self._resizing = Preprocessing(plain)

    def __str__(self) -> str:
        """Say how it runs, in few words."""
        return f"{self.precision} in {self._engine}"

    @torch.inference_mode()
    def __call__(
        self,
        images: Sequence[UInt8[Tensor, "1 3 _ _"]],
        scale: float = 1.0,
        mirrored: bool = False,
    ) -> list[Tensor]:
        """Return the file's output for each picture; neighbours of one size pass together."""
        if scale != 1:
            raise SctnetError(
                f"{self._file}: its working size is fixed, so several scales cannot be "
                "averaged: give the model folder"
            )
        found: list[Tensor] = []
        for _, group in groupby(map(self._narrowed, images), key=lambda image: image.shape):
            seen = [_as_array(image.flip(3) if mirrored else image) for image in group]
            found += torch.split(
                self._output(seen[0] if len(seen) == 1 else np.concatenate(seen)), 1
            )
        return [result.flip(-1) for result in found] if mirrored else found

    def require_logits(self, purpose: str) -> None:
        """Raise :class:`SctnetError` where the file ends in labels."""
        if self.output == "labels":
            raise SctnetError(
                f"{self._file}: gives labels only, which is not enough for {purpose}: "
                "export it with --output logits8"
            )

    def side_by_side(self, callers: int) -> "ExportedRuntime":
        """Return the same for so many callers at a time, each in its share of the threads.

        This one, where there is less than a thread for each, or no second engine can be had.
        """
        if callers not in self._beside:
            engine = self._engine.side_by_side(callers)
            if engine is self._engine:
                return self
            self._beside[callers] = ExportedRuntime(self._file, engine)
        return self._beside[callers]

    def _narrowed(self, image: UInt8[Tensor, "1 3 h w"]) -> UInt8[Tensor, "1 3 hw ww"]:
        """Resize a picture to its working size here, rounded to bytes, where that is better.

        A graph would hold a very large picture as floats. And one that rounds what it resized to
        bytes itself takes more time for it, and is compiled again for every new size.
        """
        height, width = image.shape[2:]
        rounds = self._engine.rounds_pixels and self.output == "logits8"
        if self.size is not None or not (rounds or height * width > LARGE_PICTURE):
            return image
        if self._resizing.config.working_size.apply(height, width) == (height, width):
            return image
        pixels: np.ndarray = self._resizing(image).numpy()
        # By numpy: see _as_array. Weighted means of bytes lie between these, but for rounding.
        return torch.from_numpy(np.rint(pixels, out=pixels).astype(np.uint8))

    def _output(self, images: UInt8[np.ndarray, "n h w 3"]) -> Tensor:
        most = self.config.batch or len(images)
        parts = [
            self._part(images[first : first + most], most) for first in range(0, len(images), most)
        ]
        result = torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))
        if self.output == "labels":
            return result
        return result.clamp_(min=_SMALLEST).log_() if self.output == "probabilities" else result

    def _part(self, images: UInt8[np.ndarray, "n h w 3"], size: int) -> np.ndarray:
        """Run as many pictures as the file takes; where there are fewer, the last is repeated."""
        count, height, width = images.shape[:3]
        if count < size:
            images = np.concatenate([images, np.repeat(images[-1:], size - count, axis=0)])
        try:
            found = self._engine(images)[:count]
        except MemoryError:
            raise
        except Exception as error:  # each engine has its own family, or none
            raise SctnetError(
                f"{self._file}: failed on a picture of {width} x {height} ({first_line(error)})"
            ) from error
        classes = len(self.config.model.classes)
        if self.output == "labels":
            fits = found.shape == (count, height, width) and int(found.max()) < classes
        else:
            fits = found.ndim == 4 and found.shape[:2] == (count, classes)
        if not fits:
            raise SctnetError(
                f"{self._file}: its {self.output} are not those of {classes} classes as it says: "
                "export it again"
            )
        return found

    def _check_ports(self) -> None:
        """Refuse a graph that does not take and give what its metadata promise."""
        inputs, outputs = self._engine.inputs, self._engine.outputs
        wanted = _OUTPUTS.get(self.output, self.output)
        fits = (
            (len(inputs), len(outputs)) == (1, 1)
            and "images" in inputs[0].names
            and (inputs[0].kind, len(inputs[0].sides)) == ("uint8", 4)
            and inputs[0].sides[3] == 3
            and wanted in outputs[0].names
        )
        if not fits:
            described = [
                ", ".join(
                    f"{' or '.join(sorted(port.names))} ({port.kind}, {len(port.sides)} sides)"
                    for port in ports
                )
                for ports in (inputs, outputs)
            ]
            raise SctnetError(
                f"{self._file}: takes {described[0] or 'nothing'} and gives "
                f"{described[1] or 'nothing'}, not images (uint8, n x h x w x 3) and {wanted} as "
                "an exported file does: export the model folder again"
            )


def _as_array(image: UInt8[Tensor, "1 3 h w"]) -> UInt8[np.ndarray, "1 h w 3"]:
    """Return a picture as an engine takes it; where its bytes lie so already, they are not copied.

    numpy copies what has to be copied: PyTorch's threads would go on spinning, to be quick for the
    next operation, on the cores that the engine then needs.
    """
    return np.ascontiguousarray(image.permute(0, 2, 3, 1).numpy())


def first_line(error: Exception) -> str:
    """Return what an engine's error says in its first line that says anything."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
