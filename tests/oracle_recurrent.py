"""Recurrent layers as the oracle sees them: unrolled, every message written out, in float64.

Like oracle.py it shares no code with lrpfast. The cells are written a step and a unit at a time; what each part of a
sum receives is a number in a matrix of messages (Arras et al. 2017, 2019). A layer is a kind and its parameters, by
the names that ``lrpfast.layers`` uses for them.
"""

import numpy as np

import oracle


def sigma(function, z):
    """An activation by its name, its parameters beside it."""
    name, parameters = function if isinstance(function, tuple) else (function, {})
    if name in (None, "linear"):
        return z
    return oracle.ACTIVATIONS[name](z, **parameters)


class Rule:
    """epsilon, what of a product goes to the signal, and what becomes of biases."""

    def __init__(self, epsilon=1e-6, product="signal", bias="absorb"):
        self.epsilon, self.product, self.bias = epsilon, product, bias
        #: what biases, stabilizers and lost outputs took of the relevance, by step
        self.bias_took, self.stabilizer_took, self.lost = {}, {}, {}

    def signed(self, z):
        return self.epsilon if z >= 0 else -self.epsilon

    def took(self, where, step, amount):
        where[step] = where.get(step, 0.0) + amount

    def sum(self, step, parts, bias, relevance):
        """What each part of one sum Σ parts + bias receives: the messages of one unit."""
        z = sum(parts) + (0.0 if self.bias == "ignore" else bias)
        eps = self.signed(z)
        messages = [part / (z + eps) * relevance for part in parts]
        rest = bias / (z + eps) * relevance if self.bias != "ignore" else 0.0
        noise = eps / (z + eps) * relevance
        if self.bias == "share":
            messages = [m + (rest + noise) / len(parts) for m in messages]
        elif self.bias == "distribute":
            messages = [m + rest / len(parts) for m in messages]
            self.took(self.stabilizer_took, step, noise)
        else:
            self.took(self.bias_took, step, rest)
            self.took(self.stabilizer_took, step, noise)
        return messages

    def pairs(self, step, first, second, relevance):
        """first + second, unit by unit. Shared stabilizers go to all 2 H parts alike, as in the reference code."""
        units = len(relevance)
        ones, others = np.zeros(units), np.zeros(units)
        for j in range(units):
            z = first[j] + second[j]
            eps = self.signed(z)
            ones[j] += first[j] / (z + eps) * relevance[j]
            others[j] += second[j] / (z + eps) * relevance[j]
            noise = eps / (z + eps) * relevance[j]
            if self.bias == "share":
                ones += noise / (2 * units)
                others += noise / (2 * units)
            else:
                self.took(self.stabilizer_took, step, noise)
        return ones, others

    def shares(self, gate, signal):
        """The parts of a product's relevance that go to the gate and to the signal."""
        if self.product == "signal":
            return 0.0, 1.0
        if self.product == "half":
            return 0.5, 0.5
        if self.product == "abs":
            gate, signal = abs(gate), abs(signal)
        total = gate + signal + self.signed(gate + signal)
        return gate / total, signal / total

    def split(self, step, gate, signal, relevance):
        """Relevance of a gate and of the signal that it multiplies."""
        one, other = self.shares(gate, signal)
        self.took(self.stabilizer_took, step, relevance * (1 - one - other))
        return one * relevance, other * relevance

    def splits(self, step, gates, signals, relevance):
        both = [self.split(step, g, v, r) for g, v, r in zip(gates, signals, relevance, strict=True)]
        return np.array([b[0] for b in both]), np.array([b[1] for b in both])


class Cell:
    """The parameters of one layer, and a step forwards and backwards of each kind of cell."""

    def __init__(self, kind, p):
        self.kind, self.p = kind, p
        self.w, self.u = np.float64(p["kernel"]), np.float64(p["recurrent_kernel"])
        self.units = len(self.u)
        columns = self.w.shape[1]
        bias = p.get("bias")
        bias = np.zeros(columns) if bias is None else np.float64(bias)
        self.b, self.b2 = (bias[0], bias[1]) if bias.ndim == 2 else (bias, np.zeros(columns))
        self.cell = p.get("cell_activation", "tanh")
        self.gate = p.get("gate_activation", "sigmoid")
        self.out = p.get("output_activation") or self.cell
        self.reset_after = p.get("reset_after", True)

    def block(self, gate):
        return slice(gate * self.units, (gate + 1) * self.units)

    def pre(self, x, h, gate):
        b = self.block(gate)
        return x @ self.w[:, b] + h @ self.u[:, b] + self.b[b] + self.b2[b]

    def forward(self, x, h, c):
        k = {"x": x, "h": h, "c": c}
        if self.kind == "SimpleRNN":
            k["new_h"], k["new_c"] = sigma(self.cell, self.pre(x, h, 0)), c
        elif self.kind == "LSTM":
            k["i"], k["f"] = sigma(self.gate, self.pre(x, h, 0)), sigma(self.gate, self.pre(x, h, 1))
            k["g"], k["o"] = sigma(self.cell, self.pre(x, h, 2)), sigma(self.gate, self.pre(x, h, 3))
            k["new_c"] = k["f"] * c + k["i"] * k["g"]
            k["s"] = sigma(self.out, k["new_c"])
            k["new_h"] = k["o"] * k["s"]
        else:
            k["z"], k["r"] = sigma(self.gate, self.pre(x, h, 0)), sigma(self.gate, self.pre(x, h, 1))
            b = self.block(2)
            if self.reset_after:
                k["v"] = h @ self.u[:, b] + self.b2[b]
                n = x @ self.w[:, b] + self.b[b] + k["r"] * k["v"]
            else:
                n = x @ self.w[:, b] + self.b[b] + (k["r"] * h) @ self.u[:, b]
            k["n"] = sigma(self.cell, n)
            k["new_h"], k["new_c"] = k["z"] * h + (1 - k["z"]) * k["n"], c
        return k

    def linear(self, rule, step, k, gate, relevance, reset=None):
        """A pre-activation's messages to x and to h; ``reset`` multiplies h before the product, or None."""
        rx, rh = np.zeros(len(k["x"])), np.zeros(self.units)
        source = k["h"] if reset is None else reset * k["h"]
        for j in range(self.units):
            column = gate * self.units + j
            parts = [*(k["x"] * self.w[:, column]), *(source * self.u[:, column])]
            messages = rule.sum(step, parts, self.b[column] + self.b2[column], relevance[j])
            rx += messages[: len(rx)]
            rh += messages[len(rx) :]
        return rx, rh

    def reset_sum(self, rule, step, k, relevance):
        """The candidate of a GRU that resets after the product: one sum, in which r is a weight, or a gate."""
        rx, rh, rr = np.zeros(len(k["x"])), np.zeros(self.units), np.zeros(self.units)
        for j in range(self.units):
            column = 2 * self.units + j
            r = k["r"][j]
            parts = [*(k["x"] * self.w[:, column]), *(r * k["h"] * self.u[:, column])]
            bias, inner = self.b[column], r * self.b2[column]
            z = sum(parts) + (0.0 if rule.bias == "ignore" else bias + inner)
            # what reaches r · (h U + b′), and the part of it that goes on to the signal
            share, through = rule.shares(r, k["v"][j])
            inside = sum(parts[len(rx) :]) + (0.0 if rule.bias == "ignore" else inner)
            arrives = relevance[j] * inside / (z + rule.signed(z))
            rr[j] = arrives * share
            rule.took(rule.stabilizer_took, step, arrives * (1 - share - through))
            s = relevance[j] / (z + rule.signed(z))
            rx += np.array(parts[: len(rx)]) * s
            rh += np.array(parts[len(rx) :]) * s * through
            rest = 0.0 if rule.bias == "ignore" else (bias + inner * through) * s
            noise = rule.signed(z) * s
            n = len(parts)
            if rule.bias in ("share", "distribute"):
                rx, rh = rx + rest / n, rh + rest / n
            else:
                rule.took(rule.bias_took, step, rest)
            if rule.bias == "share":
                rx, rh = rx + noise / n, rh + noise / n
            else:
                rule.took(rule.stabilizer_took, step, noise)
        return rx, rh, rr

    def backward(self, rule, step, k, rh, rc):
        """Relevance of x and of the states before, of that of the states after."""
        if self.kind == "SimpleRNN":
            rx, before = self.linear(rule, step, k, 0, rh)
            return rx, before, rc
        if self.kind == "LSTM":
            ro, rs = rule.splits(step, k["o"], k["s"], rh)
            kept, fresh = rule.pairs(step, k["f"] * k["c"], k["i"] * k["g"], rc + rs)
            rf, before_c = rule.splits(step, k["f"], k["c"], kept)
            ri, rg = rule.splits(step, k["i"], k["g"], fresh)
            rx, before = np.zeros(len(k["x"])), np.zeros(self.units)
            for gate, r in enumerate((ri, rf, rg, ro)):
                if gate == 2 or rule.product != "signal":
                    more = self.linear(rule, step, k, gate, r)
                    rx, before = rx + more[0], before + more[1]
            return rx, before, before_c
        kept, fresh = rule.pairs(step, k["z"] * k["h"], (1 - k["z"]) * k["n"], rh)
        rz, before = rule.splits(step, k["z"], k["h"], kept)
        rz2, rn = rule.splits(step, 1 - k["z"], k["n"], fresh)
        if self.reset_after:
            rx, more, rr = self.reset_sum(rule, step, k, rn)
        else:
            rx, rq = self.linear(rule, step, k, 2, rn, k["r"])
            rr, more = rule.splits(step, k["r"], k["h"], rq)
        before = before + more
        if rule.product != "signal":
            for gate, r in ((0, rz + rz2), (1, rr)):
                more = self.linear(rule, step, k, gate, r)
                rx, before = rx + more[0], before + more[1]
        return rx, before, rc


def order_of(p, steps):
    order = list(range(steps))
    return order[::-1] if p.get("go_backwards") else order


def row_of(p, number, step):
    """The row of a sequence's output that a step has, which is the number-th computed."""
    return step if p.get("time_order", True) else number


def run(kind, p, x, mask=None, h=None, c=None):
    """The output of one sample, and what each step was computed from."""
    cell = Cell(kind, p)
    zero = np.zeros(cell.units)
    h = np.float64(p.get("initial_h", zero) if h is None else h) if h is not None or "initial_h" in p else zero
    c = np.float64(p.get("initial_c", zero) if c is None else c) if c is not None or "initial_c" in p else zero
    rows, kept, last = np.zeros((len(x), cell.units)), [], zero
    for number, step in enumerate(order_of(p, len(x))):
        counts = mask is None or mask[step] != 0
        if counts:
            k = cell.forward(x[step], h, c)
            h, c = k["new_h"], k["new_c"]
            kept.append((step, k))
            last = h
        else:
            kept.append((step, None))
            if p.get("zero_masked"):
                last_row = zero
        rows[row_of(p, number, step)] = last if counts or not p.get("zero_masked") else last_row
    result = rows if p.get("return_sequences") else last[None]
    if p.get("return_state"):
        result = np.concatenate([result, c[None]])
    return result if p.get("return_sequences") or p.get("return_state") else result[0], kept


def explain(kind, p, rule, x, relevance, mask=None, h=None, c=None):
    """Relevance of x, of h and of c, given that of the output; one sample."""
    cell = Cell(kind, p)
    _, kept = run(kind, p, x, mask, h, c)
    relevance = np.float64(relevance).reshape(-1, cell.units)
    rh, rc = np.zeros(cell.units), np.zeros(cell.units)
    if p.get("return_state"):
        relevance, rc = relevance[:-1], rc + relevance[-1]
    result = np.zeros(np.shape(x))
    for number in range(len(x) - 1, -1, -1):
        step, k = kept[number]
        seen = any(other is not None for _, other in kept[: number + 1])
        arrives = np.zeros(cell.units)
        if p.get("return_sequences"):
            arrives = relevance[row_of(p, number, step)]
            if k is None and p.get("zero_masked"):
                seen = False
        elif number == len(x) - 1:
            arrives = relevance[0]
        if seen:
            rh = rh + arrives
        else:  # the output is 0, whatever the input
            rule.took(rule.lost, step, arrives.sum())
        if k is not None:
            result[step], rh, rc = cell.backward(rule, step, k, rh, rc)
    return result, rh, rc
