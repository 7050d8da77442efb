"""The peers' recorded figures through the GPU's kernels on the stand-in for CuPy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("share", "float32"),
    [
        ("3", "float32"),
        ("9", "3xtf32"),
        *(pytest.param("1", p, marks=pytest.mark.sweep) for p in ("float32", "3xtf32")),
    ],
)
def test_the_reference_suite(share, float32, standin):
    """tests/test_reference.py in a process of its own, where device "auto" is the stand-in."""
    environment = {**os.environ, "LRPFAST_TEST_DEVICE": "standin", "LRPFAST_TEST_SHARE": share}
    environment["LRPFAST_TEST_FLOAT32"] = float32
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(HERE / "test_reference.py")]
    command += ["-k", "not the_oracle_meets"]  # these compare the oracle with the figures, on no device
    done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
