"""iNNvestigate in a process of its own: run by the other environment's Python, told what to do line by line.

    python innvestigate_worker.py NETWORK RULE SAMPLES [--small]

Every line of the standard input is a JSON object, and gets one as its answer:

    {"do": "relevance", "count": 4, "path": "r.npy"}                  writes the relevance of the first samples
    {"do": "time", "samples": 256, "size": 64, "number": 1}           seconds of a call
    {"do": "memory"}                                                  peak memory of explaining all samples once
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib import metadata

import numpy as np

import keras_networks
import networks
import resident
from tool import Missing, Timer, Tool


def main() -> None:
    """Open the tool, say so, and answer requests until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("rule")
    parser.add_argument("samples", type=int)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print is not an answer

    def answer(**values: object) -> None:
        answers.write(json.dumps(values) + "\n")

    try:
        network = networks.make(options.network, options.small)
        x = network.samples(options.samples)
        tool = Tool("innvestigate", len(x), lambda part: x[part], keras_networks.analyzer(network, options.rule))
    except (Missing, ImportError) as error:
        return answer(missing=str(error))
    packages = {"iNNvestigate": "innvestigate", "TensorFlow": "tensorflow-cpu", "NumPy with TensorFlow": "numpy"}
    answer(versions={name: metadata.version(package) for name, package in packages.items()})
    timers: dict[tuple[int, int], Timer] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "relevance":
            np.save(request["path"], tool.of_first(request["count"]))
            answer(done=True)
        elif request["do"] == "time":
            key = request["samples"], request["size"]
            timer = timers.setdefault(key, tool.timer(*key))
            answer(seconds=timer(request["number"]))
        elif request["do"] == "memory":
            answer(**resident.peak_of(tool.run()))


if __name__ == "__main__":
    main()
