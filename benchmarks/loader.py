"""Images per second per core of the training pipeline at 2048 x 1024, beside decoding alone.

    python benchmarks/loader.py [--recipe NAME] [--pictures N] [--rounds N]

The pictures are drawn, with noise until a PNG is as large as one of Cityscapes (2.3 MB on
average), and masks hold raw ids that are mapped to 19 classes. The floor is OpenCV decoding the
same image and label files and nothing more. Both take turns on one core, picture by picture, so
that a busy machine slows both; the figure is the ratio.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from sctnet.data.dataset import FileDataset
from sctnet.data.folder import open_folder
from sctnet.data.loading import StepSampler, TrainingStream, training_loader
from sctnet.data.synthetic.streets import SyntheticStreets
from sctnet.provenance import environment
from sctnet.training.recipe import load_recipe
from sctnet.writing import write_text

RESULTS = Path(__file__).parents[1] / "results"
CITYSCAPES_BYTES = 2_300_000
CLASSES = 19
FIRST_ID = 7  # as in Cityscapes, raw ids are not class numbers


def draw(folder: Path, count: int) -> FileDataset:
    """Write pictures and masks, and open them as a data set of one's own."""
    for part in ("images", "masks"):
        (folder / part).mkdir()
    streets = SyntheticStreets(0, count, (1024, 2048))
    share = grain_share(smooth(streets.image(0)))
    for number in range(count):
        image, labels = streets.pair(number)
        (folder / "images" / f"{number}.png").write_bytes(grainy_png(smooth(image), share))
        raw = np.where(labels == 255, 0, labels + FIRST_ID).astype(np.uint8)
        cv2.imwrite(str(folder / "masks" / f"{number}.png"), raw)
    names = [f"class {label}" for label in range(CLASSES)]
    description = {
        "images": {"train": "images"},
        "masks": {"train": "masks"},
        "classes": names,
        "ids": {label + FIRST_ID: label for label in range(CLASSES)},
    }
    (folder / "data.yaml").write_text(json.dumps(description))  # JSON is YAML
    return open_folder(folder / "data.yaml", ["train"])


def smooth(image: np.ndarray) -> np.ndarray:
    """Return the picture as a lens sees it: drawn texture alone would fill more than 2.3 MB."""
    return cv2.GaussianBlur(image, (0, 0), 1.5)


def grainy_png(image: np.ndarray, share: float) -> bytes:
    """Return a PNG of the picture with grain on a share of its rows, spread evenly."""
    grain = np.random.default_rng(0).normal(0, 2, image.shape)
    rows = (np.arange(len(image)) % 64 < 64 * share)[:, None, None]
    grainy = (image + grain * rows).round().clip(0, 255).astype(np.uint8)
    return cv2.imencode(".png", grainy[..., ::-1])[1].tobytes()


def grain_share(image: np.ndarray) -> float:
    """Return, by halving, the share whose PNG is as large as a frame of Cityscapes."""
    low, high = 0.0, 1.0
    for _ in range(6):
        share = (low + high) / 2
        too_large = len(grainy_png(smooth(image), share)) > CITYSCAPES_BYTES
        low, high = (low, share) if too_large else (share, high)
    return low


def measure(data: FileDataset, recipe_name: str, rounds: int) -> tuple[float, float]:
    """Return the seconds per picture of decoding alone and of the whole pipeline."""
    recipe = load_recipe(recipe_name)
    stream = TrainingStream(data, recipe.augmentation, 0, recipe.preparation.working_size)
    steps = rounds * len(data)
    samples = iter(training_loader(stream, StepSampler(1, steps + 1), 0))
    next(samples)
    decoding = pipeline = 0.0
    for number in range(1, steps + 1):
        files = data.files[stream.picture_number(number)]
        began = time.perf_counter()
        cv2.imread(str(files.image), cv2.IMREAD_COLOR)
        cv2.imread(str(files.mask), cv2.IMREAD_UNCHANGED)
        decoded = time.perf_counter()
        next(samples)
        decoding += decoded - began
        pipeline += time.perf_counter() - decoded
    return decoding / steps, pipeline / steps


def main() -> None:
    """Measure and write results/loader.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="cityscapes/sctnet-b_seg100")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "loader.json")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = draw(Path(folder), arguments.pictures)
        sizes = [file.image.stat().st_size for file in data.files]
        decoding, pipeline = measure(data, arguments.recipe, arguments.rounds)
    result = {
        "recipe": arguments.recipe,
        "pictures": "drawn, 2048 x 1024, PNG",
        "mean_png_megabytes": round(sum(sizes) / len(sizes) / 1e6, 2),
        "decode_images_per_second_per_core": round(1 / decoding, 2),
        "pipeline_images_per_second_per_core": round(1 / pipeline, 2),
        "ratio": round(decoding / pipeline, 3),
        **environment(),
    }
    write_text(arguments.out, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
