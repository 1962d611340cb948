"""What the Dockerfile asks of the server: no rights, and no place to write."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import httpx
import pytest
from drawn import street
from served import encoded
from shared import saved

DOCKERFILE = (Path(__file__).parents[1] / "Dockerfile").read_text()
NOBODY = 65534


def test_the_container_serves_as_nobody_with_the_commands_defaults():
    assert f"USER {NOBODY}:{NOBODY}" in DOCKERFILE
    assert re.search(r'^ENTRYPOINT \["sctnet", "serve"\]', DOCKERFILE, flags=re.M)
    assert not re.search(r"^(ADD|VOLUME)", DOCKERFILE, flags=re.M)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, of util-linux")
def test_the_server_needs_no_rights_and_no_place_to_write(tmp_path):
    """In a mount namespace of its own all becomes read-only, then root becomes nobody."""
    model = saved(tmp_path / "model")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    with httpx.Client() as client, running_read_only(model, tmp_path) as url:
        picture = encoded(street(64, 96))
        answer = client.post(f"{url}/predict", content=picture)
        assert answer.status_code == 200
        import numpy as np

        labels = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
        assert labels.shape[:2] == (64, 96)


class running_read_only:  # noqa: N801 - reads as the context it is
    """The server as the container starts it."""

    def __init__(self, model: Path, folder: Path) -> None:
        import socket

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        serve = [sys.executable, "-m", "sctnet", "serve", str(model), "--port", str(self.port)]
        nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
                  "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]  # fmt: skip
        # What cannot be remounted (a kernel's own file system) cannot be written by nobody either.
        script = (
            "for place in $(awk '{print $5}' /proc/self/mountinfo); do "
            "mount -o remount,ro,bind $place 2>/dev/null; done; "
            f"! touch {shlex.quote(str(folder / 'written'))} 2>/dev/null || exit 99; "
            f"cd / && exec {shlex.join(nobody)} {shlex.join(serve)}"
        )
        variables = {**os.environ, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], env=variables)

    def __enter__(self) -> str:
        url = f"http://127.0.0.1:{self.port}"
        for _ in range(600):
            assert self.process.poll() is None, "the server ended"
            try:
                if httpx.get(f"{url}/v2/health/ready").status_code == 200:
                    return url
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise AssertionError("the server never became ready")

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0
