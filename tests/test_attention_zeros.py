"""Scores of exactly 0 under AttnLRP with denominators as they are: relevance in the limit of scores that vanish."""

import numpy as np
import pytest

import lrpfast
from lrpfast import layers as L  # noqa: N812

N, M, D = 5, 6, 4


def whole_numbers(rng):
    """Queries and keys whose products are 0 for a third of the pairs: by cancellation, of one-hot rows and of zeros."""
    q, k = rng.integers(-1, 2, (2, N, D)).astype(float), rng.integers(-1, 2, (2, M, D)).astype(float)
    q[:, 1], k[:, 1] = np.eye(D)[0], np.eye(D)[1]
    q[:, 4], k[:, 5] = 0, 0
    assert (q @ k.swapaxes(1, 2) == 0).mean() > 0.3
    return q, k, rng.normal(size=(2, M, D))


def relevance(q, k, v, r, parameters):
    """Of queries, keys and values, in one head: R_z / z written out, which has no denominator but the output's own."""
    q, k, v, r = (a.astype(np.longdouble) for a in (q, k, v, r))
    z, scale, cap = q @ k.swapaxes(1, 2), 1 / np.sqrt(np.longdouble(D)), parameters.get("softcap")
    x = scale * z if cap is None else cap * np.tanh(scale * z / cap)
    slope = scale if cap is None else np.where(z == 0, scale, x / np.where(z == 0, 1, z))
    y = x + parameters.get("bias", 0)
    seen = np.broadcast_to(parameters.get("mask", True), y.shape)
    e = np.where(seen, np.exp(y), 0)
    a = e / e.sum(-1, keepdims=True)
    s = r / (a @ v)
    given = s @ v.swapaxes(1, 2) / 2  # R of a weight over the weight
    of_scores = slope * a * (given - (a * given).sum(-1, keepdims=True))
    back = of_scores.swapaxes(1, 2)
    return q * (of_scores @ k) / 2, k * (back @ q) / 2, v * (a.swapaxes(1, 2) @ s) / 2


def model(parameters, written_out):
    graph = lrpfast.Graph()
    q, k, v = (graph.input(shape) for shape in ((N, D), (M, D), (M, D)))
    built = graph.model(graph.add(L.Attention(1, **parameters), q, k, v))
    return lrpfast.write_out_attention(built) if written_out else built


BIAS = np.where(np.arange(N * M).reshape(1, N, M) % 3, 0.25, -0.5)
PARAMETERS = {
    "plain": {},
    "softcap": {"softcap": 1.5},
    "bias": {"bias": BIAS},  # some sums of score and bias are 0, too
    "softcap and bias": {"softcap": 1.5, "bias": BIAS},
    "mask": {"mask": np.arange(M) != 2},
}


@pytest.mark.parametrize("written_out", [False, True], ids=["one layer", "written out"])
@pytest.mark.parametrize("name", PARAMETERS)
def test_scores_of_zero_keep_their_relevance(name, written_out):
    parameters, rng = PARAMETERS[name], np.random.default_rng(4)
    x, given = whole_numbers(rng), rng.normal(size=(2, N, D))
    for precision in ("float64", "float32"):
        arrays = [a.astype(precision) for a in x]
        analyzer = lrpfast.Analyzer(model(parameters, written_out), "attn_lrp", precision=precision, device="cpu")
        expected = relevance(*arrays, given, parameters)
        for got, own in zip(analyzer.analyze(arrays, given), expected, strict=True):
            largest = float(np.abs(own).max())
            limit = {"float64": 1e-13, "float32": 1e-5}[precision] * largest
            np.testing.assert_allclose(got, own.astype(float), rtol=0, atol=limit)


@pytest.mark.parametrize("name", PARAMETERS)
def test_scores_of_zero_are_a_limit(name):
    """Scores that are not quite 0 have nearly the same relevance, and a share of it that 0/0 would lose."""
    rng = np.random.default_rng(4)
    q, k, v = whole_numbers(rng)
    given = rng.normal(size=(2, N, D))
    analyzer = lrpfast.Analyzer(model(PARAMETERS[name], False), "attn_lrp", precision="float64", device="cpu")
    exact, near = (analyzer.analyze([q, k + shift * rng.normal(size=k.shape), v], given) for shift in (0.0, 1e-7))
    for a, b in zip(exact, near, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max())
