"""Evaluation of explanations, beside slow loops and figures that other libraries give."""

from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast import InputError, ShapeError, evaluate
from lrpfast import layers as L
from lrpfast.layers import Conv, Dense, Flatten
from pages import blocks, commands

ROOT = Path(__file__).parents[1]


@pytest.fixture
def rng():
    return np.random.default_rng(24)


@pytest.fixture
def network(rng):
    return lrpfast.from_layers(
        [
            Dense(rng.normal(size=(6, 8)), rng.normal(size=8), "relu"),
            Dense(rng.normal(size=(8, 3)), activation="softmax"),
        ]
    )


@pytest.fixture
def images(rng):
    return lrpfast.from_layers(
        [
            Conv(rng.normal(size=(3, 3, 2, 4)), padding="same", activation="relu"),
            Flatten(),
            Dense(rng.normal(size=(192, 3))),
        ],
        input_shape=(6, 8, 2),
    )


def slow_flip(model, x, relevance, target, order, numbers, points, below):
    """One sample, one point and one group at a time."""
    curves = []
    for sample, shares, t in zip(x, relevance, target, strict=True):
        names = [g for g in np.unique(numbers) if g >= 0]
        sums = [shares[numbers == g].sum() for g in names]
        ordered = sorted(range(len(names)), key=lambda i: -sums[i] if order == "most" else sums[i])
        curve = []
        for count in points:
            flipped = sample.copy()
            for i in ordered[:count]:
                flipped[numbers == names[i]] = below
            curve.append(model.predict(flipped[None], precision="float64").reshape(-1)[t])
        curves.append(curve)
    return np.array(curves)


@pytest.mark.parametrize("order", ["most", "least"])
@pytest.mark.parametrize("grouping", ["features", "groups", "region", "mask"])
def test_flip_agrees_with_a_slow_loop(images, rng, order, grouping):
    x = rng.normal(size=(3, 6, 8, 2))
    target = images.predict(x).argmax(1)
    relevance = lrpfast.Analyzer(images, "epsilon", precision="float64").analyze(x)
    numbers, options = np.arange(96).reshape(6, 8, 2), {}
    if grouping == "groups":
        groups = rng.integers(-1, 5, size=(6, 8))
        numbers, options = np.repeat(groups[..., None], 2, 2), {"groups": groups}
    elif grouping == "region":
        row, column = np.arange(6)[:, None] // 4, np.arange(8) // 3
        numbers, options = np.repeat((row * 3 + column)[..., None], 2, 2), {"region": (4, 3)}
    elif grouping == "mask":
        mask = rng.random((6, 8, 2)) < 0.3
        numbers, options = np.where(mask, numbers, -1), {"mask": mask}
    count = len(np.unique(numbers[numbers >= 0]))
    points = np.unique(np.rint(np.linspace(0, count, min(7, count) + 1)).astype(int))
    curves = evaluate.flip(images, x, relevance, order=order, steps=7, baseline=0.25, precision="float64", **options)
    np.testing.assert_allclose(curves.fractions, points / count)
    expected = slow_flip(images, x, relevance, target, order, numbers, points, 0.25)
    np.testing.assert_allclose(curves.curves[order], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(curves.area[order], (expected[:, 1:] + expected[:, :-1]) @ np.diff(points) / (2 * count))


def test_figures_of_quantus():
    """Quantus 0.6.0: PixelFlipping(features_in_step=1, perturb_baseline="black"), Sparseness, Complexity."""
    recorded = np.load(ROOT / "tests" / "data" / "quantus.npz")
    model = lrpfast.from_layers(
        [
            Conv(recorded["kernel"], recorded["bias"], padding="same", activation="relu"),
            Flatten(),
            Dense(recorded["head"], recorded["head_bias"], activation="softmax"),
        ],
        input_shape=(8, 8, 1),
    )
    x, relevance = recorded["x"], recorded["relevance"]
    black = np.broadcast_to(x.min((1, 2, 3), keepdims=True), x.shape)
    curves = evaluate.flip(model, x, relevance, target=recorded["target"], order="most", steps=64, baseline=black)
    np.testing.assert_allclose(curves.curves["most"][:, 1:], recorded["scores"], rtol=1e-6)
    np.testing.assert_allclose(evaluate.gini(relevance), recorded["sparseness"], rtol=1e-6)
    np.testing.assert_allclose(evaluate.entropy(relevance), recorded["complexity"], rtol=1e-6)


def test_quantus_itself(rng):
    """The same curve, sparseness and complexity as Quantus has on the PyTorch network that lrpfast reads."""
    quantus = pytest.importorskip("quantus", reason="compared with Quantus where it is installed")
    torch = pytest.importorskip("torch", reason="Quantus evaluates PyTorch networks")
    torch.manual_seed(3)
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(48, 3))
    module, x = module.eval(), rng.random((3, 1, 6, 6)).astype(np.float32)
    model, target = lrpfast.from_torch(module, torch.from_numpy(x[:1])), np.array([0, 2, 1])
    relevance = lrpfast.Analyzer(model, "epsilon_plus").analyze(x, target)
    relevance += 1e-4 * rng.normal(size=x.shape).astype(np.float32)  # the order of equal values is each library's own
    options = {"disable_warnings": True, "display_progressbar": False}
    arguments = {"model": module, "x_batch": x, "y_batch": target, "a_batch": relevance, "softmax": False}
    scores = quantus.PixelFlipping(features_in_step=1, perturb_baseline="black", **options)(**arguments)
    black = np.broadcast_to(x.min((1, 2, 3), keepdims=True), x.shape)
    curves = evaluate.flip(model, x, relevance, target=target, order="most", steps=36, baseline=black)
    np.testing.assert_allclose(curves.curves["most"][:, 1:], np.array(scores), rtol=1e-4, atol=1e-6)
    for ours, theirs in ((evaluate.gini, quantus.Sparseness), (evaluate.entropy, quantus.Complexity)):
        np.testing.assert_allclose(ours(relevance), theirs(abs=True, **options)(**arguments), rtol=1e-5)


def test_baselines(network, rng):
    x = rng.random((4, 6))
    relevance = rng.normal(size=x.shape)

    def end(baseline):
        return evaluate.flip(network, x, relevance, target=1, order="most", baseline=baseline).curves["most"][:, -1]

    def output(values):
        return network.predict(np.broadcast_to(values, x.shape))[:, 1]

    np.testing.assert_allclose(end(0.5), output(0.5), rtol=1e-6)
    np.testing.assert_allclose(end("mean"), output(x.mean(1, keepdims=True)), rtol=1e-6)
    np.testing.assert_allclose(end(x.mean(0)), output(x.mean(0)), rtol=1e-6)
    np.testing.assert_allclose(end(x[::-1]), output(x[::-1]), rtol=1e-6)
    np.testing.assert_allclose(end(lambda batch: 1 - batch), output(1 - x), rtol=1e-6)


def test_integers_are_flipped_to_fractions(network):
    x = np.arange(12).reshape(2, 6)
    curves = evaluate.flip(network, x, np.ones((2, 6)), target=0, order="most", baseline=0.5)
    np.testing.assert_allclose(curves.curves["most"][:, -1], network.predict(np.full((2, 6), 0.5))[:, 0], rtol=1e-6)


def test_random_orders_follow_the_seed(network, rng):
    x, relevance = rng.random((5, 6)), np.zeros((5, 6))
    first, again, other = (
        evaluate.flip(network, x, relevance, order="random", seed=seed).curves["random"] for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and (first[:, 0] == other[:, 0]).all() and (first[:, -1] == other[:, -1]).all()


def test_files_and_pieces_give_the_same_curves(network, rng, tmp_path, monkeypatch):
    x = rng.random((9, 6)).astype(np.float32)
    relevance = lrpfast.Analyzer(network, "epsilon").analyze(x)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "r.npy", relevance)
    whole = evaluate.flip(network, x, relevance, seed=5)
    monkeypatch.setattr("lrpfast.evaluate.flipping.VALUES", 6 * 7 * 2)
    pieces = evaluate.flip(network, str(tmp_path / "x.npy"), tmp_path / "r.npy", seed=5)
    for order in ("most", "least", "random"):
        np.testing.assert_array_equal(whole.curves[order], pieces.curves[order])


def test_a_single_feature_and_a_single_sample():
    model = lrpfast.from_layers([Dense(np.array([[2.0]]))])
    curves = evaluate.flip(model, np.array([[3.0]]), np.array([[6.0]]))
    assert {order: curve.tolist() for order, curve in curves.curves.items()} == dict.fromkeys(
        ("most", "least", "random"), [[6.0, 0.0]]
    )
    assert str(curves).splitlines()[0] == "output while features are flipped: 1 sample, 1 step"


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("order must be", {"order": "best"}),
        ("order must be", {"order": ("most", "most")}),
        ("steps must be", {"steps": 0}),
        ("give one of them", {"groups": np.arange(6), "region": 2}),
        ("region must be", {"region": (2, 2)}),
        ("groups must be whole numbers", {"groups": np.arange(5)}),
        ("mask must be boolean", {"mask": np.ones(6)}),
        ("no feature may be flipped", {"mask": np.zeros(6, bool)}),
        ("baseline must be", {"baseline": "black"}),
        ("baseline must be finite", {"baseline": np.nan}),
        ("baseline of shape", {"baseline": np.zeros(5)}),
        ("target must be", {"target": "all"}),
        ("target is out of range", {"target": 3}),
        ("target must be", {"target": [0, 1, 2]}),
    ],
)
def test_wrong_arguments_of_flip(network, message, options):
    with pytest.raises((InputError, ShapeError), match=message):
        evaluate.flip(network, np.ones((2, 6)), np.ones((2, 6)), **options)


def test_wrong_relevance(network):
    x = np.ones((2, 6))
    with pytest.raises(ShapeError, match="same shape"):
        evaluate.flip(network, x, np.ones((2, 5)))
    with pytest.raises(InputError, match="relevance of sample 1 is not finite"):
        evaluate.flip(network, x, np.array([np.ones(6), np.full(6, np.nan)]))


# Measures


def test_sparsity_and_entropy(rng):
    relevance = rng.normal(size=(5, 4, 3))
    flat = np.abs(relevance.reshape(5, 12))
    pairs = np.abs(flat[:, :, None] - flat[:, None]).sum((1, 2))
    np.testing.assert_allclose(evaluate.gini(relevance), pairs / (2 * 12 * flat.sum(1)))  # the mean difference's form
    shares = flat / flat.sum(1, keepdims=True)
    np.testing.assert_allclose(evaluate.entropy(relevance), -(shares * np.log(shares)).sum(1))
    masked = np.concatenate([relevance.reshape(5, 12), np.full((5, 3), np.nan)], 1)
    np.testing.assert_allclose(evaluate.gini(masked), evaluate.gini(relevance))
    np.testing.assert_allclose(evaluate.entropy(masked), evaluate.entropy(relevance))
    assert np.isnan(evaluate.gini(np.zeros((1, 3)))).all() and np.isnan(evaluate.entropy(np.zeros((1, 3)))).all()
    with pytest.raises(ShapeError):
        evaluate.gini(np.ones(3))
    with pytest.raises(InputError, match="infinite in sample 1"):
        evaluate.entropy(np.array([[1.0], [np.inf]]))


def test_sensitivity_of_a_linear_model(rng):
    """R = x w there (one output, no bias): the change is δ w."""
    w = rng.normal(size=(6, 1))
    analyzer = lrpfast.Analyzer(lrpfast.from_layers([Dense(w)]), lrpfast.rules.Zero(), precision="float64")
    x = rng.normal(size=(3, 6))
    noise = np.random.default_rng(7)
    deltas = [noise.uniform(-0.2, 0.2, x.shape) for _ in range(4)]
    expected = np.max([np.linalg.norm(d * w[:, 0], axis=1) for d in deltas], 0) / np.linalg.norm(x * w[:, 0], axis=1)
    np.testing.assert_allclose(evaluate.sensitivity(analyzer, x, radius=0.2, draws=4, seed=7), expected, rtol=1e-7)
    for options in ({"radius": 0}, {"radius": 1.0, "draws": 0}):
        with pytest.raises(InputError):
            evaluate.sensitivity(analyzer, x, **options)


# Random weights


def test_random_weights_begin_at_a_layer(network):
    whole, above = network.randomized(3), network.randomized(3, from_layer="dense_1")
    a, b, c = ([layer.kernel for layer in model.layers[1:]] for model in (network, whole, above))
    assert (a[0] == c[0]).all() and (b[1] == c[1]).all() and (a[0] != b[0]).all() and (a[1] != c[1]).all()
    assert whole.digest() == network.randomized(3).digest() != network.randomized(4).digest()
    assert network.randomized(3, from_layer=1).digest() == whole.digest()
    with pytest.raises(InputError, match="no layer is named"):
        network.randomized(from_layer="top")


def test_a_shared_layer_stays_shared(rng):
    graph = lrpfast.Graph()
    layer = Dense(rng.normal(size=(4, 4)))
    x = graph.input(4)
    model = graph.model(graph.add(layer, graph.add(layer, x)))
    first, second = model.randomized().layers[1:]
    assert first is second and (first.kernel != layer.kernel).all()


def test_the_cascade(images, rng):
    x = rng.normal(size=(2, 6, 8, 2))
    result = evaluate.randomization(images, "epsilon", x, precision="float64")
    assert list(result.correlation) == ["dense", "conv"]
    target = images.predict(x).argmax(1)
    maps = [
        lrpfast.Analyzer(model, "epsilon", precision="float64").analyze(x, target).reshape(2, -1)
        for model in (images, images.randomized(0, from_layer="dense"))
    ]
    ranks = [m.argsort(1).argsort(1) for m in maps]
    np.testing.assert_allclose(
        result.correlation["dense"], [np.corrcoef(*pair)[0, 1] for pair in zip(*ranks, strict=True)]
    )
    assert np.isnan(result.similarity["dense"]).all()  # six rows: no window fits
    assert "random from" in str(result) and "<table>" in result._repr_html_()


def test_structural_similarity(rng):
    from lrpfast.evaluate.cascade import rank_correlation, structural_similarity

    a = rng.normal(size=(2, 9, 12))
    b = a + 0.3 * rng.normal(size=a.shape)
    np.testing.assert_allclose(structural_similarity(a, 3 * a), 1)
    metrics = pytest.importorskip("skimage.metrics", reason="compared with scikit-image where it is installed")
    for one, other, ours in zip(a, b, structural_similarity(a, b), strict=True):
        pair = [m / np.abs(m).max() for m in (one, other)]
        assert abs(metrics.structural_similarity(*pair, data_range=2) - ours) < 1e-12
    stats = pytest.importorskip("scipy.stats", reason="compared with SciPy where it is installed")
    ties = rng.integers(0, 4, size=(3, 20)).astype(float)
    expected = [stats.spearmanr(p, q).statistic for p, q in zip(ties, ties[::-1], strict=True)]
    np.testing.assert_allclose(rank_correlation(ties, ties[::-1]), expected)


def test_the_picture_of_curves(network, rng, tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    x = rng.random((4, 6))
    results = {
        rule: evaluate.flip(network, x, lrpfast.Analyzer(network, rule).analyze(x)) for rule in ("epsilon", "z_plus")
    }
    figure = evaluate.curves.figure(results, "which rule")
    (ax,) = figure.axes
    assert [line.get_label() for line in ax.lines] == [
        *("epsilon most", "epsilon least", "epsilon random", "z_plus most", "z_plus least")
    ]
    assert len({line.get_color() for line in ax.lines}) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *("epsilon", "z_plus", "most relevant first", "least relevant first", "random order")
    ]
    lrpfast.plot.save(results["epsilon"].figure(), tmp_path / "curves.png")


def test_the_command(network, rng, tmp_path, capsys):
    from lrpfast.cli import main

    network.save(tmp_path / "model.npz")
    x = rng.random((7, 6))
    np.save(tmp_path / "x.npy", x)
    arguments = ["evaluate", str(tmp_path / "model.npz"), str(tmp_path / "x.npy")]
    assert main([*arguments, "--rule", "epsilon,z_plus", "--radius", "0.1", "--samples", "5", "--randomization"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("5 samples") and lines[1].split() == [
        *("rule", "most", "least", "random", "gini", "entropy", "sensitivity")
    ]
    picked = x[np.arange(5) * 7 // 5].astype(np.float64)
    target = network.predict(picked).argmax(1)
    relevance = lrpfast.Analyzer(network, "z_plus").analyze(picked, target)
    area = evaluate.flip(network, picked, relevance, target=target).area
    expected = [f"{area[order].mean():.4g}" for order in ("most", "least", "random")]
    assert lines[3].split()[:4] == ["z_plus", *expected]
    assert sum(line.startswith("random from") for line in lines) == 2
    assert main([*arguments, "--target", "all"]) != 0 and "--target max" in capsys.readouterr().err
    assert main([*arguments, "--rule", "epsilon,epsilon"]) != 0 and "twice" in capsys.readouterr().err


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the docs are not beside these tests")
def test_the_page(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    (tmp_path / "tests").symlink_to(ROOT / "tests", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for block in blocks(text, "python"):
        exec(compile(block, "evaluation.md", "exec"), {})  # our own page
    capsys.readouterr()
    ((_, printed, shown),) = commands(text, capsys)
    assert printed == shown
    assert {path.name for path in tmp_path.iterdir()} == {"tests", "curves.svg", "curves.png"}


# Several inputs


def test_flip_of_several_inputs_is_that_of_their_values_in_a_row():
    rng = np.random.default_rng(5)
    graph = lrpfast.Graph()
    a, b = graph.input((3, 2), "a"), graph.input((4,), "b")
    dense = [L.Dense(rng.normal(size=(10, 6)), activation="relu"), L.Dense(rng.normal(size=(6, 3)))]
    joined = graph.add(L.Concat(), graph.add(L.Flatten(), a), b)
    two = graph.model(graph.add(dense[1], graph.add(dense[0], joined)))
    one = lrpfast.from_layers(dense, input_shape=(10,))
    x = {"a": rng.normal(size=(9, 3, 2)), "b": rng.normal(size=(9, 4))}
    relevance = lrpfast.Analyzer(two, "epsilon").analyze(x, 0)
    in_rows = [np.concatenate([part["a"].reshape(9, 6), part["b"]], 1) for part in (x, relevance)]
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 4, 5, 6])
    mask = np.array([True] * 6 + [True, False, True, True])
    means = np.concatenate([np.full((9, 6), 2.0), np.repeat(x["b"].mean(1, keepdims=True), 4, 1)], 1)
    for options, of_row in (
        ({}, {}),
        ({"groups": {"a": np.arange(3)}}, {"groups": groups}),
        ({"region": {"a": 1}, "mask": {"b": mask[6:]}}, {"groups": groups, "mask": mask}),
        ({"baseline": {"a": 2.0, "b": "mean"}}, {"baseline": means}),
        ({"baseline": 1}, {"baseline": 1}),
    ):
        got = evaluate.flip(two, x, relevance, target=0, steps=4, **options)
        expected = evaluate.flip(one, *in_rows, target=0, steps=4, **of_row)
        for order in got.curves:
            np.testing.assert_allclose(got.curves[order], expected.curves[order], rtol=1e-6)
    listed = evaluate.flip(two, list(x.values()), list(relevance.values()), target=0, steps=4)
    np.testing.assert_array_equal(
        listed.curves["most"], evaluate.flip(two, x, relevance, target=0, steps=4).curves["most"]
    )
    for options in ({"groups": np.arange(3)}, {"mask": {"c": mask}}, {"baseline": np.zeros(4)}):
        with pytest.raises(InputError, match="the model has the inputs 'a', 'b'; give a mapping"):
            evaluate.flip(two, x, relevance, target=0, **options)
    with pytest.raises(ShapeError, match="same shape"):
        evaluate.flip(two, x, {"a": x["a"][:, :2], "b": x["b"]}, target=0)


def test_command_for_several_inputs(tmp_path, capsys):
    from lrpfast.cli import main

    rng = np.random.default_rng(5)
    graph = lrpfast.Graph()
    a, b = graph.input((3, 2), "a"), graph.input((4,), "b")
    joined = graph.add(L.Concat(), graph.add(L.Flatten(), a), b)
    model = graph.model(graph.add(L.Dense(rng.normal(size=(10, 3)), rng.normal(size=3)), joined))
    model.save(tmp_path / "m.npz")
    x = {"a": rng.normal(size=(9, 3, 2)), "b": rng.normal(size=(9, 4))}
    np.savez(tmp_path / "x.npz", **x)
    command = [
        "evaluate",
        str(tmp_path / "m.npz"),
        str(tmp_path / "x.npz"),
        "--rule",
        "epsilon,gradient",
        "--target",
        "1",
    ]
    assert main(command) == 0
    shown = capsys.readouterr().out
    relevance = lrpfast.Analyzer(model, "epsilon").analyze(x, 1)
    area = evaluate.flip(model, x, relevance, target=1).area
    assert f"{area['most'].mean():.4g}" in shown and f"{area['least'].mean():.4g}" in shown
    for options in (["--radius", "0.1"], ["--randomization"], ["--region", "2"]):
        assert main([*command, *options]) == 2
        assert "models of one input" in capsys.readouterr().err
