"""Contractions of values that are mostly zeros, which skip these: after ReLUs, of relevance below a max pooling."""

import functools

import numpy as np
import pytest

import cases
import lrpfast
import oracle_layers
from lrpfast.kernels import _cpu, cpu, zeros
from lrpfast.kernels.contraction_ops import Contract, Output, Redistribute, Share, Term
from lrpfast.kernels.ops import Accumulate, Activate, Copy, PoolBack
from oracle_layers import Layer
from tolerances import Expected

W = cases.Weights()
POOL = Layer("MaxPool", {"size": (2, 2)})
#: More channels than a block has, columns that fill no vector, lines of one position, windows that see the edge alone.
NETS = {
    "images": oracle_layers.chain(
        (7, 6, 3),
        W.conv((3, 3), 3, 17, padding="same", activation="relu"),
        W.conv((3, 3), 17, 19, activation="relu"),
        POOL,
        W.conv((3, 3), 19, 67, padding="same", activation="relu"),
        W.conv((3, 3), 67, 18, padding="same", activation="relu"),
        Layer("Flatten"),
        W.dense(72, 3),
    ),
    "dilated": oracle_layers.chain(
        (6, 7, 2),
        W.conv((3, 3), 2, 17, activation="relu"),
        W.conv((3, 3), 17, 18, padding="same", dilation=(1, 2), activation="relu"),
        W.conv((3, 3), 18, 18, padding=((0, 2), (1, 1)), activation="relu"),
        POOL,
        Layer("GlobalAveragePool"),
        W.dense(18, 3),
    ),
    "dense": oracle_layers.chain(
        (9,),
        W.dense(9, 150, activation="relu"),
        W.dense(150, 133, activation="relu"),
        W.dense(133, 20, activation="relu"),
        W.dense(20, 3),
    ),
}
RULES = [("epsilon", {"epsilon": 0.1}), ("alpha_beta", {}), ("gamma", {})]


@functools.cache
def expected_relevance(name, number):
    net = NETS[name]
    x = cases.values(net.nodes[0].layer.parameters["shape"], 3)
    return Expected(lambda ar: net.explain(net.rules(RULES[number]), x, 0, ar))


@pytest.fixture
def small_too(monkeypatch):
    for name in _cpu.SPARSE_FROM:
        monkeypatch.setitem(_cpu.SPARSE_FROM, name, 1)


def analyzer(name, rule, **options):
    return lrpfast.Analyzer(cases.graph(NETS[name]), cases.rule(rule), target=0, **options)


@pytest.mark.share
@pytest.mark.parametrize("isa", _cpu.instruction_sets())
@pytest.mark.parametrize("rule", RULES, ids=cases.case_id)
@pytest.mark.parametrize("name", NETS)
def test_relevance(name, rule, isa, small_too, monkeypatch):
    monkeypatch.setenv("LRPFAST_ISA", isa)
    x = cases.values(NETS[name].nodes[0].layer.parameters["shape"], 3)
    for precision in ("float32", "float64", "tf32"):
        got = analyzer(name, rule, precision=precision).analyze(x)
        expected_relevance(name, RULES.index(rule)).check(cases.flat(got, 3), precision, name)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("rule", RULES[:2], ids=cases.case_id)
@pytest.mark.parametrize("name", NETS)
def test_the_same_bits_for_any_batch_threads_and_piece(name, rule, precision, small_too, monkeypatch):
    shape = NETS[name].nodes[0].layer.parameters["shape"]
    x = np.random.default_rng(4).normal(size=(23, *shape)).astype(precision)
    whole = analyzer(name, rule, precision=precision, threads=1).analyze(x)
    for cache in (9_000, 40_000):
        monkeypatch.setattr(cpu, "CACHE_BYTES", cache)
        for threads in (1, 3):
            again = analyzer(name, rule, precision=precision, threads=threads)
            assert again.analyze(x).tobytes() == whole.tobytes()
            assert again.analyze(x[22:]).tobytes() == whole[22:].tobytes()


def test_they_are_taken(small_too, monkeypatch):
    """Without these kernels the last digits differ: so they were at work."""
    taken = {name: analyzer(name, RULES[0]).analyze(cases.values(NETS[name].nodes[0].layer.parameters["shape"], 3))
             for name in NETS}  # fmt: skip
    monkeypatch.setattr(_cpu, "zeros_read", lambda operations: [zeros.NONE] * len(operations))
    for name in NETS:
        x = cases.values(NETS[name].nodes[0].layer.parameters["shape"], 3)
        assert not np.array_equal(analyzer(name, RULES[0]).analyze(x), taken[name])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_no_zero(value, small_too, monkeypatch):
    monkeypatch.setattr(_cpu, "zeros_read", lambda operations: [zeros.NEARLY_ALL] * len(operations))
    for name in NETS:
        x = cases.values(NETS[name].nodes[0].layer.parameters["shape"], 3)
        x[2].flat[4] = value
        with pytest.raises(lrpfast.InputError, match=r"x\[2, "):
            analyzer(name, RULES[0]).analyze(x)


def test_zeros_are_followed():
    w = np.ones((4, 4), np.float32)

    def contract(source, out, relu=False):
        return Contract((Term(source, w),), (Output(out, relu=relu),))

    def back(source, x, out, part="x"):
        return Redistribute((Term(source, w),), (Share(0, part),), x, out)

    operations = [
        contract(0, 1, relu=True),  # of the input: nothing is known
        contract(1, 2),
        contract(2, 3),  # of what no ReLU was applied to
        Activate(3, 3, "relu", {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}),
        contract(3, 4),
        Activate(4, 4, "relu", {"max_value": None, "negative_slope": 0.1, "threshold": 0.0}),
        contract(4, 5),
        back(5, 3, 6),
        back(6, 4, 7),
        back(7, 3, 8, part="1"),
        back(8, 1, 9),
        Accumulate((9, 6), 10),
        PoolBack(10, 1, 11, None, 1),
        back(11, 1, 12),
        Copy(11, 13),
        Accumulate((13, 10), 14),
        back(14, 0, 15),
        Accumulate((14, 15), 14),
        back(14, 0, 16),
    ]
    none, many, nearly_all = zeros.NONE, zeros.MANY, zeros.NEARLY_ALL
    found = zeros.zeros_read(operations)
    contractions = [
        level for o, level in zip(operations, found, strict=True) if isinstance(o, (Contract, Redistribute))
    ]
    assert contractions == [none, many, none, many, none, none, many, none, none, nearly_all, many, none]
    assert zeros.zeros_read([]) == []
