"""The oracle of attention: explicit matrices of all weights, head by head; as `oracle_layers`, which has the rest."""

import numpy as np

from oracle import EXACT, SIGN, stabilized


def stabilizer_of(rule):
    return rule[1].get("stabilizer", (1e-6, SIGN))


def divided(ar, ledger, r, z, stabilizer):
    """s = R / stabilized(z), and the books of it; all axes but the samples' are of one sample."""
    s = ar.off(r / ar.off(stabilized(z, stabilizer)))
    ledger.stabilizer += np.where(z != 0, s * (stabilized(z, stabilizer) - z), 0).sum(-1)
    ledger.absolute += np.abs(s * z).sum(-1) + np.abs(r).sum(-1)
    return s


# Products of matrices.


def matrices(shapes, parts, transpose_a=False, transpose_b=False):
    """(…, n, k) and (…, k, m), where the values of each lie in its input, and the output's shape."""
    lead = np.broadcast_shapes(shapes[0][:-2], shapes[1][:-2])
    where = []
    for shape, x, swapped in zip(shapes, parts, (transpose_a, transpose_b), strict=True):
        index = np.broadcast_to(np.arange(x.shape[-1]).reshape(shape), (*lead, *shape[-2:]))
        where.append(index.swapaxes(-1, -2) if swapped else index)
    a, b = (x[..., index] for x, index in zip(parts, where, strict=True))
    return a, b, where, (*lead, a.shape[-2], b.shape[-1])


def matmul(shapes, parts, parameters, ar=EXACT):
    a, b, _, out = matrices(shapes, parts, **parameters)
    z = ar.total(a[..., :, :, None] * b[..., None, :, :], -2)
    return z.reshape(*parts[0].shape[:-1], -1), out


def sides(rule, count):
    to = rule[1].get("to", "each")
    return {"each": tuple(range(count)), "first": (0,), "last": (count - 1,)}.get(to, to)


def matmul_back(ar, ledger, rule, shapes, parts, r, parameters):
    a, b, where, out = matrices(shapes, parts, **parameters)
    given = r.reshape(*r.shape[:-1], *out)
    if rule[0] == "gradient":
        shares = [
            ar.total(given[..., :, None, :] * b[..., None, :, :], -1),
            ar.total(a[..., :, :, None] * given[..., :, None, :], -3),
        ]
    else:
        z, _ = matmul(shapes, parts, parameters, ar)
        s = divided(ar, ledger, r, z, stabilizer_of(rule)).reshape(given.shape)
        taking = sides(rule, 2)
        c = [k in taking and 1 / len(taking) for k in (0, 1)]
        shares = [
            ar.off(c[0] * a * ar.total(s[..., :, None, :] * b[..., None, :, :], -1)),
            ar.off(c[1] * b * ar.total(a[..., :, :, None] * s[..., :, None, :], -3)),
        ]
    back = []
    for x, index, share in zip(parts, where, shares, strict=True):
        flat, share = index.ravel(), share.reshape(*share.shape[: r.ndim - 1], -1)
        back.append(ar.total((flat == np.arange(x.shape[-1])[:, None]) * share[..., None, :], -1))
    back = np.concatenate(back, -1)
    ledger.lost += r.sum(-1) - back.sum(-1) - ledger.stabilizer
    return back


# The softmax over keys that are seen.


def seen_keys(shape, mask=None, window=None):
    """Which keys each query of scores (…, n, m) sees."""
    seen = np.ones(shape, bool) if mask is None else np.broadcast_to(mask, shape).copy()
    for i in range(shape[-2] if window else 0):
        for j in range(shape[-1]):
            before, after = window
            if (before is not None and j < i - before) or (after is not None and j > i + after):
                seen[..., i, j] = False
    return seen


def masked_softmax(ar, x, seen):
    """Weights, 0 of what is not seen."""
    there = np.where(seen, x, -np.inf)
    top = there.max(-1, keepdims=True)
    e = np.where(seen, ar.off(np.exp(np.where(seen, ar.off(x - np.where(np.isfinite(top), top, 0)), 0)), 2), 0)
    total = ar.total(e, -1)[..., None]
    return ar.off(np.divide(e, total, out=np.zeros(e.shape), where=total > 0))


def softmax_parts(shapes, parts, parameters):
    x = parts[0].reshape(*parts[0].shape[:-1], *shapes[0])
    seen = seen_keys(shapes[0] if len(shapes[0]) > 1 else (1, *shapes[0]), **parameters).reshape(shapes[0])
    if len(parts) > 1:
        given = parts[1].reshape(*parts[1].shape[:-1], *shapes[1])
        ones = (1,) * (len(shapes[0]) - len(shapes[1]))
        seen = seen & (given.reshape(*parts[1].shape[:-1], *ones, *shapes[1]) != 0)
    return x, seen


def softmax(shapes, parts, parameters, ar=EXACT):
    x, seen = softmax_parts(shapes, parts, parameters)
    return masked_softmax(ar, x, seen).reshape(parts[0].shape), shapes[0]


def softmax_back(ar, ledger, rule, shapes, parts, r, parameters):
    x, seen = softmax_parts(shapes, parts, parameters)
    a, given = masked_softmax(ar, x, seen), np.where(seen, r.reshape(x.shape), 0)
    if rule[0] == "taylor":
        given = ar.off(x * ar.off(given - ar.off(a * ar.total(given, -1)[..., None])))
        given = np.where(seen, given, 0)
    elif rule[0] == "gradient":
        given = ar.off(a * ar.off(given - ar.total(a * given, -1)[..., None]))
    back = given.reshape(r.shape)
    ledger.lost += r.sum(-1) - back.sum(-1)
    rest = [np.zeros_like(part) for part in parts[1:]]
    return np.concatenate([back, *rest], -1)


# Rotary positions: an explicit matrix for each position.


def turns(shape, cos, sin, size, interleaved=False):
    """(n, d, d): y_j = Σ_i x_i M_ij."""
    made = np.zeros((shape[-2], size, size))
    width = cos.shape[1]
    for p in range(shape[-2]):
        made[p] = np.eye(size)
        for c in range(width):
            made[p, c, c] = cos[p, c]
            if interleaved:
                other, sign = (c + 1, -1) if c % 2 == 0 else (c - 1, 1)
            else:
                other, sign = (c + width // 2, -1) if c < width // 2 else (c - width // 2, 1)
            made[p, other, c] += sign * sin[p, c]
    return made


def rotary_terms(shape, x, parameters):
    vectors = x.reshape(*x.shape[:-1], *shape[:-1], -1, parameters["size"])
    matrix = turns(shape, **parameters)[:, None]
    return vectors[..., None] * matrix, matrix


def rotary(shapes, parts, parameters, ar=EXACT):
    terms, _ = rotary_terms(shapes[0], parts[0], parameters)
    return ar.total(ar.off(terms), -2).reshape(parts[0].shape), shapes[0]


def rotary_back(ar, ledger, rule, shapes, parts, r, parameters, stabilizer):
    terms, matrix = rotary_terms(shapes[0], parts[0], parameters)
    if stabilizer is None:  # the derivative: the rotation back
        back = ar.total(ar.off(r.reshape(terms.shape[:-1])[..., None, :] * matrix), -1).reshape(r.shape)
        ledger.lost += r.sum(-1) - back.sum(-1)
        return back
    y, _ = rotary(shapes, parts, parameters, ar)
    s = divided(ar, ledger, r, y, stabilizer).reshape(terms.shape[:-1])
    ledger.lost += np.where(y == 0, r, 0).sum(-1)
    x = parts[0].reshape(terms.shape[:-1])
    return ar.off(x * ar.total(ar.off(s[..., None, :] * matrix), -1)).reshape(r.shape)


# Attention.


class Attention:
    """All that one attention computes, every weight of it; (…, lead, heads, n, m)."""

    def __init__(self, shapes, parts, ar, heads=1, kv_heads=None, scale=None, window=None, mask=None, bias=None,
                 softcap=None):  # fmt: skip
        self.heads, self.shared = heads, heads if kv_heads is None else kv_heads
        self.shapes, self.batch = shapes, parts[0].shape[:-1]
        self.q, k, v = (
            self.split(x, shape, count)
            for x, shape, count in zip(parts, shapes, (heads, self.shared, self.shared), strict=False)
        )
        self.k, self.v = (np.repeat(a, heads // self.shared, -3) for a in (k, v))
        self.bias = 0.0 if bias is None else np.float64(bias)
        self.has_bias = bias is not None
        self.has_mask = mask is not None or window is not None or len(parts) > 3
        self.z = ar.total(self.q[..., :, None, :] * self.k[..., None, :, :], -1)
        scale = 1 / np.sqrt(self.q.shape[-1]) if scale is None else scale
        self.x = ar.off(scale * self.z, 2)
        if softcap is not None:
            self.x = ar.off(softcap * np.tanh(ar.off(self.x / softcap)), 2)
        self.scores = ar.off(self.x + self.bias) if self.has_bias else self.x
        scores = (*shapes[0][:-2], heads, shapes[0][-2], shapes[1][-2])
        seen = seen_keys(scores, mask, window)
        if len(parts) > 3:
            ones = (1,) * (len(scores) - len(shapes[3]))
            seen = seen & (parts[3].reshape(*self.batch, *ones, *shapes[3]) != 0)
        self.seen = np.broadcast_to(seen, self.scores.shape)
        self.a = masked_softmax(ar, self.scores, self.seen)
        self.out = ar.total(self.a[..., None] * self.v[..., None, :, :], -2)

    def split(self, x, shape, heads):
        """Rows as heads: (…, lead, heads, rows, channels)."""
        return np.moveaxis(x.reshape(*self.batch, *shape[:-1], heads, -1), -2, -3)

    def join(self, x):
        return np.moveaxis(x, -3, -2).reshape(*self.batch, -1)


def attention(shapes, parts, parameters, ar=EXACT):
    run = Attention(shapes, parts, ar, **parameters)
    channels = run.v.shape[-1] * run.heads
    return run.join(run.out), (*shapes[0][:-1], channels)


def attention_back(ar, ledger, rule, shapes, parts, r, parameters):
    run = Attention(shapes, parts, ar, **parameters)
    stabilizer = stabilizer_of(rule)
    s = divided(ar, ledger, r, run.join(run.out), stabilizer)
    s = run.split(s, (*shapes[0][:-1], run.v.shape[-1] * run.heads), run.heads)
    of_scores = rule[1].get("scores", stabilizer)
    of_sums = rule[1].get("sums", of_scores)
    half = 1.0 if rule[0] == "cp" else 0.5
    to_v = ar.off(half * run.v * ar.total(run.a[..., None] * s[..., :, None, :], -3))
    to_q, to_k = np.zeros_like(run.q), np.zeros_like(run.k)
    if rule[0] != "cp":
        to_a = ar.off(0.5 * run.a * ar.total(s[..., :, None, :] * run.v[..., None, :, :], -1))
        to_x = ar.off(run.scores * ar.off(to_a - ar.off(run.a * ar.total(to_a, -1)[..., None])))
        to_x = np.where(run.seen, to_x, 0)
        if run.has_mask and rule[1].get("masks", False):  # scores + mask, which is 0 where a key is seen
            to_x = ar.off(run.scores * ar.off(to_x / ar.off(stabilized(run.scores, of_sums))))
        if run.has_bias:
            to_x = ar.off(run.x * ar.off(to_x / ar.off(stabilized(run.scores, of_sums))))
        t = ar.off(to_x / ar.off(stabilized(run.z, of_scores)))
        to_q = ar.off(0.5 * run.q * ar.total(t[..., None] * run.k[..., None, :, :], -2))
        to_k = ar.off(0.5 * run.k * ar.total(t[..., None] * run.q[..., :, None, :], -3))
    groups = run.heads // run.shared
    back = [run.join(to_q)]
    for share in (to_k, to_v):
        copies = share.reshape(*share.shape[:-3], run.shared, groups, *share.shape[-2:])
        back.append(run.join(ar.total(copies, -3)))
    back += [np.zeros_like(part) for part in parts[3:]]
    back = np.concatenate(back, -1)
    ledger.lost += r.sum(-1) - back.sum(-1) - ledger.stabilizer
    ledger.absolute += np.abs(back).sum(-1)
    return back
