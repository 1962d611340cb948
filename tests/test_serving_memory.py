"""What is freed is kept, so that the next batch finds it mapped."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource
import numpy as np
from sctnet.serving.memory import keep_freed_memory

def mapped():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [np.ones(30 << 20, np.uint8) for _ in range(3)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

handed_back = mapped()
keep_freed_memory()
mapped()
print(handed_back, mapped())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_kept() -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    handed_back, kept = map(int, ended.stdout.split())
    assert kept < handed_back / 10
