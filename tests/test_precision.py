"""Precision: chosen by what the machine multiplies, and told with its reason or its cost."""

import json
import logging
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import sctnet
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.inference.runtimes.runtime import open_network
from sctnet.models import create_model
from sctnet.pipeline import precision
from sctnet.pipeline.precision import Precision, choose_precision, is_emulated
from sctnet.pipeline.preprocessing import PreprocessingConfig
from sctnet.processes import ALONE, Processes
from sctnet.serving.bulk.worker import Worker, WorkerOptions
from sctnet.training.devices import launch_fabric, resolved_precision
from sctnet.training.dry_run import dry_run
from sctnet.training.recipe import load_recipe, shipped_recipes
from sctnet.training.trainer import train

CPU = torch.device("cpu")
SMALL = [
    "schedule.iterations=2", "schedule.warmup_iterations=0", "run.batch_size=2",
    "run.checkpoint_every=1", "run.validate_every=2", "data.workers=0",
    "augmentation.crop=[32,32]",
]  # fmt: skip


@pytest.fixture
def machine(monkeypatch):
    """Let the processor be another: its features, and what a measurement would find."""

    def be(*features, ratio=None, limits=None):
        def measured(_):
            assert ratio is not None, "nothing is to be measured"
            return ratio

        monkeypatch.setattr(precision, "processor_features", lambda: features)
        monkeypatch.setattr(precision, "instruction_limits", lambda: limits or {})
        monkeypatch.setattr(precision, "_measured_ratio", measured)
        precision._on_cpu.cache_clear()

    yield be
    precision._on_cpu.cache_clear()


@pytest.mark.parametrize("features", [("AVX2", "FMA"), ("AVX2", "FMA", "AVX-VNNI")])
def test_without_instructions_for_it_bf16_is_not_tried(machine, features):
    machine(*features)
    chosen = choose_precision("auto", CPU)
    assert chosen == Precision("fp32", "this processor does not multiply bf16")
    assert is_emulated("bf16", CPU)
    assert not is_emulated("fp32", CPU)


@pytest.mark.parametrize("feature", ["AVX-512 BF16", "AMX BF16"])
def test_with_instructions_for_it_bf16_is_chosen_without_a_measurement(machine, feature):
    machine("AVX2", "FMA", "AVX-512", feature)
    assert choose_precision("auto", CPU) == Precision(
        "bf16", f"this processor multiplies bf16: {feature}"
    )
    assert not is_emulated("bf16", CPU)


@pytest.mark.parametrize(("ratio", "name"), [(0.6, "bf16"), (1.05, "fp32"), (30, "fp32")])
@pytest.mark.parametrize(
    "doubtful",
    [
        {"features": ("AVX2", "FMA", "AVX-512")},
        {"features": ("NEON", "BF16")},
        {"features": ()},
        {"features": ("AVX-512 BF16",), "limits": {"ONEDNN_MAX_CPU_ISA": "AVX2"}},
    ],
    ids=["AVX-512 without bf16", "ARM", "unknown", "limited"],
)
def test_where_there_is_doubt_a_measurement_decides(machine, doubtful, ratio, name):
    machine(*doubtful["features"], ratio=ratio, limits=doubtful.get("limits"))
    chosen = choose_precision("auto", CPU)
    assert chosen.name == name
    assert f"{ratio:.2f} of fp32's time" in chosen.reason


def test_the_measurement_takes_little_and_leaves_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert precision._measured_ratio("bf16") > 0
    assert torch.equal(torch.rand(1), expected)


def test_a_name_is_taken_as_it_is(machine):
    machine("AVX2")
    for name in ("fp32", "bf16", "fp16"):
        assert choose_precision(name, CPU) == Precision(name)
    with pytest.raises(sctnet.SctnetError, match="choose one of auto, fp32, bf16, fp16"):
        choose_precision("half", CPU)


def test_a_gpu_decides_for_itself(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    gpu = torch.device("cuda")
    assert choose_precision("auto", gpu).name == "fp32"
    assert choose_precision("auto", gpu, on_gpu="fp16").name == "fp16"
    assert is_emulated("bf16", gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert choose_precision("auto", gpu).name == "bf16"


def test_as_an_avx2_processor_this_one_chooses_fp32():
    """The libraries heed these variables, and so does the choice, by measuring."""
    limited = {
        "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "NUMBA_CPU_NAME": "haswell",
    }  # fmt: skip
    program = (
        "import torch; from sctnet.pipeline.precision import choose_precision;"
        "print(choose_precision('auto', torch.device('cpu')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | limited
    )
    assert "name='fp32'" in done.stdout, done.stderr


# Prediction


def network():
    torch.manual_seed(0)
    return create_model("sctnet-tiny", 5).eval()


def test_a_segmenter_says_what_it_runs_in_and_why(tmp_path, machine):
    machine("AVX2", "FMA")
    folder = sctnet.save_model(network(), tmp_path / "model", list("abcde"))
    segmenter = sctnet.Segmenter(folder, "cpu")
    assert segmenter.precision == "fp32"
    assert str(segmenter).endswith("(this processor does not multiply bf16)")
    assert "(" not in str(sctnet.Segmenter(folder, "cpu", "fp32")).split("; ")[-1]


def test_a_network_that_the_kernels_have_in_fp32_alone_stays_in_fp32(machine):
    machine("AVX-512 BF16")
    runtime = open_network(network(), PreprocessingConfig(), "cpu")
    assert runtime.precision == "fp32"
    assert "fp32 alone" in str(runtime)


def test_other_networks_are_computed_in_what_the_processor_multiplies(machine):
    machine("AVX-512 BF16")
    runtime = open_network(create_model("ddrnet-23-slim", 5), PreprocessingConfig(), "cpu")
    assert runtime.precision == "bf16"
    machine("AVX2")
    runtime = open_network(create_model("ddrnet-23-slim", 5), PreprocessingConfig(), "cpu")
    assert runtime.precision == "fp32"


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_who_asks_for_an_emulated_precision_gets_it_after_one_sentence(machine, caplog, name):
    machine("AVX2", "FMA")
    runtime = open_network(network(), PreprocessingConfig(), "cpu", name)
    assert runtime.precision == name
    (record,) = caplog.records
    assert re.fullmatch(
        rf"{name} is emulated on this processor and takes \d+(\.\d)? times as long as fp32: leave "
        "the precision out, or give auto",
        record.getMessage(),
    )
    assert record.levelno == logging.WARNING


def test_no_sentence_where_nothing_is_emulated(machine, caplog):
    machine("AVX2", "FMA")
    open_network(network(), PreprocessingConfig(), "cpu")
    open_network(network(), PreprocessingConfig(), "cpu", "fp32")
    machine("AVX-512 BF16")
    open_network(create_model("ddrnet-23-slim", 5), PreprocessingConfig(), "cpu", "bf16")
    assert caplog.records == []


def test_a_worker_does_not_emulate_what_another_machine_chose(machine, tmp_path):
    machine("AVX2", "FMA")
    chosen = WorkerOptions(str(tmp_path), "labels", {}, "cpu", "bf16", by_name=False)
    with pytest.raises(sctnet.SctnetError, match="give --precision fp32"):
        Worker(None, chosen)


# Training


def test_every_shipped_recipe_chooses():
    assert {load_recipe(name).run.precision for name in shipped_recipes()} == {"auto"}


def test_a_run_notes_what_it_chose_and_keeps_it(tmp_path, machine, caplog):
    machine("AVX2", "FMA")
    caplog.set_level(logging.INFO, "sctnet")
    recipe = load_recipe("synthetic/sctnet-tiny", SMALL)
    folder = train(recipe, tmp_path / "run")
    assert "run.precision = fp32 (this processor does not multiply bf16)" in caplog.messages
    assert load_recipe(folder.recipe_file).run.precision == "fp32"
    # Killed before its end, it goes on elsewhere, where bf16 would be chosen.
    folder.summary_file.unlink()
    machine("AVX-512 BF16")
    caplog.clear()
    train(recipe, tmp_path / "run", resume=True)
    assert "run.precision = fp32 (the run was begun in it)" in caplog.messages
    assert load_recipe(folder.recipe_file).run.precision == "fp32"


def test_another_precision_than_the_run_was_begun_in_is_refused(tmp_path, machine):
    machine("AVX2", "FMA")
    recipe = load_recipe("synthetic/sctnet-tiny", SMALL)
    folder = train(recipe, tmp_path / "run")
    folder.summary_file.unlink()
    other = load_recipe("synthetic/sctnet-tiny", [*SMALL, "run.precision=bf16"])
    with pytest.raises(sctnet.SctnetError, match=r"the first is run\.precision"):
        train(other, tmp_path / "run", resume=True)


@pytest.mark.slow
def test_emulated_training_is_told_with_its_cost(tmp_path, machine, caplog):
    machine("AVX2", "FMA")
    train(load_recipe("synthetic/sctnet-tiny", [*SMALL, "run.precision=bf16"]), tmp_path / "run")
    (sentence,) = [message for message in caplog.messages if "emulated" in message]
    assert re.search(r"takes \d+(\.\d)? times as long as fp32", sentence)
    plain = train(load_recipe("synthetic/sctnet-tiny", SMALL), tmp_path / "plain")
    told = [message for message in caplog.messages if "emulated" in message]
    assert len(told) == 1
    assert plain.summary_file.is_file()


@pytest.mark.slow
def test_telling_of_emulation_changes_nothing_of_the_run(tmp_path, machine):
    recipe = load_recipe("synthetic/sctnet-tiny", [*SMALL, "run.precision=bf16"])
    machine("AVX2", "FMA")
    told = train(recipe, tmp_path / "told")
    machine("AVX-512 BF16")
    untold = train(recipe, tmp_path / "untold")
    one, other = (sctnet.load_model(run.path).state_dict() for run in (told, untold))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_a_dry_run_says_the_precision(machine):
    machine("AVX2", "FMA")
    words = str(dry_run(load_recipe("synthetic/sctnet-tiny", SMALL)))
    assert "precision       fp32 (this processor does not multiply bf16)" in words


def test_processes_on_unequal_machines_are_told_to_name_one(machine, monkeypatch):
    machine("AVX2", "FMA")
    monkeypatch.setattr(Processes, "gather", lambda _, value: ["bf16", value])
    with pytest.raises(sctnet.SctnetError, match="gives bf16 and fp32 on these machines"):
        launch_fabric(load_recipe("synthetic/sctnet-tiny", SMALL), ALONE)


def test_a_named_precision_needs_no_reason(machine):
    machine("AVX2", "FMA")
    recipe = load_recipe("synthetic/sctnet-tiny", [*SMALL, "run.precision=bf16"])
    assert resolved_precision(recipe, ALONE) == (recipe, Precision("bf16"))


# Scores


def test_scores_tell_the_processor_and_the_precision(tmp_path):
    from sctnet.inference.scoring import score

    folder = sctnet.save_model(
        create_model("sctnet-tiny", 11),
        tmp_path / "model",
        SyntheticStreets(0, 1, (32, 32)).classes,
    )
    score(sctnet.Segmenter(folder, "cpu"), SyntheticStreets(0, 2, (32, 32)), tmp_path / "out")
    report = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert report["processor"].split()[0] in {"x86_64", "arm64", "aarch64", "AMD64"}
    assert "fp32 on cpu" in report["model"]
    assert np.isfinite(report["images_per_second"])
