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


# Outputs of several axes: two numbers may be one output's index, as captum reads them, or two outputs.

EXACT = lrpfast.rules.Zero(stabilizer=lrpfast.rules.Stabilizer(1e-7, "zero"))
W12 = np.random.default_rng(5).normal(size=(6, 12))


def several_axes(shape=(3, 4), name="model"):
    make = lrpfast.layers
    return lrpfast.from_layers([make.Dense(W12), make.Reshape(shape)], name=name)


def flat_relevance(*signed):
    """Of outputs without bias under the zero rule, counted flat: each with its sign."""
    return sum(sign * X * W12[:, j] for j, sign in signed)


@pytest.mark.parametrize("target, flat", [(((1, 2), (0, 0)), (6, 0)), (((np.int64(2), 3), (1, 0)), (11, 4))])
def test_a_difference_of_outputs_by_their_full_indices(target, flat):
    analyzer = lrpfast.Analyzer(several_axes(), EXACT, precision="float64")
    wanted = flat_relevance((flat[0], 1), (flat[1], -1))
    np.testing.assert_allclose(analyzer.analyze(X, target), wanted, rtol=1e-9)
    assert (analyzer.explain(X, target).target == flat).all()
    own = lrpfast.Analyzer(several_axes(), EXACT, precision="float64", target=target)
    np.testing.assert_allclose(own.analyze(X), wanted, rtol=1e-9)


def test_full_indices_of_one_axis():
    layers = cases.network((6, 9, 4))
    analyzer = lrpfast.Analyzer(cases.model(layers), "epsilon")
    assert analyzer.analyze(X, ((2,), (0,))).tobytes() == analyzer.analyze(X, (2, 0)).tobytes()


def ways_in(target, tmp_path):
    """Every way to say a target."""
    import dask.array

    model = several_axes()
    analyzer = lrpfast.Analyzer(model, "zero")
    graph = lrpfast.Graph()
    x = graph.input((6,))
    dense = graph.add(lrpfast.layers.Dense(W12), x)
    two = graph.model(
        graph.add(lrpfast.layers.Reshape((3, 4), name="r"), dense), graph.add(lrpfast.layers.Flatten(), x)
    )
    longer = lrpfast.from_layers([*several_axes().layers[1:], lrpfast.layers.Flatten()], (6,))
    np.save(tmp_path / "x.npy", X)
    lazy = dask.array.from_array(X, chunks=(2, 6))
    wo = lrpfast.create_analyzer("lrp.z", model)
    return {
        "the analyzer's": lambda: lrpfast.Analyzer(model, "zero", target=target),
        "the call's": lambda: analyzer.analyze(X, target),
        "explain": lambda: analyzer.explain(X, target),
        "create_analyzer's call": lambda: wo.analyze(X, target=target),
        "an output's": lambda: lrpfast.Analyzer(two, "zero", target={"r": target}),
        "an output's, by a call": lambda: lrpfast.Analyzer(two, "zero").analyze(X, {0: target}),
        "start's neuron": lambda: lrpfast.Analyzer(longer, "zero", start=("reshape", target)),
        "start's target": lambda: lrpfast.Analyzer(longer, "zero", start="reshape").analyze(X, target),
        "stream": lambda: analyzer.stream(tmp_path / "x.npy", tmp_path / "r.npy", target=target, progress=False),
        "map": lambda: analyzer.map(X, target),
        "a lazy map": lambda: analyzer.map(lazy, target),
        "an open size": lambda: lrpfast.Analyzer(
            lrpfast.from_layers([lrpfast.layers.Dense(W12[:, :4])], (None, 6)), "zero", target=target
        ).analyze(np.ones((5, 3, 6))),
    }


def test_tuples_that_have_two_readings_are_refused(tmp_path):
    pytest.importorskip("dask.array")
    for way, say in ways_in((1, 2), tmp_path).items():
        with pytest.raises(lrpfast.InputError) as error:
            say()
        for part in ("(3, 4)", "captum", "target=6", "target=((0, 1), (0, 2))", "--target 0,1-0,2"):
            assert part in str(error.value), way
    for way, say in ways_in([(1, 2), (0, 0), (2, 3), (0, 1), (0, 0)], tmp_path).items():
        with pytest.raises(lrpfast.InputError) as error:
            say()
        assert "np.ravel_multi_index(np.transpose(target), (3, 4))" in str(error.value), way


@pytest.mark.parametrize(
    "target, parts",
    [
        ((1, 0, 1), ["output [1, 0, 1], as captum reads it, is target=5"]),
        ((9, 4), ["target=((2, 0, 1), (1, 0, 0))"]),
        ((1, 5, 1), ["0 to 11", "((2, 1, 1), (0, 0, 0))"]),
        ((1.0, 2), ["0 to 11", "((2, 1, 1), (0, 0, 0))"]),
        ((True, 2), ["0 to 11"]),
        ((1,), ["0 to 11"]),
        (((1, 0, 1), 2), ["0 to 11"]),
        (((1, 0, 1), (3, 0, 0)), ["(3, 0, 0)", "out of range"]),
        (((1, 0, 1), (1, 0, 1)), ["itself"]),
        (((1, 0), (0, 0)), ["0 to 11"]),
    ],
    ids=repr,
)
def test_wrong_tuples_on_three_axes(target, parts):
    with pytest.raises(lrpfast.InputError) as error:
        lrpfast.Analyzer(several_axes((3, 2, 2)), "zero").analyze(X, target)
    for part in parts:
        assert part in str(error.value)


def test_what_is_offered_works():
    """Both readings of (1, 2), as the error writes them, and captum's list of tuples."""
    model = several_axes()
    analyzer = lrpfast.Analyzer(model, EXACT, precision="float64")
    np.testing.assert_allclose(analyzer.analyze(X, 6), flat_relevance((6, 1)), rtol=1e-9)
    np.testing.assert_allclose(analyzer.analyze(X, ((0, 1), (0, 2))), flat_relevance((1, 1), (2, -1)), rtol=1e-9)
    target = [(1, 2), (0, 0), (2, 3), (0, 1), (0, 0)]
    got = analyzer.analyze(X, np.ravel_multi_index(np.transpose(target), model.output_shape))
    np.testing.assert_allclose(got, X * W12[:, [6, 0, 11, 1, 0]].T, rtol=1e-9)
    assert analyzer.analyze(X, np.array(target)).shape == (5, 2, 6)


def test_a_tuple_of_one_number_names_the_cure():
    with pytest.raises(lrpfast.InputError, match="output 3 alone is target=3"):
        lrpfast.Analyzer(cases.model(cases.network((6, 4))), "zero", target=(3,))


def test_the_command_takes_full_indices(tmp_path, monkeypatch, capsys):
    from lrpfast.cli import main

    monkeypatch.chdir(tmp_path)
    several_axes().save("m.npz")
    np.save("x.npy", X)
    command = ["explain", "m.npz", "x.npy", "-o", "r.npy", "--rule", "lrp.z", "--precision", "float64", "--target"]
    assert main([*command, "0,1-0,2"]) == 0
    np.testing.assert_allclose(np.load("r.npy"), flat_relevance((1, 1), (2, -1)), rtol=1e-9)
    assert main([*command, "1,2", "--force"]) != 0
    assert "--target 0,1-0,2" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::lrpfast.errors.AmplificationWarning")
def test_the_last_use_of_a_shared_layer_may_end_with_a_sigmoid():
    """It is explained before the sigmoid, which the first use keeps; names stay."""
    w, b = W12[:, :6], W12[0, 6:]
    layer = lrpfast.layers.Dense(w, b, "sigmoid", name="d")
    graph = lrpfast.Graph()
    model = graph.model(graph.add(layer, graph.add(layer, graph.input((6,)))))
    layers = [lrpfast.layers.Dense(w, b, "sigmoid"), lrpfast.layers.Dense(w, b)]
    apart = lrpfast.from_layers(layers, (6,))
    got = lrpfast.Analyzer(model, "epsilon", precision="float64").explain(X, layers=True)
    assert list(got.layers) == ["input", "d", "d:1"]
    wanted = lrpfast.Analyzer(apart, "epsilon", precision="float64").explain(X)
    np.testing.assert_array_equal(got.output, wanted.output)
    np.testing.assert_array_equal(got.relevance, wanted.relevance)
    begun = lrpfast.Analyzer(model, "epsilon", precision="float64", start="d").analyze(X, got.layers["d"])
    np.testing.assert_allclose(begun, got.relevance, rtol=1e-12)
    less = lrpfast.Analyzer(model, "epsilon", precision="float64", y_ref=0.5).explain(X)
    np.testing.assert_allclose(less.output, wanted.output - 0.5)


# Targets of whole data sets


def two_heads():
    graph = lrpfast.Graph()
    hidden = graph.add(lrpfast.layers.Dense(np.random.default_rng(1).normal(size=(6, 5)), name="h"), graph.input(6))
    heads = [np.random.default_rng(i).normal(size=(5, 3)) for i in (2, 3)]
    return graph.model(*(graph.add(lrpfast.layers.Dense(w, name=f"head{i}"), hidden) for i, w in enumerate(heads)))


OF_EACH = {
    "indices": np.arange(30) % 3,
    "list": (np.arange(30) % 3).tolist(),
    "several": np.stack([np.arange(30) % 3, np.zeros(30, int)], 1),
    "starting relevance": np.random.default_rng(4).normal(size=(30, 3)),
    "several starting relevances": np.random.default_rng(5).normal(size=(30, 2, 3)),
}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("kind", OF_EACH)
def test_an_analyzers_own_target_of_each_sample(kind, named, tmp_path):
    """The same in one call, in a stream, by chunks of a lazy map, and given with the call."""
    x, target = np.random.default_rng(0).normal(size=(30, 6)), OF_EACH[kind]
    model = two_heads() if named else two_heads().until("head1")
    target = {"head1": target} if named else target
    own, given = (
        lrpfast.Analyzer(model, "epsilon", target=target),
        lrpfast.Analyzer(model, "epsilon", target={"head1": 0} if named else 0),
    )
    expected = own.analyze(x)
    for i, (analyzer, options) in enumerate([(own, {}), (given, {"target": target})]):
        analyzer.stream(x, tmp_path / f"{i}.npy", batch_size=7, progress=False, **options)
        np.testing.assert_array_equal(np.load(tmp_path / f"{i}.npy"), expected)
        np.testing.assert_array_equal(analyzer.map(x, *options.values()), expected)
        da = pytest.importorskip("dask.array")
        lazy = analyzer.map(da.from_array(x, chunks=(11, -1)), *options.values())
        np.testing.assert_array_equal(lazy.compute(), expected)
    with pytest.raises(lrpfast.ShapeError, match="there are 29 samples, but the targets have shape"):
        own.stream(x[1:], tmp_path / "r.npy", progress=False)
    if "several" not in kind:
        found = own.references(x, "h", 2, progress=False)
        assert np.array_equal(found.indices, given.references(x, "h", 2, target=target, progress=False).indices)


def test_an_analyzers_own_targets_of_selected_samples(tmp_path):
    xarray = pytest.importorskip("xarray")
    x = np.random.default_rng(0).normal(size=(30, 6))
    data = xarray.DataArray(x, dims=("sample", "f"), coords={"sample": np.arange(30)})
    analyzer = lrpfast.Analyzer(two_heads().until("head1"), "epsilon", target=OF_EACH["starting relevance"])
    analyzer.stream(data, tmp_path / "r.npy", select={"sample": (10, 19)}, progress=False)
    np.testing.assert_array_equal(np.load(tmp_path / "r.npy"), analyzer.analyze(x)[10:20])
