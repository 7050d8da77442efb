"""A program's weights, tables and structs on a device."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from ..geometry import Geometry
from ..operation import Operation
from ..recurrent_ops import Recurrence, function_code
from ..verify import check_geometry
from .modules import MOST_FEW
from .structs import GEOMETRY, INT, RECURRENCE, REGION


def round_tf32(array: np.ndarray) -> np.ndarray:
    """Round float32 values to 10 mantissa bits, to nearest, ties to even."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    odd = (bits >> np.uint32(13)) & np.uint32(1)
    return ((bits + np.uint32(0xFFF) + odd) & np.uint32(0xFFFFE000)).view(np.float32)


def part_of(weights: np.ndarray, sign: int, scale: float) -> np.ndarray:
    """Scaled weights with the given sign, others set to 0; all weights for the sign 0, all |w| for the sign 2."""
    part = weights
    if sign:
        part = np.abs(weights) if sign == 2 else np.maximum(weights, 0) if sign > 0 else np.minimum(weights, 0)
    return part if scale == 1 else part * weights.dtype.type(scale)


class DeviceWeights:
    """Weights on a device, and what they were copied from, so that nothing else gets its address meanwhile."""

    def __init__(self, array: Any, source: Any) -> None:
        self.array, self.source = array, source


#: The weights of all programs on all devices, by device and by what they are: programs share them.
WEIGHTS: weakref.WeakValueDictionary[tuple[Any, ...], DeviceWeights] = weakref.WeakValueDictionary()


def identity(weights: np.ndarray, origin: Any) -> Any:
    """What tells weights from all others while they exist: the address of a layer's own, else their origin, if any."""
    memory: Any = weights
    while isinstance(memory, np.ndarray):
        memory = memory.base
    if isinstance(memory, bytes):  # as layers have them
        return weights.__array_interface__["data"][0]
    return origin


class DeviceArrays:
    """A program's weights, tables and records on the current device; each array is copied there once.

    Parameters
    ----------
    dtype : numpy.dtype
    device : int
        The device's number.
    """

    def __init__(self, dtype: np.dtype, device: int) -> None:
        self.dtype, self.device = dtype, device
        self.arrays: list[Any] = []
        self._addresses: dict[tuple[Any, ...], tuple[int, Any]] = {}

    def put(self, array: np.ndarray) -> int:
        """An array's address on the device."""
        import cupy

        if array.size == 0:
            array = np.zeros(1, array.dtype)
        on_device = cupy.empty(array.nbytes, np.uint8)
        on_device.set(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        self.arrays.append(on_device)
        return int(on_device.data.ptr)

    def _lazy(self, key: tuple[Any, ...], source: Any, create: Any) -> int:
        entry = self._addresses.get(key)
        if entry is None:
            entry = self._addresses[key] = (create(), source)  # the source is kept, so that no other object gets its id
        return entry[0]

    def record(self, value: np.ndarray) -> Any:
        """A record as an array for the kernels."""
        self.put(value)
        return self.arrays[-1]

    def _shared(self, key: tuple[Any, ...], source: Any, create: Callable[[], np.ndarray]) -> int:
        """The address of weights that all programs on the device share, if ``key`` begins with what they are."""
        if key[0] is None:
            return self._lazy((id(source), *key[1:]), source, lambda: self.put(create()))
        whole = (self.device, self.dtype, *key)
        weights = WEIGHTS.get(whole)
        if weights is None:
            self.put(create())
            weights = WEIGHTS[whole] = DeviceWeights(self.arrays.pop(), source)
        self.arrays.append(weights)
        return int(weights.array.data.ptr)

    def vector(self, value: Any, rounded: bool = False, sign: int = 0, scale: float = 1.0, origin: Any = None) -> int:
        """The address of an array in the program's dtype, or of its part with a sign, scaled, in TF32; 0 for None."""
        if value is None:
            return 0

        def copy() -> np.ndarray:
            values = part_of(np.ascontiguousarray(value, self.dtype).reshape(-1), sign, scale)
            return round_tf32(values) if rounded else values

        return self._shared((origin, "vector", rounded, sign, scale), value, copy)

    def arranged(
        self,
        source: Any,
        arrange: Callable[[], np.ndarray],
        rounded: bool = False,
        sign: int = 0,
        scale: float = 1.0,
        origin: Any = None,
    ) -> int:
        """The address of weights in another order, which ``arrange`` makes of them; parts as `vector` takes them."""

        def copy() -> np.ndarray:
            values = part_of(np.ascontiguousarray(arrange(), self.dtype), sign, scale)
            return round_tf32(values) if rounded else values

        return self._shared((origin, "arranged", rounded, sign, scale), source, copy)

    def matrix(
        self, weights: np.ndarray, rounded: bool = False, sign: int = 0, scale: float = 1.0, origin: Any = None
    ) -> tuple[int, int, int]:
        """(address, row step, column step) of weights (K, N) in row-major or column-major order; both share memory."""
        by_columns = weights.flags.f_contiguous and not weights.flags.c_contiguous
        base = weights.T if by_columns else weights
        start = identity(weights, None)
        if start is None or not base.flags.c_contiguous:
            start = origin

        def copy() -> np.ndarray:
            values = part_of(np.ascontiguousarray(base, self.dtype), sign, scale)
            return round_tf32(values) if rounded else values

        address = self._shared((start, base.shape, "matrix", rounded, sign, scale), weights, copy)
        return (address, 1, weights.shape[0]) if by_columns else (address, weights.shape[1], 1)

    def windows(
        self, weights: np.ndarray, rounded: bool = False, sign: int = 0, scale: float = 1.0, origin: Any = None
    ) -> tuple[int, int, int]:
        """Weights (many, few) for rows that begin anywhere against 16 bytes (many_k.cu).

        Parameters
        ----------
        weights : numpy.ndarray
            Of shape (many, few), `few` at most `MOST_FEW`.
        rounded, sign, scale, origin
            As of `matrix`.

        Returns
        -------
        tuple of int
            The address of an array (shifts, `MOST_FEW`, pitch), whose row [s, n] has weights[:, n] from s on and else
            zeros; and the steps from n to n + 1 and from s to s + 1.
        """
        quad = 16 // self.dtype.itemsize
        many, few = weights.shape
        pitch = -(-(many + quad - 1) // quad) * quad

        def copy() -> np.ndarray:
            values = part_of(np.ascontiguousarray(weights.T, self.dtype), sign, scale)
            values = round_tf32(values) if rounded else values
            shifted = np.zeros((quad, MOST_FEW, pitch), self.dtype)
            for shift in range(quad):
                shifted[shift, :few, shift : shift + many] = values
            return shifted

        key = (identity(weights, origin), weights.shape, "windows", rounded, sign, scale)
        return self._shared(key, weights, copy), pitch, MOST_FEW * pitch

    def indices(self, value: np.ndarray) -> int:
        return self._lazy((id(value), "indices"), value, lambda: self.put(np.ascontiguousarray(value, INT)))

    def recurrence(self, source: Recurrence) -> int:
        """A recurrent layer's address."""
        return self._lazy((id(source), "recurrence"), source, lambda: self._put_recurrence(source))

    def _put_recurrence(self, source: Recurrence) -> int:
        record = np.zeros((), RECURRENCE)
        relevant = source.relevant_blocks.indices(source.weights.shape[1])
        record["first_block"] = relevant[0] // source.units
        record["relevant_blocks"] = (relevant[1] - relevant[0]) // source.units
        for name in RECURRENCE.names or ():
            value: Any = getattr(source, name, 0)
            if name.endswith("_function"):
                number, parameters = function_code(value)
                record[name]["number"], record[name]["parameters"][: len(parameters)] = number, parameters
            elif isinstance(value, np.ndarray):
                record[name] = self.put(np.ascontiguousarray(value, np.float64))
            elif name not in ("first_block", "relevant_blocks"):
                record[name] = value or 0
        return self.put(record)

    def geometry(self, source: Geometry, operation: Operation) -> int:
        """A geometry's address, after a check for its operation."""
        return self._lazy((id(source), "geometry"), source, lambda: self._put_geometry(source, operation))

    def _put_geometry(self, source: Geometry, operation: Operation) -> int:
        check_geometry(source, operation)
        regions = np.zeros(len(source.regions), REGION)
        for region, region_of in zip(regions, source.regions, strict=True):
            region["rows"] = region["taps"] = 1
            for d, axis in enumerate(region_of.axes):
                count, taps = axis.index.shape
                factor = 0 if axis.factor is None else self.put(np.ascontiguousarray(axis.factor, np.float64))
                region["axes"][d] = (count, taps, self.indices(axis.positions), self.indices(axis.index), factor)
                region["rows"] *= count
                region["taps"] *= taps
        record = np.zeros((), GEOMETRY)
        record["source"], record["out"] = source.source, source.out
        record["source_rows"] = int(np.prod(source.source))
        record["regions_count"], record["regions"] = len(regions), self.put(regions)
        return self.put(record)
