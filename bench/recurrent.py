"""A year of days through an LSTM: how long an explanation of one sequence takes, and how exact float32 is.

    python bench/recurrent.py [--units 16] [--features 5] [--steps 365] [--batch 256] [--threads 1] [--repeat 9]

Random weights; LRP-all and LRP-half. Prints the time to make the analyzer, the least and the median time of a sequence,
explanation and prediction, and how far float32 is from float64, as a part of each sequence's largest relevance.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np

import lrpfast


def measure(run: Callable[[], object], repeat: int) -> list[float]:
    """Seconds of each of some runs, after one that is not counted."""
    run()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def network(units: int, features: int, steps: int) -> lrpfast.Model:
    """An LSTM and a dense layer, of random weights that leave states alive."""
    rng = np.random.default_rng(0)
    kernel, recurrent = rng.normal(size=(features, 4 * units)), rng.normal(size=(units, 4 * units))
    bias = np.zeros(4 * units)
    bias[units : 2 * units] = 1.0
    lstm = lrpfast.layers.LSTM(0.4 * kernel.astype(np.float32), recurrent.astype(np.float32) / units**0.5, bias)
    head = lrpfast.layers.Dense(rng.normal(size=(units, 1)).astype(np.float32))
    return lrpfast.from_layers([lstm, head], input_shape=(steps, features))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    defaults = {"units": 16, "features": 5, "steps": 365, "batch": 256, "threads": 1, "repeat": 9}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    o = parser.parse_args()
    warnings.simplefilter("ignore", lrpfast.RelevanceWarning)
    model = network(o.units, o.features, o.steps)
    x = np.random.default_rng(1).normal(size=(o.batch, o.steps, o.features)).astype(np.float32)
    print(f"{o.units} units, {o.features} features, {o.steps} steps, batch {o.batch}, {o.threads} threads")
    model.predict(x[:1])  # what a process does once
    rules = {product: lrpfast.rules.Recurrent(1e-3, product=product) for product in ("signal", "half")}
    for name, rule in {**rules, "gradient": lrpfast.rules.Gradient()}.items():
        start = time.perf_counter()
        analyzer = lrpfast.Analyzer(model, rule, threads=o.threads, target=0)
        seconds = time.perf_counter() - start
        times = measure(lambda analyzer=analyzer: analyzer.analyze(x), o.repeat)
        exact = lrpfast.Analyzer(model, rule, threads=o.threads, target=0, precision="float64").analyze(x)
        error = np.abs(analyzer.analyze(x) - exact).max((1, 2)) / np.abs(exact).max((1, 2))
        print(
            f"{name:8} {1e3 * seconds:5.1f} ms to make, {1e3 * min(times) / o.batch:.3f} ms a sequence "
            f"(median {1e3 * statistics.median(times) / o.batch:.3f}); float32 is off by {np.median(error):.0e}, "
            f"at most {error.max():.0e} of the largest"
        )
    times = measure(lambda: model.predict(x, threads=o.threads), o.repeat)
    print(f"predict {1e3 * min(times) / o.batch:.3f} ms a sequence")


if __name__ == "__main__":
    main()
