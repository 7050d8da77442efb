"""The users' own workload: Dense 31,811 → 8 → 8 → 2, thousands of samples, alpha 1 beta 0 with Bounded first.

The floor is memory: 8 bytes for every feature and sample.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import lrpfast
from networks import assert_close, innvestigate_analyzer, model, network, reference_bounded

RULE: tuple[str, dict[str, Any]] = ("lrp.alpha_1_beta_0_IB", {"input_layer_rule": "Bounded"})
BATCH = "Dense 31,811-8-8-2: 2,000 samples in one call"
SINGLE = "Dense 31,811-8-8-2: one sample in one call"


@pytest.fixture(scope="module")
def case(small):
    """The network, its inputs, and the expected relevance of the first of them."""
    features, samples = (317, 40) if small else (31_811, 2_000)
    layers = network((features, 8, 8, 2))
    x = np.random.default_rng(1).uniform(-1, 1, size=(samples, features)).astype(np.float32)
    return layers, x, reference_bounded(layers, x[:40])


@pytest.fixture(scope="module")
def ours(case):
    layers, x, expected = case
    analyzer = lrpfast.create_analyzer(RULE[0], model(layers), **RULE[1])
    assert_close(analyzer.analyze(x)[: len(expected)], expected)
    return analyzer


@pytest.fixture(scope="module")
def theirs(case):
    layers, x, expected = case
    analyzer = innvestigate_analyzer(RULE[0], layers, **RULE[1])
    assert_close(analyzer.analyze(x[: len(expected)]), expected)
    return analyzer


def in_batches(analyzer, x):
    for i in range(0, len(x), 100):
        analyzer.analyze(x[i : i + 100])


@pytest.mark.benchmark(group=BATCH)
def test_lrpfast_into_an_array(benchmark, ours, case):
    """The result's array is made once, as for files explained in chunks."""
    x = case[1]
    benchmark(ours.analyze, x, out=np.zeros_like(x))


@pytest.mark.benchmark(group=BATCH)
def test_lrpfast_new_array(benchmark, ours, case):
    """With a new array for every result, whose pages the system has to supply."""
    benchmark(ours.analyze, case[1])


@pytest.mark.benchmark(group=BATCH)
def test_lrpfast_batches_of_100(benchmark, ours, case):
    """New arrays again, each let go before the next: the allocator has their pages at hand."""
    benchmark(in_batches, ours, case[1])


@pytest.mark.benchmark(group=BATCH)
def test_innvestigate(benchmark, theirs, case):
    benchmark(theirs.analyze, case[1])


@pytest.mark.benchmark(group=BATCH)
def test_innvestigate_batches_of_100(benchmark, theirs, case):
    benchmark(in_batches, theirs, case[1])


@pytest.mark.benchmark(group=SINGLE)
def test_lrpfast_single(benchmark, ours, case):
    samples = itertools.cycle(case[1][:, None])  # not the same one again and again, which would stay in the cache
    benchmark(lambda: ours.analyze(next(samples)))


@pytest.mark.benchmark(group=SINGLE)
def test_innvestigate_single(benchmark, theirs, case):
    samples = itertools.cycle(case[1][:, None])
    benchmark(lambda: theirs.analyze(next(samples)))
