"""The best use of a trained model: its classes' offsets and its scale, chosen on labelled pictures.

Neither needs training. Whatever is chosen has to help pictures that did not choose it: the first
half of the pictures chooses for the second, and the second for the first.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from sctnet.checkpoints.calibration import Calibration
from sctnet.checkpoints.model_folder import (
    CARD_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    ModelConfig,
    find_model,
    load_config,
    load_configured,
    write_calibration,
)
from sctnet.data.dataset import SegmentationDataset
from sctnet.data.registry import open_dataset
from sctnet.data.views import RecordedPictures, SomePictures
from sctnet.errors import SctnetError
from sctnet.evaluation.evaluator import evaluate
from sctnet.evaluation.offsets import (
    FoundOffsets,
    Objective,
    PixelSample,
    find_offsets,
    sample_pixels,
)
from sctnet.evaluation.scores import Scores
from sctnet.inference.runtimes.runtime import exported_file
from sctnet.inference.scoring import require_same_classes
from sctnet.inference.segmenter import Segmenter
from sctnet.inference.timing import time_predictions
from sctnet.pipeline.preprocessing import WorkingSize

SCALES = (0.75, 1.0, 1.25, 1.5, 2.0)
"""Times the working size that the model was trained at."""

_TIMED = 4  # pictures
_ROUNDS = 5

Counts = Int64[np.ndarray, "k k"]


class Candidate(NamedTuple):
    """A way to use the model, its cost and what it is worth."""

    scale: float
    config: ModelConfig
    """The model's configuration for this use."""
    milliseconds: float
    """For one picture, the least of several."""
    halves: tuple[Counts, Counts]
    """Pixels of the first and the second half of the pictures: rows truth, columns prediction."""

    @property
    def counts(self) -> Counts:
        """Pixels of all pictures."""
        counts: Counts = self.halves[0] + self.halves[1]
        return counts

    @property
    def miou(self) -> float:
        """0 to 1."""
        return _miou(self.counts)

    @property
    def flip(self) -> bool:
        """Whether the mirrored picture is averaged in."""
        return self.config.flip

    @property
    def working_size(self) -> WorkingSize:
        """The size at which the network sees a picture."""
        return self.config.preparation.working_size


@dataclass(frozen=True)
class CalibrationReport:
    """What was tried, what was kept and what it is worth."""

    folder: Path
    """The model folder that was written."""
    config: ModelConfig
    """Its configuration now."""
    pictures: int
    candidates: tuple[Candidate, ...]
    """The first is the model as it was trained."""
    chosen: Candidate
    before: Scores
    after: Scores
    objective: Objective
    found: FoundOffsets
    """The offsets, kept or not, and what they are worth on held-out pictures."""
    remarks: tuple[str, ...]
    """What was not kept, and why; a sentence each."""

    @property
    def offsets(self) -> tuple[float, ...] | None:
        """The offsets that were kept, by class."""
        calibration = self.config.calibration
        return calibration.offsets if calibration is not None else None

    def __str__(self) -> str:
        """Say in sentences what was kept, what was not, and what it is worth."""
        return "\n".join([*self.remarks, *self._sentences()])

    def _sentences(self) -> Iterator[str]:
        before, after = 100 * self.before.miou, 100 * self.after.miou
        yield (
            f"mIoU on these {self.pictures} pictures: {before:.2f} % before, {after:.2f} % after. "
            f"The offsets alone bring {100 * self.found.gain:+.2f} points to pictures that did not "
            "choose them (each half chose for the other)."
        )
        if self.objective.must_find is not None:
            label = self.objective.must_find
            was, now = (_recall(each.counts, label) for each in (self.before, self.after))
            yield (
                f"{self.config.classes[label]} found: {100 * was:.2f} % before, {100 * now:.2f} % "
                f"after, {100 * _recall(self.found.held_out, label):.2f} % on held-out halves."
            )
        if self.config.calibration is None:
            yield f"{self.folder}: as it was trained, nothing was found that helps"
        else:
            yield (
                f"{self.folder}: calibrated; do not score it on these pictures. "
                f"sctnet calibrate {self.folder} --undo restores it"
            )

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dump`` takes."""
        return {
            "pictures": self.pictures,
            "candidates": [
                {
                    "scale": each.scale,
                    "flip": each.flip,
                    "working_size": str(each.working_size),
                    "milliseconds": round(each.milliseconds, 2),
                    "miou": each.miou,
                }
                for each in self.candidates
            ],
            "chosen": {"scale": self.chosen.scale, "flip": self.chosen.flip},
            "offsets": None
            if self.offsets is None
            else dict(zip(self.before.iou, self.offsets, strict=True)),
            "miou_before": self.before.miou,
            "miou_after": self.after.miou,
            "held_out_gain_of_offsets": self.found.gain,
            "remarks": list(self.remarks),
        }


def calibrate(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str] | SegmentationDataset,
    *,
    split: str = "val",
    scales: Sequence[float] = SCALES,
    flip: bool = False,
    recall: tuple[str, float] | None = None,
    out: str | os.PathLike[str] | None = None,
    device: str | None = None,
    precision: str = "auto",
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> CalibrationReport:
    """Choose a model's scale and the offsets of its classes on labelled pictures, and store both.

    ``model`` is a model folder, which is changed in place; with ``out``, a folder that does not
    exist yet, it is left as it is, and may also be a bundled name or a hub id. Only config.json and
    the card change: :func:`undo` restores them. An earlier calibration is replaced, never added to.
    ``data`` is a data set or the argument of ``--data``, of which ``split`` is taken.

    The scale, of ``scales`` (times the working size), is the one of the highest mIoU; with ``flip``
    the average with the mirrored picture is tried too, at twice the time. Then offsets of the
    logits are chosen for the highest mIoU, with ``recall`` (a class and a share from 0 to 1) among
    those that find so much of this class. What does not help the half of the pictures that did not
    choose it is not kept. ``progress`` receives how many predictions are done, and how many there
    are.

    Raises :class:`SctnetError` for a model that cannot be loaded or changed, data of other classes
    or without labels, fewer than two pictures, and a folder that cannot be written.
    """
    folder = _local_folder(model, out)
    dataset = (
        open_dataset(Path(data), [split]) if not isinstance(data, SegmentationDataset) else data
    )
    old = load_config(folder)
    trained = old.trained
    dataset.require_labels()
    require_same_classes(trained.classes, dataset)
    if len(dataset) < 2:
        raise SctnetError(f"{dataset.name}: give two pictures or more, so that one can be held out")
    objective, purpose = _objective(recall, trained.classes)
    as_is = []
    if trained.preparation.working_size.rule == "as-is":
        scales = (1.0,)
        as_is = ["The model takes pictures as they are (as-is), so no other scale was tried."]
    ways = _ways(trained, scales, flip)
    trials = _Trials(folder, dataset, device, precision, (len(ways) + 2) * len(dataset), progress)
    candidates = tuple(trials.candidate(scale, config) for scale, config in ways)
    chosen, remarks = _choose(candidates)
    config, remarks = chosen.config, [*as_is, *remarks]
    recorded = RecordedPictures(dataset)
    found, offsets, counts, refused = _choose_offsets(trials, chosen, recorded, objective)
    remarks += refused
    before, after = (
        Scores.from_counts(each, trained.classes) for each in (candidates[0].counts, counts)
    )
    if chosen is not candidates[0] or offsets.any():
        calibration = Calibration(
            offsets=tuple(offsets.tolist()),
            trained_size=trained.preparation.working_size,
            objective=purpose,
            before=before.miou,
            after=after.miou,
            held_out_gain=found.gain,
            data=dataset.name,
            pictures="".join(sorted(recorded.digests)),
        )
        config = config.model_copy(update={"calibration": calibration})
    written = _store(folder, config, old, out)
    return CalibrationReport(
        written, config, len(dataset), candidates, chosen, before, after, objective, found,
        tuple(remarks),
    )  # fmt: skip


def undo(model: str | os.PathLike[str]) -> Path:
    """Restore a model folder to what it was before it was calibrated, and return its path.

    Raises :class:`SctnetError` where it is not calibrated.
    """
    folder = _local_folder(model, None)
    config = load_config(folder)
    if config.calibration is None:
        raise SctnetError(f"{folder}: is not calibrated, so there is nothing to undo")
    write_calibration(folder, config.trained)
    return folder


def _local_folder(model: str | os.PathLike[str], out: str | os.PathLike[str] | None) -> Path:
    """Return the folder to read; refuse one that may not be changed, where it is to be."""
    if exported_file(Path(model)) is not None:
        raise SctnetError(
            f"{model}: is exported already: calibrate the model folder that it was made from, and "
            "export that again"
        )
    folder = find_model(model)
    if out is None and folder != Path(model):
        raise SctnetError(
            f"{model}: is not a folder of yours, so it is not changed: give --out FOLDER for a "
            "calibrated copy"
        )
    if out is not None and Path(out).exists():
        raise SctnetError(f"{out}: exists already: give --out a new folder")
    return folder


def _objective(recall: tuple[str, float] | None, classes: Sequence[str]) -> tuple[Objective, str]:
    """Return what is maximised, and the same in words."""
    if recall is None:
        return Objective(), "mIoU"
    name, share = recall
    if name not in classes:
        raise SctnetError(f"recall: there is no class {name!r}: choose from {', '.join(classes)}")
    if not 0 < share <= 1:
        raise SctnetError(f"recall: {share:g} of {name}: give a share above 0 and up to 1")
    return Objective(classes.index(name), share), f"mIoU with {100 * share:g} % of {name} found"


def _ways(
    trained: ModelConfig, scales: Sequence[float], flip: bool
) -> list[tuple[float, ModelConfig]]:
    """Return the scales to try with the configuration of each; the trained one comes first."""
    if not all(0 < scale <= 4 for scale in scales):
        raise SctnetError("scales: give numbers above 0 and up to 4, such as 1.0,1.5")
    size = trained.preparation.working_size
    ways = []
    for mirrored in (False, True)[: 1 + flip]:
        for scale in sorted({1.0, *scales}, key=lambda scale: (scale != 1, scale)):
            scaled = size if scale == 1 else size.times(scale)
            preparation = trained.preparation.model_copy(update={"working_size": scaled})
            changes = {"preparation": preparation, "flip": mirrored}
            ways.append((scale, trained.model_copy(update=changes)))
    return ways


class _Trials:
    """Predictions of one model, used in different ways, on the pictures that choose."""

    def __init__(
        self,
        folder: Path,
        dataset: SegmentationDataset,
        device: str | None,
        precision: str,
        total: int,
        progress: Callable[[int, int], None],
    ) -> None:
        self._folder, self._dataset = folder, dataset
        self._device, self._precision = device, precision
        self._done, self._total, self._progress = 0, total, progress

    def opened(self, config: ModelConfig, offsets: Sequence[float] | None = None) -> Segmenter:
        """Return a segmenter of the model with these offsets."""
        network = load_configured(self._folder, config)
        if offsets is not None:
            network.add_offsets(offsets)
        return Segmenter.from_model(network, config, self._device, self._precision)

    def candidate(self, scale: float, config: ModelConfig) -> Candidate:
        """Measure a way to use the model."""
        segmenter, data = self.opened(config), self._dataset
        numbers = np.linspace(0, len(data) - 1, min(len(data), _TIMED)).round()
        pictures = [data.image(int(number)) for number in numbers]
        (timing,) = time_predictions([segmenter], pictures, 1, _ROUNDS)
        return Candidate(scale, config, timing.best, self.halves(segmenter))

    def halves(self, segmenter: Segmenter) -> tuple[Counts, Counts]:
        """Return the pixels of the first and the second half of the pictures."""
        middle = len(self._dataset) // 2
        return (
            self._counts(segmenter, range(middle)),
            self._counts(segmenter, range(middle, len(self._dataset))),
        )

    def sample(self, config: ModelConfig, dataset: SegmentationDataset) -> PixelSample:
        """Return pixels of all pictures with their logits."""
        segmenter = self.opened(config)
        sample = sample_pixels(
            lambda picture: segmenter.predict_probabilities([picture])[0], dataset, self._advance
        )
        self._done += len(dataset)
        return sample

    def _counts(self, segmenter: Segmenter, numbers: range) -> Counts:
        part = SomePictures(self._dataset, numbers)
        counts = evaluate(segmenter.predict_labels, part, progress=self._advance).scores.counts
        self._done += len(part)
        return counts

    def _advance(self, done: int) -> None:
        self._progress(self._done + done, self._total)


def _choose(candidates: Sequence[Candidate]) -> tuple[Candidate, list[str]]:
    """Return the candidate of the highest mIoU, if choosing so helps held-out pictures too."""
    trained = candidates[0]
    best = max(candidates, key=lambda each: each.miou)
    of_first = max(candidates, key=lambda each: _miou(each.halves[0]))
    of_second = max(candidates, key=lambda each: _miou(each.halves[1]))
    held_out = of_first.halves[1] + of_second.halves[0]
    if best is trained or _miou(held_out) > trained.miou:
        return best, []
    flipped = " with flip" if best.flip else ""
    return trained, [
        f"Scale {best.scale:g}{flipped} is the best of all pictures, but what each half of them "
        "chose does not help the other half: the trained scale was kept."
    ]


def _choose_offsets(
    trials: _Trials, way: Candidate, pictures: SegmentationDataset, objective: Objective
) -> tuple[FoundOffsets, np.ndarray, Counts, list[str]]:
    """Return what the search found, the offsets that are kept, the pixels with them, and remarks.

    Kept are those that help held-out pixels of the sample, and then all pixels of all pictures.
    """
    found = find_offsets(trials.sample(way.config, pictures), objective)
    none = np.zeros(len(way.config.classes))
    if not found.helps(objective):
        return (
            found,
            none,
            way.counts,
            [
                "The offsets that each half of the pictures chose do not help the other half "
                f"({100 * found.gain:+.2f} points of mIoU): none were kept."
            ],
        )
    first, second = trials.halves(trials.opened(way.config, found.offsets.tolist()))
    if objective.of_counts(first + second) > objective.of_counts(way.counts):
        return found, found.offsets, first + second, []
    remark = "Offsets that help the sampled pixels do not help all: none were kept."
    return found, none, way.counts, [remark]


def _store(
    folder: Path, config: ModelConfig, old: ModelConfig, out: str | os.PathLike[str] | None
) -> Path:
    """Write the configuration in place, or a whole copy; nothing where nothing changes."""
    if out is None:
        if config != old:
            write_calibration(folder, config)
        return folder
    target = Path(out)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".calibrate-", dir=target.parent) as place:
            beside = Path(place) / "model"
            beside.mkdir()
            for file in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE):
                if (folder / file).exists():
                    shutil.copyfile(folder / file, beside / file)
            write_calibration(beside, config)
            beside.replace(target)
    except OSError as error:
        raise SctnetError(f"{target}: cannot be written ({error.strerror or error})") from error
    return target


def _miou(counts: np.ndarray) -> float:
    return Objective().of_counts(counts)


def _recall(counts: np.ndarray, label: int) -> float:
    return float(counts[label, label] / counts[label].sum())
