"""The kernels' records (structs in common.cu, finish.cu, light.cu) as NumPy types; a program's arrays on a device.

Pointers are addresses on the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..check import MAX_SUMS, check_geometry
from ..program import Geometry, Operation


def _struct(*fields: tuple[Any, ...]) -> np.dtype:
    return np.dtype(list(fields), align=True)


INT, LONG, DOUBLE, POINTER = np.int32, np.int64, np.float64, np.uint64

AXIS = _struct(("count", INT), ("taps", INT), ("positions", POINTER), ("index", POINTER), ("factor", POINTER))
REGION = _struct(("axes", AXIS, 3), ("rows", INT), ("taps", INT))
GEOMETRY = _struct(
    ("source", INT, 3), ("out", INT, 3), ("source_rows", INT), ("regions_count", INT), ("regions", POINTER)
)
BUFFER = _struct(("at", LONG), ("size", LONG))
TERM = _struct(
    ("source", BUFFER),
    *((name, INT) for name in ("part", "round", "accumulator", "quads", "channels", "stride", "alike", "unused")),
    ("row_step", LONG),
    ("column_step", LONG),
    ("geometry", POINTER),
    ("weights", POINTER),
    ("others", POINTER),
)
OUTPUT = _struct(
    ("buffer", BUFFER), ("constant", POINTER), ("per_row", INT), ("relu", INT), ("coefficients", DOUBLE, MAX_SUMS)
)
SHARE = _struct(
    ("bound", POINTER), *((name, INT) for name in ("accumulator", "part", "step", "unused")), ("coefficient", DOUBLE)
)
CONTRACTION = _struct(
    *((name, INT) for name in ("terms_count", "sums", "outputs_count", "shares_count")),
    *((name, INT) for name in ("rows", "width", "columns", "groups")),
    *((name, INT) for name in ("check", "round", "divides", "kind", "mask", "quads")),
    ("stabilizer", DOUBLE),
    *((name, BUFFER) for name in ("x", "out", "z", "mask_z")),
    *((name, POINTER) for name in ("z_constant", "geometry", "terms", "outputs", "shares")),
)
LIGHT = _struct(
    ("reads", BUFFER, 3),
    ("writes", BUFFER, 2),
    *((name, INT) for name in ("function", "flag", "columns", "sources_count")),
    *((name, INT) for name in ("check", "detached", "length", "unused")),
    *((name, LONG) for name in ("count", "run", "source_offset", "source_step", "out_offset", "out_step")),
    *((name, INT) for name in ("m", "n", "k", "kind")),
    ("p", DOUBLE, 3),
    *((name, POINTER) for name in ("values", "more_values", "index", "starts", "sources", "geometry")),
)

#: where a buffer lies that is not in the workspace
INPUT, RESULT = -1, -2


def round_tf32(array: np.ndarray) -> np.ndarray:
    """Float32 values to 10 mantissa bits, to nearest, ties to even."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    odd = (bits >> np.uint32(13)) & np.uint32(1)
    return ((bits + np.uint32(0xFFF) + odd) & np.uint32(0xFFFFE000)).view(np.float32)


def part_of(weights: np.ndarray, sign: int, scale: float) -> np.ndarray:
    """Scaled weights where they are of a sign, else 0; all of them for the sign 0."""
    part = weights if not sign else np.maximum(weights, 0) if sign > 0 else np.minimum(weights, 0)
    return part if scale == 1 else part * weights.dtype.type(scale)


class Held:
    """A program's weights, tables and records on one device, which is the current one; an array comes there once."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        self.arrays: list[Any] = []
        self._known: dict[tuple[Any, ...], tuple[int, Any]] = {}

    def put(self, array: np.ndarray) -> int:
        """An array's address on the device."""
        import cupy

        if array.size == 0:
            array = np.zeros(1, array.dtype)
        there = cupy.empty(array.nbytes, np.uint8)
        there.set(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        self.arrays.append(there)
        return int(there.data.ptr)

    def _once(self, key: tuple[Any, ...], kept: Any, make: Any) -> int:
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = (make(), kept)  # what is kept keeps its id
        return found[0]

    def record(self, value: np.ndarray) -> Any:
        """A record as the array that kernels take."""
        self.put(value)
        return self.arrays[-1]

    def vector(self, value: Any, rounded: bool = False, sign: int = 0, scale: float = 1.0) -> int:
        """An array of numbers in the program's dtype, or its part of a sign, scaled, on TF32's grid; 0 for None."""
        if value is None:
            return 0

        def make() -> int:
            there = part_of(np.ascontiguousarray(value, self.dtype).reshape(-1), sign, scale)
            return self.put(round_tf32(there) if rounded else there)

        return self._once((id(value), "vector", rounded, sign, scale), value, make)

    def matrix(
        self, weights: np.ndarray, rounded: bool = False, sign: int = 0, scale: float = 1.0
    ) -> tuple[int, int, int]:
        """(address, row step, column step) of weights (K, N), which lie by rows or by columns; both share memory."""
        by_columns = weights.flags.f_contiguous and not weights.flags.c_contiguous
        base = weights.T if by_columns else weights
        start = base.__array_interface__["data"][0]
        if not base.flags.c_contiguous or base.dtype != self.dtype:
            start = id(weights)

        def make() -> int:
            there = part_of(np.ascontiguousarray(base, self.dtype), sign, scale)
            return self.put(round_tf32(there) if rounded else there)

        address = self._once((start, base.shape, "matrix", rounded, sign, scale), weights, make)
        return (address, 1, weights.shape[0]) if by_columns else (address, weights.shape[1], 1)

    def indices(self, value: np.ndarray) -> int:
        return self._once((id(value), "indices"), value, lambda: self.put(np.ascontiguousarray(value, INT)))

    def geometry(self, source: Geometry, operation: Operation) -> int:
        """A geometry's address; it is checked first, for the operation that has it."""
        return self._once((id(source), "geometry"), source, lambda: self._make_geometry(source, operation))

    def _make_geometry(self, source: Geometry, operation: Operation) -> int:
        check_geometry(source, operation)
        regions = np.zeros(len(source.regions), REGION)
        for region, given in zip(regions, source.regions, strict=True):
            region["rows"] = region["taps"] = 1
            for d, axis in enumerate(given.axes):
                count, taps = axis.index.shape
                factor = 0 if axis.factor is None else self.put(np.ascontiguousarray(axis.factor, np.float64))
                region["axes"][d] = (count, taps, self.indices(axis.positions), self.indices(axis.index), factor)
                region["rows"] *= count
                region["taps"] *= taps
        made = np.zeros((), GEOMETRY)
        made["source"], made["out"] = source.source, source.out
        made["source_rows"] = int(np.prod(source.source))
        made["regions_count"], made["regions"] = len(regions), self.put(regions)
        return self.put(made)
