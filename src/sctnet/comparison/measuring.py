"""The paper's tables of real-time networks, measured on this machine."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from statistics import quantiles
from typing import Any, NamedTuple

from sctnet.comparison.forms import Form, forms_of, missing_runtimes
from sctnet.comparison.network_counts import SIZE, known_networks
from sctnet.comparison.published_tables import Method, published_table, table_names
from sctnet.errors import SctnetError
from sctnet.inference.timing import REST
from sctnet.provenance import environment

REFERENCE = "sctnet-b"
"""The network to whose speed, at the same size, all others are compared: every table has it."""
TURN = 0.4
"""Seconds of a form's turn."""

Say = Callable[[str], None]
Advance = Callable[[float], None]
"""Takes the work that was done, a share of all."""


class Contender(NamedTuple):
    """A network at a size; it may stand in several tables."""

    network: str
    classes: int
    size: tuple[int, int]

    @property
    def work(self) -> float:
        """About how long a call takes, in no unit: its multiply-adds."""
        counts = known_networks().variants.get(self.network)
        pixels = self.size[0] * self.size[1] / (SIZE[0] * SIZE[1])
        return pixels * (counts.multiply_adds if counts is not None else 50e9)


class Plan(NamedTuple):
    """What will be measured."""

    rows: list[tuple[str, Method, Contender]]
    """The tables' rows, with the name of the table."""
    left_out: list[str]
    """A sentence for each row that cannot be."""

    def contests(self) -> list[list[Contender]]:
        """Return the networks of each size and number of classes: these take turns."""
        found: dict[tuple[int, tuple[int, int]], dict[Contender, None]] = {}
        for _, _, each in self.rows:
            found.setdefault((each.classes, each.size), {})[each] = None
        return [list(contest) for contest in found.values()]


def comparable_tables() -> list[str]:
    """Return the tables that can be measured: 1, 2, 3 and 11."""
    return [name for name in table_names() if published_table(name).classes is not None]


def plan_of(tables: Sequence[str], only: Sequence[str] = ()) -> Plan:
    """Return the rows of some tables, or those whose method or network is named in ``only``.

    SCTNet-B is always among them. Raises :class:`SctnetError` for a table that compares no
    networks and for a name in ``only`` that stands in none of the tables.
    """
    known = comparable_tables()
    for name in tables:
        if name not in known:
            raise SctnetError(f"--table {name}: nothing to measure: choose from {', '.join(known)}")
    rows, left_out, unseen = [], [], {name.lower() for name in only}
    variants = known_networks().variants
    for table in dict.fromkeys(tables):
        published = published_table(table)
        assert published.classes is not None
        for method in published.methods():
            names = {method.name.lower(), *([method.network] if method.network else [])}
            named = names & {name.lower() for name in only}
            unseen -= named
            if only and not named and method.network != REFERENCE:
                continue
            if method.network is None or method.network not in variants:
                left_out.append(f"Table {table}, {method.name}: this network is not in sctnet")
                continue
            contender = Contender(method.network, published.classes, method.size)
            rows.append((table, method, contender))
    if unseen:
        raise SctnetError(
            f"{sorted(unseen)[0]}: in none of the tables {', '.join(tables)}: give a method or a "
            "network that `sctnet table` shows, or none for all"
        )
    return Plan(rows, left_out)


def measure(plan: Plan, rounds: int, device: str, say: Say, advance: Advance) -> dict[str, Any]:
    """Time every contender of a plan; return all figures and the machine, for a JSON file.

    The networks of one size take turns: in every round, each form runs once uncounted and then for
    :data:`TURN` seconds. Of the forms from bytes to label map, that which was fastest at first
    takes part. ``say`` gets a sentence for whatever is left out, and ``advance`` the progress.
    """
    contests = plan.contests()
    total = sum((2 + rounds) * each.work for contest in contests for each in contest)
    left_out = [*plan.left_out, *missing_runtimes(device)]
    for sentence in left_out:
        say(f"Left out: {sentence}")
    figures: dict[Contender, dict[str, Any]] = {}
    for contest in contests:
        ready: dict[Contender, _Ready] = {}
        for each in contest:
            try:
                ready[each], failed = _prepared(each, device)
            except SctnetError as error:
                failed = [f"{each.network}: {error}"]
            for sentence in failed:
                left_out.append(sentence)
                say(f"Left out: {sentence}")
            advance(2 * each.work / total)
        found = _in_turns(ready, rounds, lambda work: advance(work / total))
        figures |= {each: _told(ready[each], found[each]) for each in ready}
    rows = [
        _row(table, method, each, figures[each])
        for table, method, each in plan.rows
        if each in figures
    ]
    for row in rows:
        _add_ratios(row, rows)
    return {
        "what": "published and measured frames a second; ratio: to sctnet-b of the same table and "
        "size; eager: fp32, batch 1, float image to full-size logits; prediction: bytes to labels",
        "rounds": rounds,
        "rows": rows,
        "left_out": left_out,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        **environment(),
    }


class _Ready(NamedTuple):
    """What takes turns."""

    forms: dict[str, Form]
    """``eager``, ``prediction`` (the fastest) and, on a GPU, all others by their names."""
    first: dict[str, float]
    """Milliseconds of each form from bytes to label map, by its name, before the turns."""


def _prepared(contender: Contender, device: str) -> tuple[_Ready, list[str]]:
    """Return what takes turns, and a sentence for each form that failed."""
    made = forms_of(contender.network, contender.classes, contender.size, device)
    first = {form.name: min(form.timed(TURN / 4)) for form in made.whole}
    if not first:
        raise SctnetError("; ".join(made.left_out))
    whole = min(made.whole, key=lambda form: first[form.name])
    forms = {"eager": made.eager, "prediction": whole}
    if device != "cpu":  # CUDA graphs and TensorRT have columns of their own
        forms |= {form.name: form for form in made.whole if form is not whole}
    return _Ready(forms, first), made.left_out


def _in_turns(
    ready: dict[Contender, _Ready], rounds: int, advance: Advance
) -> dict[Contender, dict[str, list[float]]]:
    found: dict[Contender, dict[str, list[float]]] = {
        each: {name: [] for name in way.forms} for each, way in ready.items()
    }
    for _ in range(rounds):
        for each, way in ready.items():
            for name, form in way.forms.items():
                time.sleep(REST)
                found[each][name] += form.timed(TURN)
            advance(each.work)
    return found


def _told(ready: _Ready, found: dict[str, list[float]]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, milliseconds in found.items():
        low, median, high = _quartiles(milliseconds)
        told[name] = {
            "form": ready.forms[name].name,
            "fps": round(1000 / median, 3),
            "milliseconds": {
                "median": round(median, 3),
                "quartiles": [round(low, 3), round(high, 3)],
                "best": round(min(milliseconds), 3),
                "calls": len(milliseconds),
            },
        }
    told["first_milliseconds"] = {name: round(each, 3) for name, each in ready.first.items()}
    return told


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = quantiles(values, n=4, method="inclusive")
    return low, median, high


def _row(table: str, method: Method, contender: Contender, told: dict[str, Any]) -> dict[str, Any]:
    return {
        "table": table,
        "method": method.name,
        "network": contender.network,
        "size": list(contender.size),
        "classes": contender.classes,
        "published": {
            "fps": method.fps,
            "fps_tensorrt": method.fps_tensorrt,
            "miou": method.miou,
        },
        **{name: dict(each) if isinstance(each, dict) else each for name, each in told.items()},
    }


def _add_ratios(row: dict[str, Any], rows: Iterable[dict[str, Any]]) -> None:
    """Divide a row's speeds by those of the reference, where that was measured."""
    for other in rows:
        same = all(other[key] == row[key] for key in ("table", "size"))
        if same and other["network"] == REFERENCE:
            for name, each in row.items():
                if isinstance(each, dict) and each.get("fps") and other.get(name, {}).get("fps"):
                    each["ratio"] = round(each["fps"] / other[name]["fps"], 3)
