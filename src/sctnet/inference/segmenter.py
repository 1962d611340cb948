"""Prediction with PyTorch: a model folder becomes something that is called with pictures."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageOps

from sctnet.data.images import decode_image, read_image
from sctnet.errors import SctnetError
from sctnet.inference.segmentation import Segmentation
from sctnet.labelling import AveragedToLabels, ImageToLabels
from sctnet.models import SegmentationNetwork
from sctnet.pictures.palette import default_palette
from sctnet.weights import ModelConfig, find_model, load_config, load_model, usable_device

__all__ = ["Segmentation", "Segmenter"]

# Heights and widths: the pictures of one list may differ in size.
Picture = UInt8[np.ndarray, "_ _ 3"]
LabelMap = UInt8[np.ndarray, "_ _"] | UInt16[np.ndarray, "_ _"]
Source = str | Path | bytes | Image.Image | np.ndarray

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_LARGEST_SCALE = 4.0
_MOST_PIXELS = 100_000_000  # at the working size; SCTNet-S then needs some 10 GB


class Segmenter:
    """A network, ready to label pictures: ``Segmenter("folder")("street.jpg")``.

    ``model`` is a model folder or a hub id. ``device`` is any PyTorch device; by default a CUDA
    GPU where there is one, else the CPU. ``precision`` is ``"fp32"``, ``"bf16"`` or ``"fp16"``; the
    last two run the network under autocast, while logits are resized in float32 all the same
    (``"fp16"`` is for GPUs: on a CPU it works, but is slower than ``"fp32"``).

    What happens to a picture is told by :class:`~sctnet.labelling.ImageToLabels`, and by
    :class:`~sctnet.labelling.AveragedToLabels` for further ``scales`` and ``flip``.

    Raises :class:`SctnetError` for a model that cannot be loaded, an unusable device and scales
    that are none.
    """

    def __init__(
        self,
        model: str | Path,
        device: str | torch.device | None = None,
        precision: str = "fp32",
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
    ) -> None:
        folder = find_model(model)  # once: a hub id may be a download
        self._set_up(load_model(folder), load_config(folder), device, precision, scales, flip)

    @classmethod
    def from_model(
        cls,
        model: SegmentationNetwork,
        config: ModelConfig,
        device: str | torch.device | None = None,
        precision: str = "fp32",
    ) -> "Segmenter":
        """Return a segmenter of a fused copy of a model in memory, which is left as it is."""
        segmenter = cls.__new__(cls)
        segmenter._set_up(model, config, device, precision)
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
        if precision not in _AUTOCAST:
            raise SctnetError(f"precision {precision!r}: choose one of {', '.join(_AUTOCAST)}")
        self.device = _chosen_device(device)
        self.precision = precision
        self.config = config
        self.classes = config.classes
        self.colours = config.colours or default_palette(len(config.classes))
        self.scales, self.flip = tuple(scales), flip
        labeller = AveragedToLabels(
            model.fuse(), config.preparation, _AUTOCAST[precision], self.scales, flip
        )
        self._labeller = labeller.to(self.device)

    @property
    def labeller(self) -> ImageToLabels:
        """The module behind all predictions, on :attr:`device`, with its logits for who needs."""
        return self._labeller

    def __str__(self) -> str:
        """Say what was loaded and how it runs."""
        network, rule = self.config.network, self.config.preparation.working_size
        source = self.config.source
        origin = f", converted from {source.file} (sha256 {source.sha256[:12]})" if source else ""
        return (
            f"{network.variant}, {network.num_classes} classes{origin}; "
            f"working size {rule}; {self.precision} on {self.device}"
        )

    def __call__(self, source: Source) -> Segmentation:
        """Label one picture.

        ``source`` is a path, an encoded picture (bytes), a PIL image or an RGB or grey uint8
        array (H x W x 3 or H x W). Raises :class:`SctnetError` for what is none of these or
        cannot be decoded.
        """
        image = _picture(source)
        (labels,) = self.predict_labels([image])
        return Segmentation(labels, image, self.classes, self.colours)

    @torch.inference_mode()
    def predict_labels(self, images: Sequence[Picture]) -> list[LabelMap]:
        """Return the label map of each RGB picture, at its size; uint16 above 255 classes.

        Neighbours of equal size pass the network as one batch.
        """
        labels: list[LabelMap] = []
        for _, group in groupby(images, key=lambda image: image.shape):
            labels += self._predict_batch(list(group))
        return labels

    def _predict_batch(self, images: list[Picture]) -> list[LabelMap]:
        height, width = images[0].shape[:2]
        rows, columns = self.config.preparation.working_size.apply(height, width)
        largest = max(self.scales)
        size = round(rows * largest), round(columns * largest)
        if size[0] * size[1] > _MOST_PIXELS:
            raise SctnetError(
                f"a picture of {width} x {height} would be processed at {size[1]} x {size[0]}, "
                f"more than {_MOST_PIXELS // 1_000_000} million pixels: cut it into pieces"
            )
        pixels = torch.from_numpy(np.stack(images)).to(self.device).permute(0, 3, 1, 2)
        labels = self._labeller(pixels).cpu().numpy()
        return list(labels if labels.dtype == np.uint8 else labels.astype(np.uint16))


def _chosen_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return usable_device(device)


def _picture(source: Source) -> Picture:
    """Return an RGB array of any source."""
    if isinstance(source, str | Path):
        return read_image(source)
    if isinstance(source, bytes):
        return decode_image(source, "the encoded picture")
    if isinstance(source, Image.Image):
        return _from_pillow(source)
    return _from_array(source)


def _from_pillow(image: Image.Image) -> Picture:
    if image.mode.startswith(("I", "F")):
        raise SctnetError(f"a PIL image of mode {image.mode}: convert it to 8 bits a channel")
    try:
        pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # it was opened, but not yet decoded
        raise SctnetError(
            f"the PIL image cannot be read as RGB ({error}): give a whole picture"
        ) from error
    return _from_array(pixels)


def _from_array(array: np.ndarray) -> Picture:
    array = np.asarray(array)
    if array.dtype != np.uint8:
        raise SctnetError(f"a picture of {array.dtype}: give uint8, from 0 to 255")
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise SctnetError(
            f"a picture of shape {array.shape}: give H x W x 3 (RGB) or H x W (grey), not empty"
        )
    return array
