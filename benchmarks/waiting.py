"""What the way in which PyTorch's threads wait costs a training step, alone and beside others.

    python benchmarks/waiting.py [--recipe NAME] [--steps N] [--rounds N]

Each measurement is a process of its own, with OMP_WAIT_POLICY as it is by default (threads spin for
a while) or PASSIVE (they sleep), on a quiet machine or beside one busy program. They take turns.
Writes results/waiting.json.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parents[1] / "results"
POLICIES = {"default": {}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}}
BUSY = "while True: pass"

STEPS = """
import sys
from sctnet.data.augmentation import Sample
from sctnet.data.loading import StepSampler, TrainingStream, training_loader
from sctnet.data.registry import open_dataset
from sctnet.processes import ALONE
from sctnet.training.devices import launch_fabric
from sctnet.training.dry_run import seconds_per_step
from sctnet.training.learner import Learner
from sctnet.training.recipe import load_recipe
from sctnet.training.segmentation_task import SegmentationTask

recipe, data = load_recipe(sys.argv[1]), open_dataset("synthetic", ["train"])
stream = TrainingStream(data, recipe.augmentation, 0, recipe.preparation.working_size)
sampler = StepSampler(recipe.run.batch_size, 1)
batch = Sample(*next(iter(training_loader(stream, sampler, 0))))
learner = Learner(SegmentationTask(recipe, data), launch_fabric(recipe, ALONE))
print(recipe.run.batch_size / seconds_per_step(learner, batch, int(sys.argv[2])))
"""


@contextmanager
def busy_programs(number: int) -> Iterator[None]:
    """Keep so many cores busy."""
    command = [sys.executable, "-c", BUSY]
    started = [subprocess.Popen(command) for _ in range(number)]  # noqa: S603
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def images_per_second(recipe: str, steps: int, environment: dict[str, str]) -> float:
    """Return the speed of the training step in a process of its own."""
    command = [sys.executable, "-c", STEPS, recipe, str(steps)]
    variables = {**os.environ, **environment}
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure and write the results."""
    from sctnet.provenance import environment
    from sctnet.writing import write_text

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="camvid/sctnet-s_360x480")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        for others in (0, 1):
            for policy, variables in POLICIES.items():
                with busy_programs(others):
                    speed = images_per_second(arguments.recipe, arguments.steps, variables)
                key = f"{policy}, {others} busy programs"
                found.setdefault(key, []).append(round(speed, 2))
                print(f"{key}: {speed:.2f} images/s", flush=True)
    result = {
        "recipe": arguments.recipe,
        "cores": os.cpu_count(),
        "images_per_second": found,
        "median": {key: median(values) for key, values in found.items()},
        "load_average": [round(value, 2) for value in os.getloadavg()],
        **environment(),
    }
    write_text(RESULTS / "waiting.json", json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
