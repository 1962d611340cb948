"""Offsets and scale chosen on labelled pictures: the search, the folder, the command, the run."""

import io
import json
import logging
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import street
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shared import CLASSES, decided_network, saved
from test_bulk import in_process  # noqa: F401 - a fixture
from test_cli import Program
from test_students import SMALL as SMALL_STUDENTS

import sctnet
from sctnet.checkpoints import model_folder
from sctnet.checkpoints.calibration import Calibration, with_section
from sctnet.checkpoints.model_folder import (
    ModelConfig,
    load_config,
    load_model,
    read_tensors,
    write_calibration,
)
from sctnet.data.dataset import IGNORE, SegmentationDataset
from sctnet.data.registry import open_dataset
from sctnet.data.views import RecordedPictures, SomePictures, picture_digest
from sctnet.errors import SctnetError
from sctnet.evaluation import offsets as search
from sctnet.evaluation.evaluator import evaluate
from sctnet.evaluation.offsets import (
    LARGEST,
    Objective,
    PixelSample,
    best_offsets,
    find_offsets,
    sample_pixels,
)
from sctnet.inference.calibration import Candidate, _choose, calibrate, undo
from sctnet.inference.scoring import score
from sctnet.inference.segmenter import Segmenter
from sctnet.pipeline.image_to_labels import ImageToLabels
from sctnet.pipeline.preprocessing import WorkingSize
from sctnet.serving.bulk.prediction import BulkOptions, predict_bulk
from sctnet.training.recipe import load_recipe
from sctnet.training.segmentation_task import SegmentationTask
from sctnet.training.trainer import train

SMALL = WorkingSize(rule="shorter-side", pixels=32)
BEFORE = (-0.5, 0.2, 0.6, -1.5, 0.3)


def drawn_sample(seed: int, pixels: int = 300, classes: int = 4, wrong=1.5) -> PixelSample:
    """Return pixels of six pictures whose logits know the truth, but for offsets of their own."""
    generator = np.random.default_rng(seed)
    shares = np.arange(1, classes + 1)
    truth = generator.choice(classes, pixels, p=shares / shares.sum())
    logits = generator.normal(0, 1, (classes, pixels))
    logits[truth, np.arange(pixels)] += 1.5
    logits += wrong * generator.normal(0, 1, (classes, 1))
    weight = generator.uniform(0.5, 3, pixels)
    picture = np.arange(pixels) * 6 // pixels
    return PixelSample(logits.astype(np.float32), truth.astype(np.int64), weight, picture)


class Drawn(SegmentationDataset):
    """Streets labelled by a network whose classifier has other offsets than the model's."""

    name, classes, colours = "drawn val", CLASSES, None

    def __init__(self, count: int = 12, offsets=BEFORE, seed: int = 0) -> None:
        self._count, self._seed = count, seed
        teacher = decided_network()
        teacher.add_offsets(offsets)
        config = ModelConfig(
            network=teacher.config,
            classes=CLASSES,
            preparation=model_folder.PreprocessingConfig(working_size=SMALL),
        )
        self._teacher = Segmenter.from_model(teacher, config, "cpu", "fp32")

    def __len__(self) -> int:
        return self._count

    def item_name(self, index: int) -> str:
        return f"{index}.png"

    def image(self, index: int):
        return street(40, 56, self._seed + index)

    def labels(self, index: int):
        (labels,) = self._teacher.predict_labels([self.image(index)])
        return labels


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path / "model", SMALL)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# The search


@given(st.integers(0, 2**32 - 1), st.sampled_from([None, (0, 0.5), (2, 0.95), (3, 1.0)]))
@settings(max_examples=25, deadline=None)
def test_offsets_never_lower_the_value(seed, must):
    sample = drawn_sample(seed)
    objective = Objective() if must is None else Objective(*must)
    found = best_offsets(sample, objective)
    before = objective.of_counts(sample.counts(np.zeros(4)))
    assert objective.of_counts(sample.counts(found)) >= before
    assert np.abs(found - found.mean()).max() <= 2 * LARGEST


@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_a_line_of_the_search_is_a_count_at_each_of_its_offsets(seed, label):
    sample, objective = drawn_sample(seed, 60), Objective()
    others = np.random.default_rng(seed).normal(0, 1, 4)
    values = search._values_along(sample, objective, others, label)
    for place in range(0, len(values), 37):
        offsets = others.copy()
        offsets[label] = search._GRID[place]
        assert values[place] == pytest.approx(objective.of_counts(sample.counts(offsets)), abs=1e-9)


def test_the_search_is_as_good_as_trying_everything():
    sample, objective = drawn_sample(5, 400, 3), Objective()
    tried = np.arange(-2, 2.01, 0.1)
    best = max(
        objective.of_counts(sample.counts(np.array([0.0, second, third])))
        for second, third in product(tried, tried)
    )
    assert objective.of_counts(sample.counts(best_offsets(sample, objective))) >= best - 2e-3


def test_the_search_takes_back_wrong_offsets():
    clean, moved = drawn_sample(1, 3000, wrong=0.0), drawn_sample(1, 3000, wrong=0.0)
    wrong = np.array([1.0, -1.5, 0.5, 0.0])
    moved.logits[:] += wrong[:, None].astype(np.float32)
    found = best_offsets(moved, Objective()) + wrong
    expected = best_offsets(clean, Objective())
    np.testing.assert_allclose(found - found.mean(), expected - expected.mean(), atol=0.35)
    again = best_offsets(moved, Objective())
    np.testing.assert_array_equal(again + wrong, found)  # the same for the same pixels


def test_recall_is_reached_at_the_least_cost():
    sample = drawn_sample(3, 2000)
    free, bound = Objective(), Objective(0, 0.9)
    at_best, found = (sample.counts(best_offsets(sample, each)) for each in (free, bound))
    assert at_best[0, 0] / at_best[0].sum() < 0.9
    assert found[0, 0] / found[0].sum() >= 0.9
    assert free.of_counts(found) < free.of_counts(at_best)
    plain = np.zeros(4)
    plain[0] = next(
        offset
        for offset in np.arange(0, 9, 0.01)
        for counts in [sample.counts(np.array([offset, 0, 0, 0]))]
        if counts[0, 0] / counts[0].sum() >= 0.9
    )
    assert free.of_counts(found) >= free.of_counts(sample.counts(plain))


def test_a_class_that_does_not_occur_keeps_its_odds():
    sample = drawn_sample(2)
    absent = PixelSample(
        np.concatenate([sample.logits, sample.logits[:1] + 0.5]), *(
            sample.truth, sample.weight, sample.picture
        )
    )  # fmt: skip
    assert best_offsets(absent, Objective())[4] == 0


def test_held_out_halves_do_not_choose_for_themselves():
    sample = drawn_sample(4, 1200)
    found = find_offsets(sample, Objective())
    halves = [sample.of_pictures(np.array(part)) for part in ([0, 1, 2], [3, 4, 5])]
    expected = sum(
        one.counts(best_offsets(other, Objective())) for one, other in (halves, reversed(halves))
    )
    np.testing.assert_array_equal(found.held_out, expected)
    assert found.gain > 0
    assert found.helps(Objective())


def test_offsets_learned_from_noise_are_not_worth_keeping():
    """Each half is all of one class: what it chooses is wrong for the other."""
    logits = np.random.default_rng(0).normal(0, 1, (2, 400)).astype(np.float32)
    truth = np.repeat([0, 1], 200)
    logits[truth, np.arange(400)] += 1
    sample = PixelSample(logits, truth, np.ones(400), np.repeat([0, 1], 200))
    # Each half shows one pixel of the other class, so that it may move.
    sample.truth[[0, 399]] = [1, 0]
    found = find_offsets(sample, Objective())
    assert not found.helps(Objective())
    assert found.gain < 0


def test_one_picture_and_a_class_never_seen_are_refused():
    sample = drawn_sample(0)
    with pytest.raises(SctnetError, match="one labelled picture is not enough"):
        find_offsets(sample.of_pictures(np.array([2])), Objective())
    kept = sample.truth != 1
    without = PixelSample(
        sample.logits[:, kept], sample.truth[kept], sample.weight[kept], sample.picture[kept]
    )
    with pytest.raises(SctnetError, match="must not be missed does not occur"):
        find_offsets(without, Objective(1, 0.5))


def test_the_sample_stands_for_all_pixels_and_sees_rare_classes_whole(monkeypatch):
    monkeypatch.setattr(search, "_MOST_PIXELS", 4 * 60)
    data = Drawn(4)
    truth = np.full((40, 56), 1, np.uint8)
    truth[:3], truth[5, :7] = IGNORE, 3
    monkeypatch.setattr(data, "labels", lambda _: truth)
    likely = np.random.default_rng(0).dirichlet(np.ones(5), 40 * 56).T.reshape(5, 40, 56)
    sample = sample_pixels(lambda _: likely.astype(np.float32), data)
    assert len(sample.truth) == 4 * 60
    counted = np.bincount(sample.truth, sample.weight, 5)
    np.testing.assert_allclose(counted, [0, 4 * (37 * 56 - 7), 0, 4 * 7, 0])
    assert (sample.weight[sample.truth == 3] == 1).all()
    again = sample_pixels(lambda _: likely.astype(np.float32), data)
    np.testing.assert_array_equal(sample.logits, again.logits)


# The folder


def test_folded_offsets_are_offsets_of_the_logits():
    images = torch.rand(2, 3, 64, 96)
    plain, moved = decided_network(), decided_network()
    moved.add_offsets(BEFORE)
    expected = plain.eval()(images) + torch.tensor(BEFORE)[:, None, None]
    torch.testing.assert_close(moved.eval()(images), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(moved.fuse()(images), expected, atol=1e-4, rtol=1e-4)


def calibrated(folder: Path, offsets=BEFORE, size=SMALL, **changes) -> ModelConfig:
    config = load_config(folder)
    record = Calibration(
        offsets=offsets, trained_size=config.preparation.working_size, objective="mIoU",
        before=0.5, after=0.6, held_out_gain=0.05, data="drawn val", pictures="0123abcd",
    )  # fmt: skip
    preparation = config.preparation.model_copy(update={"working_size": size})
    update = {"calibration": record, "preparation": preparation, **changes}
    return config.model_copy(update=update)


def test_loading_adds_the_offsets_once_and_undo_restores_every_byte(model):
    plain, before = load_model(model), files_of(model)
    write_calibration(model, calibrated(model, size=SMALL.times(1.5), flip=True))
    moved = load_model(model).head.classifier.bias - plain.head.classifier.bias
    torch.testing.assert_close(moved, torch.tensor(BEFORE))
    segmenter = Segmenter(model, "cpu")
    assert segmenter.flip
    assert segmenter.config.preparation.working_size.pixels == 48
    assert "calibrated on drawn val" in str(segmenter)
    assert not Segmenter(model, "cpu", flip=False).averages
    assert "## Calibration" in (model / "README.md").read_text()
    undo(model)
    assert files_of(model) == before
    with pytest.raises(SctnetError, match="is not calibrated, so there is nothing to undo"):
        undo(model)


def test_a_saved_copy_of_a_calibrated_model_is_not_calibrated_twice(model, tmp_path):
    write_calibration(model, calibrated(model))
    network = load_model(model)
    sctnet.save_model(network, tmp_path / "copy", CLASSES)
    torch.testing.assert_close(
        load_model(tmp_path / "copy").head.classifier.bias, network.head.classifier.bias
    )


def test_the_section_of_a_card_is_replaced_and_removed():
    card = "# model\n\ntext\n\n## Calibration\n\nold\n\n## Limits\n\nmany\n"
    replaced = with_section(card, "## Calibration\n\nnew\n")
    assert "old" not in replaced
    assert replaced.count("## Calibration") == 1
    assert "## Limits\n\nmany" in replaced
    assert with_section(replaced, None) == "# model\n\ntext\n\n## Limits\n\nmany\n"
    plain = "# model\n\ntext\n"
    assert with_section(with_section(plain, "## Calibration\n\nnew\n"), None) == plain


def test_as_many_offsets_as_classes(model):
    text = calibrated(model).model_dump_json().replace("[-0.5,0.2,0.6,-1.5,0.3]", "[0.5]")
    (model / "config.json").write_text(text)
    with pytest.raises(SctnetError, match=r"config\.json: 1 offsets for 5 classes"):
        load_model(model)


@pytest.mark.parametrize("moment", range(4))
def test_stopped_while_writing_the_model_is_the_old_or_the_new_one(model, monkeypatch, moment):
    """Whatever write or rename it dies at, all that is loaded belongs together."""
    before, config = files_of(model), calibrated(model, size=SMALL.times(2))
    steps = []

    def dying(original):
        def step(*arguments, **options):
            steps.append(original)
            if len(steps) > moment:
                raise KeyboardInterrupt
            return original(*arguments, **options)

        return step

    monkeypatch.setattr(Path, "write_bytes", dying(Path.write_bytes))
    monkeypatch.setattr(Path, "replace", dying(Path.replace))
    with pytest.raises(KeyboardInterrupt):
        write_calibration(model, config)
    monkeypatch.undo()
    assert files_of(model).keys() == before.keys(), "nothing half written lies about"
    assert load_config(model) == (load_config(model).trained if moment < 2 else config)
    assert files_of(model)["model.safetensors"] == before["model.safetensors"]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (WorkingSize(rule="shorter-side", pixels=360), "shorter-side 540"),
        (WorkingSize(rule="longer-side", pixels=5), "longer-side 8"),
        (
            WorkingSize(rule="shorter-side", pixels=640, longest=2560),
            "shorter-side 960, at most 3840",
        ),
        (WorkingSize(rule="fixed", height=30, width=50), "fixed 45x75"),
    ],
)  # fmt: skip
def test_a_scaled_rule_has_scaled_sizes(rule, expected):
    assert str(rule.times(1.5)) == expected
    assert rule.times(1) == rule


def test_as_is_has_no_scale():
    with pytest.raises(SctnetError, match="takes pictures as they are"):
        WorkingSize().times(2)


# The whole


def test_calibrate_finds_what_the_labels_were_made_with(model):
    data, before = Drawn(), files_of(model)
    report = calibrate(model, data, scales=[1.0], precision="fp32", device="cpu")
    assert report.before.miou < 0.9
    assert report.after.miou > 0.97
    assert report.found.gain > 0.05
    found = np.array(report.offsets)
    np.testing.assert_allclose(found - found.mean(), np.array(BEFORE) - np.mean(BEFORE), atol=0.3)
    scores = evaluate(Segmenter(model, "cpu", "fp32").predict_labels, data).scores
    assert scores.miou == report.after.miou, "what was measured is what is used"
    after = files_of(model)
    assert after["model.safetensors"] == before["model.safetensors"]
    again = calibrate(model, data, scales=[1.0], precision="fp32", device="cpu")
    assert again.offsets == report.offsets, "nothing is added to what was added before"
    assert files_of(model) == after
    json.dumps(report.to_json())


def test_calibrate_keeps_the_scale_that_the_labels_were_made_at(tmp_path):
    folder = saved(tmp_path / "model", WorkingSize(rule="shorter-side", pixels=64))
    data = Drawn(offsets=(0.0,) * 5)  # at half of this
    options = {"precision": "fp32", "device": "cpu", "flip": True}
    report = calibrate(folder, data, scales=[0.5, 2.0], **options)
    assert [(each.scale, each.flip) for each in report.candidates] == [
        (1.0, False), (0.5, False), (2.0, False), (1.0, True), (0.5, True), (2.0, True),
    ]  # fmt: skip
    assert (report.chosen.scale, report.chosen.flip) == (0.5, False)
    assert all(each.milliseconds > 0 for each in report.candidates)
    assert report.after.miou > 0.999 > report.before.miou
    assert load_config(folder).preparation.working_size == SMALL
    undo(folder)
    assert load_config(folder).preparation.working_size.pixels == 64


def test_a_perfect_model_stays_as_it_is(model):
    before = files_of(model)
    report = calibrate(model, Drawn(offsets=(0.0,) * 5), scales=[1.0, 2.0], precision="fp32")
    assert report.before.miou == report.after.miou == 1
    assert report.offsets is None
    assert files_of(model) == before
    assert "nothing was found that helps" in str(report)


def test_of_pictures_as_they_are_no_scale_is_tried(tmp_path):
    report = calibrate(saved(tmp_path / "model"), Drawn(2), precision="fp32", device="cpu")
    assert [each.scale for each in report.candidates] == [1.0]
    assert "takes pictures as they are (as-is), so no other scale was tried" in str(report)


def test_a_scale_that_helps_one_half_alone_is_not_kept():
    """Each half is best at a scale at which the other is worst; one of both is the best of all."""
    good, bad, fair = (np.array([[n, 10 - n], [10 - n, n]]) for n in (10, 1, 6))
    config = ModelConfig(network=decided_network().config, classes=CLASSES)
    halves = {1.0: (fair, fair), 1.5: (2 * good, bad), 2.0: (bad, good)}
    candidates = [Candidate(scale, config, 1.0, each) for scale, each in halves.items()]
    assert max(candidates, key=lambda each: each.miou).scale == 1.5
    chosen, remarks = _choose(candidates)
    assert chosen.scale == 1.0
    assert "the trained scale was kept" in remarks[0]
    helps = [candidates[0], Candidate(1.5, config, 1.0, (good, good))]
    assert _choose(helps) == (helps[1], [])


def test_a_copy_leaves_the_model(model, tmp_path):
    before = files_of(model)
    report = calibrate(model, Drawn(), scales=[1.0], out=tmp_path / "copy", precision="fp32")
    assert files_of(model) == before
    assert report.folder == tmp_path / "copy"
    assert load_config(tmp_path / "copy") == report.config
    assert load_model(tmp_path / "copy").head.classifier.bias is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "model"]
    with pytest.raises(SctnetError, match="exists already: give --out a new folder"):
        calibrate(model, Drawn(), out=tmp_path / "copy")


def test_a_recall_is_found_and_told(model):
    data = Drawn()
    report = calibrate(
        model, data, scales=[1.0], recall=("car", 0.99), precision="fp32", device="cpu"
    )
    counts = report.after.counts
    assert counts[1, 1] / counts[1].sum() >= 0.98
    assert "car found:" in str(report)
    assert "99 % of car found" in (model / "README.md").read_text()


def test_refusals_are_sentences(model, tmp_path):
    data = Drawn()
    bundled, new = ("sctnet-s-camvid", data), {"out": tmp_path / "new"}
    for sentence, arguments, options in (
        ("is not a folder of yours", bundled, {}),
        ("the model knows 11 classes and drawn val has 5", bundled, new),
        ("is exported already", (tmp_path / "model.onnx", data), {}),
        ("there is no class 'cat': choose from road, car", (model, data), {"recall": ("cat", 0.9)}),
        ("give a share above 0 and up to 1", (model, data), {"recall": ("car", 90)}),
        ("give two pictures or more", (model, Drawn(1)), {}),
        ("give numbers above 0 and up to 4", (model, data), {"scales": [0.0]}),
    ):  # fmt: skip
        with pytest.raises(SctnetError, match=sentence):
            calibrate(*arguments, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_scoring_on_the_pictures_that_chose_says_so(model, tmp_path, caplog):
    chose, other = Drawn(4), Drawn(4, seed=100)
    calibrate(model, chose, scales=[1.0], precision="fp32", device="cpu")
    segmenter = Segmenter(model, "cpu", "fp32")
    with caplog.at_level(logging.WARNING, "sctnet"):
        score(segmenter, other, tmp_path / "other")
        assert not caplog.records
        score(segmenter, SomePictures(chose, [1, 3]), tmp_path / "same")
    (record,) = caplog.records
    assert "2 of these 2 pictures chose the model's offsets" in record.getMessage()
    told = [
        json.loads((tmp_path / name / "scores.json").read_text())["images_that_calibrated"]
        for name in ("other", "same")
    ]
    assert told == [0, 2]


def test_pictures_are_told_apart_by_their_pixels():
    data = RecordedPictures(Drawn(3))
    data.pair(0), data.pair(2), data.pair(0)
    assert data.digests == {picture_digest(street(40, 56, seed)) for seed in (0, 2)}
    assert len(data.digests) == 2


@pytest.fixture
def chosen(model: Path) -> Path:
    """Return the model as if a calibration had chosen offsets, scale and flip."""
    write_calibration(model, calibrated(model, size=SMALL.times(1.5), flip=True))
    return model


def labels_by_hand(picture):
    """Return what a calibrated model means, computed in PyTorch from its parts."""
    network = decided_network()
    network.add_offsets(BEFORE)
    size = SMALL.times(1.5)
    whole = ImageToLabels(network.eval(), model_folder.PreprocessingConfig(working_size=size))
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
    with torch.inference_mode():
        seen, mirrored = whole.probabilities(pixels), whole.probabilities(pixels.flip(3)).flip(3)
    return ((seen + mirrored) / 2).argmax(1)[0].numpy()


OPTIONS = {"tile": 32, "scales": (1.0, 1.5), "flip": False}
WRITTEN = ["--tile", "32", "--scales", "1.0,1.5", "--no-flip"]


def expected(model: Path, picture, given: bool):
    if not given:
        return labels_by_hand(picture)
    (labels,) = Segmenter(model, "cpu", "fp32", **OPTIONS).predict_labels([picture])
    return labels


@pytest.mark.parametrize(
    "given",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["as chosen", "scales, flip and tile given"],
)
class TestAllThatUseAModel:
    """Offsets, scale and flip are those that were chosen, and the options mean the same."""

    def test_predict(self, run, chosen, yaml, tmp_path, given):
        options = WRITTEN if given else []
        pictures = yaml.parent / "images"
        program = run("predict", chosen, pictures, "--out", tmp_path / "out", *options)
        assert program.status == 0, program.err
        for name in ("00", "07"):
            found = np.asarray(Image.open(tmp_path / "out" / "labels" / f"{name}.png"))
            wanted = expected(chosen, np.asarray(Image.open(pictures / f"{name}.png")), given)
            assert (found == wanted).mean() > 0.998

    def test_eval(self, run, chosen, yaml, tmp_path, given):
        options = WRITTEN if given else []
        out, data = tmp_path / "out", open_dataset(yaml, ["val"])
        program = run("eval", chosen, "--data", yaml, "--out", out, *options)
        assert program.status == 0, program.err
        scores = evaluate(lambda seen: [expected(chosen, x, given) for x in seen], data).scores
        found = json.loads((out / "scores.json").read_text())
        assert found["miou"] == pytest.approx(scores.miou, abs=5e-3)
        words = "scales 1, 1.5 of the working size, no flip" if given else "and mirrored"
        assert words in found["protocol"]

    def test_serve(self, chosen, given):
        httpx = pytest.importorskip("httpx")
        pytest.importorskip("fastapi")
        from served import encoded, running

        picture = street(40, 56)
        text = f"{chosen},precision=fp32" + (",tile=32,scales=1+1.5,flip=false" if given else "")
        with running(text) as server:
            answer = httpx.post(f"{server.url}/predict", content=encoded(picture), timeout=20)
        found = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert (found == expected(chosen, picture, given)).mean() > 0.998

    @pytest.mark.usefixtures("in_process")
    def test_bulk(self, chosen, yaml, tmp_path, given):
        pictures, out = yaml.parent / "images", tmp_path / "out"
        options = BulkOptions(precision="fp32", **(OPTIONS if given else {}))
        summary = predict_bulk(str(chosen), [str(pictures)], str(out), options)
        assert (summary.labelled, summary.failures) == (12, [])
        found = np.asarray(Image.open(out / "labels" / "07.png"))
        wanted = expected(chosen, np.asarray(Image.open(pictures / "07.png")), given)
        assert (found == wanted).mean() > 0.998


@pytest.mark.slow
@pytest.mark.parametrize(
    "output",
    [
        "logits8",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("labels", "probabilities", "logits")
        ),
    ],
)
def test_an_exported_file_has_offsets_scale_and_flip(chosen, tmp_path, output):
    pytest.importorskip("onnxruntime")
    size = (40, 56) if output == "logits8" else None  # of any size takes five times as long
    report = sctnet.export_model(chosen, tmp_path / "model.onnx", output=output, size=size)
    assert report.parity.equal_labels > 0.9999
    graph, picture = Segmenter(report.file, "cpu", "fp32"), street(40, 56)
    assert graph.mirrors
    assert graph.flip == (output == "logits8"), "elsewhere the file mirrors by itself"
    assert "and mirrored" in str(graph)
    assert str(graph.config.preparation.working_size) == "shorter-side 48"
    (found,) = graph.predict_labels([picture])
    assert (found == labels_by_hand(picture)).mean() > 0.999
    undo(chosen)
    (without,) = Segmenter(chosen, "cpu", "fp32").predict_labels([picture])
    assert (found == without).mean() < 0.99
    if output != "logits8":
        with pytest.raises(SctnetError, match="averages with the mirrored picture itself"):
            Segmenter(report.file, "cpu", flip=False)


def test_tiles_take_scales_and_flip(chosen):
    """Windows are averaged too: a mirrored picture has the mirrored labels, a large one some."""
    picture = street(64, 64)
    both = Segmenter(chosen, "cpu", "fp32", tile=32, scales=(1.0, 1.5), flip=True)
    seen, mirrored = both.predict_labels([picture, np.ascontiguousarray(picture[:, ::-1])])
    assert (seen == mirrored[:, ::-1]).mean() > 0.999
    (likely,) = both.predict_probabilities([picture])
    assert (likely.argmax(0) == seen).mean() > 0.999
    np.testing.assert_allclose(likely.sum(0), 1, atol=1e-5)
    alone = Segmenter(chosen, "cpu", "fp32", tile=32, flip=False).predict_labels([picture])[0]
    assert (alone != seen).any()


# The program


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> type[Program]:
    Program.monkeypatch, Program.capsys = monkeypatch, capsys
    return Program


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    folder, data = tmp_path / "data", Drawn()
    for number in range(len(data)):
        image, labels = data.pair(number)
        for kind, pixels in (("images", image), ("masks", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{number:02}.png")
    text = f"images: {{val: images}}\nmasks: {{val: masks}}\nclasses: [{', '.join(CLASSES)}]\n"
    (folder / "data.yaml").write_text(text)
    return folder / "data.yaml"


def test_the_command_calibrates_scores_and_undoes(run, model, yaml):
    before = files_of(model)
    program = run("calibrate", model, "--data", yaml, "--scales", "1.0,2.0", "--precision", "fp32")
    assert program.status == 0, program.err
    assert "shorter-side 64" in program.out
    assert "mean IoU" in program.out
    assert "do not score it on these pictures" in program.out
    program = run("eval", model, "--data", yaml, "--split", "val")
    assert program.status == 0, program.err
    assert "12 of these 12 pictures chose" in program.err
    program = run("calibrate", model, "--undo")
    assert program.status == 0, program.err
    assert files_of(model) == before


def test_tables_fit_80_columns(run, model, yaml, monkeypatch):
    program = run("calibrate", model, "--data", yaml, "--scales", "1.0", "--flip")
    rows = [line for line in program.out.splitlines() if line[:1] in "┃│┏"]
    assert rows
    assert max(map(len, rows)) <= 80


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--data: name the data whose pictures choose"),
        (["--data", "synthetic", "--recall", "car"], "--recall car: give a class and a share"),
        (["--data", "synthetic", "--scales", "a"], "--scales: a is not a list of numbers"),
        (["--undo"], "is not calibrated, so there is nothing to undo"),
    ],
)
def test_the_command_refuses(run, model, arguments, sentence):
    program = run("calibrate", model, *arguments)
    assert program.status == 2
    assert sentence in program.err


@pytest.mark.parametrize("command", ["predict", "eval"])
def test_scale_flip_and_tile_are_options_of_both_commands(run, model, yaml, tmp_path, command):
    given = [yaml.parent / "images"] if command == "predict" else ["--data", yaml]
    for options in (["--scales", "1.0,1.5", "--flip"], ["--tile", "32", "--no-flip"]):
        program = run(command, model, *given, "--out", tmp_path / "out", *options)
        assert program.status == 0, program.err
    program = run(command, model, *given, "--out", tmp_path / "out", "--scales", "x")
    assert "--scales: x is not a list of numbers" in program.err


# The run


RUN = (
    "augmentation.crop=[48, 64]", "run.precision=fp32", "schedule.iterations=4",
    "schedule.warmup_iterations=1", "run.batch_size=2", "run.validate_every=4",
    "data.workers=0", "loss.class_weights=none", "data.calibrate=true",
)  # fmt: skip


def offset_head(task, monkeypatch):
    """Let a run's student prefer a class that it should not, as class weights do."""
    build = task.build

    def moved(self, from_start):
        network, start = build(self, from_start)
        network.add_offsets([0, 3.0, *[0] * (network.config.num_classes - 2)])
        return network, start

    monkeypatch.setattr(task, "build", moved)


def test_a_run_ends_with_offsets_of_its_validation_pictures(tmp_path, monkeypatch, caplog):
    offset_head(SegmentationTask, monkeypatch)
    monkeypatch.setattr(search, "_MOST_PIXELS", 20_000)
    recipe = load_recipe("synthetic/sctnet-tiny", [*RUN, "data.validation=[val]"])
    with caplog.at_level(logging.INFO, "sctnet"):
        train(recipe, tmp_path / "run")
    assert any("Class offsets chosen on" in each.getMessage() for each in caplog.records)
    record = load_config(tmp_path / "run").calibration
    assert record is not None
    assert record.after > record.before
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["calibrated_validation_miou"] == record.after
    data = open_dataset("synthetic", ["val"])
    assert len(record.pictures) == 8 * len(data)
    scores = evaluate(Segmenter(tmp_path / "run", "cpu", "fp32").predict_labels, data).scores
    assert scores.miou == pytest.approx(record.after, abs=2e-3)
    trained = read_tensors(tmp_path / "run" / "model.safetensors")["head.classifier.bias"]
    added = load_model(tmp_path / "run").head.classifier.bias - trained
    torch.testing.assert_close(added, torch.tensor(record.offsets))
    assert trained[1] > 2.9, "the weights are those that a resume goes on from"


def test_a_recipe_that_calibrates_needs_validation_pictures():
    with pytest.raises(SctnetError, match=r"calibrate needs pictures to choose by: set data\.val"):
        load_recipe("synthetic/sctnet-tiny", [*RUN, "data.validation=[]"])


# Every network


@pytest.mark.parametrize("variant", ["sctnet-tiny", *SMALL_STUDENTS])
def test_every_network_takes_offsets(variant):
    torch.manual_seed(0)
    model = sctnet.create_model(variant, 5, **SMALL_STUDENTS.get(variant, {})).eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        before = model.features(images).logits
        model.add_offsets(BEFORE)
        moved = model.features(images).logits - before
    torch.testing.assert_close(
        moved, torch.tensor(BEFORE)[:, None, None].expand_as(moved), atol=1e-5, rtol=0
    )
