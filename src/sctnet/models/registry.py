"""The registry of networks: builds configurations from names, and networks from configurations."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError

from sctnet.errors import SctnetError
from sctnet.models.afformer import AFFORMER_VARIANTS, AFFormer, AFFormerConfig
from sctnet.models.bisenet import BISENET_VARIANTS, BiSeNet, BiSeNetConfig
from sctnet.models.bisenetv2 import BISENETV2_VARIANTS, BiSeNetV2, BiSeNetV2Config
from sctnet.models.ddrnet import DDRNET_VARIANTS, DDRNet, DDRNetConfig
from sctnet.models.efficientnet import EFFICIENTNET_VARIANTS, EfficientNet, EfficientNetConfig
from sctnet.models.internimage import INTERNIMAGE_VARIANTS, InternImage, InternImageConfig
from sctnet.models.network import NetworkConfig, SegmentationNetwork
from sctnet.models.ocrnet import OCRNET_VARIANTS, OCRNet, OCRNetConfig
from sctnet.models.pidnet import PIDNET_VARIANTS, PIDNet, PIDNetConfig
from sctnet.models.rtformer import RTFORMER_VARIANTS, RTFormer, RTFormerConfig
from sctnet.models.sctnet import SCTNet
from sctnet.models.sctnet_configuration import VARIANTS, SCTNetConfig
from sctnet.models.seaformer import SEAFORMER_VARIANTS, SeaFormer, SeaFormerConfig
from sctnet.models.segformer import SEGFORMER_VARIANTS, SegFormer, SegFormerConfig
from sctnet.models.segnext import SEGNEXT_VARIANTS, SegNeXt, SegNeXtConfig
from sctnet.models.stdc import STDC, STDC_VARIANTS, STDCConfig
from sctnet.models.topformer import TOPFORMER_VARIANTS, TopFormer, TopFormerConfig
from sctnet.models.transformers_configuration import (
    SEGFORMER_SIZES,
    UPERNET_SIZES,
    TransformersConfig,
)
from sctnet.models.transformers_networks import TransformersSegFormer, TransformersUPerNet


class Family(NamedTuple):
    """Networks that differ in their configuration only."""

    network: type[Any]
    config: type[NetworkConfig]
    variants: Mapping[str, Mapping[str, Any]]


FAMILIES = (
    Family(SCTNet, SCTNetConfig, VARIANTS),
    Family(SegFormer, SegFormerConfig, SEGFORMER_VARIANTS),
    Family(EfficientNet, EfficientNetConfig, EFFICIENTNET_VARIANTS),
    Family(DDRNet, DDRNetConfig, DDRNET_VARIANTS),
    Family(SegNeXt, SegNeXtConfig, SEGNEXT_VARIANTS),
    Family(STDC, STDCConfig, STDC_VARIANTS),
    Family(PIDNet, PIDNetConfig, PIDNET_VARIANTS),
    Family(BiSeNet, BiSeNetConfig, BISENET_VARIANTS),
    Family(BiSeNetV2, BiSeNetV2Config, BISENETV2_VARIANTS),
    Family(OCRNet, OCRNetConfig, OCRNET_VARIANTS),
    Family(InternImage, InternImageConfig, INTERNIMAGE_VARIANTS),
    Family(SeaFormer, SeaFormerConfig, SEAFORMER_VARIANTS),
    Family(TopFormer, TopFormerConfig, TOPFORMER_VARIANTS),
    Family(RTFormer, RTFormerConfig, RTFORMER_VARIANTS),
    Family(AFFormer, AFFormerConfig, AFFORMER_VARIANTS),
    Family(TransformersSegFormer, TransformersConfig, {name: {} for name in SEGFORMER_SIZES}),
    Family(TransformersUPerNet, TransformersConfig, {name: {} for name in UPERNET_SIZES}),
)


def model_configuration(variant: str, num_classes: int, **options: Any) -> NetworkConfig:
    """Return the configuration of a named variant, with ``options`` in place of its defaults.

    An SCTNet may be named without its ``sctnet-``. Raises :class:`SctnetError` for an unknown
    variant, option or value.
    """
    name = f"sctnet-{variant}" if f"sctnet-{variant}" in VARIANTS else variant
    family = family_of(name)
    fields = {"variant": name, "num_classes": num_classes, **family.variants[name], **options}
    try:
        return family.config(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "options"
        known = ", ".join(family.config.model_fields)
        hint = f"; the options are {known}" if first["type"] == "extra_forbidden" else ""
        message = first["msg"].removeprefix("Value error, ")
        raise SctnetError(f"{name}: {key}: {message}{hint}") from error


def read_configuration(fields: Any) -> NetworkConfig:
    """Return the configuration in a model's config.json; ValueError for anything else."""
    if isinstance(fields, NetworkConfig):
        return fields
    if not isinstance(fields, Mapping) or not isinstance(fields.get("variant"), str):
        raise ValueError("a mapping with a variant is needed")
    try:
        family = family_of(fields["variant"])
    except SctnetError as error:
        raise ValueError(str(error)) from error
    return family.config.model_validate(fields)


def build(config: NetworkConfig) -> SegmentationNetwork:
    """Return a freshly initialised network, drawn from PyTorch's global generator."""
    network: SegmentationNetwork = family_of(config.variant).network(config)
    return network


def inference_configuration(variant: str, num_classes: int) -> NetworkConfig:
    """Return the configuration of a variant without its auxiliary head.

    Raises :class:`SctnetError` for an unknown variant.
    """
    config = model_configuration(variant, num_classes)
    if "auxiliary_head" in type(config).model_fields:
        config = config.model_copy(update={"auxiliary_head": False})
    if isinstance(config, TransformersConfig):
        architecture = {**config.architecture, "use_auxiliary_head": False}
        config = config.model_copy(update={"architecture": architecture})
    return config


def abstract_network(variant: str, num_classes: int) -> SegmentationNetwork:
    """Return a variant without its auxiliary head, on the meta device: shapes without values.

    Raises :class:`SctnetError` for an unknown variant and for one whose package is missing.
    """
    with torch.device("meta"):
        return build(inference_configuration(variant, num_classes)).eval()


def family_of(variant: str) -> Family:
    """Return the family of a variant; raises :class:`SctnetError` for an unknown one."""
    for family in FAMILIES:
        if variant in family.variants:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.variants)
    raise SctnetError(f"unknown variant {variant!r}: choose one of {known}")
