"""Operations whose operands all depend on the input: products of two values, and attention; see `ops`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import verify
from .codes import STABILIZERS
from .operation import Operation, light


@light(
    ("a", "b"),
    ("out",),
    verify.check_dot,
    lambda o: {"m": o.m, "n": o.n, "k": o.k, "columns": o.n, "count": o.count},
    overflows=True,
)
@dataclass(frozen=True, eq=False)
class DotOp(Operation):
    """out[m, n] = Σ_k a[m, k] · b[n, k] for each of a sample's ``count`` products, K in order in one accumulator."""

    a: int
    b: int
    out: int
    m: int
    n: int
    k: int
    count: int = 1


@light(
    ("s", "other", "x"),
    ("out",),
    verify.check_dot_back,
    lambda o: {
        "m": o.m,
        "n": o.n,
        "k": o.k,
        "columns": o.k,
        "p": (o.coefficient,),
        "flag": o.transposed,
        "count": o.count,
    },
)
@dataclass(frozen=True, eq=False)
class DotBack(Operation):
    """out[m, k] = coefficient · x[m, k] · Σ_n s[m, n] · other[n, k]; ``transposed``: s has shape (n, m)."""

    x: int
    other: int
    s: int
    out: int
    m: int
    n: int
    k: int
    coefficient: float
    transposed: bool = False
    count: int = 1


@light(
    ("source", "mask"),
    ("out",),
    verify.check_masked_softmax,
    lambda o: {"values": o.seen, "run": 0 if o.seen is None else o.seen.size, "flag": o.mask is not None},
    overflows=True,
)
@dataclass(frozen=True, eq=False)
class MaskedSoftmax(Operation):
    """The softmax along the last ``columns`` values, over those that are seen; 0 elsewhere, or where none is.

    A value is seen where ``mask`` (a buffer) is not 0, and where ``seen``, which is repeated over the sample, is 1.
    """

    source: int
    mask: int | None
    out: int
    columns: int
    seen: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Heads:
    """The shapes of an attention, and what its scores are made with.

    Attributes
    ----------
    lead : int
        Attentions in a sample, one after the other.
    heads, kv_heads : int
    n, m : int
        Queries and keys.
    d, e : int
        Channels of one head of queries and keys, and of values.
    scale, softcap : float
        A softcap of 0 is none.
    before, after : int
        Keys that a query sees; -1 is no limit.
    seen, bias : array or None
        In their own shapes, flat: 1 where a key is seen; what is added to the scores.
    steps : tuple of int
        From an attention, a head, a query and a key to the next in seen, bias and the mask that is a buffer: twelve
        numbers, 0 where it is stretched.
    """

    lead: int
    heads: int
    kv_heads: int
    n: int
    m: int
    d: int
    e: int
    scale: float
    softcap: float
    before: int
    after: int
    seen: np.ndarray | None
    bias: np.ndarray | None
    steps: tuple[int, ...]

    @property
    def work(self) -> int:
        """Multiplications and additions for one product of all queries with all keys, and of weights with values."""
        return 2 * self.lead * self.heads * self.n * self.m * (self.d + self.e)


def _attention(operation: AttentionOp | AttentionBack) -> dict[str, Any]:
    h = operation.shape
    sizes = (h.lead, h.heads, h.kv_heads, h.n, h.m, h.d, h.e, h.before, h.after)
    stabilizers = (getattr(operation, "stabilizer", 1.0), getattr(operation, "sum_stabilizer", 1.0))
    return {
        "index": np.array((*sizes, *h.steps), np.int64),
        "p": (h.scale, h.softcap, *stabilizers),
        "count": getattr(operation, "sums", 0),
        "stabilizer": STABILIZERS[getattr(operation, "kind", "sign")],
        "values": h.bias,
        "more_values": h.seen,
        "flag": operation.mask is not None,
        "detached": getattr(operation, "detached", False),
        "columns": h.e,
    }


@light(("q", "k", "v", "mask"), ("out", "rows"), verify.check_attention, _attention, overflows=True)
@dataclass(frozen=True, eq=False)
class AttentionOp(Operation):
    """out = softmax(scale · q kᵀ + bias) v for each head; ``rows`` gets each softmax's largest score and its sum."""

    q: int
    k: int
    v: int
    mask: int | None
    out: int
    rows: int | None
    shape: Heads


@light(("q", "k", "v", "mask", "rows", "out", "s"), ("to_v", "to_q", "to_k"), verify.check_attention_back, _attention)
@dataclass(frozen=True, eq=False)
class AttentionBack(Operation):
    """Relevance of queries, keys and values under AttnLRP, of s = R / stabilized out; nothing n × m is stored.

    ``detached``: the weights are constants, so that the values get all, and ``to_q`` and ``to_k`` are None.
    ``stabilizer`` is that of the products of queries and keys, ``sum_stabilizer`` that of their ``sums`` with a bias
    and a mask, one after the other; both are of one kind.
    """

    q: int
    k: int
    v: int
    mask: int | None
    rows: int
    out: int
    s: int
    to_q: int | None
    to_k: int | None
    to_v: int
    shape: Heads
    stabilizer: float
    sum_stabilizer: float
    sums: int
    kind: str
    detached: bool
