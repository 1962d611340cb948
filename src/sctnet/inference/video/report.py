"""The results of a video, over time and in total."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from sctnet.errors import SctnetError
from sctnet.writing import write_whole


@dataclass(frozen=True)
class VideoReport:
    """The result of a prediction on a video."""

    source: str
    frames: int
    """Labelled."""
    dropped: int
    """Frames dropped to keep up with the source."""
    seconds: float
    """That it took."""
    share: dict[str, float]
    """The area of each class, as a fraction of all pixels of all frames."""
    smooth: float
    flicker: float | None
    """The fraction of cells that change class where the picture hardly changes, before
    smoothing."""
    flicker_smoothed: float | None
    """The same after smoothing; None without."""
    interrupted: bool
    """Whether the user ended it before the end of the source."""
    damage: str | None
    """A sentence, if the source broke off or was partly unreadable."""


class VideoTally:
    """Counts pixels of classes, frame by frame."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self._counts = np.zeros(len(classes), np.int64)
        self._seconds: list[float] = []
        self._shares: list[np.ndarray] = []

    @property
    def frames(self) -> int:
        """The number of frames so far."""
        return len(self._seconds)

    def add(self, seconds: float, counts: Integer[np.ndarray, "k"]) -> None:
        """Count a frame; ``seconds`` is its time."""
        self._counts += counts
        self._seconds.append(seconds)
        self._shares.append((counts / counts.sum()).astype(np.float32))

    def share(self) -> dict[str, float]:
        """Return the area of each class as a fraction of all pixels of all frames."""
        shares = self._counts / max(1, self._counts.sum())
        return dict(zip(self._classes, shares.round(6).tolist(), strict=True))

    def write(self, path: Path, report: VideoReport, model: str) -> None:
        """Write the report and ``over_time``: each frame's seconds, and each class's areas."""
        shares = np.stack(self._shares, axis=1).astype(np.float64).round(5)
        content = {
            "sctnet": version("sctnet"),
            "model": model,
            **asdict(report),
            "over_time": {
                "seconds": [round(seconds, 6) for seconds in self._seconds],
                "share": dict(zip(self._classes, shares.tolist(), strict=True)),
            },
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SctnetError(f"{path.parent}: cannot be written ({error.strerror})") from error
        write_whole(path, (json.dumps(content) + "\n").encode())
