"""The graph of every export: from the bytes of a picture to the requested output."""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional as F

from sctnet.checkpoints.exported_file import Output, Precision
from sctnet.export.channels_last import normalise_channels_last
from sctnet.export.resizing import resize_pictures
from sctnet.models import SegmentationNetwork
from sctnet.pipeline.label_dtype import UINT8_CLASSES
from sctnet.pipeline.preprocessing import Length, Preprocessing, PreprocessingConfig

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float32,  # quantised afterwards
}
"""The type in which the network computes."""

SMALLEST = torch.finfo(torch.float32).tiny
"""The probability whose logarithm stands for that of all smaller ones."""


class PictureGraph(nn.Module):
    """Preprocessing, network and answer: what ``ImageToLabels`` computes, as one graph.

    Takes RGB bytes as a decoded picture holds them, channels last. The network computes in
    ``dtype``; preprocessing, resizing and argmax stay in float32. With ``inspected`` the
    network's own logits come beside the answer, to be compared. ``channels_last`` is for a runtime
    that convolves with channels last, and then moves neither the attention's maps nor a picture
    that is not resized, which is normalised before its channels are put first. With ``mirrors`` the
    network sees the mirrored picture too, in the same batch, and the answer is that of the mean
    probabilities (of ``logits``, their logarithms).
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        preprocessing: PreprocessingConfig,
        output: Output,
        dtype: torch.dtype = torch.float32,
        inspected: bool = False,
        channels_last: bool = False,
        mirrors: bool = False,
    ) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(preprocessing)
        self.network = network.fuse()
        if channels_last:
            normalise_channels_last(self.network)
        self.network.to(dtype)
        self.output = output
        self.dtype = dtype
        self.inspected = inspected
        self.channels_last = channels_last
        self.mirrors = mirrors

    def forward(self, images: UInt8[Tensor, "n h w 3"]) -> tuple[Tensor, ...]:
        """Return the answer, N x H x W or N x K x H x W, and perhaps the logits."""
        size = images.shape[1], images.shape[2]
        working = self.preprocessing.config.working_size.apply(*size)
        prepared = self._prepared(images, working)
        if self.mirrors:
            prepared = torch.cat((prepared, _mirrored(prepared)))
        logits = self.network.features(prepared.to(self.dtype)).logits.float()
        answer = self._answer(logits, (working, size))
        return (answer, logits[: images.shape[0]]) if self.inspected else (answer,)

    def _prepared(
        self, images: UInt8[Tensor, "n h w 3"], working: tuple[Length, Length]
    ) -> Float[Tensor, "n 3 hw ww"]:
        pixels = images.float()  # first: some runtimes have bytes at their borders only
        mean, std = self.preprocessing.mean, self.preprocessing.std
        if not _is_same(working, (images.shape[1], images.shape[2])):
            pixels = resize_pictures(pixels, working, self.preprocessing.config.antialias)
        elif self.channels_last:
            return ((pixels - mean.flatten()) / std.flatten()).permute(0, 3, 1, 2)
        else:
            pixels = pixels.permute(0, 3, 1, 2)
        return (pixels - mean) / std

    def _answer(
        self, logits: Float[Tensor, "n k h w"], sizes: tuple[tuple[Length, Length], ...]
    ) -> Float[Tensor, "n k hs ws"] | Int[Tensor, "n hs ws"] | UInt8[Tensor, "n hs ws"]:
        if self.output == "logits8":
            return logits
        for number, size in enumerate(sizes):
            if number == 0 or not _is_same(sizes[number - 1], size):
                logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        if self.mirrors:
            likely, pictures = logits.softmax(1), logits.shape[0] // 2
            likely = (likely[:pictures] + _mirrored(likely[pictures:])) / 2
            if self.output == "probabilities":
                return likely
            logits = likely.clamp(min=SMALLEST).log() if self.output == "logits" else likely
        if self.output == "logits":
            return logits
        if self.output == "probabilities":
            return logits.softmax(1)
        # Of equal logits the lowest class, in every runtime (tested).
        return logits.argmax(1).to(torch.uint8 if logits.shape[1] <= UINT8_CLASSES else torch.int32)


def _mirrored(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Return pictures or maps with left and right exchanged.

    By indices: ``flip`` becomes a slice with a negative step, which ONNX's tools do not fold.
    """
    backwards = torch.arange(images.shape[3] - 1, -1, -1, device=images.device)
    return images.index_select(3, backwards)


def _is_same(first: tuple[Length, Length], second: tuple[Length, Length]) -> bool:
    """Say whether two sizes are the same for every picture.

    If they are the same for some pictures only, the resize stays in the graph. At equal sizes it
    returns its input exactly.
    """
    return all(statically_known_true(a == b) for a, b in zip(first, second, strict=True))
