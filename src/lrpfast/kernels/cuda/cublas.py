"""Plain matrix products by cuBLAS with an explicit compute type, so that float32 never becomes TF32 unasked."""

from __future__ import annotations

from typing import Any

import numpy as np

from .handles import COLUMNS, ROWS, Handles, require_float32


def available() -> bool:
    """Whether cuBLAS can be used; without it our own kernels compute all products, within the same tolerance."""
    return HANDLES.problem() is None


def _create(stream: int) -> Any:
    from cupy_backends.cuda.libs import cublas

    handle = cublas.create()
    cublas.setStream(handle, stream)
    cublas.setMathMode(handle, 0)  # CUBLAS_DEFAULT_MATH
    return handle


def _check(handle: Any) -> None:
    def multiply(x: int, w: int, out: int) -> None:
        gemm(handle, (ROWS, COLUMNS, COLUMNS), x, (w, COLUMNS, 1), out, np.dtype(np.float32))

    require_float32("cuBLAS", "products", multiply)


HANDLES = Handles(_create, _check)


def gemm(
    handle: Any,
    shape: tuple[int, int, int],
    a: int,
    weights: tuple[int, int, int],
    out: int,
    dtype: np.dtype,
    *,
    tf32: bool = False,
    add: bool = False,
) -> None:
    """Compute out (M, N) = a (M, K) · weights (K, N), or add it to out, on the handle's stream; a, out row-major.

    ``weights`` is (address, row step, column step). With ``tf32``, the operands are already rounded to TF32.
    """
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
