"""How near float32 relevances are to float64's at a climate network's size, lrpfast's and iNNvestigate's.

    LRPFAST_INNVESTIGATE_PYTHON=… python bench/agreement.py [--samples 256]

The network is the benchmarks' 31,811-8-8-2. Float64 is lrpfast's under iNNvestigate's names and conventions; the oracle
of the tests confirms it independently. A sample's error is Σ|R − R64| / Σ|R64|. Prints docs/climate.md's table.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import document
import lrpfast_networks
import networks
from conventions import INNVESTIGATE
from innvestigate_peer import Innvestigate


def errors(relevance: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Each sample's error; see above."""
    result: np.ndarray = np.abs(relevance - exact).sum(1) / np.abs(exact).sum(1)
    return result


def row(rule: str, samples: int) -> list[str]:
    """A line of the table."""
    network = networks.make("wide", False)
    x = network.samples(samples)
    tool = Innvestigate("wide", rule, samples, False)
    try:
        theirs = tool.of_first(samples)
    finally:
        tool.close()
    options: dict[str, Any] = {"convention": "innvestigate"}
    ours = lrpfast_networks.analyzer(network, rule, **options).analyze(x)
    exact = lrpfast_networks.analyzer(network, rule, precision="float64", **options).analyze(x.astype(np.float64))
    own, peers = errors(ours, exact), errors(theirs, exact)
    name, keywords = INNVESTIGATE[rule]
    shown = ", ".join(f"{key}={value!r}" for key, value in keywords.items())
    figures = [f"{np.median(own):.1e}", f"{own.max():.1e}", f"{np.median(peers):.1e}", f"{peers.max():.1e}"]
    return [f"`{name}`" + (f" ({shown})" if shown else ""), *figures, f"{np.median(peers) / np.median(own):.1f}×"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    samples = parser.parse_args().samples
    header = ["rule", "lrpfast, median", "largest", "iNNvestigate, median", "largest", "ratio of medians"]
    print(document.table(header, [row(rule, samples) for rule in INNVESTIGATE]))


if __name__ == "__main__":
    main()
