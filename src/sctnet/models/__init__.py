"""The networks. Read ``sctnet.py`` first: it is Figure 3 from top to bottom."""

from typing import Any

from sctnet.models.configuration import VARIANTS, SCTNetConfig, model_configuration
from sctnet.models.sctnet import Features, SCTNet

__all__ = ["VARIANTS", "Features", "SCTNet", "SCTNetConfig", "create_model", "model_configuration"]


def create_model(variant: str, num_classes: int, **options: Any) -> SCTNet:
    """Return a freshly initialised network in training mode.

    ``variant`` is ``"sctnet-s"``, ``"sctnet-b"``, ``"sctnet-l"`` or ``"sctnet-tiny"``; ``options``
    are the further fields of :class:`SCTNetConfig`, for example ``attention_kernel="7x7"`` or
    ``stage3_block="residual"``. Weights are drawn from PyTorch's global generator. Raises
    :class:`SctnetError` for an unknown variant, option or value.
    """
    return SCTNet(model_configuration(variant, num_classes, **options))
