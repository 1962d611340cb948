"""The classifier in which a backbone is pre-trained on ImageNet."""

from jaxtyping import Float
from torch import Tensor, nn

from sctnet.errors import SctnetError
from sctnet.models.network import SegmentationNetwork


class Classifier(nn.Module):
    """The backbone of a network, global average pooling of its stage 4, a norm and a linear layer.

    The paper pre-trains its backbones in a classifier (Table 7), but neither paper nor released
    code shows the head. This head is ConvNeXt's: pooling, layer norm, linear.
    ``classifier(images)`` maps normalised RGB images to logits. All parts of ``network`` but the
    backbone are removed. Raises :class:`SctnetError` for a network that cannot classify.
    """

    def __init__(self, network: SegmentationNetwork, num_classes: int) -> None:
        super().__init__()
        if not network.can_classify:
            raise SctnetError(
                f"model.variant: {network.config.variant} cannot be trained as a classifier; "
                "choose an SCTNet, such as sctnet-s"
            )
        network.drop_all_but_backbone()
        self.network = network
        width = network.widths.stage4
        assert width is not None  # of teachers that show no stages alone
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.linear = nn.Linear(width, num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def pooled(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Return the input of the linear layer."""
        # Over all pixels of a picture; in float32, whatever the backbone computed in.
        pooled: Tensor = self.norm(self.network.encode(images).float().mean((2, 3)))
        return pooled

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        """Map normalised RGB images to logits."""
        logits: Tensor = self.linear(self.pooled(images))
        return logits

    def backbone_modules(self) -> tuple[nn.Module, ...]:
        """Return the modules that learn at the base rate."""
        return tuple(self.network.get_submodule(part) for part in self.network.backbone_parts)
