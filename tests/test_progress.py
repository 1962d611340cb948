"""What a run shows while it goes on, on a terminal of 80 columns."""

import pytest
from rich.console import Console

from sctnet.cli import progress
from sctnet.cli.tables import iou_of_classes


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    console = Console(width=80, record=True, force_terminal=False)
    monkeypatch.setattr(progress, "console", console)
    return console


def test_a_validation_shows_the_iou_of_every_class(terminal: Console) -> None:
    names = ["[red]", "SignSymbol", "car", *(f"class {number}" for number in range(8))]
    iou = {name: number / 10 for number, name in enumerate(names)}
    with progress.training_progress() as observe:
        observe({"step": 4, "of": 8, "seconds_left": None})
        record = {"step": 5, "seconds": 1.0, "seconds_left": 3700.2, "miou": 0.5}
        observe({**record, "pixel_accuracy": 0.75, "iou": iou})
    text = terminal.export_text()
    assert "iteration 5: validation mIoU 0.5000, pixel accuracy 0.7500; about 1:01:40 to go" in text
    for name, value in iou.items():
        assert f"{name:<10} {100 * value:5.1f}" in text
    assert max(map(len, text.splitlines())) <= 80


def test_of_many_classes_the_lowest_are_shown() -> None:
    console = Console(width=80, record=True)
    iou = {f"class {number}": number / 200 for number in range(150)}
    console.print(*iou_of_classes(iou), sep="\n")
    text = console.export_text()
    assert "the 30 lowest of 150 classes" in text
    assert "class 29 " in text
    assert "class 30 " not in text
