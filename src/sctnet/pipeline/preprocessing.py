"""From an image's bytes to the network's input.

Pictures are normalised and resized to the working size only here. Validation, evaluation,
prediction and export all use this module, so they cannot differ. Training draws its crops around
the same working size.
"""

from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int, UInt8
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.errors import SctnetError
from sctnet.kernels import instruction_set
from sctnet.kernels.preprocessing import cpu_preprocessing
from sctnet.models.network import IMAGENET_MEAN, IMAGENET_STD

Positive = Annotated[float, Field(gt=0)]
LARGE_PICTURE = 32_000_000
"""Pixels; a larger picture is never held as floats in one piece."""
_BAND_PIXELS = 8_000_000

Length = Any
"""A number of pixels: an int, or a symbol that stands for one while a graph is exported."""


class WorkingSize(BaseModel):
    """The rule for the size at which a network sees a picture.

    ``rule`` names it. ``as-is`` does not resize. ``shorter-side`` and ``longer-side`` scale the
    picture until that side has ``pixels`` pixels and keep its aspect ratio; with ``shorter-side``,
    ``longest`` bounds the longer side. ``fixed`` resizes to ``height`` x ``width`` and ignores the
    aspect ratio.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Literal["as-is", "shorter-side", "longer-side", "fixed"] = "as-is"
    pixels: int | None = Field(default=None, ge=1)
    longest: int | None = Field(default=None, ge=1)
    height: int | None = Field(default=None, ge=1)
    width: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _sizes_fit_rule(self) -> "WorkingSize":
        given = {name for name in ("pixels", "height", "width") if getattr(self, name) is not None}
        needed = {"as-is": set[str](), "fixed": {"height", "width"}}.get(self.rule, {"pixels"})
        if given != needed:
            wanted = " and ".join(sorted(needed)) or "no size"
            raise ValueError(f"the rule {self.rule!r} takes {wanted}")
        if self.longest is not None and self.rule != "shorter-side":
            raise ValueError(f"longest goes with the rule 'shorter-side', not {self.rule!r}")
        return self

    def __str__(self) -> str:
        """Name the rule and its sizes."""
        sizes = {"as-is": "", "fixed": f" {self.height}x{self.width}"}
        bound = "" if self.longest is None else f", at most {self.longest}"
        return self.rule + sizes.get(self.rule, f" {self.pixels}{bound}")

    def times(self, scale: float) -> "WorkingSize":
        """Return the rule whose sizes are ``scale`` times as large.

        Raises :class:`SctnetError` for the rule ``as-is``, which names no size.
        """
        if self.rule == "as-is":
            raise SctnetError(
                "working_size: this model takes pictures as they are (as-is), which has no scale: "
                "resize the pictures instead"
            )
        sizes = {name: getattr(self, name) for name in ("pixels", "longest", "height", "width")}
        changed = {
            name: max(1, round(size * scale)) for name, size in sizes.items() if size is not None
        }
        return self.model_copy(update=changed)

    def apply(self, height: Length, width: Length) -> tuple[Length, Length]:
        """Return the (height, width) at which a picture of this size is processed.

        Computed in integers, halves rounded up as in the released code. So every runtime computes
        the same size, also from the symbolic sides of an exported graph.
        """
        if self.rule == "fixed":
            assert self.height is not None
            assert self.width is not None
            return self.height, self.width
        if self.pixels is None:
            return height, width
        shorter, longer = _smaller(height, width), _larger(height, width)
        side = shorter if self.rule == "shorter-side" else longer
        size = _scaled(height, self.pixels, side), _scaled(width, self.pixels, side)
        if self.longest is None:
            return size
        # The smaller of the two scales gives the smaller sides: rounding keeps their order.
        bounds = _scaled(height, self.longest, longer), _scaled(width, self.longest, longer)
        return _smaller(size[0], bounds[0]), _smaller(size[1], bounds[1])

    def apply_scaled(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """Return ``scale`` times the (height, width) at which a picture is processed."""
        size = self.apply(height, width)
        return (
            size if scale == 1 else (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        )


def _scaled(length: Length, pixels: int, side: Length) -> Length:
    """Return length * pixels / side, rounded, at least 1."""
    return _larger(1, (2 * length * pixels + side) // (2 * side))


def _smaller(first: Length, second: Length) -> Length:
    return torch.sym_min(first, second)  # type: ignore[no-untyped-call]


def _larger(first: Length, second: Length) -> Length:
    return torch.sym_max(first, second)  # type: ignore[no-untyped-call]


class PreprocessingConfig(BaseModel):
    """Normalisation and working size; a part of a model's config.json.

    ``mean`` and ``std`` are those of red, green and blue, in units of 0-255; ``working_size`` says
    at which size the network sees a picture.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD
    working_size: WorkingSize = WorkingSize()
    antialias: bool = True
    """Whether a picture is smoothed before it is made smaller; the paper's runs do not do this."""


class Preprocessing(nn.Module):
    """Resize to the working size and normalise.

    Bilinear, align_corners=False. With anti-aliasing (the default) a 4K photo keeps its thin
    structures at the working size; without it, only every eighth pixel would be sampled.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: PreprocessingConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    def forward(
        self, images: UInt8[Tensor, "n 3 h w"], scale: float = 1.0
    ) -> Float[Tensor, "n 3 hw ww"]:
        """Map RGB bytes to the network's input at the working size, or ``scale`` times that."""
        height, width = images.shape[-2:]
        size = self.config.working_size.apply_scaled(height, width, scale)
        if size == (height, width):
            return (images.to(self.mean.dtype) - self.mean) / self.std
        layout = _layout(images)
        if (
            layout == torch.channels_last
            and self.mean.dtype == torch.float32
            and _may_be_compiled(images)
        ):
            antialias = self.config.antialias
            return cpu_preprocessing(images, size, antialias, self.mean, self.std)
        if height * width <= LARGE_PICTURE:
            pixels = self._resized(images, size)
        else:
            # In bands: first to the working width, then to its height. A bilinear resize is
            # separable, so the result is the same.
            bands = torch.split(images, max(1, _BAND_PIXELS // width), dim=2)
            narrow = [self._resized(band, (band.shape[2], size[1])) for band in bands]
            pixels = self._resized(torch.cat(narrow, dim=2), size)
        return ((pixels - self.mean) / self.std).contiguous(memory_format=layout)

    def _resized(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        # Contiguous planes need little more than half the time, for the same values.
        planes = pixels.to(self.mean.dtype, memory_format=torch.contiguous_format)
        return F.interpolate(
            planes, size, mode="bilinear", align_corners=False, antialias=self.config.antialias
        )

    def normalise_crops(
        self, crops: UInt8[Tensor, "n 3 h w"], sizes: Int[Tensor, "n 2"]
    ) -> Float[Tensor, "n 3 h w"]:
        """Normalise training crops without resizing them.

        ``sizes`` holds the height and width of the real pixels of each crop. The rest, to their
        right and below, is padding and becomes 0 after normalisation.
        """
        rows = (
            torch.arange(crops.shape[2], device=crops.device)[None, :, None]
            < sizes[:, 0, None, None]
        )
        columns = (
            torch.arange(crops.shape[3], device=crops.device)[None, None, :]
            < sizes[:, 1, None, None]
        )
        pixels = (crops.to(self.mean.dtype) - self.mean) / self.std
        return pixels * (rows & columns)[:, None]


def _may_be_compiled(images: Tensor) -> bool:
    real = type(images) is Tensor and images.device.type == "cpu"
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return real and not traced and instruction_set() is not None


def _layout(images: Tensor) -> torch.memory_format:
    """Return the memory layout of a picture: channels last, or planes."""
    # By the strides: a window of a picture is not contiguous in any order.
    by_pixel = images.stride(1) < images.stride(3)
    return torch.channels_last if by_pixel else torch.contiguous_format
