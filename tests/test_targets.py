"""What is explained: targets, hidden layers, reference values."""

import numpy as np
import pytest

import cases
import lrpfast
import oracle
from tolerances import Expected

RULES = [("epsilon", {"epsilon": 0.05}), ("alpha_beta", {}), ("zero", {"bias": "ignore"}), ("flat", {})]


@pytest.fixture(params=RULES, ids=cases.case_id)
def rule(request):
    return request.param


@pytest.fixture(params=[None, "relu", "softmax", "log_softmax", "sigmoid"], ids=lambda last: last or "linear")
def layers(request):
    return cases.network((6, 9, 4), "relu", last=request.param)


X = cases.inputs(5, 6)


def check(layers, rule, target, oracle_targets, **keywords):
    """The analyzer's own target, and one given with the call."""
    model = cases.model(layers)
    expected = Expected(lambda ar: oracle.explain(layers, [rule] * len(layers), X, oracle_targets, ar))
    expected.check(lrpfast.Analyzer(model, cases.rule(rule), **keywords).analyze(X, target))
    expected.check(lrpfast.Analyzer(model, cases.rule(rule), target=target, **keywords).analyze(X))


def test_max(layers, rule):
    check(layers, rule, "max", "max")


def test_the_first_of_equal_outputs(rule):
    (layer,) = cases.network((6, 4))
    layer.w[:, 2], layer.b[2] = layer.w[:, 1], layer.b[1]
    model = cases.model([layer])
    explanation = lrpfast.Analyzer(model, cases.rule(rule)).explain(X)
    assert 1 in explanation.target and 2 not in explanation.target


@pytest.mark.parametrize("target", [0, 3, np.int64(2), np.uint8(1), np.array(1)], ids=repr)
def test_one_output(layers, rule, target):
    check(layers, rule, target, int(target))


@pytest.mark.parametrize("make", [list, np.array, lambda t: np.array(t, np.int8)], ids=["list", "array", "int8"])
def test_one_output_per_sample(layers, rule, make):
    targets = [3, 0, 0, 1, 2]
    check(layers, rule, make(targets), list(targets))


def test_difference_of_two_outputs(layers, rule):
    check(layers, rule, (2, 0), (2, 0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_starting_relevance(layers, rule, dtype):
    start = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    check(layers, rule, start.astype(dtype), [row for row in np.float64(start)])


def test_callable(layers, rule):
    def twice_the_second(y):
        start = np.zeros_like(y)
        start[:, 1] = 2 * y[:, 1] + 1
        return start

    check(layers, rule, twice_the_second, twice_the_second)


def test_callable_sees_the_output_before_the_softmax():
    layers = cases.network((6, 4), last="softmax")
    seen = []
    lrpfast.Analyzer(cases.model(layers), "epsilon").analyze(X, lambda y: seen.append(y) or y)
    logits = np.array([oracle.forward(oracle.as_float64(layers), row)[0][-1][1] for row in np.float64(X)])
    np.testing.assert_allclose(seen[0], logits, rtol=1e-5, atol=1e-6)


def test_several_targets_share_a_forward_pass(layers, rule):
    targets = np.array([[0, 1, 3], [3, 3, 2], [1, 0, 2], [2, 1, 0], [0, 2, 0]])
    model = cases.model(layers)
    analyzer = lrpfast.Analyzer(model, cases.rule(rule))
    got = analyzer.analyze(X, targets)
    assert got.shape == (5, 3, 6)
    for k in range(3):
        assert got[:, k].tobytes() == analyzer.analyze(X, targets[:, k]).tobytes()
    assert lrpfast.Analyzer(model, cases.rule(rule), target=targets).analyze(X).tobytes() == got.tobytes()
    assert analyzer.analyze(X[:0], targets[:0]).shape == (0, 3, 6)
    out = np.full((5, 3, 6), np.nan, np.float32)
    assert analyzer.analyze(X, targets, out=out) is out and out.tobytes() == got.tobytes()


def test_a_hidden_layer(rule):
    """``start`` names a layer: the network ends there, its activation included."""
    layers = cases.network((6, 9, 8, 4), "relu")
    model = cases.model(layers)
    hidden = layers[:2]
    name = model.layers[2].name
    for start in (name, (name, "max")):
        got = lrpfast.Analyzer(model, cases.rule(rule), start=start).analyze(X)
        Expected(lambda ar: oracle.explain(hidden, [rule] * 2, X, "max", ar)).check(got)
    for options in ({"start": (name, 5)}, {"start": name, "target": 5}):
        got = lrpfast.Analyzer(model, cases.rule(rule), **options).analyze(X)
        Expected(lambda ar: oracle.explain(hidden, [rule] * 2, X, 5, ar)).check(got)


def test_a_reference_value(rule):
    """y_ref leaves the output's bias, so that z and the start are f(x) - y_ref."""
    layers = cases.network((6, 9, 4), "relu")
    model = cases.model(layers)
    for y_ref in (0.75, np.array([0.5, -1.0, 0.0, 2.0])):
        last = layers[1]._replace(b=(layers[1].b - np.float32(y_ref)).astype(np.float32))
        got = lrpfast.Analyzer(model, cases.rule(rule), y_ref=y_ref, target=2).analyze(X)
        Expected(lambda ar, last=last: oracle.explain([layers[0], last], [rule] * 2, X, 2, ar)).check(got)


def test_a_reference_value_is_seen_in_the_explanation():
    layers = cases.network((6, 9, 1), "relu")
    model = cases.model(layers)
    explanation = lrpfast.Analyzer(model, "epsilon", y_ref=0.75, target=0).explain(X)
    np.testing.assert_allclose(explanation.output, model.predict(X) - 0.75, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(explanation.conservation[0].incoming, explanation.output[:, 0], rtol=1e-6)


@pytest.mark.parametrize("last", ["softmax", "log_softmax"])
def test_the_model_without_softmax_is_explained_alike(last):
    layers = cases.network((6, 9, 4), "relu", last=last)
    model = cases.model(layers)
    a = lrpfast.Analyzer(model, "epsilon").analyze(X)
    b = lrpfast.Analyzer(lrpfast.model_wo_softmax(model), "epsilon").analyze(X)
    assert a.tobytes() == b.tobytes()
    named = lrpfast.create_analyzer("lrp.z", model).analyze(X)
    assert named.tobytes() == lrpfast.create_analyzer("lrp.z", lrpfast.model_wo_softmax(model)).analyze(X).tobytes()


def test_explanation_says_what_was_explained():
    layers = cases.network((6, 9, 4), "relu")
    analyzer = lrpfast.Analyzer(cases.model(layers), "epsilon")
    explanation = analyzer.explain(X)
    assert (explanation.target == explanation.output.argmax(1)).all()
    assert (analyzer.explain(X, 2).target == 2).all()
    assert (analyzer.explain(X, [3, 1, 0, 2, 1]).target == [3, 1, 0, 2, 1]).all()
