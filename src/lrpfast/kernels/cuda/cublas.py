"""Plain matrix products by cuBLAS with an explicit compute type, so that float32 never becomes TF32 unasked."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import DeviceError

#: handles that no call is using, by device and stream: a handle's own memory may be in use on its last stream
_free: dict[tuple[int, int], list[Any]] = {}
_checked: set[int] = set()  # devices on which a float32 product was exact
_lock = threading.Lock()
_missing: str | None = None


def available() -> bool:
    """Whether cuBLAS can be used; without it our own kernels compute all products, within the same tolerance."""
    return problem() is None


def problem() -> str | None:
    """Why cuBLAS cannot be used, or None; looked up once, on the current device."""
    global _missing
    if _missing is None:
        import cupy

        try:
            with _handle(cupy.cuda.runtime.getDevice()):
                _missing = ""
        except DeviceError:  # it works, but its results are wrong
            raise
        except Exception as error:
            _missing = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return _missing or None


def forget() -> None:
    """Look for cuBLAS again, for tests."""
    global _missing
    _missing = None
    _free.clear()
    _checked.clear()


@contextlib.contextmanager
def _handle(device: int) -> Iterator[Any]:
    """A handle of the current device on the current stream that no other thread uses meanwhile."""
    import cupy
    from cupy_backends.cuda.libs import cublas

    stream = int(cupy.cuda.get_current_stream().ptr)
    with _lock:
        free = _free.setdefault((device, stream), [])
        handle = free.pop() if free else None
    if handle is None:
        handle = cublas.create()
        cublas.setStream(handle, stream)
        cublas.setMathMode(handle, 0)  # CUBLAS_DEFAULT_MATH
    try:
        if device not in _checked:
            _check(handle)
            _checked.add(device)
        yield handle
    finally:
        with _lock:
            free.append(handle)


def _check(handle: Any) -> None:
    """Check that a float32 product of numbers that TF32 would round is exact; else something forces TF32."""
    import cupy

    a = cupy.empty((32, 32), np.float32)
    a.set(np.full((32, 32), 1 + 2.0**-12, np.float32))
    b = cupy.empty((32, 32), np.float32)
    b.set(np.eye(32, dtype=np.float32))
    out = cupy.empty((32, 32), np.float32)
    _gemm(handle, (32, 32, 32), a.data.ptr, (b.data.ptr, 32, 1), out.data.ptr, np.dtype(np.float32))
    if (out.get() != np.float32(1 + 2.0**-12)).any():
        raise DeviceError(
            "cuBLAS rounds float32 products to TF32 on this machine though it is asked not to; "
            "is NVIDIA_TF32_OVERRIDE or a library set so?"
        )


def gemm(
    device: int,
    shape: tuple[int, int, int],
    a: int,
    weights: tuple[int, int, int],
    out: int,
    dtype: np.dtype,
    *,
    tf32: bool = False,
    add: bool = False,
) -> None:
    """Compute out (M, N) = a (M, K) · weights (K, N), or add it to out, on the current stream; a and out are row-major.

    ``weights`` is (address, row step, column step). With ``tf32``, the operands are already rounded to TF32.
    """
    with _handle(device) as handle:
        _gemm(handle, shape, a, weights, out, dtype, tf32, add)


def _gemm(
    handle: Any,
    shape: tuple[int, int, int],
    a: int,
    weights: tuple[int, int, int],
    out: int,
    dtype: np.dtype,
    tf32: bool = False,
    add: bool = False,
) -> None:
    from cupy_backends.cuda.libs import cublas

    rows, columns, depth = shape
    one, other = np.ones((), dtype), np.full((), 1 if add else 0, dtype)
    kind = 1 if dtype == np.float64 else 0  # CUDA_R_64F, CUDA_R_32F
    compute = 70 if dtype == np.float64 else 77 if tf32 else 68  # CUBLAS_COMPUTE_64F, _32F_FAST_TF32, _32F
    address, row_step, column_step = weights
    # cuBLAS is column-major, so it computes the transposed product, (N, K) · (K, M)
    by_rows = column_step == 1
    cublas.gemmEx(
        handle,
        *(0 if by_rows else 1, 0),  # CUBLAS_OP_N, CUBLAS_OP_T
        *(columns, rows, depth),
        one.ctypes.data,
        *(address, kind, row_step if by_rows else column_step),
        *(a, kind, depth),
        other.ctypes.data,
        *(out, kind, columns),
        *(compute, -1),  # CUBLAS_GEMM_DEFAULT
    )
