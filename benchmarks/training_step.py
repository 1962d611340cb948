"""Images per second of the training step and of the loader, each alone, on drawn streets.

    python benchmarks/training_step.py [--recipe NAME] [--data ROOT] [--steps N]

The step runs on a batch that is already there; the loader fills batches that nobody uses. Where
the second number is well above the first, the loader is not the bottleneck.
"""

import argparse
import json
import time
from pathlib import Path

from sctnet.data.augmentation import Sample
from sctnet.data.loading import StepSampler, TrainingStream, training_loader
from sctnet.data.registry import open_dataset
from sctnet.processes import ALONE
from sctnet.provenance import environment
from sctnet.training.devices import launch_fabric
from sctnet.training.dry_run import seconds_per_step
from sctnet.training.learner import Learner
from sctnet.training.recipe import Recipe, load_recipe
from sctnet.training.segmentation_task import SegmentationTask
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"


def step_speed(task: SegmentationTask, batch: Sample, steps: int) -> float:
    """Return images per second of forward, backward and optimiser, the median of the steps."""
    recipe = task.recipe
    learner = Learner(task, launch_fabric(recipe, ALONE))
    return recipe.run.batch_size / seconds_per_step(learner, batch, steps)


def loader_speed(recipe: Recipe, stream: TrainingStream, steps: int) -> float:
    """Return images per second that the loader delivers to somebody who only takes them."""
    sampler = StepSampler(recipe.run.batch_size, steps + 4)
    batches = iter(training_loader(stream, sampler, recipe.data.workers))
    for _ in range(4):  # start the workers
        next(batches)
    began = time.perf_counter()
    for _ in range(steps):
        next(batches)
    return steps * recipe.run.batch_size / (time.perf_counter() - began)


def main() -> None:
    """Measure and write results/training_step.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="camvid/sctnet-s_360x480")
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    dataset = open_dataset(arguments.data, ["train"])
    rule = recipe.preparation.working_size
    stream = TrainingStream(dataset, recipe.augmentation, 0, rule)
    sampler = StepSampler(recipe.run.batch_size, 1)
    batch = Sample(*next(iter(training_loader(stream, sampler, 0))))
    result = {
        "recipe": recipe.name,
        "data": dataset.name,
        "crop": recipe.augmentation.crop,
        "batch_size": recipe.run.batch_size,
        "precision": recipe.run.precision,
        "loader_workers": recipe.data.workers,
        "step_images_per_second": round(
            step_speed(SegmentationTask(recipe, dataset), batch, arguments.steps), 2
        ),
        "loader_images_per_second": round(loader_speed(recipe, stream, 4 * arguments.steps), 2),
        **environment(),
    }
    write_text(RESULTS / "training_step.json", json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
