"""Memory does not grow with the number of samples: files larger than memory can be explained.

The full size (20,000 x 31,811 float32, 2.5 GB) runs in `bench/memory.py`; here a smaller one holds the same.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import lrpfast

FEATURES = 31_811
MIB = 1 << 20

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc to see memory")


def anonymous(pid):
    """A process's anonymous memory in bytes, 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(found[0]) * 1024 if found else 0


def peak(*arguments):
    """The largest anonymous memory of a Python process with these arguments."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    largest = 0
    while process.poll() is None:
        largest = max(largest, anonymous(process.pid))
        time.sleep(0.004)  # what is looked for stays for longer: chunks of many samples
    assert process.returncode == 0
    return largest


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    rng = np.random.default_rng(0)

    def dense(n, m, activation=None):
        return lrpfast.layers.Dense(
            (rng.normal(size=(n, m)) / np.sqrt(n)).astype(np.float32),
            (0.1 * rng.normal(size=m)).astype(np.float32),
            activation=activation and lrpfast.layers.Activation(activation),
        )

    path = tmp_path_factory.mktemp("memory") / "wide.npz"
    lrpfast.from_layers([dense(FEATURES, 8, "relu"), dense(8, 8, "relu"), dense(8, 2)]).save(path)
    return path


@pytest.mark.parametrize("options", [(), ("--normalize", "maxabs"), ("--precision", "float64")], ids=" ".join)
def test_memory_does_not_grow_with_the_samples(model, tmp_path, options):
    peaks = {}
    for samples in (500, 2_000):
        inputs, output = tmp_path / f"x{samples}.npy", tmp_path / f"r{samples}.npy"
        header = {"descr": "<f4", "fortran_order": False, "shape": (samples, FEATURES)}
        rows = np.random.default_rng(1).random((250, FEATURES), np.float32)
        with open(inputs, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(samples // len(rows)):
                file.write(rows.data)
        peaks[samples] = peak(
            "-m", "lrpfast", "explain", str(model), str(inputs), "-o", str(output),
            "--device", "cpu", "--rule", "lrp.alpha_1_beta_0_IB", "--input-layer-rule", "Bounded", *options,
        )  # fmt: skip
        assert os.path.getsize(output) >= samples * FEATURES * 4
        inputs.unlink()
        output.unlink()
    # 2,000 samples take 254 MB in and 254 or 509 MB out
    assert peaks[2_000] - peaks[500] < 32 * MIB
    above_import = peaks[2_000] - peak("-c", "import lrpfast.cli, tqdm, h5py")
    assert above_import < 192 * MIB


def test_memory_of_a_convolutional_network_does_not_grow_either(tmp_path):
    """Activations live a micro-batch at a time: 2,000 images would need 0.8 GB of them at once."""
    rng = np.random.default_rng(0)
    layers = lrpfast.layers
    model = lrpfast.from_layers(
        [
            layers.Conv((0.3 * rng.normal(size=(3, 3, 3, 32))).astype(np.float32), padding="same", activation="relu"),
            layers.Conv((0.1 * rng.normal(size=(3, 3, 32, 32))).astype(np.float32), padding="same", activation="relu"),
            layers.MaxPool((2, 2)),
            layers.GlobalAveragePool(),
            layers.Dense(rng.normal(size=(32, 4)).astype(np.float32)),
        ],
        input_shape=(32, 32, 3),
    )
    model.save(tmp_path / "model.npz")
    peaks = {}
    for samples in (200, 2_000):
        np.save(tmp_path / "x.npy", rng.random((samples, 32, 32, 3), np.float32))
        arguments = (tmp_path / "model.npz", tmp_path / "x.npy", "-o", tmp_path / f"r{samples}.npy")
        peaks[samples] = peak("-m", "lrpfast", "explain", *map(str, arguments), "--rule", "epsilon_plus")
    assert peaks[2_000] - peaks[200] < 96 * MIB
