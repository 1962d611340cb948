"""Teachers: the protocol that alignment needs, and the kinds of networks that follow it."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.checkpoints.model_folder import find_model, load_config, load_model
from sctnet.checkpoints.transformers_folder import is_transformers_folder, load_transformers_model
from sctnet.errors import SctnetError
from sctnet.models import SegmentationNetwork, Widths
from sctnet.models.layers import resize
from sctnet.models.pyramid import Fusion, PyramidNetwork
from sctnet.training.shared_head import Moments, Size, larger, moments

CHECKPOINTS = (".pth", ".pt", ".bin")
"""Suffixes of PyTorch's files."""


class Answer(NamedTuple):
    """What a teacher says about a batch: all that alignment compares with or aligns to."""

    stage3: Float[Tensor, "n c3 h16 w16"]
    stage4: Float[Tensor, "n c4 h32 w32"]
    decoder_feature: Float[Tensor, "n cf h w"] | None
    logits: Float[Tensor, "n k h w"]
    decoder_input: Moments | None
    """At the teacher's size or, where that is larger, the student's."""


@runtime_checkable
class Teacher(Protocol):
    """A module (``torch.nn.Module``) that can teach.

    ``encode`` takes images normalised as the student's. It returns few values, which are worth
    keeping: ``answer`` makes of them all that alignment needs. The end of the teacher's decoder
    head maps a decoder input to a decoder feature and logits, and the student's own expanded
    feature goes through it too: by ``decode`` or, where ``fusion`` returns one, by that, which
    computes the same at a fraction of the cost. A teacher whose ``widths`` has None for the decoder
    teaches only with its stages and logits.
    """

    classes: tuple[str, ...]
    widths: Widths

    def encode(self, images: Float[Tensor, "n 3 h w"], student: Size) -> tuple[Tensor, ...]:
        """Return maps (n x c x h x w) and vectors (n x c) of normalised RGB images.

        ``student`` is the height and width of the student's decoder input.
        """

    def answer(self, encoded: tuple[Tensor, ...], student: Size) -> Answer:
        """Return the answer that follows from what :meth:`encode` returned."""

    def decode(
        self, decoder_input: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n cf h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""

    def fusion(self) -> Fusion | None:
        """Return ``decode`` as one linear map, a rectifier and a classifier, if it is that."""

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Say whether the parameters learn; every module has this."""

    def eval(self) -> Any:
        """Use running statistics and drop nothing; every module has this."""


class NetworkTeacher(nn.Module):
    """One of this package's networks that teaches; also another SCTNet.

    Of a network with a SegFormer's head it holds a copy with folded norms, which is faster and has
    the same features. Other heads' decoder features are those before a norm, and stay so.
    """

    def __init__(self, network: SegmentationNetwork, classes: Sequence[str]) -> None:
        super().__init__()
        self.network = network.fuse() if isinstance(network, PyramidNetwork) else network
        self.classes = tuple(classes)
        self.widths = network.widths

    def encode(self, images: Float[Tensor, "n 3 h w"], student: Size) -> tuple[Tensor, ...]:
        """Return the stages where the head is a SegFormer's, else the whole answer."""
        if isinstance(self.network, PyramidNetwork):
            return tuple(self.network.stage_maps(images))
        features = self.network.features(images)
        encoded = features.stage3, features.stage4, features.logits
        if features.decoder_input is None or features.decoder_feature is None:
            return encoded
        size = larger(_size(features.decoder_input), student)
        mean, deviations, _ = moments(features.decoder_input, size)
        return *encoded, features.decoder_feature, mean, deviations

    def answer(self, encoded: tuple[Tensor, ...], student: Size) -> Answer:
        """Return the answer; the decoder input of a SegFormer's head is never made."""
        if isinstance(self.network, PyramidNetwork):
            return _answer_by_levels(self.network, list(encoded), student)
        stage3, stage4, logits, *decoder = encoded
        if not decoder:
            return Answer(stage3, stage4, None, logits, None)
        feature, mean, deviations = decoder
        decoder_input = Moments(mean, deviations, larger(_size(feature), student))
        return Answer(stage3, stage4, feature, logits, decoder_input)

    def decode(
        self, decoder_input: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n cf h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        return self.network.decode(decoder_input)

    def fusion(self) -> Fusion | None:
        """Return the end of a SegFormer's head, and None of others."""
        return self.network.fusion() if isinstance(self.network, PyramidNetwork) else None


def _answer_by_levels(network: PyramidNetwork, stages: list[Tensor], student: Size) -> Answer:
    """Return the answer from one level of the head after the other.

    Each goes through its own part of the fusion at its own stride, and only then is resized.
    """
    size = _size(stages[0])
    fusion = network.fusion()
    parts = fusion.weight.chunk(len(stages), dim=1)
    found: list[Moments] = []
    fused: Tensor | None = None
    for level, part in zip(network.levels(stages), parts, strict=True):
        found.append(moments(level, larger(size, student)))
        bias = fusion.bias if fused is None else None  # which a resize keeps
        narrow = F.conv2d(level, part[:, :, None, None], bias)
        wide = narrow if _size(narrow) == size else resize(narrow, size)
        fused = wide if fused is None else fused.add_(wide)
    assert fused is not None
    feature = F.relu_(fused)
    mean, deviations = (torch.cat(parts, dim=1) for parts in list(zip(*found, strict=True))[:2])
    _, stage3, stage4 = network.shown(stages)
    decoder_input = Moments(mean, deviations, found[0].size)
    return Answer(stage3, stage4, feature, fusion.classifier(feature), decoder_input)


def _size(x: Float[Tensor, "n c h w"]) -> Size:
    return x.shape[2], x.shape[3]


class ForeignTeacher(nn.Module):
    """Any segmentation network of another package: two of its stages, and its logits.

    ``stage3`` and ``stage4`` name submodules (as in ``named_modules``) whose outputs have stride 16
    and 32. ``network(images)`` returns logits, or an output from which ``logits`` selects them. The
    decoder cannot be shared: the recipe needs ``alignment.decoder=0`` and
    ``alignment.shared_head=false``. Raises :class:`SctnetError` for a name that is not a submodule.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str],
        *,
        stage3: str,
        stage4: str,
        logits: Callable[[Any], Tensor] = lambda output: output,
    ) -> None:
        super().__init__()
        self.network = network
        self.classes = tuple(classes)
        self._logits = logits
        self._seen: dict[str, Tensor] = {}
        modules = dict(network.named_modules())
        for stage, name in (("stage3", stage3), ("stage4", stage4)):
            if name not in modules:
                raise SctnetError(
                    f"{stage}: the teacher has no submodule {name!r}; choose one of those that "
                    "named_modules() lists"
                )
            modules[name].register_forward_hook(self._remember(stage, name))
        self.widths = self._measured_widths()

    def encode(
        self,
        images: Float[Tensor, "n 3 h w"],
        student: Size,  # noqa: ARG002
    ) -> tuple[Tensor, ...]:
        """Return the two stages and the logits."""
        logits = self._logits(self.network(images))
        return self._seen.pop("stage3"), self._seen.pop("stage4"), logits

    def answer(self, encoded: tuple[Tensor, ...], student: Size) -> Answer:  # noqa: ARG002
        """Return the two stages and the logits."""
        stage3, stage4, logits = encoded
        return Answer(stage3, stage4, None, logits, None)

    def decode(self, decoder_input: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Raise :class:`SctnetError`: there is no decoder to share."""
        raise SctnetError(
            "alignment.shared_head: this teacher shares no decoder; set alignment.decoder=0 and "
            "alignment.shared_head=false"
        )

    def fusion(self) -> None:
        """Return None: there is no head to share."""

    def _remember(self, stage: str, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or output.ndim != 4:
                raise SctnetError(f"{stage}: {name} gives no map (N x C x H x W); name another")
            self._seen[stage] = output

        return hook

    def _measured_widths(self) -> Widths:
        learning = self.network.training
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        with torch.no_grad():
            self.network.eval()
            images = torch.zeros(1, 3, 64, 64, device=device)
            stage3, stage4, logits = self.encode(images, (0, 0))
            self.network.train(learning)
        if logits.shape[1] != len(self.classes):
            raise SctnetError(
                f"classes: {len(self.classes)} names for a teacher with {logits.shape[1]} classes"
            )
        return Widths(stage3.shape[1], stage4.shape[1], None, None)


def load_teacher(folder: str | os.PathLike[str]) -> NetworkTeacher:
    """Return the teacher of a model folder, a bundled name or a hub id, in eval mode.

    The folder is one of this package, or one of transformers with its classes in ``id2label``.
    Raises :class:`SctnetError` as :func:`load_model` and :func:`load_transformers_model` do.
    """
    if str(folder).endswith(CHECKPOINTS) and Path(folder).is_file():
        raise SctnetError(
            f"{folder}: a checkpoint cannot teach as it is; convert it to a folder: "
            f"sctnet convert {folder} FOLDER --teacher --classes ..."
        )
    path = find_model(folder)
    network: SegmentationNetwork
    if is_transformers_folder(path):
        network, classes = load_transformers_model(path)
    else:
        network, classes = load_model(path), load_config(path).classes
    in_layout: SegmentationNetwork = network.to(  # type: ignore[call-overload]
        memory_format=torch.channels_last  # as the student's
    )
    return NetworkTeacher(in_layout, classes).eval()
