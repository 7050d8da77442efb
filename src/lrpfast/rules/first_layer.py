"""Rules for the first layer, in which x = 0 may mean as much as any other value: w², flat and z-box."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar

import numpy as np

from ..errors import RuleError
from .rule import Group, Product, WithBias


@dataclass(frozen=True, repr=False)
class WSquare(WithBias):
    """LRP-w²: relevance in proportion to squared weights, for any input.

    R_i = Σ_j w_ij² / Σ_i w_ij² · R_j.

    Parameters
    ----------
    stabilizer : float or Stabilizer
    bias : {"ignore", "absorb"}
        "absorb" puts b² in the denominator (zennit's default).

    References
    ----------
    Montavon et al. (2017), equation 12.

    Examples
    --------
    >>> layer, x = lrpfast.layers.Dense(np.array([[1.0], [-1.0], [3.0]])), np.array([[1.0, 1.0, 2.0]])
    >>> lrpfast.redistribute(lrpfast.rules.WSquare(), layer, x, np.array([[11.0]])).round(3).tolist()
    [[1.0, 1.0, 9.0]]
    """

    _: KW_ONLY
    stabilizer: Any = 1e-6
    bias: str = "ignore"
    name: ClassVar[str] = "w_square"
    conventions: ClassVar[tuple[str, ...]] = ("ignore", "absorb")
    equation: ClassVar[str] = "R_i = sum_j w_ij^2 / sum_i w_ij^2 R_j"

    def groups(self) -> tuple[Group, ...]:
        return (self._group((Product("1", "w^2"),), "w^2"),)


@dataclass(frozen=True, repr=False)
class Flat(WithBias):
    """LRP-flat: equal shares for all inputs of an output.

    R_i = Σ_j 1 / n_j · R_j, where n_j is the number of inputs of output j.

    Parameters
    ----------
    stabilizer : float or Stabilizer
    bias : {"ignore"}

    References
    ----------
    Lapuschkin et al. (2019), supplement.

    Examples
    --------
    >>> layer, x = lrpfast.layers.Dense(np.array([[1.0], [-1.0], [3.0]])), np.array([[1.0, 1.0, 2.0]])
    >>> lrpfast.redistribute(lrpfast.rules.Flat(), layer, x, np.array([[6.0]])).round(3).tolist()
    [[2.0, 2.0, 2.0]]
    """

    _: KW_ONLY
    stabilizer: Any = 1e-6
    bias: str = "ignore"
    name: ClassVar[str] = "flat"
    conventions: ClassVar[tuple[str, ...]] = ("ignore",)
    equation: ClassVar[str] = "R_i = sum_j 1 / n_j R_j"

    def groups(self) -> tuple[Group, ...]:
        return (self._group((Product("1", "1"),), "1"),)


@dataclass(frozen=True, eq=False, repr=False)
class ZBox(WithBias):
    """LRP-z^B: for a first layer whose inputs are between low and high.

    R_i = Σ_j (x_i w_ij − low_i w_ij⁺ − high_i w_ij⁻) / Σ_i (…) · R_j.

    Parameters
    ----------
    low, high : float or array
        The input's bounds, low ≤ high, in the input's units; a scalar, one per
        feature, or one per channel (the last axis).
    stabilizer : float or Stabilizer
    bias : {"ignore"}
        The bias cancels: b − b⁺ − b⁻ = 0.

    References
    ----------
    Montavon et al. (2017), equation 13.

    Examples
    --------
    >>> layer, x = lrpfast.layers.Dense(np.array([[1.0], [-1.0], [3.0]])), np.array([[1.0, 1.0, 2.0]])
    >>> lrpfast.redistribute(lrpfast.rules.ZBox(0, 2), layer, x, np.array([[8.0]])).round(3).tolist()
    [[1.0, 1.0, 6.0]]
    """

    low: Any = None
    high: Any = None
    _: KW_ONLY
    stabilizer: Any = 1e-6
    bias: str = "ignore"
    name: ClassVar[str] = "z_box"
    conventions: ClassVar[tuple[str, ...]] = ("ignore",)
    equation: ClassVar[str] = "R_i = sum_j (x_i w_ij - low_i w_ij+ - high_i w_ij-) / sum_i (...) R_j"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("low", "high"):
            value = getattr(self, key)
            if value is None:
                raise RuleError(f"z_box needs {key}: the input's {'lowest' if key == 'low' else 'highest'} value")
            array = np.asarray(value)
            if array.dtype.kind == "U":
                raise RuleError(
                    f"z_box: {key} must hold numbers, not {value!r}; bounds from the data are made by "
                    'low, high = lrpfast.data_bounds(x, "minmax")'
                )
            if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
                raise RuleError(f"z_box: {key} must hold finite real numbers, not {value!r}")
            array = array.astype(np.float64)
            array.setflags(write=False)
            object.__setattr__(self, key, array)
        try:
            ascending = bool((self.low <= self.high).all())
        except ValueError:
            raise RuleError(f"z_box: low has shape {self.low.shape}, high {self.high.shape}: they must fit") from None
        if not ascending:
            raise RuleError("z_box: low must not be above high")

    def _key(self) -> tuple[Any, ...]:
        """The key for equality and hashing; adding 0.0 gives −0.0 the same bytes as 0.0, to which it is equal."""
        bounds = ((bound.shape, (bound + 0.0).tobytes()) for bound in (self.low, self.high))
        return type(self), *bounds, *(getattr(self, f.name) for f in fields(self) if f.name not in ("low", "high"))

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, ZBox) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a copy's bounds read-only, like the original's: a pickle of NumPy does not keep this."""
        self.__dict__.update(state)
        for bound in (self.low, self.high):
            bound.setflags(write=False)

    def groups(self) -> tuple[Group, ...]:
        return (self._group((Product("x", "w"), Product("low", "w+", -1), Product("high", "w-", -1)), "w"),)
