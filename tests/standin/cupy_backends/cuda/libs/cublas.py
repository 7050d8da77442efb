"""The part of cuBLAS that the project calls, in NumPy on raw pointers."""

import ctypes
import itertools

import numpy as np
from cupy.cuda import memory, runtime
from cupy.cuda.stream import ExternalStream, Stream
from cupy.standin import CONFIG, LOCK


def _require():
    if not CONFIG["cublas"]:
        raise ImportError('Failure finding "libcublas.so": No such file: libcublas.so')


_require()

CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_OP_C = 0, 1, 2
CUBLAS_DEFAULT_MATH, CUBLAS_TENSOR_OP_MATH, CUBLAS_PEDANTIC_MATH, CUBLAS_TF32_TENSOR_OP_MATH = 0, 1, 2, 3
CUBLAS_POINTER_MODE_HOST, CUBLAS_POINTER_MODE_DEVICE = 0, 1
CUBLAS_GEMM_DEFAULT = CUBLAS_GEMM_DFALT = -1
CUBLAS_GEMM_DEFAULT_TENSOR_OP = CUBLAS_GEMM_DFALT_TENSOR_OP = 99
CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_PEDANTIC = 68, 69
CUBLAS_COMPUTE_64F, CUBLAS_COMPUTE_64F_PEDANTIC = 70, 71
CUBLAS_COMPUTE_32F_FAST_TF32 = 77
CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_NOT_INITIALIZED, CUBLAS_STATUS_INVALID_VALUE = 0, 1, 7
CUBLAS_STATUS_EXECUTION_FAILED, CUBLAS_STATUS_NOT_SUPPORTED = 13, 15

_TYPES = {runtime.CUDA_R_32F: np.dtype("f4"), runtime.CUDA_R_64F: np.dtype("f8")}
_COMPUTE = {68: "f4", 69: "f4", 77: "f4", 70: "f8", 71: "f8"}
_STATUS = {
    1: "CUBLAS_STATUS_NOT_INITIALIZED",
    7: "CUBLAS_STATUS_INVALID_VALUE",
    13: "CUBLAS_STATUS_EXECUTION_FAILED",
    15: "CUBLAS_STATUS_NOT_SUPPORTED",
}
_handles = {}
_numbers = itertools.count(0x900, 0x10)


class CUBLASError(RuntimeError):
    """A failed call of cuBLAS."""

    def __init__(self, status):
        self.status = status
        super().__init__(_STATUS[status])


class _Handle:
    def __init__(self):
        self.device, self.stream, self.mode = runtime.getDevice(), Stream.null, CUBLAS_DEFAULT_MATH


def _find(handle):
    if handle not in _handles:
        raise CUBLASError(CUBLAS_STATUS_NOT_INITIALIZED)
    return _handles[handle]


def create():
    _require()
    number = next(_numbers)
    _handles[number] = _Handle()
    return number


def destroy(handle):
    _find(handle)
    del _handles[handle]


def getVersion(handle):
    _find(handle)
    return 130000


def setStream(handle, stream):
    _find(handle).stream = ExternalStream(stream, _find(handle).device) if stream else Stream.null


def getStream(handle):
    return _find(handle).stream.ptr


def setMathMode(handle, mode):
    _find(handle).mode = mode


def getMathMode(handle):
    return _find(handle).mode


def setPointerMode(handle, mode):
    _find(handle)
    if mode != CUBLAS_POINTER_MODE_HOST:
        raise CUBLASError(CUBLAS_STATUS_NOT_SUPPORTED)


def getPointerMode(handle):
    _find(handle)
    return CUBLAS_POINTER_MODE_HOST


def gemmEx(
    handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc, computeType, algo
):  # fmt: skip
    """C = alpha op(A) op(B) + beta C, all column-major."""
    gemmStridedBatchedEx(
        handle, transa, transb, m, n, k, alpha, A, Atype, lda, 0, B, Btype, ldb, 0, beta, C, Ctype, ldc, 0, 1,
        computeType, algo,
    )  # fmt: skip


def gemmStridedBatchedEx(
    handle, transa, transb, m, n, k, alpha, A, Atype, lda, strideA, B, Btype, ldb, strideB, beta, C, Ctype, ldc,
    strideC, batchCount, computeType, algo,
):  # fmt: skip
    """The same for a batch of matrices at fixed distances."""
    h = _find(handle)
    if {Atype, Btype, Ctype} - set(_TYPES) or computeType not in _COMPUTE:
        raise CUBLASError(CUBLAS_STATUS_NOT_SUPPORTED)
    dtype = np.dtype(_COMPUTE[computeType])
    if {Atype, Btype, Ctype} != {next(code for code, known in _TYPES.items() if known == dtype)}:
        raise CUBLASError(CUBLAS_STATUS_NOT_SUPPORTED)
    shapes = [(m, k)[:: -1 if transa else 1], (k, n)[:: -1 if transb else 1], (m, n)]
    if min(m, n, k, batchCount) < 0 or any(
        ld < max(1, rows) for ld, (rows, _) in zip((lda, ldb, ldc), shapes, strict=True)
    ):
        raise CUBLASError(CUBLAS_STATUS_INVALID_VALUE)
    if 0 in (m, n, batchCount):
        return
    alpha, beta = (np.frombuffer(ctypes.string_at(p, dtype.itemsize), dtype)[0] for p in (alpha, beta))
    tf32 = computeType == CUBLAS_COMPUTE_32F_FAST_TF32 or (
        computeType == CUBLAS_COMPUTE_32F and h.mode == CUBLAS_TF32_TENSOR_OP_MATH
    )
    places = zip((A, B, C), (lda, ldb, ldc), (strideA, strideB, strideC), shapes, strict=True)
    with LOCK:
        (a, a_block), (b, b_block), (c, c_block) = (_matrices(h, *place, batchCount, dtype) for place in places)

        def run():
            left = a.swapaxes(1, 2) if transa else a
            right = b.swapaxes(1, 2) if transb else b
            product = alpha * ((_tf32(left) @ _tf32(right)) if tf32 else left @ right)
            c[...] = product if beta == 0 else product + beta * c

        h.stream._queue(run, [block for block in (a_block, b_block, c_block) if block is not None])


def _matrices(h, ptr, ld, stride, shape, count, dtype):
    """The column-major matrices at a pointer, and the block they lie in, which must hold all of them."""
    rows, columns = shape
    size = dtype.itemsize
    block = memory._block_at(ptr)
    extent = size * ((count - 1) * stride + max(columns - 1, 0) * ld + rows) if columns else 0
    if block is not None and (block.device != h.device or ptr + extent > block.ptr + block.nbytes):
        raise CUBLASError(CUBLAS_STATUS_EXECUTION_FAILED)
    if block is None and extent and any(start <= ptr < start + span for start, span in memory._graveyard):
        raise CUBLASError(CUBLAS_STATUS_EXECUTION_FAILED)
    return memory._at(ptr, (count, rows, columns), (stride * size, size, ld * size), dtype), block


def _tf32(x):
    """Rounded to the 10 mantissa bits that tensor cores take."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
