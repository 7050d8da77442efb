"""Attribution graphs of one forward pass, beside explanations that begin anew at every layer."""

import numpy as np
import pytest

import lrpfast
from lrpfast import layers as L
from test_row_selection import FIRST
from test_row_selection import model as transformer

pytestmark = pytest.mark.filterwarnings("ignore::lrpfast.errors.RelevanceWarning")


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def residual():
    graph = lrpfast.Graph()
    i = graph.input((5, 4, 2))
    a = graph.add(L.Conv(normal(1, 3, 3, 2, 4), padding="same", activation="relu", name="a"), i)
    b = graph.add(L.Conv(normal(2, 3, 3, 4, 4), padding="same", activation="relu", name="b"), a)
    c = graph.add(L.Add(name="c"), a, b)
    norm = graph.add(L.BatchNorm(normal(3, 4), normal(4, 4) ** 2, name="norm"), c)
    return graph.model(graph.add(L.Dense(normal(5, 80, 3), name="d"), graph.add(L.Flatten(), norm)))


def recurrent():
    units, gates = 4, 16
    lstm = L.LSTM(
        normal(6, 3, gates) / 2, normal(7, units, gates) / 2, normal(8, gates) / 9, return_sequences=True, name="lstm"
    )
    dense = L.Dense(normal(9, units, 5), activation="relu", name="a")
    return lrpfast.from_layers([lstm, dense, L.Flatten(), L.Dense(normal(10, 30, 2), name="d")], input_shape=(6, 3))


def slow(model, rule, x, layers, channel, widths, target):
    """Edges, each layer's relevance from an analyzer that starts at the layer above, with its own forward pass."""
    start = lrpfast.Analyzer(model, rule, precision="float64").explain(x, target, layers=True).layers[layers[0]]
    nodes = {channel: start * (np.arange(start.shape[-1]) == channel)}
    edges = []
    for upper, lower, width in zip(layers[:-1], layers[1:], widths, strict=True):
        analyzer, below = lrpfast.Analyzer(model, rule, precision="float64", start=upper), {}
        for node, own in nodes.items():
            relevance = analyzer.explain(x, own, layers=True).layers[lower]
            sums = relevance.reshape(-1, relevance.shape[-1]).sum(0)
            best = np.argsort(-np.abs(sums), kind="stable")[:width]
            for c in best[sums[best] != 0].tolist():
                edges.append((upper, node, lower, c, sums[c]))
                below[c] = below.get(c, 0) + relevance * (np.arange(len(sums)) == c)
        nodes = dict(sorted(below.items(), key=lambda item: (-abs(item[1].sum()), item[0])))
    return edges


CASES = {
    "residual": (residual, ["d", "norm", "c", "b", "a"], (1, 5, 4, 2)),
    "down to the input": (residual, ["d", "b", "a", "input"], (1, 5, 4, 2)),
    "recurrent": (recurrent, ["d", "a", "lstm"], (1, 6, 3)),
    "class token": (lambda: transformer(FIRST), ["dense_12", "add_3", "attention_1", "add_1", "dense_3"], (1, 7, 8)),
}


@pytest.mark.parametrize("rule", ["epsilon", "attn_lrp", "gradient"])
@pytest.mark.parametrize("case", CASES)
def test_as_explanations_that_begin_anew(case, rule):
    make, layers, shape = CASES[case]
    model, x, widths = make(), normal(20, *shape), [3, 2, 4, 2][: len(layers) - 1]
    analyzer = lrpfast.Analyzer(model, rule, precision="float64")
    graph = analyzer.attribution_graph(x, layers[0], 1, width=widths, layers=layers[1:], target=1)
    expected = slow(model, rule, x, layers, 1, widths, 1)
    assert [edge[:4] for edge in graph.edges] == [edge[:4] for edge in expected]
    of_edges, values = (np.array([edge[4] for edge in edges]) for edges in (graph.edges, expected))
    np.testing.assert_allclose(of_edges, values, rtol=1e-9, atol=1e-12 * np.abs(values).max())


def test_features_that_do_not_count():
    """A NaN stays in the input: it reaches no layer, and no edge."""
    x, filled = normal(21, 1, 5, 4, 2), None
    x[0, 1:3, 2] = np.nan
    filled = np.nan_to_num(x)
    masked = lrpfast.Analyzer(residual(), "epsilon", precision="float64", mask_nan=True)
    whole = lrpfast.Analyzer(residual(), "epsilon", precision="float64")
    for layers in (["b", "a"], ["a", "input"]):
        one, other = (
            a.attribution_graph(b, "d", 1, width=(3, 2), layers=layers) for a, b in ((masked, x), (whole, filled))
        )
        assert one.edges == other.edges


def test_several_batches_of_threads_and_memory():
    model, x = residual(), normal(22, 1, 5, 4, 2)
    graphs = [
        lrpfast.Analyzer(model, "epsilon", **options)
        .attribution_graph(x, "d", 0, width=(4, 4), layers=["b", "a"])
        .edges
        for options in ({}, {"threads": 3}, {"memory": 1 << 20})
    ]
    assert graphs[0] == graphs[1] == graphs[2]


def test_on_a_gpu(standin):
    model, x = residual(), normal(23, 1, 5, 4, 2)
    graphs = [
        lrpfast.Analyzer(model, "epsilon", precision="float64", device=device)
        .attribution_graph(x, "d", 0, width=(3, 2), layers=["b", "a"])
        .edges
        for device in ("cpu", "gpu")
    ]
    assert [edge[:4] for edge in graphs[0]] == [edge[:4] for edge in graphs[1]]
    np.testing.assert_allclose(*([edge[4] for edge in edges] for edges in graphs), rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["a", "b"]}, "from above to below"),
        ({"layers": ["d", "a"]}, "from above to below"),
        ({"layers": ["b", "b"]}, "from above to below"),
        ({"layers": ["b"]}, "one for each"),
        ({"layers": ["nope", "a"]}, "unknown layer 'nope'"),
        ({"layers": ["b", "a"], "target": np.zeros((1, 2), int)}, "one target per sample"),
        ({"layers": ["b", "a"], "target": 9}, "9"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(lrpfast.InputError, match=message):
        lrpfast.Analyzer(residual(), "epsilon").attribution_graph(
            normal(1, 1, 5, 4, 2), "d", 0, width=(2, 2), **options
        )
