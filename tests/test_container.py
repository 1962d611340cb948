"""What the Dockerfile asks of the server: no rights, and no place to write."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from drawn import street
from served import encoded, saved

from sctnet.errors import SctnetError
from sctnet.serving.http.served_model import read_choices

DOCKERFILE = (Path(__file__).parents[1] / "Dockerfile").read_text()
NOBODY = 65534


def test_the_container_serves_as_nobody():
    assert f"USER {NOBODY}:{NOBODY}" in DOCKERFILE
    assert re.search(r'^ENTRYPOINT \["sctnet", "serve"\]', DOCKERFILE, flags=re.M)
    assert not re.search(r"^(ADD|VOLUME)", DOCKERFILE, flags=re.M)


def test_a_model_that_may_not_be_looked_at_is_no_traceback():
    """A long name is refused by the system as a folder without permission is."""
    with pytest.raises(SctnetError, match="name"):
        read_choices(["x" * 5000], {})


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, of util-linux")
def test_the_server_needs_no_rights_and_no_place_to_write():
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are root's alone
        Path(name).chmod(0o755)
        model = saved(Path(name) / "model")
        with served_as_in_the_container(model) as url:
            answer = httpx.post(f"{url}/predict", content=encoded(street(64, 96)))
            labels = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
            assert labels.shape[:2] == (64, 96)


@contextmanager
def served_as_in_the_container(model: Path) -> Iterator[str]:
    """In a mount namespace of its own all becomes read-only, then root becomes nobody."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    rights = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
    rights += ["--bounding-set=-all", "--inh-caps=-all"]
    serve = [sys.executable, "-m", "sctnet", "serve", str(model), "--port", port]
    # What cannot be remounted (a kernel's own file system) cannot be written by nobody either.
    script = (
        "for place in $(awk '{print $5}' /proc/self/mountinfo); do "
        "mount -o remount,ro,bind $place 2>/dev/null; done; "
        f"! touch {shlex.quote(str(model / 'written'))} /tmp/written 2>/dev/null || exit 99; "
        f"cd / && exec setpriv {shlex.join(rights)} {shlex.join(serve)}"
    )
    variables = {**os.environ, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], env=variables)
    try:
        url = f"http://127.0.0.1:{port}"
        while not is_ready(url):
            assert process.poll() is None, f"the server ended with {process.returncode}"
            time.sleep(0.2)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
    assert status == 0


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False
