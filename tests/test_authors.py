"""Networks of other authors: computed as in their code, and read from their checkpoints.

``tests/reference/README.md`` tells how the arrays were made.
"""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_weights import fill, normals
from torch import Tensor
from typer.testing import CliRunner

from sctnet.checkpoints.authors_checkpoint import convert_authors_checkpoint
from sctnet.checkpoints.authors_names import AUTHORS_NAMES
from sctnet.checkpoints.initialisation import start
from sctnet.checkpoints.model_folder import load_model
from sctnet.cli import app
from sctnet.errors import SctnetError
from sctnet.models import create_model

REFERENCE = Path(__file__).parent / "reference"
CLASSES = [f"name {index}" for index in range(19)]
COUNTER = ".num_batches_tracked"
each_variant = pytest.mark.parametrize(
    "variant", ["seaformer-b", "topformer-b", "rtformer-s", "rtformer-b", "afformer-b"]
)


def arrays(variant: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCE / f"{variant}.npz") as file:
        return dict(file)


def checkpoint(variant: str, keys: list[str]) -> dict[str, Tensor]:
    """Return a state dict under the authors' names, filled by the rule."""
    with torch.device("meta"):
        network = create_model(variant, len(CLASSES))
    names = AUTHORS_NAMES[type(network)]
    shapes = {names.theirs(key): tensor.shape for key, tensor in network.state_dict().items()}
    content = {}
    for key in keys:
        first = names.original(key)
        if first in shapes:
            # Paddle has names of its own for the statistics; the rule has PyTorch's.
            rule = first.replace("._mean", ".running_mean").replace("._variance", ".running_var")
            content[key] = torch.from_numpy(np.asarray(fill(rule, shapes[first])))
    return content


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return what writes the checkpoint of a variant, once, as the authors' code would."""
    folder = tmp_path_factory.mktemp("authors")

    def write(variant: str) -> Path:
        file = folder / f"{variant}.pth"
        if not file.exists():
            content = checkpoint(variant, arrays(variant)["keys"].tolist())
            torch.save({"state_dict": content, "meta": {"iter": 160_000}}, file)
        return file

    return write


@each_variant
def test_converted_checkpoints_compute_as_the_authors_code(
    variant: str, written: Callable[[str], Path], tmp_path: Path
) -> None:
    expected = arrays(variant)
    report = convert_authors_checkpoint(written(variant), tmp_path / "m", variant, CLASSES)
    of_the_code = set(expected.pop("keys").tolist())
    assert len(report.used) + len(report.ignored) == len(torch.load(written(variant))["state_dict"])
    assert set(report.used) <= of_the_code
    assert report.missing == ()
    assert (report.variant, report.num_classes, report.backbone_only) == (variant, 19, False)
    network = load_model(tmp_path / "m").double()
    size = (97, 131)  # multiples of no stride
    images = torch.from_numpy(normals("input", 3 * size[0] * size[1]).reshape(1, 3, *size))
    with torch.no_grad():
        features = network.features(images)
    for name, array in expected.items():
        found = getattr(features, name)
        found = found[0] if isinstance(found, tuple) else found
        # Eight channels from the first to the last of each map, every pixel.
        found = found[:, np.unique(np.linspace(0, found.shape[1] - 1, 8).astype(int))]
        atol = TOLERANCE * abs(array).max()
        torch.testing.assert_close(found, torch.from_numpy(array), rtol=0, atol=atol)


TOLERANCE = 1e-11
"""Of the largest value: float64 in both, but Paddle adds its norms' epsilon as a float32."""


@each_variant
def test_every_key_of_the_authors_has_a_place(variant: str) -> None:
    keys = set(arrays(variant)["keys"].tolist())
    with torch.device("meta"):
        network = create_model(variant, len(CLASSES))
    names = AUTHORS_NAMES[type(network)]
    ours = {names.theirs(key) for key in network.state_dict()}
    # Paddle counts no batches.
    assert {key for key in ours - keys if not key.endswith(COUNTER)} == set()
    beside = {key for key in keys - ours if names.original(key) not in ours}
    assert all(key.startswith("decode_head.align.") for key in beside)
    assert bool(beside) == (variant == "afformer-b")


@pytest.mark.parametrize("variant", ["seaformer-b", "topformer-b", "rtformer-s", "afformer-b"])
def test_a_backbone_starts_a_training(
    variant: str, written: Callable[[str], Path], tmp_path: Path
) -> None:
    """As the authors' classifiers are saved: bare names, no head."""
    content = torch.load(written(variant))["state_dict"]
    heads = ("decode_head.", "backbone.SIM.", "seghead", "spp.")
    bare = {
        key.removeprefix("backbone."): value
        for key, value in content.items()
        if not key.startswith(heads)
    }
    if variant == "seaformer-b":
        bare["linear.weight"] = torch.zeros(1000, 256)
    file = tmp_path / "imagenet.pth"
    torch.save({"state_dict_ema": bare, "state_dict": {}}, file)
    network = create_model(variant, 5)
    report = start(network, str(file), ["a", "b", "c", "d", "e"])
    parts = {key.split(".")[0] for key in report.new}
    assert parts == set(dict(network.named_children())) - set(network.backbone_parts)
    report = convert_authors_checkpoint(file, tmp_path / "start", variant)
    assert report.backbone_only
    again = create_model(variant, 5)
    start(again, str(tmp_path / "start"), ["a", "b", "c", "d", "e"])
    for part in network.backbone_parts:
        for one, other in zip(
            network.get_submodule(part).state_dict().values(),
            again.get_submodule(part).state_dict().values(),
            strict=True,
        ):
            assert torch.equal(one, other)


def test_a_file_of_paddle_is_read_without_running_it(
    written: Callable[[str], Path], tmp_path: Path
) -> None:
    content = torch.load(written("rtformer-s"))["state_dict"]
    arrays = {key: value.numpy() for key, value in content.items()}
    file = tmp_path / "model.pdparams"
    file.write_bytes(pickle.dumps({**arrays, "StructuredToParameterName@@": {"a": "b"}}, 4))
    convert_authors_checkpoint(file, tmp_path / "m", "rtformer-s")
    convert_authors_checkpoint(written("rtformer-s"), tmp_path / "n", "rtformer-s")
    one, other = (tmp_path / name / "model.safetensors" for name in "mn")
    assert one.read_bytes() == other.read_bytes()
    assert start(create_model("rtformer-s", 19), str(file), CLASSES).loaded > 200
    file.write_bytes(pickle.dumps({"a": Path("elsewhere")}, 4))
    with pytest.raises(
        SctnetError, match=r"arrays alone \(it asks for pathlib\..*download or copy"
    ):
        convert_authors_checkpoint(file, tmp_path / "o", "rtformer-s")
    file.write_bytes(pickle.dumps({"a": "text"}, 4))
    with pytest.raises(SctnetError, match="a is not an array of numbers"):
        convert_authors_checkpoint(file, tmp_path / "o", "rtformer-s")


def test_a_whole_network_starts_one_of_other_classes(written: Callable[[str], Path]) -> None:
    network = create_model("seaformer-b", 5)
    report = start(network, str(written("seaformer-b")), ["a", "b", "c", "d", "e"])
    assert report.new == ("head.classifier.weight", "head.classifier.bias")
    without = create_model("rtformer-s", 5, auxiliary_head=False)
    assert start(without, str(written("rtformer-s")), list("abcde")).new[0].startswith("head.")


SCALE = "backbone.smb1.stem_block.0.c.weight"
SHARED = "backbone.mhca_stages.1.mhca_blks.0.MHCA_layers.0.cpe.proj.bias"


@pytest.mark.parametrize(
    ("variant", "change", "message"),
    [
        ("seaformer-b", {SCALE: None}, f"lacks 1 tensors of seaformer-b, the first is {SCALE}"),
        ("seaformer-b", {SCALE: torch.zeros(8, 3, 3, 3)}, r"has the shape \(8, 3, 3, 3\)"),
        ("seaformer-b", {SCALE: torch.full((16, 3, 3, 3), torch.nan)}, "holds NaN or infinity"),
        ("seaformer-b", {"backbone.other": torch.zeros(1)}, "other is not a key of the authors'"),
        (
            "topformer-b",
            {"module.backbone.tpm.stem.0.c.weight": torch.zeros(1)},
            "with and without",
        ),
        ("afformer-b", {SHARED: torch.zeros(96)}, "are one tensor of afformer-b, but differ"),
    ],
)
def test_what_does_not_fit_is_refused(
    variant: str,
    change: dict[str, Tensor | None],
    message: str,
    written: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    content = {**torch.load(written(variant))["state_dict"], **change}
    kept = {key: value for key, value in content.items() if value is not None}
    torch.save(kept, tmp_path / "broken.pth")
    with pytest.raises(SctnetError, match=message):
        convert_authors_checkpoint(tmp_path / "broken.pth", tmp_path / "m", variant)
    assert not (tmp_path / "m").exists()


def test_the_command_converts(written: Callable[[str], Path], tmp_path: Path) -> None:
    arguments = ["convert", str(written("afformer-b")), str(tmp_path / "m")]
    found = CliRunner().invoke(app, [*arguments, "--variant", "afformer-b"])
    assert found.exit_code == 0, found.output
    assert "afformer-b, segmentation network with 19 classes" in found.output
    assert "ignored: repetitions" in found.output
    with pytest.raises(SctnetError, match="5 class names given, the file has 19"):
        convert_authors_checkpoint(
            written("afformer-b"), tmp_path / "n", "afformer-b", list("abcde")
        )
    with pytest.raises(SctnetError, match="not a key of the authors' topformer-b"):
        convert_authors_checkpoint(written("seaformer-b"), tmp_path / "n", "topformer-b")
