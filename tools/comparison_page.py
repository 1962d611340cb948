"""Write the measured tables into docs/comparison.md, and its figure, from results/tables.json.

    python tools/comparison_page.py [--check]

Only what stands between the two markers is replaced; --check says whether it is up to date.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from sctnet.comparison.figures import read_results, tradeoff_panels
from sctnet.comparison.measuring import REFERENCE
from sctnet.comparison.published_tables import published_table
from sctnet.pictures.tradeoff import tradeoff_picture
from sctnet.writing import write_text

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "results" / "tables.json", ROOT / "docs" / "comparison.md"
FIGURE = ROOT / "docs" / "comparison.png"
DRAWN = "1"
"""The table of the figure."""
BEGIN, END = (
    "<!-- made by tools/comparison_page.py from results/ -->",
    "<!-- end of what is made -->",
)
FORMS = {"eager": "by the paper's protocol", "prediction": "in the fastest form"}


def section(found: dict[str, Any]) -> str:
    """Return the tables, the figure and the sentences on the order."""
    tables = list(dict.fromkeys(row["table"] for row in found["rows"]))
    parts = [
        f"Measured on {found['processor']}, {found['threads']} threads, PyTorch {found['torch']}, "
        f"{found['rounds']} rounds, commit {found['commit']}.",
        f"![Accuracy over speed, published and measured]({FIGURE.name})",
        *(_table(name, [row for row in found["rows"] if row["table"] == name]) for name in tables),
        "Left out:\n\n" + "\n".join(f"- {told}." for told in found["left_out"])
        if found["left_out"]
        else "",
        "## Where the order differs",
        *(_order(name, [row for row in found["rows"] if row["table"] == name]) for name in tables),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(name: str, rows: Sequence[dict[str, Any]]) -> str:
    device = published_table(name).device
    lines = [
        f"Table {name}. Frames a second, and in brackets their ratio to SCTNet-B's:",
        "",
        f"| method | size | mIoU % | {device} | eager here | fastest here | form |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        speeds = [_speed(row[key]) for key in ("published", "eager", "prediction")]
        size = "x".join(map(str, row["size"]))
        cells = [row["method"], size, f"{row['published']['miou']:.1f}", *speeds]
        lines.append("| " + " | ".join([*cells, row["prediction"]["form"]]) + " |")
    return "\n".join(lines)


def _speed(figures: dict[str, Any]) -> str:
    if figures["fps"] is None:
        return "-"
    digits = 1 if figures["fps"] >= 10 else 2
    return f"{figures['fps']:.{digits}f} ({figures['ratio']:.2f})"


def _order(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """Say which networks overtake SCTNet-B here or fall behind it, and how many pairs change."""
    sentences = []
    for form, words in FORMS.items():
        pairs = [
            (one, other)
            for one, other in combinations(rows, 2)
            if one["size"] == other["size"]
            and one["published"]["fps"]
            and other["published"]["fps"]
        ]
        turned = sum(
            (one["published"]["fps"] > other["published"]["fps"])
            != (one[form]["fps"] > other[form]["fps"])
            for one, other in pairs
        )
        others = [row for row in rows if row["network"] != REFERENCE and row["published"]["fps"]]
        behind = [row for row in others if row["published"]["ratio"] > 1 > row[form]["ratio"]]
        ahead = [row for row in others if row["published"]["ratio"] < 1 < row[form]["ratio"]]
        sentences.append(
            f"Table {name}, {words}: {turned} of the {len(pairs)} pairs of networks at the same "
            "size stand in another order than published. "
            f"Faster than SCTNet-B there and slower here: {_named(behind, form)}. "
            f"Slower there and faster here: {_named(ahead, form)}."
        )
    return "\n\n".join(sentences)


def _named(rows: Sequence[dict[str, Any]], form: str) -> str:
    named = (
        f"{row['method']} ({row['published']['ratio']:.2f} there, {row[form]['ratio']:.2f} here)"
        for row in rows
    )
    return ", ".join(named) or "none"


def main() -> None:
    """Replace the section and the figure, or check the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    if not RESULTS.is_file():
        return  # nothing is measured yet
    found = read_results(RESULTS)
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    text = f"{before}{BEGIN}\n{section(found)}\n{END}{after}"
    if check:
        if text != page or not FIGURE.is_file():
            sys.exit(
                f"{PAGE.name}: its figures are not those of results/; run "
                "python tools/comparison_page.py"
            )
        return
    title, panels = tradeoff_panels(DRAWN, found, "prediction")
    tradeoff_picture(panels, title, FIGURE)
    write_text(PAGE, text)


if __name__ == "__main__":
    main()
