"""The networks of the package transformers, with their published sizes."""

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from sctnet.models.network import NetworkConfig

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
UPERNET_HEAD: dict[str, Size] = {
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
    "upernet-swin-tiny": {**UPERNET_HEAD, **_SWIN},
    "upernet-swin-small": {**UPERNET_HEAD, **_SWIN, "depths": _DEEP},
    "upernet-swin-base": {**UPERNET_HEAD, **_SWIN, **_SWIN_BASE},
    "upernet-swin-large": {**UPERNET_HEAD, **_SWIN, **_SWIN_LARGE},
    "upernet-convnext-tiny": {**UPERNET_HEAD, **_CONVNEXT},
    "upernet-convnext-small": {**UPERNET_HEAD, **_CONVNEXT, "depths": (3, 3, 27, 3)},
    "upernet-convnext-base": {**UPERNET_HEAD, **_CONVNEXT, **_CONVNEXT_BASE},
}
_SIZES = {**SEGFORMER_SIZES, **UPERNET_SIZES}


class TransformersConfig(NetworkConfig):
    """A network of transformers, and its differences from the variant's published sizes."""

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
        """The backbone's name in transformers: ``segformer``, ``swin`` or ``convnext``."""
        return "segformer" if self.variant in SEGFORMER_SIZES else self.variant.split("-")[1]

    @property
    def backbone_sizes(self) -> dict[str, Size]:
        """The fields that decide what the backbone computes."""
        fields = {"segformer": _SEGFORMER, "swin": _SWIN, "convnext": _CONVNEXT}[self.backbone]
        return {name: self.sizes[name] for name in fields if name != "decoder_hidden_size"}
