"""The networks. Read ``sctnet.py`` first: it is Figure 3 from top to bottom."""

from typing import Any

from sctnet.models.network import Features, NetworkConfig, SegmentationNetwork, Widths
from sctnet.models.registry import build, model_configuration
from sctnet.models.sctnet import SCTNet
from sctnet.models.sctnet_configuration import VARIANTS, SCTNetConfig

__all__ = [
    "VARIANTS",
    "Features",
    "NetworkConfig",
    "SCTNet",
    "SCTNetConfig",
    "SegmentationNetwork",
    "Widths",
    "build",
    "create_model",
    "model_configuration",
]


def create_model(variant: str, num_classes: int, **options: Any) -> SegmentationNetwork:
    """Return a freshly initialised network in training mode.

    ``variant`` is ``"sctnet-s"``, ``"sctnet-b"``, ``"sctnet-l"``, ``"sctnet-tiny"``, or a teacher
    or another student of :data:`sctnet.models.registry.FAMILIES`;
    ``options`` are the further fields of its configuration, for SCTNet :class:`SCTNetConfig`, for
    example ``attention_kernel="7x7"`` or ``stage3_block="residual"``. Weights are drawn from
    PyTorch's global generator. Raises :class:`SctnetError` for an unknown variant, option or value.
    """
    return build(model_configuration(variant, num_classes, **options))
