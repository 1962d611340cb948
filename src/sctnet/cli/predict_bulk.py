"""``sctnet predict --engine ray``."""

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from sctnet.inference.files import PredictionSummary

_MAX_SHOWN = 20  # failures; the manifest has all


def label_in_bulk(
    model: str, inputs: Sequence[str], out: str, *, workers: str | None, **options: Any
) -> None:
    """Label pictures by workers on Ray and say how it went; exit status 1 where some failed."""
    from rich.console import Console

    from sctnet.cli.progress import counting_progress
    from sctnet.cli.tables import prediction_table
    from sctnet.serving.bulk.prediction import BulkOptions, predict_bulk

    chosen = BulkOptions(workers=_range(workers), **options)
    try:
        with counting_progress("predicting", None) as progress:
            summary = predict_bulk(model, inputs, out, chosen, progress)
    except KeyboardInterrupt:
        print(f"Stopped; the same command goes on in {out}", file=sys.stderr)  # noqa: T201
        raise
    if summary.labelled:
        Console().print(prediction_table(summary))
    _tell(summary, out)
    if summary.failures:
        raise typer.Exit(1)


def _tell(summary: "PredictionSummary", out: str) -> None:
    from sctnet.cli.progress import console
    from sctnet.errors import printable

    skipped = f", {summary.skipped} were there already" if summary.skipped else ""
    print(  # noqa: T201
        f"{summary.labelled} pictures labelled{skipped}, {len(summary.failures)} failed; "
        f"written to {out}"
    )
    if summary.animated:
        print(  # noqa: T201
            f"Of several frames or pages, the first alone is labelled: {len(summary.animated)} "
            "pictures, see the column frames of manifest.parquet"
        )
    failures = summary.failures[:_MAX_SHOWN]
    if len(summary.failures) > _MAX_SHOWN:
        rest = len(summary.failures) - _MAX_SHOWN
        failures.append(f"... and {rest} more: see the column error of manifest.parquet")
    for failure in map(printable, failures):
        console.print(failure, style="red", markup=False, highlight=False, soft_wrap=True)


def _range(text: str | None) -> tuple[int, int] | None:
    """Return the numbers of ``4`` or ``1:8``."""
    from sctnet.errors import SctnetError

    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?::(\d+))?", text.strip())
    fewest, most = (int(each or match[1]) for each in match.groups()) if match else (0, 0)
    if not 1 <= fewest <= most:
        raise SctnetError(f"--workers {text}: give a number from 1, or fewest:most, such as 1:8")
    return fewest, most
