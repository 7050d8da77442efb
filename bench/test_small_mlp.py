"""A small network, 2-100-100-2 under epsilon: one sample, where Python counts, and 10,000, where arithmetic does."""

from __future__ import annotations

import numpy as np
import pytest

import lrpfast
from networks import assert_close, innvestigate_analyzer, model, network, reference_epsilon

EPSILON = 0.01
SINGLE = "2-100-100-2: one sample"
BATCH = "2-100-100-2: 10,000 samples"


@pytest.fixture(scope="module")
def case(small):
    """The network, its inputs, and the expected relevance of the first of them."""
    layers = network((2, 100, 100, 2))
    x = np.random.default_rng(1).uniform(-1, 1, size=(100 if small else 10_000, 2)).astype(np.float32)
    return layers, x, reference_epsilon(layers, x[:100], EPSILON)


@pytest.fixture(scope="module")
def ours(case):
    layers, x, expected = case
    analyzer = lrpfast.create_analyzer("lrp.epsilon", model(layers), epsilon=EPSILON)
    assert_close(analyzer.analyze(x)[: len(expected)], expected)
    assert_close(analyzer.analyze(x[:1]), expected[:1])
    return analyzer


@pytest.fixture(scope="module")
def theirs(case):
    layers, x, expected = case
    analyzer = innvestigate_analyzer("lrp.epsilon", layers, epsilon=EPSILON)
    assert_close(analyzer.analyze(x[: len(expected)]), expected)
    return analyzer


@pytest.mark.benchmark(group=SINGLE)
def test_lrpfast_single(benchmark, ours, case):
    benchmark(ours.analyze, case[1][:1])


@pytest.mark.benchmark(group=SINGLE)
def test_innvestigate_single(benchmark, theirs, case):
    benchmark(theirs.analyze, case[1][:1])


@pytest.mark.benchmark(group=BATCH)
def test_lrpfast(benchmark, ours, case):
    benchmark(ours.analyze, case[1])


@pytest.mark.benchmark(group=BATCH)
def test_innvestigate(benchmark, theirs, case):
    benchmark(theirs.analyze, case[1])
