"""The peers' recorded figures, all of them, through the GPU's kernels on the stand-in for CuPy."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_the_whole_reference_suite(standin):
    """tests/test_reference.py in a process of its own, where device "auto" is the stand-in."""
    environment = {**os.environ, "LRPFAST_TEST_DEVICE": "standin"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(HERE / "test_reference.py")]
    command += ["-k", "not the_oracle_meets"]  # these compare the oracle with the figures, on no device
    done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
