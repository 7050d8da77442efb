"""Mixed calls from threads and forked workers: `bench/soak.py`, for less than an hour."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "bench" / "soak.py"
SECONDS = os.environ.get("LRPFAST_SOAK_SECONDS", "60")

pytestmark = [
    pytest.mark.skipif(not SOAK.exists(), reason="the benchmarks are not beside the tests"),
    pytest.mark.skipif("LRPFAST_SANITIZED" in os.environ, reason="a sanitizer keeps memory of its own"),
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc to count memory and threads"),
]


@pytest.mark.parametrize("seconds", ["5", pytest.param(SECONDS, marks=pytest.mark.sweep)])
def test_results_do_not_change_and_memory_does_not_grow(seconds):
    done = subprocess.run(
        [sys.executable, SOAK, "--seconds", seconds], capture_output=True, text=True, timeout=float(seconds) + 600
    )
    assert done.returncode == 0, done.stdout + done.stderr
