"""Model repositories for Triton and OpenVINO Model Server, against their published schemas."""

import json
import warnings

import jsonschema
import pytest

import sctnet
from sctnet.checkpoints.exported_file import ExportedConfig
from sctnet.checkpoints.model_folder import ModelConfig
from sctnet.errors import SctnetError
from sctnet.export.model_repository import (
    openvino_configuration,
    triton_configuration,
    write_model_repository,
)

# What model_server's src/schema.cpp demands of a model; nothing else may stand there.
OPENVINO_SCHEMA = {
    "type": "object",
    "required": ["model_config_list"],
    "additionalProperties": False,
    "properties": {
        "model_config_list": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["config"],
                "additionalProperties": False,
                "properties": {
                    "config": {
                        "type": "object",
                        "required": ["name", "base_path"],
                        "additionalProperties": False,
                        "properties": {
                            "name": {"type": "string"},
                            "base_path": {"type": "string"},
                            "batch_size": {"type": ["integer", "string"], "minimum": 0},
                            "model_version_policy": {"type": "object"},
                            "shape": {"type": ["object", "string"]},
                            "nireq": {"type": "integer", "minimum": 0},
                            "target_device": {"type": "string"},
                            "plugin_config": {"type": "object"},
                        },
                    }
                },
            },
        }
    },
}


def described(classes=3, **changes):
    network = sctnet.create_model("sctnet-tiny", num_classes=classes).config
    model = ModelConfig(network=network, classes=tuple(f"class\n{n}" for n in range(classes)))
    plain = {
        "model": model, "output": "labels", "precision": "fp32", "size": None, "batch": None,
        "weights_sha256": "0" * 64, "sctnet": "0.1.0",
    }  # fmt: skip
    return ExportedConfig.model_validate({**plain, **changes})


def parsed(text):
    """Read a config.pbtxt by Triton's own message."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from google.protobuf import text_format

        model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    return text_format.Parse(text, model_config_pb2.ModelConfig()), model_config_pb2


@pytest.mark.parametrize(
    ("changes", "most", "images", "output"),
    [
        ({}, 8, [-1, -1, 3], ("labels", "TYPE_UINT8", [-1, -1])),
        ({"size": (20, 30)}, 8, [20, 30, 3], ("labels", "TYPE_UINT8", [20, 30])),
        ({"batch": 2}, 0, [2, -1, -1, 3], ("labels", "TYPE_UINT8", [2, -1, -1])),
        ({"classes": 300}, 8, [-1, -1, 3], ("labels", "TYPE_INT32", [-1, -1])),
        ({"output": "logits"}, 8, [-1, -1, 3], ("logits", "TYPE_FP32", [3, -1, -1])),
        (
            {"output": "probabilities", "size": (20, 30)},
            8, [20, 30, 3], ("probabilities", "TYPE_FP32", [3, 20, 30]),
        ),
        (
            {"output": "logits8", "size": (20, 30), "batch": 1},
            0, [1, 20, 30, 3], ("logits", "TYPE_FP32", [1, 3, -1, -1]),
        ),
    ],
)  # fmt: skip
def test_triton_reads_the_configuration(changes, most, images, output):
    config, messages = parsed(triton_configuration(described(**changes), "street"))
    assert (config.name, config.platform) == ("street", "onnxruntime_onnx")
    assert config.max_batch_size == most
    assert config.HasField("dynamic_batching") == (most > 0)
    assert [each.name for each in config.input] == ["images"]
    assert list(config.input[0].dims) == images
    assert config.input[0].data_type == messages.TYPE_UINT8
    found = config.output[0]
    name, kind, dims = output
    assert (found.name, list(found.dims)) == (name, dims)
    assert found.data_type == messages.DataType.Value(kind)
    assert found.label_filename == ("labels.txt" if name == "labels" else "")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_openvino_model_server_reads_the_configuration(precision):
    config = openvino_configuration(described(precision=precision), "street")
    jsonschema.validate(config, OPENVINO_SCHEMA)
    hints = config["model_config_list"][0]["config"]["plugin_config"]
    expected = {"fp32": "f32", "fp16": "f32", "bf16": "bf16"}.get(precision)
    assert hints.get("INFERENCE_PRECISION_HINT") == expected


def test_a_repository_holds_all_that_a_server_needs(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"graph")
    out = write_model_repository(tmp_path / "a.onnx", described(), "triton", tmp_path / "street")
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == ["street/1/model.onnx", "street/config.pbtxt", "street/labels.txt"]
    assert (out / "street/1/model.onnx").read_bytes() == b"graph"
    assert (out / "street/labels.txt").read_text() == "class 0\nclass 1\nclass 2\n"
    (tmp_path / "b.xml").write_bytes(b"graph")
    (tmp_path / "b.bin").write_bytes(b"weights")
    out = write_model_repository(
        tmp_path / "b.xml", described(), "openvino-model-server", tmp_path / "models", name="b.1"
    )
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == ["b.1/1/model.bin", "b.1/1/model.xml", "b.1/labels.txt", "config.json"]
    entry = json.loads((out / "config.json").read_text())["model_config_list"][0]["config"]
    assert (out / entry["base_path"] / "1" / "model.xml").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.onnx", "b.bin", "b.xml", "models", "street",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "server", "out", "named"),
    [
        ("a.xml", "triton", "out", ".onnx"),
        ("a.onnx", "openvino-model-server", "out", ".xml"),
        ("a.onnx", "torchserve", "out", "triton, openvino-model-server"),
        ("a.onnx", "triton", "a name", "letters"),
        ("a.onnx", "triton", "there", "exists already"),
        ("missing.onnx", "triton", "out", "missing.onnx"),
        ("b.xml", "openvino-model-server", "out", "b.bin"),
        ("a.onnx", "triton", "a.onnx/out", "cannot be written"),
    ],
)
def test_what_cannot_be_is_told_and_leaves_nothing(tmp_path, file, server, out, named):
    for name in ("a.onnx", "a.xml", "b.xml"):
        (tmp_path / name).write_bytes(b"graph")
    (tmp_path / "there").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SctnetError) as caught:
        write_model_repository(tmp_path / file, described(), server, tmp_path / out)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
