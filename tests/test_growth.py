"""Relevance that grows or vanishes between the output and the input: counted everywhere, and said once a call."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import lrpfast
from lrpfast import rules
from lrpfast.cli import main
from lrpfast.kernels.cpu import CpuBackend
from lrpfast.layers import Dense

MOST = 1000


def single(weights, bias=None):
    return lrpfast.from_layers([Dense(np.array(weights, float), None if bias is None else np.array(bias, float))])


#: One output, x₁ − x₂: a denominator that nearly vanishes where they are nearly equal.
DIFFERENCE = single([[1.0], [-1.0]])
GROWN = np.array([[3.0, 1.0], [1.0, 1.0 - 1e-4], [2.0, 1.0]])


def told(function, *args, **keywords):
    """The warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*args, **keywords)
    return [w for w in caught if issubclass(w.category, lrpfast.RelevanceWarning)]


def quiet(function, *args, **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lrpfast.RelevanceWarning)
        return function(*args, **keywords)


@pytest.mark.parametrize("call", ["analyze", "explain", "map", "stream"])
def test_every_way_in_says_it_once_and_points_at_the_caller(call):
    analyzer = lrpfast.Analyzer(DIFFERENCE, rules.Zero(), precision="float64")
    x = np.repeat(GROWN, 50, 0)
    (warning,) = told(getattr(analyzer, call), x, **({"statistics": True} if call == "stream" else {}))
    assert warning.category is lrpfast.AmplificationWarning and warning.filename == __file__
    text = str(warning.message)
    assert "epsilon" in text and "50 of 150" in text and "conservation" in text or call == "explain"
    assert ("sample 50" in text) == (call in ("analyze", "explain"))


def test_growth_of_a_whole_network_whose_layers_each_grow_little():
    """Each of three layers multiplies Σ|R| by less than 100: their product is never said by layer."""
    gap = 0.05
    first = Dense(np.array([[1.0, -(1 - gap)], [-(1 - gap), 1.0]]))  # equal inputs give gap of each
    layers = [first, Dense(first.kernel), Dense(np.array([[1.0, 0], [-(1 - gap), 0]])[:, :1])]
    analyzer = lrpfast.Analyzer(lrpfast.from_layers(layers), "zero", precision="float64")
    x = np.array([[1.0, 1.0]])
    conservation = quiet(analyzer.explain, x).conservation
    assert max(b.amplification[0] for b in conservation) < 100
    growth = abs(quiet(analyzer.analyze, x)).sum() / conservation[0].incoming[0]
    assert growth > MOST
    (warning,) = told(analyzer.analyze, x)
    assert f"{growth:,.3g}-fold" in str(warning.message)
    assert len(told(analyzer.explain, x)) == 1


def test_next_to_nothing_reaches_the_input():
    model = single([[1.0], [1.0]], [5.0])
    analyzer = lrpfast.Analyzer(model, "zero", precision="float64")
    (warning,) = told(analyzer.analyze, np.array([[1.0, 2.0], [1e-4, 1e-5]]))
    assert warning.category is lrpfast.VanishingWarning
    assert "1 of 2" in str(warning.message) and "2.2e-05 of it in sample 1" in str(warning.message)
    assert "bias='ignore'" in str(warning.message)
    assert not told(lrpfast.Analyzer(model, rules.Zero(bias="ignore")).analyze, np.array([[1e-4, 1e-5]]))


@pytest.mark.parametrize(
    ("name", "bias", "x", "why"),
    [
        ("z_plus", -1.0, [1.0, 2.0], "in 1 it is negative"),
        ("deep_taylor", -1.0, [1.0, 2.0], "in 1 the explained output is not above 0"),
        ("epsilon", 1.0, [0.0, 0.0], "in 1 no input contributes to it"),
        ("epsilon", 0.0, [0.0, 0.0], "in 1 the explained output is 0"),
    ],
)
def test_maps_of_zeros_and_why(name, bias, x, why):
    model = single([[-1.0], [-1.0]], [bias])
    make = lrpfast.create_analyzer if name == "deep_taylor" else lambda n, m: lrpfast.Analyzer(m, n)
    analyzer = make(name, model)
    (warning,) = told(analyzer.analyze, np.array([x, [1.0, 3.0]][:1]))
    assert "1 of 1 explanation is zero everywhere" in str(warning.message) and why in str(warning.message)


def test_legitimate_settings_are_quiet():
    rng = np.random.default_rng(5)
    sizes = [12, 20, 20, 20, 6]
    layers = [
        Dense(rng.normal(size=(a, b)) / np.sqrt(a), activation="relu" if b != 6 else None)
        for a, b in zip(sizes[:-1], sizes[1:], strict=True)
    ]
    model = lrpfast.from_layers(layers)
    x = rng.random((40, 12))
    low, high = np.zeros(12), np.ones(12)
    epsilon = rules.Epsilon(0.1)
    for rule in ("flat", "w_square", "gamma", "alpha_beta", rules.ZBox(low, high), epsilon):
        composite = lrpfast.composites.Uniform(epsilon, rule) if isinstance(rule, rules.ZBox) else rule
        for target in ("max", (0, 1), "all"):
            assert not told(lrpfast.Analyzer(model, composite).analyze, x, target), (rule, target)
    starts = np.zeros((40, 6))
    starts[::2, 3] = 1e-6
    assert not told(lrpfast.Analyzer(model, epsilon).analyze, x, starts)  # zeros were asked for
    nearly = single(np.array([[1.0, 1.0 + 1e-9], [1.0, 1.0]]))  # a difference that cancels
    assert not told(lrpfast.Analyzer(nearly, "zero", precision="float64").analyze, np.ones((3, 2)), (0, 1))


def reference(relevance, output, target):
    """Counts of (amplified, vanished, zero), from the definition."""
    chosen = {"max": output.max(1, keepdims=True), "all": output}.get(target)
    if chosen is None:
        chosen = output[:, [target]]
    after, before, total = abs(relevance).sum(1), abs(chosen).sum(1), abs(chosen.sum(1))
    zero = after == 0
    return int((after > MOST * before).sum()), int((~zero & (after * MOST < total)).sum()), int(zero.sum())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("features", [7, 40, 9000])
@pytest.mark.parametrize("target", ["max", "all", 0])
def test_counts_are_those_of_the_definition(features, target, dtype, monkeypatch):
    """A bias that takes nearly all, denominators that nearly vanish, inputs of zero: some of each."""
    rng = np.random.default_rng(features)
    model = single(rng.normal(size=(features, 1)), [1e-2])
    x = rng.random((900, features))
    x *= np.repeat([1.0, 1e-9, 0.0], 300)[:, None]
    kernel = model.layers[-1].kernel[:, 0]
    z = x[:150] @ kernel + 1e-2
    x[:150, 0] -= (z - 1e-5) / kernel[0]  # an output of nearly 0
    analyzer = lrpfast.Analyzer(model, rules.Zero(), precision=dtype, threads=2, device="cpu")
    output = model.predict(x, precision=dtype).astype(np.float64)
    want = reference(quiet(analyzer.analyze, x, target).astype(np.float64), output, target)
    assert min(want) > 50
    done = quiet(analyzer.stream, x, statistics=True, target=target, batch_size=128, progress=False)
    assert (done.amplified, done.vanished, done.zero_maps) == want and len(done.warnings) == 3
    texts = [str(w.message) for w in told(analyzer.analyze, x, target)]
    if features < 8192:  # of more, a part is looked at first
        assert f"{want[0]:,} of 900" in texts[0] and f"in {want[1]:,} of 900" in texts[1]
    assert f"{want[2]:,} of 900" in texts[1]
    monkeypatch.setattr(CpuBackend, "judges", False)  # as on a GPU
    again = quiet(analyzer.stream, x, statistics=True, target=target, batch_size=128, progress=False)
    assert (again.amplified, again.vanished, again.zero_maps) == want
    assert "of which 1 in 57 were looked at" in str(told(analyzer.analyze, x, target)[0].message)


def test_masked_features_do_not_count():
    analyzer = lrpfast.Analyzer(DIFFERENCE, rules.Zero(), mask_nan=True)
    x = np.array([[np.nan, 1.0], [np.nan, np.nan]])
    (warning,) = told(analyzer.analyze, x)
    assert "1 of 2 explanations is zero everywhere, the first of them of sample 1" in str(warning.message)


def test_several_targets_are_counted_each():
    model = single([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])
    analyzer = lrpfast.Analyzer(model, rules.Zero(), precision="float64")
    x = np.array([[1.0, 1.0 - 1e-5]] * 4)
    (warning,) = told(analyzer.analyze, x, np.array([[0, 2, 1]] * 4))
    assert "8 of 12 explanations" in str(warning.message)


def test_a_resumed_run_counts_the_same(tmp_path):
    rng = np.random.default_rng(8)
    x = rng.random((400, 2))
    x[::7, 1] = x[::7, 0] * (1 - 1e-5)
    np.save(tmp_path / "x.npy", x)
    analyzer = lrpfast.Analyzer(DIFFERENCE, rules.Zero(), precision="float64")
    keywords = {"batch_size": 50, "progress": False}
    whole = quiet(analyzer.stream, tmp_path / "x.npy", tmp_path / "a.npy", **keywords)
    assert whole.amplified == reference(np.load(tmp_path / "a.npy"), DIFFERENCE.predict(x, precision="float64"), 0)[0]
    assert whole.amplified > 50

    def stop(count):
        if count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyzer.stream(tmp_path / "x.npy", tmp_path / "b.npy", **{**keywords, "progress": stop})
    gone_on = quiet(analyzer.stream, tmp_path / "x.npy", tmp_path / "b.npy", **keywords)
    assert gone_on.resumed and gone_on.amplified == whole.amplified and gone_on.warnings == whole.warnings


def test_a_lazy_map_says_it_once():
    array = pytest.importorskip("dask.array")
    analyzer = lrpfast.Analyzer(DIFFERENCE, rules.Zero())
    lazy = analyzer.map(array.from_array(np.repeat(GROWN, 40, 0), chunks=(10, 2)))
    assert len(told(lazy.compute, scheduler="synchronous")) == 1


def test_the_command_counts_them_and_prints_the_balance(tmp_path, capsys):
    model, x = single([[-1.0], [-1.0]], [0.5]), np.random.default_rng(1).random((1000, 2)) + 1
    model.save(tmp_path / "m.npz")
    np.save(tmp_path / "x.npy", x)
    command = ["explain", str(tmp_path / "m.npz"), str(tmp_path / "x.npy"), "-o", str(tmp_path / "r.npy")]
    assert main([*command, "--rule", "z_plus", "--balance"]) == 0
    out, err = capsys.readouterr()
    assert out.rstrip().endswith("; of 1,000 explanations, 1,000 zero everywhere")
    assert "lrpfast: warning: 1,000 of 1,000 explanations are zero everywhere: in 1,000 it is negative" in err
    assert "--balance says in which layer" not in err or "explain(" not in err
    shown = lrpfast.Analyzer(model, "z_plus")
    table = quiet(shown.explain, x[np.arange(256) * 1000 // 256]).conservation
    assert "256 of 1,000 samples" in out and str(table) in out
    np.save(tmp_path / "two.npy", np.zeros((1000, 2), int))
    assert main([*command, "--force", "--target", str(tmp_path / "two.npy"), "--balance"]) == 2
    assert "one target for each sample" in capsys.readouterr().err
