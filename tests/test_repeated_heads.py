"""Heads of keys and values that a graph repeats for the queries that share them become heads that attention shares."""

import numpy as np
import pytest

import lrpfast
from lrpfast import layers as L  # noqa: N812
from lrpfast.model.graph import Model
from lrpfast.readers.fuse import fuse_attention


def repeated(graph, x, kind, n, heads, shared, d):
    """Rows of ``shared`` heads as rows of ``heads``."""
    times = heads // shared
    if kind == "expand":  # (heads, 1, n, d) stretched, as Hugging Face does
        x = graph.add(L.Permute((1, 0, 2)), graph.add(L.Reshape((n, shared, d)), x))
        x = graph.add(L.UpSample((1, times, 1)), graph.add(L.Reshape((shared, 1, n, d)), x))
        x = graph.add(L.Permute((1, 0, 2)), graph.add(L.Reshape((heads, n, d)), x))
    elif kind == "interleave":  # each head several times, on its own axis
        x = graph.add(L.UpSample((1, times)), graph.add(L.Reshape((n, shared, d)), x))
    elif kind == "outermost":  # all heads, then all heads again
        x = graph.add(L.UpSample((1, times, 1)), graph.add(L.Reshape((n, 1, shared, d)), x))
    elif kind == "rows":  # not heads, but positions
        x = graph.add(L.Reshape((n // times, heads * d)), x)
        x = graph.add(L.UpSample(times), x)
    elif kind == "values":  # each value next to itself
        x = graph.add(L.UpSample((1, times)), graph.add(L.Reshape((n, shared * d, 1)), x))
    elif kind == "lower":
        x = graph.add(L.UpSample((1, times)), graph.add(L.Reshape((n, shared, d)), x))
        x = graph.add(L.Activation("tanh"), x)
    return graph.add(L.Reshape((n, heads * d)), x)


def fused(keys, values, heads=4, shared=2, n=4, d=3):
    graph = lrpfast.Graph()
    q, k, v = (graph.input(shape) for shape in ((n, heads * d), (n, shared * d), (n, shared * d)))
    k, v = (repeated(graph, x, kind, n, heads, shared, d) for x, kind in ((k, keys), (v, values)))
    model = graph.model(graph.add(L.Attention(heads, window=(None, 0)), q, k, v))
    nodes, outputs = fuse_attention(
        [(node.layer, node.inputs) for node in model.nodes], [node.shape for node in model.nodes], model.outputs
    )
    return model, Model(nodes, model.name, outputs)


def attention_of(model):
    (layer,) = (layer for layer in model.layers if isinstance(layer, L.Attention))
    return layer


def same(one, other):
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(2, *shape)) for shape in one.input_shape]
    start = rng.normal(size=(2, *one.output_shape))
    results = []
    for model in (one, other):
        analyzer = lrpfast.Analyzer(model, "attn_lrp", precision="float64")
        results.append([model.predict(x, precision="float64"), *analyzer.analyze(x, start)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())


@pytest.mark.parametrize("sizes", [{}, {"heads": 6, "shared": 1}, {"heads": 3, "shared": 1, "n": 1, "d": 1}])
@pytest.mark.parametrize("keys", ["expand", "interleave"])
@pytest.mark.parametrize("values", ["expand", "interleave"])
def test_heads_are_shared(keys, values, sizes):
    model, result = fused(keys, values, **sizes)
    layer = attention_of(result)
    assert (layer.heads, layer.kv_heads) == (sizes.get("heads", 4), sizes.get("shared", 2))
    assert not any(isinstance(layer, L.UpSample) for layer in result.layers)
    same(model, result)


@pytest.mark.parametrize("keys", ["expand", "outermost", "rows", "values", "lower"])
@pytest.mark.parametrize("values", ["outermost", "rows", "values", "lower"])
def test_what_is_repeated_otherwise_stays(keys, values):
    model, result = fused(keys, values)
    assert attention_of(result).kv_heads == 4
    same(model, result)
