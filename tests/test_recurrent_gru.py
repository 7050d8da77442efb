"""A GRU that resets after the product, under every rule of products: a second derivation beside the oracle's.

No published script has "half", "prop" and "abs" for this cell. Relevance is linear in that of the last state, so this
one multiplies matrices, from the first step to the last: ``P`` maps the relevance of h_t to that of all features so far
and of h_0. The oracle goes the other way and writes out message by message. The formula is in docs/rules.md.
"""

import numpy as np
import pytest

import lrpfast
from lrpfast import layers
from lrpfast.rules import Recurrent

PRODUCTS = ("signal", "half", "prop", "abs")
STEPS, FEATURES, UNITS = 5, 2, 3


def weights(bias=0.3):
    rng = np.random.default_rng(11)
    kernel, recurrent = rng.normal(size=(FEATURES, 3 * UNITS)), rng.normal(size=(UNITS, 3 * UNITS))
    return kernel, recurrent, bias * rng.normal(size=(2, 3 * UNITS))


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def stabilized(v, epsilon):
    return v + np.where(v >= 0, epsilon, -epsilon)


def shares(product, gate, signal, epsilon):
    """What the gate and the signal get of the relevance of their product."""
    if product == "abs":
        gate, signal = abs(gate), abs(signal)
    total = stabilized(gate + signal, epsilon)
    constant = {"signal": (0.0, 1.0), "half": (0.5, 0.5)}
    return np.broadcast_arrays(*constant[product], gate)[:2] if product in constant else (gate / total, signal / total)


def step(x, h, parameters, product, epsilon):
    """The next h, and the matrices from its relevance to that of x and of h."""
    kernel, recurrent, (b, b2) = parameters
    (wz, wr, wn), (uz, ur, un) = np.split(kernel, 3, 1), np.split(recurrent, 3, 1)
    ours, theirs = np.split(x @ kernel + b, 3), np.split(h @ recurrent + b2, 3)
    pre_z, pre_r, q = ours[0] + theirs[0], ours[1] + theirs[1], theirs[2]
    z, r = sigmoid(pre_z), sigmoid(pre_r)
    pre_n = ours[2] + r * q
    n = np.tanh(pre_n)
    new = z * h + (1 - z) * n

    def messages(values, w, pre):
        return values[:, None] * w / stabilized(pre, epsilon)

    carried, fresh = z * h / stabilized(new, epsilon), (1 - z) * n / stabilized(new, epsilon)
    gate_z, signal_h = shares(product, z, h, epsilon)
    gate_1z, signal_n = shares(product, 1 - z, n, epsilon)
    gate_r, signal_q = shares(product, r, q, epsilon)
    of_n = fresh * signal_n
    of_z = carried * gate_z + fresh * gate_1z
    of_r = of_n * r * q / stabilized(pre_n, epsilon) * gate_r
    to_x = messages(x, wn, pre_n) * of_n + messages(x, wz, pre_z) * of_z + messages(x, wr, pre_r) * of_r
    to_h = (
        messages(h, un * (r * signal_q), pre_n) * of_n + messages(h, uz, pre_z) * of_z + messages(h, ur, pre_r) * of_r
    )
    return new, to_x, to_h + np.diag(carried * signal_h)


def relevance(x, h, parameters, product, epsilon, of_last):
    """Relevance of one sample's features and of its initial state."""
    to_inputs, to_start = np.zeros((0, UNITS)), np.eye(UNITS)
    for row in x:
        h, to_x, to_h = step(row, h, parameters, product, epsilon)
        to_inputs, to_start = np.concatenate([to_inputs @ to_h, to_x]), to_start @ to_h
    return (to_inputs @ of_last).reshape(x.shape), to_start @ of_last


def explained(parameters, rule, x, h, of_last):
    graph = lrpfast.Graph()
    layer = layers.GRU(*parameters, takes_state=True)
    model = graph.model(graph.add(layer, graph.input((STEPS, FEATURES)), graph.input(UNITS)))
    return lrpfast.Analyzer(model, rule, precision="float64").analyze([x, h], of_last)


@pytest.mark.filterwarnings("ignore::lrpfast.RelevanceWarning")
@pytest.mark.parametrize("epsilon", [1e-6, 0.1])
@pytest.mark.parametrize("product", PRODUCTS)
def test_products_of_matrices_give_the_same_relevance(product, epsilon):
    rng, parameters = np.random.default_rng(12), weights()
    x, h, of_last = (rng.normal(size=shape) for shape in ((4, STEPS, FEATURES), (4, UNITS), (4, UNITS)))
    of_x, of_h = explained(parameters, Recurrent(epsilon, product=product), x, h, of_last)
    for i in range(len(x)):
        expected_x, expected_h = relevance(x[i], h[i], parameters, product, epsilon, of_last[i])
        largest = max(np.abs(expected_x).max(), np.abs(expected_h).max())
        np.testing.assert_allclose(of_x[i], expected_x, rtol=0, atol=1e-10 * largest)
        np.testing.assert_allclose(of_h[i], expected_h, rtol=0, atol=1e-10 * largest)


@pytest.mark.filterwarnings("ignore::lrpfast.RelevanceWarning")
@pytest.mark.parametrize("product", PRODUCTS)
def test_without_biases_nothing_is_lost(product):
    """Gate and signal together get what their product has, of r (h U) too."""
    rng, parameters = np.random.default_rng(13), weights(0.0)
    x, h, of_last = (rng.normal(size=shape) for shape in ((4, STEPS, FEATURES), (4, UNITS), (4, UNITS)))
    of_x, of_h = explained(parameters, Recurrent(1e-12, product=product), x, h, of_last)
    total = of_x.sum((1, 2)) + of_h.sum(1)
    np.testing.assert_allclose(total, of_last.sum(1), atol=1e-9 * np.abs(of_x).max())
