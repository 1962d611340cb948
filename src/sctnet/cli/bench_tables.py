"""``sctnet bench --table``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def bench_tables(
    tables: Sequence[str],
    only: Sequence[str],
    out: Path | None,
    rounds: int,
    threads: int | None,
    device: str,
) -> None:
    """Time tables of the paper, print them beside the published figures, and write them."""
    import json

    import torch
    from rich.console import Console

    from sctnet.checkpoints.model_folder import usable_device
    from sctnet.cli.progress import console, progress_bar
    from sctnet.comparison.measuring import measure, plan_of
    from sctnet.errors import SctnetError, printable
    from sctnet.writing import write_text

    plan = plan_of(tables, only)
    place = str(usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    if threads is not None:
        torch.set_num_threads(threads)
    if out is not None and not out.absolute().parent.is_dir():  # told now, not after the work
        raise SctnetError(f"{out}: its folder is not there: make it, or give another file")
    contests = plan.contests()
    networks = sum(map(len, contests))
    console.print(f"{networks} networks, {len(contests)} sizes, {rounds} rounds.")
    with progress_bar() as progress:
        bar = progress.add_task("measuring", total=100, text="%")
        found = measure(
            plan,
            rounds,
            place,
            lambda sentence: console.print(printable(sentence), markup=False),
            lambda share: progress.advance(bar, 100 * share),
        )
    if out is not None:
        write_text(out, json.dumps(found, indent=1) + "\n")
    shown = Console()
    for table in dict.fromkeys(tables):
        shown.print(comparison_table(table, found["rows"]), "", sep="\n")
    spread = largest_spread(found["rows"])
    shown.print(
        f"{found['device']}, {found['threads']} threads, {rounds} rounds; medians, whose quartiles "
        f"are at most {100 * spread:.0f} % apart. Frames a second "
        "(fps), and in brackets over sctnet-b's at the same size: published; measured by the "
        "paper's protocol (fp32, PyTorch eager, full-size logits); in the fastest form, from a "
        "picture's bytes to its label map.",
        highlight=False,
    )
    if out is not None:
        shown.print(f"Written to {out}", highlight=False)


def comparison_table(name: str, rows: Sequence[dict[str, Any]]) -> "Table":
    """Return the measured rows of a table, by the size of the pictures."""
    from rich.text import Text

    from sctnet.cli.tables import listing

    own = [row for row in rows if row["table"] == name]
    columns = {"published": "published", "eager": "eager here", "prediction": "fastest here"}
    keys = dict.fromkeys(key for row in own for key, each in row.items() if "fps" in _as_dict(each))
    columns = {key: columns.get(key, key) for key in (*columns, *keys)}
    table = listing(["method"], figures=["mIoU", *columns.values()], remarks=["form"])
    table.title = f"Table {name}"
    for size in dict.fromkeys(tuple(row["size"]) for row in own):
        table.add_section()
        table.add_row(Text(f"{size[0]}x{size[1]}", style="bold"))
        for row in own:
            if tuple(row["size"]) == size:
                table.add_row(
                    Text(row["method"]),
                    f"{row['published']['miou']:.1f}",
                    *(_speed(row.get(key, {})) for key in columns),
                    row["prediction"]["form"],
                )
    return table


def largest_spread(rows: Sequence[dict[str, Any]]) -> float:
    """Return the largest distance between the quartiles of a time, as a share of its median."""
    times = [
        each["milliseconds"] for row in rows for each in row.values() if "form" in _as_dict(each)
    ]
    spreads = [(each["quartiles"][1] - each["quartiles"][0]) / each["median"] for each in times]
    return max(spreads, default=0.0)


def _as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _speed(figures: dict[str, Any]) -> str:
    fps, ratio = figures.get("fps"), figures.get("ratio")
    if fps is None:
        return "-"
    digits = 1 if fps >= 10 else 2
    return f"{fps:.{digits}f}" + ("" if ratio is None else f" ({ratio:.2f})")
