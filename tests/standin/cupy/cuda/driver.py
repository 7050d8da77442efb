"""Errors of the CUDA driver."""

from .runtime import CUDARuntimeError

_ERRORS = {
    1: "CUDA_ERROR_INVALID_VALUE: invalid argument",
    400: "CUDA_ERROR_INVALID_HANDLE: invalid resource handle",
    500: "CUDA_ERROR_NOT_FOUND: named symbol not found",
    700: "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered",
    719: "CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure",
}


class CUDADriverError(RuntimeError):
    """An error of the CUDA driver."""

    def __init__(self, status, note=""):
        self.status = status
        RuntimeError.__init__(self, _ERRORS.get(status, f"CUDA_ERROR_{status}") + note)


class KernelError(CUDADriverError, CUDARuntimeError):
    """A kernel went wrong. CUDA reports that from whichever call comes next, of the driver or the runtime."""
