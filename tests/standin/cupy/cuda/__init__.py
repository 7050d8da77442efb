"""The part of cupy.cuda that the stand-in has."""

from . import compiler, device, driver, graph, memory, pinned_memory, runtime, stream
from .device import Device
from .graph import Graph
from .memory import Memory, MemoryPointer, MemoryPool, UnownedMemory, alloc
from .pinned_memory import PinnedMemoryPointer, alloc_pinned_memory
from .stream import Event, ExternalStream, Stream, get_current_stream, get_elapsed_time

__all__ = [
    "Device",
    "Event",
    "ExternalStream",
    "Graph",
    "Memory",
    "MemoryPointer",
    "MemoryPool",
    "PinnedMemoryPointer",
    "Stream",
    "UnownedMemory",
    "alloc",
    "alloc_pinned_memory",
    "compiler",
    "device",
    "driver",
    "get_current_stream",
    "get_device_id",
    "get_elapsed_time",
    "graph",
    "is_available",
    "memory",
    "pinned_memory",
    "runtime",
    "stream",
]


def is_available():
    try:
        return runtime.getDeviceCount() > 0
    except runtime.CUDARuntimeError:
        return False


def get_device_id():
    return runtime.getDevice()
