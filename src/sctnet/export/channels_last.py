"""The attention's normalisation for runtimes with the channels-last layout."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sctnet.models.cfblock import GroupedDoubleNormalisation


class ChannelsLastNormalisation(nn.Module):
    """What :class:`~sctnet.models.cfblock.GroupedDoubleNormalisation` computes, up to rounding.

    A softmax over H x W and a sum over the maps of a group would bring the maps into planes and
    back: in OpenVINO that took a twentieth of all the time. Here each step leaves them where they
    are; the sum is a 1x1 convolution with ones where two maps belong to one group.
    """

    def __init__(self, original: GroupedDoubleNormalisation) -> None:
        super().__init__()
        size = original.kernels // original.groups
        together = torch.kron(torch.eye(original.groups), torch.ones(size, size))
        self.same_group: Tensor
        self.register_buffer("same_group", together[:, :, None, None], persistent=False)
        self.norm = original.norm

    def forward(self, similarity: Float[Tensor, "n k h w"]) -> Float[Tensor, "n k h w"]:
        """Normalise similarity maps twice, in float32."""
        maps = similarity.float()
        weights = (maps - maps.amax((2, 3), keepdim=True)).exp()
        attention = weights / weights.sum((2, 3), keepdim=True)
        same_group = self.same_group.float()
        if self.norm == "l1":
            # As its bias: what quantises a model takes any number behind a convolution for that.
            total = F.conv2d(attention, same_group, same_group.new_full((len(same_group),), 1e-6))
        else:
            total = F.conv2d(attention * attention, same_group).sqrt() + 1e-6
        return (attention / total).to(similarity.dtype)


def normalise_channels_last(network: nn.Module) -> None:
    """Replace the normalisation in a network before its export."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, GroupedDoubleNormalisation):
                setattr(module, name, ChannelsLastNormalisation(child))
