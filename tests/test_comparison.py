"""The paper's comparison on this machine: what is measured, in which order, and what is told."""

import json
import os
import stat
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from torch import nn

from sctnet.cli import main
from sctnet.cli.bench_tables import largest_spread
from sctnet.comparison import forms, measuring
from sctnet.comparison.figures import read_results, tradeoff_panels
from sctnet.comparison.forms import Form, Forms, eager_form, forms_of, tensorrt_form
from sctnet.comparison.measuring import Contender, Plan, measure, plan_of
from sctnet.comparison.published_tables import Method
from sctnet.errors import SctnetError
from sctnet.pictures import tradeoff

SPEEDS = {"sctnet-b": 50.0, "sctnet-s": 20.0}
"""Milliseconds of a call; of any other network 100."""


@pytest.fixture
def run(monkeypatch, capsys):
    """Return what runs the program in 80 columns, and returns status, output and errors."""

    def program(*arguments):
        monkeypatch.setattr(sys, "argv", ["sctnet", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return program


@pytest.fixture
def calls(monkeypatch):
    """Let networks take the times of SPEEDS; return who was called, in order."""
    order = []

    def made(variant, classes, size, device):
        if variant == "segnext-t":
            raise SctnetError("segnext-t needs a package that is not here")

        def form(name, milliseconds):
            def timed(seconds):
                order.append((variant, size, name))
                return [milliseconds * factor for factor in (1.0, 0.9, 1.1)]

            return Form(name, timed)

        speed = SPEEDS.get(variant, 100.0)
        whole = [form("bf16 PyTorch", speed), form("bf16 OpenVINO", speed / 2)]
        failed = ["ddrnet-23: a file differs"] if variant == "ddrnet-23" else []
        return Forms(form("fp32 PyTorch", 2 * speed), whole, failed)

    monkeypatch.setattr(measuring, "forms_of", made)
    monkeypatch.setattr(measuring, "REST", 0.0)
    return order


def measured(tables, only=(), rounds=2, say=lambda _: None, advance=lambda _: None):
    return measure(plan_of(tables, only), rounds, "cpu", say, advance)


# What is measured


def test_a_plan_has_every_row_whose_network_is_here():
    plan = plan_of(["1", "2", "3", "11"])
    told = " ".join(plan.left_out)
    assert len(plan.rows) + len(plan.left_out) == 27 + 12 + 9 + 19
    assert {"sctnet-s", "sctnet-b", "ddrnet-23", "segnext-t"} <= {
        each.network for _, _, each in plan.rows
    }
    for name in ("Table 1, SFNet-ResNet18", "Table 2, PSPNet(MV2)", "Table 3, ICNet"):
        assert name in told
    assert Contender("sctnet-b", 171, (640, 640)) in [each for _, _, each in plan.rows]


def test_a_network_of_several_tables_is_measured_once():
    contests = plan_of(["1", "11"]).contests()
    assert [contest[0].size for contest in contests] == [(1024, 2048), (768, 1536), (512, 1024)]
    everyone = [each for contest in contests for each in contest]
    assert len(set(everyone)) == len(everyone) < len(plan_of(["1", "11"]).rows)


@pytest.mark.parametrize("name", ["SCTNet-S-Seg50", "sctnet-s-seg50"])
def test_a_subset_by_method_has_the_reference_beside_it(name):
    found = {method.name for _, method, _ in plan_of(["1"], [name]).rows}
    assert found == {f"SCTNet-{end}" for end in ("S-Seg50", "B-Seg50", "B-Seg75", "B-Seg100")}
    assert not plan_of(["1"], [name]).left_out


def test_a_subset_by_network_has_all_its_sizes():
    found = {method.name for _, method, _ in plan_of(["1"], ["sctnet-s"]).rows}
    assert {"SCTNet-S-Seg50", "SCTNet-S-Seg75"} <= found


@pytest.mark.parametrize(
    ("tables", "only", "sentence"),
    [
        (["4"], [], "--table 4: nothing to measure: choose from 1, 2, 3, 11"),
        (["13"], [], "--table 13: nothing to measure"),
        (["1"], ["sctnet-x"], "sctnet-x: in none of the tables 1"),
    ],
)
def test_what_cannot_be_planned_is_told(tables, only, sentence):
    with pytest.raises(SctnetError, match=sentence):
        plan_of(tables, only)


# How it is measured


def test_networks_of_a_size_take_turns(calls):
    found = measured(["2"], ["sctnet-s"], rounds=3)
    turns = [(network, form) for network, _, form in calls[4:]]  # behind the choice of a form
    assert turns == 3 * [
        ("sctnet-s", "fp32 PyTorch"),
        ("sctnet-s", "bf16 OpenVINO"),
        ("sctnet-b", "fp32 PyTorch"),
        ("sctnet-b", "bf16 OpenVINO"),
    ]
    small = found["rows"][0]
    assert small["prediction"]["milliseconds"] == {
        "median": 10.0, "quartiles": [9.0, 11.0], "best": 9.0, "calls": 9,
    }  # fmt: skip
    assert small["first_milliseconds"] == {"bf16 PyTorch": 18.0, "bf16 OpenVINO": 9.0}
    assert largest_spread(found["rows"]) == pytest.approx(0.2)


def test_ratios_are_to_sctnet_b_of_the_same_table_and_size(calls):
    rows = {row["method"]: row for row in measured(["1", "2"])["rows"] if row["table"] == "1"}
    for size, published in ((50, 160.3 / 144.9), (75, 149.2 / 105.2)):
        row = rows[f"SCTNet-S-Seg{size}"]
        assert row["published"]["ratio"] == round(published, 3)
        assert row["eager"]["ratio"] == row["prediction"]["ratio"] == 2.5
    assert rows["DDRNet-23"]["eager"]["ratio"] == 0.5
    assert rows["SCTNet-B-Seg100"]["eager"]["ratio"] == 1


def test_progress_is_a_share_and_what_fails_is_told(calls):
    said, shares = [], []
    found = measured(["1"], say=said.append, advance=shares.append)
    for sentence in (
        "segnext-t: segnext-t needs a package that is not here",
        "ddrnet-23: a file differs",
        "Table 1, SFNet-ResNet18: this network is not in sctnet",
    ):
        assert sentence in found["left_out"]
        assert f"Left out: {sentence}" in said
    assert "segnext-t" not in {row["network"] for row in found["rows"]}
    assert "ddrnet-23" in {row["network"] for row in found["rows"]}
    # The turns of segnext-t, at its two sizes, do not come.
    assert 0.8 < sum(shares) < 1
    assert found["processor"]


class _Watched(nn.Module):
    """Keeps what it is called with."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append((images.shape, images.dtype, torch.is_inference_mode_enabled()))
        return images


def test_the_papers_protocol_is_one_float_image_at_a_time():
    network = _Watched()
    milliseconds = eager_form(network, (40, 60), "cpu").timed(0.0)
    assert network.seen == 2 * [((1, 3, 40, 60), torch.float32, True)], "once to warm up"
    assert len(milliseconds) == 1
    assert len(eager_form(network, (40, 60), "cpu").timed(100)) == forms.MOST_CALLS


def test_forms_are_of_one_network_from_bytes_to_labels(monkeypatch):
    monkeypatch.setattr(forms, "_file_format", lambda: None)
    first, again = (forms_of("sctnet-tiny", 5, (64, 96), "cpu") for _ in range(2))
    assert not first.left_out
    assert first.eager.name == "fp32 PyTorch"
    assert [form.name for form in first.whole] == [form.name for form in again.whole]
    assert all(each > 0 for form in (first.eager, *first.whole) for each in form.timed(0.0))
    labels = [found.whole[0].timed.args[0]()[0] for found in (first, again)]
    assert labels[0].shape == (64, 96)
    assert (labels[0] == labels[1]).all(), "its weights are the same in every run"


def test_a_form_that_fails_is_left_out(monkeypatch):
    def fails(*_):
        raise SctnetError("differs from PyTorch")

    monkeypatch.setattr(forms, "_exported", fails)
    found = forms_of("sctnet-tiny", 5, (64, 96), "cpu")
    assert len(found.whole) == 1
    assert found.left_out == ["sctnet-tiny at 64x96: differs from PyTorch"]


def test_without_a_runtime_for_files_that_is_told(monkeypatch):
    monkeypatch.setattr(forms.importlib.util, "find_spec", lambda _: None)
    assert forms.missing_runtimes("cpu") == ['OpenVINO: pip install "sctnet[openvino]"']
    monkeypatch.setenv("PATH", "")
    assert "trtexec is not on the PATH" in forms.missing_runtimes("cuda")[0]


@pytest.mark.slow
def test_a_network_and_its_file_are_measured(monkeypatch, tmp_path):
    """All of it, with real networks, small pictures and the file that OpenVINO runs."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(measuring, "REFERENCE", "sctnet-tiny")
    method = Method("Tiny", "", "sctnet-tiny", (64, 96), 10.0, None, 50.0)
    plan = Plan([("2", method, Contender("sctnet-tiny", 5, (64, 96)))], [])
    (row,) = measure(plan, 1, "cpu", print, lambda _: None)["rows"]
    assert len(row["first_milliseconds"]) == 2
    assert row["eager"]["milliseconds"]["median"] > 0
    assert row["eager"]["ratio"] == row["prediction"]["ratio"] == 1
    assert not list(tmp_path.rglob("*.xml")), "the files are removed at the end"


def test_tensorrt_is_timed_by_trtexec(monkeypatch, tmp_path):
    """A stand-in writes what NVIDIA's program writes."""
    program = tmp_path / "trtexec"
    line = "[I] Latency: min = 1.1 ms, max = 9 ms, mean = 2 ms, median = 1.75 ms, percentile = 2 ms"
    program.write_text(f"#!/bin/sh\ncase $1 in --loadEngine=*.engine) echo '{line}';; esac\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    wanted = []
    monkeypatch.setattr(forms, "export_model", lambda *_, **options: wanted.append(options))
    form = tensorrt_form(tmp_path, (512, 1024))
    assert form.timed(0.4) == [1.75]
    assert wanted == [{"format": "tensorrt", "precision": "fp16", "size": (512, 1024), "batch": 1}]
    program.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(SctnetError, match="trtexec told no latency"):
        form.timed(0.4)


# The commands


def test_bench_prints_and_writes_a_table(run, calls, tmp_path):
    out = tmp_path / "found.json"
    status, printed, errors = run("bench", "--table", 1, "--rounds", 2, "--out", out)
    assert status == 0, errors
    assert all(len(line) <= 80 for line in printed.splitlines())
    (row,) = [line for line in printed.splitlines() if line.startswith("SCTNet-S-Seg50")]
    assert row.rstrip().endswith(") bf16 OpenVINO")
    assert "72.8" in row
    for speed in ("160.3 (1.11)", "25.0 (2.50)", "100.0 (2.50)"):
        assert speed in row
    assert "1024x2048" in printed
    assert "quartiles are at most 15 % apart" in " ".join(printed.split())
    assert "Left out: Table 1, SFNet-ResNet18" in errors
    found = json.loads(out.read_text())
    assert {"processor", "threads", "commit", "rows", "rounds"} <= set(found)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--table", "1", "--size", "64x64"], "--size does not go with --table"),
        (["--table", "1", "--compiled"], "--compiled does not go with --table"),
        (["--table", "7"], "--table 7: nothing to measure"),
        (["--table", "1", "--out", "gone/a.json"], "its folder is not there"),
        (["--out", "a.json", "model"], "--out goes with --table"),
        ([], "no models: name one or more"),
    ],
)
def test_bench_refuses_what_does_not_go_together(run, calls, arguments, sentence):
    status, _, errors = run("bench", *arguments)
    assert status == 2
    assert sentence in " ".join(errors.split())
    assert not calls


@pytest.mark.parametrize("name", [*map(str, range(1, 13)), "9b"])
def test_every_table_is_printed_in_80_columns(run, name):
    status, printed, _ = run("table", name)
    assert status == 0
    assert f"Table {name}" in printed
    assert all(len(line) <= 80 for line in printed.splitlines())


def test_a_table_is_printed_as_published(run):
    _, printed, _ = run("table", "1")
    assert "DDRNet-23-S         TIP 2022          5.7M 2048 × 1024  138.9    106.7 77.8" in printed
    assert "Speeds: NVIDIA RTX 3090." in printed
    assert "Comparison of different blocks." in run("table")[1]
    assert "table 13: the paper has none" in run("table", "13")[2]


def test_models_are_listed_without_building_them():
    code = (
        "import sys; sys.argv = ['sctnet', 'models']\n"
        "from sctnet.cli import main\n"
        "try:\n    main()\nfinally:\n    print([n for n in ('torch', 'numpy') if n in sys.modules])"
    )
    environment = os.environ | {"COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert "[]" in done.stdout, done.stderr
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["sctnet-s", "4.65", "M", "32.03", "G", "8"] in lines
    heads = [" ".join(line) for line in lines]
    order = [heads.index(each) for each in ("ours", "real-time peers", "teachers")]
    assert order == sorted(order)
    assert "sctnet-s-camvid" in done.stdout


# The figures


@pytest.fixture
def results(calls, tmp_path):
    file = tmp_path / "found.json"
    file.write_text(json.dumps(measured(["1", "11"])))
    return file


def test_figures_have_published_and_measured_points(results):
    title, (published, here) = tradeoff_panels("1", read_results(results), "prediction")
    assert title.startswith("Figure 1, Table 1")
    assert len(published.points) == 27
    speeds = {point.name: point.fps for point in here.points}
    assert speeds["SCTNet-S 50"] == 100
    assert len(speeds) == len(here.points) < 27
    assert {point.family for point in here.points if point.ours} == {"SCTNet-S", "SCTNet-B"}
    _, (_, eager) = tradeoff_panels("1", read_results(results), "eager")
    assert {point.name: point.fps for point in eager.points}["SCTNet-S 50"] == 25


def test_figure_8_has_the_speeds_that_rtformers_paper_tells(results):
    _, (published, _) = tradeoff_panels("11", read_results(results), "prediction")
    speeds = {point.name: point.fps for point in published.points}
    assert (speeds["RTFormer-S"], speeds["RTFormer-B"]) == (110.0, 39.1)
    assert speeds["SCTNet-B 100"] == 76.7, "in TensorRT"


def test_plot_draws_a_table_as_png_and_svg(run, results, tmp_path):
    found = json.loads(results.read_text())
    rows = [row for row in found["rows"] if row["table"] == "11"]
    results.write_text(json.dumps(found | {"rows": rows}))
    status, _, errors = run("plot", "tradeoff", results)
    assert status == 0, errors
    picture = matplotlib.image.imread(tmp_path / "tradeoff_table_11.png")[..., :3]
    assert picture.shape[1] > 1000
    assert np.ptp(picture, axis=2).max() < 0.15, "no hue tells anything"
    assert "<svg" in (tmp_path / "tradeoff_table_11.svg").read_text()[:1000]
    assert len(list(tmp_path.iterdir())) == 3


def test_no_label_hides_another(results, monkeypatch):
    drawn = []
    monkeypatch.setattr(tradeoff, "save_figure", lambda figure, _: drawn.append(figure))
    title, panels = tradeoff_panels("1", read_results(results), "prediction")
    tradeoff.tradeoff_picture(panels[:1], title, "a.png")
    axes = drawn[0].axes[0]
    drawn[0].draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 27
    assert not any(
        one.padded(-1).overlaps(other.padded(-1)) for one, other in combinations(boxes, 2)
    )
    for box in boxes:
        assert axes.bbox.padded(1).fully_containsx(box.x0)
        assert axes.bbox.padded(1).fully_containsx(box.x1)


def test_the_page_tells_where_the_order_differs(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "tools")
    import comparison_page

    def row(method, network, published, here):
        speeds = {"fps": here, "ratio": here / 10, "form": "bf16 kernels"}
        return {
            "table": "1", "method": method, "network": network, "size": [512, 1024],
            "published": {"fps": published, "ratio": published / 100, "miou": 75.0},
            "eager": speeds, "prediction": speeds,
        }  # fmt: skip

    rows = [row("ours", "sctnet-b", 100, 10), row("one", "x", 120, 8), row("two", "y", 80, 11)]
    found = {
        "rows": rows, "processor": "a processor", "threads": 2, "torch": "2", "rounds": 5,
        "commit": "abc", "left_out": ["Table 1, three: this network is not in sctnet"],
    }  # fmt: skip
    page = comparison_page.section(found)
    assert "| one | 512x1024 | 75.0 | 120.0 (1.20) | 8.00 (0.80) | 8.00 (0.80) |" in page
    assert "in the fastest form: 3 of the 3 pairs" in page
    assert "Faster than SCTNet-B there and slower here: one (1.20 there, 0.80 here)." in page
    assert "Slower there and faster here: two (0.80 there, 1.10 here)." in page
    assert "Left out:\n\n- Table 1, three" in page


@pytest.mark.parametrize(
    "content",
    ["[]", "{", '{"rows": [{"table": "1"}]}', '{"rows": []}', '{"rows": [{"table": "99"}]}'],
)
def test_other_files_are_no_results(run, tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    status, _, errors = run("plot", "tradeoff", tmp_path / "a.json")
    assert status == 2
    assert "sctnet bench --table" in " ".join(errors.split())
    assert not list(tmp_path.glob("*.png"))


def test_plot_tells_of_files_that_are_not_there(run, tmp_path):
    assert "cannot be read" in run("plot", "tradeoff", tmp_path / "gone.json")[2]
