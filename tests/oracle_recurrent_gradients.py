"""The derivative of recurrent layers in the plainest way: Jacobians by the chain rule, from the first step to the last.

Forward accumulation: every state has a matrix of its derivatives by all values of the sequence and of the initial
states. lrpfast goes the other way and shares no code with this; cells are written as in oracle_recurrent.py.
"""

import numpy as np

from oracle_recurrent import Cell, order_of, row_of


def _tanh(z):
    return 1 / np.cosh(z) ** 2


def _sigmoid(z):
    return 1 / (2 + np.exp(z) + np.exp(-z))


def _relu(z, max_value=None, negative_slope=0.0, threshold=0.0):
    slope = np.where(z > threshold, 1.0, negative_slope)
    return np.where(np.where(z > threshold, z, slope * (z - threshold)) > (max_value or np.inf), 0.0, slope)


SLOPES = {
    "linear": np.ones_like,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "relu": _relu,
    "softplus": lambda z: 1 / (1 + np.exp(-z)),
    "hard_sigmoid": lambda z, slope=0.2, offset=0.5: slope * ((slope * z + offset > 0) & (slope * z + offset <= 1)),
}


def slope(function, z):
    """The derivative of an activation by its name, its parameters beside it."""
    name, parameters = function if isinstance(function, tuple) else (function, {})
    return SLOPES[name or "linear"](z, **parameters)


def _step(cell, k, jx, jh, jc):
    """Jacobians of the new states, of those of x, h and c; ``k``: the step's values."""

    def pre(gate):
        b = cell.block(gate)
        return cell.w[:, b].T @ jx + cell.u[:, b].T @ jh

    def through(function, gate):
        return slope(function, cell.pre(k["x"], k["h"], gate))[:, None] * pre(gate)

    def times(a, ja, b, jb):
        return a[:, None] * jb + b[:, None] * ja

    if cell.kind == "SimpleRNN":
        return through(cell.cell, 0), jc
    if cell.kind == "LSTM":
        i, f, g, o = (through(cell.cell if gate == 2 else cell.gate, gate) for gate in range(4))
        new_c = times(k["f"], f, k["c"], jc) + times(k["i"], i, k["g"], g)
        s = slope(cell.out, k["new_c"])[:, None] * new_c
        return times(k["o"], o, k["s"], s), new_c
    z, r, b = through(cell.gate, 0), through(cell.gate, 1), cell.block(2)
    of_x, total = cell.w[:, b].T @ jx, k["x"] @ cell.w[:, b] + cell.b[b]
    if cell.reset_after:
        inner, total = times(k["r"], r, k["v"], cell.u[:, b].T @ jh), total + k["r"] * k["v"]
    else:
        inner = cell.u[:, b].T @ times(k["r"], r, k["h"], jh)
        total = total + (k["r"] * k["h"]) @ cell.u[:, b] + cell.b2[b]
    n = slope(cell.cell, total)[:, None] * (of_x + inner)
    return times(k["z"], z, k["h"], jh) + times(1 - k["z"], -z, k["n"], n), jc


def gradients(kind, p, x, relevance, mask=None, h=None, c=None):
    """dot(relevance, output) derived by x, by h and by c; one sample."""
    cell, zero = Cell(kind, p), np.zeros(len(p["recurrent_kernel"]))
    features, units, count = x.shape[1], cell.units, x.size
    h = np.float64(p.get("initial_h", zero) if h is None else h)
    c = np.float64(p.get("initial_c", zero) if c is None else c)
    every = np.eye(count + 2 * units)
    jh, jc = every[count : count + units], every[count + units :]
    rows, seen = np.zeros((len(x), units, len(every))), False
    for number, step in enumerate(order_of(p, len(x))):
        counts = mask is None or mask[step] != 0
        if counts:
            k = cell.forward(x[step], h, c)
            jh, jc = _step(cell, k, every[step * features : (step + 1) * features], jh, jc)
            h, c, seen = k["new_h"], k["new_c"], True
        if seen and (counts or not (p.get("zero_masked") and p.get("return_sequences"))):
            rows[row_of(p, number, step)] = jh
        if number == len(x) - 1:
            last = jh if seen else np.zeros_like(jh)
    jacobian = list(rows) if p.get("return_sequences") else [last]
    jacobian = np.array(jacobian + ([jc] if p.get("return_state") else []))
    result = np.tensordot(np.float64(relevance).reshape(jacobian.shape[:2]), jacobian, 2)
    return result[:count].reshape(x.shape), result[count : count + units], result[count + units :]
