"""Int8: what is quantised, what stays in floats, and what is refused; and exports that are kept."""

import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import openvino
import pytest
import torch
from drawn import street

import sctnet
from sctnet.cli.runtimes import model_for
from sctnet.data.synthetic import SyntheticStreets
from sctnet.errors import SctnetError
from sctnet.export import accuracy, caching, quantising
from sctnet.export.accuracy import require_accuracy
from sctnet.export.caching import cached_export
from sctnet.export.exporting import export_model
from sctnet.export.onnx_format import without_logits
from sctnet.export.quantising import (
    CalibrationPictures,
    Node,
    OnnxQuantiser,
    OpenVinoQuantiser,
    quantise,
)
from sctnet.exported import METADATA_KEY, ExportedConfig
from sctnet.inference.openvino_engine import shared_core
from sctnet.weights import load_config

_EXPORT = """
import sys
from pathlib import Path
from sctnet.export.onnx_format import onnx_model
from sctnet.exported import ExportedConfig
from sctnet.weights import load_model

config = ExportedConfig.from_text(sys.stdin.read(), "stdin")
model = onnx_model(load_model(sys.argv[1]), config)
Path(sys.argv[2]).write_bytes(model.SerializeToString())
"""


def described(folder, **changes):
    values = {
        "model": load_config(folder), "output": "labels", "precision": "int8", "size": None,
        "batch": None, "weights_sha256": "0" * 64, "sctnet": "0.1.0", **changes,
    }  # fmt: skip
    return ExportedConfig(**values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    model = sctnet.create_model("sctnet-tiny", num_classes=5)
    torch.nn.init.normal_(model.head.classifier.weight, std=1)
    return sctnet.save_model(model, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def graph(folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("graph") / "whole.onnx"
    command = [sys.executable, "-c", _EXPORT, str(folder), str(file)]
    subprocess.run(command, input=described(folder).model_dump_json(), text=True, check=True)
    return onnx.load(file)


PICTURES = [street(64, 96, seed)[None] for seed in range(6)]


def test_an_onnx_model_is_quantised_between_its_convolutions(tmp_path, folder, graph):
    quantiser = OnnxQuantiser(graph)
    floats = quantising._outside(quantiser.nodes())
    quantised = quantiser.quantised(PICTURES, sorted(floats))
    onnx.save(without_logits(quantised), tmp_path / "int8.onnx")
    kinds = [node.op_type for node in quantised.graph.node]
    assert kinds.count("DequantizeLinear") > 2 * kinds.count("Conv")
    check_segmenter(tmp_path / "int8.onnx", folder)


def test_an_openvino_model_is_quantised_between_its_convolutions(tmp_path, folder, graph):
    model = shared_core().read_model(graph.SerializeToString(), b"")
    model.set_rt_info(described(folder).model_dump_json(), [METADATA_KEY])
    quantiser = OpenVinoQuantiser(model)
    floats = quantising._outside(quantiser.nodes())
    quantised = quantiser.quantised(PICTURES, sorted(floats))
    assert sum(op.get_type_name() == "FakeQuantize" for op in quantised.get_ops()) > 20
    for result in quantised.get_results()[1:]:
        quantised.remove_result(result)
    openvino.save_model(quantised, tmp_path / "int8.xml")
    check_segmenter(tmp_path / "int8.xml", folder)


def check_segmenter(file, folder):
    segmenter = sctnet.Segmenter(file)
    assert "int8 in" in str(segmenter)
    image = PICTURES[0][0]
    found, expected = segmenter(image).labels, sctnet.Segmenter(folder, "cpu")(image).labels
    assert len(np.unique(expected)) > 1
    assert 0.8 < (found == expected).mean() < 1, "rounded to 256 steps, but not to noise"


class Scripted:
    """A quantiser whose share of differing labels depends on what is in floats."""

    model = None

    def __init__(self, shares):
        self.shares, self.asked = shares, []

    def nodes(self):
        kinds = ["Cast", "Conv", "Softmax", "Div", "Conv", "Add", "Conv", "ArgMax"]
        return [
            Node(f"{k}{kind}", kind, (f"{k - 1}{kinds[k - 1]}",) if k else ())
            for k, kind in enumerate(kinds)
        ]

    def quantised(self, pictures, floats):
        self.asked.append((len(pictures), set(floats)))
        return frozenset(floats)

    def run(self, model):
        share = 0 if model is None else next(s for part, s in self.shares if part <= model)
        logits = np.zeros((1, 2, 10, 100), np.float32)
        logits[0, 1].ravel()[: round(1000 * share)] = 1
        return lambda _: logits


OUTSIDE = {"0Cast", "7ArgMax"}
NORMALISATION = {"2Softmax", "3Div"}


def test_parts_stay_in_floats_where_labels_gain_by_it():
    shares = [({"2Softmax", "5Add"}, 0.045), ({"2Softmax"}, 0.046), (set(), 0.2)]
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
    monkeypatch.setattr(quantising, "MOST_PICTURES", 3)
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.png"), street(20 + number, 30))
    config = described(folder, size=(32, 48), batch=2)
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
    monkeypatch.setattr(accuracy, "Segmenter", lambda *_: SimpleNamespace(
        classes="abcde", predict_labels=None
    ))  # fmt: skip
    monkeypatch.setattr(
        accuracy, "evaluate", lambda *_: SimpleNamespace(scores=SimpleNamespace(miou=next(scores)))
    )
    dataset = SimpleNamespace(name="streets", classes="vwxyz")
    said = require_accuracy(folder, tmp_path, tmp_path / "m.xml", dataset, 1.0)
    assert said == "80.00 % mIoU in fp32, 79.50 % in int8, on streets"
    with pytest.raises(SctnetError, match=r"m\.xml: not written, .*78\.00 %.*--max-drop"):
        require_accuracy(folder, tmp_path, tmp_path / "m.xml", dataset, 1.0)
    dataset.classes = "ab"
    with pytest.raises(SctnetError, match="2 classes and the model 5"):
        require_accuracy(folder, tmp_path, tmp_path / "m.xml", dataset, 1.0)


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
