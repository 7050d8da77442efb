"""How near to float64 are relevances of a wide network in float32: lrpfast's, and iNNvestigate's.

    export LRPFAST_INNVESTIGATE_PYTHON=some/folder/bin/python       # bench/innvestigate_env.sh makes it
    python bench/agreement.py

The network has 31,811 inputs, as the climate scientists' (Dense 31,811-8-8-2), and random weights. iNNvestigate
explains it by its own code in float32, and in float64: that is the reference. A sample's error is its largest
|R − R₆₄| as a share of max|R₆₄|.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import networks
from conventions import INNVESTIGATE
from innvestigate_peer import VARIABLE

NETWORK = "wide"


def innvestigate(precision: str, samples: int, folder: Path) -> None:
    """Write iNNvestigate's relevance of every rule to the folder; runs in its own environment."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    import keras_networks

    tf.keras.backend.set_floatx(precision)
    network = networks.make(NETWORK)
    x = network.samples(samples).astype(precision)
    for rule in INNVESTIGATE:
        relevance = keras_networks.analyzer(network, rule)(x)
        assert relevance.dtype == precision
        np.save(folder / f"{rule}_{precision}.npy", relevance)


def main() -> None:
    """Print a table of errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--innvestigate", nargs=2, metavar=("PRECISION", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.innvestigate:
        return innvestigate(options.innvestigate[0], options.samples, Path(options.innvestigate[1]))
    python = os.environ.get(VARIABLE)
    if not python:
        sys.exit(f"{VARIABLE} does not name a Python with iNNvestigate; see bench/README.md")

    import lrpfast_networks

    network = networks.make(NETWORK)
    x = network.samples(options.samples)
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("float32", "float64"):
            script = [python, __file__, "--samples", str(options.samples), "--innvestigate", precision, folder]
            subprocess.run(script, check=True)
        print("| rule | iNNvestigate, float32: median, largest error | lrpfast, float32 | lrpfast, float64 |")
        print("|---|---|---|---|")
        for rule in INNVESTIGATE:
            exact, theirs = (np.load(Path(folder) / f"{rule}_{kind}.npy") for kind in ("float64", "float32"))
            ours = [
                lrpfast_networks.analyzer(network, rule, "innvestigate", precision=kind).analyze(x)
                for kind in ("float32", "float64")
            ]
            errors = [np.abs(r - exact).max(1) / np.abs(exact).max(1) for r in (theirs, *ours)]
            print(f"| {rule} | " + " | ".join(f"{np.median(e):.1e}, {e.max():.1e}" for e in errors) + " |")


if __name__ == "__main__":
    main()
