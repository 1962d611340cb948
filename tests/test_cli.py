"""The program as its users meet it: what it prints, what it writes, its exit status."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from released import released_checkpoint
from rich.console import Console

import sctnet
from sctnet.cli import main
from sctnet.cli.tables import scores_table
from sctnet.data.camvid import CLASSES, COLOURS
from sctnet.data.synthetic.streets import SPLITS
from sctnet.evaluation.evaluator import Evaluation
from sctnet.evaluation.scores import Scores
from sctnet.pipeline.preprocessing import PreprocessingConfig, WorkingSize
from sctnet.training.recipe import load_recipe


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random model with CamVid's classes."""
    torch.manual_seed(0)
    small = WorkingSize(rule="shorter-side", pixels=64)
    return sctnet.save_model(
        sctnet.create_model("tiny", 11),
        tmp_path_factory.mktemp("models") / "tiny",
        CLASSES,
        colours=COLOURS,
        preparation=PreprocessingConfig(working_size=small),
    )


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "type[Program]":
    Program.monkeypatch, Program.capsys = monkeypatch, capsys
    return Program


class Program:
    """One run of the program: exit status and what it printed."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __init__(self, *arguments: object) -> None:
        self.monkeypatch.setattr(sys, "argv", ["sctnet", *map(str, arguments)])
        self.monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main()
        self.status = ended.value.code or 0
        self.out, self.err = self.capsys.readouterr()


def _picture(height: int = 40, width: int = 60, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_help_imports_nothing_heavy() -> None:
    """So it answers at once: a tenth of a second instead of several."""
    heavy = "torch lightning numpy cv2 PIL pydantic matplotlib sctnet.models"
    code = (
        "import sys, sctnet, sctnet.cli\n"
        f"print([name for name in '{heavy}'.split() if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.strip() == "[]", printed.stderr


@pytest.mark.parametrize(
    "command",
    [
        "train",
        "eval",
        "predict",
        "bench",
        "convert",
        "models",
        "plot",
        "recipes",
        "data",
        "demo",
        "table",
    ],
)
def test_every_command_has_help(run: type[Program], command: str) -> None:
    program = run(command, "--help")
    assert program.status == 0
    assert "Usage: sctnet" in program.out


def test_bench_times_models_in_turns(run: type[Program], model: Path) -> None:
    program = run("bench", model, model, "--size", "64x96", "--batch", 2, "--rounds", 1)
    assert program.status == 0, program.err
    rows = [line for line in program.out.splitlines() if "fp32 on cpu" in line]
    assert len(rows) == 2
    best, median, rate, ratio = map(float, rows[0].replace("│", " ").split()[-4:])
    assert 0 < best <= median
    assert rate == pytest.approx(2000 / best, rel=0.05)
    assert ratio == 1
    assert "64x96, 2 at a time" in program.out
    assert "argmax form: cpu" in program.out


@pytest.mark.parametrize("size", ["64", "x", "0x64", "64x0x2"])
def test_bench_refuses_what_is_no_size(run: type[Program], model: Path, size: str) -> None:
    program = run("bench", model, "--size", size)
    assert program.status == 2
    assert f"--size {size}: give height and width" in program.err


def test_bench_takes_the_pictures_of_a_folder(run: type[Program], model: Path, tmp_path) -> None:
    assert "nothing" in run("bench", model, "--images", tmp_path / "nothing").err
    Image.fromarray(_picture()).save(tmp_path / "a.png")
    program = run("bench", model, "--images", tmp_path, "--size", "48x64", "--rounds", 1)
    assert program.status == 0, program.err


ODD_PICTURES = {
    "one pixel": ("one.png", _picture(1, 1), (1, 1)),
    "one row": ("row.png", _picture(1, 90), (1, 90)),
    "grey": ("grey.png", _picture(channels=1), (40, 60)),
    "grey and alpha": ("la.png", _picture(channels=2), (40, 60)),
    "alpha": ("rgba.png", _picture(channels=4), (40, 60)),
    "16 bits": ("deep.png", _picture(channels=1).astype(np.uint16) * 257, (40, 60)),
    "jpeg": ("photo.jpg", _picture(), (40, 60)),
    "odd size": ("odd.webp", _picture(97, 131), (97, 131)),
}


@pytest.mark.parametrize("what", ODD_PICTURES)
def test_predict_takes_every_picture(
    run: type[Program], model: Path, tmp_path: Path, what: str
) -> None:
    name, pixels, size = ODD_PICTURES[what]
    Image.fromarray(pixels).save(tmp_path / name)
    program = run("predict", model, tmp_path / name, "--out", tmp_path / "out")
    assert program.status == 0, program.err
    stem = name.split(".")[0]
    with Image.open(tmp_path / "out" / "labels" / f"{stem}.png") as labels:
        assert labels.mode == "P"
        assert np.asarray(labels).shape == size
        assert np.asarray(labels).max() < 11
        assert tuple(labels.getpalette()[:3]) == COLOURS[0]
    with Image.open(tmp_path / "out" / "overlay" / f"{stem}.png") as overlay:
        assert (overlay.height, overlay.width) == size


def test_predict_turns_pictures_upright(run: type[Program], model: Path, tmp_path: Path) -> None:
    lying = Image.fromarray(_picture(40, 60))
    orientation = lying.getexif()
    orientation[0x0112] = 6  # to be turned by 90 degrees
    lying.save(tmp_path / "turned.jpg", exif=orientation)
    assert run("predict", model, tmp_path / "turned.jpg", "--out", tmp_path / "out").status == 0
    with Image.open(tmp_path / "out" / "labels" / "turned.png") as labels:
        assert (labels.width, labels.height) == (40, 60)


def test_predict_reports_failures_and_does_the_rest(
    run: type[Program], model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    Image.fromarray(_picture()).save(folder / "a.png")
    Image.fromarray(_picture()).save(folder / "a.jpg")
    Image.fromarray(_picture()).save(folder / "deeper" / "b.png")
    (folder / "text.jpg").write_text("not a picture")
    (folder / "notes.txt").write_text("nobody asked for this")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:900])
    out = tmp_path / "out"
    program = run("predict", model, folder, folder / "gone.jpg", "--out", out)
    assert program.status == 1
    for name in ("text.jpg", "cut.png", "gone.jpg"):
        assert name in program.err
    assert "Traceback" not in program.err
    written = {str(file.relative_to(out / "labels")) for file in (out / "labels").rglob("*.png")}
    assert written == {"a.png", "a_png.png", "deeper/b.png"}
    assert "3 pictures labelled, 3 failed" in program.out


def test_predict_tells_of_inputs_without_a_picture(
    run: type[Program], model: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty" / "folder.jpg").mkdir(parents=True)
    Image.fromarray(_picture()).save(tmp_path / "a.png")
    given = [
        tmp_path / "a.png",
        tmp_path / "empty",
        tmp_path / "*.gone",
        "x" * 300,
        "[" + "y" * 300,
    ]
    program = run("predict", model, *given, "--out", tmp_path / "out")
    assert program.status == 1
    assert "1 pictures labelled, 4 failed" in program.out
    for sentence in ("empty: no pictures", "*.gone: no pictures", "xxx: cannot", "yyy: cannot"):
        assert sentence in program.err
    assert "Traceback" not in program.err


def test_predict_takes_the_longest_names(run: type[Program], model: Path, tmp_path: Path) -> None:
    name = "x" * 251 + ".png"
    Image.fromarray(_picture()).save(tmp_path / name)
    assert run("predict", model, tmp_path, "--out", tmp_path / "out").status == 0
    assert (tmp_path / "out" / "labels" / name).is_file()


def test_predicting_twice_does_not_label_results(
    run: type[Program], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "labels").mkdir()
    Image.fromarray(_picture()).save(tmp_path / "labels" / "mine.png")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        program = run("predict", model, ".", "--out", "out")
        assert "1 pictures labelled, 0 failed" in program.out
    assert len(list(Path("out").rglob("*.png"))) == 2
    assert Path("out/labels/labels/mine.png").is_file(), "only the output's own labels are skipped"


def test_predict_saves_every_kind_of_result(
    run: type[Program], model: Path, tmp_path: Path
) -> None:
    Image.fromarray(_picture()).save(tmp_path / "a.png")
    kinds = "labels,overlay,comparison,probabilities,json,polygons"
    options = ["--save", kinds, "--classes", "road,car", "--tile", "32", "--batch", "2"]
    program = run("predict", model, tmp_path / "a.png", "--out", tmp_path / "out", *options)
    assert program.status == 0, program.err
    out = tmp_path / "out"
    with Image.open(out / "labels" / "a.png") as image:
        labels = np.asarray(image)
    probabilities = np.load(out / "probabilities" / "a.npy")
    assert (probabilities.argmax(0) == labels).all()
    content = json.loads((out / "json" / "a.json").read_text())
    assert content["image"] == str(tmp_path / "a.png")
    assert "sctnet-tiny" in content["model"]
    assert [each["pixels"] for each in content["classes"]] == np.bincount(
        labels.ravel(), minlength=11
    ).tolist()
    collection = json.loads((out / "polygons" / "a.geojson").read_text())
    assert {feature["properties"]["index"] for feature in collection["features"]} == set(
        np.unique(labels).tolist()
    )
    shown = CLASSES[np.bincount(labels.ravel()).argmax()]
    assert shown in program.out, "the table names what was found"


def test_predict_goes_on_where_it_was_stopped(
    run: type[Program], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in "abc":
        Image.fromarray(_picture()).save(folder / f"{name}.png")
    label, done = sctnet.Segmenter.label, []

    def interrupted(self: sctnet.Segmenter, *arguments: object) -> object:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return label(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sctnet.Segmenter, "label", interrupted)
        stopped = run("predict", model, folder, "--out", out)
    assert stopped.status == 130
    assert "go on with --skip-existing" in stopped.err
    assert "Traceback" not in stopped.err
    written = sorted(file.name for file in out.rglob("*/*") if file.is_file())
    assert written == ["a.png", "a.png", "b.png", "b.png"]
    again = run("predict", model, folder, "--out", out, "--skip-existing")
    assert again.status == 0
    assert "1 pictures labelled, 2 were there already, 0 failed" in again.out
    assert (out / "labels" / "c.png").is_file()


def test_predict_does_not_take_the_results_of_another_picture(
    run: type[Program], model: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    Image.fromarray(_picture()).save(folder / "a.png")
    given = ("predict", model, folder, "--out", out, "--save", "json", "--skip-existing")
    assert "1 pictures labelled, 0 failed" in run(*given).out
    assert "0 pictures labelled, 1 were there already" in run(*given).out
    Image.fromarray(_picture()).save(folder / "a.jpg")  # which has the name a now, before a.png
    assert "2 pictures labelled, 0 failed" in run(*given).out
    assert json.loads((out / "json" / "a.json").read_text())["image"].endswith("a.jpg")
    assert "0 pictures labelled, 2 were there already" in run(*given).out
    (folder / "a.jpg").unlink()
    assert "1 pictures labelled, 0 failed" in run(*given).out, "a is that of a.png again"
    (out / ".pictures.jsonl").write_bytes(b'["a", "b"]\n[1, 2]\n3\n{\n\xff')
    assert "1 pictures labelled, 0 failed" in run(*given).out, "whose they are is not known"


@pytest.mark.parametrize("inputs", [[""], [" ", "a.png"]])
def test_an_empty_input_is_not_this_folder(
    run: type[Program], model: Path, tmp_path: Path, inputs: list[str]
) -> None:
    program = run("predict", model, *inputs, "--out", tmp_path / "out")
    assert program.status == 2
    assert "an input is empty, as of a variable without a value" in program.err
    assert not (tmp_path / "out").exists()


def test_predict_does_not_label_results_in_a_glob(
    run: type[Program], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(_picture()).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        program = run("predict", model, "**/*.png", "--out", "out")
        assert "1 pictures labelled, 0 failed" in program.out
    named = run("predict", model, "out/labels/a.png", "--out", "out2")
    assert "1 pictures labelled" in named.out, "what is named outright is meant"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        pytest.param(["--save", "mask"], "mask to save: choose from", id="kind"),
        pytest.param(["--save", ""], "choose from", id="no-kind"),
        pytest.param(["--out", "{tmp}/a.png"], "is not a folder", id="out-is-a-file"),
        pytest.param(["--out", "{tmp}/a.png/deeper"], "is not a folder", id="out-below-a-file"),
        pytest.param(["--out", "{tmp}/" + "x" * 300], "too long", id="out-too-long"),
    ],
)
def test_predict_checks_the_output_before_it_loads(
    run: type[Program], tmp_path: Path, options: list[str], named: str
) -> None:
    Image.fromarray(_picture()).save(tmp_path / "a.png")
    given = [option.format(tmp=tmp_path) for option in options]
    out = [] if "--out" in given else ["--out", tmp_path / "out"]
    program = run("predict", tmp_path / "no-model", tmp_path / "a.png", *given, *out)
    assert program.status == 2
    assert named in program.err
    assert "no-model" not in program.err
    assert program.err.count("\n") == 1, "no bar was begun"
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["{tmp}/empty"], "no pictures there"),
        (["{tmp}/gone.jpg"], "gone.jpg: there is no such file"),
        (["{tmp}/*.jpg"], "no pictures there"),
        (["{tmp}/a.png", "--save", "mask"], "mask"),
        (["{tmp}/a.png", "--precision", "int3"], "int3"),
        (["{tmp}/a.png", "--classes", "road,unicorn"], "no class 'unicorn'"),
        (["https://example.org/a.png"], "not fetched from the network"),
        (["{tmp}/a.png", "--device", "abacus"], "abacus"),
        (["{tmp}/a.png", "--out", "{tmp}/a.png"], "cannot be written"),
    ],
)
def test_mistakes_in_predict_are_one_sentence(
    run: type[Program], model: Path, tmp_path: Path, arguments: list[str], named: str
) -> None:
    (tmp_path / "empty").mkdir()
    Image.fromarray(_picture()).save(tmp_path / "a.png")
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    out = [] if "--out" in given else ["--out", tmp_path / "out"]
    program = run("predict", model, *given, *out)
    assert program.status == 2
    assert named in program.err
    assert "Traceback" not in program.err


def test_a_model_that_is_none_is_one_sentence(run: type[Program], tmp_path: Path) -> None:
    Image.fromarray(_picture()).save(tmp_path / "a.png")
    for command in (
        ["predict", tmp_path, tmp_path / "a.png", "--out", tmp_path / "out"],
        ["eval", tmp_path / "gone", "--data", "synthetic"],
    ):
        program = run(*command)
        assert program.status == 2
        assert str(tmp_path) in program.err
        assert "Traceback" not in program.err


def test_eval_writes_scores_confusion_and_sheet(
    run: type[Program], model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    program = run(
        "eval", model, "--data", "synthetic", "--split", "val", "--out", out, "--sheet", "2"
    )
    assert program.status == 0, program.err
    assert "mean IoU" in program.out
    assert "sctnet-tiny, 11 classes" in program.out
    assert {file.name for file in out.iterdir()} == {
        "scores.json", "confusion.png", "classes.png", "sheet.png",
    }  # fmt: skip
    scores = json.loads((out / "scores.json").read_text())
    assert scores["images"] == 40
    assert tuple(scores["iou"]) == CLASSES
    values = [value for value in scores["iou"].values() if value is not None]
    assert scores["miou"] == pytest.approx(np.mean(values))
    for key in ("pixel_accuracy", "mean_accuracy", "images_per_second", "protocol", "commit"):
        assert key in scores


@pytest.mark.parametrize(
    ("local", "folder"),
    [
        pytest.param(True, "some/tiny/evaluation/val", id="beside-a-model-of-ones-own"),
        pytest.param(False, "evaluation/tiny/val", id="here-for-a-name"),
    ],
)
def test_eval_writes_where_the_user_has_a_say(
    run: type[Program],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    local: bool,
    folder: str,
) -> None:
    if local:
        shutil.copytree(model, tmp_path / "some" / "tiny")
    else:
        monkeypatch.setattr("sctnet.inference.segmenter.find_model", lambda _: model)
    monkeypatch.setitem(SPLITS, "val", (2, 2))
    monkeypatch.chdir(tmp_path)
    target = tmp_path / folder
    target.mkdir(parents=True)
    (target / "sheet.png").write_text("of an earlier time")
    program = run("eval", "some/tiny", "--data", "synthetic")
    assert program.status == 0, program.err
    assert f"Written to {folder}: scores.json, confusion.png, classes.png\n" in program.out
    assert (target / "scores.json").is_file()
    assert (tmp_path / "some").exists() == local, "nothing is made that looks like the model"


def test_class_names_are_no_markup() -> None:
    names = ["[/x]", "[bold]", "[red]car[/red]"]
    scores = Scores.from_counts(np.eye(3, dtype=np.int64), names)
    console = Console(file=io.StringIO(), width=100)
    console.print(scores_table(Evaluation(scores, 1, 1.0, 1.0)))
    printed = console.file.getvalue()
    assert all(name in printed for name in names)


def test_eval_refuses_other_classes(run: type[Program], tmp_path: Path) -> None:
    other = sctnet.save_model(sctnet.create_model("tiny", 3), tmp_path / "other")
    program = run("eval", other, "--data", "synthetic")
    assert program.status == 2
    assert "the model knows 3 classes" in program.err
    renamed = sctnet.save_model(
        sctnet.create_model("tiny", 11), tmp_path / "renamed", CLASSES[::-1]
    )
    program = run("eval", renamed, "--data", "synthetic")
    assert program.status == 2
    assert "same order" in program.err


def test_convert_reports_every_key(run: type[Program], tmp_path: Path) -> None:
    checkpoint = released_checkpoint("S", num_classes=4)
    torch.save({"state_dict": checkpoint}, tmp_path / "official.pth")
    program = run(
        "convert", tmp_path / "official.pth", tmp_path / "model", "--keys", "--classes", "a,b,c,d"
    )
    assert program.status == 0, program.err
    for key in checkpoint:
        assert key in program.out
    assert sctnet.load_model(tmp_path / "model").config.num_classes == 4
    program = run("convert", tmp_path / "gone.pth", tmp_path / "nothing")
    assert program.status == 2
    assert "gone.pth" in program.err
    assert not (tmp_path / "nothing").exists()


def _small_data_set(root: Path) -> Path:
    for kind, pixels in (("images", _picture()), ("masks", np.eye(40, 60, dtype=np.uint8))):
        (root / kind).mkdir(parents=True)
        Image.fromarray(pixels).save(root / kind / "a.png")
    (root / "data.yaml").write_text(
        "images: {train: images}\nmasks: {train: masks}\nclasses: [road, car]\n"
    )
    return root / "data.yaml"


SMALL = [
    "schedule.iterations=2",
    "schedule.warmup_iterations=0",
    "run.batch_size=1",
    "model.variant=sctnet-tiny",
    "data.workers=0",
]


def test_train_without_a_recipe_chooses_and_says_why(run: type[Program], tmp_path: Path) -> None:
    data, out = _small_data_set(tmp_path / "data"), tmp_path / "run"
    program = run("train", *SMALL, "--data", data, "--out", out)
    assert program.status == 0, program.err
    assert "augmentation.crop = [40, 60]  (what fits of 40x60, on a CPU)" in program.out
    assert "loss.class_weights = balanced  (the most frequent class has 59 times" in program.out
    resolved = load_recipe(out / "recipe.yaml")
    assert resolved.augmentation.crop == (40, 60)
    assert resolved.schedule.iterations == 2
    # A resume needs neither recipe nor data: the run has both.
    again = run("train", "--out", out, "--resume")
    assert again.status == 0, again.err
    assert load_recipe(out / "recipe.yaml") == resolved


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "name a recipe, or data (--data)"),
        (("run.seed=1",), "name a recipe, or data (--data)"),
        (("--data", "{data}", "--scale", "camvid"), "--scale: goes with a named recipe"),
        (("ablation/base", "--scale", "seg1"), "--scale: there is no seg1"),
    ],
)
def test_train_says_what_it_lacks(
    run: type[Program], tmp_path: Path, arguments: tuple[str, ...], named: str
) -> None:
    data = str(_small_data_set(tmp_path / "data"))
    filled = [argument.replace("{data}", data) for argument in arguments]
    program = run("train", *filled, "--out", tmp_path / "run")
    assert program.status == 2
    assert named in program.err
    assert not (tmp_path / "run").exists()


def test_models_and_recipes_are_listed(run: type[Program]) -> None:
    models = run("models")
    assert models.status == 0
    for shown in (
        "sctnet-s",
        "4.65 M",
        "32.03 G",
        "119.52 G",
        "ddrnet-23",
        "real-time peers",
        "pip install sctnet[EXTRA]",
    ):
        assert shown in models.out
    listed = run("recipes")
    assert "camvid/sctnet-s_360x480" in listed.out
    shown = run("recipes", "show", "camvid/sctnet-s_360x480")
    assert "warmup_iterations: 200" in shown.out


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'{"loss": 1}\n', "line 1: not a run's record"),
        (b"[1]\n", "line 1: not a run's record"),
        (b"\xff\xfe\n", "cannot be read"),
    ],
)
def test_damaged_metrics_are_named(
    run: type[Program], tmp_path: Path, content: bytes, named: str
) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(content)
    program = run("plot", tmp_path)
    assert program.status == 2
    assert "metrics.jsonl" in program.err
    assert named in program.err


def test_plot_draws_a_run(run: type[Program], tmp_path: Path) -> None:
    lines = [{"step": step, "loss": 1 / step, "learning_rate": 1e-3} for step in range(1, 5)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert run("plot", tmp_path).status == 0
    with Image.open(tmp_path / "curves.png") as curves:
        assert min(curves.size) > 100
    program = run("plot", tmp_path / "gone")
    assert program.status == 2
    assert "gone" in program.err


def test_train_tells_mistakes(run: type[Program], tmp_path: Path) -> None:
    cases = {
        ("camvid/sctnet-s_360x480",): "name their folder by --data",
        ("camvid/sctnet-s_360x480", "--data", str(tmp_path)): "is not a known data set",
        ("nowhere.yaml",): "neither a file nor a shipped recipe",
        ("synthetic/sctnet-tiny", "run.speed=2"): "run.speed",
        ("synthetic/sctnet-tiny", "--student", "resnet"): "unknown variant 'resnet'",
    }
    for arguments, named in cases.items():
        program = run("train", *arguments, "--out", tmp_path / "run")
        assert program.status == 2
        assert named in program.err
        assert not (tmp_path / "run").exists()
