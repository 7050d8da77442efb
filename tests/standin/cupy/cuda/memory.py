"""Device memory: host pages that start as NaN, end at an unreadable page, and vanish when freed."""

import bisect
import collections
import contextlib
import ctypes
import mmap
import weakref

import numpy as np

from ..standin import CONFIG, LOCK, on_reset
from . import runtime

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_NONE, _READ_WRITE, _PRIVATE_ANONYMOUS, _DONTNEED = 0, 3, 0x22, 4
_PAGE, _ALIGN = mmap.PAGESIZE, 16  # 16 bytes: what float4 loads need, and little slack before the guard page

_blocks = {}  # address -> weak reference to its block
_addresses = []  # the keys of _blocks, sorted
_graveyard = collections.deque()  # freed ranges, kept unreadable for a while so that no new block takes their place
_used, _cached = collections.Counter(), collections.Counter()  # bytes per device, as CuPy's pool counts them


class OutOfMemoryError(MemoryError):
    """The device has not enough memory left."""

    def __init__(self, size, total, limit=0):
        limited = f", limit set to: {limit:,} bytes" if limit else ""
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{limited}).")


class _Interface:
    """What NumPy needs to see an array at an address."""

    def __init__(self, ptr, shape, strides, dtype):
        plain = dtype.str if dtype.names is None else f"|V{dtype.itemsize}"
        self.__array_interface__ = {"data": (ptr, False), "shape": shape, "strides": strides, "typestr": plain}
        self.__array_interface__["version"] = 3


def _at(ptr, shape, strides, dtype, owner=None):
    """The NumPy array at this address, keeping `owner` alive."""
    interface = _Interface(ptr, tuple(shape), strides, dtype)
    interface.owner = owner
    view = np.asarray(interface)
    return view if dtype.names is None else view.view(dtype)


class Block:
    """The pages of one allocation; queued work holds on to these after the array is gone."""

    def __init__(self, nbytes, device):
        self.nbytes, self.device = nbytes, device
        inner = -(-nbytes // _PAGE) * _PAGE
        self.span = inner + 2 * _PAGE
        self.start = _libc.mmap(None, self.span, _NONE, _PRIVATE_ANONYMOUS, -1, 0)
        if self.start in (None, ctypes.c_void_p(-1).value):
            raise MemoryError(f"the host has no {nbytes} bytes for the stand-in")
        body = self.start + _PAGE
        if inner:
            _libc.mprotect(body, inner, _READ_WRITE)
            ctypes.memset(body, 0xFF, inner)
        self.ptr = body + (inner - nbytes) // _ALIGN * _ALIGN
        self.slack = body + inner - self.ptr - nbytes
        _blocks[self.ptr] = weakref.ref(self)
        bisect.insort(_addresses, self.ptr)

    def intact(self):
        """Whether the few bytes between the end of the block and the guard page are untouched."""
        return ctypes.string_at(self.ptr + self.nbytes, self.slack) == b"\xff" * self.slack

    def __del__(self, _libc=_libc):
        with LOCK, contextlib.suppress(AttributeError, TypeError):  # at interpreter exit names may be gone
            del _blocks[self.ptr]
            del _addresses[bisect.bisect_left(_addresses, self.ptr)]
            _libc.mprotect(self.start, self.span, _NONE)
            _libc.madvise(self.start, self.span, _DONTNEED)
            _graveyard.append((self.start, self.span))
            if len(_graveyard) > 1000:
                _libc.munmap(*_graveyard.popleft())


def _block_at(ptr):
    """The living block that holds this address, or None."""
    i = bisect.bisect_right(_addresses, ptr) - 1
    block = _blocks[_addresses[i]]() if i >= 0 else None
    return block if block is not None and ptr < block.ptr + max(block.nbytes, 1) else None


def _describe(ptr):
    """Where an address lies that a kernel must not touch."""
    i = bisect.bisect_right(_addresses, ptr) - 1
    for near in _addresses[max(i, 0) : i + 2]:
        block = _blocks[near]()
        if block is not None and block.start <= ptr < block.start + block.span:
            side = f"{ptr - near - block.nbytes} bytes past the end" if ptr > near else f"{near - ptr} bytes before"
            return f"{side} of an array of {block.nbytes} bytes"
    freed = any(start <= ptr < start + span for start, span in _graveyard)
    return "in freed memory" if freed else "in no array"


class Memory:
    """What arrays hold: the pool counts these, and their end is the end of the memory for Python."""

    def __init__(self, size, device=None):
        runtime.getDeviceCount()  # raises where there is no device
        self.device_id = runtime.getDevice() if device is None else device
        self.size = -(-size // 512) * 512
        with LOCK:
            _take(self.size, self.device_id)
            self.block = Block(size, self.device_id)
        self.ptr = self.block.ptr

    def __del__(self):
        with LOCK, contextlib.suppress(AttributeError, TypeError):
            self.block  # noqa: B018 - without one nothing was taken
            _used[self.device_id] -= self.size
            _cached[self.device_id] += self.size

    @property
    def device(self):
        from .device import Device

        return Device(self.device_id)


class UnownedMemory:
    """Memory of another library that an owner keeps alive."""

    def __init__(self, ptr, size, owner, device_id=-1):
        self.ptr, self.size, self.owner = ptr, size, owner
        self.device_id = runtime.getDevice() if device_id < 0 else device_id
        self.block = _block_at(ptr)

    device = Memory.device


class MemoryPointer:
    """A place within a piece of memory."""

    def __init__(self, mem, offset):
        self.mem, self.ptr = mem, mem.ptr + offset

    device_id = property(lambda self: self.mem.device_id)
    device = property(lambda self: self.mem.device)

    def __add__(self, offset):
        return MemoryPointer(self.mem, self.ptr - self.mem.ptr + offset)

    __radd__ = __add__

    def __sub__(self, offset):
        return self + -offset

    def __int__(self):
        return self.ptr


def _take(size, device):
    """Count an allocation, taking it from the pool's cache where that is large enough."""
    hook = CONFIG["fail_allocation"]
    total = _used[device] + _cached[device]
    if hook is not None and hook(size):
        raise OutOfMemoryError(size, total)
    if _cached[device] >= size:
        _cached[device] -= size
    elif total + size > CONFIG["memory"]:
        _cached[device] = 0  # CuPy returns the cache to the device and tries once more
        if _used[device] + size > CONFIG["memory"]:
            raise OutOfMemoryError(size, total)
    _used[device] += size


def _info(device):
    with LOCK:
        return CONFIG["memory"] - _used[device] - _cached[device], CONFIG["memory"]


@on_reset
def _reset():
    _cached.clear()


class MemoryPool:
    """The counts of CuPy's default pool, for the current device."""

    def malloc(self, size):
        return MemoryPointer(Memory(size), 0)

    def used_bytes(self):
        return _used[runtime.getDevice()]

    def free_bytes(self):
        return _cached[runtime.getDevice()]

    def total_bytes(self):
        return self.used_bytes() + self.free_bytes()

    def n_free_blocks(self):
        return int(self.free_bytes() > 0)

    def free_all_blocks(self, stream=None):
        with LOCK:
            _cached[runtime.getDevice()] = 0

    def get_limit(self):
        return 0

    def set_limit(self, size=None, fraction=None):
        raise AssertionError("the pool belongs to the user: its limit must stay as it is")


_default_pool = MemoryPool()


def alloc(size):
    return _default_pool.malloc(size)
