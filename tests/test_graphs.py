"""Branched networks against the oracle: branches, shared layers, several inputs and outputs, books of every layer."""

import functools
import warnings

import numpy as np
import pytest

import cases
import lrpfast
from oracle_layers import Layer, Net
from tolerances import Expected

W = cases.Weights(7).rng.normal


def w(*shape):
    return (0.5 * W(size=shape)).astype(np.float32)


def conv(size, n, m, **more):
    return Layer("Conv", {"kernel": w(*size, n, m), "bias": w(m), **more})


def dense(n, m, **more):
    return Layer("Dense", {"kernel": w(n, m), "bias": w(m), **more})


def entry(*shape):
    return (Layer("Input", {"shape": shape}),)


RELU = Layer("Activation", {"function": "relu"})


def residual():
    """A ReLU that feeds a convolution and, past it, a sum; batch norm, pooling and a head."""
    norm = {k: np.abs(w(4)) + 0.5 if k == "variance" else w(4) for k in ("mean", "variance", "gamma", "beta")}
    return Net(
        [
            entry(6, 5, 3),
            (conv((3, 3), 3, 4, padding="same", activation="relu"), 0),
            (conv((3, 3), 4, 4, padding="same"), 1),
            (RELU, 2),
            (Layer("Add"), 1, 3),
            (Layer("Activation", {"function": "relu"}), 4),
            (Layer("BatchNorm", norm), 5),
            (Layer("MaxPool", {"size": (2, 2)}), 6),
            (Layer("Flatten"), 7),
            (dense(24, 3), 8),
        ]
    )


def inception():
    """Three branches of one input, joined; average and global pooling."""
    return Net(
        [
            entry(8, 6, 2),
            (conv((1, 1), 2, 3, activation="relu"), 0),
            (conv((3, 3), 2, 2, padding="same", activation=("clip", {"low": -0.4})), 0),
            (Layer("MaxPool", {"size": (3, 3), "strides": 1, "padding": "same", "dilation": (2, 1)}), 0),
            (Layer("Concat"), 1, 2, 3),
            (Layer("AveragePool", {"size": (2, 2)}), 4),
            (conv((2, 2), 7, 4, strides=2, activation="relu"), 5),
            (Layer("GlobalAveragePool"), 6),
            (dense(4, 3, activation="softmax"), 7),
        ]
    )


def siamese():
    """One layer used for two inputs, their difference and product, two outputs."""
    shared = dense(5, 4, activation="relu")
    return Net(
        [
            entry(5),
            entry(5),
            (shared, 0),
            (shared, 1),
            (Layer("Subtract"), 2, 3),
            (Layer("Multiply"), 2, 3),
            (Layer("Concat"), 4, 5, 2),
            (dense(12, 3), 6),
            (dense(4, 2), 5),
        ],
        outputs=[7, 8],
    )


def attention():
    """Softmax of products inside, layer normalization after a residual sum."""
    return Net(
        [
            entry(4, 6),
            (dense(6, 5), 0),
            (dense(6, 5), 0),
            (Layer("Dot", {"axes": -1}), 1, 2),
            (Layer("Activation", {"function": "softmax"}), 3),
            (dense(6, 6), 0),
            (Layer("Dot", {"axes": (1, 0)}), 4, 5),
            (Layer("Add"), 6, 0),
            (Layer("LayerNorm", {"gamma": w(6), "beta": w(6)}), 7),
            (Layer("Flatten"), 8),
            (dense(24, 2), 9),
        ]
    )


def gated():
    """A gate of one value per channel, stretched over the image, and a value used three times."""
    return Net(
        [
            entry(6, 6, 3),
            (Layer("GlobalAveragePool", {"keepdims": True}), 0),
            (dense(3, 3, activation="sigmoid"), 1),
            (Layer("Multiply"), 0, 2),
            (Layer("Add"), 3, 0, 0),
            (conv((3, 3), 3, 2, strides=2, padding="same"), 4),
            (Layer("UpSample", {"size": (2, 2), "interpolation": "bilinear"}), 5),
            (Layer("Maximum"), 6, 6),
            (Layer("Flatten"), 7),
            (dense(72, 2), 8),
        ]
    )


NETS = {f.__name__: f() for f in (residual, inception, siamese, attention, gated)}
RULES = [case for case in cases.KINDS if case[0] != "z_box"]


def inputs(net):
    shapes = [net.nodes[i].layer.parameters["shape"] for i in net.inputs]
    made = [cases.values(shape, 3, seed=k) for k, shape in enumerate(shapes)]
    return made if len(made) > 1 else made[0]


def unfolded(rule):
    """A rule for layers with weights and batch norms, none of which is folded."""
    made = cases.composite({}, rule)
    return lrpfast.composites.Composite(made.entries, made.name, canonize=False)


@functools.cache
def expected_relevance(name, number):
    """Of a rule by its number; computed once for all precisions and devices."""
    net, x = NETS[name], inputs(NETS[name])
    return Expected(lambda ar: net.explain(net.rules(RULES[number]), x, 0, ar))


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("rule", RULES, ids=cases.case_id)
@pytest.mark.parametrize("name", NETS)
def test_relevance(name, rule, precision):
    net, x = NETS[name], inputs(NETS[name])
    expected = expected_relevance(name, RULES.index(rule))
    target = 0 if len(net.outputs) == 1 else {f"n{net.outputs[0]}": 0}
    got = lrpfast.Analyzer(cases.graph(net), unfolded(rule), precision=precision).analyze(x, target)
    expected.check(cases.flat(got, 3), precision, name)


@pytest.mark.parametrize("name", NETS)
def test_predict(name):
    net, x = NETS[name], inputs(NETS[name])
    got = cases.graph(net).predict(x)
    for k, y in enumerate(got if isinstance(got, list) else [got]):
        Expected(lambda ar, k=k: net.predict(x, ar, k)).check(y, "float32", name)


@pytest.mark.parametrize("target", ["max", 1, (0, 1), [0, 1, 1]])
@pytest.mark.parametrize("output", [0, 1])
def test_the_target_names_an_output(output, target):
    net, x = NETS["siamese"], inputs(NETS["siamese"])
    analyzer = lrpfast.Analyzer(cases.graph(net), "epsilon", precision="float64")
    expected = Expected(lambda ar: net.explain(net.rules(("epsilon", {})), x, target, ar, output))
    for key in (output, f"n{net.outputs[output]}"):
        expected.check(cases.flat(analyzer.analyze(x, {key: target}), 3), "float64", str(target))
    explanation = analyzer.explain(x, {output: target})
    assert [y.shape for y in explanation.output] == [(3, 3), (3, 2)]
    if target == "max":
        np.testing.assert_array_equal(explanation.target, explanation.output[output].argmax(1))
    elif target == 1:
        np.testing.assert_array_equal(explanation.target, [1, 1, 1])


def test_targets_of_many_outputs_and_arrays():
    net, x = NETS["siamese"], inputs(NETS["siamese"])
    analyzer = lrpfast.Analyzer(cases.graph(net), "epsilon", precision="float64")
    one = [cases.flat(analyzer.analyze(x, {1: t}), 3) for t in (0, 1)]
    both = analyzer.analyze(x, {1: np.array([[0, 1]] * 3)})
    assert [r.shape for r in both] == [(3, 2, 5), (3, 2, 5)]
    np.testing.assert_array_equal(np.concatenate(both, 2), np.stack(one, 1))
    y = analyzer.explain(x, {1: 0}).output[1]
    start = np.where([True, False], y, 0)
    np.testing.assert_array_equal(cases.flat(analyzer.analyze(x, {1: start}), 3), one[0])
    np.testing.assert_array_equal(cases.flat(analyzer.analyze(x, {1: lambda y: y * [1, 0]}), 3), one[0])
    out = [np.empty((3, 5)), np.empty((3, 5))]
    assert analyzer.analyze(x, {1: 0}, out=out) is out
    np.testing.assert_array_equal(np.concatenate(out, 1), one[0])


@pytest.mark.parametrize("name", ["residual", "inception", "gated", "attention"])
def test_start_at_any_layer(name):
    net, x = NETS[name], inputs(NETS[name])
    model = cases.graph(net)
    for at in range(1, len(net.nodes) - 1):
        if net.nodes[at].layer.activation[0] == "softmax":
            continue  # as a start it is taken off
        expected = Expected(lambda ar, at=at: net.explain(net.rules(("epsilon", {})), x, "max", ar, at=at))
        analyzer = lrpfast.Analyzer(model, unfolded(("epsilon", {})), start=f"n{at}", precision="float64")
        expected.check(cases.flat(analyzer.analyze(x), 3), "float64", f"{name} from n{at}")


@pytest.mark.parametrize("name", NETS)
def test_every_layers_relevance(name):
    net, x = NETS[name], inputs(NETS[name])
    target = 0 if len(net.outputs) == 1 else {0: 0}
    analyzer = lrpfast.Analyzer(cases.graph(net), unfolded(("epsilon", {"epsilon": 0.1})), precision="float64")
    layers = analyzer.explain(x, target, layers=True).layers
    assert list(layers) == net.names
    for i, key in enumerate(net.names):
        if net.nodes[i].layer.activation[0] == "softmax" and i in net.outputs:
            continue
        rules = net.rules(("epsilon", {"epsilon": 0.1}))
        expected = Expected(lambda ar, i=i, rules=rules: net.explain(rules, x, 0, ar, of=i))
        expected.check(layers[key].reshape(3, -1), "float64", key)


@pytest.mark.parametrize("rule", RULES, ids=cases.case_id)
@pytest.mark.parametrize("name", NETS)
def test_the_books_balance(name, rule):
    net, x = NETS[name], inputs(NETS[name])
    target = 0 if len(net.outputs) == 1 else {0: 0}
    analyzer = lrpfast.Analyzer(cases.graph(net), unfolded(rule), precision="float64")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lrpfast.AmplificationWarning)
        explanation = analyzer.explain(x, target)
    np.testing.assert_array_equal(cases.flat(explanation.relevance, 3), cases.flat(analyzer.analyze(x, target), 3))
    theirs = {record.name: record for record in net.books(net.rules(rule), x, 0)}
    for balance in explanation.conservation:
        if balance.layer not in theirs:  # it does not lie on the way to the output explained
            assert not balance.incoming.any() and not balance.outgoing.any()
            continue
        record = theirs[balance.layer]
        size = 1 + abs(record.incoming) + record.ledger.absolute
        for key in ("incoming", "outgoing"):
            assert (abs(getattr(balance, key) - getattr(record, key)) < 1e-9 * size).all(), (balance.layer, key)
        for key in ("bias", "stabilizer", "lost"):
            assert (abs(getattr(balance, key) - getattr(record.ledger, key)) < 1e-9 * size).all(), (balance.layer, key)
        assert (abs(balance.rounding) < 1e-11 * size).all(), balance.layer
    # what enters at the top comes out at the inputs, less what the books say
    parts = [sum(getattr(b, key) for b in explanation.conservation) for key in ("bias", "stabilizer", "lost")]
    start = (explanation.output[0] if isinstance(explanation.output, list) else explanation.output)[:, 0]
    total = cases.flat(explanation.relevance, 3).sum(1)
    scale = sum(np.abs(b.incoming) + np.abs(b.bias) + np.abs(b.lost) for b in explanation.conservation)
    assert (np.abs(start - total - sum(parts)) <= 1e-9 * (1 + scale)).all()


def test_a_model_survives_its_file(tmp_path):
    for name, net in NETS.items():
        model = cases.graph(net)
        model.save(tmp_path / f"{name}.npz")
        again = lrpfast.load(tmp_path / f"{name}.npz")
        assert [n.name for n in again.nodes] == [n.name for n in model.nodes] and again.outputs == model.outputs
        assert len({id(layer) for layer in again.layers}) == len({id(layer) for layer in model.layers})
        x = inputs(net)
        got, want = again.predict(x), model.predict(x)
        for a, b in zip(*(v if isinstance(v, list) else [v] for v in (got, want)), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", NETS)
def test_the_same_bits_however_the_batch_is_cut(name):
    net = NETS[name]
    shapes = [net.nodes[i].layer.parameters["shape"] for i in net.inputs]
    x = [cases.values(shape, 37, seed=k) for k, shape in enumerate(shapes)]
    target = "max" if len(net.outputs) == 1 else {0: "max"}
    model = cases.graph(net)
    whole = lrpfast.Analyzer(model, "alpha_beta", target=target, threads=2)
    alone = lrpfast.Analyzer(model, "alpha_beta", target=target, threads=1)

    def run(analyzer, part):
        return cases.flat(analyzer.analyze([a[part] for a in x] if len(x) > 1 else x[0][part]), len(x[0][part]))

    want = run(whole, slice(None))
    for parts in ([slice(None)], [slice(0, 1), slice(1, 30), slice(30, 37)]):
        np.testing.assert_array_equal(np.concatenate([run(alone, p) for p in parts]), want)
    empty = whole.analyze([a[:0] for a in x] if len(x) > 1 else x[0][:0])
    assert [len(a) for a in (empty if len(x) > 1 else [empty])] == [0] * len(x)
