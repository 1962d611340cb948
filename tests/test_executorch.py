"""Files of ExecuTorch: PyTorch's labels, in Python and in C++, and what they refuse."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import street, written
from PIL import Image
from shared import CLASSES, described, saved
from torch import nn

from sctnet.checkpoints.exported_file import ExportedConfig
from sctnet.checkpoints.model_folder import load_model
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.errors import SctnetError
from sctnet.export.executorch_format import replace_norms
from sctnet.export.exporting import export_model
from sctnet.export.parity import Reference
from sctnet.pipeline.preprocessing import WorkingSize

INSTALLED = importlib.util.find_spec("executorch") is not None
needs_it = pytest.mark.skipif(not INSTALLED, reason='needs pip install "sctnet[executorch]"')
# ExecuTorch and torchao tell of deprecations in PyTorch, and of libraries for other processors.
pytestmark = pytest.mark.filterwarnings("ignore")
DOCUMENT = Path(__file__).parents[1] / "docs" / "browser_and_phone.md"
SIZE = 60, 80


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"), WorkingSize(rule="shorter-side", pixels=48))


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("executorch") / "model.pte"
    return export_model(folder, out, format="executorch", size=SIZE, batch=1)


def expected(folder, picture):
    config = described(folder, size=SIZE, batch=1)
    return Reference(load_model(folder), config)(picture[None])[0].numpy()[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": "fp16", "size": SIZE}, "fp16 does not go with executorch, which has fp32, "),
        ({"precision": "bf16", "size": SIZE}, "bf16 does not go with executorch, which has fp32, "),
        ({"precision": "int8", "size": SIZE}, "give --calibrate FOLDER"),
    ],
)
def test_a_wrong_pair_is_one_sentence(folder, tmp_path, options, sentence):
    with pytest.raises(SctnetError, match=sentence):
        export_model(folder, tmp_path / "a.pte", format="executorch", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(INSTALLED, reason="executorch is installed")
def test_without_the_package_a_sentence_names_it(folder, tmp_path):
    with pytest.raises(SctnetError, match=r'executorch: pip install "sctnet\[executorch\]"'):
        export_model(folder, tmp_path / "a.pte", format="executorch", size=SIZE, batch=1)


def test_norms_become_convolutions_that_compute_the_same():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.BatchNorm2d(8), nn.ReLU())).eval()
    norm = network[1][0]
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(values, 0.5, 2)
    pictures = torch.randn(2, 3, 16, 16)
    before = network(pictures)
    replace_norms(network)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    torch.testing.assert_close(network(pictures), before)


@needs_it
def test_a_size_is_asked_for(folder, tmp_path):
    with pytest.raises(SctnetError, match="give --size HEIGHTxWIDTH and --batch 1"):
        export_model(folder, tmp_path / "a.pte", format="executorch", size=SIZE)
    assert list(tmp_path.iterdir()) == []


@needs_it
def test_labels_are_those_of_pytorch(exported, folder):
    from sctnet.export.executorch_format import method_of

    assert exported.parity.equal_labels >= 0.9999
    run = method_of(exported.file.read_bytes())
    first, second = (street(*SIZE, seed) for seed in (1, 2))
    (labels,) = run(first[None])
    run(second[None])  # which leaves the first result alone
    assert labels.dtype == np.uint8
    assert (labels[0] == expected(folder, first)).mean() >= 0.999
    assert len(np.unique(labels)) >= 2


@needs_it
def test_the_file_beside_it_describes_it(exported):
    assert sorted(path.name for path in exported.file.parent.iterdir()) == [
        "model.json",
        "model.pte",
    ]
    told = ExportedConfig.from_text(exported.file.with_suffix(".json").read_text(), "model.json")
    assert told.model.classes == CLASSES
    assert (told.size, told.batch, told.precision) == (SIZE, 1, "fp32")
    assert json.loads(exported.file.with_suffix(".json").read_text())["output"] == "labels"


@needs_it
@pytest.mark.slow
def test_logits_are_an_output_too(folder, tmp_path):
    out = tmp_path / "logits.pte"
    report = export_model(folder, out, format="executorch", output="logits8", size=SIZE, batch=1)
    assert report.parity.equal_labels >= 0.9999


@needs_it
@pytest.mark.slow
def test_int8_is_calibrated_scored_and_refused(tmp_path):
    data = written(SyntheticStreets(0, 3, (50, 90)), 3, tmp_path)
    size = WorkingSize(rule="shorter-side", pixels=48)
    folder = saved(tmp_path / "model", size, data.classes)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(4):
        Image.fromarray(street(*SIZE, number)).save(pictures / f"{number}.png")
    said = []
    out = tmp_path / "int8.pte"
    report = export_model(
        folder, out, format="executorch", size=SIZE, batch=1, precision="int8",
        calibrate=pictures, say=said.append,
    )  # fmt: skip
    assert report.parity.equal_labels >= 0.85
    assert said[0].startswith("calibrating on 4 pictures")
    assert out.stat().st_size < 0.6 * (folder / "model.safetensors").stat().st_size
    with pytest.raises(SctnetError, match=r"no\.pte: not written, it lost more than -100 points"):
        export_model(
            folder, tmp_path / "no.pte", format="executorch", size=SIZE, batch=1,
            precision="int8", calibrate=pictures, dataset=data, max_drop=-100,
        )  # fmt: skip
    assert not (tmp_path / "no.pte").exists()
    assert not (tmp_path / "no.json").exists()


@needs_it
@pytest.mark.slow
def test_the_program_of_the_guide_compiles_and_labels(exported, folder, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    (code,) = re.findall(r"```cpp\n(.*?)```", DOCUMENT.read_text(), re.S)
    (tmp_path / "label.cpp").write_text(code)
    spec = importlib.util.find_spec("executorch")
    (place,) = map(Path, spec.submodule_search_locations)
    libraries = ("", "_kernels_optimized", "_kernels_quantized", "_backend_xnnpack", "_threadpool")
    include = place / "include"
    subprocess.run(
        ["g++", "-std=c++17", "-w", f"-I{include}", "-DC10_USING_CUSTOM_GENERATED_MACROS",
         f"-I{include}/executorch/runtime/core/portable_type/c10", "label.cpp", "-o", "label",
         f"-L{place}/lib", f"-Wl,-rpath,{place}/lib", "-Wl,--no-as-needed",
         *(f"-lexecutorch{name}" for name in libraries)],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    picture = street(*SIZE, 3)
    (tmp_path / "picture.rgb").write_bytes(picture.tobytes())
    command = [tmp_path / "label", exported.file, tmp_path / "picture.rgb"]
    done = subprocess.run([*command, "80", "60"], capture_output=True, check=True)
    labels = np.frombuffer(done.stdout, np.uint8).reshape(SIZE)
    assert (labels == expected(folder, picture)).mean() >= 0.999
    refused = subprocess.run([*command, "40", "30"], capture_output=True, check=False)
    assert refused.returncode == 1
    assert b"cannot label it" in refused.stderr


@needs_it
def test_the_command_prints_its_report_alone(folder, tmp_path):
    command = [sys.executable, "-m", "sctnet", "export", str(folder), "--format", "executorch"]
    options = ["--size", "60x80", "--batch", "1", "--out", str(tmp_path / "model.pte")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
