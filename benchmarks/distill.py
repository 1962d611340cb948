"""What distillation is worth on CamVid: few labels, no labels, and suggested pictures.

Teacher and students have the same wall-clock, in minutes of this machine. Options are chosen by
``--choose`` (learn from train, score on val); without it, train + val teach and the split test is
read once, with the last weights. Everything is written below --out, results to distill.json there.

    python benchmarks/distill.py CAMVID --out runs/distill --minutes 30 --choose
    python benchmarks/distill.py CAMVID --out runs/distill --minutes 30 --seeds 0,1
    python benchmarks/distill.py CAMVID --out /tmp/rehearsal --minutes 0.5 --rehearse
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import yaml

import sctnet
from sctnet.data.registry import open_dataset
from sctnet.data.unlabelled import list_text
from sctnet.evaluation.evaluator import evaluate
from sctnet.provenance import environment
from sctnet.training.recipe import load_recipe
from sctnet.training.trainer import train
from sctnet.unlabelled.distill import distill, for_minutes
from sctnet.unlabelled.suggest import suggest

LABELLED = 37  # of the 367 train pictures
RECIPE = "camvid/sctnet-s_360x480"
TEACHER = "camvid/teacher_efficientnet-lite2"


def main() -> None:
    """Run the comparisons and write their scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("camvid")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--choose", action="store_true", help="learn from train, score on val")
    parser.add_argument("--rehearse", action="store_true", help="few pictures, one tiny network")
    parser.add_argument("--settings", nargs="*", default=[], help="key=value of every student")
    options = parser.parse_args()
    Study(options).run()


class Study:
    """One machine's comparisons, all with the same wall-clock."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out
        self.taught = ["train"] if options.choose else ["train", "val"]
        self.scored = open_dataset(options.camvid, ["val" if options.choose else "test"])
        self.pool = open_dataset(options.camvid, self.taught)
        self.settings = list(options.settings)
        if options.rehearse:
            self.settings += ["model.variant=sctnet-tiny", "model.init=null"]
        self.results: dict[str, dict[str, float]] = {}

    def run(self) -> None:
        """Run every comparison of every seed; finished ones are read again."""
        file = self.out / "distill.json"
        for seed in map(int, self.options.seeds.split(",")):
            few = list(
                np.linspace(0, len(open_dataset(self.options.camvid, ["train"])) - 1, LABELLED)
            )
            labelled = self.subset("few", [int(place) for place in few])
            everything = self.subset("all", range(len(self.pool)))
            teacher_few = self.learn("teacher-few", seed, labelled, TEACHER)
            teacher_all = self.learn("teacher-all", seed, everything, TEACHER)
            self.learn("few", seed, labelled)
            self.learn("all", seed, everything)
            self.distil("few-distilled", seed, teacher_few, labelled)
            self.distil("no-labels", seed, teacher_all, None)
            self.suggested(seed)
            report = {"minutes": self.options.minutes, "taught": self.taught, **environment()}
            file.write_text(json.dumps({**report, "miou": self.results}, indent=2) + "\n")
        print(file.read_text())

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

    def learn(self, name: str, seed: int, data: Path, recipe: str = RECIPE) -> Path:
        """Train from labels for the minutes; return the run."""
        out = self.out / f"{name}-{seed}"
        if not (out / "summary.json").exists():
            fields = [*self.settings, f"run.seed={seed}", "data.train=[train]"]
            loaded = load_recipe(recipe, [*fields, "data.validation=[]", "data.calibrate=false"],
                                 source=str(data))  # fmt: skip
            train(for_minutes(loaded, self.options.minutes, None, print), out)
        return self.score(name, seed, out)

    def distil(self, name: str, seed: int, teacher: Path, data: Path | None) -> Path:
        """Distil for the minutes; return the run."""
        out = self.out / f"{name}-{seed}"
        if not (out / "distilled").exists():
            fields = [*self.settings, f"run.seed={seed}", "data.calibrate=false"]
            if data is not None:
                fields.append("data.validation=[]")
            distill(
                teacher, self.pictures(), out, data=data, recipe=RECIPE, settings=fields,
                minutes=self.options.minutes, explain=print,
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
