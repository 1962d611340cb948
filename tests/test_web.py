"""The page for browsers: complete, small, and its module computes what Python computes."""

import hashlib
import http.client
import io
import json
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from drawn import street
from onnx import numpy_helper
from PIL import Image
from shared import CLASSES, decided_network, described, saved

import sctnet
from sctnet.checkpoints.exported_file import METADATA_KEY, ExportedConfig
from sctnet.errors import SctnetError
from sctnet.export.exporting import ExportReport
from sctnet.export.parity import Parity
from sctnet.export.web import onnxruntime_web, web_page
from sctnet.export.web.onnxruntime_web import FILES, PACKAGE, VERSION, runtime_files
from sctnet.export.web.web_model import halve_weights
from sctnet.export.web.web_page import describe, export_web_page
from sctnet.inference.segmenter import Segmenter
from sctnet.pipeline.label_map import label_map
from sctnet.pipeline.preprocessing import WorkingSize
from sctnet.serving.static_folder import serve_folder

ASSETS = Path(web_page.__file__).parent / "assets"
NODE = shutil.which("node")
SIZE = WorkingSize(rule="shorter-side", pixels=48, longest=150)


def packed(folder, patch):
    """An archive as npm writes it, with small files whose checksums are those that are wanted."""
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    file = folder / "onnxruntime-web.tgz"
    with tarfile.open(file, "w:gz") as archive:
        for name in list(FILES):
            content = f"// {name}".encode()
            patch.setitem(FILES, name, hashlib.sha256(content).hexdigest())
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


@pytest.fixture
def package(tmp_path, monkeypatch):
    return packed(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"), SIZE)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """What was reported of a page, which takes some seconds to make."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        archive = packed(folder, patch)
        return export_web_page(model, folder / "page", runtime_folder=archive)


def program(folder, name, text):
    """Write a program that a test's PATH finds."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!{sys.executable}\n{text}")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(folder)


@pytest.mark.slow
def test_a_page_is_complete_and_names_nothing_elsewhere(exported):
    page = exported.folder
    files = {str(path.relative_to(page)) for path in page.rglob("*") if path.is_file()}
    assets = {path.name for path in ASSETS.iterdir()}
    assert files == assets | {"model/model.onnx", "model/model.json"} | {
        f"runtime/{name}" for name in FILES
    }
    code = {name: (page / name).read_text() for name in assets if name != "README.md"}
    for name, text in code.items():
        assert not re.search(r"https?://", text), name
        for found in re.findall(
            r"""(?:src|href|from|URL\(|import\()[= ]*"([\w./-]+\.\w+)\"""", text
        ):
            if not found.startswith("model"):
                assert (page / found).exists() or (page / "runtime" / found).exists(), found
    assert all(
        f'"{name}"' in code["sctnet-worker.js"] for name in FILES if name.endswith("min.mjs")
    )
    assert exported.model.config.precision == "fp16"
    assert exported.model.parity.equal_labels > 0.995
    assert str(page) in str(exported)
    assert list(page.parent.glob(".export-*")) == []


def test_the_model_of_a_page_is_a_model_like_any_other(exported, model):
    told = json.loads((exported.folder / "model" / "model.json").read_text())
    assert [each["name"] for each in told["classes"]] == list(CLASSES)
    assert told["working_size"] == SIZE.model_dump()
    file = exported.folder / "model" / "model.onnx"
    picture = street(90, 130)
    labels = Segmenter(file)(picture).labels
    assert (labels == Segmenter(model, "cpu", "fp32")(picture).labels).mean() > 0.995


def test_weights_alone_are_float16(exported, model):
    file = exported.folder / "model" / "model.onnx"
    # Two bytes a weight; the graph around them does not grow with the network.
    assert file.stat().st_size < 0.75 * (model / "model.safetensors").stat().st_size
    stored = onnx.load(file)
    halves = {each.name for each in stored.graph.initializer if each.data_type == 10}
    assert len(halves) > 20
    (text,) = [each.value for each in stored.metadata_props if each.key == METADATA_KEY]
    assert ExportedConfig.from_text(text, "page").precision == "fp16"
    read = {name: node.op_type for node in stored.graph.node for name in node.input}
    assert {read[name] for name in halves} == {"Cast"}


def test_what_float16_cannot_hold_stays():
    large = np.full(300, 7e4, np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["w"], ["y"])], "g", [],
        [onnx.helper.make_tensor_value_info("y", 1, [300])],
        [numpy_helper.from_array(large, "w")],
    )  # fmt: skip
    model = onnx.helper.make_model(graph)
    halve_weights(model)
    assert [each.name for each in model.graph.initializer] == ["w"]


@pytest.mark.parametrize(
    ("calibrate", "equal", "tried"),
    [(None, 1.0, ["fp16"]), ("seen", 0.991, ["int8"]), ("seen", 0.989, ["int8", "fp16"])],
)
def test_int8_is_chosen_where_labels_agree(
    package, model, tmp_path, monkeypatch, calibrate, equal, tried
):
    asked, said = [], []

    def write(chosen, folder, file, *, precision, **options):
        asked.append((precision, options.get("calibrate"), options["images"]))
        file.write_bytes(b"model")
        config = described(model, precision=precision, output=options["output"])
        return ExportReport(file, config, Parity(equal, 0.1, 1.0, 3), 1.0)

    monkeypatch.setattr(web_page, "write_proven", write)
    report = export_web_page(
        model, tmp_path / "page", calibrate=calibrate, runtime_folder=package, say=said.append
    )
    assert [precision for precision, *_ in asked] == tried
    assert asked[0][1] == calibrate
    assert asked[-1][2] == (calibrate if len(tried) == 2 else None)
    assert report.model.config.precision == tried[-1]
    assert [f"{100 * equal:.2f} %" in line for line in said] == [True] * (calibrate is not None)
    assert json.loads((tmp_path / "page/model/model.json").read_text())["precision"] == tried[-1]


def test_what_cannot_be_is_one_sentence_and_leaves_no_folder(package, model, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(SctnetError, match=r"there: exists already: choose another folder"):
        export_web_page(model, tmp_path / "there", runtime_folder=package)
    with pytest.raises(SctnetError, match="bf16 does not go with web, which has fp32, fp16, int8"):
        export_web_page(model, tmp_path / "page", precision="bf16", runtime_folder=package)
    with pytest.raises(SctnetError, match="cannot be written"):
        export_web_page(model, tmp_path / "no" / "page", runtime_folder=package)
    mirrored = sctnet.save_model(decided_network(), tmp_path / "mirrored", classes=CLASSES)
    config = json.loads((mirrored / "config.json").read_text())
    (mirrored / "config.json").write_text(json.dumps({**config, "flip": True}))
    with pytest.raises(SctnetError, match="mirrored picture"):
        export_web_page(mirrored, tmp_path / "page", runtime_folder=package)
    assert not (tmp_path / "page").exists()
    assert list(tmp_path.glob(".export-*")) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--format", "web", "--size", "8x8"], "leave --output, --size and --batch out"),
        (["--format", "onnx", "--serve"], "go with --format web, not onnx"),
        (["--runtime-folder", "x"], "go with --format web, not onnx"),
    ],
)
def test_options_that_do_not_go_together(model, tmp_path, options, sentence):
    command = [sys.executable, "-m", "sctnet", "export", str(model), "--out", str(tmp_path / "p")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert sentence in " ".join(done.stderr.split())


# --- the runtime's files -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["archive", "dist", "package", "project"])
def test_the_runtime_is_taken_from_whatever_npm_left(package, tmp_path, how):
    place = tmp_path / "unpacked"
    with tarfile.open(package) as archive:
        archive.extractall(place, filter="data")
    (tmp_path / "project" / "node_modules").mkdir(parents=True)
    shutil.copytree(place / "package", tmp_path / "project" / "node_modules" / "onnxruntime-web")
    given = {
        "archive": package, "dist": place / "package" / "dist", "package": place / "package",
        "project": tmp_path / "project",
    }[how]  # fmt: skip
    folder = runtime_files(given)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert folder.parent == tmp_path / "cache" / "sctnet"
    assert VERSION in folder.name


def test_npm_is_asked_once(package, tmp_path, monkeypatch):
    text = (
        f"import shutil, sys\nopen({str(tmp_path / 'calls')!r}, 'a').write(sys.argv[-1] + '\\n')\n"
    )
    text += f"shutil.copy({str(package)!r}, 'x.tgz')\n"
    monkeypatch.setenv("PATH", program(tmp_path / "bin", "npm", text))
    folder = runtime_files()
    assert runtime_files() == folder
    (folder / next(iter(FILES))).write_text("damaged")
    runtime_files()
    assert (tmp_path / "calls").read_text().split() == [PACKAGE, PACKAGE]


@pytest.mark.parametrize("text", [None, "import sys\nsys.exit('\\nnpm error no network')"])
def test_without_npm_or_network_a_sentence_says_what_to_do(package, tmp_path, monkeypatch, text):
    empty = tmp_path / "bin"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty) if text is None else program(empty, "npm", text))
    reason = "it is not installed" if text is None else "npm error no network"
    with pytest.raises(SctnetError, match=rf"{PACKAGE}.*{reason}.*npm pack.*--runtime-folder"):
        runtime_files()


def test_other_files_are_not_taken(package, tmp_path):
    (tmp_path / "text.tgz").write_text("no archive")
    with pytest.raises(SctnetError, match=r"text.tgz: not an archive of npm"):
        runtime_files(tmp_path / "text.tgz")
    with pytest.raises(SctnetError, match="missing; this is not onnxruntime-web"):
        runtime_files(tmp_path)
    with pytest.raises(SctnetError, match=r"nothing.tgz: cannot be read"):
        runtime_files(tmp_path / "nothing.tgz")
    name = next(iter(FILES))
    (tmp_path / name).write_text("of another version")
    with pytest.raises(SctnetError, match=f"{name} is not that of onnxruntime-web"):
        runtime_files(tmp_path)
    assert not (tmp_path / "cache" / "sctnet").exists() or not list(
        (tmp_path / "cache" / "sctnet").rglob("*.wasm")
    )


# --- the JavaScript, in Node -------------------------------------------------------------------


def javascript(text, **values):
    """Run a module in Node; ``values`` and what it returns are JSON."""
    if NODE is None:
        pytest.skip("needs Node.js to run the page's JavaScript")
    for name in ("label-map.js", "sctnet.js"):
        text = text.replace(f'"{name}"', json.dumps((ASSETS / name).as_uri()))
    script = f"const given = {json.dumps(values)};\n{text}"
    done = subprocess.run(
        [NODE, "--input-type=module", "--no-warnings"],
        input=script, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_label_maps_are_those_of_python():
    cases = []
    torch.manual_seed(0)
    sizes = [
        ((6, 8), (48, 64), (90, 131)), ((5, 7), (37, 53), (37, 53)), ((4, 3), (32, 24), (9, 7)),
        ((1, 1), (3, 2), (40, 30)), ((7, 9), (51, 66), (51, 140)),
    ]  # fmt: skip
    for chain in sizes:
        logits = torch.randn(1, 5, *chain[0])
        logits[:, 3] = logits[:, 2]  # a tie
        labels = label_map(logits, *chain[1:])[0].numpy()
        cases.append({"logits": logits.flatten().tolist(), "chain": chain, "labels": labels})
    found = javascript(
        'const { labelMap } = await import("label-map.js");'
        "console.log(JSON.stringify(given.cases.map(({ logits, chain }) => {"
        "  const { labels, pixels } = labelMap(Float32Array.from(logits), 5, chain);"
        "  return { labels: Array.from(labels), pixels }; })))",
        cases=[{key: case[key] for key in ("logits", "chain")} for case in cases],
    )
    for case, result in zip(cases, found, strict=True):
        labels = np.array(result["labels"]).reshape(case["labels"].shape)
        # Equal but where the two largest logits differ by rounding alone.
        assert (labels != case["labels"]).sum() <= 1 + 1e-3 * labels.size
        assert 3 not in labels
        assert result["pixels"] == np.bincount(labels.ravel(), minlength=5).tolist()


def test_many_classes_and_numbers_that_are_none():
    found = javascript(
        'const { labelMap } = await import("label-map.js");'
        "const logits = new Float32Array(300); logits[299] = 1;"
        "const sizes = [[1, 1], [1, 1], [1, 2]];"
        "const { labels } = labelMap(logits, 300, sizes);"
        "logits[0] = NaN; let said = '';"
        "try { labelMap(logits, 300, sizes) } catch (error) { said = error.message }"
        "console.log(JSON.stringify([labels.BYTES_PER_ELEMENT, Array.from(labels), said]))"
    )
    assert found == [2, [299, 299], "the network's results are not finite numbers"]


def test_working_sizes_are_those_of_python():
    rules = [
        WorkingSize(), SIZE, WorkingSize(rule="fixed", height=48, width=64),
        WorkingSize(rule="longer-side", pixels=99), WorkingSize(rule="shorter-side", pixels=360),
    ]  # fmt: skip
    sides = [(1, 1), (480, 640), (641, 481), (75, 5000), (3, 4000), (1080, 1921)]
    found = javascript(
        'const { workingSize } = await import("label-map.js");'
        "console.log(JSON.stringify(given.rules.map((rule) =>"
        "  given.sides.map(([height, width]) => workingSize(rule, height, width)))))",
        rules=[rule.model_dump() for rule in rules], sides=sides,
    )  # fmt: skip
    assert found == [[list(rule.apply(*size)) for size in sides] for rule in rules]


@pytest.mark.parametrize("classes", [5, 300])
def test_masks_are_those_of_predict(classes):
    labels = np.arange(7 * 11).reshape(7, 11) % classes
    told = [{"index": k, "name": str(k), "colour": [k % 256, 1, 2]} for k in range(classes)]
    found = javascript(
        'const { encodeMask } = await import("sctnet.js");'
        "const kind = given.classes.length > 255 ? Uint16Array : Uint8Array;"
        "const result = { width: 11, height: 7, labels: kind.from(given.labels) };"
        "const png = await encodeMask(result, given.classes);"
        "console.log(JSON.stringify(Array.from(new Uint8Array(await png.arrayBuffer()))))",
        labels=labels.ravel().tolist(), classes=told,
    )  # fmt: skip
    picture = Image.open(io.BytesIO(bytes(found)))
    assert np.array_equal(np.asarray(picture), labels)
    if classes <= 255:
        assert picture.getpalette()[:6] == [0, 1, 2, 1, 1, 2]


def test_types_name_what_the_module_exports():
    typed = (ASSETS / "sctnet.d.ts").read_text()
    code = (ASSETS / "sctnet.js").read_text()
    names = r"^export (?:declare )?(?:async )?(?:function|class) (\w+)"
    assert set(re.findall(names, typed, re.M)) == set(re.findall(names, code, re.M))
    described_keys = {"classes", "name", "precision", "terms", "backend", "threads"}
    (segmenter,) = re.findall(r"export interface Segmenter \{(.*?)\n\}", typed, re.S)
    assert described_keys == set(re.findall(r"readonly (\w+):", segmenter))


def test_a_page_without_colours_of_its_own_gets_the_palette(tmp_path):
    told = describe(described(saved(tmp_path / "model")))
    assert len({tuple(each["colour"]) for each in told["classes"]}) == len(CLASSES)


# --- the server --------------------------------------------------------------------------------


def test_the_server_sends_what_threads_need_on_this_machine_alone(tmp_path):
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_text("<p>page")
    (folder / "a.wasm").write_bytes(b"\0asm")
    (folder / "a.mjs").write_text("")
    (tmp_path / "secret").write_text("not for them")
    at: list[str] = []
    known = threading.Event()

    def ready(address):
        at.append(address)
        known.set()

    for _ in range(2):  # the second finds the port taken
        threading.Thread(target=serve_folder, args=(folder, ready), daemon=True).start()
        assert known.wait(10)
        known.clear()
    assert len(set(at)) == 2
    for address in at:
        assert address.startswith("http://127.0.0.1:")
        connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"))

        def get(path, connection=connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

        status, headers, body = get("/")
        assert (status, body) == (200, b"<p>page")
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert get("/a.wasm")[1]["Content-Type"] == "application/wasm"
        assert get("/a.mjs")[1]["Content-Type"] == "text/javascript"
        for path in ("/../secret", "/%2e%2e/secret", "//secret"):
            assert get(path)[0] == 404


def test_onnxruntime_web_is_pinned():
    assert set(onnxruntime_web.WEBASSEMBLY) < set(FILES)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in FILES.values())
