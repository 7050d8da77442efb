"""LRP written from its formulas: slow, sample by sample, float64. What the tests compare lrpfast with.

It shares no code with lrpfast and imports nothing but NumPy. Every rule is a function that builds its
contributions c_ij explicitly, as a factor f_i (the input, or 1) times a matrix v_ij, and hands each output's
relevance out in proportion to them (oracle_layers.py makes such a matrix of every linear layer)::

    R_i = sum_j (c_ij + share of the bias) / stabilized(sum_i c_ij + bias) * R_j

An `Arithmetic` says how to compute: exactly, with TF32's rounding of operands, or with errors of the size that a
shorter float format makes. The last is how the tests know how far a correct program may be off (tests/tolerances.py).

Formulas are written for one sample: vectors lie along the last axis, matrices along the last two. Axes before these
are samples, and runs of them, which see nothing of each other: NumPy does them side by side, as its calls cost more
than the few numbers in them.
"""

import math
from typing import NamedTuple

import numpy as np

SIGN = "sign"
ZERO = "zero"
UNSIGNED = "unsigned"


class Arithmetic:
    """Float64, optionally with TF32 operands and with imitated rounding errors.

    With a unit roundoff ``u``, every elementwise result is off by a relative ±u and every sum by ±u times the root of
    its squared partial sums: the size of the error of adding the terms one after the other, each addition off by
    at most u times the partial sum it makes. With ``runs`` all samples are computed so often, each time with errors of
    its own: results get an axis of runs in front.
    """

    def __init__(self, u=0.0, rng=None, tf32=False, runs=None):
        self.u, self.rng, self.tf32, self.runs = u, rng, tf32, runs

    def _signs(self, shape, size):
        return self.rng.integers(0, 2, size=shape, dtype=bool) * (2 * size) - size

    def off(self, value, ulps=1.0):
        """An elementwise result, off by a few units roundoff."""
        return value * (1 + self._signs(np.shape(value), ulps * self.u)) if self.u else value

    def off_each(self, matrix, x):
        """`off` of what is the same for all samples x: they get errors of their own."""
        return self.off(np.broadcast_to(matrix, (*x.shape[:-1], *matrix.shape[-2:]))) if self.u else matrix

    def repeated(self, x):
        """Samples, once for each run."""
        return x if self.runs is None else np.broadcast_to(x, (self.runs, *x.shape))

    def total(self, terms, axis, split=False):
        """Σ terms along an axis. ``split``: the program may add positive and negative terms apart."""
        result = terms.sum(axis)
        if not self.u:
            return result
        if split:
            partial = np.maximum(np.maximum(terms, 0).cumsum(axis), -np.minimum(terms, 0).cumsum(axis))
        else:
            partial = terms.cumsum(axis)
        return result + self._signs(result.shape, self.u) * np.sqrt((partial**2 + terms**2).sum(axis))

    def operand(self, value):
        """What a contraction sees of one of its operands."""
        return round_tf32(value) if self.tf32 else value

    def whole(self):
        """The same without TF32: for sums and means, which are no contractions."""
        return Arithmetic(self.u, self.rng, runs=self.runs)


EXACT = Arithmetic()
TF32 = Arithmetic(tf32=True)


def round_tf32(value):
    """To float32, then to 10 mantissa bits, ties to even."""
    bits = np.ascontiguousarray(value, dtype=np.float32).view(np.uint32)
    bits = (bits + (0x0FFF + ((bits >> 13) & 1)).astype(np.uint32)) & np.uint32(0xFFFFE000)
    return bits.view(np.float32).astype(np.float64).reshape(np.shape(value))


def stabilized(z, stabilizer):
    value, kind = stabilizer
    if kind == SIGN:
        return np.where(z >= 0, z + value, z - value)
    return z + value if kind == UNSIGNED else np.where(z == 0, value, z)


class Ledger:
    """Where relevance went that no input got: per layer and sample, summed over the rule's terms.

    ``absolute`` is the sum of the absolute values of every s_j c_ij and s_j b_j: what rounding errors are relative to.
    """

    def __init__(self):
        self.bias = self.stabilizer = self.lost = self.absolute = 0.0


def share(ar, pairs, b, own_b, r, seen, stabilizer, bias, ledger, coefficient=1.0, here=True, split=False):
    """Hand r_j to the inputs in proportion to their contributions, one term of a rule.

    pairs: [(f, v), …] with contributions Σ f_i v_ij. b: the whole bias, own_b: this term's part of it.
    seen: whether output j sees input i; a bias that the inputs share goes to the n_j that it sees.
    here: which outputs take part; relevance of the others is lost to this term.
    """
    n = seen.sum(0)
    contributions = np.concatenate([ar.operand(f)[..., None] * ar.operand(v) for f, v in pairs], -2)
    z = ar.total(contributions, -2, split)
    shared = np.where(n > 0, own_b, 0)
    added = {"absorb": own_b, "ignore": 0 * b, "full": b, "distribute": shared, "repeat": ar.off(n * own_b)}[bias]
    z = ar.off(z + added)
    s = ar.off(np.where(here, r, 0) / ar.off(stabilized(z, stabilizer)))
    result = sum(ar.off(f * ar.total(ar.operand(s)[..., None, :] * ar.operand(v), -1)) for f, v in pairs)
    if bias in ("distribute", "repeat"):
        each, back = own_b, s
        if bias == "distribute" and (n == n[0]).all():
            each = ar.off(own_b / max(n[0], 1))
        elif bias == "distribute":  # TF32 rounds s / n: there is no b / n that were the same for a whole image
            back = ar.off(s / np.maximum(n, 1))
        result = result + ar.total(seen * (ar.operand(back) * ar.operand(each))[..., None, :], -1)
    else:
        ledger.bias += coefficient * (s * added).sum(-1)
    ledger.absolute += abs(coefficient) * (np.abs(s) * (np.abs(contributions).sum(-2) + np.abs(added))).sum(-1)
    alive = z != 0
    ledger.stabilizer += coefficient * np.where(alive, s * (stabilized(z, stabilizer) - z), 0).sum(-1)
    ledger.lost += coefficient * np.where(here & alive, 0, r).sum(-1)
    return ar.off(coefficient * result)


# The rules. Each is rule(ar, ledger, x, w, b, r, seen, **parameters) -> R_in, with seen as in `share`. All samples have
# the same w and seen; b is there for each, as x and r are.


def zero(ar, ledger, x, w, b, r, seen, stabilizer=(1e-9, SIGN), bias="absorb"):
    """c_ij = x_i w_ij"""
    return share(ar, [(x, w)], b, b, r, seen, stabilizer, bias, ledger)


def epsilon(ar, ledger, x, w, b, r, seen, epsilon=1e-6, bias="absorb"):
    """c_ij = x_i w_ij over z_j + epsilon sign(z_j)"""
    return share(ar, [(x, w)], b, b, r, seen, (epsilon, SIGN), bias, ledger)


def gamma(
    ar, ledger, x, w, b, r, seen, gamma=0.25, generalized=True, scale_bias=True, stabilizer=(1e-6, SIGN), bias="absorb"
):
    """Original: c_ij = x_i (w_ij + gamma w_ij+).

    Generalized: where z_j > 0, positive contributions count 1 + gamma times; where z_j < 0, negative ones do; where
    z_j = 0 nobody gets anything. z_j has its bias in any convention.
    """
    b_up = ar.off(b + gamma * np.maximum(b, 0)) if scale_bias else b
    b_down = ar.off(b + gamma * np.minimum(b, 0)) if scale_bias else b
    if not generalized:
        v = ar.off_each(w + gamma * np.maximum(w, 0), x)
        return share(ar, [(x, v)], b, b_up, r, seen, stabilizer, bias, ledger)
    z = ar.off(ar.total(ar.operand(x)[..., None] * ar.operand(w), -2, split=True) + b)
    helps = x[..., None] * w > 0
    hurts = x[..., None] * w < 0
    v_up = np.where(helps, ar.off_each((1 + gamma) * w, x), w)
    v_down = np.where(hurts, ar.off_each((1 + gamma) * w, x), w)
    up = share(ar, [(x, v_up)], b, b_up, r, seen, stabilizer, bias, ledger, here=z > 0, split=True)
    # what the first term counts as lost outside its mask is the second's, and the other way round
    down = share(ar, [(x, v_down)], b, b_down, r, seen, stabilizer, bias, ledger, here=z < 0, split=True)
    ledger.lost -= r.sum(-1)
    return ar.off(up + down)


def alpha_beta(
    ar, ledger, x, w, b, r, seen, alpha=2.0, beta=1.0, split_input=True, stabilizer=(1e-6, SIGN), bias="absorb"
):
    """Positive contributions share alpha R_j, negative ones -beta R_j. Not split: the weight's sign decides alone."""
    sign = x[..., None] * w if split_input else w
    result = share(
        ar, [(x, np.where(sign > 0, w, 0))], b, np.maximum(b, 0), r, seen, stabilizer, bias, ledger, alpha, split=True
    )
    if beta:
        result = result + share(
            ar,
            [(x, np.where(sign < 0, w, 0))],
            b,
            np.minimum(b, 0),
            r,
            seen,
            stabilizer,
            bias,
            ledger,
            -beta,
            split=True,
        )
    ledger.lost += (1 - alpha + beta) * r.sum(-1)
    return ar.off(result)


def z_plus(ar, ledger, x, w, b, r, seen, split_input=True, stabilizer=(1e-6, SIGN), bias="absorb"):
    """c_ij = (x_i w_ij)+"""
    kept = x[..., None] * w > 0 if split_input else w > 0
    v = np.where(kept, w, 0)
    return share(ar, [(x, v)], b, np.maximum(b, 0), r, seen, stabilizer, bias, ledger, split=True)


def alpha_beta_x(
    ar, ledger, x, w, b, r, seen, alpha=(0.5, 0.5), beta=(0.5, 0.5), stabilizer=(1e-6, SIGN), bias="absorb"
):
    """x+w+, x-w-, x+w- and x-w+ share alpha_0 R_j, alpha_1 R_j, -beta_0 R_j, -beta_1 R_j, each among themselves."""
    result = np.zeros_like(x)
    up, down = np.where(w > 0, w, 0), np.where(w < 0, w, 0)
    b_up, b_down = np.maximum(b, 0), np.minimum(b, 0)
    x_up, x_down = np.where(x > 0, x, 0), np.where(x < 0, x, 0)
    for f, v, part, c in (
        (x_up, up, b_up, alpha[0]),
        (x_down, down, b_down, alpha[1]),
        (x_up, down, b_down, -beta[0]),
        (x_down, up, b_up, -beta[1]),
    ):
        if c:
            result = result + share(ar, [(f, v)], b, part, r, seen, stabilizer, bias, ledger, c, split=True)
    ledger.lost += (1 - sum(alpha) + sum(beta)) * r.sum(-1)
    return ar.off(result)


def w_square(ar, ledger, x, w, b, r, seen, stabilizer=(1e-6, SIGN), bias="ignore"):
    """c_ij = w_ij^2; absorb: b_j^2 in the denominator"""
    return share(ar, [(np.ones_like(x), ar.off_each(w**2, x))], b, ar.off(b**2), r, seen, stabilizer, bias, ledger)


def flat(ar, ledger, x, w, b, r, seen, stabilizer=(1e-6, SIGN), bias="ignore"):
    """c_ij = 1, of the inputs that j sees"""
    return share(ar, [(np.ones_like(x), seen * 1.0)], b, b, r, seen, stabilizer, bias, ledger)


def z_box(ar, ledger, x, w, b, r, seen, low=None, high=None, stabilizer=(1e-6, SIGN), bias="ignore"):
    """c_ij = x_i w_ij - low_i w_ij+ - high_i w_ij-"""
    low, high = np.zeros_like(x) + low, np.zeros_like(x) + high
    up, down = np.maximum(w, 0), np.minimum(w, 0)
    pairs = [(x, up), (x, down), (-low, up), (-high, down)]
    return share(ar, pairs, b, b, r, seen, stabilizer, bias, ledger)


def norm(ar, ledger, x, w, b, r, seen, stabilizer=(1e-6, SIGN)):
    """c_ij = x_i w_ij, of sums and means; a bias is absorbed by nobody"""
    return share(ar, [(x, w)], b, b, r, seen, stabilizer, "ignore", ledger)


def gradient(ar, ledger, x, w, b, r, seen):
    """R_i = Σ_j w_ij R_j"""
    result = ar.total(ar.operand(w) * ar.operand(r)[..., None, :], -1)
    ledger.lost += r.sum(-1) - result.sum(-1)
    ledger.absolute += np.abs(w * r[..., None, :]).sum((-2, -1))
    return result


RULES = {
    f.__name__: f
    for f in (zero, epsilon, gamma, alpha_beta, alpha_beta_x, z_plus, w_square, flat, z_box, norm, gradient)
}


# Activations, from their definitions.


def relu(x, max_value=None, negative_slope=0.0, threshold=0.0):
    y = np.where(x > threshold, x, negative_slope * (x - threshold))  # Keras's text says >=, its code >
    return y if max_value is None else np.minimum(y, max_value)


def leaky_relu(x, negative_slope=0.2):
    return np.where(x > 0, x, negative_slope * x)


def elu(x, alpha=1.0):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def selu(x):
    return 1.0507009873554805 * elu(x, 1.6732632423543772)


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))  # keeps its digits where it is close to 0


def gelu_share(x):
    """The normal distribution below x: what the exact gelu multiplies x by."""
    return 0.5 * np.vectorize(math.erfc, otypes=[float])(-x / math.sqrt(2))


def gelu(x, approximate=False):
    if approximate:  # x (1 + tanh u) / 2, without cancelling where x is far below 0
        return x * sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    return x * gelu_share(x)


def softplus(x):
    return np.logaddexp(0, x)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_softmax(x):
    return x - np.logaddexp.reduce(x, -1, keepdims=True)


#: Functions over the last axis.
OF_ROWS = ("softmax", "log_softmax")

ACTIVATIONS = {
    None: lambda x: x,
    "linear": lambda x: x,
    "relu": relu,
    "leaky_relu": leaky_relu,
    "prelu": lambda x, negative_slope: np.where(x > 0, x, negative_slope * x),
    "elu": elu,
    "selu": selu,
    "gelu": gelu,
    "silu": lambda x: x * sigmoid(x),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "hard_sigmoid": lambda x, slope=0.2, offset=0.5: np.clip(slope * x + offset, 0, 1),
    "softplus": softplus,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "exponential": np.exp,
    "mish": lambda x: x * np.tanh(softplus(x)),
    "clip": lambda x, low=-np.inf, high=np.inf: np.clip(x, low, high),
    "celu": lambda x, alpha=1.0: alpha * elu(x / alpha),
    "shrink": lambda x, threshold=0.5, shift=0.0: np.where(np.abs(x) > threshold, x - np.sign(x) * shift, 0),
    "log_sigmoid": lambda x: -softplus(-x),
    "power": lambda x, exponent=1.0: x**exponent,
    "hard_silu": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "log": np.log,
    "softmax": softmax,
    "log_softmax": log_softmax,
}


# Networks: chains of Dense layers, each with its activation.


class Dense(NamedTuple):
    w: np.ndarray
    b: np.ndarray | None = None
    activation: str | None = None
    parameters: dict = {}

    @property
    def bias(self):
        return np.zeros(self.w.shape[1]) if self.b is None else self.b


def forward(layers, x, ar=EXACT):
    """[(input, z) of every layer, …] and the output."""
    seen = []
    for layer in layers:
        z = ar.off(ar.total(ar.operand(x)[..., None] * ar.operand(layer.w), -2, split=True) + layer.bias)
        seen.append((x, z))
        x = z
        if layer.activation not in (None, "linear"):
            # its argument may be off by one unit, its value by a few: no library rounds tanh perfectly
            x = ar.off(ACTIVATIONS[layer.activation](ar.off(z), **layer.parameters), 4)
    return seen, x


def starting_relevance(y, target):
    """y: the output before a final softmax, its logarithm or sigmoid. See lrpfast.Analyzer for targets."""
    if callable(target):
        return np.asarray(target(y.reshape(-1, y.shape[-1])), dtype=float).reshape(y.shape)
    start = np.zeros_like(y)
    if isinstance(target, str):
        np.put_along_axis(start, y.argmax(-1)[..., None], y.max(-1)[..., None], -1)
    elif isinstance(target, tuple):
        start[..., target[0]] += y[..., target[0]]
        start[..., target[1]] -= y[..., target[1]]
    elif np.ndim(target) == 0:
        start[..., target] = y[..., target]
    else:
        start[...] = target
    return start


def starting_relevances(y, target):
    """`starting_relevance`, where a list has a target for each sample; samples lie along the last axis but one."""
    if not isinstance(target, list):
        return starting_relevance(y, target)
    assert len(target) == y.shape[-2]
    return np.stack([starting_relevance(y[..., i, :], t) for i, t in enumerate(target)], -2)


def backward(layers, rules, x, target="max", ar=EXACT, ledgers=None):
    """Relevance of the input. rules: one (name, parameters) per layer."""
    seen, y = forward(layers, x, ar)
    if layers[-1].activation in (*OF_ROWS, "sigmoid"):
        y = seen[-1][1]
    r = starting_relevances(y, target)
    for layer, (name, parameters), (x_in, _) in zip(layers[::-1], rules[::-1], seen[::-1], strict=True):
        ledger = Ledger()
        incoming = r
        b = np.broadcast_to(layer.bias, r.shape)
        r = RULES[name](ar, ledger, x_in, layer.w, b, incoming, np.ones(layer.w.shape, bool), **parameters)
        if ledgers is not None:
            ledgers.append((ledger, incoming, r))
    return r


def as_float64(layers):
    return [
        Dense(np.float64(n.w), None if n.b is None else np.float64(n.b), n.activation, n.parameters) for n in layers
    ]


#: Numbers in the matrices of all samples that are computed side by side: as many as a processor has at hand.
AT_ONCE = 1 << 14


def in_pieces(compute, count, size, ar):
    """compute(slice of the samples, arithmetic) of all ``count`` samples, of which one needs matrices of ``size``."""
    if ar.runs is not None and ar.runs > 1 and size * ar.runs > AT_ONCE:
        one = Arithmetic(ar.u, ar.rng, ar.tf32, 1)
        return np.concatenate([in_pieces(compute, count, size, one) for _ in range(ar.runs)])
    step = max(AT_ONCE // (size * (ar.runs or 1)), 1)
    found = [compute(slice(i, i + step), ar) for i in range(0, max(count, 1), step)]
    return np.concatenate(found, 0 if ar.runs is None else 1)


def explain(layers, rules, x, target="max", ar=EXACT):
    """`backward` for every row of x. target: one for all, or a list with one per sample."""
    layers = as_float64(layers)
    x = np.asarray(x, dtype=np.float64)

    def compute(some, ar):
        own = target[some] if isinstance(target, list) else target
        return backward(layers, rules, ar.repeated(x[some]), own, ar)

    return in_pieces(compute, len(x), max(layer.w.size for layer in layers), ar)


def redistribute(rule, layer, x, r, ar=EXACT):
    """One layer: relevance of its input for relevance r of its z, sample by sample."""
    name, parameters = rule
    (layer,) = as_float64([layer])
    x, r = np.asarray(x, dtype=np.float64), np.asarray(r, dtype=np.float64)
    seen = np.ones(layer.w.shape, bool)

    def compute(some, ar):
        given, incoming = ar.repeated(x[some]), ar.repeated(r[some])
        b = np.broadcast_to(layer.bias, incoming.shape)
        return RULES[name](ar, Ledger(), given, layer.w, b, incoming, seen, **parameters)

    return in_pieces(compute, len(x), layer.w.size, ar)


def perturbed(layers, x, size, rng):
    """The network and inputs with x, W and b each off by a relative ±size."""

    def off(a):
        return None if a is None else np.float64(a) * (1 + size * rng.choice((-1.0, 1.0), size=np.shape(a)))

    return [Dense(off(n.w), off(n.b), n.activation, n.parameters) for n in layers], off(x)
