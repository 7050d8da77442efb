"""Whole programs as CUDA graphs, at every batch size that repeats; the stand-in's graphs keep no array alive."""

import threading

import numpy as np
import pytest

import cases
import lrpfast
import oracle
import test_gpu_fuse
from tolerances import Expected

SIZES = (9, 20, 6, 3)
LAYERS = cases.network(SIZES)
CASE = ("alpha_beta", {})


def analyzer(**options):
    return lrpfast.Analyzer(cases.model(LAYERS), cases.rule(CASE), **{"device": "gpu", **options})


def expected(x, target="max"):
    return Expected(lambda ar: oracle.explain(LAYERS, [CASE] * 3, np.float64(x), target, ar=ar))


def graphs_of(one):
    return one._core._programs.main._graphs[0]._graphs


@pytest.fixture
def recorded(standin, monkeypatch):
    """Returns a function that gives the sizes of the graphs recorded for an analyzer's main program, in order."""
    from lrpfast.kernels.cuda import replay

    made = []
    record = replay.CudaGraph.__init__

    def init(self, executable, x, start):
        record(self, executable, x, start)
        made.append((executable, len(x)))

    monkeypatch.setattr(replay.CudaGraph, "__init__", init)
    return lambda one: [n for executable, n in made if executable is one._core._programs.main._executables[0]]


def test_every_size_that_repeats(recorded):
    """Sizes that take turns have a graph each, recorded once, with the same bytes as without one."""
    one, plain = analyzer(), analyzer()
    xs = {n: cases.inputs(n, 9, seed=n) for n in range(1, 13)}
    before = {n: plain.analyze(x) for n, x in xs.items()}
    assert recorded(plain) == []
    for _ in range(4):
        for n, x in xs.items():
            np.testing.assert_array_equal(one.analyze(x), before[n])
    assert recorded(one) == list(range(1, 13))
    for n, x in xs.items():
        expected(x).check(before[n])


def test_there_are_never_more_than_fit(recorded, monkeypatch):
    from lrpfast.kernels.cuda import replay

    one = analyzer()
    for _ in range(3):
        for n in range(1, 25):
            x = cases.inputs(n, 9, seed=n)
            expected(x).check(one.analyze(x))
    assert len(graphs_of(one)) == replay.MOST
    # 24 sizes in turn: what was given up must repeat again, so that not every call records one
    assert len(recorded(one)) < 48
    largest = max(g.nbytes for g in graphs_of(one).values())
    monkeypatch.setattr(replay, "MOST_BYTES_TOGETHER", 3 * largest)
    x = cases.inputs(30, 9)
    for _ in range(2):
        one.analyze(x)
    assert len(graphs_of(one)) < replay.MOST
    assert sum(g.nbytes for g in graphs_of(one).values()) <= 3 * largest
    monkeypatch.setattr(replay, "MOST_BYTES", 1)
    many = len(recorded(one))
    for _ in range(3):
        expected(x[:29]).check(one.analyze(x[:29]))
    assert len(recorded(one)) == many


def test_memory_grows_and_is_given_back(recorded):
    """A graph's memory stays its own, whatever is allocated, released and computed meanwhile."""
    import cupy

    one, x = analyzer(), cases.inputs(7, 9)
    first = one.analyze(x)
    one.analyze(x)
    assert recorded(one) == [7]
    for count in (50, 400, 3000):
        large = cases.inputs(count, 9, seed=count)
        expected(large).check(one.analyze(large))
        cupy.get_default_memory_pool().free_all_blocks()
        taken = [cupy.empty(n, np.float32) for n in (10, 1000, 100_000)]
        for array in taken:
            array.fill(np.nan)
        np.testing.assert_array_equal(one.analyze(x), first)
        del taken
    other = analyzer(precision="float64")
    other.analyze(x)
    np.testing.assert_array_equal(one.analyze(x), first)
    assert recorded(one) == [7]


def test_other_inputs_targets_and_types(recorded):
    import cupy

    one = analyzer()
    kinds = [np.float32, np.float64, np.uint8, np.float16]
    for seed in range(4):
        for kind in kinds:
            x = np.abs(cases.inputs(5, 9, seed=seed) * 3).astype(kind)
            for given in (x, cupy.asarray(x)):
                got = one.analyze(given)
                expected(x).check(got.get() if hasattr(got, "get") else got)
    assert len(recorded(one)) == 2 * len(kinds)
    x = cases.inputs(5, 9)
    for target in ([0, 1, 2, 0, 1], [2, 2, 1, 0, 0], [1, 0, 0, 2, 2]):
        expected(x, target).check(one.analyze(x, target))
    assert len(recorded(one)) == 2 * len(kinds) + 1


def test_without_memory_for_a_graph(recorded, standin):
    one, x = analyzer(), cases.inputs(6, 9)
    one.analyze(x)
    need = one._core._programs.main._executables[0].workspace_bytes(6)
    failed = []

    def fail(nbytes):
        if not failed and nbytes >= need:
            failed.append(nbytes)
            return True
        return False

    standin.CONFIG["fail_allocation"] = fail
    expected(x).check(one.analyze(x))
    assert failed and recorded(one) == []
    for _ in range(2):
        expected(x).check(one.analyze(x))
    assert recorded(one) == [6]


def test_several_threads_with_sizes_of_their_own(recorded):
    one = analyzer()
    xs = [[cases.inputs(3 + (i + k) % 5, 9, seed=10 * i + k) for k in range(6)] for i in range(4)]
    got = [[None] * 6 for _ in range(4)]

    def work(i):
        for _ in range(2):
            for k, x in enumerate(xs[i]):
                got[i][k] = one.analyze(x)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, row in enumerate(xs):
        for k, x in enumerate(row):
            expected(x).check(got[i][k])
    assert sorted(recorded(one)) == [3, 4, 5, 6, 7]


def test_a_residual_network_is_one_graph(recorded, monkeypatch):
    """Its work may be larger than that of networks with few launches."""
    from lrpfast.kernels.cuda import replay

    net = test_gpu_fuse.SMALL
    one = lrpfast.Analyzer(cases.graph(net), "epsilon_plus", device="gpu")
    x = cases.values((12, 12, 3), 2)
    first = one.analyze(x)
    executable = one._core._programs.main._executables[0]
    operations = len(executable.forward) + len(executable.backward)
    monkeypatch.setattr(replay, "FLOPS_PER_LAUNCH", 2 * executable.flops // operations + 1)
    monkeypatch.setattr(replay, "REPLAY_FLOPS", 1)
    for _ in range(2):
        np.testing.assert_array_equal(one.analyze(x), first)
    assert recorded(one) == [2]
    larger = cases.values((12, 12, 3), 3)
    for _ in range(3):
        one.analyze(larger)
    assert recorded(one) == [2]
