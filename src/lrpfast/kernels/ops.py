"""Every operation of a program, one row each: what backends know of it besides its record.

The two heavy ones and the divisions have their records in `contraction_ops`, products of two values in `product_ops`,
those of recurrent layers in `recurrent_ops`; a light one's stands here, below its row. From
the rows come the checks (`check`), what the memory plan sees (`buffers`), what goes into the compiled record
(`arguments`), and the kernels: ``kernel`` in the CPU's .pxi files, ``light_`` and ``kernel`` in `cuda/light.cu`. An
operation without a row, or a row without a kernel, is an error wherever it is compiled. CONTRIBUTING.md adds one as an
example.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import verify
from .codes import FUNCTIONS, STABILIZERS
from .contraction_ops import Contract, Divide, DivideBySign, Redistribute
from .geometry import Geometry
from .operation import ROWS, Buffers, Operation, Row, buffer_of, light, no_arguments
from .product_ops import AttentionBack, AttentionOp, DotBack, DotOp, MaskedSoftmax
from .recurrent_ops import MaskSteps as MaskSteps
from .recurrent_ops import Recur as Recur
from .recurrent_ops import RecurBack as RecurBack

__all__ = ["AttentionBack", "AttentionOp", "DotBack", "DotOp", "MaskedSoftmax"]  # their records stand there

# The heavy operations, and what stands between them.


def _contract_buffers(operation: Contract) -> tuple[Buffers, Buffers]:
    added = tuple(o.plus for o in operation.outputs if o.plus is not None)
    return (*(t.source for t in operation.terms), *added), tuple(o.buffer for o in operation.outputs)


def _divisors(divide: Divide | None) -> Buffers:
    return () if divide is None else (buffer_of(divide, "z"), divide.mask_z)


def _redistribute_buffers(operation: Redistribute) -> tuple[Buffers, Buffers]:
    reads = (operation.x, *(t.source for t in operation.terms), *_divisors(operation.divide), operation.plus)
    for branch in operation.branches:
        reads += (branch.x, *_divisors(branch.divide))
    return reads, tuple(b.out for b in operation.branches) or (operation.out,)


ROWS[Contract] = Row("contract", _contract_buffers, verify.check_contraction, no_arguments)
ROWS[Redistribute] = Row("redistribute", _redistribute_buffers, verify.check_contraction, no_arguments)
light(
    ("relevance", "z", "mask_z"),
    ("out",),
    verify.check_divide,
    lambda o: {
        "p": (o.stabilizer,),
        "stabilizer": STABILIZERS[o.kind],
        "flag": o.mask,
        "values": None if isinstance(o.z, int) else o.z,
    },
    in_place=True,
)(Divide)
light(
    ("relevance", "positive_z", "negative_z", "mask_z"),
    ("out", "signed"),
    verify.check_same_size,
    lambda o: {"p": (o.stabilizer,), "stabilizer": STABILIZERS[o.kind]},
)(DivideBySign)


# Activation functions.


def _function(operation: Activate | ActivateBack) -> dict[str, Any]:
    """The function and what it takes besides x, in the kernels' order; PReLU's slopes are an array."""
    p, values = operation.parameters, None
    numbers: tuple[Any, ...] = ()
    if operation.function == "relu":
        numbers = (np.inf if p["max_value"] is None else p["max_value"], p["negative_slope"], p["threshold"])
    elif operation.function == "prelu":
        values = p["negative_slope"]
    else:
        numbers = tuple(p.values())
    return {"function": FUNCTIONS[operation.function], "p": numbers, "values": values}


@light(("source",), ("out",), verify.check_activate, _function, in_place=True)
@dataclass(frozen=True, eq=False)
class Activate(Operation):
    """out = f(source); parameters as in ``model.layers.FUNCTIONS``, arrays flattened to one sample."""

    source: int
    out: int
    function: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    columns: int = 1


@light(("x", "relevance"), ("out",), verify.check_activate_back, _function, in_place=True)
@dataclass(frozen=True, eq=False)
class ActivateBack(Operation):
    """out = relevance ⊙ f'(x); the derivative at a kink is that of the left side (0 for ReLU at 0)."""

    x: int
    relevance: int
    out: int
    function: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@light(("x", "y", "relevance"), ("out",), verify.check_same_size, lambda o: {"flag": o.x is not None})
@dataclass(frozen=True, eq=False)
class SoftmaxBack(Operation):
    """out = x ⊙ (relevance − y · Σ relevance) along the last ``columns`` values; x None stands for 1."""

    x: int | None
    y: int
    relevance: int
    out: int
    columns: int


# Masked features, scaling, the starting relevance, sums.


@light(("source",), ("clean", "present"), verify.check_same_size)
@dataclass(frozen=True, eq=False)
class MaskNaN(Operation):
    """present = 0 where source is NaN, else 1; clean = source with NaN as 0."""

    source: int
    clean: int
    present: int


@light(("present",), ("buffer",), verify.check_same_size, in_place=True, keeps=True)
@dataclass(frozen=True, eq=False)
class RestoreNaN(Operation):
    """buffer = NaN where present is 0."""

    buffer: int
    present: int


@light(("source",), ("out",), verify.check_scale, lambda o: {"values": o.values}, in_place=True)
@dataclass(frozen=True, eq=False)
class Scale(Operation):
    """out = source ⊙ values; values has shape (size of one sample,)."""

    source: int
    out: int
    values: np.ndarray


@light(("output",), ("out",), verify.check_same_size, lambda o: {"flag": o.flag})
@dataclass(frozen=True, eq=False)
class InitRelevance(Operation):
    """out = the starting relevance, taken from the output as the call asks.

    A call may name a window of the output; what lies outside starts with 0. ``rectify`` starts with max(y, 0);
    ``unit``, for gradients, with 1 in place of y.
    """

    output: int
    out: int
    rectify: bool = False
    unit: bool = False

    @property
    def flag(self) -> int:
        """What kernels call this choice."""
        return 2 if self.unit else int(self.rectify)


@light(("source",), ("out",), verify.check_same_size)
@dataclass(frozen=True, eq=False)
class MaskRelevance(Operation):
    """out = source where the mask of the pass (`Passes`) is 1, else 0."""

    source: int
    out: int


@light(("source",), ("out",), verify.check_same_size, in_place=True)
@dataclass(frozen=True, eq=False)
class Copy(Operation):
    """out = source."""

    source: int
    out: int


@light((), ("out",), verify.check_same_size, overflows=True)
@dataclass(frozen=True, eq=False)
class Accumulate(Operation):
    """out = Σ sources, in order; there are at least two."""

    sources: tuple[int, ...]
    out: int


@light((), ("out",), verify.check_same_size, overflows=True)
@dataclass(frozen=True, eq=False)
class MultiplyOp(Operation):
    """out = Π sources, element by element."""

    sources: tuple[int, ...]
    out: int


@light(("source",), ("out",), verify.check_sum_channels, overflows=True)
@dataclass(frozen=True, eq=False)
class SumChannels(Operation):
    """out[i] = Σ_c source[i, c] over ``columns`` channels."""

    source: int
    out: int
    columns: int


@light(
    ("relevance", "source"),
    ("out",),
    verify.check_share_remainder,
    lambda o: {"n": o.n},
)
@dataclass(frozen=True, eq=False)
class ShareRemainder(Operation):
    """out = source + (Σ relevance − Σ source) / columns, row by row: of ``n`` values and of ``columns``."""

    relevance: int
    source: int
    out: int
    columns: int
    n: int


# Moving values.


@light(("source",), ("out",), verify.check_gather, lambda o: {"index": o.index})
@dataclass(frozen=True, eq=False)
class Gather(Operation):
    """out[j] = source[index[j]], or 0 where index[j] is −1; index has shape (size of out,), int64."""

    source: int
    out: int
    index: np.ndarray


@light(("source",), ("out",), verify.check_scatter, lambda o: {"index": o.index})
@dataclass(frozen=True, eq=False)
class Scatter(Operation):
    """out = 0, then out[index[j]] += source[j] in order of j, −1 skipped; index has shape (size of source,), int64."""

    source: int
    out: int
    index: np.ndarray


@light(
    ("source",),
    ("out",),
    verify.check_strided,
    lambda o: {
        "count": o.count,
        "run": o.length,
        **{name: getattr(o, name) for name in ("source_offset", "source_step", "out_offset", "out_step")},
    },
    in_place=True,
    keeps=True,
)
@dataclass(frozen=True, eq=False)
class Strided(Operation):
    """``count`` runs of ``length`` values copied.

    Run i goes from source_offset + i · source_step to out_offset + i · out_step. What lies
    between the runs of ``out`` is left as it is.
    """

    source: int
    out: int
    count: int
    length: int
    source_offset: int = 0
    source_step: int = 0
    out_offset: int = 0
    out_step: int = 0


@light(("source",), ("out",), verify.check_lookup, lambda o: _table(o.table), overflows=True)
@dataclass(frozen=True, eq=False)
class Lookup(Operation):
    """out[i] = table[source[i]]: rows of a table by index."""

    source: int
    out: int
    table: np.ndarray


def _table(table: np.ndarray) -> dict[str, Any]:
    return {"values": table, "count": table.shape[0], "columns": table.shape[1]}


# Selecting values: the winner takes all.


@light(("source",), ("out", "winner"), verify.check_pool, lambda o: {"geometry": o.geometry})
@dataclass(frozen=True, eq=False)
class Pool(Operation):
    """out = the largest value among each row's taps, channel by channel.

    ``winner`` gets its tap's number, the first of equals. The geometry has one region.
    """

    source: int
    out: int
    winner: int | None
    geometry: Geometry
    columns: int


@light(
    ("relevance", "winner"),
    ("out",),
    verify.check_pool_back,
    lambda o: {"geometry": o.geometry, "flag": o.geometry.tiles},
)
@dataclass(frozen=True, eq=False)
class PoolBack(Operation):
    """out = 0, then each row's relevance is added to its winner, channel by channel, rows in order."""

    relevance: int
    winner: int
    out: int
    geometry: Geometry
    columns: int


@light((), ("out", "winner"), verify.check_same_size, lambda o: {"flag": o.sign})
@dataclass(frozen=True, eq=False)
class Extremum(Operation):
    """out = the largest (``sign`` +1) or smallest (−1) of the sources; ``winner`` = its number, the first of equals."""

    sources: tuple[int, ...]
    out: int
    winner: int | None
    sign: int = 1


@light(("relevance", "winner"), ("out",), verify.check_same_size, lambda o: {"flag": o.number}, in_place=True)
@dataclass(frozen=True, eq=False)
class Select(Operation):
    """out = relevance where winner is ``number``, else 0."""

    relevance: int
    winner: int
    out: int
    number: int


# Normalization.


@light(
    ("source",),
    ("out",),
    verify.check_normalize,
    lambda o: {
        "flag": o.centered,
        "length": o.length,
        "p": (o.epsilon,),
        "values": o.gamma,
        "more_values": o.beta,
    },
    overflows=True,
)
@dataclass(frozen=True, eq=False)
class Normalize(Operation):
    """Statistics over the last ``columns`` values: out = gamma · (x − mean) / σ + beta.

    ``centered`` subtracts the mean, and σ = √(mean((x − mean)²) + epsilon); else the mean is taken
    as 0: σ = √(mean(x²) + epsilon). ``length`` takes sums instead of means (σ is then the length).
    gamma and beta have shape (columns,) or are None. Computed in double precision.
    """

    source: int
    out: int
    columns: int
    centered: bool
    epsilon: float
    gamma: np.ndarray | None = None
    beta: np.ndarray | None = None
    length: bool = False


@light(
    ("x", "s"),
    ("out",),
    verify.check_normalize,
    lambda o: {
        "flag": o.centered,
        "detached": o.detached,
        "length": o.length,
        "count": o.times_x,
        "p": (o.epsilon,),
        "values": o.gamma,
    },
)
@dataclass(frozen=True, eq=False)
class NormalizeBack(Operation):
    """out = x ⊙ Jᵀ s of a `Normalize`; ``detached`` takes σ as a constant, not as a function of x.

    Without ``times_x``, out = Jᵀ s, the gradient.
    """

    x: int
    s: int
    out: int
    columns: int
    centered: bool
    epsilon: float
    detached: bool
    gamma: np.ndarray | None = None
    length: bool = False
    times_x: bool = True


@light(
    ("source",),
    ("out",),
    verify.check_same_size,
    lambda o: {"p": (o.alpha / o.size, o.beta, o.k), "run": o.size},
    overflows=True,
)
@dataclass(frozen=True, eq=False)
class LocalNormalize(Operation):
    """out = x / (k + alpha / size · Σ x²)^beta, the sum over channels c − size // 2 to c + (size − 1) // 2."""

    source: int
    out: int
    columns: int
    size: int
    alpha: float
    beta: float
    k: float
