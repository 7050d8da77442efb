"""The GPU's checklist, bench/gpu_check.py, runs from end to end on the stand-in for CuPy, and survives what breaks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cases
import oracle
import oracle_layers
import standin_loader
from tolerances import Expected

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"
SECTIONS = ("kernels", "reference", "sanitizer", "repeat", "memory", "limits", "speed")

pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason="the benchmarks are not beside the tests")


@pytest.fixture(autouse=True)
def compiler(standin):
    """Skips where there is no C++ compiler."""
    standin_loader.remove()


def run(script, folder, *arguments):
    """The exit status, what was printed, and the lines of the JSON file."""
    environment = {k: v for k, v in os.environ.items() if k != "LRPFAST_TEST_DEVICE"}
    command = [sys.executable, script, "--standin", "--output", folder, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode in (0, 1) and not done.stderr, done.stdout + done.stderr
    return done.returncode, done.stdout, json.loads((folder / "gpu_check.json").read_text())["lines"]


@pytest.mark.sweep
def test_the_checklist_runs(tmp_path):
    status, printed, lines = run(BENCH / "gpu_check.py", tmp_path)
    assert [line for line in lines if line["status"] == "FAIL"] == []
    assert status == 0
    for section in SECTIONS:
        own = [line for line in lines if line["section"] == section]
        assert own, f"no lines of {section}"
        for line in own:
            assert f"| {section} | {line['what']} |" in printed
            assert line["status"] == "ok" or (section == "sanitizer" and line["status"] == "skipped"), line
            if section in ("limits", "speed"):
                assert "no claim" in line["result"]
    assert "120 of" in printed or "every kernel launched" in printed
    table = (tmp_path / "gpu_check.md").read_text()
    assert all(line["what"] in table for line in lines)


BROKEN = """
import os
import signal
import time


def memory(options):
    def lose(report):
        import cupy

        def gone():
            raise RuntimeError("an illegal memory access was encountered")

        cupy.cuda.runtime.deviceSynchronize = gone
        gone()

    def wrong(report):
        report.check("wrong", False, "one is not two")

    def skip(report):
        from gpu_lines import Skip

        raise Skip("not installed")

    yield "right", lambda report: report.ok("right", "1")
    yield "wrong", wrong
    yield "loses the device", lose
    yield "dies", lambda report: os.kill(os.getpid(), signal.SIGKILL)
    yield "skips", skip
    yield "right again", lambda report: report.ok("right again", "2")
    yield "hangs", lambda report: time.sleep(600)
"""


def test_what_breaks_costs_one_line(tmp_path):
    folder = tmp_path / "bench"
    shutil.copytree(BENCH, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").symlink_to(Path(__file__).parent)
    (folder / "gpu_runs.py").write_text(BROKEN)
    script = folder / "gpu_check.py"
    script.write_text(script.read_text().replace("LIMIT = 600", "LIMIT = 12"))
    status, printed, lines = run(script, tmp_path / "build", "--only", "memory")
    found = [(line["what"], line["status"]) for line in lines]
    assert found == [
        ("right", "ok"),
        ("wrong", "FAIL"),
        ("loses the device", "FAIL"),
        ("dies", "FAIL"),
        ("skips", "skipped"),
        ("right again", "ok"),
        ("hangs", "FAIL"),
    ], printed
    results = [line["result"] for line in lines]
    assert "illegal memory access" in results[2] and "signal 9" in results[3] and "too long" in results[6]
    assert status == 1


@pytest.mark.parametrize("name", ["conv", "groups", "depthwise"])
def test_the_oracle_of_windows_is_the_oracle(name, monkeypatch):
    """Larger convolutions are compared with it; its tolerance is no wider."""
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # the benchmarks too have a module named cases
    import gpu_layers

    shape, layer = {
        "conv": ((5, 4, 6), gpu_layers.W.conv((3, 2), 6, 7, padding="same", strides=(2, 1))),
        "groups": ((7, 6), gpu_layers.W.conv((3,), 2, 9, groups=3, padding="same", dilation=2)),
        "depthwise": ((4, 5, 3), gpu_layers.W.depthwise((2, 3), 3, 2, padding="same")),
    }[name]
    x = cases.values(shape)
    r = cases.values(oracle_layers.chain(shape, layer).forward([x[0]]).shapes[-1], seed=3)
    for rule in gpu_layers.LARGE_RULES:
        allowed = []
        for compute in (gpu_layers.by_windows, gpu_layers.by_matrix):
            expected = Expected(lambda ar, compute=compute, rule=rule: compute(rule, layer, x, r, ar), together=False)
            allowed.append(expected.within("float32"))
        (got, ours), (want, theirs) = allowed
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * np.abs(want).max())
        assert (ours <= 1.5 * theirs).all()
        exact = gpu_layers.by_matrix(rule, layer, x, r, oracle.TF32)
        got = gpu_layers.by_windows(rule, layer, x, r, oracle.TF32)
        np.testing.assert_allclose(got, exact, rtol=0, atol=1e-12 * np.abs(exact).max())
