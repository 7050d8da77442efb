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


@dataclass(frozen=True, eq=False)
class Term:
    """part(source) · weights, added to an accumulator; weights have shape (K, N)."""

    source: int
    weights: np.ndarray
    part: str = "x"
    accumulator: int = 0


@dataclass(frozen=True, eq=False)
class Output:
    """buffer = Σ_a coefficients[a] · accumulator_a + constant, clamped at 0 where ``relu``.

    The constant has shape (N,), or (rows · N,) where it differs by row.
    """

    buffer: int
    coefficients: tuple[float, ...] = (1.0,)
    constant: np.ndarray | None = None
    relu: bool = False


@dataclass(frozen=True, eq=False)
class Contract:
    """One or more outputs from shared sums over K, for ``rows`` rows a sample."""

    terms: tuple[Term, ...]
    outputs: tuple[Output, ...]
    rows: int = 1


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

    ``divide`` holds what the layer below divides by; its ``relevance`` and
    ``out`` are this operation's own output.
    """

    terms: tuple[Term, ...]
    shares: tuple[Share, ...]
    x: int
    out: int
    rows: int = 1
    divide: Divide | None = None


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
    """out = the starting relevance, taken from the output as the call asks."""

    output: int
    out: int
    rectify: bool = False


@dataclass(frozen=True, eq=False)
class Copy:
    """out = source."""

    source: int
    out: int


Operation = Contract | Redistribute | Divide | Activate | Unmask | Scale | Remask | Begin | Copy


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
