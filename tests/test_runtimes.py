"""Exported files behind a Segmenter: equal to the model folder, and refused in one sentence."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import jaxtyping
import numpy as np
import onnx
import openvino
import pytest
import torch
from drawn import street
from onnx import TensorProto, helper
from PIL import Image
from shared import described, saved, write_graph

import sctnet
from sctnet.checkpoints.exported_file import METADATA_KEY
from sctnet.checkpoints.model_folder import load_config
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.errors import SctnetError
from sctnet.export.onnx_format import LOGITS
from sctnet.inference.runtimes import exported_runtime
from sctnet.inference.runtimes.onnx_engine import OnnxEngine
from sctnet.inference.runtimes.openvino_engine import computed_precision, shared_core
from sctnet.inference.scoring import score
from sctnet.inference.video.smoothing import Stillness
from sctnet.pipeline.preprocessing import WorkingSize

OUTPUTS = ("labels", "logits", "probabilities", "logits8")
CLASSES = SyntheticStreets(0, 1).classes
FILES = [f"{output}{ending}" for output, ending in product(OUTPUTS, (".onnx", ".xml"))]
BY_CLASS = [file for file in FILES if not file.startswith("labels")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a model with a working size, whose label maps show several classes."""
    rule = WorkingSize(rule="shorter-side", pixels=64)
    return saved(tmp_path_factory.mktemp("model"), rule, CLASSES)


@pytest.fixture(scope="module")
def graph(folder, tmp_path_factory):
    """Return the exported graph, with all that can be asked of it inside."""
    file = tmp_path_factory.mktemp("graph") / "whole.onnx"
    # Elsewhere: the shapes that tests check here are symbols while a graph is traced.
    return onnx.load(write_graph(folder, file))


def written(graph, config, file, text=None):
    """Write the graph's part that a configuration describes, in the format of the file's ending."""
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    (argmax,) = (node for node in model.graph.node if node.op_type == "ArgMax")
    name = config.output.removesuffix("8")
    if config.output != "labels":
        made_of = LOGITS if config.output == "logits8" else argmax.input[0]
        kind, options = ("Softmax", {"axis": 1}) if name == "probabilities" else ("Identity", {})
        model.graph.node.append(helper.make_node(kind, [made_of], [name], **options))
        shape = [None, len(config.model.classes), None, None]
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    else:
        output = model.graph.output[0]
    kept = onnx.ValueInfoProto()
    kept.CopyFrom(output)
    del model.graph.output[:]
    model.graph.output.append(kept)
    del model.metadata_props[:]
    text = config.model_dump_json() if text is None else text
    if text:
        model.metadata_props.add(key=METADATA_KEY, value=text)
    if file.suffix == ".onnx":
        onnx.save(model, file)
    else:
        converted = shared_core().read_model(model.SerializeToString(), b"")
        if text:
            converted.set_rt_info(text, [METADATA_KEY])
        openvino.save_model(converted, file, compress_to_fp16=False)
    return file


@pytest.fixture(scope="module")
def files(tmp_path_factory, folder, graph):
    place = tmp_path_factory.mktemp("exported")
    for name in FILES:
        written(graph, described(folder, output=name.partition(".")[0]), place / name)
    return place


@pytest.fixture(scope="module")
def plain(folder):
    return sctnet.Segmenter(folder, "cpu")


def equal_share(one, other):
    assert one.shape == other.shape
    assert one.dtype == other.dtype
    assert len(np.unique(one)) > 1, "a map of one class would prove nothing"
    return (one == other).mean()


PICTURES = [street(64, 91), street(64, 91, 1), street(150, 97, 2), street(20, 33, 3)]


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_what_its_folder_gives(files, plain, name, tmp_path):
    segmenter = sctnet.Segmenter(files / name)
    expected = plain(PICTURES)
    for found, wanted in zip(segmenter(PICTURES), expected, strict=True):
        assert equal_share(found.labels, wanted.labels) > 0.999
        assert (found.classes, found.colours) == (wanted.classes, wanted.colours)
    for found, wanted in zip(segmenter(iter(PICTURES)), expected, strict=True):
        assert equal_share(found.labels, wanted.labels) > 0.999
    Image.fromarray(PICTURES[0]).save(tmp_path / "a.png")
    encoded = (tmp_path / "a.png").read_bytes()
    for source in (tmp_path / "a.png", encoded, Image.fromarray(PICTURES[0])):
        assert equal_share(segmenter(source).labels, expected[0].labels) > 0.999
    engine = "ONNX Runtime" if name.endswith("onnx") else "OpenVINO"
    assert str(segmenter).endswith(f"working size shorter-side 64; fp32 in {engine} on cpu")
    assert str(segmenter).partition(";")[0] == str(plain).partition(";")[0]


@pytest.mark.parametrize("name", BY_CLASS)
@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"flip": True}, marks=pytest.mark.slow), {"tile": 48}],
    ids=str,
)
def test_probabilities_tiles_and_mirrors_are_those_of_the_folder(files, folder, name, options):
    image = street(90, 121)
    found = sctnet.Segmenter(files / name, **options)(image, probabilities=True)
    expected = sctnet.Segmenter(folder, "cpu", **options)(image, probabilities=True)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=2e-3)
    assert equal_share(found.labels, expected.labels) > 0.995


@pytest.mark.parametrize("name", ["labels.onnx", "labels.xml"])
@pytest.mark.parametrize(
    "use",
    [
        lambda file: sctnet.Segmenter(file, probabilities=True),
        lambda file: sctnet.Segmenter(file)(street(40, 50), probabilities=True),
        lambda file: sctnet.Segmenter(file).predict_probabilities([street(40, 50)]),
        lambda file: sctnet.Segmenter(file, flip=True),
        lambda file: sctnet.Segmenter(file, scales=(0.5, 1.0)),
        lambda file: sctnet.Segmenter(file, tile=32)(street(40, 50)),
    ],
    ids=["all", "one call", "alone", "flip", "scales", "tiles"],
)
def test_what_labels_cannot_give_names_the_export_that_can(files, name, use):
    with pytest.raises(SctnetError, match=rf"^\S+{name}: gives labels only.*--output logits8$"):
        use(files / name)


def test_scales_need_the_folder(files):
    with pytest.raises(SctnetError, match=r"give the model folder$"):
        sctnet.Segmenter(files / "logits8.onnx", scales=(0.5,))(street(40, 50))


def test_large_pictures_are_brought_to_the_working_size_first(files, plain, monkeypatch):
    image = street(300, 131)
    expected = plain(image, probabilities=True)
    monkeypatch.setattr(exported_runtime, "LARGE_PICTURE", 5000)
    for name in BY_CLASS:
        found = sctnet.Segmenter(files / name)(image, probabilities=True)
        assert equal_share(found.labels, expected.labels) > 0.98  # rounded to bytes once more
        assert np.abs(found.probabilities - expected.probabilities).mean() < 0.01


# What files prescribe


@pytest.mark.parametrize("ending", [".onnx", ".xml"])
def test_a_fixed_size_is_said_and_a_fixed_batch_is_filled(tmp_path, folder, graph, plain, ending):
    config = described(folder, size=(40, 56), batch=2)
    segmenter = sctnet.Segmenter(written(graph, config, tmp_path / f"fixed{ending}"))
    passed, engine = [], segmenter.runtime._engine

    class Counted:
        rounds_pixels = False

        def __call__(self, images):
            passed.append(len(images))
            return engine(images)

    segmenter.runtime._engine = Counted()
    images = [street(40, 56, seed) for seed in range(3)]
    for found, image in zip(segmenter(images), images, strict=True):
        assert equal_share(found.labels, plain(image).labels) > 0.999
    assert passed == [2, 2]
    with pytest.raises(SctnetError, match=r"56 x 41: .* pictures of 56 x 40 alone"):
        segmenter(street(41, 56))


def test_windows_of_a_fixed_size_label_larger_pictures(tmp_path, folder, graph):
    config = described(folder, size=(48, 48), output="logits8")
    file = written(graph, config, tmp_path / "window.onnx")
    image = street(90, 121)
    found = sctnet.Segmenter(file, tile=48)(image).labels
    assert equal_share(found, sctnet.Segmenter(folder, "cpu", tile=48)(image).labels) > 0.995


@pytest.mark.parametrize("name", ["labels.onnx", "logits8.xml"])
@pytest.mark.parametrize("callers", [2, 5])
def test_side_by_side_callers_share_the_threads_and_get_the_same_labels(files, name, callers):
    segmenter = sctnet.Segmenter(files / name, threads=2)
    several = segmenter.side_by_side(callers)
    assert segmenter.side_by_side(callers).runtime is several.runtime, "opened once"
    assert (threads_of(segmenter), threads_of(several)) == (2, 1)
    images = [street(40, 60, k) for k in range(8)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(several, images))
    for found, image in zip(together, images, strict=True):
        assert equal_share(found.labels, segmenter(image).labels) > 0.999


def threads_of(segmenter):
    """Return how many threads a call of an exported file is computed in."""
    engine = segmenter.runtime._engine
    if isinstance(engine, OnnxEngine):
        return engine._session.get_session_options().intra_op_num_threads
    compiled = engine._compiled.any
    return compiled.get_property("INFERENCE_NUM_THREADS") // compiled.get_property("NUM_STREAMS")


def test_callers_without_a_thread_each_share_the_engine(files, folder):
    for name in ("labels.onnx", "logits8.xml"):
        segmenter = sctnet.Segmenter(files / name, threads=1)
        assert segmenter.side_by_side(2).runtime is segmenter.runtime
        segmenter = sctnet.Segmenter(files / name, threads=2)
        assert segmenter.side_by_side(1).runtime is segmenter.runtime
    segmenter = sctnet.Segmenter(folder, "cpu")
    assert segmenter.side_by_side(1).runtime is segmenter.runtime
    in_pytorch = sctnet.Segmenter(folder, "cpu", "fp16")
    assert in_pytorch.side_by_side(2).runtime is in_pytorch.runtime


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_callers_share_the_engine_of_a_file_that_cannot_be_opened_again(files, tmp_path, change):
    file = tmp_path / "model.onnx"
    shutil.copy(files / "labels.onnx", file)
    segmenter = sctnet.Segmenter(file, threads=2)
    file.unlink()
    if change == "replaced":
        shutil.copy(files / "logits8.onnx", file)
    assert segmenter.side_by_side(2).runtime is segmenter.runtime


def test_a_runtime_serves_several_threads(files):
    images = [street(40 + 8 * k, 60, k) for k in range(8)]
    for name in ("labels.onnx", "logits8.xml"):
        segmenter = sctnet.Segmenter(files / name, threads=1)
        alone = [segmenter(image).labels for image in images]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(segmenter, images))
        for found, expected in zip(together, alone, strict=True):
            np.testing.assert_array_equal(found.labels, expected)


def test_bf16_can_be_asked_of_openvino(files, plain, caplog):
    segmenter = sctnet.Segmenter(files / "logits8.xml", precision="bf16")
    computed = computed_precision("bf16")
    assert f"{computed} in OpenVINO on cpu" in str(segmenter)
    assert segmenter.precision == computed
    told = f"{files / 'logits8.xml'}: computed in fp32, since this processor does not multiply bf16"
    assert caplog.messages == ([] if computed == "bf16" else [told])
    image = street(64, 91)
    assert equal_share(segmenter(image).labels, plain(image).labels) > 0.9


def test_a_file_is_scored_as_its_folder_is(tmp_path, files, plain):
    data = SyntheticStreets(0, 3, (48, 64))
    expected = score(plain, data, tmp_path / "folder").scores.counts
    for name in ("labels.onnx", "logits8.xml"):
        found = score(sctnet.Segmenter(files / name), data, tmp_path / name).scores.counts
        assert np.abs(found - expected).sum() <= 0.002 * expected.sum()
        assert json.loads((tmp_path / name / "scores.json").read_text())["model"].endswith("cpu")


# Options and files that cannot be


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("labels.onnx", {"precision": "bf16"}, "computes in fp32"),
        ("labels.xml", {"precision": "int8"}, "bf16 or fp32"),
        ("labels.onnx", {"precision": "half"}, "computes in fp32"),
        ("labels.onnx", {"device": "tpu"}, "try 'cpu'"),
        ("labels.onnx", {"device": "cpu:x"}, "try 'cpu'"),
        ("labels.xml", {"device": "cuda"}, "choose one of cpu"),
        ("labels.onnx", {"threads": 0}, "give 1 or more"),
        ("labels.onnx", {"compiled": True}, "leave out compiled"),
        ("labels.onnx", {"tile": 8}, "32 pixels"),
        ("labels.onnx", {"batch_size": 0}, "1 or more"),
        ("none.onnx", {}, "there is no such file"),
        ("none.xml", {}, "there is no such file"),
        ("model.pt2", {}, "runs code when it is read"),
    ],
)
def test_options_and_names_that_cannot_be(files, name, options, sentence):
    with pytest.raises(SctnetError, match=sentence) as caught:
        sctnet.Segmenter(files / name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [".onnx", ".xml"])
@pytest.mark.parametrize("damage", ["empty", "text", "noise", "cut", "swapped"])
def test_damaged_files_are_one_sentence(tmp_path, files, ending, damage, capfd):
    whole = (files / f"labels{ending}").read_bytes()
    other = (files / f"labels{'.xml' if ending == '.onnx' else '.onnx'}").read_bytes()
    content = {
        "empty": b"",
        "text": b"this is no model",
        "noise": np.random.default_rng(0).bytes(5000),
        "cut": whole[: len(whole) // 2],
        "swapped": other,
    }[damage]
    file = tmp_path / f"broken{ending}"
    file.write_bytes(content)
    with pytest.raises(SctnetError, match=rf"^{file}: ") as caught:
        sctnet.Segmenter(file)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", ""), "the engine speaks for itself"


def test_an_xml_without_its_bin_says_what_is_missing(tmp_path, files):
    file = tmp_path / "lonely.xml"
    file.write_bytes((files / "labels.xml").read_bytes())
    with pytest.raises(SctnetError, match=r"lonely\.bin is missing beside it$"):
        sctnet.Segmenter(file)


@pytest.mark.parametrize("ending", [".onnx", ".xml"])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "not made by `sctnet export`"),
        ("{}", "not one that this version reads"),
        ('["a"]', "not one that this version reads"),
        ("plain words", "not one that this version reads"),
        ("x" * 2_000_000, "2,000,000 characters"),
    ],
    ids=["none", "empty", "list", "text", "long"],
)
def test_foreign_metadata_are_one_sentence(tmp_path, folder, graph, ending, text, sentence):
    file = written(graph, described(folder), tmp_path / f"foreign{ending}", text)
    with pytest.raises(SctnetError, match=sentence) as caught:
        sctnet.Segmenter(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [".onnx", ".xml"])
def test_a_graph_that_is_not_what_it_says_is_refused(tmp_path, folder, graph, ending):
    ports = written(
        graph, described(folder), tmp_path / f"ports{ending}",
        described(folder, output="logits").model_dump_json(),
    )  # fmt: skip
    with pytest.raises(SctnetError, match=r"gives labels .*not images .* and logits"):
        sctnet.Segmenter(ports)
    fewer = load_config(folder)
    network = fewer.network.model_copy(update={"num_classes": 2})
    fewer = fewer.model_copy(update={"network": network, "classes": ("a", "b")})
    for output in ("labels", "logits8"):
        text = described(folder, output=output, model=fewer).model_dump_json()
        file = written(
            graph, described(folder, output=output), tmp_path / f"classes-{output}{ending}", text
        )
        with pytest.raises(SctnetError, match="not those of 2 classes"):
            sctnet.Segmenter(file)(street(64, 91))


def test_further_inputs_are_refused(tmp_path, folder, graph):
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    file = written(model, described(folder), tmp_path / "inputs.onnx")
    with pytest.raises(SctnetError, match=r"takes images .*, more \(float32, 1 sides\)"):
        sctnet.Segmenter(file)


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [("onnxruntime", "labels.onnx", "onnx"), ("openvino", "labels.xml", "openvino")],
)
def test_a_missing_package_says_how_to_install_it(monkeypatch, files, package, name, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SctnetError, match=rf'pip install "sctnet\[{extra}\]"'):
        sctnet.Segmenter(files / name)


def test_a_model_folder_may_end_in_onnx(tmp_path, folder):
    target = tmp_path / "folder.onnx"
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    assert "fp32 on cpu" in str(sctnet.Segmenter(target, "cpu"))


# PyTorch's own options


def test_threads_are_pytorchs(folder):
    before = torch.get_num_threads()
    try:
        sctnet.Segmenter(folder, "cpu", threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def unchecked_shapes():
    """Only tests check shapes, and PyTorch's compiler cannot follow that."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.slow  # the compiler takes a minute
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # its own, as it is imported
@pytest.mark.usefixtures("unchecked_shapes")
def test_a_compiled_network_gives_the_same(folder, plain):
    segmenter = sctnet.Segmenter(folder, "cpu", compiled=True)
    assert str(segmenter).endswith("fp32 on cpu, compiled")
    images = [street(64, 91), street(64, 91, 1)]
    found = [segmenter(image).labels for image in images]
    for labels, image in zip(found, images, strict=True):
        assert equal_share(labels, plain(image).labels) > 0.999


def test_stillness_counts_grey_levels():
    still = Stillness()
    picture = torch.full((1, 3, 2, 2), 100, dtype=torch.uint8)
    assert still(picture) is None
    moved = picture.clone()
    moved[0, 1, 0, 0] = 103
    moved[0, 2, 1, 1] = 96
    found = still(moved)
    assert found is not None
    assert found[0].tolist() == [[True, True], [True, False]]


@pytest.mark.skipif(sys.platform != "linux", reason="stacks for signals are lost on Linux")
def test_a_signal_may_come_after_two_models_of_openvino(files):
    """Where each has a Core of its own, the stack for signals is freed memory after both."""
    code = f"""
import os, signal, sctnet
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
first, second = (sctnet.Segmenter({str(files / "labels.xml")!r}) for _ in range(2))
del first
del second
os.kill(os.getpid(), signal.SIGUSR1)
assert seen
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
