"""Arrays of other libraries: DLPack and the CUDA array interface."""

import ctypes

import numpy as np

from . import _array
from .cuda import memory, runtime, stream
from .cuda.stream import Event, ExternalStream

_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.argtypes = [ctypes.py_object, ctypes.c_char_p]


def _device_field(capsule):
    """The device (type, id) inside a DLPack capsule, to read or change in place."""
    if _is_valid(capsule, b"dltensor"):
        tensor = _get_pointer(capsule, b"dltensor")
    else:  # the versioned tensor begins with version, manager context, deleter and flags
        tensor = _get_pointer(capsule, b"dltensor_versioned") + 32
    return (ctypes.c_int32 * 2).from_address(tensor + 8)  # after the data pointer


def export(array, consumer):
    """A DLPack capsule, ready on the consumer's stream (a pointer; 1 is the null stream)."""
    capsule = array._a.__dlpack__()
    _device_field(capsule)[:] = 2, array._mem.device_id
    current = stream.get_current_stream()
    if consumer != -1:
        other = stream.Stream.null if consumer in (None, 0, 1, 2) else ExternalStream(consumer, array._mem.device_id)
        if other != current:
            event = Event()
            event.record(current)
            other.wait_event(event)
    return capsule


class _Capsule:
    """A DLPack capsule as NumPy takes it: as if it lay on the host."""

    def __init__(self, capsule):
        self._capsule = capsule
        _device_field(capsule)[:] = 1, 0

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, **kwargs):
        return self._capsule


def from_dlpack(array, *, device=None, copy=None):
    """An array over the memory of a CUDA tensor of another library."""
    kind, number = array.__dlpack_device__()
    if kind not in (2, 13):
        raise TypeError("CPU arrays cannot be directly imported to CuPy. Use `cupy.array(numpy.from_dlpack(input))`.")
    host = np.from_dlpack(_Capsule(array.__dlpack__(stream=stream.get_current_stream().ptr or 1)))
    return _foreign(host.ctypes.data, host.shape, host.strides, host.dtype, host, number)


def from_interface(obj):
    """An array over the memory that an object shows by __cuda_array_interface__."""
    desc = obj.__cuda_array_interface__
    dtype, shape = np.dtype(desc["typestr"]), tuple(desc["shape"])
    number = obj.__dlpack_device__()[1] if hasattr(obj, "__dlpack_device__") else None
    if desc.get("stream") is not None:
        ExternalStream(desc["stream"] if desc["stream"] > 2 else 0).synchronize()
    return _foreign(desc["data"][0], shape, desc.get("strides"), dtype, obj, number)


def _foreign(ptr, shape, strides, dtype, owner, number):
    block = memory._block_at(ptr)
    number = number if number is not None else block.device if block is not None else runtime.getDevice()
    mem = memory.UnownedMemory(ptr, 0, owner, number)
    return _array.ndarray._of(memory._at(ptr, shape, strides, dtype, mem))
