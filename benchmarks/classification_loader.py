"""Images per second of the classification loader, of bare decoding, and of the training step.

    python benchmarks/classification_loader.py [--recipe NAME] [--data ROOT] [--pictures N]

Without --data it draws pictures of ImageNet's usual size (500 x 375, JPEG). Loader and
decoding run on one core, in turn, on the same pictures; the step on a batch that is there, with as
many threads as PyTorch takes: plain, and with the augmentation and the teacher of the recipe.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from sctnet.data.classification.dataset import ClassificationDataset
from sctnet.data.classification.loading import ClassificationStream
from sctnet.data.classification.registry import open_classified
from sctnet.data.loading import StepSampler, training_loader
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.processes import ALONE
from sctnet.provenance import environment
from sctnet.training.classification.classification_task import ClassificationTask
from sctnet.training.devices import launch_fabric
from sctnet.training.dry_run import seconds_per_step
from sctnet.training.learner import Learner
from sctnet.training.recipe import ClassificationRecipe, load_recipe
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"


def draw(folder: Path, count: int) -> None:
    """Write pictures of two classes, with grain, as photographs have it."""
    streets = SyntheticStreets(0, count, (375, 500))
    generator = np.random.default_rng(0)
    for number in range(count):
        place = folder / "train" / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        grain = generator.normal(0, 8, (375, 500, 3))
        image = (streets.image(number) + grain).round().clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(place / f"{number}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 92])


def loader_speeds(
    data: ClassificationDataset, recipe: ClassificationRecipe, count: int
) -> tuple[float, float]:
    """Return the images per second of decoding alone and of the loader, one core each."""
    stream = ClassificationStream(data, recipe.augmentation, recipe.run.seed)
    samples = iter(training_loader(stream, StepSampler(1, count + 1), 0))
    next(samples)
    decoding = pipeline = 0.0
    for number in range(1, count + 1):
        image = data.encoded(stream.picture_number(number))
        began = time.perf_counter()
        image.decode()
        decoded = time.perf_counter()
        next(samples)
        decoding += decoded - began
        pipeline += time.perf_counter() - decoded
    return count / decoding, count / pipeline


def step_speed(recipe: ClassificationRecipe, data: ClassificationDataset, steps: int) -> float:
    """Return the images per second of forward, backward and optimiser, the median of the steps."""
    task = ClassificationTask(recipe, data)
    learner = Learner(task, launch_fabric(recipe, ALONE))
    loader = training_loader(task.stream(), StepSampler(recipe.run.batch_size, 1), 0)
    return recipe.run.batch_size / seconds_per_step(learner, next(iter(loader)), steps)


def changed(recipe: ClassificationRecipe, **fields: Any) -> ClassificationRecipe:
    """Return the recipe with other fields."""
    return ClassificationRecipe.model_validate({**recipe.model_dump(), **fields})


def main() -> None:
    """Measure and write results/classification_loader.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="tiny-imagenet/sctnet-s_distilled")
    parser.add_argument("--data")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, help="images a step; default: the recipe's")
    parser.add_argument("--out", type=Path, default=RESULTS / "classification_loader.json")
    arguments = parser.parse_args()
    settings = [] if arguments.batch is None else [f"run.batch_size={arguments.batch}"]
    recipe = load_recipe(arguments.recipe, settings)
    if not isinstance(recipe, ClassificationRecipe):
        parser.error(f"{arguments.recipe} is no recipe of a classification")
    threads = torch.get_num_threads(), cv2.getNumThreads()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.data is None:
            draw(Path(folder), arguments.pictures)
        data = open_classified(arguments.data or folder, ["train"])
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        decoding, pipeline = loader_speeds(data, recipe, arguments.pictures)
        torch.set_num_threads(threads[0])
        plain = {**recipe.augmentation.model_dump(), "rand_augment": None, "erasing": 0.0}
        untaught = changed(recipe, teacher=None)
        speeds = {
            "step": step_speed(changed(untaught, augmentation=plain), data, arguments.steps),
            "augmented_step": step_speed(untaught, data, arguments.steps),
        }
        if recipe.teacher is not None:
            # Every answer asked for anew, as in the first epochs; cached ones cost nothing.
            speeds["taught_step"] = step_speed(recipe, data, arguments.steps)
    result = {
        "recipe": recipe.name,
        "data": arguments.data or "drawn, 500 x 375, JPEG",
        "crop": recipe.augmentation.crop,
        "batch_size": recipe.run.batch_size,
        "precision": recipe.run.precision,
        "decode_images_per_second_per_core": round(decoding, 1),
        "loader_images_per_second_per_core": round(pipeline, 1),
        "loader_ratio": round(pipeline / decoding, 3),
        "threads": threads[0],
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        **{f"{name}_images_per_second": round(value, 1) for name, value in speeds.items()},
        **environment(),
    }
    write_text(arguments.out, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
