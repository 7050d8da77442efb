"""The analyzer as an object: what it holds, copies and pickles, and iNNvestigate's way of calling it."""

import copy
import pickle

import numpy as np
import pytest

import lrpfast
import seeds
from lrpfast import layers

RNG = seeds.generator(0)
MODEL = lrpfast.from_layers(
    [layers.Dense(RNG.normal(size=(6, 9)), activation="relu"), layers.Dense(RNG.normal(size=(9, 4)))]
)
X = RNG.normal(size=(5, 6)).astype(np.float32)


@pytest.mark.parametrize(
    "option, value",
    [
        ("target", np.zeros(5, int)),
        ("target", np.ones((5, 4), np.float32)),
        ("target", np.zeros((5, 2), int)),
        ("target", {0: np.zeros(5, int)}),
        ("target", [np.array(0) for _ in X]),
        ("y_ref", np.zeros(4)),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_an_array_that_changes_later_changes_nothing(option, value):
    analyzer = lrpfast.Analyzer(MODEL, "epsilon", **{option: value})
    before = analyzer.analyze(X)
    for array in value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]:
        array[...] = 3
    assert analyzer.analyze(X).tobytes() == before.tobytes()
    assert pickle.loads(pickle.dumps(analyzer)).analyze(X).tobytes() == before.tobytes()


def test_what_was_decided_cannot_be_set():
    named = lrpfast.create_analyzer("lrp.z", MODEL)
    assert (named.model, named.precision, named.target) == (MODEL, "float32", "max")
    for analyzer, names in (
        (lrpfast.Analyzer(MODEL, "epsilon"), ("model", "precision", "target", "device", "rule", "anything")),
        (named, ("model", "precision", "target", "name", "neuron_selection_mode")),
    ):
        for name in names:
            with pytest.raises(AttributeError, match=name):
                setattr(analyzer, name, "max")


def test_a_pickle_holds_the_weights_once():
    ones, zeros = np.ones(300), np.zeros(300)
    dense = [layers.Dense(RNG.normal(size=(300, 300)), activation=function) for function in ("relu", None)]
    model = lrpfast.from_layers([dense[0], layers.BatchNorm(ones, ones, zeros, ones), dense[1]])
    x = RNG.normal(size=(2, 300))
    for analyzer in (
        lrpfast.Analyzer(model, "epsilon", start=("dense", 3)),
        lrpfast.Analyzer(model, "epsilon", y_ref=1.0, precision="tf32", target=(0, 1)),
        lrpfast.create_analyzer("lrp.z", model),
    ):
        state = pickle.dumps(analyzer)
        assert len(state) < 1.05 * len(pickle.dumps(model))
        for other in (pickle.loads(state), copy.copy(analyzer), copy.deepcopy(analyzer)):
            assert other.analyze(x).tobytes() == analyzer.analyze(x).tobytes()
            assert repr(other) == repr(analyzer) and str(other.plan()) == str(analyzer.plan())


def test_a_pickle_of_open_sizes_leaves_out_what_was_compiled():
    model = lrpfast.from_layers([layers.Conv(RNG.normal(size=(3, 1, 2)))], input_shape=(None, 1))
    analyzer, x = lrpfast.Analyzer(model, "epsilon"), RNG.normal(size=(2, 8, 1))
    size = len(pickle.dumps(analyzer))
    relevance = analyzer.analyze(x)
    assert len(pickle.dumps(analyzer)) == size
    for one in (analyzer, analyzer.fixed(x)):
        assert pickle.loads(pickle.dumps(one)).analyze(x).tobytes() == relevance.tobytes()


def test_a_pickle_of_another_version_is_refused(monkeypatch):
    state = pickle.dumps(lrpfast.Analyzer(MODEL, "epsilon"))
    monkeypatch.setattr("lrpfast.engine.core.__version__", "99.0")
    with pytest.raises(lrpfast.InputError, match=rf"pickled by lrpfast {lrpfast.__version__}, and this is .* 99\.0"):
        pickle.loads(state)


def test_only_x_and_the_target_go_by_position():
    analyzer, out = lrpfast.Analyzer(MODEL, "epsilon"), np.empty_like(X)
    for call in (lambda: analyzer.analyze(X, 0, out), lambda: analyzer.explain(X, 0, True)):
        with pytest.raises(TypeError, match="positional"):
            call()
    with pytest.raises(lrpfast.InputError, match="layers must be True or False, not 1"):
        analyzer.explain(X, layers=1)


# iNNvestigate's


def test_in_index_mode_every_call_names_a_target():
    analyzer = lrpfast.create_analyzer("lrp.z", MODEL, neuron_selection_mode="index")
    assert analyzer.target is None
    for one in (analyzer, pickle.loads(pickle.dumps(analyzer))):
        for call in (one.analyze, one.explain, one.map, lambda x, one=one: one.stream(x, progress=False)):
            with pytest.raises(lrpfast.InputError, match="neuron_selection_mode='index'"):
                call(X)


def test_in_index_mode_all_calls_explain_the_same():
    analyzer = lrpfast.create_analyzer("lrp.z", MODEL, neuron_selection_mode="index")
    for target in (2, [0, 3, 1, 1, 2]):
        wanted, got = analyzer.analyze(X, target), {}
        got["keyword"] = analyzer.analyze(X, neuron_selection=target)
        got["target"] = analyzer.analyze(X, target=target)
        got["explain"] = analyzer.explain(X, target).relevance
        got["map"] = analyzer.map(X, target)
        made = np.empty_like(X)

        def into(first, relevance, made=made):
            made[first : first + len(relevance)] = relevance

        analyzer.stream(X, into, target=target, progress=False)
        got["stream"] = made
        for way, relevance in got.items():
            assert relevance.tobytes() == wanted.tobytes(), way
    other = lrpfast.create_analyzer("lrp.z", MODEL)
    assert other.analyze(X, target=2).tobytes() == analyzer.analyze(X, 2).tobytes()
    for model_analyzer, selection in ((analyzer, 1), (other, 1)):
        with pytest.raises(lrpfast.InputError, match="neuron_selection"):
            model_analyzer.analyze(X, selection, target=1)


@pytest.mark.parametrize(
    "option, instead", [("target", "neuron_selection_mode='index'"), ("start", "until"), ("y_ref", "Analyzer")]
)
def test_innvestigate_s_analyzers_say_what_to_use_instead(option, instead):
    with pytest.raises(lrpfast.InputError, match=f"create_analyzer takes no {option}; use .*{instead}"):
        lrpfast.create_analyzer("lrp.z", MODEL, **{option: 1})


# Masked arrays


MASKED = np.ma.masked_array(np.where(X < -1, np.float32(1e20), X), mask=X < -1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_masked_array_is_one_with_nan(dtype):
    masked, filled = MASKED.astype(dtype), MASKED.astype(dtype).filled(np.nan)
    assert MASKED.mask.any()
    for function in (lrpfast.Analyzer(MODEL, "epsilon").analyze, MODEL.predict):
        with pytest.raises(lrpfast.InputError, match="is nan: inputs must be finite"):
            function(masked)
    analyzer = lrpfast.Analyzer(MODEL, "epsilon", mask_nan=True)
    np.testing.assert_array_equal(analyzer.analyze(masked), analyzer.analyze(filled))
    means = (analyzer.stream(x, statistics=True).statistics.mean for x in (masked, filled, iter([masked])))
    first, *others = means
    for other in others:
        np.testing.assert_array_equal(first, other)
    np.testing.assert_array_equal(
        lrpfast.data_bounds(masked, mask_nan=True), lrpfast.data_bounds(filled, mask_nan=True)
    )


def test_masked_integers_and_masked_maps():
    x = np.ma.masked_equal(np.array([[3, 1, 2, 0, -999, 5]], np.int16), -999)
    analyzer = lrpfast.Analyzer(MODEL, "epsilon", mask_nan=True)
    np.testing.assert_array_equal(analyzer.analyze(x), analyzer.analyze(x.astype(np.float32).filled(np.nan)))
    np.testing.assert_array_equal(analyzer.analyze(np.ma.masked_array(X)), analyzer.analyze(X))
    statistics = lrpfast.Statistics((6,))
    statistics.update(0, MASKED)
    np.testing.assert_allclose(statistics.mean[0], MASKED.mean(0), rtol=1e-6)


def small_network(rule="epsilon", **settings):
    """An analyzer of a dense network whose batches are small enough for `SmallRuns`, and a batch."""
    rng = np.random.default_rng(3)
    shapes = [(6, 9), (9, 4)]
    weights = [rng.normal(size=shape).astype("f4") for shape in shapes]
    model = lrpfast.from_layers([layers.Dense(weights[0], None, "relu"), layers.Dense(weights[1])])
    return lrpfast.Analyzer(model, rule, **settings), rng.normal(size=(5, 6)).astype("f4")


@pytest.mark.parametrize("settings", [{}, {"target": 1}, {"target": (0, 2)}, {"precision": "float64"}], ids=str)
@pytest.mark.parametrize("rule", ["epsilon", "alpha_beta", "gradient", "flat"])
def test_small_batches_are_explained_as_large_ones_are(rule, settings):
    analyzer, x = small_network(rule, **settings)
    x = x.astype("f8" if settings.get("precision") else "f4")
    relevance = analyzer.analyze(x)
    assert analyzer._core._small_runs.run(x, None, []) is not None  # what was meant to be tested
    np.testing.assert_array_equal(relevance, analyzer._core.analyze(x, notes=[]))
    out = np.empty_like(x)
    assert analyzer.analyze(x, out=out) is out
    np.testing.assert_array_equal(out, relevance)
    for odd in (np.asfortranarray(x), x.astype(">f4" if x.dtype == "f4" else ">f8"), x.tolist(), np.ma.array(x)):
        np.testing.assert_array_equal(analyzer.analyze(odd), relevance)
    np.testing.assert_array_equal(analyzer.analyze(np.tile(x, (4000, 1)))[-5:], relevance)
    assert analyzer.analyze(x[:0]).shape == (0, 6)


def test_small_batches_are_checked_as_large_ones_are():
    analyzer, x = small_network(input_range=(-9, 9))
    for value, message in ((np.nan, "finite"), (np.inf, "finite"), (10, "input_range")):
        wrong = x.copy()
        wrong[3, 2] = value
        with pytest.raises(lrpfast.InputError, match=message) as caught:
            analyzer.analyze(wrong)
        assert str(caught.value).startswith("x[3, 2] = 10" if value == 10 else "x[3, 2]")
    for wrong in (x[0], x[:, :5], x[..., None, None], x.astype(object), x + 1j):
        with pytest.raises(lrpfast.LrpfastError):
            analyzer.analyze(wrong)
    for out in (x, x[::-1], np.empty((5, 7), "f4"), np.empty((4, 6), "f4"), np.empty((5, 6)), np.empty((6, 5), "f4").T):
        with pytest.raises(lrpfast.LrpfastError, match="out"):
            analyzer.analyze(x, out=out)
    whole = np.zeros((9, 6), "f4")
    with pytest.raises(lrpfast.InputError, match="share memory"):
        analyzer.analyze(whole[:5], out=whole[4:])
    fixed = np.empty_like(x)
    fixed.flags.writeable = False
    with pytest.raises(lrpfast.InputError, match="writeable"):
        analyzer.analyze(x, out=fixed)


def test_small_batches_warn_as_large_ones_do():
    model = lrpfast.from_layers([layers.Dense(np.array([[1.0], [-1.0]]), np.array([1e-6]))])
    analyzer = lrpfast.Analyzer(model, lrpfast.rules.Zero())
    with pytest.warns(lrpfast.AmplificationWarning, match="in 1 of 1 explanation ") as caught:
        analyzer.analyze(np.ones((1, 2), "f4"))
    assert caught[0].filename == __file__
