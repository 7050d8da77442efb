"""The benchmarks run: at small sizes and untimed, with their checks of the results."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.mark.skipif(not BENCH.is_dir(), reason="the benchmarks are not beside the tests")
def test_benchmarks_run():
    pytest.importorskip("pytest_benchmark")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", BENCH, "--benchmark-disable", "-p", "no:cacheprovider", "-k", "lrpfast"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout


@pytest.mark.skipif(not BENCH.is_dir(), reason="the benchmarks are not beside the tests")
def test_memory_script_runs(tmp_path):
    pytest.importorskip("pytest_benchmark")
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux's /proc to see memory")
    done = subprocess.run(
        [sys.executable, BENCH / "memory.py", "--samples", "50", "--folder", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MiB of anonymous memory above the import" in done.stdout
    assert list(tmp_path.iterdir()) == []
