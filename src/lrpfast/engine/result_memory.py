"""Memory of large results, kept when the last array of it is gone: the next result of that size needs no new pages.

The system clears every page that it hands out, which takes longer than explaining a wide, shallow network. So a loop
of `analyze`, each of whose results is dropped before the one after next, costs what it costs with ``out=``.
"""

from __future__ import annotations

import math
import os
import weakref
from typing import Any

import numpy as np

from ..errors import InputError
from ..model.layers.base import whole

VARIABLE = "LRPFAST_RESULT_MEMORY"
#: Bytes that are kept at most, unless the caller or the variable says otherwise.
DEFAULT = 256 << 20
#: Smaller results come from memory that the C library itself keeps.
LEAST = 1 << 20

_limit: int | None = None  # from set_result_memory
#: Blocks that no array uses, the oldest first, by id. Only single operations of a dictionary, which threads and
#: finalizers may run at any time.
_free: dict[int, np.ndarray] = {}


class _Lease:
    """What an array's base is while it uses a block; gone with the last array or view."""

    __slots__ = ("__array_interface__", "__weakref__")

    def __init__(self, block: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.__array_interface__ = {
            "data": (block.ctypes.data, False),
            "shape": shape,
            "typestr": dtype.str,
            "version": 3,
        }
        weakref.finalize(self, _give_back, block).atexit = False


def _check(nbytes: Any, source: str) -> int:
    count = whole(nbytes)
    if count is None or count < 0:
        raise InputError(f"{source} must be a whole number of bytes, 0 to keep none, not {nbytes!r}")
    return count


def set_result_memory(nbytes: int | None) -> None:
    """Set how much memory of dropped results is kept for new ones.

    Explanations on the CPU that take a megabyte or more use memory of earlier ones, once no array of it is left:
    the system need not provide and clear new pages. Results do not depend on it.

    Parameters
    ----------
    nbytes : int or None
        The most bytes that are kept; 0 keeps none. None restores the default: the environment variable
        ``LRPFAST_RESULT_MEMORY`` or, if it is not set, 256 MiB.

    Raises
    ------
    InputError
        For anything but an integer of at least 0.

    Examples
    --------
    >>> lrpfast.set_result_memory(1 << 30)
    >>> lrpfast.get_result_memory()
    1073741824
    >>> lrpfast.set_result_memory(None)
    """
    global _limit
    _limit = None if nbytes is None else _check(nbytes, "nbytes")
    _trim()


def get_result_memory() -> int:
    """How many bytes of dropped results are kept at most: see `set_result_memory`.

    Examples
    --------
    >>> lrpfast.set_result_memory(0)
    >>> lrpfast.get_result_memory()
    0
    >>> lrpfast.set_result_memory(None)
    """
    if _limit is not None:
        return _limit
    text = os.environ.get(VARIABLE)
    return DEFAULT if not text else _check(int(text) if text.isdecimal() else text, VARIABLE)


def _trim() -> None:
    blocks = list(_free.items())
    excess = sum(block.nbytes for _, block in blocks) - get_result_memory()
    for key, block in blocks:
        if excess <= 0:
            return
        if _free.pop(key, None) is not None:
            excess -= block.nbytes


def _give_back(block: np.ndarray) -> None:
    if block.nbytes <= get_result_memory():
        _free[id(block)] = block
        _trim()


def result_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array for a result, its values undefined; of memory that an earlier one has left, where there is some."""
    nbytes = math.prod(shape) * dtype.itemsize
    if not LEAST <= nbytes <= get_result_memory():
        return np.empty(shape, dtype)
    fitting = [(b.nbytes, key) for key, b in list(_free.items()) if nbytes <= b.nbytes <= nbytes + nbytes // 4]
    block = _free.pop(min(fitting)[1], None) if fitting else None  # None too where another thread has just taken it
    return np.asarray(_Lease(np.empty(nbytes, np.uint8) if block is None else block, shape, dtype))
