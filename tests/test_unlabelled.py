"""Distillation: from a teacher and pictures without labels to a student, and what is refused."""

import cv2
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import sctnet
from sctnet.checkpoints.model_folder import load_config, save_model
from sctnet.data.augmentation import Sample
from sctnet.data.dataset import IGNORE
from sctnet.data.registry import open_dataset
from sctnet.data.unlabelled import UnlabelledPictures
from sctnet.errors import SctnetError
from sctnet.training.distillation import hard_cross_entropy, soft_divergence, targets
from sctnet.training.recipe import LossRecipe, load_recipe
from sctnet.training.run_folder import RunFolder
from sctnet.unlabelled.distill import distill, rehearse
from sctnet.unlabelled.sources import gather_pictures

STREETS = open_dataset("synthetic", ["train"])
SETTINGS = [
    "model.variant=sctnet-tiny", "augmentation.crop=[32, 48]", "run.precision=fp32",
    "run.batch_size=2", "run.log_every=1", "run.checkpoint_every=2", "run.validate_every=4",
    "schedule.iterations=4", "schedule.warmup_iterations=0", "data.workers=0",
    "preparation.working_size={rule: shorter-side, pixels: 48}",
]  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Return a folder of a random network whose classes differ from picture to picture."""
    torch.manual_seed(0)
    network = sctnet.create_model("sctnet-tiny", len(STREETS.classes))
    with torch.no_grad():
        network.head.classifier.weight.mul_(300)
    folder = tmp_path_factory.mktemp("teacher")
    return save_model(network, folder, STREETS.classes, colours=STREETS.colours)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(8):
        image = cv2.resize(STREETS.image(number), (72, 48), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
    return folder


def test_a_run_leaves_a_model_and_a_comparison(teacher, pictures, tmp_path):
    told = []
    out = tmp_path / "run"
    folder = distill(teacher, pictures, out, settings=SETTINGS, explain=told.append)
    assert sctnet.Segmenter(out).classes == STREETS.classes
    compared = folder.summary()["distillation"]
    assert 0 <= compared["agreement_miou"] <= 1
    assert compared["teacher"]["parameters"] > 0
    assert compared["teacher"]["bytes"] == (teacher / "model.safetensors").stat().st_size
    assert compared["student"]["bytes"] == (out / "model.safetensors").stat().st_size
    assert (out / "sheet.jpg").stat().st_size > 1000
    card = (out / "README.md").read_text()
    assert "agrees with its teacher" in card
    assert str(teacher) in card
    held_back = open_dataset(out / "held_back.yaml", ["val"])
    taught = UnlabelledPictures(out / "pictures.txt", held_back.classes, None)
    assert (len(taught), len(held_back)) == (7, 1)
    (labels,) = sctnet.Segmenter(teacher).predict_labels([held_back.image(0)])
    assert np.array_equal(held_back.labels(0), labels)
    assert "7 pictures teach, 1 are held back to compare by" in told


def test_a_killed_run_continues_to_the_same_weights(teacher, pictures, tmp_path):
    whole = distill(teacher, pictures, tmp_path / "whole", settings=SETTINGS)

    def stop(record):
        if record.get("step") == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(teacher, pictures, tmp_path / "run", settings=SETTINGS, observe=stop)
    run = RunFolder(tmp_path / "run")
    assert not run.summary_file.exists()
    distill(teacher, pictures, run.path, resume=True)
    one, other = (load_file(each.path / "model.safetensors") for each in (whole, run))
    assert all(torch.equal(one[key], other[key]) for key in one)
    compared = [each.summary()["distillation"]["agreement_miou"] for each in (whole, run)]
    assert compared[0] == compared[1]
    with pytest.raises(SctnetError, match="begun with the teacher"):
        distill("sctnet-s-camvid", pictures, run.path, resume=True)
    with pytest.raises(SctnetError, match="holds a run already"):
        distill(teacher, pictures, run.path)


MAP = {"street": ["road", "lane marking"], "rest": "everything else"}


@pytest.fixture
def labelled(tmp_path):
    """Return the description of two labelled pictures of the mapped classes."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for number in range(2):
        image = cv2.resize(STREETS.image(20 + number), (72, 48))
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), image)
        mask = np.zeros((48, 72), np.uint8)
        mask[20:] = 1
        cv2.imwrite(str(tmp_path / "masks" / f"{number}.png"), mask)
    file = tmp_path / "labelled.yaml"
    described = {
        "images": {"train": "images"}, "masks": {"train": "masks"}, "classes": ["one", "other"],
    }  # fmt: skip
    file.write_text(yaml.safe_dump(described))
    return file


def test_labels_count_for_their_pictures_and_a_map_makes_the_classes(
    teacher, pictures, labelled, tmp_path
):
    segmenter = sctnet.Segmenter(teacher)
    seen = np.bincount(
        np.concatenate([segmenter(str(file)).labels.ravel() for file in pictures.glob("*.png")]),
        minlength=len(STREETS.classes),
    )
    first, second, third = (STREETS.classes[number] for number in np.argsort(-seen)[:3])
    rules = {"one": [first], "other": [second, third]}  # drops the others
    kept = [STREETS.classes.index(name) for name in (first, second, third)]
    sources = [str(pictures), str(tmp_path / "images" / "*.png")]
    told = []
    folder = distill(
        teacher, sources, tmp_path / "run", data=labelled, class_map=rules, settings=SETTINGS,
        explain=told.append,
    )  # fmt: skip
    assert load_config(folder.path).classes == ("one", "other")
    assert "2 pictures have labels, and count with these" in told
    recipe = load_recipe(folder.recipe_file)
    assert recipe.data.train == ("train",)
    assert recipe.alignment.map == {name: tuple(made) for name, made in rules.items()}
    held_back = open_dataset(folder.path / "held_back.yaml", ["val"])
    (plain,) = segmenter.predict_labels([held_back.image(0)])
    # Sums of probabilities decide, so a few pixels go to what two classes make together.
    assert ((held_back.labels(0) == IGNORE) == ~np.isin(plain, kept)).mean() > 0.8


def test_a_dry_run_writes_nothing(teacher, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    needs = rehearse(teacher, pictures, settings=SETTINGS)
    assert needs.seconds > 0
    assert not list(tmp_path.iterdir())


# What a teacher's logits ask for

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.3, 0.2, 0.1], [-1.0, 5.0, 0.0]]).T[None, :, None]


def test_a_pixel_weighs_as_much_as_its_class_is_preferred():
    told = targets(LOGITS, None, by_margin=True)
    likely = LOGITS.softmax(1).sort(1, descending=True).values[0, :, 0]
    torch.testing.assert_close(told.weights[0, 0], likely[0] - likely[1])
    assert told.labels.tolist() == [[[0, 0, 1]]]
    assert targets(LOGITS, None, by_margin=False).weights.tolist() == [[[1.0, 1.0, 1.0]]]


def test_a_pixel_of_a_dropped_class_weighs_nothing():
    rest = torch.tensor([-100.0, 100.0, 0.0])[None, None, None]
    weights = targets(LOGITS, rest, by_margin=False).weights[0, 0]
    known = LOGITS[0, :, 0, 2].exp().sum()
    expected = torch.tensor([1.0, 0.0, float(known / (known + 1))])
    torch.testing.assert_close(weights, expected)


def test_the_terms_are_those_of_their_formulas():
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 5, 4, 6), torch.randn(2, 5, 4, 6, requires_grad=True)
    weights = torch.rand(5)
    told = targets(teacher, None, by_margin=True)
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    each = (weights[:, None, None] * p * (p / q).log()).sum(1) * told.weights
    torch.testing.assert_close(soft_divergence(student, told, 3.0, weights), 9 * each.sum())
    own = -student.log_softmax(1).gather(1, told.labels[:, None])[:, 0]
    expected = (weights[told.labels] * own * told.weights).sum()
    torch.testing.assert_close(hard_cross_entropy(student, told, weights), expected)
    same = soft_divergence(teacher.requires_grad_(), told, 3.0)
    torch.testing.assert_close(same, torch.tensor(0.0), atol=1e-5, rtol=0)


def test_padding_and_labelled_crops_teach_as_they_should(teacher):
    """The teacher's labels do not count in padding, nor where somebody labelled the crop."""
    recipe = load_recipe(
        "synthetic/sctnet-tiny",
        [
            f"alignment={{teacher: {teacher}, logits: 0, decoder: 0, stage3: 0, stage4: 0, "
            "shared_head: false}",
            "distillation={}",
        ],
    )
    from sctnet.training.segmentation_task import SegmentationTask

    task = SegmentationTask(recipe, STREETS)
    student, _ = task.build(from_start=False)
    criterion = task.criterion(student.eval(), None).eval()
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    none = torch.full((1, 64, 64), IGNORE, dtype=torch.uint8)
    half = Sample(image, none, torch.tensor([[32, 64]]))
    assert int(criterion.count(half)) == 32 * 64
    losses = criterion(half, torch.tensor(1.0))
    assert losses["loss_main"] == 0
    changed = image.clone()
    changed[:, :, 40:] = 7  # padding, which is normalised to zeros
    again = criterion(Sample(changed, none, half.size), torch.tensor(1.0))
    assert losses["loss_hard"] == again["loss_hard"]
    one = none.clone()
    one[0, 0, 0] = 1
    given = criterion(Sample(image, one, half.size), torch.tensor(1.0))
    assert given["loss_hard"] == 0
    assert given["loss_main"] > 0
    assert given["loss_soft"] > 0
    assert LossRecipe().divide_by == "labelled"


# Where pictures come from


def test_a_hundred_thousand_pictures_are_a_list(tmp_path):
    import tracemalloc

    file = tmp_path / "pictures.txt"
    lines = [f"folder/of/pictures/with/a/long/name/{number:06d}.jpg" for number in range(100_000)]
    file.write_text("\n".join(lines))
    tracemalloc.start()
    pictures = UnlabelledPictures(file, ("a", "b"), None)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2 * file.stat().st_size
    assert len(pictures) == 100_000
    assert pictures.item_name(99_999) == lines[-1]
    assert pictures.path(0) == tmp_path / lines[0]


def test_sources_are_folders_globs_and_lists_each_picture_once(pictures, tmp_path):
    (tmp_path / "some.txt").write_text(f"{pictures}/3.png\n\n{pictures}/1.png\n")
    sources = [str(tmp_path / "some.txt"), f"{pictures}/[0-4].png", str(pictures)]
    found = gather_pictures(sources, tmp_path / "out", without=[pictures / "7.png"])
    assert [path.name for path in found.pictures] == [f"{n}.png" for n in (3, 1, 0, 2, 4, 5, 6)]
    assert found.remarks == ["1 pictures have labels, and count with these"]


def broken(folder):
    file = folder / "a.mp4"
    file.write_bytes(b"no video at all")
    return str(file)


def empty(folder):
    (folder / "empty").mkdir()
    return str(folder / "empty")


def empty_list(folder):
    (folder / "none.txt").write_text("\n")
    return str(folder / "none.txt")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (empty, "no pictures there"),
        (lambda folder: str(folder / "missing"), "no such file or folder"),
        (broken, "give a video file that plays"),
        (empty_list, "names no picture"),
        (lambda _: "rtsp://camera/1", "has no end"),
    ],
)
def test_a_source_that_gives_nothing_is_one_sentence(teacher, source, words, tmp_path):
    with pytest.raises(SctnetError, match=words) as caught:
        distill(teacher, source(tmp_path), tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"class_map": {"a": "no such class", "b": "everything else"}}, "has no class"),
        ({"class_map": {"a": "everything else"}}, "names one class"),
        ({"data": "synthetic", "class_map": MAP}, "has no class|has the classes"),
        ({"settings": ["distillation={soft: 0, hard: 0}"]}, "needs a teacher that labels"),
    ],
)
def test_a_mistake_is_one_sentence(teacher, pictures, options, words, tmp_path):
    with pytest.raises(SctnetError, match=words) as caught:
        distill(teacher, pictures, tmp_path / "run", **options)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_model_is_refused(pictures, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(SctnetError, match="not a model folder"):
        distill(tmp_path / "none", pictures, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_picture_broken_in_the_middle_is_reported_and_skipped(teacher, pictures, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes((pictures / f"{number}.png").read_bytes())
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[: len(whole) // 2])
    run = distill(teacher, folder, tmp_path / "run", settings=SETTINGS)
    assert run.summary()["skipped_pictures"] == [str(folder / "1.png")]
