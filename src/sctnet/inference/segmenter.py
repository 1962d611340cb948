"""Prediction with PyTorch: a model folder becomes something that is called with pictures."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from jaxtyping import Float32, UInt8, UInt16
from torch import Tensor
from torch.nn import functional as F

from sctnet.errors import SctnetError
from sctnet.inference.batching import batches
from sctnet.inference.planning import LARGE_PICTURE, TILE, Plan, plan_picture
from sctnet.inference.segmentation import Segmentation
from sctnet.inference.sources import Picture, Source, read_source
from sctnet.inference.tiling import (
    ComposedLogits,
    composed_labels,
    composed_probabilities,
)
from sctnet.labelling import AveragedToLabels, ImageToLabels
from sctnet.labels import label_map
from sctnet.models import SegmentationNetwork
from sctnet.pictures.palette import default_palette
from sctnet.weights import ModelConfig, find_model, load_config, load_model, usable_device

__all__ = ["Segmentation", "Segmenter"]

LabelMap = UInt8[np.ndarray, "_ _"] | UInt16[np.ndarray, "_ _"]
Probabilities = Float32[np.ndarray, "_ _ _"]

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_LARGEST_SCALE = 4.0

# At the working size, where SCTNet-S needs some 0.1 GB for a million.
_BATCH_PIXELS = 4_000_000  # of several pictures or windows together

_MOST_PROBABILITIES = 2_000_000_000  # of four bytes each

Item = TypeVar("Item")


class Segmenter:
    """A network, ready to label pictures: ``Segmenter("folder")("street.jpg")``.

    ``model`` is a model folder, a bundled name or a hub id. ``device`` is any PyTorch device; by
    default a CUDA GPU where there is one, else the CPU. ``precision`` is ``"fp32"``, ``"bf16"`` or
    ``"fp16"``, or ``"auto"``: fp16 on a CUDA GPU, fp32 elsewhere. The short ones run the network
    under autocast, while logits are resized in float32 all the same.

    With ``tile`` a picture is labelled in windows of so many of its own pixels, which share
    ``overlap`` pixels (an eighth by default) and are blended there. Each window is treated as a
    picture of its own: the working-size rule applies to it, so that smaller windows show the
    network more of the detail. Without ``tile`` a picture is labelled whole, or, where it would be
    processed at more than 16 million pixels, in windows of the same scale.

    ``probabilities`` asks for those of every class in every result. ``batch_size`` pictures at
    most, and 4 million pixels at the working size, pass the network together.

    What happens to a picture is told by :class:`~sctnet.labelling.ImageToLabels`, and by
    :class:`~sctnet.labelling.AveragedToLabels` for further ``scales`` and ``flip``.

    Raises :class:`SctnetError` for a model that cannot be loaded, an unusable device and options
    that cannot be.
    """

    def __init__(
        self,
        model: str | Path,
        device: str | torch.device | None = None,
        precision: str = "auto",
        *,
        tile: int | None = None,
        overlap: int | None = None,
        probabilities: bool = False,
        batch_size: int = 8,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
    ) -> None:
        folder = find_model(model)  # once: a hub id may be a download
        self._set_up(load_model(folder), load_config(folder), device, precision, scales, flip)
        self._choose(tile, overlap, probabilities, batch_size)

    @classmethod
    def from_model(
        cls,
        model: SegmentationNetwork,
        config: ModelConfig,
        device: str | torch.device | None = None,
        precision: str = "auto",
        *,
        tile: int | None = None,
        overlap: int | None = None,
        probabilities: bool = False,
        batch_size: int = 8,
    ) -> "Segmenter":
        """Return a segmenter of a fused copy of a model in memory, which is left as it is."""
        segmenter = cls.__new__(cls)
        segmenter._set_up(model, config, device, precision)
        segmenter._choose(tile, overlap, probabilities, batch_size)
        return segmenter

    def _set_up(
        self,
        model: SegmentationNetwork,
        config: ModelConfig,
        device: str | torch.device | None,
        precision: str,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
    ) -> None:
        if not scales or not all(0 < scale <= _LARGEST_SCALE for scale in scales):
            raise SctnetError(
                f"scales: give one or more numbers above 0 and up to {_LARGEST_SCALE:g}, "
                "such as 0.75,1.0,1.25"
            )
        if precision not in {"auto", *_AUTOCAST}:
            raise SctnetError(
                f"precision {precision!r}: choose one of auto, {', '.join(_AUTOCAST)}"
            )
        self.device = _chosen_device(device)
        automatic = "fp16" if self.device.type == "cuda" else "fp32"
        self.precision = automatic if precision == "auto" else precision
        self.config = config
        self.classes = config.classes
        self.colours = config.colours or default_palette(len(config.classes))
        self.scales, self.flip = tuple(scales), flip
        labeller = AveragedToLabels(
            model.fuse(), config.preparation, _AUTOCAST[self.precision], self.scales, flip
        )
        self._labeller = labeller.to(self.device)

    @property
    def labeller(self) -> ImageToLabels:
        """The module behind all predictions, on :attr:`device`, with its logits for who needs."""
        return self._labeller

    def _choose(
        self, tile: int | None, overlap: int | None, probabilities: bool, batch_size: int
    ) -> None:
        if tile is not None and tile < 32:
            raise SctnetError(f"tile {tile}: a window has 32 pixels at least")
        if overlap is not None and not 0 <= overlap <= (tile or TILE) // 2:
            raise SctnetError(f"overlap {overlap}: give 0 to half of a tile's {tile or TILE}")
        if batch_size < 1:
            raise SctnetError(f"batch_size {batch_size}: give 1 or more")
        self.tile, self.overlap = tile, overlap
        self.probabilities, self.batch_size = probabilities, batch_size

    def __str__(self) -> str:
        """Say what was loaded and how it runs."""
        network, rule = self.config.network, self.config.preparation.working_size
        source = self.config.source
        origin = f", converted from {source.file} (sha256 {source.sha256[:12]})" if source else ""
        tiles = f" in tiles of {self.tile}" if self.tile else ""
        return (
            f"{network.variant}, {network.num_classes} classes{origin}; "
            f"working size {rule}{tiles}; {self.precision} on {self.device}"
        )

    @overload
    def __call__(self, source: Source, probabilities: bool | None = None) -> Segmentation: ...
    @overload
    def __call__(
        self, source: list[Any] | tuple[Any, ...], probabilities: bool | None = None
    ) -> list[Segmentation]: ...
    @overload
    def __call__(
        self, source: Iterator[Any], probabilities: bool | None = None
    ) -> Iterator[Segmentation]: ...
    def __call__(
        self,
        source: object,
        probabilities: bool | None = None,
    ) -> Segmentation | list[Segmentation] | Iterator[Segmentation]:
        """Label one picture, a list of them, or what an iterator yields.

        A picture is a path, an encoded picture (bytes), a PIL image or an RGB or grey uint8 array
        (H x W x 3 or H x W). A list or tuple gives a list; an iterator a generator, which holds one
        batch at a time. Neighbours that are processed at the same size pass the network together.
        Raises :class:`SctnetError` for what is no picture or cannot be decoded.
        """
        if isinstance(source, list | tuple):
            return list(self._labelled(source, probabilities))
        if isinstance(source, Iterator):
            return self._labelled(source, probabilities)
        return self.label([read_source(source)], probabilities)[0]

    def batches(
        self, items: Iterable[Item], picture: Callable[[Item], Picture]
    ) -> Iterator[list[Item]]:
        """Yield consecutive items in lists whose pictures may pass the network together."""

        def most(plan: Plan) -> int:
            fitting = _BATCH_PIXELS // (plan.working[0] * plan.working[1])
            return 1 if plan.grid is not None else max(1, min(self.batch_size, fitting))

        return batches(items, lambda item: self._plan(picture(item)), most)

    def check(self, image: Picture, probabilities: bool | None = None) -> None:
        """Raise :class:`SctnetError` for a picture too large to be labelled."""
        self._plan(image)
        wanted = self.probabilities if probabilities is None else probabilities
        height, width = image.shape[:2]
        if wanted and height * width * len(self.classes) > _MOST_PROBABILITIES:
            raise SctnetError(
                f"the probabilities of {len(self.classes)} classes for a picture of "
                f"{width} x {height} would take more than 8 GB: ask for labels alone"
            )

    def _labelled(
        self, sources: Iterable[Any], probabilities: bool | None
    ) -> Iterator[Segmentation]:
        pictures = (read_source(source) for source in sources)
        for group in self.batches(pictures, lambda image: image):
            yield from self.label(group, probabilities)

    def label(
        self, images: Sequence[Picture], probabilities: bool | None = None
    ) -> list[Segmentation]:
        """Label RGB pictures, all that may pass the network together in one batch."""
        likely: Sequence[Probabilities | None] = [None] * len(images)
        for image in images:
            self.check(image, probabilities)
        if self.probabilities if probabilities is None else probabilities:
            likely = self.predict_probabilities(images)
            kind = np.uint8 if len(self.classes) <= 255 else np.uint16
            labels = [each.argmax(axis=0).astype(kind) for each in likely if each is not None]
        else:
            labels = self.predict_labels(images)
        return [
            Segmentation(found, image, self.classes, self.colours, each)
            for found, image, each in zip(labels, images, likely, strict=True)
        ]

    def predict_labels(self, images: Sequence[Picture]) -> list[LabelMap]:
        """Return the label map of each RGB picture, at its size; uint16 above 255 classes.

        Neighbours that are processed at the same size pass the network as one batch.
        """
        if self.averages:
            kind = np.uint8 if len(self.classes) <= 255 else np.uint16
            return [each.argmax(axis=0).astype(kind) for each in self._averaged(images)]

        def labels(logits: Tensor, working: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
            return label_map(logits, working, size).cpu().numpy()

        return self._predict(images, labels, composed_labels)

    def predict_probabilities(self, images: Sequence[Picture]) -> list[Probabilities]:
        """Return the probability of each class and pixel, K x H x W, of each RGB picture.

        The softmax of the logits at the picture's size; its mean where there are several scales or
        ``flip``.
        """
        if self.averages:
            return self._averaged(images)

        def probabilities(
            logits: Tensor, working: tuple[int, int], size: tuple[int, int]
        ) -> np.ndarray:
            logits = logits.float()
            for wanted in (working, size):
                if logits.shape[2:] != wanted:
                    logits = F.interpolate(logits, wanted, mode="bilinear", align_corners=False)
            return logits.softmax(dim=1).cpu().numpy()

        return self._predict(images, probabilities, composed_probabilities)

    @property
    def averages(self) -> bool:
        """Whether several predictions are averaged."""
        return self.scales != (1.0,) or self.flip

    @torch.inference_mode()
    def _averaged(self, images: Sequence[Picture]) -> list[Probabilities]:
        """Return the mean probabilities of each picture, one after the other."""
        found = []
        for image in images:
            plan = self._plan(image)
            if plan.grid is not None:
                raise SctnetError(
                    f"a picture of {image.shape[1]} x {image.shape[0]} is taken in tiles, which "
                    "several scales and flip cannot be: leave them out"
                )
            found.append(self._labeller.probabilities(self._pixels(image))[0].cpu().numpy())
        return found

    @torch.inference_mode()
    def _predict(
        self,
        images: Sequence[Picture],
        of_logits: Callable[[Tensor, tuple[int, int], tuple[int, int]], np.ndarray],
        of_composed: Callable[[ComposedLogits], np.ndarray],
    ) -> list[np.ndarray]:
        """Return what one of the two functions makes of each picture's logits."""
        try:
            return self._predict_each(images, of_logits, of_composed)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise SctnetError(
                f"memory does not suffice on {self.device}: take smaller batches or tiles"
            ) from error

    def _predict_each(
        self,
        images: Sequence[Picture],
        of_logits: Callable[[Tensor, tuple[int, int], tuple[int, int]], np.ndarray],
        of_composed: Callable[[ComposedLogits], np.ndarray],
    ) -> list[np.ndarray]:
        results: list[np.ndarray] = []
        for plan, group in groupby(images, key=self._plan):
            if plan.grid is not None:
                results += [of_composed(self._composed(image, plan)) for image in group]
                continue
            # The network takes them together; before and after, one large picture at a time.
            pictures = list(group)
            prepared = [self._labeller.preparation(self._pixels(image)) for image in pictures]
            # In the layout of the decoder's bytes, as validation in training has it.
            batch = torch.cat(prepared).contiguous(memory_format=torch.channels_last)
            together = self._labeller.logits(batch)
            for image, logits in zip(pictures, torch.split(together, 1), strict=True):
                results.append(of_logits(logits, plan.working, image.shape[:2])[0])
        return results

    def _pixels(self, image: Picture) -> UInt8[Tensor, "1 3 h w"]:
        # PyTorch takes no array that cannot be written or runs backwards; others are not copied.
        usable = np.require(image, requirements=["C", "W"])
        return torch.from_numpy(usable).to(self.device).permute(2, 0, 1)[None]

    def _composed(self, image: Picture, plan: Plan) -> ComposedLogits:
        assert plan.grid is not None
        together = max(1, _BATCH_PIXELS // (plan.working[0] * plan.working[1]))
        return ComposedLogits(
            self._pixels(image)[0],
            len(self.classes),
            plan.grid,
            plan.working,
            self._window_logits,
            1 if self.device.type == "cpu" else min(self.batch_size, together),
        )

    def _window_logits(self, windows: UInt8[Tensor, "n 3 h w"]) -> Tensor:
        height, width = windows.shape[2:]
        if height * width <= LARGE_PICTURE:
            prepared = self._labeller.preparation(windows)
        else:
            rows = max(1, LARGE_PICTURE // 4 // width)
            prepared = self._labeller.preparation.narrowed(windows, rows)
        return self._labeller.logits(prepared)

    def _plan(self, image: Picture) -> Plan:
        rule = self.config.preparation.working_size
        return plan_picture((image.shape[0], image.shape[1]), rule, self.tile, self.overlap)


def _chosen_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return usable_device(device)
