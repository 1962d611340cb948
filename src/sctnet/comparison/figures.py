"""What the paper's figures of accuracy over speed show, from published and measured figures."""

import json
import re
from pathlib import Path
from typing import Any

from sctnet.comparison.published_tables import number, published_table
from sctnet.errors import SctnetError
from sctnet.pictures.tradeoff import Panel, Point

FORMS = {"eager": "fp32, PyTorch eager", "prediction": "fastest form, bytes to label map"}
_COLUMNS = {"fps_tensorrt": "TensorRT", "fps_torch": "PyTorch", "fps": "PyTorch"}
_SIZE = re.compile(r"-Seg\d+$")


def read_results(file: Path) -> dict[str, Any]:
    """Return the content of a file that ``sctnet bench --table`` wrote.

    Raises :class:`SctnetError` for any other file.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        for row in found["rows"]:
            row["table"], row["method"], row["eager"]["fps"], row["prediction"]["fps"]
            published_table(row["table"])
    except OSError as error:
        raise SctnetError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError) as error:
        raise SctnetError(
            f"{file}: not the results of `sctnet bench --table`: write them with its --out"
        ) from error
    if not found["rows"]:
        raise SctnetError(f"{file}: holds no measured network: time one by `sctnet bench --table`")
    return dict(found)


def tradeoff_panels(table: str, results: dict[str, Any], form: str) -> tuple[str, list[Panel]]:
    """Return the title and the two panels of a table's figure.

    The published speeds are those of the figure; the measured ones are ``eager`` or ``prediction``.
    """
    published = published_table(table)
    assert published.speed is not None
    measured = {row["method"]: row[form]["fps"] for row in results["rows"] if row["table"] == table}
    speeds = {
        str(record["method"]): number(record[published.speed]) for record in published.records()
    }
    speeds |= published.from_elsewhere
    panels = [
        Panel(f"published: {published.device}, {_COLUMNS[published.speed]}", []),
        Panel(f"measured: {_machine(results)}\n{FORMS[form]}", []),
    ]
    for panel, known in zip(panels, (speeds, measured), strict=True):
        for method in published.methods():
            fps = known.get(method.name)
            if fps is not None:
                family, ours = _SIZE.sub("", method.name), method.name.startswith("SCTNet")
                label, group = method.name.replace("-Seg", " "), method.group or "other networks"
                panel.points.append(Point(label, family, group, ours, fps, method.miou))
    title = f"Figure {published.figure}, Table {table}: {published.caption}"
    if any(method.name.endswith("-Seg50") for method in published.methods()):
        title += "\nA name's number is its pictures' size in percent of 1024x2048."
    return title, panels


def _machine(results: dict[str, Any]) -> str:
    return f"{results['device']}, {results['threads']} threads"
