"""bench/gpu_experiments.py runs from end to end on the stand-in for CuPy, and makes no claims there."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import standin_loader

SCRIPT = Path(__file__).parents[1] / "bench" / "gpu_experiments.py"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the benchmarks are not beside the tests")


@pytest.fixture(autouse=True)
def compiler(standin):
    """Skips where there is no C++ compiler."""
    standin_loader.remove()


def run(folder, *only):
    """The lines of the JSON file."""
    environment = {k: v for k, v in os.environ.items() if k != "LRPFAST_TEST_DEVICE"}
    command = [sys.executable, SCRIPT, "--standin", "--output", folder, *(f"--only={name}" for name in only)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    table = (folder / "gpu_experiments.md").read_text()
    lines = json.loads((folder / "gpu_experiments.json").read_text())["lines"]
    assert table.startswith("# GPU experiments") and all(line["what"] in table for line in lines)
    own = [line for line in lines if line["section"] == "experiments"]
    assert all("no claim" in line["result"] for line in lines if line["status"] == "ok")
    return own


def test_both_kernels_of_wide_layers(tmp_path):
    tiles, windows = run(tmp_path, "wide")
    assert {"many_k_1 (float32)", "small_k_1 (float32)"} <= set(windows["kernels"])
    assert not any(name.startswith("many_k") for name in tiles["kernels"])
    assert max(tiles["apart"], windows["apart"]) < 1e-4 and "as fast as tiles" in windows["result"]


@pytest.mark.sweep
def test_every_tile_is_launched(tmp_path):
    found = [line for line in run(tmp_path, "tiles", "3xtf32") if "conv3_2" in line["what"]]
    assert all(line["status"] == "ok" for line in found)
    for line in found:
        tile = line["what"].rpartition(", ")[2].removesuffix(" tile")
        assert tile.endswith("float32") or any(kernel.startswith(tile) for kernel in line["kernels"]), line["what"]
    assert len(found) == 3 + 4 + 4


@pytest.mark.sweep
def test_all_experiments(tmp_path):
    lines = run(tmp_path)
    if importlib.util.find_spec("torch") is not None:
        skipped = [line for line in lines if line["status"] != "ok"]
        assert all("VGG16, " in line["what"] and "no launch takes this tile" in line["result"] for line in skipped)
        assert len(lines) > 40
    whole = json.loads((tmp_path / "gpu_experiments.json").read_text())["lines"]
    lxt = [line for line in whole if line["section"].startswith("lxt")]
    assert len(lxt) == 4 and all(line["status"] == "ok" or "pip install" in line["result"] for line in lxt)
