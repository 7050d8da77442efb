"""The benchmarks run: at small sizes and untimed, with their checks of the results, with lrpfast alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"

pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason="the benchmarks are not beside the tests")


def run(*arguments, **variables):
    environment = {k: v for k, v in os.environ.items() if k != "LRPFAST_INNVESTIGATE_PYTHON"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, env={**environment, **variables}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_benchmarks_run():
    pytest.importorskip("pytest_benchmark")
    ours = "lrpfast or numpy or file"
    out = run("-m", "pytest", BENCH, "--benchmark-disable", "-p", "no:cacheprovider", "-k", ours, "-rs")
    for line in out.splitlines():  # nothing of ours is skipped
        assert not line.startswith("SKIPPED") or "NumPy chooses" in line or "clear_refs" in line, line
    assert "passed" in out


WINNERS = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import cases, networks, tool, winners

node = networks.Node("max_pool", (0,), {"size": 2, "stride": 2, "pad": 0})
values = np.array([[1, 2, 5, 5], [3, 0, 4, 5]], float).reshape(1, 2, 4, 1)
assert winners.winners(node, values).reshape(-1).tolist() == [2, 0]
padded = networks.Node("max_pool", (0,), {"size": 3, "stride": 2, "pad": 1})
assert winners.winners(padded, values).reshape(-1).tolist() == [7, 4]

x = np.ones((4, 3), np.float32)
case = cases.CASES[0]
def tools(*factors):
    other = x * np.array(factors, np.float32)[:, None]
    def fake(name, values):
        return tool.Tool(name, 4, lambda part: values[part], lambda y: y)
    return fake("zennit", other), fake("lrpfast", x)
def judged(undecided, *factors):
    winners.changed = lambda network, sample, peer: next(undecided)
    return cases.compared(case, None, x, *tools(*factors))
assert judged(iter([]), 1, 1, 9, 9) == (0, [])
assert judged(iter([2]), 9, 1, 1, 9) == (0, [0])
assert judged(iter([2, 1, 1]), 9, 9, 1, 9) == (0, [0, 1, 3])
for undecided, factors in (([0], (9, 1, 1, 1)), ([1, 1, 1, 1], (9, 9, 9, 9)), ([1, 0], (9, 9, 1, 1))):
    try:
        judged(iter(undecided), *factors)
    except AssertionError as error:
        assert "zennit" in str(error)
    else:
        raise SystemExit(f"{undecided} {factors} passed")
"""


def test_samples_whose_winners_float32_changes_are_not_judged():
    run("-c", WINNERS, BENCH)


@pytest.mark.sweep
def test_report_runs(tmp_path):
    pytest.importorskip("matplotlib")
    raw, document = tmp_path / "raw.json", tmp_path / "docs" / "performance.md"
    arguments = (BENCH / "report.py", "--smoke", "--only", "lrpfast", "--json", raw, "--document", document)
    run(*arguments, "--folder", tmp_path, OPENBLAS_CORETYPE="Haswell")
    found = json.loads(raw.read_text())
    assert found["unset"]["OPENBLAS_CORETYPE"] == "Haswell"
    assert all("error" not in entry for part in ("models", "kernels") for entry in found[part].values())
    text = document.read_text()
    assert "these figures mean nothing" in text and "OPENBLAS_CORETYPE=Haswell" in text
    assert "MiB of anonymous memory above" in text
    assert len(list((document.parent / "images").glob("*.png"))) == 2
    before = text
    run(BENCH / "report.py", "--from-json", "--json", raw, "--document", document)
    assert document.read_text() == before
