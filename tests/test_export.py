"""Exported files: equal to PyTorch for any picture, described, and never left half right."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from drawn import street
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import sctnet
from sctnet.checkpoints.exported_file import METADATA_KEY, ExportedConfig
from sctnet.checkpoints.model_folder import load_config, load_model
from sctnet.data.registry import open_dataset
from sctnet.errors import SctnetError
from sctnet.export import tensorrt_format
from sctnet.export.exporting import FORMATS, export_model
from sctnet.export.model_repository import export_model_repository
from sctnet.export.onnx_format import OPSET
from sctnet.export.parity import Reference
from sctnet.export.tensorrt_format import unsupported
from sctnet.inference.runtimes.openvino_engine import computed_precision, shared_core
from sctnet.inference.segmenter import Segmenter
from sctnet.pipeline.preprocessing import PreprocessingConfig, WorkingSize

CLASSES = ("road", "car", "tree", "shrub", "sky")
TREE, SHRUB = 2, 3  # always equally likely
SMALL = WorkingSize(rule="shorter-side", pixels=48, longest=150)
DOCUMENT = Path(__file__).parents[1] / "docs" / "deployment.md"


def random_model(variant="sctnet-tiny", num_classes=5, **options):
    """A network whose label maps show several classes, and a tie between two."""
    torch.manual_seed(0)
    model = sctnet.create_model(variant, num_classes, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.bias.data, module.running_mean):
                tensor.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.8, 1.2)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels == num_classes:
            nn.init.normal_(module.weight, std=1)
            module.weight.data[SHRUB] = module.weight.data[TREE]
    return model


def settled(model):
    """Let norms know what they see: attention multiplies the rounding of what grows unchecked."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    pictures = torch.from_numpy(noise(2, 96, 141)).permute(0, 3, 1, 2)
    for norm in norms:
        norm.momentum = 1
    with torch.no_grad():
        model.train()((pictures - 120) / 58)
    for norm in norms:
        norm.running_var.clamp_(min=0.5)
        norm.momentum = 0.1
    return model


def saved(folder, working_size, **options):
    names = CLASSES if "num_classes" not in options else None
    preparation = PreprocessingConfig(working_size=working_size)
    return sctnet.save_model(random_model(**options), folder, names, preparation=preparation)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"), SMALL)


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    """A model for pictures of any size, and what its export reported."""
    return export_model(folder, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    """An OpenVINO file of logits for two pictures of one size, at which they are processed."""
    folder = saved(tmp_path_factory.mktemp("fixed-model"), WorkingSize())
    out = tmp_path_factory.mktemp("openvino") / "model.xml"
    report = export_model(folder, out, format="openvino", output="logits", size=(75, 101), batch=2)
    return folder, report


def noise(n, height, width, seed=0):
    return np.stack([street(height, width, seed + number) for number in range(n)])


def session(file):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def expected_labels(folder, batch):
    config = ExportedConfig(
        model=load_config(folder), output="labels", precision="fp32", size=None, batch=None,
        weights_sha256="0" * 64, sctnet="0",
    )  # fmt: skip
    return Reference(load_model(folder), config)(batch)[0].numpy()


@pytest.fixture(scope="module")
def runtimes(exported):
    """The same file in both runtimes."""
    run = session(exported.file)
    compiled = shared_core().compile_model(
        str(exported.file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return {
        "onnxruntime": lambda batch: run.run(None, {"images": batch})[0],
        "openvino": lambda batch: compiled(batch)[0],
    }


def test_pictures_and_data_are_checked_before_anything_is_written(folder, tmp_path, monkeypatch):
    written = []
    monkeypatch.setitem(
        FORMATS, "onnx", FORMATS["onnx"]._replace(write=lambda *each: written.append(each))
    )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"half")
    (tmp_path / "empty").mkdir()
    for images in ("nowhere", "empty", "broken"):
        with pytest.raises(SctnetError, match=images):
            export_model(folder, tmp_path / "model.onnx", images=tmp_path / images)
    with pytest.raises(SctnetError, match="the model knows"):
        export_model(
            folder, tmp_path / "model.onnx", precision="int8", calibrate=DOCUMENT.parent,
            dataset=open_dataset("synthetic", ["val"]),
        )  # fmt: skip
    assert not written


sides = st.integers(1, 400)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), sides, sides)
@example(1, 1, 1)
@example(2, 48, 48)  # the working size itself
@example(1, 300, 5)
@example(1, 31, 400)  # bounded by its longer side
def test_labels_of_any_size_are_those_of_pytorch(runtimes, folder, n, height, width):
    assume(SMALL.apply(height, width)[1] > 1)  # see test_export_graph.py
    batch = noise(n, height, width)
    labels = expected_labels(folder, batch)
    for name, run in runtimes.items():
        result = run(batch)
        assert result.dtype == np.uint8
        assert result.shape == labels.shape
        wrong = int((result != labels).sum())
        assert wrong <= 1 + 1e-3 * labels.size, name
        assert SHRUB not in result, "of equal logits the lowest class"


def test_maps_that_are_compared_have_several_classes(folder):
    classes = np.unique(expected_labels(folder, noise(1, 240, 320)))
    assert len(classes) >= 3
    assert TREE in classes


def test_a_report_tells_what_was_measured(exported):
    assert exported.parity.equal_labels >= 0.9999
    assert 0 < exported.parity.largest_difference < 1e-3 * exported.parity.largest_logit
    assert str(exported.file) in str(exported)
    assert "equal labels" in str(exported)
    assert sorted(path.name for path in exported.file.parent.iterdir()) == ["model.onnx"]


def test_a_file_describes_itself(exported, folder):
    model = onnx.load(exported.file)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert model.ir_version == 8, "older ONNX Runtimes refuse what is newer than its opset needs"
    properties = {entry.key: entry.value for entry in model.metadata_props}
    config = ExportedConfig.from_text(properties[METADATA_KEY], exported.file)
    assert config == exported.config
    assert config.model == load_config(folder)
    assert properties["classes"].splitlines() == list(CLASSES)
    assert [value.name for value in model.graph.output] == ["labels"]
    axes = [
        dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim
    ]
    assert axes == ["batch", "height", "width", 3]


def test_a_file_tells_nothing_of_the_machine_it_was_made_on(exported):
    content = exported.file.read_bytes()
    assert b"site-packages" not in content
    assert b".py" not in content


def test_tensorrt_has_all_that_a_file_uses(exported):
    assert unsupported(onnx.load(exported.file)) == []


def test_what_tensorrt_lacks_is_found(exported):
    model = onnx.load(exported.file)
    nodes = {node.op_type: node for node in model.graph.node}
    next(part for part in nodes["Resize"].attribute if part.name == "antialias").i = 1
    nodes["Erf"].op_type = "Det"
    assert unsupported(model) == ["Det", "Resize with antialias"]


def test_fixed_size_gives_the_logits_of_pytorch(fixed):
    folder, report = fixed
    compiled = shared_core().compile_model(
        str(report.file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    batch = noise(2, 75, 101, seed=5)
    with torch.no_grad():
        network = load_model(folder)
        mean, std = (torch.tensor(x) for x in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
        logits = network(((torch.from_numpy(batch) - mean) / std).permute(0, 3, 1, 2).float())
    result = compiled(batch)["logits"]
    np.testing.assert_allclose(result, logits, rtol=0, atol=1e-4 * float(logits.abs().max()))
    with pytest.raises(Exception, match=r"75|shape|Shape"):
        compiled(noise(2, 76, 101))


def test_openvino_file_describes_itself_and_has_its_weights(fixed):
    _, report = fixed
    names = sorted(path.name for path in report.file.parent.iterdir())
    assert names == ["model.bin", "model.xml"]
    model = shared_core().read_model(report.file)
    text = model.get_rt_info([METADATA_KEY]).astype(str)
    assert ExportedConfig.from_text(text, report.file) == report.config
    assert report.config.size == (75, 101)


@pytest.mark.parametrize("number", [0, 1])
def test_examples_of_the_documentation_run(exported, fixed, tmp_path, number, monkeypatch):
    examples = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    code = [text for text in examples if "onnxruntime" in text or "openvino" in text]
    assert len(code) == 2
    shutil.copy(exported.file, tmp_path / "model.onnx")
    for suffix in (".xml", ".bin"):
        shutil.copy(fixed[1].file.with_suffix(suffix), tmp_path / f"fixed{suffix}")
    model = shared_core().read_model(exported.file)
    openvino.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    Image.fromarray(street(60, 80)).save(tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code[number], names)
    assert names["labels"].shape == (60, 80)


# What is not right is not left.


def shifted(by):
    """A format whose files are right but for ``by``, which is done to their answers."""

    def write(network, config, file):
        file.write_bytes(b"a model")
        reference = Reference(network, config)

        def run(batch):
            answer, _, logits = reference(batch)
            return by(answer.numpy().copy(), logits.numpy().copy())

        return run

    return FORMATS["onnx"]._replace(write=write)


def some_wrong(answer, logits):
    answer.reshape(-1)[::100] = 4
    return answer, logits


@pytest.mark.parametrize(
    "by",
    [
        pytest.param(some_wrong, id="labels"),
        pytest.param(lambda answer, logits: (answer, logits + 1), id="logits"),
        pytest.param(lambda answer, logits: (answer, logits * np.nan), id="no numbers"),
        pytest.param(lambda answer, logits: (answer[:, :-1], logits), id="another size"),
    ],
)
def test_a_wrong_file_is_not_left(folder, tmp_path, monkeypatch, by):
    monkeypatch.setitem(FORMATS, "onnx", shifted(by))
    out = tmp_path / "model.onnx"
    out.write_bytes(b"an earlier export")
    with pytest.raises(SctnetError, match=r"differs|instead") as caught:
        export_model(folder, out)
    assert "\n" not in str(caught.value)
    assert out.read_bytes() == b"an earlier export"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_an_interrupted_export_leaves_nothing(folder, tmp_path, monkeypatch):
    def write(network, config, file):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setitem(FORMATS, "onnx", FORMATS["onnx"]._replace(write=write))
    with pytest.raises(KeyboardInterrupt):
        export_model(folder, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence(folder, tmp_path, monkeypatch):
    def write(network, config, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FORMATS, "onnx", FORMATS["onnx"]._replace(write=write))
    with pytest.raises(SctnetError, match=r"model\.onnx: cannot be written \(No space"):
        export_model(folder, tmp_path / "model.onnx")


def test_an_earlier_file_is_replaced(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "onnx", shifted(lambda answer, logits: (answer, logits)))
    out = tmp_path / "model.onnx"
    out.write_bytes(b"an earlier export")
    report = export_model(folder, out)
    assert report.parity.equal_labels == 1
    assert out.read_bytes() == b"a model"


def test_a_network_in_memory_is_exported_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "onnx", shifted(lambda answer, logits: (answer, logits)))
    report = sctnet.export_model(random_model(), tmp_path / "model.onnx", output="logits8")
    assert report.config.model.classes[0] == "class 0"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_pictures_of_a_folder_are_compared_on(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "onnx", shifted(lambda answer, logits: (answer, logits)))
    for number in range(3):
        Image.fromarray(street(40, 50 + number)).save(tmp_path / f"{number}.png")
    report = export_model(folder, tmp_path / "model.onnx", images=tmp_path)
    assert report.parity.pictures == 2 + 1 + 2


def refusal(model, out, **options):
    with pytest.raises(SctnetError) as caught:
        export_model(model, out, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("m.onnx", {"format": "coreml"}, "unknown format 'coreml'"),
        ("m.onnx", {"precision": "fp64"}, "unknown precision 'fp64'"),
        ("m.onnx", {"precision": "bf16"}, "or --format openvino or torch"),
        ("m.onnx", {"output": "masks"}, "output: "),
        ("m.onnx", {"size": (0, 5)}, "size.0: "),
        ("m.onnx", {"batch": 0}, "batch: "),
        ("m.onnx", {"size": (60_000, 60_000)}, "smaller --size"),
        ("m.onnx", {"images": "no-such-folder"}, "no-such-folder"),
        ("m.xml", {}, "ends in .onnx"),
        ("m", {"format": "openvino"}, "ends in .xml"),
        ("none/m.onnx", {}, "cannot be written"),
    ],
)
def test_what_does_not_go_is_one_sentence(folder, tmp_path, monkeypatch, name, options, told):
    monkeypatch.setitem(FORMATS, "onnx", shifted(lambda answer, logits: (answer, logits)))
    assert told in refusal(folder, tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_be_exported(tmp_path):
    out = tmp_path / "m.onnx"
    assert "does not exist" in refusal("no-such-model", out)
    assert "exported already" in refusal("model.onnx", out)
    assert "fused" in refusal(random_model().fuse(), out)


@pytest.mark.parametrize(
    ("kind", "suffix", "package"),
    [("onnx", ".onnx", "onnxruntime"), ("openvino", ".xml", "openvino")],
)
def test_a_missing_package_is_named(folder, tmp_path, monkeypatch, kind, suffix, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install" in refusal(folder, tmp_path / f"m{suffix}", format=kind)


def test_a_size_too_small_for_a_network_is_told(tmp_path):
    model = random_model(
        "segformer-b0", widths=(8, 16, 40, 64), depths=(1, 1, 1, 1), decoder_channels=16
    )
    assert "32 x 32" in refusal(model, tmp_path / "m.onnx", size=(20, 64))


def test_without_a_gpu_the_command_is_told(folder, tmp_path):
    message = refusal(folder, tmp_path / "m.engine", format="tensorrt", size=(512, 1024))
    assert "--format onnx with --precision fp32 --output labels --size 512x1024" in message
    assert "trtexec --onnx=MODEL.onnx" in message
    assert "--optShapes=images:1x512x1024x3" in message


def test_an_engine_is_built_by_command(exported, folder, tmp_path, monkeypatch):
    """With a stand-in for trtexec, which takes the model and writes an engine."""
    command = tmp_path / "bin" / "trtexec"
    command.parent.mkdir()
    command.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "options = dict(part.split('=', 1) for part in sys.argv[1:] if '=' in part)\n"
        "assert open(options['--onnx'], 'rb').read(4)\n"
        "assert '--stronglyTyped' in sys.argv\n"
        "open(options['--saveEngine'], 'wb').write(b'engine')\n"
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=":")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = onnx.load(exported.file)
    monkeypatch.setattr(tensorrt_format, "onnx_model", lambda *_: model)
    correct = shifted(lambda answer, logits: (answer, logits)).write
    monkeypatch.setattr(
        tensorrt_format,
        "run_onnx",
        lambda *_: correct(load_model(folder), exported.config, tmp_path / "unused"),
    )
    out = tmp_path / "engine" / "m.engine"
    out.parent.mkdir()
    export_model(folder, out, format="tensorrt")
    assert out.read_bytes() == b"engine"
    assert [path.name for path in out.parent.iterdir()] == ["m.engine"]


def test_the_command_reports_and_refuses(folder, tmp_path):
    command = [sys.executable, "-m", "sctnet", "export", str(folder)]
    for options in (["--size", "12"], ["--precision", "bf16"]):
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "m.onnx"), *options], capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stderr.startswith("sctnet: ")
        assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# Slow: one export each.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "suffix", "precision"),
    [
        ("onnx", ".onnx", "fp16"),
        ("openvino", ".xml", "fp16"),
        ("openvino", ".xml", "bf16"),
        ("torch", ".pt2", "fp32"),
        ("torch", ".pt2", "bf16"),
    ],
)
def test_formats_and_precisions(folder, tmp_path, kind, suffix, precision):
    report = export_model(folder, tmp_path / f"m{suffix}", format=kind, precision=precision)
    # A processor that does not multiply bf16 computes OpenVINO's files for it in fp32.
    in_fp32 = kind == "openvino" and precision == "bf16" and computed_precision("bf16") == "fp32"
    assert report.parity.equal_labels < 1 or precision == "fp32" or in_fp32
    assert report.file.is_file()


@pytest.mark.slow
@pytest.mark.parametrize("output", ["probabilities", "logits", "logits8"])
@pytest.mark.parametrize(
    "working_size",
    [
        pytest.param(WorkingSize(), id="as is"),
        pytest.param(WorkingSize(rule="longer-side", pixels=160), id="longer side"),
        pytest.param(WorkingSize(rule="fixed", height=64, width=104), id="fixed"),
    ],
)
def test_outputs_and_working_sizes(tmp_path, working_size, output):
    folder = saved(tmp_path / "model", working_size)
    report = export_model(folder, tmp_path / "m.onnx", output=output)
    config = report.config
    run = session(report.file)
    reference = Reference(load_model(folder), config)
    for size in ((33, 45), (1, 61), (200, 77)):
        batch = noise(2, *size)
        answer = reference(batch)[0].numpy()
        (result,) = run.run(None, {"images": batch})
        scale = np.abs(answer).max()
        np.testing.assert_allclose(result, answer, rtol=0, atol=1e-3 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("antialias", [True, False])
def test_a_picture_of_many_pixels(tmp_path, antialias):
    preparation = PreprocessingConfig(
        working_size=WorkingSize(rule="shorter-side", pixels=200), antialias=antialias
    )
    folder = sctnet.save_model(random_model(), tmp_path / "m", CLASSES, preparation=preparation)
    report = export_model(folder, tmp_path / "m.onnx")
    batch = noise(1, 2001, 3003)
    (labels,) = session(report.file).run(None, {"images": batch})
    assert (labels == expected_labels(folder, batch)).mean() > 0.9999


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("sctnet-s", {}),
        ("sctnet-tiny", {"stage3_block": "gfa", "stage4_block": "segformer"}),
        ("sctnet-tiny", {"stage3_block": "msca", "attention_norm": "l2"}),
        ("ddrnet-23-slim", {}),
        ("segnext-t", {}),
        ("segformer-b0", {}),
        ("stdc1", {}),
        ("pidnet-s", {}),
        ("bisenet-r18", {}),
        ("bisenetv2", {}),
        ("ocrnet-hrnet-w18", {}),
        ("internimage-t", {}),
        ("efficientnet-lite2", {}),
        ("segformer-b0-hf", {}),
        ("seaformer-b", {}),
        ("topformer-b", {}),
        ("rtformer-s", {}),
        ("rtformer-b", {}),
        ("afformer-b", {}),
    ],
)
def test_networks(tmp_path, variant, options):
    working_size = WorkingSize(rule="shorter-side", pixels=96)
    model = settled(random_model(variant, **options))
    preparation = PreprocessingConfig(working_size=working_size)
    folder = sctnet.save_model(model, tmp_path / "model", CLASSES, preparation=preparation)
    report = export_model(folder, tmp_path / "m.onnx")
    assert report.parity.equal_labels >= 0.9999
    assert unsupported(onnx.load(report.file)) == []


@pytest.mark.slow
def test_a_graph_that_does_not_run_is_a_sentence(tmp_path):
    folder = saved(tmp_path / "model", SMALL, variant="upernet-convnext-tiny")
    with pytest.raises(SctnetError, match=r"cannot be run on pictures of .* --format torch$"):
        export_model(folder, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.slow
def test_more_classes_than_a_byte_counts(tmp_path):
    folder = saved(tmp_path / "model", SMALL, num_classes=300)
    report = export_model(folder, tmp_path / "m.onnx")
    batch = noise(1, 90, 121)
    (labels,) = session(report.file).run(None, {"images": batch})
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, expected_labels(folder, batch))


WRONG = """
np.save("labels.npy", labels)
moved = image.permute(2, 0, 1).contiguous().permute(1, 2, 0)  # equal, but its channels lie first
assert torch.equal(image, moved)
for wrong in (moved, image[:60], image.float()):
    try:
        library(wrong[None])
    except RuntimeError:
        continue
    raise SystemExit(f"taken: {wrong.dtype}, {wrong.shape}, {wrong.stride()}")
"""


@pytest.mark.slow
def test_a_compiled_archive_holds_program_and_library(folder, tmp_path):
    out = tmp_path / "model.pt2"
    report = export_model(folder, out, format="torch", size=(75, 101), batch=1)
    # The library takes contiguous bytes alone; these pictures' channels lie first in memory.
    batch = noise(1, 75, 101, seed=3)
    contiguous = np.ascontiguousarray(batch)
    assert batch.strides != contiguous.strides
    labels = expected_labels(folder, batch)
    notes = {"sctnet.json": ""}
    program = torch.export.load(out, extra_files=notes).module(check_guards=False)
    assert ExportedConfig.from_text(notes["sctnet.json"], out) == report.config
    library = torch._inductor.aoti_load_package(str(out))
    for run, pictures in ((program, batch), (program, contiguous), (library, contiguous)):
        (result,) = run(torch.from_numpy(pictures))
        assert (result.numpy() == labels).mean() > 0.999

    # The documentation's example, and what it says that the library refuses when it is asked to.
    Image.fromarray(contiguous[0]).save(tmp_path / "street.jpg", quality=100)
    (example,) = re.findall(r"```python\n([^`]*aoti_load_package[^`]*)```", DOCUMENT.read_text())
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(example) + WRONG],
        cwd=tmp_path, env={**os.environ, "AOTI_RUNTIME_CHECK_INPUTS": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = np.array(Image.open(tmp_path / "street.jpg"))[None]
    assert (np.load(tmp_path / "labels.npy") == expected_labels(folder, seen)).mean() > 0.999


@pytest.mark.slow
def test_real_pictures(real_data, tmp_path):
    for precision, least in (("fp32", 0.9999), ("fp16", 0.995)):
        report = export_model(
            "sctnet-s-camvid", tmp_path / "m.onnx", precision=precision,
            images=real_data / "data" / "photos",
        )  # fmt: skip
        assert report.parity.equal_labels >= least


@pytest.mark.slow
def test_a_server_loads_the_folder_as_it_is(folder, tmp_path):
    out = tmp_path / "street"
    report = export_model_repository(folder, out, "triton", size=(40, 56))
    assert report.file == out
    session = onnxruntime.InferenceSession(out / "street" / "1" / "model.onnx")
    pictures = np.stack([street(40, 56, seed) for seed in (1, 2)])
    (labels,) = session.run(None, {"images": pictures})
    assert (labels == np.stack(Segmenter(folder).predict_labels(list(pictures)))).mean() > 0.9999
    assert "dims: [40, 56, 3]" in (out / "street" / "config.pbtxt").read_text()
    with pytest.raises(SctnetError, match="exists already"):
        export_model_repository(folder, out, "triton")
    with pytest.raises(SctnetError, match="no-such-folder"):
        export_model_repository(folder, tmp_path / "no-such-folder" / "street", "triton")
    assert [path.name for path in tmp_path.iterdir()] == ["street"]
