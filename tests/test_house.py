"""CONTRIBUTING's map of the package, held against the tree."""

import re
from pathlib import Path

import pytest

from sctnet.export.exporting import FORMATS, Format
from sctnet.models.blocks import BLOCKS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "sctnet"
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def rooms_on_the_map():
    """Return every folder of the map, by its path below the package, and the loose files."""
    (block,) = re.findall(r"```\nsrc/sctnet/\n(.*?)```", TEXT, flags=re.DOTALL)
    folders, files, parent = set(), set(), ""
    for line in block.splitlines():
        if match := re.match(r"^( {2,4})([a-z_]+)/", line):
            parent = match[2] if len(match[1]) == 2 else parent
            folders.add(match[2] if len(match[1]) == 2 else f"{parent}/{match[2]}")
        elif line.startswith("  ") and not line.startswith("     "):
            files.update(line.split())
    return folders, files


def test_the_map_names_every_room_and_every_loose_file():
    folders, files = rooms_on_the_map()
    packages = {
        path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py")
    }
    assert folders == (packages - {"."}) | {"recipes", "bundled", "kernels/native"}
    loose = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert files == loose


def paths_in_text():
    return sorted(set(re.findall(r"`((?:[a-z_0-9]+/)+[a-z_0-9.]*)`", TEXT)))


@pytest.mark.parametrize("path", paths_in_text())
def test_every_path_of_the_guide_exists(path):
    assert (PACKAGE / path).exists() or (ROOT / path).exists()


@pytest.mark.parametrize("name", re.findall(r"`([A-Z][A-Za-z_]+)`", TEXT))
def test_every_name_of_the_guide_is_in_the_code(name):
    if name in {"LightningModule", "SCTNET_TEST_DATA", "SCTNET_TEST_MOTO"}:
        return
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "tests").glob("*.py")]
    assert any(re.search(rf"\b{name}\b", path.read_text()) for path in files)


def test_formats_and_blocks_have_rows_of_their_own():
    assert list(FORMATS) == list(Format.__args__)
    suffixes = [suffix for each in FORMATS.values() for suffix in each.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    assert "cfblock" in BLOCKS
