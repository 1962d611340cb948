"""What distillation is worth on CamVid: few labels, no labels, and suggested pictures.

Every student has the same wall-clock on this machine, by the seconds of a step that are measured
once, before the runs, and kept in --out (nothing else may run meanwhile; afterwards it may: the
iterations are set). A student's clock has the teacher's answers in it, not the teacher's training:
that has minutes of its own. Options are chosen by ``--choose`` (learn from train, score on val);
without it, train + val teach and the split test is read once a run, with the last weights.

    python benchmarks/distill.py CAMVID --out runs/distill --measure    # quiet
    python benchmarks/distill.py CAMVID --out runs/distill
    python benchmarks/distill.py CAMVID --out /tmp/rehearsal --minutes 0.2 --rehearse
"""

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
import yaml

import sctnet
from sctnet.data.registry import open_dataset
from sctnet.data.unlabelled import list_text
from sctnet.evaluation.evaluator import evaluate
from sctnet.provenance import environment
from sctnet.training.dry_run import dry_run
from sctnet.training.recipe import SegmentationRecipe, load_recipe
from sctnet.training.trainer import train
from sctnet.unlabelled.distill import distill, rehearse
from sctnet.unlabelled.suggest import suggest
from sctnet.writing import write_text

BATCH = 8
LABELLED = 37  # of the 367 train pictures
RECIPE = "camvid/sctnet-s_360x480"
TEACHER = "camvid/teacher_efficientnet-lite2"
SIZE = ("preparation.working_size.pixels=240", "augmentation.crop=[240,320]")
STUDENT = ("model.init=sctnet-s-tiny-imagenet", "loss.class_weights=none", "run.ema_decay=0.99")
TAUGHT = (  # what the chosen recipe has for a student that was trained before
    "alignment.projections=fitted", "alignment.logits=0.3", "alignment.decoder=1.5",
    "alignment.stage4=1.5", "alignment.stage3=1.5", "alignment.cache.views=1",
)  # fmt: skip


def main() -> None:
    """Run the comparisons and write their scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("camvid")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5, help="of every student")
    parser.add_argument("--teacher-minutes", type=float, default=15)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--choose", action="store_true", help="learn from train, score on val")
    parser.add_argument("--measure", action="store_true", help="only the seconds of each step")
    parser.add_argument("--rehearse", action="store_true", help="a tiny network")
    parser.add_argument("--settings", nargs="*", default=[], help="key=value of every run")
    parser.add_argument("--distilled", nargs="*", default=[], help="key=value of the distilled")
    options = parser.parse_args()
    Study(options).run()


class Study:
    """One machine's comparisons, all with the same wall-clock."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out
        self.taught = ["train"] if options.choose else ["train", "val"]
        self.scored = open_dataset(options.camvid, ["val" if options.choose else "test"])
        self.pool = open_dataset(options.camvid, self.taught)
        self.settings = [*SIZE, *options.settings]
        self.student = [*STUDENT]
        if options.rehearse:
            self.student += ["model.variant=sctnet-tiny", "model.init=null"]
        self.rates_file = self.out / "rates.json"
        self.rates: dict[str, float] = (
            json.loads(self.rates_file.read_text()) if self.rates_file.exists() else {}
        )
        self.results: dict[str, dict[str, float]] = {}

    def run(self) -> None:
        """Run every comparison of every seed; finished ones are read again."""
        self.measure()
        if self.options.measure:
            return
        file = self.out / "distill.json"
        few, everything = self.few(), self.subset("all", range(len(self.pool)))
        # One teacher of each kind for all seeds: they cost the most.
        teacher_few = self.learn("teacher-few", 0, few, teacher=True)
        teacher_all = self.learn("teacher-all", 0, everything, teacher=True)
        seeds = [int(seed) for seed in self.options.seeds.split(",")]
        for seed in seeds:
            self.learn("few", seed, few)
            self.distil("few-distilled", seed, teacher_few, few)
            self.learn("all", seed, everything)
            self.distil("no-labels", seed, teacher_all, None)
            self.write(file)
        for seed in seeds:
            self.suggested(seed)
            self.write(file)
        print(file.read_text())

    def write(self, file: Path) -> None:
        """Write what is known."""
        report = {
            "minutes": self.options.minutes, "teacher_minutes": self.options.teacher_minutes,
            "seconds_per_step": self.rates, "taught": self.taught,
            "student": [*self.settings, *self.student],
            "distilled": [*TAUGHT, *self.options.distilled], **environment(),
        }  # fmt: skip
        write_text(file, json.dumps({**report, "miou": self.results}, indent=2) + "\n")

    def few(self) -> Path:
        """Return the data set of the few labelled pictures, spread evenly over the train split."""
        train_pictures = len(open_dataset(self.options.camvid, ["train"]))
        places = np.linspace(0, train_pictures - 1, LABELLED)
        return self.subset("few", [int(place) for place in places])

    def measure(self) -> None:
        """Measure the seconds of a step of each kind of run, once."""
        if self.rates:
            return
        few, pictures = self.few(), self.pictures()
        begun = self.out / "begun"  # a teacher whose answers mean nothing yet
        if not (begun / "summary.json").exists():
            train(self.recipe(few, 0, True, "schedule.iterations=2"), begun)
        for name, teacher in (("teacher", True), ("student", False)):
            recipe = self.recipe(few, 0, teacher, "schedule.iterations=1000")
            self.rates[name] = dry_run(recipe).seconds / 1000
        for name, data in (("few-distilled", few), ("no-labels", None)):
            needs = rehearse(
                begun, pictures, data=data, recipe=RECIPE,
                settings=self.distilled_settings(0, data, 1000),
            )  # fmt: skip
            self.rates[name] = needs.seconds / 1000
            self.rates[f"{name}, cached"] = self.cached_seconds(begun, name, data)
        write_text(self.rates_file, json.dumps(self.rates) + "\n")
        print(json.dumps(self.rates))

    def cached_seconds(self, teacher: Path, name: str, data: Path | None) -> float:
        """Return the seconds of a step whose answers of the teacher are kept: of 40 more steps."""
        images = sorted((self.out / "data/all/images").glob("*.png"))
        some = self.out / "some.txt"
        some.write_text(list_text(images[:: len(images) // 16]))
        seconds = []
        for count in (10, 50):
            out = self.out / "measured" / f"{name}-{count}"
            began = time.perf_counter()
            distill(
                teacher, some, out, data=data, recipe=RECIPE,
                settings=self.distilled_settings(0, data, count),
            )  # fmt: skip
            seconds.append(time.perf_counter() - began)
        return (seconds[1] - seconds[0]) / 40

    def iterations(self, kind: str) -> int:
        """Return how many steps of a kind fit into its minutes.

        A distilled run asks its teacher in the steps of the first pass; then the answers are kept.
        """
        options = self.options
        seconds = 60 * (options.teacher_minutes if kind == "teacher" else options.minutes)
        cached = self.rates.get(f"{kind}, cached")
        if cached is None:
            return max(10, int(seconds / self.rates[kind]))
        asked = min(len(self.pool) / BATCH, seconds / self.rates[kind])
        return max(10, int(asked + (seconds - asked * self.rates[kind]) / cached))

    def recipe(self, data: Path, seed: int, teacher: bool, *more: str) -> SegmentationRecipe:
        """Return the recipe of a run that learns from labels."""
        fields = [*self.settings, *([] if teacher else self.student), f"run.seed={seed}"]
        fields += ["data.train=[train]", "data.validation=[]", "data.calibrate=false", *more]
        loaded = load_recipe(TEACHER if teacher else RECIPE, fields, source=str(data))
        assert isinstance(loaded, SegmentationRecipe)
        return loaded

    def distilled_settings(self, seed: int, data: Path | None, iterations: int) -> list[str]:
        """Return the settings of a distilled run."""
        fields = [*self.settings, *self.student, *TAUGHT, *self.options.distilled]
        fields += [f"run.seed={seed}", f"schedule.iterations={iterations}"]
        fields += [f"schedule.warmup_iterations={iterations // 20}", "data.calibrate=false"]
        return fields if data is None else [*fields, "data.train=[train]", "data.validation=[]"]

    def subset(self, name: str, numbers: object) -> Path:
        """Write some pictures of the pool, with their masks, as a data set of one split."""
        folder = self.out / "data" / name
        description = folder / "data.yaml"
        if description.exists():
            return description
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in numbers:  # type: ignore[attr-defined]
            image, labels = self.pool.pair(number)
            cv2.imwrite(str(folder / "images" / f"{number:04d}.png"), image[..., ::-1])
            cv2.imwrite(str(folder / "masks" / f"{number:04d}.png"), labels)
        fields = {
            "images": {"train": "images"},
            "masks": {"train": "masks"},
            "classes": list(self.pool.classes),
        }
        description.write_text(yaml.safe_dump(fields))
        return description

    def pictures(self) -> Path:
        """Return a list of all pictures that may teach."""
        self.subset("all", range(len(self.pool)))
        file = self.out / "pictures.txt"
        file.write_text(list_text(sorted((self.out / "data/all/images").glob("*.png"))))
        return file

    def learn(self, name: str, seed: int, data: Path, teacher: bool = False) -> Path:
        """Train from labels for the minutes; return the run."""
        out = self.out / f"{name}-{seed}"
        if not (out / "summary.json").exists():
            count = self.iterations("teacher" if teacher else "student")
            more = f"schedule.iterations={count}", f"schedule.warmup_iterations={count // 20}"
            train(self.recipe(data, seed, teacher, *more), out, resume=out.exists())
        return self.score(name, seed, out)

    def distil(self, name: str, seed: int, teacher: Path, data: Path | None) -> Path:
        """Distil for the minutes; return the run."""
        out = self.out / f"{name}-{seed}"
        if not (out / "distilled").exists():
            distill(
                teacher, self.pictures(), out, data=data, recipe=RECIPE,
                settings=self.distilled_settings(seed, data, self.iterations(name)),
                resume=(out / "recipe.yaml").exists(), explain=print,
            )  # fmt: skip
            (out / "distilled").touch()
        return self.score(name, seed, out)

    def suggested(self, seed: int) -> None:
        """Compare twenty suggested pictures with twenty random ones, each added to twenty."""
        generator = np.random.default_rng(seed)
        order = generator.permutation(len(self.pool))
        first, rest = order[:20].tolist(), order[20:].tolist()
        begun = self.learn("first-20", seed, self.subset(f"first-{seed}", first))
        folder = self.out / f"suggested-{seed}"
        listed = self.out / f"rest-{seed}.txt"
        self.pictures()
        images = self.out / "data/all/images"
        listed.write_text(list_text([images / f"{number:04d}.png" for number in rest]))
        if not (folder / "suggested.txt").exists():
            suggest(begun, listed, 20, folder)
        chosen = [int(Path(p).stem) for p in (folder / "suggested.txt").read_text().split()]
        for name, more in (("suggested-40", chosen), ("random-40", rest[:20])):
            self.learn(name, seed, self.subset(f"{name}-{seed}", [*first, *more]))

    def score(self, name: str, seed: int, run: Path) -> Path:
        """Score the last weights once; the score is kept beside the run."""
        file = run / "benchmark_miou.json"
        if not file.exists():
            segmenter = sctnet.Segmenter(run)
            miou = evaluate(segmenter.predict_labels, self.scored).scores.miou
            file.write_text(json.dumps(miou))
        self.results.setdefault(name, {})[str(seed)] = json.loads(file.read_text())
        print(name, seed, self.results[name])
        return run


if __name__ == "__main__":
    main()
