"""Put a trained model into the package, in float16 and without what only training needs.

    sctnet eval RUN --data CAMVID --split test --out results/NAME
    python tools/bundle_model.py RUN results/NAME sctnet-s-camvid

A model replaces the bundled one of its name only where it measured better: the card holds the
scores, and the tests score the bundled file again where the pictures are.
"""

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

import torch

from sctnet.checkpoints.model_folder import (
    BUNDLED,
    WEIGHTS_FILE,
    ModelConfig,
    load_config,
    read_tensors,
    write_folder,
)

TERMS = {
    False: "research, non-commercial (CamVid)",
    True: "research, non-commercial (CamVid, ImageNet)",
}
"""Of a model from scratch, and of one whose backbone has seen ImageNet's pictures."""


def bundle(run: Path, results: Path, name: str) -> Path:
    """Write the bundled folder of a run and return it."""
    config = load_config(run)
    network = config.network.model_copy(update={"auxiliary_head": False})
    tensors = halved(run / WEIGHTS_FILE)
    summary = json.loads((run / "summary.json").read_text())
    terms = TERMS[summary["started_from"] is not None]
    config = config.model_copy(update={"network": network, "terms": terms})
    scores = json.loads((results / "scores.json").read_text())
    return write_folder(BUNDLED / name, config, tensors, card(name, config, summary, scores))


def halved(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a model in float16, but for those of its auxiliary head."""
    tensors = {
        key: value.half() if value.is_floating_point() else value
        for key, value in read_tensors(file).items()
        if not key.startswith("auxiliary_head.")
    }
    assert all(value.isfinite().all() for value in tensors.values() if value.is_floating_point())
    return tensors


def card(name: str, config: ModelConfig, summary: dict[str, Any], scores: dict[str, Any]) -> str:
    """Return the model card."""
    rows = "\n".join(f"| {key} | {100 * value:.1f} |" for key, value in scores["iou"].items())
    trained = (
        f"- Trained by `sctnet train {summary['recipe']} --data CAMVID --out RUN` on "
        f"{summary['train_pictures']} pictures (train + val) of 360x480: "
        f"{summary['iterations']:,} iterations, seed {summary['seed']}, "
        f"{summary['seconds'] / 60:.0f} minutes on {summary['device']} "
        f"(processes: {summary['processes']}), from {_start(summary)}, without a teacher; "
        f"last weights (moving average); code at commit {summary['commit']}."
    )
    measured = (
        f"- Measured on the {scores['images']} test pictures ({scores['protocol']}): "
        f"mIoU {100 * scores['miou']:.1f} %, "
        f"pixel accuracy {100 * scores['pixel_accuracy']:.1f} %, "
        f"mean accuracy {100 * scores['mean_accuracy']:.1f} %. Stored in float16."
    )
    prepared = (
        f"- Pictures are brought to the working size ({config.preparation.working_size}) "
        "before the network sees them."
    )
    backbone = "" if summary["started_from"] is None else ", its backbone from pictures of ImageNet"
    terms = (
        f"**Terms: {config.terms}.** It learned from CamVid (Brostow, Fauqueur and Cipolla; "
        f"CC BY-NC 4.0 in the version of the SegNet authors){backbone}, and carries the terms of "
        "what it learned from. The MIT licence of the code does not cover these weights."
    )
    return f"""# {name}

{_wrapped(f"{config.network.variant} for streets seen from a car: {', '.join(config.classes)}.")}

{textwrap.fill(terms, 100)}

```python
import sctnet

sctnet.Segmenter("{name}")("street.jpg").overlay().save("out.png")
```

{_wrapped(trained)}
{_wrapped(measured)}
{_wrapped(prepared)}

| class | IoU % |
|---|---|
{rows}

Limits: one city, daylight, a forward-looking camera of 2007. Rare and thin things (poles, signs,
bicyclists, fences) are often missed; other continents' streets and other views are strange to it.
Not for driving, nor for any decision about people.
"""


def _start(summary: dict[str, Any]) -> str:
    if summary["started_from"] is None:
        return "random weights"
    return f"a backbone ({Path(summary['started_from']).name}, sha256 {summary['start_sha256']})"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, subsequent_indent="  ", break_on_hyphens=False)


def main() -> None:
    """Read the arguments and bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("results", type=Path, help="folder of scores.json on the test pictures")
    parser.add_argument("name")
    arguments = parser.parse_args()
    folder = bundle(arguments.run, arguments.results, arguments.name)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {size / 1e6:.1f} MB, torch {torch.__version__}")


if __name__ == "__main__":
    main()
