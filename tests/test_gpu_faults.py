"""Planted faults: the stand-in and the oracle must find each of them, or the other GPU tests prove little."""

import numpy as np
import pytest

import cases
import lrpfast
import oracle
import oracle_layers
from oracle_layers import Layer
from tolerances import Expected

#: what is planted: file, text, what takes its place, and under which precision it must show
FAULTS = {
    "no barrier before the sums are added": (
        "tile",
        "        __syncthreads();\n        if (left >= STAGES) {",
        "        if (left >= STAGES) {",
        "float32",
    ),
    "copies that are not waited for": ("tile", "wait_for_group<STAGES - 2>();", "", "float32"),
    "one copy too few is waited for": (
        "tile",
        "wait_for_group<STAGES - 2>();",
        "wait_for_group<STAGES - 1>();",
        "float32",
    ),
    "the next step overwrites the one in use": (
        "tile",
        "loader_b.load(state, tiles[next]);",
        "loader_b.load(state, tiles[at]);",
        "float32",
    ),
    "a barrier that not all threads reach": (
        "tile",
        "        if (left >= STAGES) {",
        "        if (threadIdx.x < 32)\n            __syncthreads();\n        if (left >= STAGES) {",
        "float32",
    ),
    "a read past the end": ("tile", "k > j && column - (second ? BN : 0) < state.left", "true", "float32"),
    "sums that begin with whatever is there": ("tile", "    sums.clear();\n", "", "float32"),
    "rows beyond the last are not left out": ("tile", "block.m0 + i < block.total ? 0 : -1", "0", "float32"),
    "the second sum takes the first one's weights": ("tile", "(second ? state.other : 0)", "0", "float32"),
    "taps outside the image count": ("tile", "if (a >= 0 && b >= 0 && c >= 0)", "if (a >= 0 && b >= 0)", "float32"),
    "a fragment's rows exchanged": (
        "tile",
        "lane % 16) * pitch + k + lane / 16 * 4",
        "lane / 16 * 8 + lane % 8) * pitch + k + lane / 8 % 2 * 4",
        "tf32",
    ),
    "the low half of the rows is left out": ("tile", "MMA_TF32(eight, low_a, b[j]);", "", "3xtf32"),
    "the low half of the weights is left out": ("tile", "MMA_TF32(eight, a, low_b[j]);", "", "3xtf32"),
    "TF32 is not rounded": ("tile", "v[j] = tf32(v[j]);", "", "tf32"),
    "the last split is forgotten": (
        "split_k_reduce",
        "s < splits && a < op.sums",
        "s < splits - 1 && a < op.sums",
        "float32",
    ),
    "the stabilizer's sign": ("light", "z >= 0 ? value : -value", "value", "float32"),
    "relevance goes to every tap of a window": ("light", "if (winner[at] == (REAL)op.index[2 * e + 1])", "", "float32"),
    "a write past the end": (
        "light",
        "FOR_EACH(i, run.samples * op.writes[0].size)\n    {\n        const i64 m = i / op.columns, s",
        "FOR_EACH(i, run.samples * op.writes[0].size + 4)\n    {\n        const i64 m = i / op.columns, s",
        "float32",
    ),
}


def dense_case(precision):
    """Sums of 600 terms, split; two parts of the weights; an output that no input reaches."""
    case = ("alpha_beta", {"alpha": 2.0, "beta": 1.0})
    (layer,) = cases.network((601, 37))
    layer.w[:, 1] = layer.b[1] = 0
    x = cases.inputs(5, 601)
    r = np.random.default_rng(0).normal(size=(5, 37)).astype(np.float32)
    for rule in (case, ("epsilon", {"epsilon": 0.1}), ("zero", {"stabilizer": (0.25, "sign")})):
        Expected(lambda ar, rule=rule: oracle.redistribute(rule, layer, x, r, ar)).check(
            lrpfast.redistribute(
                cases.rule(rule), lrpfast.layers.Dense(layer.w, layer.b), x, r, precision=precision, device="gpu"
            ),
            precision,
        )


def conv_case(precision):
    """A padded convolution and max pooling above."""
    weights = cases.Weights(3)
    net = oracle_layers.chain(
        (5, 4, 2), weights.conv((3, 3), 2, 20, padding="same", activation="relu"), Layer("MaxPool", {"size": (2, 2)})
    )
    x = cases.values((5, 4, 2), 3)
    r = cases.values(net.forward([x[0]]).shapes[-1], 3, seed=9)
    start = list(np.float64(r).reshape(3, -1))
    rules = [None, ("epsilon", {"epsilon": 0.1}), ("pass", {})]
    expected = Expected(lambda ar: net.explain(rules, x, start, ar))
    analyzer = lrpfast.Analyzer(
        cases.graph(net),
        cases.composite({"n1": rules[1]}, ("epsilon", {"epsilon": 0.1})),
        precision=precision,
        device="gpu",
    )
    expected.check(cases.flat(analyzer.analyze(x, r), 3), precision)


def pool_case(precision):
    """Max pooling below everything else, so that its relevance is what is handed out."""
    weights = cases.Weights(4)
    net = oracle_layers.chain((4, 6, 2), Layer("MaxPool", {"size": (2, 3)}), weights.dense(2, 3))
    x = cases.values((4, 6, 2), 3)
    r = cases.values((2, 2, 3), 3, seed=9)
    expected = Expected(
        lambda ar: net.explain([None, ("pass", {}), ("zero", {})], x, list(np.float64(r).reshape(3, -1)), ar)
    )
    analyzer = lrpfast.Analyzer(cases.graph(net), "zero", precision=precision, device="gpu")
    expected.check(cases.flat(analyzer.analyze(x, r), 3), precision)


def found(standin, precision):
    """What the checks say, in each order of threads."""
    from lrpfast.kernels.cuda import devices

    said = []
    for order in range(3):
        for check in (dense_case, conv_case, pool_case):
            standin.CONFIG["order"] = order
            devices.forget()
            try:
                check(precision)
            except Exception as error:
                said.append(error)
    return said


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_without_a_fault_nothing_is_found(precision, standin):
    standin.CONFIG["cublas"] = False
    assert found(standin, precision) == []


@pytest.mark.share
@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_found(name, standin, monkeypatch):
    from lrpfast.kernels.cuda import modules

    standin.CONFIG["cublas"] = False
    module, text, other, precision = FAULTS[name]
    source = modules.source
    assert text in source(module), "the source has changed; plant the fault anew"
    monkeypatch.setattr(modules, "source", lambda m: source(m).replace(text, other) if m == module else source(m))
    assert found(standin, precision), "nothing was noticed"


# Faults of the host's code: waits that are left out.


def run_chunks(standin, monkeypatch):
    from lrpfast.kernels.cuda import replay, run

    monkeypatch.setattr(run, "WORKSPACE_BYTES", 1)
    monkeypatch.setattr(replay, "REPLAY_FLOPS", 0)
    layers = cases.network((9, 6, 3))
    x = cases.inputs(120, 9)
    for seed in range(12):
        standin.CONFIG["seed"], standin.CONFIG["eager"] = seed, 0.7 * (seed % 2)
        analyzer = lrpfast.Analyzer(cases.model(layers), "epsilon", device="gpu")
        Expected(lambda ar: oracle.explain(layers, [("epsilon", {})] * 2, x, ar=ar)).check(analyzer.analyze(x))


@pytest.mark.parametrize("wait", ["loaded", "computed", "stored"])
def test_a_missing_wait_is_found(wait, standin, monkeypatch):
    import cupy

    from lrpfast.kernels.cuda import run

    init = run._Slot.__init__

    def without(self, batch):
        init(self, batch)
        setattr(self, wait, cupy.cuda.Event(disable_timing=True))
        getattr(self, wait).record = lambda stream=None: None  # never recorded: waiting for it waits for nothing

    monkeypatch.setattr(run._Slot, "__init__", without)
    with pytest.raises((AssertionError, lrpfast.InputError)):
        run_chunks(standin, monkeypatch)


def test_with_all_waits_nothing_is_found(standin, monkeypatch):
    run_chunks(standin, monkeypatch)
