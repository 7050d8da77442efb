"""Errors, devices and memory as the CUDA runtime reports them."""

import threading

from ..standin import CONFIG, on_reset

is_hip = False
CUDA_R_32F, CUDA_R_64F = 0, 1
streamCaptureModeGlobal, streamCaptureModeThreadLocal, streamCaptureModeRelaxed = 0, 1, 2

_ERRORS = {
    1: "cudaErrorInvalidValue: invalid argument",
    2: "cudaErrorMemoryAllocation: out of memory",
    100: "cudaErrorNoDevice: no CUDA-capable device is detected",
    101: "cudaErrorInvalidDevice: invalid device ordinal",
    400: "cudaErrorInvalidResourceHandle: invalid resource handle",
    600: "cudaErrorNotReady: device not ready",
    700: "cudaErrorIllegalAddress: an illegal memory access was encountered",
    900: "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing",
    901: "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error during capture",
    904: "cudaErrorStreamCaptureUnjoined: capturing stream has unjoined work",
    905: "cudaErrorStreamCaptureIsolation: dependency created on uncaptured work in another stream",
    906: "cudaErrorStreamCaptureImplicit: operation would make the legacy stream depend on a capturing blocking stream",
    907: "cudaErrorCapturedEvent: operation not permitted on an event last recorded in a capturing stream",
}


class CUDARuntimeError(RuntimeError):
    """An error of the CUDA runtime."""

    def __init__(self, status, note=""):
        self.status = status
        super().__init__(_ERRORS.get(status, f"cudaError{status}") + note)


class _Local(threading.local):
    device = 0


_local = _Local()


@on_reset
def _reset():
    _local.device = 0


def getDeviceCount():
    if CONFIG["devices"] < 1:
        raise CUDARuntimeError(100)
    return CONFIG["devices"]


def getDevice():
    return _local.device


def setDevice(device):
    if not 0 <= device < getDeviceCount():
        raise CUDARuntimeError(101)
    _local.device = int(device)


def deviceSynchronize():
    from . import stream

    stream._synchronize_device(getDevice())


def memGetInfo():
    from . import memory

    return memory._info(getDevice())


def runtimeGetVersion():
    return 13000


def driverGetVersion():
    return 13000


def getDeviceProperties(device):
    if not 0 <= device < getDeviceCount():
        raise CUDARuntimeError(101)
    return {
        "name": b"stand-in",
        "totalGlobalMem": CONFIG["memory"],
        "multiProcessorCount": CONFIG["multiprocessors"],
        "major": int(CONFIG["compute_capability"][:-1]),
        "minor": int(CONFIG["compute_capability"][-1]),
        "warpSize": 32,
        "maxThreadsPerBlock": 1024,
        "maxThreadsPerMultiProcessor": 2048,
        "sharedMemPerBlock": 48 << 10,
        "sharedMemPerBlockOptin": 227 << 10,
        "sharedMemPerMultiprocessor": 228 << 10,
        "regsPerBlock": 65536,
        "l2CacheSize": 50 << 20,
        "integrated": 0,
    }
