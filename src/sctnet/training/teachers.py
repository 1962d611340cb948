"""Teachers: the protocol that alignment needs, and the kinds of networks that follow it."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.checkpoints.class_map import ClassMap
from sctnet.checkpoints.model_folder import find_model, load_config, load_model
from sctnet.checkpoints.transformers_folder import (
    has_stages,
    is_transformers_folder,
    load_transformers_model,
)
from sctnet.checkpoints.transformers_model import TransformersModel
from sctnet.errors import SctnetError
from sctnet.models import SegmentationNetwork, Widths
from sctnet.models.layers import normalised_pixels, resize
from sctnet.models.pyramid import Fusion, PyramidNetwork
from sctnet.pipeline.preprocessing import PreprocessingConfig
from sctnet.training.shared_head import Moments, Size, larger, moments

_NO_DECODER = (
    "alignment.shared_head: this teacher shares no decoder; set alignment.decoder=0 and "
    "alignment.shared_head=false"
)
_AS_OURS = PreprocessingConfig()

CHECKPOINTS = (".pth", ".pt", ".bin")
"""Suffixes of PyTorch's files."""


class Answer(NamedTuple):
    """What a teacher says about a batch: all that alignment compares with or aligns to."""

    stage3: Float[Tensor, "n c3 h16 w16"] | None
    stage4: Float[Tensor, "n c4 h32 w32"] | None
    decoder_feature: Float[Tensor, "n cf h w"] | None
    logits: Float[Tensor, "n k h w"]
    decoder_input: Moments | None
    """At the teacher's size or, where that is larger, the student's."""
    dropped: Float[Tensor, "n 1 h w"] | None = None
    """Logits of all classes together that a map drops; None where it drops none."""


@runtime_checkable
class Teacher(Protocol):
    """A module (``torch.nn.Module``) that can teach.

    ``encode`` takes images normalised as the student's. It returns few values, which are worth
    keeping: ``answer`` makes of them all that alignment needs. The end of the teacher's decoder
    head maps a decoder input to a decoder feature and logits, and the student's own expanded
    feature goes through it too: by ``decode`` or, where ``fusion`` returns one, by that, which
    computes the same at a fraction of the cost. A teacher whose ``widths`` has None for the decoder
    teaches only with its stages and logits; with None for the stages too, by its logits alone.
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

    def decoder_input(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n ci ht wt"]:
        """Return the map that ``decode`` takes, of which the answer has the moments alone."""

    def fusion(self) -> Fusion | None:
        """Return ``decode`` as one linear map, a rectifier and a classifier, if it is that."""

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Say whether the parameters learn; every module has this."""

    def eval(self) -> Any:
        """Use running statistics and drop nothing; every module has this."""


class NetworkTeacher(nn.Module):
    """One of this package's networks that teaches; also another SCTNet.

    Of a network with a SegFormer's head it holds a copy with folded norms, which is faster and has
    the same features. Stages without a norm at their end are shown layer normalised, and so are
    other heads' decoder features, which are those before a norm: the terms' weights fit maps of
    unit scale, and on a larger one (a trained SCTNet-S's stage 4 deviates by 55) a softmax over the
    map sees single pixels and its term outweighs all others.
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
        stages = features.stage3, features.stage4
        if not self.network.normed_stages:
            stages = normalised_pixels(stages[0]), normalised_pixels(stages[1])
        encoded = *stages, features.logits
        if features.decoder_input is None or features.decoder_feature is None:
            return encoded
        size = larger(_size(features.decoder_input), student)
        mean, deviations, _ = moments(features.decoder_input, size)
        return *encoded, normalised_pixels(features.decoder_feature), mean, deviations

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
        feature, logits = self.network.decode(decoder_input)
        if isinstance(self.network, PyramidNetwork):
            return feature, logits
        return normalised_pixels(feature), logits

    def decoder_input(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n ci ht wt"]:
        """Return the map that ``decode`` takes."""
        found = self.network.features(images).decoder_input
        assert found is not None  # its width is known
        return found

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
        raise SctnetError(_NO_DECODER)

    def fusion(self) -> None:
        """Return None: there is no head to share."""

    def decoder_input(self, images: Tensor) -> Tensor:  # noqa: ARG002
        """Raise :class:`SctnetError`: there is no decoder to share."""
        raise SctnetError(_NO_DECODER)

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


class LogitsTeacher(nn.Module):
    """Any model that labels pictures: it prepares them itself, and teaches by its logits alone.

    ``ask`` maps RGB bytes (uint8, N x 3 x H x W) and a size (height, width) to logits of that size.
    It is asked for a quarter of the crop's height and width. ``preparation`` is how the student's
    images were normalised, which is undone here. ``identity`` changes with whatever ``ask`` hides.
    The recipe leaves out all terms but ``alignment.logits``, and the shared head.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        ask: Callable[[Tensor, Size], Tensor],
        classes: Sequence[str],
        preparation: PreprocessingConfig,
        identity: str = "",
    ) -> None:
        super().__init__()
        self.ask = ask
        self.classes = tuple(classes)
        self.widths = Widths(None, None, None, None)
        self._identity = identity
        self.register_buffer("mean", torch.tensor(preparation.mean)[:, None, None], False)
        self.register_buffer("std", torch.tensor(preparation.std)[:, None, None], False)

    def encode(
        self,
        images: Float[Tensor, "n 3 h w"],
        student: Size,  # noqa: ARG002
    ) -> tuple[Tensor, ...]:
        """Return the logits at stride 4."""
        # Crops are bytes before they are normalised: rounding gives these back.
        pixels = (images.float() * self.std + self.mean).round().clamp(0, 255).to(torch.uint8)
        size = -(-images.shape[2] // 4), -(-images.shape[3] // 4)
        return (self.ask(pixels, size),)

    def answer(self, encoded: tuple[Tensor, ...], student: Size) -> Answer:  # noqa: ARG002
        """Return the logits."""
        (logits,) = encoded
        return Answer(None, None, None, logits, None)

    def decode(self, decoder_input: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Raise :class:`SctnetError`: there is no decoder to share."""
        raise SctnetError(_NO_DECODER)

    def fusion(self) -> None:
        """Return None: there is no head to share."""

    def decoder_input(self, images: Tensor) -> Tensor:  # noqa: ARG002
        """Raise :class:`SctnetError`: there is no decoder to share."""
        raise SctnetError(_NO_DECODER)

    def extra_repr(self) -> str:
        """Return what tells this teacher from others, beside its tensors."""
        return self._identity


class MappedTeacher(nn.Module):
    """A teacher whose classes a map renames, merges and drops; its stages are those it had.

    What a student sends through the teacher's head comes out mapped, too.
    """

    def __init__(self, teacher: Teacher, class_map: ClassMap) -> None:
        super().__init__()
        self.teacher, self._map = teacher, class_map
        self.classes = class_map.classes
        self.widths = teacher.widths

    def encode(self, images: Float[Tensor, "n 3 h w"], student: Size) -> tuple[Tensor, ...]:
        """Return what the teacher returns; of logits alone, the mapped ones: they are fewer."""
        encoded = self.teacher.encode(images, student)
        if self.widths.stage3 is not None:
            return encoded
        rest = self._map.rest(encoded[0])
        mapped = self._map.scores(encoded[0])
        return (mapped if rest is None else torch.cat([mapped, rest], dim=1),)

    def answer(self, encoded: tuple[Tensor, ...], student: Size) -> Answer:
        """Return the answer with mapped logits."""
        if self.widths.stage3 is None:
            known = len(self.classes)
            logits, rest = encoded[0][:, :known], encoded[0][:, known:]
            return Answer(None, None, None, logits, None, rest if rest.shape[1] else None)
        answer = self.teacher.answer(encoded, student)
        return answer._replace(
            logits=self._map.scores(answer.logits), dropped=self._map.rest(answer.logits)
        )

    def decode(
        self, decoder_input: Float[Tensor, "n ci h w"]
    ) -> tuple[Float[Tensor, "n cf h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the mapped logits."""
        feature, logits = self.teacher.decode(decoder_input)
        return feature, self._map.scores(logits)

    def decoder_input(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n ci ht wt"]:
        """Return what the teacher returns."""
        return self.teacher.decoder_input(images)

    def fusion(self) -> Fusion | None:
        """Return the teacher's, with a classifier of the mapped classes."""
        fusion = self.teacher.fusion()
        if fusion is None:
            return None
        return fusion._replace(classifier=_Mapped(fusion.classifier, self._map))

    def extra_repr(self) -> str:
        """Return what tells this map from others."""
        return str(self._map)


class _Mapped(nn.Module):
    """A classifier behind a map of its classes."""

    def __init__(self, classifier: nn.Module, class_map: ClassMap) -> None:
        super().__init__()
        self._classifier, self._map = classifier, class_map

    def forward(self, feature: Tensor) -> Tensor:
        return self._map.scores(self._classifier(feature))


def load_teacher(
    folder: str | os.PathLike[str], preparation: PreprocessingConfig = _AS_OURS
) -> "NetworkTeacher | LogitsTeacher":
    """Return the teacher of a model folder, a bundled name or a hub id, in eval mode.

    The folder is one of this package, or one of transformers with its classes in ``id2label``.
    Of the latter, a SegFormer and a UPerNet on Swin or ConvNeXt show their stages; every other
    model that labels pixels teaches by its logits alone. ``preparation`` is that of the student.
    Raises :class:`SctnetError` as :func:`load_model`, :func:`load_transformers_model` and
    :class:`TransformersModel` do.
    """
    if str(folder).endswith(CHECKPOINTS) and Path(folder).is_file():
        raise SctnetError(
            f"{folder}: a checkpoint cannot teach as it is; convert it to a folder: "
            f"sctnet convert {folder} FOLDER --teacher --classes ..."
        )
    path = find_model(folder)
    teacher: NetworkTeacher | LogitsTeacher
    if is_transformers_folder(path) and not has_stages(path):
        model = TransformersModel(path)
        teacher = LogitsTeacher(model, model.classes, preparation)
    else:
        network: SegmentationNetwork
        if is_transformers_folder(path):
            network, classes = load_transformers_model(path)
        else:
            network, classes = load_model(path), load_config(path).classes
        in_layout: SegmentationNetwork = network.to(  # type: ignore[call-overload]
            memory_format=torch.channels_last  # as the student's
        )
        teacher = NetworkTeacher(in_layout, classes)
    return teacher.eval()
