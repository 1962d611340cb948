"""Time and peak memory of a training step without a teacher, with one, and with its kept answers.

    python benchmarks/alignment_step.py [--steps N]

On random pictures. Each case runs in a process of its own, so that its peak memory is its own. With
the cache, the first step asks the teacher; those that are timed read what it said.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from sctnet.data.augmentation import ViewedSample
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.models import create_model
from sctnet.processes import ALONE
from sctnet.provenance import environment
from sctnet.training.devices import launch_fabric
from sctnet.training.dry_run import seconds_per_step
from sctnet.training.learner import Learner
from sctnet.training.recipe import SegmentationRecipe, load_recipe
from sctnet.training.segmentation_task import SegmentationTask
from sctnet.training.teachers import NetworkTeacher
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
CLASSES = tuple(f"class {number}" for number in range(19))
FASTEST = "bf16" if torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() else "fp32"
KINDS = ("without_alignment", "with_alignment", "with_cache")
CASES = [
    # recipe, images, crop (height, width), teacher, precision
    ("camvid/sctnet-s_360x480", 8, (360, 480), "efficientnet-lite2", FASTEST),
    ("cityscapes/sctnet-s_seg50", 2, (512, 1024), "segformer-b2", "fp32"),
    ("cityscapes/sctnet-b_seg100", 1, (1024, 1024), "segformer-b3", "fp32"),
]


def measure(recipe: SegmentationRecipe, teacher: str, steps: int, folder: Path) -> dict[str, float]:
    """Return the median seconds of a step and the peak memory of this process in GiB.

    A cache is made in the folder.
    """
    network = NetworkTeacher(create_model(teacher, len(CLASSES)), CLASSES) if teacher else None
    fabric = launch_fabric(recipe, ALONE)
    images, crop = recipe.run.batch_size, recipe.augmentation.crop
    streets = SyntheticStreets(0, images)
    streets.classes = CLASSES
    task = SegmentationTask(recipe, streets, folder=folder)
    learner = Learner(task, fabric, network)
    batch = ViewedSample(
        torch.randint(0, 256, (images, 3, *crop)).to(torch.uint8),
        torch.randint(0, len(CLASSES), (images, *crop)).to(torch.uint8),
        torch.tensor([crop] * images),
        torch.arange(images),
        torch.arange(images),
    )
    seconds = seconds_per_step(learner, batch, steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds_per_step": round(seconds, 3), "peak_memory_gib": round(peak, 2)}


def chosen(
    name: str, images: int, crop: tuple[int, int], teacher: str, precision: str, kind: str
) -> SegmentationRecipe:
    """Return a recipe at a batch, crop and precision of its own, for one of the kinds of steps."""
    cache = "{views: 1}" if kind == "with_cache" else "null"
    alignment = f"{{teacher: {teacher}, cache: {cache}}}" if teacher else "null"
    settings = [
        f"run.batch_size={images}",
        f"augmentation.crop={list(crop)}",
        f"run.precision={precision}",
        f"alignment={alignment}",
    ]
    return load_recipe(name, settings)


def ratio(found: dict[str, dict[str, float]], kind: str, figure: str) -> float:
    """Return a figure of one kind of step over that of an untaught one."""
    return round(found[kind][figure] / found["without_alignment"][figure], 2)


def main() -> None:
    """Measure every case and write results/alignment_step.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--case", type=int, help="of the list, in this process (internal)")
    parser.add_argument("--kind", choices=KINDS, help="of its steps (internal)")
    arguments = parser.parse_args()
    if arguments.case is not None:
        name, images, crop, teacher, precision = CASES[arguments.case]
        teacher = "" if arguments.kind == "without_alignment" else teacher
        recipe = chosen(name, images, crop, teacher, precision, arguments.kind)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(recipe, teacher, arguments.steps, Path(folder))))
        return
    rows = []
    for number, (name, images, crop, teacher, precision) in enumerate(CASES):
        command = [sys.executable, __file__, "--case", str(number), "--steps", str(arguments.steps)]
        found = {}
        for kind in KINDS:
            # S603: this very file, by this very Python.
            printed = subprocess.run(  # noqa: S603
                [*command, "--kind", kind], check=True, capture_output=True, text=True
            )
            found[kind] = json.loads(printed.stdout.splitlines()[-1])
        rows.append(
            {
                "student": load_recipe(name).model.variant,
                "teacher": teacher,
                "images": images,
                "crop": crop,
                "precision": precision,
                **found,
                "time_ratio": ratio(found, "with_alignment", "seconds_per_step"),
                "cached_time_ratio": ratio(found, "with_cache", "seconds_per_step"),
                "memory_ratio": ratio(found, "with_alignment", "peak_memory_gib"),
                "cached_memory_ratio": ratio(found, "with_cache", "peak_memory_gib"),
            }
        )
        print(json.dumps(rows[-1]))
    result = {"cases": rows, **environment()}
    write_text(RESULTS / "alignment_step.json", json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
