"""What a video was found to show, over time and in all."""

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
    """How the prediction of a video went."""

    source: str
    frames: int
    """Labelled."""
    dropped: int
    """Left out in order not to lag."""
    seconds: float
    """That it took."""
    share: dict[str, float]
    """Of all pixels of all frames, for each class."""
    smooth: float
    flicker: float | None
    """The share of cells that change class where the picture hardly changes, before smoothing."""
    flicker_smoothed: float | None
    """The same after smoothing; None without."""
    interrupted: bool
    """Whether somebody ended it before the source did."""
    damage: str | None
    """A sentence, where the source broke off or could not be read in parts."""


class VideoTally:
    """Counts pixels of classes, frame by frame."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self._counts = np.zeros(len(classes), np.int64)
        self._seconds: list[float] = []
        self._shares: list[np.ndarray] = []

    @property
    def frames(self) -> int:
        """How many there were so far."""
        return len(self._seconds)

    def add(self, seconds: float, counts: Integer[np.ndarray, "k"]) -> None:
        """Count a frame that is shown at this time."""
        self._counts += counts
        self._seconds.append(seconds)
        self._shares.append((counts / counts.sum()).astype(np.float32))

    def share(self) -> dict[str, float]:
        """Return the share of each class in all pixels of all frames."""
        shares = self._counts / max(1, self._counts.sum())
        return dict(zip(self._classes, shares.round(6).tolist(), strict=True))

    def write(self, path: Path, report: VideoReport, model: str) -> None:
        """Write the report, and ``over_time`` the seconds of all frames and each class's shares."""
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
