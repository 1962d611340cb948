"""Prediction: a model of any kind, called with pictures."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import torch

from sctnet.checkpoints.class_map import ClassMap, read_rules
from sctnet.checkpoints.model_folder import ModelConfig, find_model, load_config, load_model
from sctnet.checkpoints.transformers_folder import is_transformers_folder
from sctnet.data.streams import batches
from sctnet.errors import SctnetError
from sctnet.inference.picture_plan import Plan, PlannedPicture
from sctnet.inference.predictor import LabelMap, Predictor, Probabilities
from sctnet.inference.runtimes.mapped_runtime import MappedRuntime
from sctnet.inference.runtimes.runtime import (
    Runtime,
    exported_file,
    open_exported,
    open_network,
    open_transformers,
)
from sctnet.inference.segmentation_result import Segmentation
from sctnet.inference.sources import Picture, PictureSource, read_source
from sctnet.models import SegmentationNetwork
from sctnet.pictures.palette import default_palette
from sctnet.pipeline.label_dtype import label_dtype

__all__ = ["Segmentation", "Segmenter"]

Item = TypeVar("Item")


class Segmenter:
    """A network, ready to label pictures: ``Segmenter("folder")("street.jpg")``.

    ``model`` is a model folder, a bundled name, a hub id, a folder or hub id of a model of
    transformers that labels pixels, or a file that ``sctnet export`` made: an .onnx (ONNX Runtime)
    or an OpenVINO .xml. ``device`` is any device of the runtime; the default
    is a CUDA GPU for a folder if there is one, else the CPU. ``precision`` is ``"fp32"``,
    ``"bf16"``, ``"fp16"`` or ``"auto"``. With ``"auto"`` a folder runs in fp16 on a CUDA GPU and in
    fp32 elsewhere, and a file runs in its own precision. Only the network computes in bf16 or fp16;
    logits are always resized in float32. An .onnx file keeps its own precision; an .xml file in
    floats runs in fp32 or bf16.

    ``threads`` is the number of CPU threads, by default PyTorch's. For a folder this changes
    PyTorch's own setting, for the whole process. ``compiled`` lets ``torch.compile`` build the
    network for every new size, on a GPU with CUDA graphs: for many pictures of few sizes.
    ``kernels`` says what computes a folder's SCTNet on the CPU: ``"native"`` the compiled library,
    ``"torch"`` PyTorch, ``"auto"`` the library wherever it can.

    ``scales`` multiply the working size; with ``flip`` the mirrored picture is seen too; the
    probabilities of all are averaged. By default a model does with one scale, and mirrors where
    ``sctnet calibrate`` chose so.

    With ``tile`` a picture is labelled in square windows of that many pixels, which share
    ``overlap`` pixels (by default an eighth) and are blended there. Each window is resized to the
    working size like a picture, so smaller windows show the network more detail. Without ``tile`` a
    picture is labelled whole; one that would be processed at more than 16 million pixels is
    labelled in windows of the same scale.

    ``probabilities`` adds those of every class to every result. A batch has at most ``batch_size``
    pictures, and 4 million pixels at the working size.

    ``class_map`` renames, merges and drops the model's classes: a YAML file, or its lines as a
    mapping such as ``{"road": ["road", "lane marking"], "background": "everything else"}``. Where
    it drops some, every pixel gets the best of those that are left.

    A picture goes through the steps of :class:`~sctnet.pipeline.image_to_labels.ImageToLabels`;
    with further ``scales`` or ``flip``, of :class:`~sctnet.inference.predictor.Predictor`.

    Raises :class:`SctnetError` for a model that cannot be loaded, an unusable device and invalid
    options.
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
        flip: bool | None = None,
        threads: int | None = None,
        compiled: bool = False,
        kernels: str = "auto",
        class_map: str | Path | Mapping[str, Any] | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise SctnetError(f"threads {threads}: give 1 or more")
        file, mirrors = exported_file(model), False
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
            if exported.config.mirrors:
                if flip is False:
                    raise SctnetError(
                        f"{file}: averages with the mirrored picture itself, which cannot be left "
                        "out: give the model folder"
                    )
                flip, mirrors = False, True
        else:
            folder = find_model(model)  # once: a hub id may be a download
            if is_transformers_folder(folder):
                runtime, config = open_transformers(folder, device, precision, compiled)
            else:
                config = load_config(folder)
                runtime = open_network(
                    load_model(folder), config.preparation, device, precision, compiled, kernels
                )
            if threads is not None:
                torch.set_num_threads(threads)
        if class_map is not None:
            runtime, config = _mapped(runtime, config, class_map)
        self._set_up(runtime, config, tile, overlap, probabilities, batch_size, scales, flip)
        self.mirrors |= mirrors

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
        """Return a segmenter of a fused copy of a model in memory; the model stays as it is.

        The offsets of a calibration in ``config`` are expected in the model already.
        """
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
        flip: bool | None = None,
    ) -> None:
        if batch_size < 1:
            raise SctnetError(f"batch_size {batch_size}: give 1 or more")
        self.config, self.runtime = config, runtime
        self.device, self.precision = runtime.device, runtime.precision
        self.classes = config.classes
        self.colours = config.colours or default_palette(len(config.classes))
        self.scales, self.flip = tuple(scales), config.flip if flip is None else flip
        self.mirrors = self.flip  # or the runtime does it by itself
        self.predictor = Predictor(runtime, config, tile, overlap, self.scales, self.flip)
        self.tile, self.overlap = tile, overlap
        self.probabilities, self.batch_size = probabilities, batch_size
        if probabilities:
            runtime.require_logits("probabilities")

    def __str__(self) -> str:
        """Say what was loaded and how it runs."""
        network, rule = self.config.network, self.config.preparation.working_size
        source = self.config.source
        origin = f", converted from {source.file} (sha256 {source.sha256[:12]})" if source else ""
        tiles = f" in tiles of {self.tile}" if self.tile else ""
        calibration = self.config.calibration
        chosen = "" if calibration is None else f", calibrated on {calibration.data}"
        mirrored = " and mirrored" if self.mirrors else ""
        return (
            f"{network.variant}, {len(self.classes)} classes{origin}{chosen}; "
            f"working size {rule}{tiles}{mirrored}; {self.runtime}"
        )

    @overload
    def __call__(
        self, source: PictureSource, probabilities: bool | None = None
    ) -> Segmentation: ...
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
        """Label one picture, a list of pictures, or the pictures of an iterator.

        A picture is a path, an encoded picture (bytes), a PIL image or an RGB or grey uint8 array
        (H x W x 3 or H x W). A list or tuple gives a list; an iterator gives a generator, which
        holds one batch at a time. Neighbours that are processed at the same size form a batch.
        Raises :class:`SctnetError` for anything that is not a picture or cannot be decoded.
        """
        if isinstance(source, list | tuple):
            return list(self._labelled(source, probabilities))
        if isinstance(source, Iterator):
            return self._labelled(source, probabilities)
        return self.label([self.plan(read_source(source), probabilities)], probabilities)[0]

    def plan(self, image: Picture, probabilities: bool | None = None) -> PlannedPicture:
        """Return a picture with the way it is processed, decided once.

        Raises :class:`SctnetError` for a picture that cannot be labelled, for example one that is
        too large.
        """
        return self.predictor.plan(image, self._wants(probabilities))

    def batches(
        self, items: Iterable[Item], picture: Callable[[Item], PlannedPicture]
    ) -> Iterator[list[Item]]:
        """Yield consecutive items in lists whose pictures may pass the network together."""

        def most(plan: Plan) -> int:
            return 1 if plan.grid is not None else min(self.batch_size, self.predictor.most(plan))

        return batches(items, lambda item: picture(item).plan, most)

    def label(
        self, pictures: Sequence[PlannedPicture], probabilities: bool | None = None
    ) -> list[Segmentation]:
        """Label pictures of one plan, together in one batch."""
        likely: Sequence[Probabilities | None] = [None] * len(pictures)
        if self._wants(probabilities):
            found = self.predictor.probabilities(pictures)
            dtype = label_dtype(len(self.classes))
            likely, labels = found, [each.argmax(axis=0).astype(dtype) for each in found]
        else:
            labels = self.predictor.labels(pictures)
        return [
            Segmentation(found, picture.image, self.classes, self.colours, each)
            for found, picture, each in zip(labels, pictures, likely, strict=True)
        ]

    def _wants(self, probabilities: bool | None) -> bool:
        return self.probabilities if probabilities is None else probabilities

    def _labelled(
        self, sources: Iterable[Any], probabilities: bool | None
    ) -> Iterator[Segmentation]:
        pictures = (self.plan(read_source(source), probabilities) for source in sources)
        for group in self.batches(pictures, lambda picture: picture):
            yield from self.label(group, probabilities)

    def predict_labels(self, images: Sequence[Picture]) -> list[LabelMap]:
        """Return the label map of each RGB picture, at its size; uint16 above 255 classes.

        Neighbours that are processed at the same size form a batch.
        """
        return self.predictor.labels([self.predictor.plan(image) for image in images])

    def predict_probabilities(self, images: Sequence[Picture]) -> list[Probabilities]:
        """Return the probability of each class and pixel, K x H x W, of each RGB picture.

        This is the softmax of the logits at the picture's size; with several scales or ``flip``,
        its mean.
        """
        return self.predictor.probabilities([self.predictor.plan(image) for image in images])

    def mapped(self, class_map: str | Path | Mapping[str, Any]) -> "Segmenter":
        """Return a segmenter of the classes that a map makes of this one's; the model is shared."""
        runtime, config = _mapped(self.runtime, self.config, class_map)
        other = copy.copy(self)
        other._set_up(
            runtime, config, self.tile, self.overlap, self.probabilities, self.batch_size,
            self.scales, self.flip,
        )  # fmt: skip
        return other

    def side_by_side(self, callers: int) -> "Segmenter":
        """Return a segmenter for ``callers`` threads that call it at the same time.

        Each call uses its part of the CPU's threads. PyTorch is the exception: it uses the number
        of threads that it was given.
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


def _mapped(
    runtime: Runtime, config: ModelConfig, source: str | Path | Mapping[str, Any]
) -> tuple[Runtime, ModelConfig]:
    """Return a runtime and a configuration of the classes that a map makes."""
    rules = read_rules(source)
    origin = "map" if isinstance(source, Mapping) else str(source)
    class_map = ClassMap(rules, config.classes, origin)
    colours = class_map.first_of_each(config.colours)
    changes = {"classes": class_map.classes, "colours": colours}
    return MappedRuntime(runtime, class_map), config.model_copy(update=changes)
