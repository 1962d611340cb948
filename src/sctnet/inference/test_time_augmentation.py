"""Test-time augmentation: predictions averaged over several scales and the mirrored picture."""

from collections.abc import Callable, Sequence

from torch import Tensor

from sctnet.errors import SctnetError

_LARGEST_SCALE = 4.0


class MultiScaleFlip:
    """The versions of a picture whose probabilities are averaged.

    ``scales`` multiply its working size; with ``flip`` each scale is also seen mirrored. Raises
    :class:`SctnetError` for no scale, and for one that is not above 0 and up to 4.
    """

    def __init__(self, scales: Sequence[float] = (1.0,), flip: bool = False) -> None:
        if not scales or not all(0 < scale <= _LARGEST_SCALE for scale in scales):
            raise SctnetError(
                f"scales: give one or more numbers above 0 and up to {_LARGEST_SCALE:g}, "
                "such as 0.75,1.0,1.25"
            )
        self.versions = [
            (scale, mirrored) for scale in scales for mirrored in (False, True)[: 1 + flip]
        ]

    def __bool__(self) -> bool:
        """Whether there is anything but the picture as it is."""
        return self.versions != [(1.0, False)]

    def mean(self, probabilities: Callable[[float, bool], Tensor]) -> Tensor:
        """Return the mean of ``probabilities(scale, mirrored)`` over all versions, in its place."""
        first, *others = self.versions
        total = probabilities(*first)
        for version in others:
            total.add_(probabilities(*version))
        return total / len(self.versions)
