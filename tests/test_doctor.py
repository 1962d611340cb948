"""What a command tells about this machine and itself, at the width of any terminal."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from sctnet.checkpoints.model_folder import bundled_names
from sctnet.inference import doctor
from sctnet.inference.doctor import examine
from sctnet.machine import container_limits, instruction_limits, processor, processor_features
from sctnet.training.recipe import shipped_recipes

HEAVY = ("torch._dynamo", "sympy", "lightning", "matplotlib", "tensorboard")


def sctnet_command(*arguments, width=80, **variables):
    environment = {**os.environ, "COLUMNS": str(width), **variables}
    return subprocess.run(
        [sys.executable, "-m", "sctnet", *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )


# The machine


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        ({}, (None, None)),
        ({"cpu.max": "max 100000", "memory.max": "max"}, (None, None)),
        ({"cpu.max": "50000 100000", "memory.max": "1073741824"}, (0.5, 2**30)),
        (
            {
                "cpu/cpu.cfs_quota_us": "150000",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "2147483648",
            },
            (1.5, 2**31),
        ),
        (
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            (None, None),
        ),
    ],
    ids=["none", "version 2, free", "version 2", "version 1", "version 1, free"],
)
def test_the_limits_of_a_container_are_read(tmp_path, files, limits):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert container_limits(tmp_path) == limits


def test_the_processor_is_named_with_its_features():
    assert all(feature in processor() for feature in processor_features())
    assert instruction_limits({"ONEDNN_MAX_CPU_ISA": "AVX2", "HOME": "x"}) == {
        "ONEDNN_MAX_CPU_ISA": "AVX2"
    }


# The report


def test_the_report_tells_all_that_a_bug_report_needs():
    found = examine()
    assert found["versions"]["sctnet"] == version("sctnet")
    assert {"torch", "numpy", "python", "system"} <= set(found["versions"])
    assert found["processor"]["usable cores"] >= 1
    assert found["memory"]["total"].endswith("GiB")
    model = found["bundled models"]["sctnet-s-camvid"]
    assert model["runs"].startswith(("fp32 on", "bf16 on", "fp16 on"))
    assert found["training"]["precision"].split()[0] in {"fp32", "bf16"}
    assert {"onnx", "serve", "video"} <= set(found["extras"])
    assert "dev" not in found["extras"]
    json.dumps(found)


def test_missing_extras_come_with_their_command(monkeypatch):
    monkeypatch.setattr(
        doctor, "_installed", lambda name: None if name in {"av", "gradio"} else "1.0"
    )
    extras = doctor._extras()
    assert extras["video"] == 'missing av: pip install "sctnet[video]"'
    assert extras["demo"] == 'missing av, gradio: pip install "sctnet[demo]"'
    assert extras["serve"] == "installed"


def test_a_model_that_cannot_be_opened_is_a_line_of_the_report(monkeypatch):
    def fail(name):
        raise RuntimeError("no luck")

    monkeypatch.setattr(doctor, "_opened", fail)
    assert examine()["bundled models"]["sctnet-s-camvid"] == {"fails": "RuntimeError: no luck"}


def test_the_home_folder_is_not_told():
    assert doctor._without_home("/home/ada/.cache/sctnet", Path("/home/ada")) == "~/.cache/sctnet"
    assert doctor._without_home("/var/cache", Path("/home/ada")) == "/var/cache"


def test_the_command_prints_text_and_json():
    done = sctnet_command("doctor", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["versions"]["sctnet"] == version("sctnet")
    text = sctnet_command("doctor").stdout
    assert "bundled models" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_the_version_is_printed():
    done = sctnet_command("--version")
    assert (done.returncode, done.stdout) == (0, f"sctnet {version('sctnet')}\n")


# Tables


@pytest.mark.parametrize("width", [80, pytest.param(120, marks=pytest.mark.slow)])
def test_names_are_never_cut(width):
    listed = sctnet_command("recipes", width=width).stdout
    assert "…" not in listed
    assert all(name in listed for name in shipped_recipes())
    assert all(len(line) <= width for line in listed.splitlines())
    assert ("Taught by" in listed) == (width == 120)


def test_names_of_models_are_never_cut():
    listed = sctnet_command("models").stdout
    assert "…" not in listed
    assert all(name in listed for name in bundled_names())


# Starting


def test_predicting_imports_nothing_heavy(tmp_path):
    """Compilers, training and plots take longer to import than a picture takes to label."""
    program = f"""
import sys
sys.argv = ["sctnet", "predict", "sctnet-s-camvid", {str(tmp_path / "a.png")!r},
            "--out", {str(tmp_path / "out")!r}]
import numpy, cv2
cv2.imwrite({str(tmp_path / "a.png")!r}, numpy.zeros((36, 48, 3), numpy.uint8))
from sctnet.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
    assert (tmp_path / "out" / "overlay" / "a.png").is_file()
