"""Devices."""

from ..standin import CONFIG
from . import memory, runtime, stream


class Device:
    """A device; as a context manager it is the current one."""

    def __init__(self, device=None):
        self.id = runtime.getDevice() if device is None else int(device)
        self._before = []

    def __int__(self):
        return self.id

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self):
        return hash(self.id)

    def __repr__(self):
        return f"<CUDA Device {self.id}>"

    def __enter__(self):
        self._before.append(runtime.getDevice())
        runtime.setDevice(self.id)
        return self

    def __exit__(self, *exc):
        runtime.setDevice(self._before.pop())

    def use(self):
        runtime.setDevice(self.id)
        return self

    def synchronize(self):
        stream._synchronize_device(self.id)

    @property
    def compute_capability(self):
        return CONFIG["compute_capability"]

    @property
    def mem_info(self):
        return memory._info(self.id)

    @property
    def pci_bus_id(self):
        return f"0000:{self.id:02X}:00.0"

    @property
    def attributes(self):
        return {
            "MultiProcessorCount": CONFIG["multiprocessors"],
            "ComputeCapabilityMajor": int(CONFIG["compute_capability"][:-1]),
            "ComputeCapabilityMinor": int(CONFIG["compute_capability"][-1]),
            "MaxSharedMemoryPerBlock": 48 << 10,
            "MaxSharedMemoryPerBlockOptin": 227 << 10,
            "MaxSharedMemoryPerMultiprocessor": 228 << 10,
            "MaxThreadsPerBlock": 1024,
            "MaxThreadsPerMultiProcessor": 2048,
            "MaxGridDimX": (1 << 31) - 1,
            "MaxGridDimY": 65535,
            "MaxGridDimZ": 65535,
            "L2CacheSize": 50 << 20,
            "WarpSize": 32,
        }
