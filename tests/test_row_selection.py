"""Selections of rows move up: the same numbers, from fewer computed rows."""

import numpy as np
import pytest

import lrpfast
from lrpfast import layers as L
from lrpfast import rules
from lrpfast.engine import planner, row_selection

N, WIDTH = 7, 8


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def model(select, *, attention=None, mask=False, rotary=False, fused=False, head=5):
    """Two blocks of a transformer before normalization, a selection of rows, and a head."""
    graph, seed = lrpfast.Graph(), iter(range(1000))
    x = graph.input((N, WIDTH), name="x")
    masks = [graph.input((N, N), name="mask", kind="truth")] if mask else []

    def dense(source, columns=WIDTH, activation=None, width=WIDTH):
        kernel = normal(next(seed), width, columns) * 0.5
        return graph.add(L.Dense(kernel, normal(next(seed), columns) * 0.1, activation), source)

    def norm(source):
        return graph.add(L.LayerNorm(1 + 0.1 * normal(next(seed), WIDTH), normal(next(seed), WIDTH)), source)

    angles = normal(99, N, 4)

    def heads(source):
        if not fused:
            return [dense(source) for _ in range(3)]
        parts = graph.add(L.Reshape((N, 3, WIDTH)), dense(source, 3 * WIDTH))
        crops = [graph.add(L.Crop(((0, 0), (k, 2 - k))), parts) for k in range(3)]
        return [graph.add(L.Reshape((N, WIDTH)), crop) for crop in crops]

    for _ in range(2):
        q, k, v = heads(norm(x))
        if rotary:
            q, k = (graph.add(L.Rotary(np.cos(angles), np.sin(angles), 4), part) for part in (q, k))
        x = graph.add(L.Add(), x, dense(graph.add(attention or L.Attention(2), q, k, v, *masks)))
        hidden = dense(dense(norm(x), 12, "gelu"), WIDTH, None, 12)
        x = graph.add(L.Add(), x, hidden)
    chosen = graph.add(select, norm(x))
    return graph.model(dense(graph.add(L.Flatten(), chosen) if head else chosen, head or 6, None, WIDTH))


FIRST, LAST, SOME = L.Crop(((0, N - 1),)), L.Crop(((N - 1, 0),)), L.Take(([4, 1, 6],))
CASES = {
    "class token": lambda: model(FIRST),
    "last position": lambda: model(LAST, attention=L.Attention(2, window=(None, 0))),
    "local": lambda: model(L.Crop(((3, 3),)), attention=L.Attention(2, window=(1, 2))),
    "several": lambda: model(SOME, head=0),
    "mask": lambda: model(FIRST, mask=True),
    "rotary": lambda: model(LAST, rotary=True),
    "fused": lambda: model(FIRST, fused=True),
    "bias": lambda: model(SOME, attention=L.Attention(2, bias=normal(5, 2, N, N), softcap=3.0), head=0),
    "constant mask": lambda: model(
        LAST, attention=L.Attention(2, mask=normal(6, N, N) > -1, window=(None, 0), bias=normal(7, N))
    ),
}
FUSED = ("class token", "last position", "local", "several", "mask", "rotary", "bias", "constant mask")
WRITTEN_OUT = {f"{name}, written out": lambda name=name: lrpfast.write_out_attention(CASES[name]()) for name in FUSED}
RULES = ["attn_lrp", "cp_lrp", "lxt_vit", "epsilon_plus", "gamma", "zero", "alpha_beta"]


def inputs(network, samples=3):
    shapes = network.input_shape
    x = normal(3, samples, N, WIDTH)
    return [x, normal(4, samples, N, N) > -0.7] if isinstance(shapes, list) else x


def unmoved(monkeypatch, build):
    """What ``build`` makes where no selection moves."""
    with monkeypatch.context() as patch:
        stays = lambda m, a: row_selection.Selected(m, a, tuple((i, None) for i in range(len(m.nodes))))  # noqa: E731
        patch.setattr(planner, "select_early", stays)
        return build()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", [*CASES, *WRITTEN_OUT])
def test_the_same_numbers(case, rule, monkeypatch):
    network = {**CASES, **WRITTEN_OUT}[case]()
    x, target = inputs(network), 2

    def run():
        analyzer = lrpfast.Analyzer(network, rule, target=target, precision="float64", device="cpu")
        return analyzer.plan().flops, analyzer.analyze(x), analyzer.explain(x, layers=True)

    flops, relevance, explanation = run()
    flops_of_all, expected, whole = unmoved(monkeypatch, run)
    assert flops < 0.85 * flops_of_all
    several = isinstance(expected, list)
    for a, b, c in zip(*([v] if not several else v for v in (relevance, expected, explanation.relevance)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())
        np.testing.assert_array_equal(a, c)
    np.testing.assert_allclose(explanation.output, whole.output, rtol=1e-12)
    assert list(explanation.layers) == list(whole.layers)
    for name, b in whole.layers.items():  # rows that are not computed have no relevance
        a = explanation.layers[name]
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1.0, np.abs(b).max()), err_msg=name)
    for balance in whole.conservation:
        np.testing.assert_allclose(
            explanation.conservation[balance.layer].outgoing, balance.outgoing, rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("case", [*CASES, *WRITTEN_OUT])
def test_predictions_and_hidden_starts_are_the_same(case, monkeypatch):
    network = {**CASES, **WRITTEN_OUT}[case]()
    x = inputs(network)
    result = network.predict(x, precision="float64")
    np.testing.assert_allclose(
        result, unmoved(monkeypatch, lambda: {**CASES, **WRITTEN_OUT}[case]().predict(x, precision="float64"))
    )
    start = lrpfast.Analyzer(network, "cp_lrp", start="add_3", target=0, device="cpu")
    assert start.output_shape == (N, WIDTH)
    start.analyze(x)


def names(analyzer):
    return {node.name: node.shape for node in analyzer.plan().model.nodes}


def test_the_last_block_computes_one_row():
    shapes = names(lrpfast.Analyzer(CASES["last position"](), "attn_lrp", target=0, device="cpu"))
    assert shapes["attention"] == (N, WIDTH) and shapes["attention:1"] == (1, WIDTH)
    assert {shapes[name] for name in ("dense_10", "dense_11")} == {(1, 12), (1, WIDTH)}
    assert shapes["dense_6"] == (1, WIDTH) and shapes["dense_7"] == shapes["dense_8"] == (N, WIDTH)


def test_a_bias_of_scores_as_one_flat_row():
    """Scores, their bias and the queries are those of the selected row alone."""
    for select, positions in ((FIRST, [0]), (SOME, [4, 1, 6])):
        attention = L.Attention(2, bias=normal(5, 2, N, N))
        network = lrpfast.write_out_attention(model(select, attention=attention, head=0))
        planned = lrpfast.Analyzer(network, "attn_lrp", target=0, device="cpu").plan().model
        *_, last = (node.layer for node in planned.nodes if isinstance(node.layer, L.BatchNorm) and node.shape[-1] > N)
        expected = np.take(attention.bias, positions, 1).ravel()
        np.testing.assert_array_equal(last.beta, expected)
        shapes = [node.shape for node in planned.nodes if isinstance(node.layer, L.MatMul)]
        assert shapes[-2:] == [(2, 1, len(positions), N), (2, 1, len(positions), WIDTH // 2)]


def test_rows_of_a_flat_input(monkeypatch):
    """Which `Take` selects as those of a column."""
    network = lrpfast.from_layers(
        [
            L.BatchNorm(normal(1, N * WIDTH), np.ones(N * WIDTH), normal(2, N * WIDTH), normal(3, N * WIDTH)),
            L.Reshape((N, WIDTH)),
            L.Dense(normal(4, WIDTH, WIDTH), activation="relu"),
            SOME,
        ],
        input_shape=N * WIDTH,
    )
    x, start = normal(5, 3, N * WIDTH), normal(6, 3, 3, WIDTH)

    def run():
        analyzer = lrpfast.Analyzer(network, "epsilon", precision="float64", device="cpu")
        return analyzer.explain(x, start, layers=True), analyzer.plan().flops

    (explanation, flops), (whole, flops_of_all) = run(), unmoved(monkeypatch, run)
    assert flops < 0.5 * flops_of_all
    np.testing.assert_array_equal(explanation.relevance, whole.relevance)
    assert np.count_nonzero(explanation.relevance.reshape(3, N, WIDTH).any(2)) <= 9
    for name, values in whole.layers.items():
        np.testing.assert_array_equal(explanation.layers[name], values, name)


def test_what_stays():
    """A selection below something else than rows, or that several see, or whose rule is not to move relevance."""
    graph = lrpfast.Graph()
    x = graph.input((N, WIDTH))
    hidden = graph.add(L.Dense(normal(0, WIDTH, WIDTH), name="hidden"), x)
    first = graph.add(L.Flatten(), graph.add(L.Crop(((0, N - 1),)), hidden))
    mean = graph.add(L.Flatten(), graph.add(L.GlobalAveragePool(), hidden))
    both = graph.model(graph.add(L.Add(), first, mean))
    assert names(lrpfast.Analyzer(both, "epsilon", target=0, device="cpu"))["hidden"] == (N, WIDTH)
    parts = [L.Dense(normal(0, WIDTH, WIDTH), name="hidden"), L.Crop(((0, N - 1),), name="crop"), L.Flatten()]
    chain = lrpfast.from_layers([*parts, L.Dense(normal(1, WIDTH, 3))], input_shape=(N, WIDTH))
    composite = lrpfast.composites.ByName({"crop": rules.Epsilon(0.1)}) | lrpfast.composites.Uniform("epsilon")
    assert names(lrpfast.Analyzer(chain, composite, target=0, device="cpu"))["hidden"] == (N, WIDTH)
    assert names(lrpfast.Analyzer(chain, "epsilon", target=0, device="cpu"))["hidden"] == (1, WIDTH)
    images = lrpfast.from_layers(
        [L.Conv(normal(2, 3, 3, 2, 4)), L.Activation("relu"), L.Crop(((1, 0), (0, 0)), name="crop"), L.Flatten()],
        input_shape=(6, 6, 2),
    )
    assert isinstance(lrpfast.Analyzer(images, "zero", device="cpu").plan().model.nodes[3].layer, L.Crop)


def test_a_layer_used_twice():
    """On all rows and on one: two layers with the same weights."""
    graph, shared = lrpfast.Graph(), L.Dense(normal(0, WIDTH, WIDTH), name="shared")
    x = graph.input((N, WIDTH))
    below = graph.add(shared, x)
    above = graph.add(shared, graph.add(L.Attention(2), below, below, below))
    network = graph.model(graph.add(L.Flatten(), graph.add(L.Crop(((0, N - 1),)), above)))
    analyzer = lrpfast.Analyzer(network, "cp_lrp", target=0, precision="float64", device="cpu")
    shapes = names(analyzer)
    assert shapes["shared"] == (N, WIDTH) and shapes["shared:1"] == (1, WIDTH)
    layers = analyzer.explain(normal(1, 2, N, WIDTH), layers=True).layers
    assert layers["shared:1"].shape == (2, N, WIDTH) and not layers["shared:1"][:, 1:].any()
