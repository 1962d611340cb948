"""Int8: what is quantised, what stays in floats, and what is refused; and exports that are kept."""

from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import openvino
import pytest
import torch
from drawn import street
from hypothesis import given, settings
from hypothesis import strategies as st
from openvino import opset13 as operators
from shared import decided_network, described, write_graph

import sctnet
from sctnet.checkpoints.exported_file import METADATA_KEY
from sctnet.checkpoints.model_folder import load_model
from sctnet.cli.runtimes import model_for
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.errors import SctnetError
from sctnet.export import (
    byte_convolution,
    caching,
    onnx_format,
    openvino_format,
    quantisation,
)
from sctnet.export.byte_convolution import convolve_bytes, find_first_convolution
from sctnet.export.caching import cached_export
from sctnet.export.exporting import export_model
from sctnet.export.onnx_format import OnnxQuantiser
from sctnet.export.openvino_format import OpenVinoQuantiser, openvino_model
from sctnet.export.quantisation import (
    CalibrationPictures,
    Node,
    quantise,
    require_accuracy,
)
from sctnet.inference.runtimes.openvino_engine import shared_core
from sctnet.pipeline.preprocessing import PreprocessingConfig, WorkingSize


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sctnet.save_model(decided_network(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def graph(folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("graph") / "whole.onnx"
    return onnx.load(write_graph(folder, file, precision="int8"))


PICTURES = [street(64, 96, seed)[None] for seed in range(6)]


def test_an_onnx_model_is_quantised_between_its_convolutions(tmp_path, folder, graph):
    quantiser = OnnxQuantiser(graph)
    floats = quantisation._outside(quantiser.nodes())
    quantised = quantiser.quantised(PICTURES, sorted(floats))
    onnx.save(onnx_format.without_logits(quantised), tmp_path / "int8.onnx")
    kinds = [node.op_type for node in quantised.graph.node]
    assert kinds.count("DequantizeLinear") > 2 * kinds.count("Conv")
    check_segmenter(tmp_path / "int8.onnx", folder)


def test_an_openvino_model_is_quantised_between_its_convolutions(tmp_path, folder, graph):
    model = shared_core().read_model(graph.SerializeToString(), b"")
    model.set_rt_info(described(folder, precision="int8").model_dump_json(), [METADATA_KEY])
    quantiser = OpenVinoQuantiser(model)
    floats = quantisation._outside(quantiser.nodes())
    quantised = quantiser.quantised(PICTURES, sorted(floats))
    assert sum(op.get_type_name() == "FakeQuantize" for op in quantised.get_ops()) > 20
    for result in quantised.get_results()[1:]:
        quantised.remove_result(result)
    openvino.save_model(quantised, tmp_path / "int8.xml")
    check_segmenter(tmp_path / "int8.xml", folder)


def check_segmenter(file, folder):
    segmenter = sctnet.Segmenter(file, threads=2)
    assert "int8 in" in str(segmenter)
    image = PICTURES[0][0]
    found, expected = segmenter(image).labels, sctnet.Segmenter(folder, "cpu")(image).labels
    assert len(np.unique(expected)) > 1
    assert 0.8 < (found == expected).mean() < 1, "rounded to 256 steps, but not to noise"
    beside = segmenter.side_by_side(2)(image).labels
    assert (found == beside).mean() > 0.99, "computed as exactly, for pictures of this size"


class Scripted:
    """A quantiser whose share of differing labels depends on what is in floats."""

    model = None
    kinds = ("Cast", "Conv", "Softmax", "Conv", "Conv", "Add", "Conv", "ArgMax")

    def __init__(self, shares):
        self.shares, self.asked = shares, []

    def name(self, k):
        return f"part{'.normalisation' if k in (2, 3) else ''}/{k}{self.kinds[k]}"

    def nodes(self):
        return [
            Node(self.name(k), kind, (self.name(k - 1),) if k else ())
            for k, kind in enumerate(self.kinds)
        ]

    def quantised(self, pictures, floats):
        self.asked.append((len(pictures), set(floats)))
        return frozenset(floats)

    def run(self, model):
        share = 0 if model is None else next(s for part, s in self.shares if part <= model)
        logits = np.zeros((1, 2, 10, 100), np.float32)
        logits[0, 1].ravel()[: round(1000 * share)] = 1
        return lambda _: logits


OUTSIDE = {"part/0Cast", "part/7ArgMax"}
NORMALISATION = {"part.normalisation/2Softmax", "part.normalisation/3Conv"}


def test_parts_stay_in_floats_where_labels_gain_by_it():
    shares = [(NORMALISATION | {"part/5Add"}, 0.045), (NORMALISATION, 0.046), (set(), 0.2)]
    scripted, said = Scripted(shares), []
    result = quantise(scripted, PICTURES * 10, said.append)
    assert result == OUTSIDE | NORMALISATION
    assert scripted.asked[0] == (32, OUTSIDE)
    assert scripted.asked[-1] == (60, OUTSIDE | NORMALISATION)
    assert said[0] == "int8 throughout: 20.00 % of labels differ"
    assert said[1] == "attention normalisation in floats: 4.60 % differ, kept"
    assert all("not worth it" in line for line in said[2:])


def test_the_search_ends_where_few_labels_differ():
    scripted, said = Scripted([(set(), 0.005)]), []
    assert quantise(scripted, PICTURES, said.append) == OUTSIDE
    assert len(said) == 1


def test_calibration_takes_a_seeded_sample(tmp_path, monkeypatch, folder):
    monkeypatch.setattr(quantisation, "MAX_PICTURES", 3)
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.png"), street(20 + number, 30))
    config = described(folder, precision="int8", size=(32, 48), batch=2)
    pictures = CalibrationPictures(tmp_path, config)
    assert len(pictures) == 3
    assert [p.shape for p in pictures] == [(2, 32, 48, 3)] * 3
    again = CalibrationPictures(tmp_path, config)
    np.testing.assert_array_equal(pictures[2], again[2])
    assert len(pictures[1:]) == 2
    np.testing.assert_array_equal(pictures[1:][0], pictures[1])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": "int8"}, "--calibrate FOLDER"),
        ({"precision": "int8", "calibrate": "empty"}, "no pictures there"),
        ({"precision": "int8", "calibrate": "nowhere"}, "no such file or folder"),
        ({"precision": "fp32", "calibrate": "empty"}, "go with --precision int8"),
        ({"precision": "fp32", "dataset": SyntheticStreets(0, 1)}, "go with --precision int8"),
    ],
)
def test_wrong_requests_leave_nothing(tmp_path, monkeypatch, folder, options, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SctnetError, match=sentence):
        export_model(folder, tmp_path / "model.onnx", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_model_that_lost_too_much_is_refused(tmp_path, monkeypatch, folder):
    scores = iter([0.8, 0.795, 0.8, 0.78])
    monkeypatch.setattr(quantisation, "Segmenter", lambda *_: SimpleNamespace(
        classes="abcde", predict_labels=None
    ))  # fmt: skip
    monkeypatch.setattr(
        quantisation,
        "evaluate",
        lambda *_: SimpleNamespace(scores=SimpleNamespace(miou=next(scores))),
    )
    dataset = SimpleNamespace(name="streets", classes="vwxyz")
    said = require_accuracy(folder, None, tmp_path / "m.xml", dataset, 1.0)
    assert said == "80.00 % mIoU in fp32, 79.50 % in int8, on streets"
    with pytest.raises(SctnetError, match=r"m\.xml: not written, .*78\.00 %.*--max-drop"):
        require_accuracy(folder, None, tmp_path / "m.xml", dataset, 1.0)
    dataset.classes = "ab"
    with pytest.raises(SctnetError, match="2 classes and the model 5"):
        require_accuracy(folder, None, tmp_path / "m.xml", dataset, 1.0)


# The first convolution on bytes


def stem(weights, mean, deviation):
    """Return a model that normalises bytes and convolves them."""
    images = operators.parameter([-1, -1, -1, 3], np.uint8, name="images")
    centred = operators.subtract(operators.convert(images, "f32"), np.float32(mean))
    scaled = operators.divide(centred, np.float32(deviation))
    planes = operators.transpose(scaled, np.array([0, 3, 1, 2]))
    pads = [side // 2 for side in weights.shape[2:]]
    convolved = operators.convolution(planes, np.float32(weights), [2, 2], pads, pads, [1, 1])
    bias = np.linspace(-1, 1, len(weights), dtype=np.float32).reshape(1, -1, 1, 1)
    shown = operators.add(convolved, bias)
    return openvino.Model([operators.result(shown)], [images])


def computed(model, pictures):
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = shared_core().compile_model(model, "CPU", settings)
    return [compiled(picture)[0] for picture in pictures]


def test_weights_that_are_integers_stay_what_they_are():
    """Means too: what is left is rounding in float32, and borders are exact."""
    generator = np.random.default_rng(0)
    weights = generator.integers(-64, 65, (4, 3, 3, 3))
    weights[:, 0, 0, 0] = 64  # so that 1 is the scale
    model = stem(weights, [124, 116, 104], [1, 1, 1])
    expected = computed(model, PICTURES)
    convolve_bytes(model, PICTURES)
    kinds = {op.get_type_name() for op in model.get_ordered_ops()}
    assert "Divide" not in kinds
    for found, wanted in zip(computed(model, PICTURES), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=0.1)  # of some 10,000


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(3, 3), (7, 5)]))
def test_rounded_weights_lose_little_on_pictures(seed, size):
    generator = np.random.default_rng(seed)
    weights = generator.standard_normal((8, 3, *size))
    model = stem(weights, [123.675, 116.28, 103.53], [58.4, 57.1, 57.4])
    inside = np.s_[..., 4:-4, 4:-4]
    expected = np.concatenate([part[inside].ravel() for part in computed(model, PICTURES)])
    convolve_bytes(model, PICTURES)
    found = np.concatenate([part[inside].ravel() for part in computed(model, PICTURES)])
    assert np.abs(found - expected).max() < 0.1 * expected.std()
    assert np.abs((found - expected).mean()) < 0.003 * expected.std()


def test_rounding_weighs_errors_by_what_is_seen():
    """Where neighbours are alike, each weight rounded alone loses several times as much."""
    generator = np.random.default_rng(1)
    weights = generator.standard_normal((16, 27))
    patches = generator.standard_normal((500, 1)) * 50 + generator.standard_normal((500, 27))
    covariance = np.cov(patches, rowvar=False)
    scale = np.abs(weights).max(1, keepdims=True) / 64
    alone = (weights / scale).round() * scale - weights
    integers, scales = byte_convolution._rounded(weights, covariance)
    together = integers * scales - weights
    assert np.abs(integers).max() == 64, "two products of bytes fit into 16 bits"
    assert np.square(patches @ together.T).mean() < 0.1 * np.square(patches @ alone.T).mean()


@pytest.mark.parametrize("shape", [(1, 8, 9, 3), (2, 5, 8, 3)])
def test_pictures_of_one_colour_do_for_rounding(shape):
    weights = np.random.default_rng(2).standard_normal((4, 3, 3, 3))
    model = stem(weights, [120, 120, 120], [60, 60, 60])
    picture = np.full(shape, 77, np.uint8)  # which also stands for its mean: nothing is lost
    (expected,) = computed(model, [picture])
    convolve_bytes(model, [picture])
    (found,) = computed(model, [picture])
    inside = np.s_[..., 1:-1, 1:-1]
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-4)


@pytest.mark.slow
def test_resized_pictures_are_rounded_to_bytes(resizing_model):
    model = resizing_model.clone()
    expected = computed(model, PICTURES)
    convolve_bytes(model, PICTURES)
    (first,) = (op for op in model.get_ordered_ops() if op.get_type_name() == "FakeQuantize")
    assert first.get_levels() == 256
    for found, wanted in zip(computed(model, PICTURES), expected, strict=True):
        assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.95


@pytest.fixture(scope="module")
def resizing(folder, tmp_path_factory):
    """Return the model in a folder whose pictures are resized."""
    preparation = PreprocessingConfig(working_size=WorkingSize(rule="shorter-side", pixels=48))
    target = tmp_path_factory.mktemp("resizing")
    return sctnet.save_model(load_model(folder), target, preparation=preparation)


@pytest.fixture(scope="module")
def resizing_model(resizing):
    """Return the OpenVINO model of it, not quantised yet; tests change a clone."""
    return openvino_model(
        load_model(resizing), described(resizing, precision="int8", output="logits8")
    )


def test_another_beginning_is_left_to_nncf():
    images = operators.parameter([1, 3, 8, 8], np.float32, name="images")
    weights = np.ones((2, 3, 3, 3), np.float32)
    scaled = operators.divide(images, np.float32(255))
    for before in (images, operators.relu(images), scaled):
        convolved = operators.convolution(before, weights, [1, 1], [1, 1], [1, 1], [1, 1])
        assert (
            find_first_convolution(openvino.Model([operators.result(convolved)], [images])) is None
        )
    assert find_first_convolution(openvino.Model([operators.result(images)], [images])) is None


@pytest.mark.slow
@pytest.mark.parametrize("which", ["folder", "resizing"])
def test_whole_int8_files_label_bytes(tmp_path, request, which):
    folder = request.getfixturevalue(which)
    quantiser = OpenVinoQuantiser(
        openvino_model(load_model(folder), described(folder, precision="int8"))
    )
    nodes = quantiser.nodes()
    parts = quantisation._parts(nodes)
    assert len(parts["attention normalisation"]) > 5
    floats = quantisation._outside(nodes) | parts["attention normalisation"]
    quantised = quantiser.quantised(PICTURES, sorted(floats))
    assert find_first_convolution(quantised) is None
    first = next(op for op in quantised.get_ordered_ops() if op.get_type_name() == "Convolution")
    assert first.input_value(1).get_node().get_type_name() == "Multiply", "int8 and its scale"
    in_floats = quantiser.quantised(PICTURES, sorted(floats | parts["first convolution"]))
    assert find_first_convolution(in_floats) is not None
    openvino_format.without_logits(quantised)
    assert first_convolution_runs_in(quantised) == "I8"
    assert first_convolution_runs_in(in_floats) != "I8"
    openvino.save_model(quantised, tmp_path / "int8.xml")
    check_segmenter(tmp_path / "int8.xml", folder)


@pytest.mark.slow
def test_pictures_are_resized_before_an_int8_graph_as_in_it(tmp_path, resizing_model):
    quantiser = OpenVinoQuantiser(resizing_model.clone())
    floats = quantisation._outside(quantiser.nodes())
    quantised = quantiser.quantised(PICTURES, sorted(floats))
    openvino_format.without_logits(quantised)
    openvino.save_model(quantised, tmp_path / "int8.xml")
    segmenter = sctnet.Segmenter(tmp_path / "int8.xml")
    engine = segmenter.runtime._engine
    for picture in (PICTURES[0][0], np.repeat(PICTURES[1][0], 2, axis=0).repeat(2, axis=1)):
        found = segmenter(picture).labels
        whole = torch.from_numpy(engine(picture[None]))
        expected = segmenter.predictor.label_map(whole, picture)
        assert (found == expected).mean() > 0.95, "here bytes, there bfloat16"
    assert len(engine._compiled._kept) == 3, "two as they are, one of the working size"


def first_convolution_runs_in(model):
    """Return the arithmetic that OpenVINO chose, such as I8."""
    compiled = shared_core().compile_model(model, "CPU")
    facts = (op.get_rt_info() for op in compiled.get_runtime_model().get_ordered_ops())
    convolutions = (fact for fact in facts if fact["layerType"].astype(str) == "Convolution")
    return next(convolutions)["primitiveType"].astype(str).split("_")[-1]


# Exports that are kept


@pytest.fixture
def exports(monkeypatch, tmp_path):
    """Return what was exported, one entry each time."""
    made = []

    def export(_, file, **options):
        made.append((file.name, options))
        file.write_text("x")

    monkeypatch.setattr(caching, "export_model", export)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def test_a_model_is_exported_once(exports, folder, tmp_path):
    first = cached_export(folder, "openvino", "bf16")
    assert first.name == "logits8-bf16.xml"
    assert first.is_relative_to(tmp_path / "cache" / "sctnet")
    assert cached_export(folder, "openvino", "bf16") == first
    assert len(exports) == 1
    other = tmp_path / "other"
    sctnet.save_model(sctnet.create_model("sctnet-tiny", 5), other)
    assert cached_export(other, "openvino", "bf16").parent != first.parent
    assert len(exports) == 2


def test_a_cache_that_cannot_be_written_is_named(exports, folder, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(SctnetError, match="XDG_CACHE_HOME"):
        cached_export(folder, "onnx")


def test_a_runtime_is_chosen_for_a_model(exports, folder):
    assert model_for(None, str(folder), "auto") == str(folder)
    assert model_for("torch", str(folder), "bf16") == str(folder)
    assert exports == []
    assert str(model_for("onnx", str(folder), "auto")).endswith("logits8-fp32.onnx")
    assert exports[0][1]["precision"] == "fp32"
    assert model_for("onnx", "a.onnx", "auto") == "a.onnx"
    for runtime, model, sentence in (
        ("tvm", str(folder), "choose one of torch, onnx, openvino"),
        ("openvino", "a.onnx", "runs in onnx"),
        ("torch", "a.xml", "runs in openvino"),
    ):
        with pytest.raises(SctnetError, match=sentence):
            model_for(runtime, model, "auto")
