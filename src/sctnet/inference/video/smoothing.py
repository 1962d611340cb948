"""Steadier label maps of videos: logits averaged over time, and a measure of their flicker."""

import torch
from jaxtyping import Bool, Float, Integer, UInt8
from torch import Tensor

_STILL = 3.5  # of 255 grey levels: the noise of a camera


class ExponentialSmoothing:
    """An exponential moving average of each frame's logits; ``share`` is the weight of the past.

    s(t) = share s(t-1) + (1 - share) logits(t), share from 0 to below 1. There is no motion
    compensation, so fast objects leave a short trail. At 0 the logits do not change. The average
    has the logits' size, and starts again when that size changes.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._average: Tensor | None = None

    @torch.inference_mode()
    def __call__(self, logits: Float[Tensor, "n k h w"]) -> Float[Tensor, "n k h w"]:
        """Return the average up to this frame."""
        if self.share == 0:
            return logits
        if self._average is None or self._average.shape != logits.shape:
            self._average = logits
        self._average = torch.lerp(logits, self._average, self.share)
        return self._average


class Flicker:
    """Counts the cells that change class although the picture there hardly changes."""

    def __init__(self) -> None:
        self._still: Tensor | int = 0
        self._changed: Tensor | int = 0
        self._labels: Tensor | None = None

    def add(self, labels: Integer[Tensor, "n h w"], still: Bool[Tensor, "n h w"] | None) -> None:
        """Count the next frame's labels; ``still`` comes from :class:`Stillness`."""
        if self._labels is not None and still is not None:
            self._still += still.sum()
            self._changed += (still & (labels != self._labels)).sum()
        self._labels = labels

    @property
    def share(self) -> float | None:
        """The fraction of still cells that changed class, 0 to 1; None without still cells."""
        still = int(self._still)
        return int(self._changed) / still if still else None


class Stillness:
    """Finds the cells in which a picture hardly differs from the one before it."""

    def __init__(self) -> None:
        self._before: Tensor | None = None

    def __call__(self, picture: UInt8[Tensor, "n c h w"]) -> Bool[Tensor, "n h w"] | None:
        """Return the still cells of an RGB picture; None for the first of its size."""
        before, self._before = self._before, picture
        if before is None or before.shape != picture.shape:
            return None
        return (picture.short() - before).abs().amax(1) < _STILL
