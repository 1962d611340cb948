"""The examples of README and site: all are checked, and what can run here runs, page by page.

A command's name, options, recipe and settings are checked wherever it stands. In the slow tests
the blocks of a page then run in its order, in a folder of drawn streets; training is cut to two
iterations on small crops. What cannot run here is listed below with the reason and, where there is
one, the test that does it.
"""

import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import typer
import yaml
from example_world import make_world

import sctnet
from sctnet.cli import app
from sctnet.errors import SctnetError
from sctnet.training.recipe import load_recipe

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = [
    ROOT / "README.md",
    *sorted(
        path
        for path in (ROOT / "docs").rglob("*.md")
        if path.parent.name != "reference" or path.stem in ("python", "files")
    ),
]
COMMAND = typer.main.get_command(app)

NOT_RUN = {
    r"^\$ ": "a transcript of broken data: tests/test_data_checking.py",
    r"^docker ": "no container daemon: tests/test_container.py",
    r"torchrun|srun|SBATCH": "several processes: tests/test_processes.py",
    r"s3://|https://bucket": "an object store: tests/test_bulk_s3.py",
    r"rtsp://| 0 --out|ray up|ray job|--address": "a camera, a stream, a cluster",
    r" --serve\b": "a page until it is stopped: tests/test_web.py, tests/test_web_browser.py",
    r"--format executorch": "a compiler for minutes: tests/test_executorch.py",
    r"bench --table": "an hour: tests/test_comparison.py",
    r"--folds|--seeds": "several runs: tests/test_repetitions.py",
    r"^sctnet demo": "a page until it is stopped: tests/test_demo.py, tests/test_demo_browser.py",
    r"CITYSCAPES|IMAGENET|TINY|PICTURES|data\.yaml|runs/imagenet-s": "data that must be asked for",
    r"seaformer\.pth|official\.pth|mit_b2|FILE\.pth": "weights of others: tests/test_conversion.py",
    r"runs/teacher|ForeignTeacher|_siam|efficientnet-lite2": "a teacher: tests/test_alignment.py",
    r"^cmake ": "the compiler: tests/test_kernels.py",
    r"aoti_load_package": "a compiler for minutes: tests/test_export.py",
    r"^make ": "the Makefile itself; its targets are checked",
    r"MODEL|SOURCE": "a pattern, not a command",
    r"--precision int8": "calibration for a minute: tests/test_quantisation.py",
    r"runs/zero": "two long runs to compare",
}  # fmt: skip
"""By what a block contains, why it does not run here."""

SHORT = [
    "schedule.iterations=2", "schedule.warmup_iterations=1", "run.batch_size=2",
    "augmentation.crop=[64,96]", "data.workers=0", "run.validate_every=2", "run.log_every=1",
    "preparation.working_size={rule: shorter-side, pixels: 64, height: null, width: null}",
]  # fmt: skip


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str
    before: str

    @property
    def commands(self) -> list[str]:
        """Return the lines that are commands, continued lines joined."""
        lines = re.sub(r"\\\n\s*", " ", self.text).splitlines()
        return [line for line in lines if runs(line.removeprefix("$ "))]

    @property
    def parts(self) -> list[str]:
        """Return what runs or is left out on its own: each command, or all the Python."""
        return [self.text] if self.language == "python" else self.commands


def reason(part: str) -> str | None:
    """Say why it does not run here."""
    return next((why for what, why in NOT_RUN.items() if re.search(what, part, flags=re.M)), None)


def words_of(command: str) -> list[str]:
    return shlex.split(command.removeprefix("$ "), comments=True)


def runs(line: str) -> bool:
    return line.startswith(("sctnet ", "pip ", "make ", "curl ", "docker ", "torchrun "))


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```", text, flags=re.M | re.S):
        body = re.sub(rf"^{match[1]}", "", match[3], flags=re.M)
        before = text[: match.start()].rstrip().rpartition("\n\n")[2]
        line = text[: match.start()].count("\n") + 1
        found.append(Block(page, line, match[2], body, before))
    return found


ALL = [block for page in PAGES for block in blocks(page)]
OF_COMMANDS = [block for block in ALL if block.language in ("", "sh", "bash") and block.commands]
RUNNABLE = [block for block in ALL if block.language == "python" or block in OF_COMMANDS]


def name(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


@pytest.mark.parametrize("block", OF_COMMANDS, ids=name)
def test_commands_are_spelled_as_they_are(block):
    for program, *words in map(words_of, block.commands):
        if program == "sctnet" and "MODEL" not in words:
            command, path = COMMAND, "sctnet"
            while hasattr(command, "commands") and words and words[0] in command.commands:
                path, command = f"{path} {words[0]}", command.commands[words[0]]
                words = words[1:]
            command.make_context(path, list(words))  # unknown options raise
            if path == "sctnet train":
                check_recipe(words)
        elif program == "pip":
            for extra in re.findall(r"\[(\w+)\]", " ".join(words)):
                assert extra in PROJECT["optional-dependencies"]
        elif program == "make":
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
            assert words[0] in targets


def check_recipe(words: list[str]) -> None:
    """Check the name of a recipe and the fields that are set."""
    given = COMMAND.commands["train"].make_context("train", list(words)).params
    recipe, settings = given["recipe"], list(given["settings"] or [])
    if recipe is not None and "=" in recipe:
        recipe, settings = None, [recipe, *settings]
    load_recipe(
        recipe or "camvid/sctnet-s_360x480",
        settings,
        scale=given["scale"],
        student=given["student"],
    )


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "python"], ids=name)
def test_python_compiles(block):
    compile(block.text, name(block), "exec")


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "yaml"], ids=name)
def test_yaml_describes_something(block):
    assert isinstance(yaml.safe_load(block.text), dict)


def test_reasons_name_tests_that_are_there():
    for path in re.findall(r"tests/\w+\.py", " ".join(NOT_RUN.values())):
        assert (ROOT / path).is_file()


def test_every_reason_is_needed():
    for what in NOT_RUN:
        assert any(re.search(what, block.text, flags=re.M) for block in ALL), what


@pytest.fixture(scope="module")
def drawn_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    make_world(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_of_a_page_run_in_its_order(page, drawn_world, tmp_path, monkeypatch):
    subprocess.run(["cp", "-r", f"{drawn_world}/.", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = {"sctnet": sctnet, "open_pictures": lambda: iter(["a.jpg", "b.jpg"])}
    ports: dict[str, str] = {}
    with ExitStack() as servers:
        for block in blocks(page):
            if block.language == "yaml" and "`streets.yaml`" in block.before:
                (tmp_path / "streets.yaml").write_text(block.text)
            if block not in RUNNABLE:
                continue
            for part in block.parts:
                if reason(part) is not None:
                    continue
                if block.language == "python":
                    exec(compile(with_ports(part, ports), name(block), "exec"), names)
                else:
                    run_command(words_of(part), name(block), ports, servers)


def with_ports(text: str, ports: dict[str, str]) -> str:
    for documented, real in ports.items():
        text = text.replace(f"127.0.0.1:{documented}", f"127.0.0.1:{real}")
    return text


def run_command(words: list[str], where: str, ports: dict[str, str], servers: ExitStack) -> None:
    program, *arguments = words
    if program == "pip":
        return  # its extras are checked
    if program == "curl":
        subprocess.run([with_ports(word, ports) for word in words], check=True)
        return
    assert program == "sctnet", where
    if arguments[0] == "serve":
        place = arguments.index("--port") + 1 if "--port" in arguments else None
        documented = "8000" if place is None else arguments[place]
        ports[documented] = servers.enter_context(served(arguments, place))
        return
    if arguments[0] == "train":
        if "--out" in arguments:
            make_room(Path(arguments[arguments.index("--out") + 1]))
        arguments += SHORT
    try:
        status = COMMAND.main(arguments, prog_name="sctnet", standalone_mode=False)
    except SctnetError as error:
        raise AssertionError(f"{where}: {shlex.join(words)}: {error}") from error
    assert not status, f"{where}: {shlex.join(words)}: exit status {status}"


def make_room(run: Path) -> None:
    """Remove the world's own model, which stands where this page trains one."""
    if run.is_dir() and not (run / "recipe.yaml").is_file():
        shutil.rmtree(run)


@contextmanager
def served(arguments: list[str], place: int | None):
    """Start the server on a free port, which is yielded."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = [*arguments, "--port", port] if place is None else list(arguments)
    if place is not None:
        arguments[place] = port
    process = subprocess.Popen([sys.executable, "-m", "sctnet", *arguments])
    try:
        while True:
            assert process.poll() is None, "the server ended"
            try:
                if httpx.get(f"http://127.0.0.1:{port}/v2/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(20)


if __name__ == "__main__":  # what of each page runs, and why the rest does not
    run, left = 0, 0
    for block in RUNNABLE:
        reasons = [reason(part) for part in block.parts]
        run, left = run + reasons.count(None), left + len(reasons) - reasons.count(None)
        for why in filter(None, reasons):
            print(f"{name(block)}: {why}")  # noqa: T201
    whole = sum(None in map(reason, block.parts) for block in RUNNABLE)
    print(f"{whole} of {len(RUNNABLE)} blocks run; {run} of {run + left} commands and pieces")  # noqa: T201
