"""Arrays in memory, and iterators of arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...engine.inputs import as_batch, as_real
from ...engine.threads import get_num_threads
from ...errors import InputError, ShapeError
from ...lazy import lazy_property
from .base import Source, row_bytes
from .fortran import copy_rows, feature_order
from .mapped import release

#: The approximate number of bytes of the rows that are digested together.
_BLOCK = 1 << 24
#: Values of a sample that are copied at a time from an array in Fortran order, so that they stay in the cache.
_VALUES = 256


class ArraySource(Source):
    """A NumPy array, or any object with ``__array__`` or DLPack, on the host or a GPU."""

    def __init__(self, x: Any) -> None:
        self.name = type(x).__name__
        self._array = as_real(x, self.name)
        self.shape, self.dtype = tuple(self._array.shape), np.dtype(self._array.dtype)
        self._check()

    def read(self, first: int, stop: int) -> np.ndarray:
        rows = self._array[first:stop]
        return rows if isinstance(rows, np.ndarray) else rows.get()  # CuPy's

    def read_into(self, first: int, stop: int, out: np.ndarray) -> np.ndarray:
        rows = self.read(first, stop)
        out = out[: len(rows)]
        if rows.ndim > 1 and rows.size and self._array.flags.f_contiguous:  # such as sst[:, ocean]
            copy_rows(rows.reshape(len(rows), -1, order="F").T, feature_order(rows.shape[1:]), out)
            return out
        step = rows[:1].size
        if rows.ndim > 1 and not rows.flags.c_contiguous:
            step = max(1, _VALUES // max(1, rows[:1, :1].size))
        for begin in range(0, rows.shape[1] if rows.ndim > 1 else 1, max(1, step)):
            part = (slice(None), slice(begin, begin + step)) if rows.ndim > 1 else slice(None)
            out[part] = rows[part]
        return out

    @lazy_property
    def fingerprint(self) -> dict[str, Any]:
        return digest(self)

    def done(self, stop: int) -> None:
        release(self._array)

    def close(self) -> None:
        self._array = self._array[:0]


def digest(source: Source) -> dict[str, Any]:
    """A digest of every byte: that of the digests of blocks, which several threads compute."""
    from concurrent.futures import ThreadPoolExecutor

    rows, samples = max(1, _BLOCK // max(1, row_bytes(source.shape, source.dtype))), source.shape[0] or 0

    def of_block(first: int) -> bytes:
        part = np.ascontiguousarray(source.read(first, min(samples, first + rows)))
        return hashlib.blake2b(part.reshape(-1).view(np.uint8)).digest()

    result = hashlib.blake2b(digest_size=20)
    with ThreadPoolExecutor(get_num_threads()) as pool:
        for block in pool.map(of_block, range(0, samples, rows)):
            result.update(block)
    source.done(source.shape[0])  # type: ignore[arg-type]
    return {"shape": list(source.shape), "dtype": source.dtype.str, "blake2b": result.hexdigest()}


class IteratorSource(Source):
    """Batches of any size from an iterator; the number of samples is unknown until the end."""

    def __init__(self, batches: Any) -> None:
        self.name = type(batches).__name__
        self._batches: Iterator[Any] = iter(batches)
        self._count, self._row = 0, 0
        try:
            first = next(self._batches)
        except StopIteration:
            raise InputError(f"{self.name}: gave no batch at all") from None
        self._rest = self._array(first)
        self.shape, self.dtype = (None, *self._rest.shape[1:]), self._rest.dtype
        self._check()

    def read(self, first: int, stop: int) -> np.ndarray:
        """The next rows, in order only; fewer, and then none, at the end of the batches."""
        if first != self._row:
            raise InputError(f"{self.name}: gives its rows in order; row {self._row} is next, not {first}")
        out = np.empty((stop - first, *self.shape[1:]), self.dtype)
        count = 0
        while count < len(out):
            if not len(self._rest):
                try:
                    batch = next(self._batches)
                except StopIteration:
                    break
                self._rest = self._next(batch)
            part = self._rest[: len(out) - count]
            # copied before the next batch is requested: an iterator may reuse its buffer
            out[count : count + len(part)] = part
            self._rest = self._rest[len(part) :]
            count += len(part)
        self._row += count
        return out[:count]

    def _next(self, batch: Any) -> np.ndarray:
        result = self._array(batch)
        if result.shape[1:] != self.shape[1:]:
            raise ShapeError(
                f"{self.name}: batch {self._count - 1} has samples of shape {result.shape[1:]}, "
                f"the first had {self.shape[1:]}"
            )
        if result.dtype != self.dtype:
            raise InputError(
                f"{self.name}: batch {self._count - 1} has dtype {result.dtype}, the first had {self.dtype}"
            )
        return result

    def _array(self, batch: Any) -> np.ndarray:
        name = f"{self.name}: batch {self._count}"
        self._count += 1
        if isinstance(batch, (tuple, list, dict)) or np.ndim(batch) == 0:
            raise InputError(f"{name} is of type {type(batch).__name__}; each must be one array (samples, …)")
        result = as_batch(batch, tuple(batch.shape[1:]), name)
        return result if isinstance(result, np.ndarray) else result.get()

    def close(self) -> None:
        stop = getattr(self._batches, "close", None)  # of a generator
        if stop is not None:
            stop()
