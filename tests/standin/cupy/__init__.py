"""A test double of CuPy on the CPU; see `cupy.standin` for its switches."""

import numpy as _np

from . import _interchange, cuda, standin
from ._array import _now, ndarray
from ._raw import RawKernel, RawModule
from .cuda import is_available
from .cuda.memory import _default_pool

__version__ = "14.2.0"
from_dlpack = _interchange.from_dlpack

__all__ = ["RawKernel", "RawModule", "asnumpy", "cuda", "from_dlpack", "is_available", "ndarray", "standin"]


def empty(shape, dtype=float, order="C"):
    return ndarray(shape, dtype, order=order)


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    return ndarray(prototype.shape if shape is None else shape, dtype or prototype.dtype)


def zeros(shape, dtype=float, order="C"):
    return full(shape, 0, dtype, order)


def ones(shape, dtype=float, order="C"):
    return full(shape, 1, dtype, order)


def full(shape, fill_value, dtype=None, order="C"):
    array = ndarray(shape, dtype or _np.asarray(fill_value).dtype, order=order)
    array.fill(fill_value)
    return array


def zeros_like(a, dtype=None):
    return zeros(a.shape, dtype or a.dtype)


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    if not isinstance(obj, ndarray) and hasattr(obj, "__cuda_array_interface__"):
        obj = _interchange.from_interface(obj)
    if isinstance(obj, ndarray):
        result = obj.astype(dtype or obj.dtype, copy=bool(copy))
        return ascontiguousarray(result) if order == "C" else result
    if isinstance(obj, list | tuple) and any(isinstance(part, ndarray) for part in obj):
        return _now(_np.stack)([part if dtype is None else part.astype(dtype) for part in obj])
    host = _np.array(obj, dtype, order="C" if order == "K" else order)
    if host.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    result = ndarray(host.shape, host.dtype, order="F" if _np.isfortran(host) else "C")
    result.set(host)
    if blocking:
        cuda.get_current_stream().synchronize()
    return result


def asarray(a, dtype=None, order=None, *, blocking=False):
    return array(a, dtype, copy=False, order=order or "K", blocking=blocking)


def ascontiguousarray(a, dtype=None):
    a = asarray(a, dtype)
    return (a if a._a.flags.c_contiguous else a.copy()).reshape(a.shape or (1,))


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    if isinstance(a, ndarray) or hasattr(a, "__cuda_array_interface__"):
        return asarray(a).get(stream, order, out, blocking)
    host = _np.asarray(a, order=order)
    if out is None:
        return host
    out[...] = host
    return out


def may_share_memory(a, b, max_work=None):
    return _np.may_share_memory(a._a, b._a)


def shares_memory(a, b, max_work=None):
    return _np.shares_memory(a._a, b._a)


def get_array_module(*args):
    import sys

    return sys.modules[__name__] if any(isinstance(a, ndarray) for a in args) else _np


def get_default_memory_pool():
    return _default_pool


def __getattr__(name):
    """Everything else is NumPy's: types and constants as they are, functions made to take device arrays."""
    if name.startswith("_"):
        raise AttributeError(name)
    value = getattr(_np, name)
    return value if isinstance(value, type) or not callable(value) else _now(value)
