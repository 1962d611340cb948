"""Put a pre-trained backbone into the package, in float16, for recipes to start from.

    sctnet eval RUN --data TINY_IMAGENET --out RESULTS
    python tools/bundle_backbone.py RUN RESULTS sctnet-s-tiny-imagenet

Recipes start from it by model.init=sctnet-s-tiny-imagenet.
"""

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

from bundle_model import halved

from sctnet.checkpoints.model_folder import BUNDLED, WEIGHTS_FILE, load_config, write_folder

TERMS = "research, non-commercial (ImageNet)"


def bundle(run: Path, results: Path, name: str) -> Path:
    """Write the backbone of a run and return its folder."""
    config = load_config(run)
    network = config.network.model_copy(update={"auxiliary_head": False})
    config = config.model_copy(update={"network": network, "terms": TERMS})
    summary = json.loads((run / "summary.json").read_text())
    scores = json.loads((results / "scores.json").read_text())
    text = card(name, config.network.variant, summary, scores)
    return write_folder(BUNDLED / name, config, halved(run / WEIGHTS_FILE), text)


def card(name: str, variant: str, summary: dict[str, Any], scores: dict[str, Any]) -> str:
    """Return the card."""
    trained = (
        f"Stem to stage 4 of {variant}, trained by `sctnet train {summary['recipe']}` on "
        f"{summary['train_pictures']:,} pictures of Tiny-ImageNet (90 of each of 200 classes, 64 x "
        f"64) and EfficientNet-Lite2's answers to them: {summary['iterations']:,} iterations, seed "
        f"{summary['seed']}, last weights (moving average), code at commit {summary['commit']}. "
        f"Measured on {scores['images']:,} validation pictures: "
        f"top-1 {100 * scores['top1']:.1f} %, top-5 {100 * scores['top5']:.1f} %. "
        "Stored in float16."
    )
    terms = (
        f"**Terms: {TERMS}.** The pictures are ImageNet's, whose terms these weights carry; the "
        "MIT licence of the code does not cover them."
    )
    use = (
        f"A start for recipes (`model.init={name}`), not a model: it has no head. What it is worth "
        "on CamVid stands in `results/camvid_starts`."
    )
    paragraphs = [
        textwrap.fill(text, 100, break_on_hyphens=False) for text in (terms, trained, use)
    ]
    return "\n\n".join([f"# {name}", *paragraphs]) + "\n"


def main() -> None:
    """Read the arguments and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "results", type=Path, help="folder of scores.json on the validation pictures"
    )
    parser.add_argument("name")
    arguments = parser.parse_args()
    folder = bundle(arguments.run, arguments.results, arguments.name)
    print(f"{folder}: {sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
