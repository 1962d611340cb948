"""The story of docs/distill.md: each of its commands, on a small clip."""

import re
import shlex
from pathlib import Path

import av
import cv2
import pytest
from typer.testing import CliRunner

from sctnet.cli import app
from sctnet.data.registry import open_dataset

PAGE = Path(__file__).parents[1] / "docs" / "distill.md"


def commands() -> list[str]:
    story = PAGE.read_text().partition("## From a video")[2].partition("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", story, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def clip(file: Path) -> None:
    """Write ten drawn streets, two frames each, as a video of 128 x 96."""
    streets = open_dataset("synthetic", ["train"])
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(20):
            picture = cv2.resize(streets.image(number // 2), (128, 96))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.slow
def test_the_commands_of_the_page_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "road.mp4")
    found = commands()
    assert len(found) == 5
    for command in found:
        words = shlex.split(command.replace("--minutes 5", "--minutes 0.1"))
        result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "labelled/overlay/road.mp4").exists()
    assert (tmp_path / "next/data.yaml").exists()
    assert (tmp_path / "runs/better/sheet.jpg").exists()
