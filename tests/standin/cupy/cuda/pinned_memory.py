"""Page-locked host memory."""

import bisect
import ctypes
import weakref

from ..standin import LOCK

_ranges = []  # (address, end) of every living piece, sorted


class PinnedMemoryPointer(bytearray):
    """A piece of page-locked memory, with the buffer interface."""

    def size(self):
        return len(self)

    def __int__(self):
        return self.ptr

    __hash__ = object.__hash__


def alloc_pinned_memory(size):
    """At least `size` bytes: CuPy rounds up, so np.frombuffer needs a count."""
    size = -(-max(size, 1) // 512) * 512
    piece = PinnedMemoryPointer(b"\xff" * size)
    view = (ctypes.c_char * size).from_buffer(piece)
    piece.ptr = ctypes.addressof(view)
    del view
    place = (piece.ptr, piece.ptr + size)
    with LOCK:
        bisect.insort(_ranges, place)
    weakref.finalize(piece, _forget, place)
    return piece


def _forget(place):
    with LOCK:
        _ranges.remove(place)


def _is_pinned(ptr):
    i = bisect.bisect_right(_ranges, (ptr, float("inf"))) - 1
    return i >= 0 and ptr < _ranges[i][1]
