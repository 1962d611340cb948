"""The tables as data: held against the paper's text, its sums, and each other."""

import os
import re
from pathlib import Path

import pytest

from sctnet.comparison.published_tables import (
    PublishedTable,
    gain,
    height_width,
    names_of,
    number,
    published_table,
    table_names,
)
from sctnet.errors import SctnetError

ROWS = {
    "1": 27, "2": 12, "3": 9, "4": 5, "5": 10, "6": 4, "7": 16, "8": 7, "9a": 5, "9b": 5, "9c": 5,
    "10": 4, "11": 19, "12": 30,
}  # fmt: skip
COMPARISONS = ("1", "2", "3", "11")


def records(name: str) -> dict:
    """Return the rows of a table by the content of their first column."""
    return {next(iter(row.values())): row for row in published_table(name).records()}


def test_all_rows_are_there():
    found = {name: len(list(published_table(name).records())) for name in table_names()}
    assert found == ROWS
    assert list(found) == list(ROWS), "in the paper's order"


def test_no_row_stands_twice():
    for name in table_names():
        rows = published_table(name).rows
        assert len(set(rows)) == len(rows)


PAPER = Path(os.environ.get("SCTNET_TEST_DATA", "")) / "paper.txt"


def _letters(text: str) -> str:
    """Return a text without spaces, dollar signs and the commands of TeX that the tables have."""
    for command, sign in {r"\times": "×", r"\uparrow": "↑", r"\beta_": "β"}.items():
        text = text.replace(command, sign)
    return re.sub(r"[\s$*]", "", text)


def _holds(line: list[str], cells: list[str], anywhere: bool) -> bool:
    starts = range(len(line)) if anywhere else [0]
    found = any(line[start : start + len(cells)] == cells for start in starts)
    return found and (anywhere or not any(line[len(cells) :]))


@pytest.mark.skipif(not PAPER.is_file(), reason="SCTNET_TEST_DATA names no folder with paper.txt")
@pytest.mark.parametrize("name", table_names())
def test_every_row_is_a_line_of_the_paper(name: str):
    """Cell for cell; Table 9 has three parts side by side, so its rows are parts of lines there."""
    paper = PAPER.read_text(encoding="utf-8")
    lines = [[_letters(cell) for cell in line.split("\t")] for line in paper.splitlines()]
    table = published_table(name)
    for row in [tuple(table.columns.values()), *table.rows]:
        cells = [_letters("-" if cell is None else str(cell)) for cell in row]
        assert any(_holds(line, cells, anywhere=name.startswith("9")) for line in lines), cells
    marks = sum(str(cell).count("*") for row in table.rows for cell in row)
    assert marks == {"2": 3, "3": 2, "6": 1, "12": 2}.get(name, 0)


@pytest.mark.parametrize("column", ["miou_seg100", "miou_seg75", "miou_seg50"])
def test_gains_of_table_5_are_over_the_row_without_siam(column: str):
    rows = list(records("5").values())
    for without, with_siam in zip(rows[::2], rows[1::2], strict=True):
        assert gain(without[column]) is None
        assert _is_sum(without[column], with_siam[column])


@pytest.mark.parametrize("column", ["miou_seg100", "miou_seg75", "miou_seg50"])
def test_gains_of_table_6_are_over_the_row_above(column: str):
    cells = [row[column] for row in records("6").values()]
    assert all(map(_is_sum, cells, cells[1:]))


def test_gains_of_table_9b_are_over_no_alignment():
    first, *others = (row["miou"] for row in published_table("9b").records())
    assert all(_is_sum(first, each) for each in others)


def _is_sum(before, after) -> bool:
    if before is None:
        return after is None
    return round(number(before) + gain(after), 6) == number(after)


@pytest.mark.parametrize(
    ("table", "column", "larger", "smaller", "by"),
    [
        ("4", "miou", "CFBlock (Ours)", "GFABlock", 0.9),
        ("2", "miou", "SCTNet-B", "RTFormer-B", 0.9),
        ("3", "miou", "SCTNet-B", "RTFormer-B", 0.6),
        ("8", "miou", "1×7 + 7×1", "1×1", 1.0),
        ("8", "fps", "1×1", "1×7 + 7×1", 4.6),
    ],
)
def test_differences_that_the_text_tells_are_the_tables(table, column, larger, smaller, by):
    high, low = (number(records(table)[row][column]) for row in (larger, smaller))
    assert round(high - low, 6) == by


def test_the_texts_speeds_are_the_tables():
    """1.6 times RTFormer-B's on both data sets; 32.8 over 30 frames a second."""
    for table in ("2", "3"):
        ours, theirs = (number(records(table)[name]["fps"]) for name in ("SCTNet-B", "RTFormer-B"))
        assert round(ours / theirs, 1) == 1.6
    assert number(records("1")["SCTNet-B-Seg100"]["fps_torch"]) == 30 + 32.8


def test_tables_agree_where_they_say_the_same():
    first, last = records("1"), records("12")
    for name, row in first.items():
        if name.startswith("SCTNet"):
            assert row.items() - {("reference", "Ours")} == last[name].items() - {
                ("device", "RTX 3090")
            }
    whole = [first[f"SCTNet-B-Seg{size}"] for size in (100, 75, 50)]
    accuracy = [row["miou"] for row in whole]
    for table, row in (("5", "SCTNet-B (Ours)"), ("6", "+SDHA"), ("10", "SegFormer")):
        found = [number(records(table)[row][f"miou_seg{size}"]) for size in (100, 75, 50)]
        assert found == accuracy, table
    speed = whole[0]["fps_torch"]
    for table, row in (("4", "CFBlock (Ours)"), ("6", "+SDHA"), ("8", "1×7 + 7×1")):
        assert records(table)[row]["fps"] == speed, table
    assert records("4")["ResBlock"]["fps"] == records("6")["Baseline"]["fps"]
    aligned = [records("6")["+BFA*"][f"miou_seg{size}"] for size in (100, 75, 50)]
    for table, row in (("9a", "CWD loss"), ("9c", "3,15,15,15")):
        found = [records(table)[row][f"miou_seg{size}"] for size in (100, 75, 50)]
        assert found == [number(cell) for cell in aligned], table


def test_both_gpus_have_the_same_networks_of_two_branches():
    """Table 11 repeats Table 1's parameters, sizes and accuracies on another device."""
    first = {method.name: method for method in published_table("1").methods()}
    again = published_table("11").methods()
    assert {method.group for method in again} == {method.group for method in first.values()} - {""}
    for method in again:
        name = method.name.replace("DDNet", "DDRNet")
        same = ("group", "network", "size", "miou")
        assert [getattr(method, key) for key in same] == [getattr(first[name], key) for key in same]
        assert records("11")[method.name]["parameters"] == records("1")[name]["parameters"]
        if method.fps_tensorrt is not None:
            assert method.fps_tensorrt < first[name].fps_tensorrt, "an older GPU"


def test_sizes_are_height_and_width():
    sizes = {"Seg100": (1024, 2048), "Seg75": (768, 1536), "Seg50": (512, 1024)}
    for table in COMPARISONS:
        for method in published_table(table).methods():
            named = [size for part, size in sizes.items() if method.name.endswith(part)]
            assert method.size in (named or [*sizes.values(), (512, 512), (640, 640)])
    assert height_width("2048 × 1024") == (1024, 2048)


def test_the_comparisons_name_their_figures_and_networks():
    assert [published_table(name).figure for name in COMPARISONS] == [1, 6, 7, 8]
    for name in COMPARISONS:
        table = published_table(name)
        missing = {method.name for method in table.methods() if method.network is None}
        assert missing <= {
            "SFNet-ResNet18", "FCN(MV2)", "PSPNet(MV2)", "DeepLabV3+(MV2)", "PSPNet50", "ICNet",
        }  # fmt: skip
        assert table.speed in table.columns
        assert {"sctnet-b"} < set(table.networks.values())


@pytest.mark.parametrize(
    ("cell", "value", "over"),
    [("79.7(+1.2)", 79.7, 1.2), ("64.4*", 64.4, None), ("12.3M", 12.3, None), (None, None, None),
     ("-", None, None), (22, 22.0, None), ("1e-5", 1e-5, None)],
)  # fmt: skip
def test_numbers_in_cells(cell, value, over):
    assert (number(cell), gain(cell)) == (value, over)


def test_names_of_tables():
    assert names_of("9") == ["9a", "9b", "9c"]
    assert names_of("9b") == ["9b"]
    assert names_of("11") == ["11"]
    with pytest.raises(SctnetError, match="table 13: the paper has none: choose one of 1, 2"):
        names_of("13")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rows": [["a", 1], ["b"]]}, None),
        ({"rows": [["a", 1, 2]]}, "2 cells are needed"),
        ({"networks": {"c": "sctnet-s"}}, "no row is called c"),
        ({"row": []}, "Extra inputs"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(change, sentence):
    fields = {"caption": "", "columns": {"method": "M", "miou": "mIoU"}, "rows": [["a", 1]]}
    if sentence is None:
        assert list(PublishedTable(**fields | change).records()) == [{"method": "a", "miou": 1}]
        return
    with pytest.raises(ValueError, match=sentence):
        PublishedTable(**fields | change)
