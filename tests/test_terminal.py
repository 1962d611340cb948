"""What a terminal shows: colours unless NO_COLOR is set, bars unless --quiet is."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from drawn import street
from shared import saved

from sctnet.pipeline.preprocessing import WorkingSize

COLOUR = re.compile(r"\x1b\[[0-9;]*\b(?:3[0-9]|9[0-7])\b[0-9;]*m")


def in_a_terminal(*arguments: str, **variables: str) -> str:
    """Return what the program writes to a terminal of its own."""
    ours, its = pty.openpty()
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    environment = {**kept, "TERM": "xterm-256color", "COLUMNS": "80", **variables}
    command = [sys.executable, "-m", "sctnet", *arguments]
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        parts = []
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            parts.append(part)
    os.close(ours)
    assert process.returncode == 1  # one of the inputs is missing
    return b"".join(parts).decode()


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    folder: Path = tmp_path_factory.mktemp("terminal")
    model = saved(folder / "model", WorkingSize(rule="shorter-side", pixels=64))
    cv2.imwrite(str(folder / "a.png"), street(64, 96))
    return [
        "predict",
        str(model),
        str(folder / "a.png"),
        str(folder / "none.png"),
        "--out",
        str(folder / "out"),
    ]


def test_no_color_leaves_out_colours_and_nothing_else(arguments):
    plain = in_a_terminal(*arguments, NO_COLOR="1")
    assert not COLOUR.search(plain)
    assert "1 pictures labelled" in plain
    assert "predicting" in plain
    assert COLOUR.search(in_a_terminal(*arguments))


def test_quiet_shows_no_bar_but_tells_what_failed(arguments):
    quiet = in_a_terminal("--quiet", *arguments)
    assert "predicting" not in quiet
    assert "none.png" in quiet
    assert "1 pictures labelled" in quiet
