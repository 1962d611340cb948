"""Networks of the package transformers (no other file imports it) that teach and learn.

SegFormer with its original head, and UPerNet (Xiao et al. 2018) on Swin (Liu et al. 2021) or
ConvNeXt (Liu et al. 2022). Nothing is fetched. Images are normalised as SCTNet's, by ImageNet's
mean and std, as all of these were trained.
"""

import contextlib
import importlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sctnet.errors import SctnetError
from sctnet.models.layers import resize
from sctnet.models.network import Features, SegmentationNetwork, Widths
from sctnet.models.pyramid import Fusion, PyramidNetwork, folded_fusion
from sctnet.models.segformer import refuse_small_images
from sctnet.models.transformers_configuration import UPERNET_HEAD, TransformersConfig

STAGES = ("stage1", "stage2", "stage3", "stage4")


class TransformersNetwork(SegmentationNetwork):
    """A segmentation network of transformers, whole, as ``network``.

    ``model(images)`` returns logits at the size of the images, ``model.features(images)`` what a
    student learns from: stages of strides 8, 16 and 32, and the head in two halves. Images have at
    least 32 x 32 pixels. Raises :class:`SctnetError` where transformers is missing or cannot build
    such sizes.
    """

    config: TransformersConfig
    normed_stages = True
    classifier_part = "network.decode_head.classifier"

    def __init__(self, config: TransformersConfig) -> None:
        super().__init__()
        self.config = config
        self.network = _built(config)

    @property
    def auxiliary_head(self) -> nn.Module | None:
        """The auxiliary head, which helps in training, if there is one."""
        return getattr(self.network, "auxiliary_head", None)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return all features; raises :class:`SctnetError` for images below 32 x 32."""
        stages = self.stage_maps(images)
        decoder_input = self._concatenated(stages)
        decoder_feature, logits = self.decode(decoder_input)
        helps = self.training and self.auxiliary_head is not None
        auxiliary = (self.network.auxiliary_head(stages),) if helps else ()
        _, second, third, fourth = stages
        return Features(second, third, fourth, decoder_input, decoder_feature, logits, auxiliary)

    def stage_maps(self, images: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Return all stages; raises :class:`SctnetError` for images below 32 x 32."""
        refuse_small_images(images, self.config.variant)
        return self._stages(images)

    @abstractmethod
    def _stages(self, images: Tensor) -> list[Tensor]:
        """Return the maps of strides 4, 8, 16 and 32."""

    @abstractmethod
    def _concatenated(self, stages: list[Tensor]) -> Tensor:
        """Return the input of the head's fusion convolution."""


class TransformersSegFormer(TransformersNetwork, PyramidNetwork):
    """SegFormer as its authors and Hugging Face have it: stage 4 comes first in the head."""

    logits_stride = 4
    backbone_parts = ("network.segformer",)

    def __init__(self, config: TransformersConfig) -> None:
        super().__init__(config)
        own = self.network.config
        _, _, third, fourth = own.hidden_sizes
        channels = own.decoder_hidden_size
        self.widths = Widths(third, fourth, len(STAGES) * channels, channels)

    def decode(
        self, decoder_input: Float[Tensor, "n d4 h w"]
    ) -> tuple[Float[Tensor, "n d h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        head = self.network.decode_head
        feature = head.activation(head.batch_norm(head.linear_fuse(decoder_input)))
        return feature, head.classifier(head.dropout(feature))

    def _stages(self, images: Tensor) -> list[Tensor]:
        return list(self.network.segformer(images, output_hidden_states=True).hidden_states)

    def levels(self, stages: list[Tensor]) -> Iterator[Tensor]:
        """Yield the head's projections, that of stage 4 first."""
        projections = self.network.decode_head.linear_projections
        for project, stage in zip(reversed(projections), reversed(stages), strict=True):
            pixels = project(stage)  # n x (h w) x d
            yield pixels.transpose(1, 2).unflatten(2, stage.shape[2:])

    def fusion(self) -> Fusion:
        """Return the end of the head."""
        head = self.network.decode_head
        return folded_fusion(head.linear_fuse, head.batch_norm, head.classifier)

    def _concatenated(self, stages: list[Tensor]) -> Tensor:
        size = (stages[0].shape[2], stages[0].shape[3])
        return torch.cat([resize(level, size) for level in self.levels(stages)], dim=1)


class TransformersUPerNet(TransformersNetwork):
    """A pyramid of pooled and of finer features over Swin or ConvNeXt."""

    logits_stride = 4
    context_parts = ("network.backbone.hidden_states_norms",)  # not in a classifier's file

    def __init__(self, config: TransformersConfig) -> None:
        super().__init__(config)
        backbone = self.network.backbone
        if config.backbone == "swin":
            # Classification alone reads it; here it would never learn.
            backbone.swin.layernorm = nn.Identity()
        parts = ("swin",) if config.backbone == "swin" else ("embeddings", "encoder")
        self.backbone_parts = tuple(f"network.backbone.{part}" for part in parts)
        _, _, third, fourth = backbone.channels
        channels = self.network.config.hidden_size
        self.widths = Widths(third, fourth, len(STAGES) * channels, channels)

    def decode(
        self, decoder_input: Float[Tensor, "n d4 h w"]
    ) -> tuple[Float[Tensor, "n d h w"], Float[Tensor, "n k h w"]]:
        """Return the decoder feature and the logits."""
        head = self.network.decode_head
        feature = head.fpn_bottleneck(decoder_input)
        return feature, head.classifier(feature)

    def _stages(self, images: Tensor) -> list[Tensor]:
        return list(self.network.backbone(images).feature_maps)

    def _concatenated(self, stages: list[Tensor]) -> Tensor:
        head = self.network.decode_head
        coarser = head.psp_forward(stages)
        pyramid = [coarser]
        for lateral, smooth, stage in zip(
            reversed(head.lateral_convs), reversed(head.fpn_convs), stages[-2::-1], strict=True
        ):
            coarser = lateral(stage) + resize(coarser, (stage.shape[2], stage.shape[3]))
            pyramid.insert(0, smooth(coarser))
        size = (pyramid[0].shape[2], pyramid[0].shape[3])
        return torch.cat([resize(level, size) for level in pyramid], dim=1)


class Placed(NamedTuple):
    """The places of a published file's tensors in a network."""

    tensors: dict[str, Tensor]
    """By the names of our network."""
    misfits: dict[str, tuple[int, ...]]
    """Tensors of another shape: this package's names, and the shapes in the file."""
    left_over: list[str]
    """The keys that have no place, by the names of the file's own kind."""


def placed(network: TransformersNetwork, tensors: Mapping[str, Tensor], model_type: str) -> Placed:
    """Find the place of every tensor of a file, whichever version of transformers named them.

    ``model_type`` is the file's, ``swin`` and ``convnext`` for a backbone alone; the network is
    not changed. Nothing is read from disk or from the net.
    """
    whole = model_type == network.network.config.model_type
    theirs, prefix = (
        (network.network, "network.") if whole else (network.network.backbone, "network.backbone.")
    )
    with quiet():
        loaded, report = type(theirs).from_pretrained(
            None,
            config=theirs.config,
            state_dict=dict(tensors),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )
    misfits = {f"{prefix}{key}": tuple(shape) for key, shape, _ in report["mismatched_keys"]}
    ours = network.state_dict()
    found = {
        f"{prefix}{key}": tensor
        for key, tensor in loaded.state_dict().items()
        if key not in report["missing_keys"]
    }
    found = {key: found[key] for key in found if key in ours and key not in misfits}
    return Placed(found, misfits, sorted(report["unexpected_keys"]))


def _built(config: TransformersConfig) -> Any:
    transformers = transformers_package()
    from huggingface_hub.errors import StrictDataclassError

    # transformers adds lists to lists, where a tuple would not do.
    sizes = {
        name: list(size) if isinstance(size, tuple) else size for name, size in config.sizes.items()
    }
    try:
        if config.backbone == "segformer":
            own = transformers.SegformerConfig(num_labels=config.num_classes, **sizes)
            return transformers.SegformerForSemanticSegmentation(own)
        kind = transformers.SwinConfig if config.backbone == "swin" else transformers.ConvNextConfig
        head = {name: sizes[name] for name in UPERNET_HEAD}
        backbone = {name: sizes[name] for name in config.backbone_sizes}
        own = transformers.UperNetConfig(
            backbone_config=kind(**backbone, out_features=list(STAGES)),
            num_labels=config.num_classes,
            **head,
        )
        return transformers.UperNetForSemanticSegmentation(own)
    except (StrictDataclassError, ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        raise SctnetError(
            f"{config.variant}: transformers cannot build this architecture ({reason}); "
            "correct model.options.architecture"
        ) from error


def transformers_package() -> Any:
    """Return the package; :class:`SctnetError` where it is missing."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise SctnetError(
            'Networks of transformers need that package: pip install "sctnet[teachers]"'
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' reports on keys and progress; this package reports them."""
    logging = transformers_package().utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
