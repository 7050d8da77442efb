"""Gradients, and what is made of them, in the plainest way: every layer's derivative, one point after the other."""

import numpy as np

from oracle import EXACT


def gradient(net, x, start, ar=EXACT):
    """dot(start, f) derived by x: (samples, features), for ``start`` (samples, outputs) and one input x."""
    run = net.values([np.float64(x).reshape(len(x), -1)], ar)
    rules = [("gradient", {})] * len(net.nodes)
    relevance = net.backward(run, rules, np.float64(start), ar, activations=dict(enumerate(rules)))
    return relevance[net.inputs[0]]


def one_hot(targets, outputs):
    return np.eye(outputs)[np.asarray(targets)]


def points(steps, quadrature):
    """Where on the path gradients are computed, and their weights; those of Gauss by their definition, as roots."""
    if quadrature == "midpoint":
        return [((k + 0.5) / steps, 1 / steps) for k in range(steps)]
    if quadrature == "gausslegendre":
        legendre = np.polynomial.legendre.Legendre.basis(steps)
        slope = legendre.deriv()
        return [((1 + r) / 2, 1 / ((1 - r**2) * slope(r) ** 2)) for r in legendre.roots()]
    ends = 0.5 if quadrature == "trapezoid" else 1.0
    weights = [ends if k in (0, steps - 1) else 1.0 for k in range(steps)]
    total = steps - 1 if quadrature == "trapezoid" else steps
    return [(k / (steps - 1), w / total) for k, w in enumerate(weights)]


def integrated(net, x, start, baseline, steps, quadrature):
    x = np.float64(x).reshape(len(x), -1)
    baseline = np.broadcast_to(baseline, x.shape)
    mean = sum(w * gradient(net, baseline + t * (x - baseline), start) for t, w in points(steps, quadrature))
    return mean * (x - baseline)
