"""The heavy operations: contractions over packed weights with a fused epilogue.

`Contract` goes forwards, `Redistribute` backwards. A `Divide` is what a layer divides its relevance by: a part of the
redistribution above it, or an operation of its own. Records hold arrays and numbers only: no layer, no rule.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from .geometry import Geometry
from .operation import Operation


class WeightsOrigin:
    """What weights are derived from: programs share the packed form of weights with equal origins.

    Parameters
    ----------
    owner : object
        The layer that has the weights; it does not change, and lives as long as its packed weights.
    derivation : tuple
        Everything else that the weights depend on.
    """

    __slots__ = ("derivation", "owner")

    def __init__(self, owner: object, derivation: tuple[Hashable, ...]) -> None:
        self.owner, self.derivation = owner, derivation

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WeightsOrigin) and self.owner is other.owner and self.derivation == other.derivation

    def __hash__(self) -> int:
        return hash((id(self.owner), self.derivation))


@dataclass(frozen=True, eq=False)
class Term:
    """part(source) · weights, added to an accumulator.

    Without geometry, row m of the source meets weights of shape (K, N). With one,
    ``weights`` holds an array for each region: (groups, taps · K, N), where group g
    contracts source channels g·K to (g + 1)·K and makes output channels g·N to (g + 1)·N.
    Taps outside contribute nothing.

    ``sign`` +1 takes w⁺ of the weights, −1 takes w⁻ and 2 takes |w|, so that none need be stored.
    ``origin`` says what the weights are derived from; weights without one are packed for each program.

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
    origin: WeightsOrigin | None = None


@dataclass(frozen=True, eq=False)
class Output:
    """buffer = Σ_a coefficients[a] · accumulator_a + constant, clamped at 0 where ``relu``; ``zero`` where that is 0.

    ``plus`` is a buffer whose values are added before that, where a backend has fused a sum (cuda/fuse.py).
    The constant has shape (N,), or (rows · N,) where it differs by row; N is here the number of
    output channels, of all groups together.
    """

    buffer: int
    coefficients: tuple[float, ...] = (1.0,)
    constant: np.ndarray | None = None
    relu: bool = False
    zero: float = 0.0
    plus: int | None = None


@dataclass(frozen=True, eq=False)
class Contract(Operation):
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
class Divide(Operation):
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
class DivideBySign(Operation):
    """out = relevance / (z + stabilizer), where z is one of two by the sign of ``mask_z``, zero where that is 0.

    ``signed`` is the same times the sign of ``mask_z``.
    """

    relevance: int
    positive_z: int
    negative_z: int
    mask_z: int
    out: int
    signed: int
    stabilizer: float
    kind: str = "sign"


@dataclass(frozen=True, eq=False)
class Branch:
    """out = coefficient · part(x) · weight · s, then, if asked, divided: a sum's share of relevance for one input."""

    x: int
    out: int
    part: str = "x"
    weight: float = 1.0
    coefficient: float = 1.0
    divide: Divide | None = None


@dataclass(frozen=True, eq=False)
class Redistribute(Operation):
    """out = Σ_shares coefficient · part(x) ⊙ accumulator, then, if asked, divided.

    Terms, ``diagonal`` and ``tf32`` are as in `Contract`. ``divide`` holds what the layer
    below divides by; its ``relevance`` and ``out`` are this operation's own output.

    A backend that fuses operations (cuda/fuse.py) adds the relevance in the buffer ``plus`` before it divides, and has
    ``branches`` made of the result, which itself is then not written: ``out`` is the first one's.
    """

    terms: tuple[Term, ...]
    shares: tuple[Share, ...]
    x: int
    out: int
    rows: int = 1
    divide: Divide | None = None
    diagonal: bool = False
    tf32: bool = True
    plus: int | None = None
    branches: tuple[Branch, ...] = ()


def is_fused(operation: Operation) -> bool:
    """Whether it does what a backend has fused into it."""
    if isinstance(operation, Contract):
        return any(o.plus is not None for o in operation.outputs)
    return isinstance(operation, Redistribute) and (operation.plus is not None or bool(operation.branches))
