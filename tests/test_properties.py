"""What must hold whatever the network, the rule and the data: balances, invariances, and the edges of arithmetic."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cases
import lrpfast
import oracle
from tolerances import SAFETY, UNITS, Expected

PRECISIONS = ("float32", "float64", "tf32")
FIELDS = ("incoming", "outgoing", "bias", "stabilizer", "lost")

any_case = st.sampled_from(cases.CASES)
any_activation = st.sampled_from(["relu", "tanh", "leaky_relu", "sigmoid"])
any_precision = st.sampled_from(PRECISIONS)
any_sizes = st.lists(st.integers(1, 70), min_size=2, max_size=4)
any_seed = st.integers(0, 2**16)


def quietly(function, *args, **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lrpfast.AmplificationWarning)
        return function(*args, **keywords)


# Conservation.


@given(any_case, any_activation, any_sizes, any_precision, any_seed)
def test_what_comes_in_goes_out_or_is_accounted_for(case, activation, sizes, precision, seed):
    layers = cases.network(sizes, activation, seed)
    x = cases.inputs(4, sizes[0], seed)
    explanation = quietly(lrpfast.Analyzer(cases.model(layers), cases.rule(case), precision=precision).explain, x)
    assert len(explanation.conservation) == len(layers)
    u = 2.0**-11 if precision == "tf32" else UNITS[precision][0]
    sizes_of_terms = absolute_terms(layers, case, x)
    above = None
    for record, layer in zip(explanation.conservation, layers[::-1], strict=True):
        values = [getattr(record, key) for key in FIELDS]
        assert all(v.dtype == np.float64 and v.shape == (4,) and np.isfinite(v).all() for v in values)
        rest = values[0] - sum(values[1:])
        # Every term of every sum, each off by a few units: |R| in and out, and what a denominator multiplies
        size = sizes_of_terms[record.layer]
        assert (np.abs(rest) <= SAFETY * u * np.sqrt(max(layer.w.shape)) * size).all(), (record, rest, size)
        if above is not None:
            np.testing.assert_allclose(record.incoming, above, rtol=1e-12, atol=0)
        above = record.outgoing
    np.testing.assert_allclose(above, np.float64(explanation.relevance).sum(1), rtol=1e-9, atol=1e-30)


def absolute_terms(layers, case, x):
    """Per layer and sample, the sum of the absolute values of all that the balance adds up."""
    names = ["dense"] + [f"dense_{i}" for i in range(1, len(layers))]
    ledgers = []
    oracle.backward(oracle.as_float64(layers), [case] * len(layers), np.float64(x), "max", ledgers=ledgers)
    return {
        name: ledger.absolute + np.abs(incoming).sum(-1) + np.abs(outgoing).sum(-1)
        for name, (ledger, incoming, outgoing) in zip(names[::-1], ledgers, strict=True)
    }


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("case", cases.CASES, ids=cases.case_id)
def test_where_relevance_went(case, activation):
    """Each figure of the report is the oracle's."""
    layers = cases.network((6, 9, 7, 3), activation, seed=1)
    for n in layers:
        n.w[:, 1], n.b[1] = 0, 0  # outputs that nothing reaches
    x = cases.inputs(5, 6, seed=1)
    model = cases.model(layers)

    def compute(ar):
        ledgers = []
        oracle.backward(oracle.as_float64(layers), [case] * 3, ar.repeated(np.float64(x)), "max", ar, ledgers)
        rows = []
        for ledger, r, out in ledgers:
            figures = r.sum(-1), out.sum(-1), ledger.bias, ledger.stabilizer, ledger.lost
            rows.append(np.stack(np.broadcast_arrays(*figures), -1))
        return np.stack(rows, -2)

    expected = Expected(compute)
    for precision in ("float32", "float64"):
        analyzer = lrpfast.Analyzer(model, cases.rule(case), precision=precision)
        explanation = quietly(analyzer.explain, x)
        assert explanation.relevance.tobytes() == analyzer.analyze(x).tobytes()
        got = np.stack([np.stack([getattr(r, key) for key in FIELDS], 1) for r in explanation.conservation], 1)
        expected.check(got, precision, dtype=np.float64)


@pytest.mark.parametrize("case", cases.PLAIN, ids=cases.case_id)
def test_relevance_of_hidden_layers(case):
    layers = cases.network((6, 9, 7, 3), "tanh", seed=2)
    x = cases.inputs(4, 6, seed=2)
    model = cases.model(layers)
    explanation = quietly(lrpfast.Analyzer(model, cases.rule(case)).explain, x, layers=True)
    for i, layer in enumerate(model.layers[1:3]):
        got = explanation.layers[layer.name]

        def compute(ar, i=i):
            ledgers = []
            oracle.backward(oracle.as_float64(layers), [case] * 3, ar.repeated(np.float64(x)), "max", ar, ledgers)
            return ledgers[1 - i][2]  # what the layer above gave to its input

        Expected(compute).check(got, what=layer.name)
    assert explanation.layers[model.layers[0].name].tobytes() == explanation.relevance.tobytes()


def test_conservation_without_bias_and_stabilizer():
    layers = [n._replace(b=None) for n in cases.network((6, 9, 7, 3), "relu", seed=1)]
    x = cases.inputs(50, 6, seed=1)
    rule = lrpfast.rules.Zero(stabilizer=lrpfast.rules.Stabilizer(1e-9, "zero"))
    explanation = quietly(lrpfast.Analyzer(cases.model(layers), rule, precision="float64").explain, x)
    np.testing.assert_allclose(explanation.relevance.sum(1), explanation.output.max(1), rtol=1e-9, atol=1e-12)


def test_amplification_is_reported_and_warned_of():
    """A denominator of 1e-6 that two large terms make: relevance grows a millionfold."""
    make = lrpfast.layers
    model = lrpfast.from_layers([make.Dense(np.array([[1.0], [-1.0]]), np.array([5.0]))])
    analyzer = lrpfast.Analyzer(model, lrpfast.rules.Epsilon(1e-9, bias="ignore"), precision="float64")
    x = np.array([[1.0, 1.0 - 1e-6], [1.0, 0.5]])
    with pytest.warns(lrpfast.AmplificationWarning, match="epsilon"):
        explanation = analyzer.explain(x)
    growth = explanation.conservation[0].amplification
    assert growth[0] == pytest.approx(2e6, rel=0.01) and growth[1] == pytest.approx(3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analyzer.explain(x[1:])


# The same bytes, however the work is cut up.


@given(
    any_case,
    any_activation,
    st.lists(st.sampled_from([1, 2, 3, 5, 8, 17, 33, 64, 65, 130, 257, 300, 513, 700]), min_size=2, max_size=4),
    any_precision,
    st.integers(1, 130),
    st.lists(st.integers(0, 130), max_size=4),
    any_seed,
)
def test_batches_and_threads_do_not_change_a_bit(case, activation, sizes, precision, count, cuts, seed):
    layers = cases.network(sizes, activation, seed)
    model, rule = cases.model(layers), cases.rule(case)
    x = cases.inputs(count, sizes[0], seed)
    whole = lrpfast.Analyzer(model, rule, precision=precision, threads=1).analyze(x)
    for threads in (2, 3):
        again = lrpfast.Analyzer(model, rule, precision=precision, threads=threads).analyze(x)
        assert again.tobytes() == whole.tobytes(), f"{threads} threads"
    analyzer = lrpfast.Analyzer(model, rule, precision=precision, threads=2)
    parts = np.split(x, sorted(min(c, count) for c in cuts))
    assert np.concatenate([analyzer.analyze(p) for p in parts]).tobytes() == whole.tobytes(), "batches"
    single = lrpfast.Analyzer(model, rule, precision=precision, threads=1, memory=1 << 21)
    assert single.analyze(x[:7]).tobytes() == whole[:7].tobytes(), "little memory"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("sizes", [(2000, 8, 8, 2), (3000, 300, 5), (1, 600, 1), (31, 1, 700)], ids=str)
@pytest.mark.parametrize("case", cases.PLAIN[::3], ids=cases.case_id)
def test_large_layers_too(case, sizes, precision):
    layers = cases.network(sizes, "relu")
    model, rule = cases.model(layers), cases.rule(case)
    x = cases.inputs(53, sizes[0])
    first, *others = (lrpfast.Analyzer(model, rule, precision=precision, threads=n) for n in (1, 2, 3))
    whole = first.analyze(x)
    for analyzer in others:
        assert analyzer.analyze(x).tobytes() == whole.tobytes()
        cut = [analyzer.analyze(p) for p in (x[:1], x[1:3], x[3:3], x[3:28], x[28:])]
        assert np.concatenate(cut).tobytes() == whole.tobytes()


def test_predictions_too():
    layers = cases.network((300, 64, 65, 3), "gelu", last="softmax")
    model = cases.model(layers)
    x = cases.inputs(100, 300)
    for precision in PRECISIONS:
        whole = model.predict(x, precision=precision, threads=1)
        assert model.predict(x, precision=precision, threads=3).tobytes() == whole.tobytes()
        assert np.concatenate([model.predict(x[:1]), model.predict(x[1:])]).shape == whole.shape
        parts = [model.predict(p, precision=precision) for p in (x[:1], x[1:40], x[40:])]
        assert np.concatenate(parts).tobytes() == whole.tobytes()


@given(any_case, st.integers(-20, 20), any_seed)
def test_relevance_scales_with_its_start(case, power, seed):
    """Twice the starting relevance, twice the relevance: exactly, for a power of two."""
    layers = cases.network((6, 9, 4), "relu", seed)
    start = np.random.default_rng(seed).normal(size=(5, 4)).astype(np.float32)
    analyzer = lrpfast.Analyzer(cases.model(layers), cases.rule(case), precision="float64")
    x = cases.inputs(5, 6, seed)
    np.testing.assert_array_equal(analyzer.analyze(x, start * 2.0**power), analyzer.analyze(x, start) * 2.0**power)


# Whatever array comes.


@pytest.fixture
def small():
    layers = cases.network((6, 9, 4), "relu")
    return lrpfast.Analyzer(cases.model(layers), "gamma"), cases.inputs(12, 6)


def test_array_layouts(small):
    analyzer, x = small
    wanted = analyzer.analyze(x).tobytes()
    readonly = x.copy()
    readonly.setflags(write=False)
    spread = np.zeros((24, 18), np.float32)
    spread[::2, ::3] = x
    backwards = x[::-1, ::-1].copy()
    for other in (
        readonly,
        np.asfortranarray(x),
        spread[::2, ::3],
        backwards[::-1, ::-1],
        x.astype(">f4"),
        x.astype(np.float64),
        x.tolist(),
        memoryview(x),
        np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape),  # not aligned
    ):
        assert analyzer.analyze(other).tobytes() == wanted
    assert np.array_equal(readonly, x)


def test_a_broadcast_batch(small):
    analyzer, x = small
    many = np.broadcast_to(x[3], (7, 6))
    assert analyzer.analyze(many).tobytes() == analyzer.analyze(x[3:4]).tobytes() * 7


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.int64, np.uint8, np.uint64, bool, np.longdouble])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_real_dtypes_are_cast_once(dtype, precision):
    layers = cases.network((6, 9, 4), "relu")
    analyzer = lrpfast.Analyzer(cases.model(layers), "epsilon", precision=precision)
    x = np.abs(cases.inputs(5, 6)).round(3).astype(dtype)
    cast = x.astype(np.float64 if precision == "float64" else np.float32)
    assert analyzer.analyze(x).tobytes() == analyzer.analyze(cast).tobytes()
    assert analyzer.analyze(x).dtype == cast.dtype


def test_empty_batch(small):
    analyzer, x = small
    got = analyzer.analyze(x[:0])
    assert got.shape == (0, 6) and got.dtype == np.float32
    explanation = analyzer.explain(x[:0])
    assert explanation.relevance.shape == (0, 6) and explanation.output.shape == (0, 4)
    assert all(record.incoming.shape == (0,) for record in explanation.conservation)
    assert analyzer.model.predict(x[:0]).shape == (0, 4)
    assert analyzer.analyze(x[:0], []).shape == (0, 6)


def test_out_is_filled_and_returned(small):
    analyzer, x = small
    out = np.full(x.shape, np.nan, np.float32)
    assert analyzer.analyze(x, out=out) is out
    assert out.tobytes() == analyzer.analyze(x).tobytes()


@pytest.mark.parametrize(
    "make",
    [
        lambda x: np.empty((11, 6), np.float32),
        lambda x: np.empty((12, 5), np.float32),
        lambda x: np.empty((12, 6, 1), np.float32),
        lambda x: np.empty((12, 6), np.float64),
        lambda x: np.empty((12, 6), np.int32),
        lambda x: np.empty((6, 12), np.float32).T,
        lambda x: np.empty((12, 12), np.float32)[:, ::2],
        lambda x: np.broadcast_to(np.float32(0), (12, 6)),
        lambda x: [[0.0] * 6] * 12,
        lambda x: x,
        lambda x: x.reshape(-1)[::-1].reshape(12, 6),
    ],
)
def test_out_that_does_not_fit(small, make):
    analyzer, x = small
    before = x.copy()
    with pytest.raises(lrpfast.LrpfastError, match="out"):
        analyzer.analyze(x, out=make(x))
    assert np.array_equal(x, before)


# Edges of arithmetic.


def one_layer(rule, w, x, r, b=None, precision="float32"):
    dense = lrpfast.layers.Dense(np.array(w, np.float32), None if b is None else np.array(b, np.float32))
    x, r = np.array([x], np.float32), np.array([r], np.float32)
    return lrpfast.redistribute(rule, dense, x, r, precision=precision)[0]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_denominator_of_exactly_zero(precision):
    """x w = +1 and -1: nothing but the stabilizer is left."""
    rules = lrpfast.rules
    for rule, wanted in [
        (rules.Zero(), [1e9, -1e9]),
        (rules.Zero(stabilizer=rules.Stabilizer(1e-7, "zero")), [1e7, -1e7]),
        (rules.Epsilon(0.5), [2, -2]),
        (rules.Gamma(), [0, 0]),
        (rules.Gamma(generalized=False), [5, -4]),
        (rules.ZPlus(stabilizer=rules.Stabilizer(1e-9, "zero")), [1, 0]),
        (rules.AlphaBeta(stabilizer=rules.Stabilizer(1e-9, "zero")), [2, -1]),
        (rules.Flat(stabilizer=rules.Stabilizer(1e-9, "zero")), [0.5, 0.5]),
    ]:
        got = one_layer(rule, [[1], [-1]], [1, 1], [1], precision=precision)
        tolerance = 1e-3 if precision == "tf32" else 1e-5
        np.testing.assert_allclose(got, wanted, rtol=tolerance, err_msg=str(rule))


@pytest.mark.parametrize("case", cases.CASES, ids=cases.case_id)
def test_dead_inputs_and_outputs(case):
    """All-zero inputs, weights and biases: finite, and nothing for inputs that contribute nothing."""
    rule = cases.rule(case)
    for precision in PRECISIONS:
        got = one_layer(rule, np.zeros((3, 2)), [0, -0.0, 0], [1, -1], [0, 0], precision)
        if case[0] not in ("flat", "z_box"):
            assert (got == 0).all()
        assert np.isfinite(got).all()


@pytest.mark.parametrize("case", cases.CASES, ids=cases.case_id)
def test_minus_zero_is_zero(case):
    layers = cases.network((6, 9, 4), "relu")
    analyzer = lrpfast.Analyzer(cases.model(layers), cases.rule(case))
    x = cases.inputs(5, 6)
    x[:, ::2] = 0
    minus = x.copy()
    minus[:, ::2] = -0.0
    np.testing.assert_array_equal(analyzer.analyze(minus), analyzer.analyze(x))


def test_a_denominator_of_minus_zero_is_stabilized_upwards():
    """z underflows to -0.0; the sign of zero is +, so the share keeps the sign of its contribution."""
    got = one_layer(lrpfast.rules.Epsilon(1e-6), [[1e-30]], [-1e-30], [1e30])
    np.testing.assert_allclose(got, [-1e-24], rtol=1e-5)


@pytest.mark.parametrize("case", cases.CASES, ids=cases.case_id)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_huge_and_tiny_values(case, precision):
    """From 1e-45 to 1e38: an error or finite figures, never a silent infinity or NaN."""
    layers = cases.network((5, 7, 3), "relu")
    model = cases.model(layers)
    analyzer = lrpfast.Analyzer(model, cases.rule(case), precision=precision)
    x = cases.inputs(1, 5)
    for power in (-45, -38, -30, -20, 20, 30, 38):
        with np.errstate(over="ignore"):
            scaled = (np.float64(x) * 10.0**power).astype(np.float32)
        scaled = np.clip(scaled, -3e38, 3e38)
        try:
            got = analyzer.analyze(scaled)
        except lrpfast.LrpfastError as error:
            assert "finite" in str(error) or "overflow" in str(error), error
        else:
            assert np.isfinite(got).all()
        assert np.isfinite(analyzer.analyze(x)).all(), "and the analyzer still works"


def test_overflow_names_the_sample():
    layers = cases.network((5, 7, 3), None)
    analyzer = lrpfast.Analyzer(cases.model(layers), "epsilon", threads=1)
    x = cases.inputs(8, 5)
    x[6] = 3e38 * np.sign(layers[0].w[:, 0])
    with pytest.raises(lrpfast.InputError, match="6"):
        analyzer.analyze(x)
    assert np.isfinite(lrpfast.Analyzer(cases.model(layers), "epsilon", precision="float64").analyze(x)).all()


def test_a_start_beyond_float32():
    layers = cases.network((5, 7, 3), "relu")
    start = np.full((2, 3), 1e300)
    with pytest.raises(lrpfast.LrpfastError):
        lrpfast.Analyzer(cases.model(layers), "epsilon").analyze(cases.inputs(2, 5), start)
    got = lrpfast.Analyzer(cases.model(layers), "epsilon", precision="float64").analyze(cases.inputs(2, 5), start)
    assert np.isfinite(got).all()


# Masked features.


def masked(layers, rules, x, ar):
    """The oracle where features are NaN: the first layer has only the others."""
    rows = np.full(x.shape, np.nan)
    for row, into in zip(np.float64(x), rows, strict=True):
        there = ~np.isnan(row)
        first = layers[0]._replace(w=layers[0].w[there])
        name, parameters = rules[0]
        own = {k: v[there] if k in ("low", "high") and np.ndim(v) else v for k, v in parameters.items()}
        into[there] = oracle.explain([first, *layers[1:]], [(name, own), *rules[1:]], row[None, there], ar=ar)[0]
    return rows


@pytest.mark.parametrize(
    "case", [c for c in cases.CASES if c[1].get("bias") not in ("distribute", "repeat")], ids=cases.case_id
)
def test_masked_features(case):
    layers = cases.network((8, 9, 4), "relu", seed=5)
    x = cases.inputs(6, 8, seed=5)
    x[0, 2] = x[2, :7] = x[3, ::2] = x[4, 5:] = np.nan
    there = ~np.isnan(x)
    expected = Expected(lambda ar: np.where(there, masked(layers, [case, case], x, ar), 0), together=False)
    for precision in PRECISIONS:
        analyzer = lrpfast.Analyzer(cases.model(layers), cases.rule(case), precision=precision, mask_nan=True)
        got = analyzer.analyze(x)
        assert (np.isnan(got) == ~there).all()
        expected.check(np.where(there, got, got.dtype.type(0)), precision)
        assert quietly(analyzer.explain, x).relevance.tobytes() == got.tobytes()


def test_masked_features_with_bounds_for_each():
    layers = cases.network((8, 9, 4), "relu", seed=5)
    x = cases.inputs(6, 8, seed=5)
    x[0, 2] = x[3, ::2] = np.nan
    there = ~np.isnan(x)
    low, high = -3 - np.arange(8) / 8, 3 + np.arange(8) / 4
    rules = [("z_box", {"low": low, "high": high}), ("epsilon", {})]
    composite = lrpfast.composites.Uniform(lrpfast.rules.Epsilon(), first=lrpfast.rules.ZBox(low, high))
    got = lrpfast.Analyzer(cases.model(layers), composite, mask_nan=True).analyze(x)
    expected = Expected(lambda ar: np.where(there, masked(layers, rules, x, ar), 0), together=False)
    expected.check(np.where(there, got, np.float32(0)))


def test_masking_changes_nothing_where_nothing_is_masked():
    layers = cases.network((8, 9, 4), "relu", seed=5)
    x = cases.inputs(6, 8, seed=5)
    for case in (("epsilon", {}), ("alpha_beta", {})):
        plain = lrpfast.Analyzer(cases.model(layers), cases.rule(case)).analyze(x)
        ready = lrpfast.Analyzer(cases.model(layers), cases.rule(case), mask_nan=True).analyze(x)
        np.testing.assert_array_equal(plain, ready)


@pytest.mark.parametrize(
    "case", [c for c in cases.PLAIN if c[1]["bias"] in ("distribute", "repeat")], ids=cases.case_id
)
def test_a_shared_bias_cannot_be_masked(case):
    layers = cases.network((8, 9, 4), "relu")
    with pytest.raises(lrpfast.RuleError, match="bias"):
        lrpfast.Analyzer(cases.model(layers), cases.rule(case), mask_nan=True)


def test_a_sample_that_is_masked_whole():
    layers = cases.network((8, 9, 4), "relu")
    for case in (("epsilon", {}), ("flat", {}), ("z_plus", {}), ("z_box", {"low": -3.0, "high": 3.0})):
        analyzer = lrpfast.Analyzer(cases.model(layers), cases.rule(case), mask_nan=True)
        assert np.isnan(analyzer.analyze(np.full((2, 8), np.nan))).all()


# One analyzer, many users.


def test_pickle_and_copy(small):
    analyzer, x = small
    wanted = analyzer.analyze(x).tobytes()
    for other in (pickle.loads(pickle.dumps(analyzer)), copy.deepcopy(analyzer), copy.copy(analyzer)):
        assert other.analyze(x).tobytes() == wanted
        assert quietly(other.explain, x).relevance.tobytes() == wanted
    box = lrpfast.rules.ZBox(-1, [1, 2, 3, 4, 5, 6])  # rules hold arrays too
    dense, r = analyzer.model.layers[1], np.ones((12, 9))
    inside = x.clip(-1, 1)
    again = lrpfast.redistribute(pickle.loads(pickle.dumps(box)), dense, inside, r)
    assert again.tobytes() == lrpfast.redistribute(box, dense, inside, r).tobytes()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_several_threads_share_an_analyzer(threads):
    layers = cases.network((300, 64, 32, 4), "relu")
    analyzer = lrpfast.Analyzer(cases.model(layers), "alpha_beta", threads=threads)
    batches = [cases.inputs(20 + i, 300, seed=i) for i in range(6)]
    wanted = [analyzer.analyze(x).tobytes() for x in batches]
    wrong = []

    def work(i):
        for _ in range(10):
            if analyzer.analyze(batches[i]).tobytes() != wanted[i]:
                wrong.append(i)
            if quietly(analyzer.explain, batches[i]).relevance.tobytes() != wanted[i]:
                wrong.append(-i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


def test_threads_ask_for_many_input_sizes():
    """More sizes than an analyzer keeps: each is made, dropped and made again by several threads at once."""
    conv, dense = lrpfast.layers.Conv(np.ones((3, 2, 4))), lrpfast.layers.Dense(np.ones((4, 3)))
    model = lrpfast.from_layers([conv, lrpfast.layers.GlobalAveragePool(), dense], input_shape=(None, 2))
    analyzer = lrpfast.Analyzer(model, "epsilon")
    batches = [np.random.default_rng(n).uniform(0.5, 1, size=(3, n, 2)).astype(np.float32) for n in range(4, 15)]
    wanted = [analyzer.analyze(x).tobytes() for x in batches]
    found = []

    def work(first):
        for i in range(first, first + 2 * len(batches)):
            i %= len(batches)
            lrpfast.set_num_threads(i % 3 or None)
            found.append(analyzer.analyze(batches[i]).tobytes() == wanted[i])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    lrpfast.set_num_threads(None)
    assert found == [True] * (6 * 2 * len(batches))


def _in_child(analyzer, x, queue):
    queue.put(analyzer.analyze(x).tobytes())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_fork_after_threads_have_run():
    """A child has the parent's memory, not its threads: the pool must start its own."""
    layers = cases.network((300, 64, 32, 4), "relu")
    analyzer = lrpfast.Analyzer(cases.model(layers), "alpha_beta", device="cpu", threads=3)
    x = cases.inputs(200, 300)
    wanted = analyzer.analyze(x).tobytes()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork with threads
        children = [context.Process(target=_in_child, args=(analyzer, x, queue)) for _ in range(3)]
        for child in children:
            child.start()
    try:
        assert [queue.get(timeout=60) for _ in children] == [wanted] * 3
    finally:
        for child in children:
            child.join(10)
            child.kill()
    assert analyzer.analyze(x).tobytes() == wanted


# Instruction sets.

_ISA_SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import cases, lrpfast, oracle
from lrpfast.kernels import _cpu
from tolerances import Expected

_cpu.PRODUCTS_FROM.update(dict.fromkeys(_cpu.PRODUCTS_FROM, 1))  # small ones too

try:
    lrpfast.Analyzer(cases.model(cases.network((2, 2))), "epsilon")
except lrpfast.DeviceError as error:
    print(error)
    sys.exit(77)
for sizes in ((5, 7, 3), (300, 65, 17, 2), (2000, 8, 8, 2)):
    layers = cases.network(sizes, "relu")
    x = cases.inputs(13, sizes[0])
    model = cases.model(layers)
    for case in cases.PLAIN[::2]:
        expected = Expected(lambda ar: oracle.explain(layers, [case] * len(layers), x[:2], ar=ar))
        for precision in ("float32", "float64", "tf32"):
            got = [lrpfast.Analyzer(model, cases.rule(case), precision=precision, threads=n).analyze(x) for n in (1, 3)]
            assert got[0].tobytes() == got[1].tobytes(), (sizes, case, precision)
            expected.check(got[0][:2], precision, f"{{sizes}} {{cases.case_id(case)}}")
print("agrees")
"""


@pytest.mark.parametrize("name", ["baseline", "v3", "v4", "amx"])
def test_every_instruction_set(name):
    env = {**os.environ, "LRPFAST_ISA": name, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    script = _ISA_SCRIPT.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=300)
    if done.returncode == 77:
        pytest.skip(f"this processor has no {name}: {done.stdout.strip()}")
    assert done.returncode == 0 and "agrees" in done.stdout, done.stdout + done.stderr


def test_an_instruction_set_that_does_not_exist():
    network = "lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2))])"
    code = f"import lrpfast, numpy as np; {network}.predict(np.eye(2), device='cpu')"
    env = {**os.environ, "LRPFAST_ISA": "v9", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "DeviceError" in done.stderr and "LRPFAST_ISA" in done.stderr
