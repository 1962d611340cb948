"""Prediction: a model, in whatever form, becomes something that is called with pictures."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch

from sctnet.errors import SctnetError
from sctnet.inference.batching import batches
from sctnet.inference.planning import Plan
from sctnet.inference.predictor import LabelMap, Predictor, Probabilities
from sctnet.inference.runtime import Runtime, exported_file, open_exported, open_network
from sctnet.inference.segmentation import Segmentation
from sctnet.inference.sources import Picture, Source, read_source
from sctnet.models import SegmentationNetwork
from sctnet.pictures.palette import default_palette
from sctnet.weights import ModelConfig, find_model, load_config, load_model

__all__ = ["Segmentation", "Segmenter"]

Item = TypeVar("Item")


class Segmenter:
    """A network, ready to label pictures: ``Segmenter("folder")("street.jpg")``.

    ``model`` is a model folder, a bundled name, a hub id, or a file that ``sctnet export`` made: an
    .onnx (ONNX Runtime) or an OpenVINO .xml. ``device`` is any device of the runtime; by default a
    CUDA GPU where there is one and the model is a folder, else the CPU. ``precision`` is
    ``"fp32"``, ``"bf16"`` or ``"fp16"``, or ``"auto"``: of a folder fp16 on a CUDA GPU and fp32
    elsewhere, of a file its own. The short ones are for the network alone, logits are resized in
    float32 all the same. An .onnx file keeps its own precision; an .xml file in floats
    runs in fp32 or bf16.

    ``threads`` is how many the CPU's part may use, by default as many as PyTorch does; for a folder
    it is PyTorch's own setting that changes, for the whole process. ``compiled`` lets
    ``torch.compile`` build the network for every size anew, on a GPU with CUDA graphs: for many
    pictures of few sizes. ``kernels`` says who computes a folder's SCTNet on the CPU: ``"native"``
    the compiled library, ``"torch"`` PyTorch, ``"auto"`` the library wherever it can.

    With ``tile`` a picture is labelled in windows of so many of its own pixels, which share
    ``overlap`` pixels (an eighth by default) and are blended there. Each window is treated as a
    picture of its own: the working-size rule applies to it, so that smaller windows show the
    network more of the detail. Without ``tile`` a picture is labelled whole, or, where it would be
    processed at more than 16 million pixels, in windows of the same scale.

    ``probabilities`` asks for those of every class in every result. ``batch_size`` pictures at
    most, and 4 million pixels at the working size, are given to the network together.

    What happens to a picture is told by :class:`~sctnet.labelling.ImageToLabels`, and by
    :class:`~sctnet.inference.predictor.Predictor` for further ``scales`` and ``flip``.

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
        threads: int | None = None,
        compiled: bool = False,
        kernels: str = "auto",
    ) -> None:
        if threads is not None and threads < 1:
            raise SctnetError(f"threads {threads}: give 1 or more")
        file = exported_file(model)
        runtime: Runtime
        if file is not None:
            if compiled:
                raise SctnetError(
                    f"{file}: an exported file is compiled already: leave out compiled"
                )
            if kernels != "auto":
                raise SctnetError(
                    f"{file}: an exported file runs in its own runtime: leave out kernels"
                )
            used = threads or torch.get_num_threads()
            exported = open_exported(file, device, precision, used)
            runtime, config = exported, exported.config.model
        else:
            folder = find_model(model)  # once: a hub id may be a download
            config = load_config(folder)
            runtime = open_network(
                load_model(folder), config.preparation, device, precision, compiled, kernels
            )
            if threads is not None:
                torch.set_num_threads(threads)
        self._set_up(runtime, config, tile, overlap, probabilities, batch_size, scales, flip)

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
        kernels: str = "auto",
    ) -> "Segmenter":
        """Return a segmenter of a fused copy of a model in memory, which is left as it is."""
        segmenter = cls.__new__(cls)
        runtime = open_network(model, config.preparation, device, precision, kernels=kernels)
        segmenter._set_up(runtime, config, tile, overlap, probabilities, batch_size)
        return segmenter

    def _set_up(
        self,
        runtime: Runtime,
        config: ModelConfig,
        tile: int | None,
        overlap: int | None,
        probabilities: bool,
        batch_size: int,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
    ) -> None:
        if batch_size < 1:
            raise SctnetError(f"batch_size {batch_size}: give 1 or more")
        self.config, self.runtime = config, runtime
        self.device, self.precision = runtime.device, runtime.precision
        self.classes = config.classes
        self.colours = config.colours or default_palette(len(config.classes))
        self.predictor = Predictor(runtime, config, tile, overlap, scales, flip)
        self.tile, self.overlap = tile, overlap
        self.scales, self.flip = tuple(scales), flip
        self.probabilities, self.batch_size = probabilities, batch_size
        if probabilities:
            runtime.require_logits("probabilities")

    def __str__(self) -> str:
        """Say what was loaded and how it runs."""
        network, rule = self.config.network, self.config.preparation.working_size
        source = self.config.source
        origin = f", converted from {source.file} (sha256 {source.sha256[:12]})" if source else ""
        tiles = f" in tiles of {self.tile}" if self.tile else ""
        return (
            f"{network.variant}, {network.num_classes} classes{origin}; "
            f"working size {rule}{tiles}; {self.runtime}"
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
            return 1 if plan.grid is not None else min(self.batch_size, self.predictor.most(plan))

        return batches(items, lambda item: self.predictor.plan(picture(item)), most)

    def check(self, image: Picture, probabilities: bool | None = None) -> None:
        """Raise :class:`SctnetError` for a picture that cannot be labelled, a too large one say."""
        self.predictor.check(image, self._wants(probabilities))

    def _wants(self, probabilities: bool | None) -> bool:
        return self.probabilities if probabilities is None else probabilities

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
        if self._wants(probabilities):
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
        return self.predictor.labels(images)

    def predict_probabilities(self, images: Sequence[Picture]) -> list[Probabilities]:
        """Return the probability of each class and pixel, K x H x W, of each RGB picture.

        The softmax of the logits at the picture's size; its mean where there are several scales or
        ``flip``.
        """
        return self.predictor.probabilities(images)

    def side_by_side(self, callers: int) -> "Segmenter":
        """Return the same for so many threads that call it at a time.

        Each call is then computed in its share of the threads, where it is not PyTorch that
        computes: that has as many as it is told.
        """
        other = copy.copy(self)
        other.runtime = self.runtime.side_by_side(callers)
        other.predictor = copy.copy(self.predictor)
        other.predictor.runtime = other.runtime
        return other

    @property
    def averages(self) -> bool:
        """Whether several predictions are averaged."""
        return self.predictor.averages
