"""Contractions from and to few channels: windows that are read by lines, and sums of at most four outputs."""

import functools

import numpy as np
import pytest

import cases
import lrpfast
import oracle_layers
from lrpfast.kernels import _cpu, cpu
from oracle_layers import Layer
from tolerances import Expected

W = cases.Weights()
#: Runs that fill vectors and runs that do not; lines shorter than windows; regions of strides; one to four outputs.
NETS = {
    "lines": oracle_layers.chain(
        (9, 7, 1),
        W.conv((3, 3), 1, 32, padding="same", activation="relu"),
        W.conv((3, 3), 32, 2, padding="same", activation="relu"),
        Layer("Flatten"),
        W.dense(126, 3),
    ),
    "runs": oracle_layers.chain(
        (6, 9, 3), W.conv((3, 3), 3, 20, activation="relu"), W.conv((1, 1), 20, 4), Layer("Flatten"), W.dense(112, 3)
    ),
    "strides": oracle_layers.chain(
        (12, 11, 3),
        W.conv((7, 7), 3, 16, strides=(2, 2), padding="same", activation="relu"),
        W.conv((3, 2), 16, 4, strides=(1, 2), padding=((0, 2), (3, 0))),
        Layer("Flatten"),
        W.dense(96, 1),
    ),
    "dilation": oracle_layers.chain(
        (8, 9, 2),
        W.conv((3, 3), 2, 16, dilation=(2, 1), padding="same", activation="relu"),
        W.conv((2, 3), 16, 3, dilation=(1, 2)),
        Layer("GlobalAveragePool"),
        W.dense(3, 3),
    ),
    "transposed": oracle_layers.chain(
        (3, 4, 17),
        W.conv_transpose((3, 3), 17, 32, strides=(2, 2), activation="relu"),
        W.conv_transpose((3, 4), 32, 3, activation="relu"),
        Layer("Flatten"),
        W.dense(324, 3),
    ),
    "one axis": oracle_layers.chain(
        (23, 4), W.conv((5,), 4, 8, strides=(3,)), W.conv((9,), 8, 1, padding="same"), Layer("Flatten"), W.dense(7, 2)
    ),
    "three axes": oracle_layers.chain(
        (3, 4, 5, 1), W.conv((2, 3, 2), 1, 48, padding="same", activation="relu"), Layer("Flatten"), W.dense(2880, 3)
    ),
    "dense": oracle_layers.chain(
        (2,),
        W.dense(2, 100, activation="relu"),
        W.dense(100, 3, activation="relu"),
        W.dense(3, 256, activation="relu"),
        W.dense(256, 1),
    ),
    "steps": oracle_layers.chain((5, 4), W.dense(4, 33, activation="relu"), Layer("Flatten"), W.dense(165, 2)),
}
RULES = [
    ("epsilon", {"epsilon": 0.1}),
    ("alpha_beta", {}),
    ("z_plus", {}),
    ("gamma", {}),
    ("flat", {}),
    ("z_box", {"low": -4, "high": 4}),
]
PRECISIONS = ("float32", "float64", "tf32")


def shape_of(name):
    return NETS[name].nodes[0].layer.parameters["shape"]


@functools.cache
def expected_relevance(name, number):
    x = cases.values(shape_of(name), 3)
    return Expected(lambda ar: NETS[name].explain(NETS[name].rules(RULES[number]), x, 0, ar))


def analyzer(name, rule, **options):
    return lrpfast.Analyzer(cases.graph(NETS[name]), cases.rule(rule), target=0, **options)


@pytest.mark.share
@pytest.mark.parametrize("isa", _cpu.instruction_sets())
@pytest.mark.parametrize("rule", RULES, ids=cases.case_id)
@pytest.mark.parametrize("name", NETS)
def test_relevance(name, rule, isa, monkeypatch):
    monkeypatch.setenv("LRPFAST_ISA", isa)
    for precision in PRECISIONS:
        got = analyzer(name, rule, precision=precision).analyze(cases.values(shape_of(name), 3))
        expected_relevance(name, RULES.index(rule)).check(cases.flat(got, 3), precision, name)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("rule", RULES[:2], ids=cases.case_id)
@pytest.mark.parametrize("name", NETS)
def test_the_same_bits_for_any_batch_threads_and_piece(name, rule, precision, monkeypatch):
    x = np.random.default_rng(4).normal(size=(53, *shape_of(name))).astype(precision)
    whole = analyzer(name, rule, precision=precision, threads=1).analyze(x)
    for cache in (9_000, 40_000):
        monkeypatch.setattr(cpu, "CACHE_BYTES", cache)
        for threads in (1, 3):
            monkeypatch.setattr(cpu, "FLOPS_TO_SHARE", 0)
            again = analyzer(name, rule, precision=precision, threads=threads)
            assert again.analyze(x).tobytes() == whole.tobytes()
            assert again.analyze(x[52:]).tobytes() == whole[52:].tobytes()
            assert again.analyze(x[3:10]).tobytes() == whole[3:10].tobytes()


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("name", NETS)
def test_nothing_is_read_beside_the_input(name, precision):
    """What lies before and behind the samples, as infinity, changes no value."""
    size = int(np.prod(shape_of(name)))
    memory = np.full((7, size), np.inf, precision)
    memory[2:5] = np.random.default_rng(5).normal(size=(3, size))
    x = memory[2:5].reshape(3, *shape_of(name))
    found = analyzer(name, RULES[1], precision=precision).analyze(x)
    assert found.tobytes() == analyzer(name, RULES[1], precision=precision).analyze(x.copy()).tobytes()
    assert np.isfinite(found).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_found(value):
    for name in NETS:
        x = cases.values(shape_of(name), 3)
        x[2].flat[1] = value
        with pytest.raises(lrpfast.InputError, match=r"x\[2, "):
            analyzer(name, RULES[0]).analyze(x)
