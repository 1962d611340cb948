"""Networks of the package transformers (the only file that imports it) that teach and learn.

SegFormer with its original head, and UPerNet (Xiao et al. 2018) on Swin (Liu et al. 2021) or
ConvNeXt (Liu et al. 2022). Nothing is fetched: sizes are the published ones, below. Images are
normalised as SCTNet's, by ImageNet's mean and std, as all of these were trained.
"""

import contextlib
import importlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from sctnet.errors import SctnetError
from sctnet.models.layers import resize
from sctnet.models.network import Features, NetworkConfig, SegmentationNetwork, Widths

SMALLEST_SIDE = 32
STAGES = ("stage1", "stage2", "stage3", "stage4")

_Count = Annotated[int, Field(ge=0, le=4096)]
Size = bool | _Count | float | Annotated[tuple[_Count, ...], Field(max_length=8)]

_NARROW, _WIDE = (32, 64, 160, 256), (64, 128, 320, 512)
_SEGFORMER: dict[str, Size] = {
    "hidden_sizes": _NARROW,
    "depths": (2, 2, 2, 2),
    "num_attention_heads": (1, 2, 5, 8),
    "sr_ratios": (8, 4, 2, 1),
    "mlp_ratios": (4, 4, 4, 4),
    "decoder_hidden_size": 256,
    "drop_path_rate": 0.1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout_prob": 0.1,
}
_SWIN: dict[str, Size] = {
    "embed_dim": 96,
    "depths": (2, 2, 6, 2),
    "num_heads": (3, 6, 12, 24),
    "window_size": 7,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "layer_norm_eps": 1e-5,
    "drop_path_rate": 0.1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_CONVNEXT: dict[str, Size] = {
    "hidden_sizes": (96, 192, 384, 768),
    "depths": (3, 3, 9, 3),
    "layer_scale_init_value": 1e-6,
    "layer_norm_eps": 1e-12,
    "drop_path_rate": 0.1,
}
_UPERNET: dict[str, Size] = {
    "hidden_size": 512,
    "pool_scales": (1, 2, 3, 6),
    "use_auxiliary_head": True,
    "auxiliary_channels": 256,
    "auxiliary_num_convs": 1,
    "auxiliary_concat_input": False,
}
_DEEP = (2, 2, 18, 2)
_SWIN_BASE: dict[str, Size] = {
    "embed_dim": 128,
    "depths": _DEEP,
    "num_heads": (4, 8, 16, 32),
    "window_size": 12,
}
_SWIN_LARGE: dict[str, Size] = {
    "embed_dim": 192,
    "depths": _DEEP,
    "num_heads": (6, 12, 24, 48),
    "window_size": 12,
}
_CONVNEXT_BASE: dict[str, Size] = {"hidden_sizes": (128, 256, 512, 1024), "depths": (3, 3, 27, 3)}

SEGFORMER_SIZES: dict[str, dict[str, Size]] = {
    "segformer-b0-hf": _SEGFORMER,
    "segformer-b1-hf": {**_SEGFORMER, "hidden_sizes": _WIDE},
    **{
        f"segformer-{name}-hf": {
            **_SEGFORMER,
            "hidden_sizes": _WIDE,
            "depths": depths,
            "decoder_hidden_size": 768,
        }
        for name, depths in (
            ("b2", (3, 4, 6, 3)),
            ("b3", (3, 4, 18, 3)),
            ("b4", (3, 8, 27, 3)),
            ("b5", (3, 6, 40, 3)),
        )
    },
}
UPERNET_SIZES: dict[str, dict[str, Size]] = {
    "upernet-swin-tiny": {**_UPERNET, **_SWIN},
    "upernet-swin-small": {**_UPERNET, **_SWIN, "depths": _DEEP},
    "upernet-swin-base": {**_UPERNET, **_SWIN, **_SWIN_BASE},
    "upernet-swin-large": {**_UPERNET, **_SWIN, **_SWIN_LARGE},
    "upernet-convnext-tiny": {**_UPERNET, **_CONVNEXT},
    "upernet-convnext-small": {**_UPERNET, **_CONVNEXT, "depths": (3, 3, 27, 3)},
    "upernet-convnext-base": {**_UPERNET, **_CONVNEXT, **_CONVNEXT_BASE},
}
_SIZES = {**SEGFORMER_SIZES, **UPERNET_SIZES}


class TransformersConfig(NetworkConfig):
    """Which network of transformers, and what differs from the variant's published sizes."""

    architecture: dict[str, Size] = Field(
        default={}, description="fields of transformers' own configuration, by their names there"
    )

    @field_validator("variant")
    @classmethod
    def _variant_is_known(cls, variant: str) -> str:
        if variant not in _SIZES:
            raise ValueError(f"no network of transformers here is called {variant}")
        return variant

    @model_validator(mode="after")
    def _architecture_is_of_this_family(self) -> "TransformersConfig":
        published = _SIZES[self.variant]
        for name, size in self.architecture.items():
            if name not in published:
                raise ValueError(f"{name} is none of architecture's {', '.join(published)}")
            wanted = published[name]
            if isinstance(wanted, tuple) and not (
                isinstance(size, tuple) and (len(size) == len(wanted) or name == "pool_scales")
            ):
                raise ValueError(f"architecture.{name}: give {len(wanted)} whole numbers")
        return self

    @property
    def sizes(self) -> dict[str, Size]:
        """All fields of transformers' configuration that this network is built from."""
        return {**_SIZES[self.variant], **self.architecture}

    @property
    def backbone(self) -> str:
        """What transformers calls the backbone: ``segformer``, ``swin`` or ``convnext``."""
        return "segformer" if self.variant in SEGFORMER_SIZES else self.variant.split("-")[1]

    @property
    def backbone_sizes(self) -> dict[str, Size]:
        """The fields that decide what the backbone computes."""
        fields = {"segformer": _SEGFORMER, "swin": _SWIN, "convnext": _CONVNEXT}[self.backbone]
        return {name: self.sizes[name] for name in fields if name != "decoder_hidden_size"}


class TransformersNetwork(SegmentationNetwork):
    """A segmentation network of transformers, whole, as ``network``.

    ``model(images)`` returns logits at the size of the images, ``model.features(images)`` what a
    student learns from: stages of strides 8, 16 and 32, and the head in two halves. Images have at
    least 32 x 32 pixels. Raises :class:`SctnetError` where transformers is missing or cannot build
    such sizes.
    """

    config: TransformersConfig

    def __init__(self, config: TransformersConfig) -> None:
        super().__init__()
        self.config = config
        self.network = _built(config)

    @property
    def auxiliary_head(self) -> nn.Module | None:
        """The head that helps in training, where there is one."""
        return getattr(self.network, "auxiliary_head", None)

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        """Return all features; raises :class:`SctnetError` for images below 32 x 32."""
        height, width = images.shape[2:]
        if min(height, width) < SMALLEST_SIDE:
            raise SctnetError(
                f"{self.config.variant} cannot see {height} x {width} pixels: give it images or "
                f"crops (augmentation.crop) of {SMALLEST_SIDE} x {SMALLEST_SIDE} or more"
            )
        stages = self._stages(images)
        decoder_input = self._concatenated(stages)
        decoder_feature, logits = self.decode(decoder_input)
        helps = self.training and self.auxiliary_head is not None
        auxiliary = self.network.auxiliary_head(stages) if helps else None
        _, second, third, fourth = stages
        return Features(second, third, fourth, decoder_input, decoder_feature, logits, auxiliary)

    @abstractmethod
    def _stages(self, images: Tensor) -> list[Tensor]:
        """Return the maps of strides 4, 8, 16 and 32."""

    @abstractmethod
    def _concatenated(self, stages: list[Tensor]) -> Tensor:
        """Return what the head's fusing convolution reads."""


class TransformersSegFormer(TransformersNetwork):
    """SegFormer as its authors and Hugging Face have it: stage 4 comes first in the head."""

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

    def _concatenated(self, stages: list[Tensor]) -> Tensor:
        size = (stages[0].shape[2], stages[0].shape[3])
        projected = []
        for project, stage in zip(self.network.decode_head.linear_projections, stages, strict=True):
            pixels = project(stage)  # n x (h w) x d
            projected.append(resize(pixels.transpose(1, 2).unflatten(2, stage.shape[2:]), size))
        return torch.cat(projected[::-1], dim=1)


class TransformersUPerNet(TransformersNetwork):
    """A pyramid of pooled and of finer features over Swin or ConvNeXt."""

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
    """Where the tensors of a published file belong."""

    tensors: dict[str, Tensor]
    """By the names of our network."""
    misfits: dict[str, tuple[int, ...]]
    """Of another shape: our names, and the shapes in the file."""
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
    with _quiet():
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
    transformers = _transformers()
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
        head = {name: sizes[name] for name in _UPERNET}
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


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise SctnetError(
            'Networks of transformers need that package: pip install "sctnet[teachers]"'
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting on keys and progress, which is done here."""
    logging = _transformers().utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
