"""What a backend runs: a short program over per-sample buffers.

The engine lowers a plan to these records; a backend compiles them once and runs
them on micro-batches of samples. Two heavy operations, both contractions over
packed weights with a fused epilogue (`Contract` forwards, `Redistribute`
backwards), and a few light passes. Records hold arrays and numbers only: no
layer, no rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Parts of a contraction's input, taken while it is loaded.
INPUT_PARTS = ("x", "x+", "x-")
#: What a redistributed sum is multiplied by, element by element.
SHARE_PARTS = ("x", "x+", "x-", "1", "x-low", "x-high")


#: Activation functions; their places are the numbers that compiled kernels know them by.
FUNCTIONS = (
    *("relu", "leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid", "hard_sigmoid"),
    *("softplus", "softsign", "exponential", "mish", "clip", "celu", "shrink", "log_sigmoid"),
    *("power", "hard_silu", "softmax", "log_softmax"),
)
#: Those of a whole row of values; the others take one value at a time.
OF_ROWS = ("softmax", "log_softmax")


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of a geometry: for each of some output positions, the source positions of its taps.

    Attributes
    ----------
    positions : int64 array, shape (n,)
        Output positions along the axis, ascending.
    index : int64 array, shape (n, taps)
        Source position of each tap, −1 outside.
    factor : float64 array, shape (n, taps), or None
        What each tap's value is multiplied by; the factors of all axes multiply. Diagonal terms only.
    """

    positions: np.ndarray
    index: np.ndarray
    factor: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Region:
    """Output positions that share a tap pattern and weights: the product of three axes.

    Taps are numbered in row-major order of the axes, and so are rows. There may be
    no taps at all: the sums are then zero.
    """

    axes: tuple[Axis, Axis, Axis]


@dataclass(frozen=True, eq=False)
class Geometry:
    """Which source rows an output row sees: an operand's rows lie on a grid of three axes, channels last.

    Attributes
    ----------
    source, out : (int, int, int)
        Sizes of the two grids; unused axes are 1.
    regions : tuple of Region
        Together they cover every output row exactly once.
    """

    source: tuple[int, int, int]
    out: tuple[int, int, int]
    regions: tuple[Region, ...]


@dataclass(frozen=True, eq=False)
class Term:
    """part(source) · weights, added to an accumulator.

    Without geometry, row m of the source meets weights of shape (K, N). With one,
    ``weights`` holds an array for each region: (groups, taps · K, N), where group g
    contracts source channels g·K to (g + 1)·K and makes output channels g·N to (g + 1)·N.
    Taps outside contribute nothing.

    ``sign`` +1 takes w⁺ of the weights and −1 takes w⁻, so that neither need be stored.

    Of a diagonal operation: out channel c gets Σ_taps part(source[tap, c]) · factor · weights[tap, c];
    ``weights`` has shape (taps, C), or (taps, 1) for all channels alike, one such array for
    each region where there is a geometry, and taps = 1 where there is none.
    """

    source: int
    weights: np.ndarray | tuple[np.ndarray, ...]
    part: str = "x"
    accumulator: int = 0
    geometry: Geometry | None = None
    sign: int = 0


@dataclass(frozen=True, eq=False)
class Output:
    """buffer = Σ_a coefficients[a] · accumulator_a + constant, clamped at 0 where ``relu``.

    The constant has shape (N,), or (rows · N,) where it differs by row; N is here the number of
    output channels, of all groups together.
    """

    buffer: int
    coefficients: tuple[float, ...] = (1.0,)
    constant: np.ndarray | None = None
    relu: bool = False


@dataclass(frozen=True, eq=False)
class Contract:
    """One or more outputs from shared sums over K, for ``rows`` rows a sample.

    All terms have a geometry or none has; geometries may differ in taps and
    factors, but not in ``out``, nor in their regions' positions. ``diagonal``
    operations contract taps only, channel by channel, and are never rounded to TF32
    unless ``tf32`` says so.
    """

    terms: tuple[Term, ...]
    outputs: tuple[Output, ...]
    rows: int = 1
    diagonal: bool = False
    tf32: bool = True  # whether operands are rounded where the program asks for TF32


@dataclass(frozen=True, eq=False)
class Share:
    """coefficient · part(x) ⊙ accumulator. ``bound`` is low or high: one value or rows · N."""

    accumulator: int
    part: str = "x"
    coefficient: float = 1.0
    bound: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Divide:
    """out = relevance / (z + stabilizer), zero where ``mask`` forbids.

    ``z`` is a buffer or, where z does not depend on x, an array of one sample's size.
    ``mask`` is +1 (only where ``mask_z`` > 0), −1 (only where it is < 0) or 0.
    """

    relevance: int
    z: int | np.ndarray
    out: int
    stabilizer: float
    kind: str = "sign"
    mask: int = 0
    mask_z: int | None = None


@dataclass(frozen=True, eq=False)
class Redistribute:
    """out = Σ_shares coefficient · part(x) ⊙ accumulator, then, if asked, divided.

    Terms, ``diagonal`` and ``tf32`` are as in `Contract`. ``divide`` holds what the layer
    below divides by; its ``relevance`` and ``out`` are this operation's own output.

    With ``spread``, rows of the source add to rows of ``out``, instead of the other way round: of a term's one-region
    geometry ``out`` is the source's grid and ``source`` the output's, and its weights of shape (K, taps · N) make for
    each tap what is added to the row it names, source row after source row. For outputs of so few channels that
    sums over taps would leave vectors empty; `Backend.spread_columns` says how few.
    """

    terms: tuple[Term, ...]
    shares: tuple[Share, ...]
    x: int
    out: int
    rows: int = 1
    divide: Divide | None = None
    diagonal: bool = False
    tf32: bool = True
    spread: bool = False


@dataclass(frozen=True, eq=False)
class Activate:
    """out = f(source); parameters as in ``model.layers.FUNCTIONS``, arrays flattened to one sample."""

    source: int
    out: int
    function: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    columns: int = 1


@dataclass(frozen=True, eq=False)
class Unmask:
    """present = 0 where source is NaN, else 1; clean = source with NaN as 0."""

    source: int
    clean: int
    present: int


@dataclass(frozen=True, eq=False)
class Scale:
    """out = source ⊙ values; values has shape (size of one sample,)."""

    source: int
    out: int
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class Remask:
    """buffer = NaN where present is 0."""

    buffer: int
    present: int


@dataclass(frozen=True, eq=False)
class Begin:
    """out = the starting relevance, taken from the output as the call asks.

    A call may name a window of the output; what lies outside starts with 0.
    """

    output: int
    out: int
    rectify: bool = False


@dataclass(frozen=True, eq=False)
class Copy:
    """out = source."""

    source: int
    out: int


@dataclass(frozen=True, eq=False)
class Accumulate:
    """out = Σ sources, in order; there are at least two."""

    sources: tuple[int, ...]
    out: int


@dataclass(frozen=True, eq=False)
class Slope:
    """out = relevance ⊙ f'(x); the derivative at a kink is that of the left side (0 for ReLU at 0)."""

    x: int
    relevance: int
    out: int
    function: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SoftmaxBack:
    """out = x ⊙ (relevance − y · Σ relevance) along the last ``columns`` values; x None stands for 1."""

    x: int | None
    y: int
    relevance: int
    out: int
    columns: int


@dataclass(frozen=True, eq=False)
class Gather:
    """out[j] = source[index[j]], or 0 where index[j] is −1; index has shape (size of out,), int64."""

    source: int
    out: int
    index: np.ndarray


@dataclass(frozen=True, eq=False)
class Scatter:
    """out = 0, then out[index[j]] += source[j] in order of j, −1 skipped; index has shape (size of source,), int64."""

    source: int
    out: int
    index: np.ndarray


@dataclass(frozen=True, eq=False)
class Strided:
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


@dataclass(frozen=True, eq=False)
class Pool:
    """out = the largest value among each row's taps, channel by channel.

    ``winner`` gets its tap's number, the first of equals. The geometry has one region.
    """

    source: int
    out: int
    winner: int | None
    geometry: Geometry
    columns: int


@dataclass(frozen=True, eq=False)
class Unpool:
    """out = 0, then each row's relevance is added to its winner, channel by channel, rows in order."""

    relevance: int
    winner: int
    out: int
    geometry: Geometry
    columns: int


@dataclass(frozen=True, eq=False)
class Multiply:
    """out = Π sources, element by element."""

    sources: tuple[int, ...]
    out: int


@dataclass(frozen=True, eq=False)
class Extremum:
    """out = the largest (``sign`` +1) or smallest (−1) of the sources; ``winner`` = its place, the first of equals."""

    sources: tuple[int, ...]
    out: int
    winner: int | None
    sign: int = 1


@dataclass(frozen=True, eq=False)
class Select:
    """out = relevance where winner is ``place``, else 0."""

    relevance: int
    winner: int
    out: int
    place: int


@dataclass(frozen=True, eq=False)
class Normalize:
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


@dataclass(frozen=True, eq=False)
class NormalizeBack:
    """out = x ⊙ Jᵀ s of a `Normalize`; ``detached`` takes σ as a constant, not as a function of x."""

    x: int
    s: int
    out: int
    columns: int
    centered: bool
    epsilon: float
    detached: bool
    gamma: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class LocalNormalize:
    """out = x / (k + alpha / size · Σ x²)^beta, the sum over channels c − size // 2 to c + (size − 1) // 2."""

    source: int
    out: int
    columns: int
    size: int
    alpha: float
    beta: float
    k: float


@dataclass(frozen=True, eq=False)
class Dot:
    """out[m, n] = Σ_k a[m, k] · b[n, k] for each sample, K in order in one accumulator."""

    a: int
    b: int
    out: int
    m: int
    n: int
    k: int


@dataclass(frozen=True, eq=False)
class DotBack:
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


@dataclass(frozen=True, eq=False)
class Lookup:
    """out[i] = table[source[i]]: rows of a table by index."""

    source: int
    out: int
    table: np.ndarray


@dataclass(frozen=True, eq=False)
class Total:
    """out[i] = Σ_c source[i, c] over ``columns`` channels."""

    source: int
    out: int
    columns: int


def function_parameters(operation: Activate | Slope) -> tuple[float, ...]:
    """What an operation's function takes beside x, in the kernels' order; not PReLU's slopes, which are an array."""
    p = operation.parameters
    if operation.function == "relu":
        ceiling = np.inf if p["max_value"] is None else p["max_value"]
        return ceiling, p["negative_slope"], p["threshold"]
    return () if operation.function == "prelu" else tuple(p.values())


Operation = (
    Contract
    | Redistribute
    | Divide
    | Activate
    | Unmask
    | Scale
    | Remask
    | Begin
    | Copy
    | Accumulate
    | Slope
    | SoftmaxBack
    | Gather
    | Scatter
    | Strided
    | Pool
    | Unpool
    | Multiply
    | Extremum
    | Select
    | Normalize
    | NormalizeBack
    | LocalNormalize
    | Dot
    | DotBack
    | Lookup
    | Total
)


@dataclass(frozen=True, eq=False)
class Program:
    """Operations in order, and the buffers they use.

    Attributes
    ----------
    sizes : tuple of int
        Elements of each buffer per sample. Buffer 0 is the input.
    forward, backward : tuple of Operation
        ``backward`` runs once for every target, after one ``forward``.
    output : int
        The model's output.
    result : int or None
        The relevance of the input; None for a forward pass.
    dtype : {"float32", "float64"}
    tf32 : bool
        Whether both operands of every contraction are rounded to 10 mantissa bits.
    keep : tuple of int
        Buffers whose values the caller may ask for.
    input_range : (low, high) or None
        Inputs outside are an error.
    allow_nan : bool
        Whether NaN in the input is a mask.
    """

    sizes: tuple[int, ...]
    forward: tuple[Operation, ...]
    backward: tuple[Operation, ...]
    output: int
    result: int | None
    dtype: str = "float32"
    tf32: bool = False
    keep: tuple[int, ...] = ()
    input_range: tuple[float, float] | None = None
    allow_nan: bool = False
