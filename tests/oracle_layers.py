"""Every layer as the oracle sees it: linear ones as a matrix, others by their definition, and graphs of them.

Like oracle.py it shares no code with lrpfast and imports nothing but NumPy. A layer is a kind and parameters, by the
names that ``lrpfast.layers`` uses for them; values and relevance of one sample are flat vectors in row-major order,
channels last; as in oracle.py, axes before the last are samples and runs of them. Matrices are filled entry by entry in
loops over positions and taps: slow, and plain to see.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np

import oracle
import oracle_attention
from oracle import EXACT, Ledger, stabilized

# Windows: where each output position's taps lie.


def per_axis(value, rank):
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * rank


def rank_of(size):
    return len(size) if isinstance(size, (tuple, list)) else 1


def pairs_of(padding, rank):
    """(before, after) per axis, of a number, a number per axis, a pair for one axis, or pairs."""
    if rank == 1 and isinstance(padding, (tuple, list)) and len(padding) == 2:
        padding = (tuple(padding),)
    return [p if isinstance(p, (tuple, list)) else (p, p) for p in per_axis(padding, rank)]


def window_positions(n, size, stride, dilation, padding, axis, rank):
    """For every window along an axis of n values: the position under each of its taps, None where that is padding."""
    reach = (size - 1) * dilation + 1
    if padding == "valid":
        before, after = 0, 0
    elif padding == "same":
        count = -(-n // stride)
        missing = max((count - 1) * stride + reach - n, 0)
        before, after = missing // 2, missing - missing // 2
    elif padding == "causal":
        before, after = reach - 1, 0
    else:
        before, after = pairs_of(padding, rank)[axis]
    windows = []
    start = -before
    while start + reach <= n + after:
        taps = [start + t * dilation for t in range(size)]
        windows.append([p if 0 <= p < n else None for p in taps])
        start += stride
    return windows


def all_windows(spatial, size, strides, dilation, padding):
    """{output position: {tap: input position}} in row-major order, without taps on padding; and the output's sizes."""
    rank = len(spatial)
    size, strides, dilation = per_axis(size, rank), per_axis(strides, rank), per_axis(dilation, rank)
    axes = [
        window_positions(n, k, s, d, padding, axis, rank)
        for axis, (n, k, s, d) in enumerate(zip(spatial, size, strides, dilation, strict=True))
    ]
    found = {}
    for q in itertools.product(*(range(len(a)) for a in axes)):
        found[q] = {}
        for tap in itertools.product(*(range(k) for k in size)):
            at = tuple(axes[i][q[i]][tap[i]] for i in range(rank))
            if None not in at:
                found[q][tap] = at
    return found, tuple(len(a) for a in axes)


# Linear layers: z = x W + b.


class Matrix(NamedTuple):
    """w: (in, out). seen: whether output j sees input i. tf32: whether TF32 rounds its operands.

    derived: whether W and b are themselves results of floating-point operations (a mean's 1 / n).
    """

    w: np.ndarray
    seen: np.ndarray
    b: np.ndarray
    shape: tuple
    tf32: bool = True
    derived: bool = False


class Entries:
    """A matrix between two shapes that is filled entry by entry."""

    def __init__(self, source, out):
        self.source, self.out = tuple(source), tuple(out)
        self.w = np.zeros((*self.source, *self.out))
        self.seen = np.zeros((*self.source, *self.out), bool)

    def connect(self, source, out, weight):
        self.w[(*source, *out)] += weight
        self.seen[(*source, *out)] = True

    def matrix(self, bias=None, **facts):
        size = int(np.prod(self.source)), int(np.prod(self.out))
        b = np.zeros(self.out) if bias is None else np.broadcast_to(np.float64(bias), self.out)
        return Matrix(self.w.reshape(size), self.seen.reshape(size), b.ravel().copy(), self.out, **facts)


def dense(shape, kernel, bias=None):
    entries = Entries(shape, (*shape[:-1], kernel.shape[1]))
    for row in itertools.product(*(range(n) for n in shape[:-1])):
        for i, j in np.ndindex(kernel.shape):
            entries.connect((*row, i), (*row, j), kernel[i, j])
    return entries.matrix(bias)


def conv(shape, kernel, bias=None, strides=1, padding="valid", dilation=1, groups=1):
    """kernel: (spatial…, in / groups, out)"""
    depth, width = kernel.shape[-2], kernel.shape[-1] // groups
    windows, sizes = all_windows(shape[:-1], kernel.shape[:-2], strides, dilation, padding)
    entries = Entries(shape, (*sizes, width * groups))
    for q, taps in windows.items():
        for tap, p in taps.items():
            for group in range(groups):
                for i, j in np.ndindex(depth, width):
                    source, out = group * depth + i, group * width + j
                    entries.connect((*p, source), (*q, out), kernel[(*tap, i, out)])
    return entries.matrix(bias)


def conv_transpose(shape, kernel, bias=None, strides=1, padding="valid", output_padding=None, dilation=1, groups=1):
    """kernel: (spatial…, out / groups, in). Input p and tap t make output p · stride + t · dilation, less a trim."""
    *size, width, channels = kernel.shape
    rank, depth = len(size), channels // groups
    strides, dilation = per_axis(strides, rank), per_axis(dilation, rank)
    extra = None if output_padding is None else per_axis(output_padding, rank)
    sizes, trims = [], []
    for axis in range(rank):
        n, k, s, d = shape[axis], size[axis], strides[axis], dilation[axis]
        reach = (k - 1) * d + 1
        full = (n - 1) * s + reach
        if padding == "valid":
            sizes.append(max(full, n * s) if extra is None else full + extra[axis])
            trims.append(0)
        elif padding == "same":  # the input is what a convolution with padding "same" makes of the output
            sizes.append(n * s if extra is None else full - 2 * (reach // 2) + extra[axis])
            trims.append(max(full - sizes[-1], 0) // 2)
        else:
            before, after = pairs_of(padding, rank)[axis]
            sizes.append(full - before - after + (0 if extra is None else extra[axis]))
            trims.append(before)
    entries = Entries(shape, (*sizes, width * groups))
    for p in itertools.product(*(range(n) for n in shape[:-1])):
        for tap in itertools.product(*(range(k) for k in size)):
            q = tuple(p[i] * strides[i] + tap[i] * dilation[i] - trims[i] for i in range(rank))
            if all(0 <= q[i] < sizes[i] for i in range(rank)):
                for group in range(groups):
                    for j, i in np.ndindex(width, depth):
                        source, out = group * depth + i, group * width + j
                        entries.connect((*p, source), (*q, out), kernel[(*tap, j, source)])
    return entries.matrix(bias)


def depthwise_conv(shape, kernel, bias=None, strides=1, padding="valid", dilation=1):
    """kernel: (spatial…, in, multiplier)"""
    channels, multiplier = kernel.shape[-2:]
    windows, sizes = all_windows(shape[:-1], kernel.shape[:-2], strides, dilation, padding)
    entries = Entries(shape, (*sizes, channels * multiplier))
    for q, taps in windows.items():
        for tap, p in taps.items():
            for c, j in np.ndindex(channels, multiplier):
                entries.connect((*p, c), (*q, c * multiplier + j), kernel[(*tap, c, j)])
    return entries.matrix(bias)


def locally_connected(shape, kernel, bias=None, size=1, strides=1, padding="valid"):
    """kernel: (positions, taps · in, out), positions and taps in row-major order"""
    size = per_axis(size, rank_of(size))
    windows, sizes = all_windows(shape[:-1], size, strides, 1, padding)
    entries = Entries(shape, (*sizes, kernel.shape[-1]))
    for position, (q, taps) in enumerate(windows.items()):
        for tap, p in taps.items():
            number = int(np.ravel_multi_index(tap, size))
            for i, j in np.ndindex(shape[-1], kernel.shape[-1]):
                entries.connect((*p, i), (*q, j), kernel[position, number * shape[-1] + i, j])
    return entries.matrix(bias)


def average_of(shape, sizes, windows, count=None):
    """Means over windows {output position: input positions}; count: what to divide by, if not by their number."""
    entries = Entries(shape, (*sizes, shape[-1]))
    for q, positions in windows.items():
        for p in positions:
            for c in range(shape[-1]):
                entries.connect((*p, c), (*q, c), 1 / (count or len(positions)))
    return entries.matrix(tf32=False, derived=True)


def average_pool(shape, size, strides=None, padding="valid", dilation=1, count_include_pad=False):
    size = per_axis(size, rank_of(size))
    windows, sizes = all_windows(shape[:-1], size, size if strides is None else strides, dilation, padding)
    count = int(np.prod(size)) if count_include_pad else None
    return average_of(shape, sizes, {q: list(taps.values()) for q, taps in windows.items()}, count)


def adaptive_average_pool(shape, size):
    """Window i of n values into m: from floor(i n / m) to ceil((i + 1) n / m)"""
    spatial = shape[:-1]
    sizes = [n if m is None else m for n, m in zip(spatial, per_axis(size, len(spatial)), strict=True)]
    windows = {}
    for q in itertools.product(*(range(m) for m in sizes)):
        axes = [range(i * n // m, -(-(i + 1) * n // m)) for i, n, m in zip(q, spatial, sizes, strict=True)]
        windows[q] = list(itertools.product(*axes))
    return average_of(shape, sizes, windows)


def global_average_pool(shape, keepdims=False):
    everywhere = list(itertools.product(*(range(n) for n in shape[:-1])))
    ones = (1,) * (len(shape) - 1)
    matrix = average_of(shape, ones, {(0,) * len(ones): everywhere})
    return matrix._replace(shape=(*ones, shape[-1]) if keepdims else shape[-1:])


def up_sample_bilinear(shape, size, interpolation="bilinear"):
    """Output i lies at (i + ½) / factor − ½ between two values; beyond the outer ones, on them."""
    spatial = shape[:-1]
    factors = per_axis(size, len(spatial))
    entries = Entries(shape, (*(n * k for n, k in zip(spatial, factors, strict=True)), shape[-1]))
    for q in itertools.product(*(range(n) for n in entries.out[:-1])):
        axes = []
        for i, n, k in zip(q, spatial, factors, strict=True):
            at = min(max((i + 0.5) / k - 0.5, 0.0), n - 1.0)
            axes.append([(p, 1 - abs(p - at)) for p in range(n) if abs(p - at) < 1])
        for corner in itertools.product(*axes):
            weight = np.prod([share for _, share in corner])
            for c in range(shape[-1]):
                entries.connect((*(p for p, _ in corner), c), (*q, c), weight)
    return entries.matrix(tf32=False, derived=True)


def interpolate(shape, matrices):
    """Every output sees the values that each axis' matrix has a weight for, by the product of the weights."""
    matrices = [np.eye(n) if m is None else np.float64(m) for n, m in zip(shape, matrices, strict=False)]
    entries = Entries(shape, (*(len(m) for m in matrices), shape[-1]))
    for q in np.ndindex(*entries.out):
        rows = [m[j] for m, j in zip(matrices, q, strict=False)]
        for p in itertools.product(*(np.flatnonzero(row) for row in rows)):
            weight = np.prod([row[i] for row, i in zip(rows, p, strict=True)])
            entries.connect((*(int(i) for i in p), q[-1]), q, weight)
    return entries.matrix(tf32=False, derived=True)


def batch_norm(shape, mean, variance, gamma=None, beta=None, epsilon=1e-3):
    scale = (1 if gamma is None else np.float64(gamma)) / np.sqrt(np.float64(variance) + epsilon)
    entries = Entries(shape, shape)
    for at in np.ndindex(*shape):
        entries.connect(at, at, scale[at[-1]])
    offset = (0 if beta is None else np.float64(beta)) - mean * scale
    return entries.matrix(offset, tf32=False, derived=True)


def stretched(shape, out):
    """For every value of the output, which value of a smaller input is there, as NumPy stretches it."""
    return np.broadcast_to(np.arange(int(np.prod(shape))).reshape(shape), out).ravel()


def weighted_sum(shapes, weights, **facts):
    """Sums of several inputs, of which small ones are stretched: one matrix for all inputs, one after the other."""
    out = np.broadcast_shapes(*shapes)
    sizes = [int(np.prod(s)) for s in shapes]
    entries = Entries((sum(sizes),), (int(np.prod(out)),))
    for k, shape in enumerate(shapes):
        for j, i in enumerate(stretched(shape, out)):
            entries.connect((sum(sizes[:k]) + int(i),), (j,), weights[k])
    return entries.matrix(tf32=False, **facts)._replace(shape=out)


LINEAR = {
    "Dense": dense,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DepthwiseConv": depthwise_conv,
    "LocallyConnected": locally_connected,
    "AveragePool": average_pool,
    "AdaptiveAveragePool": adaptive_average_pool,
    "GlobalAveragePool": global_average_pool,
    "UpSample": up_sample_bilinear,
    "Interpolate": interpolate,
    "BatchNorm": batch_norm,
    "Add": lambda *shapes: weighted_sum(shapes, [1.0] * len(shapes)),
    "Subtract": lambda *shapes: weighted_sum(shapes, [1.0, -1.0]),
    "Average": lambda *shapes: weighted_sum(shapes, [1 / len(shapes)] * len(shapes), derived=True),
}

WEIGHTED = ("Dense", "Conv", "ConvTranspose", "DepthwiseConv", "LocallyConnected")


# Layers that move values or select them: each output is one of the inputs' values, or 0.


def routed(kind, shapes, x, parameters):
    """Which input each output value is, −1 for the zeros of padding, with its shape; x decides where one is selected.

    Several inputs are numbered one after the other. The first of equals wins. Each sample of x has a row of its own.
    """
    shape = shapes[0]
    positions = np.arange(int(np.prod(shape))).reshape(shape)
    if kind == "Flatten":
        index = positions.ravel()
    elif kind == "Reshape":
        index = positions.reshape(parameters["shape"])
    elif kind == "Permute":
        index = positions.transpose(parameters["axes"])
    elif kind == "RepeatVector":
        index = np.stack([positions] * parameters["count"])
    elif kind in ("ZeroPad", "ReflectPad", "Crop"):
        index = shifted(kind, positions, parameters["pairs"])
    elif kind == "Take":
        index = positions
        for axis, places in enumerate(parameters["places"]):
            index = index if places is None else np.stack([np.take(index, p, axis) for p in places], axis)
    elif kind == "UpSample":
        index = positions
        for axis, k in enumerate(per_axis(parameters["size"], len(shape) - 1)):
            index = np.repeat(index, k, axis)
    elif kind in ("MaxPool", "GlobalMaxPool"):
        index = winners(kind, positions, x, **parameters)
        return index.reshape(*x.shape[:-1], -1), index.shape[x.ndim - 1 :]
    elif kind == "Where":
        out = np.broadcast_shapes(*shapes)
        first = np.cumsum([0] + [int(np.prod(s)) for s in shapes])
        condition, a, b = (first[k] + stretched(s, out) for k, s in enumerate(shapes))
        c = x[..., condition]
        return np.where(c >= 0 if parameters.get("or_equal") else c > 0, a, b), out
    elif kind in ("Concat", "Maximum", "Minimum"):
        first = np.cumsum([0] + [int(np.prod(s)) for s in shapes])
        if kind == "Concat":
            every = [first[k] + np.arange(int(np.prod(s))).reshape(s) for k, s in enumerate(shapes)]
            index = np.concatenate(every, parameters.get("axis", -1))
        else:
            out = np.broadcast_shapes(*shapes)
            candidates = np.array([first[k] + stretched(s, out) for k, s in enumerate(shapes)])
            sign = 1 if kind == "Maximum" else -1
            return np.stack([largest_of(c, sign * x) for c in candidates.T], -1), out
    return np.broadcast_to(index.ravel(), (*x.shape[:-1], index.size)), index.shape


def largest_of(places, x):
    """Which of some places has each sample's largest value; the first of equals."""
    return np.asarray(places)[x[..., places].argmax(-1)]


def shifted(kind, positions, pairs):
    """Edges added to the spatial axes or cut off."""
    rank = positions.ndim - 1
    pairs = pairs_of(pairs, rank)
    sign = -1 if kind == "Crop" else 1
    sizes = [n + sign * (a + b) for n, (a, b) in zip(positions.shape, pairs, strict=False)]
    index = np.full((*sizes, positions.shape[-1]), -1)
    for q in itertools.product(*(range(n) for n in sizes)):
        p = [i - sign * before for i, (before, _) in zip(q, pairs, strict=True)]
        if kind == "ReflectPad":
            p = [-i if i < 0 else 2 * (n - 1) - i if i >= n else i for i, n in zip(p, positions.shape, strict=False)]
        if all(0 <= i < n for i, n in zip(p, positions.shape, strict=False)):
            index[q] = positions[tuple(p)]
    return index


def winners(kind, positions, x, size=None, strides=None, padding="valid", dilation=1, keepdims=False):
    """The largest value of each window and channel, for every sample of x."""
    spatial, channels = positions.shape[:-1], positions.shape[-1]
    if kind == "GlobalMaxPool":
        windows, sizes = all_windows(spatial, spatial, 1, 1, "valid")
    else:
        size = per_axis(size, rank_of(size))
        windows, sizes = all_windows(spatial, size, size if strides is None else strides, dilation, padding)
    index = np.zeros((*x.shape[:-1], *sizes, channels), int)
    for q, taps in windows.items():
        for c in range(channels):
            index[(..., *q, c)] = largest_of([positions[(*p, c)] for p in taps.values()], x)
    return index.reshape(*x.shape[:-1], channels) if kind == "GlobalMaxPool" and not keepdims else index


ROUTING = (
    *("Flatten", "Reshape", "Permute", "RepeatVector", "ZeroPad", "ReflectPad", "Crop", "Take", "UpSample"),
    *("Concat", "MaxPool", "GlobalMaxPool", "Maximum", "Minimum", "Where"),
)


def proportional(rule):
    """The stabilizer of a rule that shares in proportion, None for any other."""
    name, parameters = rule
    if name in ("zero", "norm", "detached", "split"):
        return parameters.get("stabilizer", (1e-9 if name == "zero" else 1e-6, oracle.SIGN))
    return (parameters.get("epsilon", 1e-6), oracle.SIGN) if name == "epsilon" else None


def divided(ar, ledger, r, y, stabilizer):
    """s = R / stabilized(y), and the books of it."""
    s = ar.off(r / ar.off(stabilized(y, stabilizer)))
    ledger.stabilizer += np.where(y != 0, s * (stabilized(y, stabilizer) - y), 0).sum(-1)
    ledger.lost += np.where(y == 0, r, 0).sum(-1)
    ledger.absolute += np.abs(s * y).sum(-1) + np.abs(r).sum(-1)
    return s


def route_back(ar, ledger, rule, index, size, y, r):
    """To where the values came from. In proportion: R · y / stabilized(y) first, as captum's max pooling has it."""
    if proportional(rule):
        r = ar.off(divided(ar, ledger, r, y, proportional(rule)) * y)
    else:
        ledger.lost += np.where(index < 0, r, 0).sum(-1)
        ledger.absolute += np.abs(r).sum(-1)
    return ar.total((index[..., None, :] == np.arange(size)[:, None]) * r[..., None, :], -1)


# The logarithm of a sum of exponentials.


def log_sum_exp(shape, x, keepdims=False, ar=EXACT):
    """log Σ exp(x) of each channel over all positions, and the values in columns."""
    columns = x.reshape(*x.shape[:-1], -1, shape[-1])
    largest = columns.max(-2)
    logarithm = ar.off(np.log(np.exp(ar.off(columns - largest[..., None, :])).sum(-2)), 4)
    return ar.off(largest + logarithm), columns, (1,) * (len(shape) - 1) * keepdims + shape[-1:]


def log_sum_exp_back(ar, ledger, shape, x, r):
    """R_i = exp(x_i) / Σ exp(x) · R."""
    _, columns, _ = log_sum_exp(shape, x)
    powers = np.exp(ar.off(columns - columns.max(-2, keepdims=True)))
    back = ar.off(ar.off(powers / powers.sum(-2, keepdims=True), 4) * r[..., None, :]).reshape(x.shape)
    ledger.absolute += np.abs(back).sum(-1)
    return back


# Products.


def dot_factors(shapes, parts, axes=-1, normalize=False, ar=EXACT):
    """a (…, m, k) and b (…, n, k), each row's position in its input, and the output's shape."""
    rows, where, free = [], [], []
    for shape, x, axis in zip(shapes, parts, per_axis(axes, 2), strict=True):
        axis %= len(shape)
        positions = np.moveaxis(np.arange(x.shape[-1]).reshape(shape), axis, -1).reshape(-1, shape[axis])
        values = x[..., positions]
        if normalize:
            length = np.sqrt((values**2).sum(-1, keepdims=True) + 1e-12)
            values = ar.off(values / length, 3)
        rows.append(values)
        where.append(positions)
        free += [n for i, n in enumerate(shape) if i != axis]
    return rows, where, tuple(free) or (1,)


def dot_back(ar, ledger, rule, shapes, parts, r, parameters):
    (a, b), where, _ = dot_factors(shapes, parts, ar=ar, **parameters)
    products = a[..., :, None, :] * b[..., None, :, :]  # (…, m, n, k)
    matrix = r.reshape(products.shape[:-1])
    if rule[0] == "gradient":
        results = (
            ar.total(matrix[..., None] * b[..., None, :, :], -2),
            ar.total(matrix[..., None] * a[..., :, None, :], -3),
        )
        ledger.lost += r.sum(-1) - sum(result.sum((-2, -1)) for result in results)
    else:
        z = ar.total(products, -1).reshape(r.shape)
        s = divided(ar, ledger, r, z, proportional(rule)).reshape(matrix.shape)[..., None]
        sides = oracle_attention.sides(rule, 2)
        c = [k in sides and 1 / len(sides) for k in (0, 1)]
        results = (
            ar.off(c[0] * a * ar.total(s * b[..., None, :, :], -2)),
            ar.off(c[1] * b * ar.total(s * a[..., :, None, :], -3)),
        )
    back = []
    for x, positions, result in zip(parts, where, results, strict=True):
        out = np.zeros_like(x)
        out[..., positions] = result
        back.append(out)
    return np.concatenate(back, -1)


def multiply_back(ar, ledger, rule, shapes, parts, r):
    """Equal shares, or the derivative; a stretched factor gets the sum of what its copies get."""
    out = np.broadcast_shapes(*shapes)
    index = [stretched(s, out) for s in shapes]
    back = []
    to = rule[1].get("to")
    if to in ("prop", "abs"):
        values = [np.abs(x[..., i]) if to == "abs" else x[..., i] for x, i in zip(parts, index, strict=True)]
        s = divided(ar, ledger, r, ar.total(np.stack(values, -1), -1), proportional(rule))
    for k, x in enumerate(parts):
        if to in ("prop", "abs"):
            each = ar.off(s * values[k])
        elif rule[0] == "gradient":
            others = [parts[i][..., index[i]] for i in range(len(parts)) if i != k]
            each = ar.off(r * np.prod(others, axis=0), len(parts)) if others else r
        elif k in oracle_attention.sides(rule, len(parts)):
            each = ar.off(r * (1 / len(oracle_attention.sides(rule, len(parts)))), 2)
        else:
            each = np.zeros_like(r)
        back.append(ar.total((index[k] == np.arange(x.shape[-1])[:, None]) * each[..., None, :], -1))
    back = np.concatenate(back, -1)
    if to not in ("prop", "abs"):
        ledger.lost += r.sum(-1) - back.sum(-1)
    ledger.absolute += np.abs(back).sum(-1)
    return back


# Normalization by a sample's own statistics.


def sample_norm(kind, shape, x, gamma=None, beta=None, epsilon=1e-3, axes=1, ar=EXACT):
    """y = gamma (x − mean) / σ + beta over the last axes: centred (…, rows, columns), σ, gamma, beta and y alike."""
    columns = int(np.prod(shape[len(shape) - axes :]))
    rows = x.reshape(*x.shape[:-1], -1, columns)
    gamma = np.ones(columns) if gamma is None else np.float64(gamma).ravel()
    beta = np.zeros(columns) if beta is None else np.float64(beta).ravel()
    mean = rows.mean(-1, keepdims=True) if kind == "LayerNorm" else 0.0
    centred = rows - mean
    sigma = np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return centred, sigma, gamma, beta, ar.off(gamma * ar.off(centred / sigma, 2) + beta)


def sample_norm_back(ar, ledger, rule, kind, shape, x, r, parameters):
    """R_i = x_i Σ_j ∂y_j/∂x_i R_j / stabilized(y_j); detached: σ is a constant."""
    centred, sigma, gamma, beta, y = sample_norm(kind, shape, x, ar=ar, **parameters)
    columns = centred.shape[-1]
    if rule[0] == "gradient":  # R_i = Σ_j ∂y_j/∂x_i R_j
        s, rows, beta = r.reshape(y.shape), np.ones(y.shape), 0.0
    else:
        s = divided(ar, ledger, r, y.reshape(r.shape), proportional(rule)).reshape(y.shape)
        rows = x.reshape(y.shape)
    jacobian = np.eye(columns) - (1 / columns if kind == "LayerNorm" else 0)  # rows j, columns i
    if rule[0] != "detached":
        outer = centred[..., :, None] * centred[..., None, :]
        jacobian = jacobian - outer / columns / sigma[..., None] ** 2
    jacobian = ar.off(gamma[:, None] * jacobian / sigma[..., None], 3)
    back = ar.off(rows * ar.total(jacobian * s[..., None], -2)).reshape(x.shape)
    ledger.bias += (s * beta).sum((-2, -1))
    ledger.absolute += np.abs(rows * (np.abs(jacobian) * np.abs(s)[..., None]).sum(-2)).sum((-2, -1))
    if rule[0] != "detached":
        ledger.lost = r.sum(-1) - back.sum(-1) - ledger.bias - ledger.stabilizer
    return back


def local_response_norm(shape, x, size, alpha=1e-4, beta=0.75, k=1.0):
    rows = x.reshape(-1, shape[-1])
    y = np.empty_like(rows)
    for c in range(shape[-1]):
        around = [i for i in range(c - size // 2, c + (size - 1) // 2 + 1) if 0 <= i < shape[-1]]
        y[:, c] = rows[:, c] / (k + alpha / size * (rows[:, around] ** 2).sum(1)) ** beta
    return y.reshape(x.shape)


# Activations backwards.


def slope(function, x, **parameters):
    """f'(x), at a kink that of the left side."""
    s = oracle.sigmoid
    if function == "relu":
        p = {"max_value": None, "negative_slope": 0.0, "threshold": 0.0, **parameters}
        inside = np.where(x > p["threshold"], 1.0, p["negative_slope"])
        return inside if p["max_value"] is None else np.where(x > p["max_value"], 0.0, inside)
    if function in ("leaky_relu", "prelu"):
        return np.where(x > 0, 1.0, parameters.get("negative_slope", 0.2))
    if function == "elu":
        return np.where(x > 0, 1.0, parameters.get("alpha", 1.0) * np.exp(np.minimum(x, 0)))
    if function == "selu":
        return 1.0507009873554805 * slope("elu", x, alpha=1.6732632423543772)
    if function == "hard_sigmoid":
        k, offset = parameters.get("slope", 0.2), parameters.get("offset", 0.5)
        return np.where((k * x + offset > 0) & (k * x + offset <= 1), k, 0.0)
    if function == "clip":
        return np.where((x > parameters.get("low", -np.inf)) & (x <= parameters.get("high", np.inf)), 1.0, 0.0)
    if function == "celu":
        return slope("elu", x / parameters.get("alpha", 1.0))
    if function == "shrink":
        t = parameters.get("threshold", 0.5)
        return np.where((x > -t) & (x <= t), 0.0, 1.0)
    if function == "power":
        return parameters["exponent"] * x ** (parameters["exponent"] - 1)
    if function == "hard_silu":
        return np.where(x > 3, 1.0, np.where(x > -3, x / 3 + 0.5, 0.0))
    if function == "gelu" and parameters.get("approximate"):
        c = 2 * np.sqrt(2 / np.pi)
        g = s(c * (x + 0.044715 * x**3))
        return g + x * g * (1 - g) * c * (1 + 3 * 0.044715 * x**2)
    if function == "gelu":
        return oracle.gelu_share(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    if function == "mish":
        t = np.tanh(oracle.softplus(x))
        return t + x * (1 - t**2) * s(x)
    return {
        "silu": lambda: s(x) * (1 + x * s(-x)),
        "tanh": lambda: 1 / np.cosh(x) ** 2,
        "sigmoid": lambda: s(x) * s(-x),
        "softplus": lambda: s(x),
        "softsign": lambda: 1 / (1 + np.abs(x)) ** 2,
        "exponential": lambda: np.exp(x),
        "log_sigmoid": lambda: s(-x),
        "log": lambda: 1 / x,
        "linear": lambda: np.ones_like(x),
    }[function]()


def activation_back(ar, ledger, rule, function, shape, x, r, parameters):
    name = rule[0]
    if name == "pass":
        return r
    if function in oracle.OF_ROWS:
        x, rows = (a.reshape(*a.shape[:-1], -1, shape[-1]) for a in (x, r))
        s = ar.off(oracle.softmax(ar.off(x)), 4)
        if name == "taylor":
            back = ar.off(x * ar.off(rows - ar.off(s * ar.total(rows, -1)[..., None])))
        elif function == "log_softmax":
            back = ar.off(rows - ar.off(s * ar.total(rows, -1)[..., None]))
        else:
            back = ar.off(s * ar.off(rows - ar.total(s * rows, -1)[..., None]))
        back = back.reshape(r.shape)
    else:
        back = ar.off(r * ar.off(slope(function, ar.off(x), **parameters), 4))
    ledger.lost += r.sum(-1) - back.sum(-1)
    ledger.absolute += np.abs(r).sum(-1) + np.abs(back).sum(-1)
    return back


#: What `oracle_attention` has.
FORWARD = {
    "MatMul": oracle_attention.matmul,
    "Softmax": oracle_attention.softmax,
    "Rotary": oracle_attention.rotary,
    "Attention": oracle_attention.attention,
}
BACKWARD = {
    "MatMul": oracle_attention.matmul_back,
    "Softmax": oracle_attention.softmax_back,
    "Attention": oracle_attention.attention_back,
}

#: Last activations that relevance does not start behind.
FINAL = (*oracle.OF_ROWS, "sigmoid")


# One layer.


class Layer(NamedTuple):
    """A kind of layer by its name in ``lrpfast.layers``, with its parameters; Conv and the like with an activation.

    An activation is a name, or a name with its parameters.
    """

    kind: str
    parameters: dict = {}
    derived: bool = False  # as of `Matrix`: weights that batch normalization was folded into

    @property
    def own(self):
        """The parameters without the activation."""
        return {k: v for k, v in self.parameters.items() if k != "activation" and v is not None}

    @property
    def activation(self):
        """(function, parameters)"""
        if self.kind == "Activation":
            return self.parameters["function"], self.parameters.get("parameters", {})
        given = self.parameters.get("activation")
        return (given, {}) if given is None or isinstance(given, str) else given

    @property
    def linear(self):
        return self.kind in LINEAR and not (
            self.kind == "UpSample" and self.parameters.get("interpolation", "nearest") == "nearest"
        )


_MATRICES = {}


def matrix_of(layer, shapes):
    """A linear layer's matrix for inputs of some shapes; made once."""
    key = (id(layer.parameters), layer.kind, *shapes)
    if key not in _MATRICES:
        own = {k: np.float64(v) if isinstance(v, np.ndarray) else v for k, v in layer.own.items()}
        matrix = LINEAR[layer.kind](*shapes, **own)
        # with the layer, so that its id stays taken
        _MATRICES[key] = (matrix._replace(derived=matrix.derived or layer.derived), layer)
    return _MATRICES[key][0]


def default_rule(layer):
    """What a layer has that no rule speaks of; layers with weights and batch normalization have none."""
    if layer.linear:
        return ("norm", {})
    if layer.kind in ("Multiply", "Dot", "MatMul"):
        return ("split", {})
    if layer.kind in ("Attention", "Rotary", "Softmax"):
        return {"Attention": ("attn", {}), "Rotary": ("norm", {}), "Softmax": ("taylor", {})}[layer.kind]
    if layer.kind in ("LayerNorm", "RMSNorm"):
        return ("detached", {})
    return ("taylor", {}) if layer.activation[0] == "softmax" else ("pass", {})


def operands(ar, matrix, x):
    """The arithmetic of a matrix, and W and b as that arithmetic has them, b for each sample of x."""
    ar = ar if matrix.tf32 else ar.whole()
    b = np.broadcast_to(matrix.b, (*x.shape[:-1], len(matrix.b)))
    return (ar, ar.off_each(matrix.w, x), ar.off(b)) if matrix.derived else (ar, matrix.w, b)


def apply(layer, shapes, parts, ar=EXACT):
    """Value and shape of a layer's output before its activation, for the values of its inputs."""
    shape, x = shapes[0], parts[0]
    if layer.linear:
        matrix = matrix_of(layer, shapes)
        joined = np.concatenate(parts, -1)
        ar, w, b = operands(ar, matrix, joined)
        return ar.off(ar.total(ar.operand(joined)[..., None] * ar.operand(w), -2, split=True) + b), matrix.shape
    if layer.kind in ROUTING:
        joined = np.concatenate(parts, -1)
        index, out = routed(layer.kind, shapes, joined, layer.own)
        return np.where(index >= 0, np.take_along_axis(joined, np.maximum(index, 0), -1), 0), out
    if layer.kind == "Embedding":
        rows = np.float64(layer.parameters["table"])[x.astype(int)]
        return rows.reshape(*x.shape[:-1], -1), (*shape, rows.shape[-1])
    if layer.kind == "Multiply":
        out = np.broadcast_shapes(*shapes)
        factors = [p[..., stretched(s, out)] for p, s in zip(parts, shapes, strict=True)]
        return ar.off(np.prod(factors, axis=0), len(parts)), out
    if layer.kind == "Dot":
        (a, b), _, out = dot_factors(shapes, parts, ar=ar, **layer.own)
        return ar.total(a[..., :, None, :] * b[..., None, :, :], -1).reshape(*x.shape[:-1], -1), out
    if layer.kind in ("LayerNorm", "RMSNorm"):
        return sample_norm(layer.kind, shape, x, ar=ar, **layer.own)[-1].reshape(x.shape), shape
    if layer.kind == "LocalResponseNorm":
        return ar.off(local_response_norm(shape, x, **layer.own), 4), shape
    if layer.kind == "GlobalLogSumExp":
        y, _, out = log_sum_exp(shape, x, ar=ar, **layer.own)
        return y, out
    if layer.kind in FORWARD:
        return FORWARD[layer.kind](shapes, parts, layer.own, ar)
    if layer.kind in ("Activation", "Identity"):
        return x, shape
    raise NotImplementedError(layer.kind)


def activate(layer, shape, z, ar=EXACT):
    """The activation of a layer, if it has one: its argument may be off by one unit, its value by a few."""
    function, parameters = layer.activation
    if function in (None, "linear"):
        return z
    parameters = {k: np.broadcast_to(v, shape).ravel() if np.ndim(v) else v for k, v in parameters.items()}
    rows = ar.off(z).reshape(-1, shape[-1]) if function in oracle.OF_ROWS else ar.off(z)
    return ar.off(oracle.ACTIVATIONS[function](rows, **parameters), 4).reshape(z.shape)


def hand_back(layer, rule, shapes, parts, y, r, ledger, ar=EXACT):
    """Relevance of all inputs, one after the other, for the relevance r of the output y before the activation."""
    name, parameters = rule
    joined = np.concatenate(parts, -1)
    if layer.linear:
        if name == "pass":
            return r
        matrix = matrix_of(layer, shapes)
        ar, w, b = operands(ar, matrix, joined)
        if name == "z_box":  # bounds fit every input, or are stretched to it
            parameters = dict(parameters)
            for key in ("low", "high"):
                bounds = (np.broadcast_to(np.float64(parameters[key]), shape).ravel() for shape in shapes)
                parameters[key] = np.concatenate(list(bounds))
        return oracle.RULES[name](ar, ledger, joined, w, b, r, matrix.seen, **parameters)
    if layer.kind in ROUTING:
        index, _ = routed(layer.kind, shapes, joined, layer.own)
        return route_back(ar, ledger, rule, index, joined.shape[-1], y, r)
    if layer.kind == "GlobalLogSumExp":
        return log_sum_exp_back(ar, ledger, shapes[0], joined, r)
    if layer.kind == "Embedding":
        width = layer.parameters["table"].shape[1]
        index = np.broadcast_to(np.repeat(np.arange(joined.shape[-1]), width), r.shape)
        return route_back(ar, ledger, rule, index, joined.shape[-1], y, r)
    if layer.kind == "Multiply":
        return multiply_back(ar, ledger, rule, shapes, parts, r)
    if layer.kind == "Dot":
        return dot_back(ar, ledger, rule, shapes, parts, r, layer.own)
    if layer.kind == "Rotary" and name != "pass":
        stabilizer = None if name == "gradient" else proportional(rule)
        return oracle_attention.rotary_back(ar, ledger, rule, shapes, parts, r, layer.own, stabilizer)
    if layer.kind in BACKWARD:
        return BACKWARD[layer.kind](ar, ledger, rule, shapes, parts, r, layer.own)
    if name == "pass" or layer.kind in ("Activation", "Identity", "LocalResponseNorm", "Rotary"):
        return r
    return sample_norm_back(ar, ledger, rule, layer.kind, shapes[0], joined, r, layer.own)


def hand_back_activation(layer, rule, shape, z, r, ledger, ar=EXACT):
    function, parameters = layer.activation
    if function in (None, "linear"):
        return r
    parameters = {k: np.broadcast_to(v, shape).ravel() if np.ndim(v) else v for k, v in parameters.items()}
    return activation_back(ar, ledger, rule, function, shape, z, r, parameters)


# Graphs.


class Node(NamedTuple):
    layer: Layer
    inputs: tuple = ()


class Record(NamedTuple):
    """One layer's books, of each sample."""

    name: str
    incoming: float
    outgoing: float
    ledger: Ledger


class Run(NamedTuple):
    """All values: of each node before and after its activation, flat, and their shapes."""

    z: list
    y: list
    shapes: list


class Net:
    """Layers in forward order; nodes name the earlier nodes that feed them by index.

    ``Layer("Input", {"shape": …})`` is where data enters. A layer object that stands in two nodes is one layer used
    twice. Without ``outputs`` the last node is the output.
    """

    def __init__(self, nodes, outputs=None):
        self.nodes = [Node(layer, tuple(inputs)) for layer, *inputs in nodes]
        self.inputs = [i for i, node in enumerate(self.nodes) if node.layer.kind == "Input"]
        self.outputs = [len(self.nodes) - 1] if outputs is None else list(outputs)
        self.names = []
        for i, node in enumerate(self.nodes):
            same = [j for j in range(i) if self.nodes[j].layer is node.layer]
            self.names.append(f"n{same[0]}:{len(same)}" if same else f"n{i}")

    def forward(self, xs, ar=EXACT):
        """xs: one sample of each input."""
        return self.values([np.ravel(x) for x in xs], ar)

    def values(self, xs, ar=EXACT):
        """xs: flat vectors of each input."""
        run, given = Run([], [], []), iter(xs)
        for layer, inputs in self.nodes:
            if layer.kind == "Input":
                z, shape = np.float64(next(given)), tuple(layer.parameters["shape"])
            else:
                z, shape = apply(layer, [run.shapes[j] for j in inputs], [run.y[j] for j in inputs], ar)
            run.z.append(z)
            run.shapes.append(tuple(int(n) for n in shape))
            run.y.append(z if layer.kind == "Input" else activate(layer, run.shapes[-1], z, ar))
        return run

    def rules(self, rule=None, own=None):
        """The rule of every node: ``own`` says it by index, ``rule`` is for layers with weights and batch norms."""
        own = own or {}
        chosen = []
        for i, node in enumerate(self.nodes):
            weighted = node.layer.kind in WEIGHTED or node.layer.kind == "BatchNorm"
            chosen.append(own.get(i, rule if weighted else default_rule(node.layer)))
        return chosen

    def backward(self, run, rules, start, ar=EXACT, records=None, at=None, activations=None):
        """Relevance of every node's output, flat, from relevance ``start`` of node ``at``'s output.

        activations: the rule of activation functions that layers have as attributes, by node.
        """
        at = self.outputs[0] if at is None else at
        received = [[] for _ in self.nodes]
        received[at].append(start)
        relevance = [None] * len(self.nodes)
        for i in range(at, -1, -1):
            layer, inputs = self.nodes[i]
            if not received[i]:
                continue
            r = received[i][0] if len(received[i]) == 1 else ar.total(np.array(received[i]), 0)
            relevance[i] = r
            if layer.kind == "Input":
                continue
            shapes, parts = [run.shapes[j] for j in inputs], [run.y[j] for j in inputs]
            rule = rules[i]
            if layer.activation[0] is not None:
                own = rule if layer.kind == "Activation" else (activations or {}).get(i)
                if own is None:
                    own = ("taylor", {}) if layer.activation[0] == "softmax" else ("pass", {})
                if not (i == at and layer.activation[0] in FINAL):  # relevance starts at its input
                    ledger, before = Ledger(), r
                    r = hand_back_activation(layer, own, run.shapes[i], run.z[i], r, ledger, ar)
                    if records is not None and own[0] != "pass":
                        name = self.names[i] + ("" if layer.kind == "Activation" else f"/{layer.activation[0]}")
                        records.append(Record(name, before.sum(-1), r.sum(-1), ledger))
            if layer.kind in ("Activation", "Identity"):
                received[inputs[0]].append(r)
                continue
            ledger = Ledger()
            back = hand_back(layer, rule, shapes, parts, run.z[i], r, ledger, ar)
            if records is not None:
                records.append(Record(self.names[i], r.sum(-1), back.sum(-1), ledger))
            sizes = [p.shape[-1] for p in parts]
            for j, piece in zip(inputs, np.split(back, np.cumsum(sizes)[:-1], -1), strict=True):
                received[j].append(piece)
        return [np.zeros_like(run.y[i]) if r is None else r for i, r in enumerate(relevance)]

    def start(self, run, target, at):
        """Starting relevance at a node: of its value before a final activation of these."""
        final = self.nodes[at].layer.activation[0] in FINAL
        return oracle.starting_relevances(run.z[at] if final else run.y[at], target)

    # Batches. x is an array, or a list of arrays for several inputs, and so is relevance.

    def _flat(self, x):
        return [np.asarray(a, float).reshape(len(a), -1) for a in (x if isinstance(x, list) else [x])]

    def _in_pieces(self, compute, x, ar):
        """compute(slice of the samples, each input's values, arithmetic) of all samples of x, put together."""
        xs = self._flat(x)
        width = [int(np.prod(shape)) for shape in self.values([a[0] for a in xs]).shapes]
        size = max(sum(width[j] for j in node.inputs) * n for node, n in zip(self.nodes, width, strict=True))

        def of(some, ar):
            return compute(some, [ar.repeated(a[some]) for a in xs], ar)

        return oracle.in_pieces(of, len(xs[0]), max(size, 1), ar)

    def predict(self, x, ar=EXACT, output=0):
        at = self.outputs[output]

        def compute(some, xs, ar):
            run = self.values(xs, ar)
            return run.y[at].reshape(*run.y[at].shape[:-1], *run.shapes[at])

        return self._in_pieces(compute, x, ar)

    def explain(self, rules, x, target="max", ar=EXACT, output=0, at=None, activations=None, of=None):
        """Relevance of the inputs, side by side and flat: (samples, features of all inputs).

        target: one for all samples, or a list with one for each. of: the node whose output's relevance is asked for.
        """
        at = self.outputs[output] if at is None else at

        def compute(some, xs, ar):
            run = self.values(xs, ar)
            start = self.start(run, target[some] if isinstance(target, list) else target, at)
            relevance = self.backward(run, rules, start, ar, at=at, activations=activations)
            return np.concatenate([relevance[i] for i in self.inputs], -1) if of is None else relevance[of]

        return self._in_pieces(compute, x, ar)

    def books(self, rules, x, target="max", activations=None):
        """The records of all layers, from the output down."""
        run, records, at = self.values(self._flat(x)), [], self.outputs[0]
        self.backward(run, rules, self.start(run, target, at), records=records, activations=activations)
        return records


def chain(shape, *layers):
    """A net of layers one after the other."""
    nodes: list[tuple[Any, ...]] = [(Layer("Input", {"shape": shape}),)]
    for i, layer in enumerate(layers):
        nodes.append((layer, i))
    return Net(nodes)


def redistribute(rule, layer, x, r, ar=EXACT):
    """One layer alone: relevance of its inputs, side by side and flat, for relevance r of its output."""
    xs = x if isinstance(x, list) else [x]
    inputs = [(Layer("Input", {"shape": a.shape[1:]}),) for a in xs]
    net = Net([*inputs, (layer, *range(len(xs)))])
    r = np.float64(r).reshape(len(r), -1)

    def compute(some, values, ar):
        run = net.values(values, ar)
        relevance = net.backward(run, [None] * len(xs) + [rule], ar.repeated(r[some]), ar)
        return np.concatenate([relevance[i] for i in net.inputs], -1)

    return net._in_pieces(compute, xs, ar)


# Batch normalization folded into its neighbour: what a canonized model computes.


def folded_into_before(layer, norm):
    """A layer with weights and the batch normalization after it, as one layer."""
    p, q = layer.parameters, norm.parameters
    scale = np.float64(q.get("gamma", 1.0)) / np.sqrt(np.float64(q["variance"]) + q.get("epsilon", 1e-3))
    bias = 0.0 if p.get("bias") is None else np.float64(p["bias"])
    kernel = np.float64(p["kernel"])
    if layer.kind == "ConvTranspose":  # (spatial…, out, in)
        kernel = kernel * scale[:, None]
    elif layer.kind == "DepthwiseConv":  # (spatial…, in, multiplier)
        kernel = kernel * scale.reshape(kernel.shape[-2:])
    else:
        kernel = kernel * scale
    bias = (bias - q["mean"]) * scale + np.float64(q.get("beta", 0.0))
    return Layer(layer.kind, {**p, "kernel": kernel, "bias": bias}, derived=True)


def folded_into_after(norm, layer):
    """A batch normalization and the convolution without padding, or the dense layer, after it, as one layer."""
    p, q = layer.parameters, norm.parameters
    scale = np.float64(q.get("gamma", 1.0)) / np.sqrt(np.float64(q["variance"]) + q.get("epsilon", 1e-3))
    shift = np.float64(q.get("beta", 0.0)) - np.float64(q["mean"]) * scale
    kernel = np.float64(p["kernel"])
    bias = 0.0 if p.get("bias") is None else np.float64(p["bias"])
    reached = (kernel * shift[:, None]).reshape(-1, kernel.shape[-1]).sum(0)
    return Layer(layer.kind, {**p, "kernel": kernel * scale[:, None], "bias": bias + reached}, derived=True)
