"""Images per second of the training step and of the loader, each alone, on drawn streets.

    python benchmarks/training_step.py [--recipe NAME] [--data ROOT] [--steps N]

The step runs on a batch that is already there; the loader fills batches that nobody uses. Where
the second number is well above the first, the loader is not the bottleneck.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from lightning.fabric import Fabric

from sctnet.data.augmentation import Sample
from sctnet.data.loading import StepSampler, TrainingStream, training_loader
from sctnet.data.opening import open_dataset
from sctnet.models import create_model
from sctnet.provenance import environment
from sctnet.training.recipe import Recipe, load_recipe
from sctnet.training.schedule import build_optimizer
from sctnet.training.task import SegmentationTask
from sctnet.weights import write_text

RESULTS = Path(__file__).parents[1] / "results"


def step_speed(recipe: Recipe, batch: Sample, classes: int, steps: int) -> float:
    """Return images per second of forward, backward and optimiser, the median of the steps."""
    precision = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
    fabric = Fabric(precision=precision[recipe.run.precision])
    model = create_model(recipe.model.variant, classes, **recipe.model.options)
    model = model.to(memory_format=torch.channels_last)
    task = SegmentationTask(model, recipe.preparation, recipe.loss, None)
    task, optimizer = fabric.setup(task, build_optimizer(model, recipe.optimizer))
    seconds = []
    for _ in range(steps + 2):  # two to warm up
        began = time.perf_counter()
        fabric.backward(task(batch, torch.tensor(float(batch.labels.numel())))["loss"])
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    return recipe.run.batch_size / sorted(seconds[2:])[steps // 2]


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
            step_speed(recipe, batch, len(dataset.classes), arguments.steps), 2
        ),
        "loader_images_per_second": round(loader_speed(recipe, stream, 4 * arguments.steps), 2),
        **environment(),
    }
    write_text(RESULTS / "training_step.json", json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
