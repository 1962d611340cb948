"""Time and peak memory of a training step with and without alignment (SIAM), on random pictures.

    python benchmarks/alignment_step.py [--steps N]

Each case runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import torch

from sctnet.data.augmentation import Sample
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.models import create_model
from sctnet.processes import ALONE
from sctnet.provenance import environment
from sctnet.training.devices import launch_fabric
from sctnet.training.dry_run import seconds_per_step
from sctnet.training.learner import Learner
from sctnet.training.recipe import SegmentationRecipe, load_recipe
from sctnet.training.segmentation import SegmentationTask
from sctnet.training.teachers import NetworkTeacher
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
CLASSES = tuple(f"class {number}" for number in range(19))
CASES = [
    # recipe, images, crop (height, width), teacher, precision
    ("camvid/sctnet-s_360x480", 8, (360, 480), "efficientnet-lite2", "bf16"),
    ("cityscapes/sctnet-s_seg50", 2, (512, 1024), "segformer-b2", "fp32"),
    ("cityscapes/sctnet-b_seg100", 1, (1024, 1024), "segformer-b3", "fp32"),
]


def measure(recipe: SegmentationRecipe, teacher: str, steps: int) -> dict[str, float]:
    """Return the median seconds of a step and the peak memory of this process in GiB."""
    network = NetworkTeacher(create_model(teacher, len(CLASSES)), CLASSES) if teacher else None
    fabric = launch_fabric(recipe, ALONE)
    streets = SyntheticStreets(0, 1)
    streets.classes = CLASSES
    learner = Learner(SegmentationTask(recipe, streets), fabric, network)
    images, crop = recipe.run.batch_size, recipe.augmentation.crop
    batch = Sample(
        torch.randint(0, 256, (images, 3, *crop)).to(torch.uint8),
        torch.randint(0, len(CLASSES), (images, *crop)).to(torch.uint8),
        torch.tensor([crop] * images),
    )
    seconds = seconds_per_step(learner, batch, steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds_per_step": round(seconds, 3), "peak_memory_gib": round(peak, 2)}


def chosen(
    name: str, images: int, crop: tuple[int, int], teacher: str, precision: str
) -> SegmentationRecipe:
    """Return a recipe at a batch, crop and precision of its own, with a teacher or without."""
    alignment = f"{{teacher: {teacher}}}" if teacher else "null"
    settings = [
        f"run.batch_size={images}",
        f"augmentation.crop={list(crop)}",
        f"run.precision={precision}",
        f"alignment={alignment}",
    ]
    return load_recipe(name, settings)


def main() -> None:
    """Measure every case and write results/alignment_step.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--case", type=int, help="of the list, in this process (internal)")
    parser.add_argument("--without", action="store_true", help="the teacher (internal)")
    arguments = parser.parse_args()
    if arguments.case is not None:
        name, images, crop, teacher, precision = CASES[arguments.case]
        teacher = "" if arguments.without else teacher
        recipe = chosen(name, images, crop, teacher, precision)
        print(json.dumps(measure(recipe, teacher, arguments.steps)))
        return
    rows = []
    for number, (name, images, crop, teacher, precision) in enumerate(CASES):
        command = [sys.executable, __file__, "--case", str(number), "--steps", str(arguments.steps)]
        found = {}
        for key, extra in (("without", ["--without"]), ("with", [])):
            # S603: this very file, by this very Python.
            printed = subprocess.run(command + extra, check=True, capture_output=True, text=True)  # noqa: S603
            found[key] = json.loads(printed.stdout.splitlines()[-1])
        rows.append(
            {
                "student": load_recipe(name).model.variant,
                "teacher": teacher,
                "images": images,
                "crop": crop,
                "precision": precision,
                **{f"{key}_alignment": value for key, value in found.items()},
                "time_ratio": round(
                    found["with"]["seconds_per_step"] / found["without"]["seconds_per_step"], 2
                ),
            }
        )
        print(json.dumps(rows[-1]))
    result = {"cases": rows, **environment()}
    write_text(RESULTS / "alignment_step.json", json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
