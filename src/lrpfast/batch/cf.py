"""Decoding of stored values by the CF conventions and the NetCDF users' guide, the same for all formats."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import InputError

#: Attributes that `Packing` applies; decoded values no longer need them.
PACKED = frozenset(
    ("scale_factor", "add_offset", "_FillValue", "missing_value", "valid_min", "valid_max", "valid_range", "_Unsigned")
)


class Packing:
    """The decoding of stored values: value · scale_factor + add_offset, NaN where a value is missing.

    A value is missing if it equals ``_FillValue`` or a ``missing_value``, or lies outside the valid range.
    All of these are compared with the stored value, after ``_Unsigned`` has decided its sign; a valid range of
    floats for packed integers is compared with the unpacked number.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the stored values.
    attrs : mapping
        The array's attributes. Numbers may be text; a missing value or valid range that is no number has no effect.
    usual : number, optional
        The format's default fill value, which means missing if there is no ``_FillValue``.

    Attributes
    ----------
    dtype : numpy.dtype
        Of the decoded numbers: a float if anything is packed or may be missing, float32 for 8 and 16 bits.
    nothing : bool
        Whether stored values need no decoding.
    unwritten : array or None
        The stored integer that marks a value as never written. In other types such values become NaN.

    Raises
    ------
    InputError
        When a scale or an offset is not a finite number.
    """

    def __init__(self, dtype: np.dtype, attrs: Mapping[str, Any], usual: float | None = None) -> None:
        self._stored = stored = _signed(dtype, attrs.get("_Unsigned"))
        self.unwritten: np.ndarray | None = None
        self._missing: list[np.ndarray] = []
        self._valid: list[tuple[np.ufunc, Any]] = []
        self._scale, self._offset = 1.0, 0.0
        if stored.kind in "iuf":
            self._scale, self._offset = _factor(attrs, "scale_factor", 1), _factor(attrs, "add_offset", 0)
            notes = {key: list(_numbers(attrs.get(key))) for key in PACKED}
            if stored != dtype:
                notes = {key: [_wrapped(value, stored) for value in values] for key, values in notes.items()}
            fills = [*notes["missing_value"], *notes["_FillValue"]]
            self._missing = [fill for value in fills if (fill := _as_stored(value, stored)) is not None]
            self._valid = list(_outside(notes, stored))
        self._pack = (self._scale, self._offset) != (1, 0)
        decoded = self._pack or bool(self._missing) or bool(self._valid)
        # the library that wrote the default fill value did not know _Unsigned
        if usual is not None and "_FillValue" not in attrs and stored == dtype:
            unwritten = np.asarray(usual, dtype)
            if decoded or stored.kind == "f":
                self._missing.append(unwritten)
                decoded = True
            else:
                self.unwritten = unwritten
        self.nothing = not decoded and stored == dtype
        self.dtype = stored
        if decoded and not (stored.kind == "f" and stored.itemsize >= 4):
            self.dtype = np.dtype(np.float32 if stored.itemsize <= 2 else np.float64)

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Decode stored rows; in place if they are floats."""
        if self.nothing:
            return rows
        if self._stored.kind in "iu" and rows.dtype.kind != self._stored.kind:
            rows = rows.view(self._stored.newbyteorder(rows.dtype.byteorder))
        number = rows
        if self._pack:
            with np.errstate(over="ignore", invalid="ignore"):  # infinity is reported with its sample
                number = rows * np.float64(self._scale) + self._offset
        gaps = [rows == value for value in self._missing]
        for beyond, bound in self._valid:
            of_numbers = isinstance(bound, float)  # the users' guide: "in the units of the unpacked data"
            gaps.append(beyond(number if of_numbers else rows, bound))
        with np.errstate(over="ignore", invalid="ignore"):  # infinity is reported with its sample
            out = number.astype(self.dtype, copy=False)
        for gap in gaps:
            out[gap] = np.nan
        return out


def _signed(dtype: np.dtype, unsigned: Any) -> np.dtype:
    """The integer type that ``_Unsigned`` ("true" or "false") selects; the type itself in any other case."""
    word = unsigned.decode("ascii", "replace") if isinstance(unsigned, bytes) else str(unsigned)
    kind = {"true": "u", "false": "i"}.get(word.strip().lower())
    if dtype.kind not in "iu" or kind is None or dtype.kind == kind:
        return dtype
    return np.dtype(f"{kind}{dtype.itemsize}").newbyteorder(dtype.byteorder)


def _numbers(attribute: Any) -> Iterator[float]:
    """The numbers in an attribute: one, several, or a number as text; anything else is skipped."""
    try:
        values = np.ravel(attribute).tolist()
    except (TypeError, ValueError):
        return
    for value in values:
        for kind in (int, float):
            try:
                number = value if isinstance(value, (int, float)) else kind(value)
            except (TypeError, ValueError):
                continue
            yield number
            break


def _factor(attrs: Mapping[str, Any], key: str, usual: float) -> float:
    if key not in attrs:
        return usual
    numbers = list(_numbers(attrs[key]))
    if len(numbers) != 1 or np.size(attrs[key]) != 1:
        raise InputError(f"{key} is {attrs[key]!r}, where one number belongs: what is stored cannot be unpacked")
    value = float(numbers[0])
    if not math.isfinite(value):
        raise InputError(f"{key} is {value}, which makes no number of any value")
    return value


def _wrapped(value: float, dtype: np.dtype) -> float:
    """An integer of the other signedness, such as -1, as the integer with the same bits, such as 255."""
    if not isinstance(value, int):
        return value
    size = 1 << 8 * dtype.itemsize
    if dtype.kind == "u":
        return value + size if -size // 2 <= value < 0 else value
    return value - size if size // 2 <= value < size else value


def _as_stored(value: float, dtype: np.dtype) -> np.ndarray | None:
    """A missing value in the stored type; None for NaN and for numbers that the type cannot hold."""
    if value != value:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        stored = np.asarray(value).astype(dtype)
    same = bool(stored == value) if dtype.kind in "iu" else math.isfinite(stored) == math.isfinite(value)
    return stored if same else None


def _outside(notes: Mapping[str, list[float]], dtype: np.dtype) -> Iterator[tuple[np.ufunc, Any]]:
    """The comparisons that find values outside the valid range, each with its bound."""
    bounds: list[list[float]] = [notes["valid_min"], notes["valid_max"]]
    if len(notes["valid_range"]) == 2:
        bounds = [[value] for value in notes["valid_range"]]
    for beyond, numbers in zip((np.less, np.greater), bounds, strict=True):
        if len(numbers) == 1 and math.isfinite(numbers[0]):
            yield beyond, np.asarray(numbers[0]).astype(dtype) if dtype.kind == "f" else numbers[0]
