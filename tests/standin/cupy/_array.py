"""Device arrays: NumPy arrays over guarded memory that refuse to mix with NumPy's own."""

import functools
import math
import operator

import numpy as np

from .cuda import memory, pinned_memory, runtime, stream
from .cuda.device import Device
from .standin import LOCK


def _memory_of(a):
    """The device memory that a NumPy array is a view of, or None."""
    while a is not None:
        if isinstance(a, memory._Interface):
            return a.owner
        a = getattr(a, "base", None)
    return None


def _new(shape, dtype, order="C", memptr=None, strides=None):
    """A NumPy array over new device memory, or over the memory that `memptr` points to."""
    dtype = np.dtype(dtype)
    shape = (int(shape),) if np.ndim(shape) == 0 and not isinstance(shape, tuple) else tuple(map(int, shape))
    if min(shape, default=0) < 0:
        raise ValueError("Negative dimensions are not allowed")
    if order == "F" and strides is None:
        strides = tuple(dtype.itemsize * math.prod(shape[:i]) for i in range(len(shape)))
    if memptr is None:
        mem = memory.Memory(math.prod(shape) * dtype.itemsize)
        memptr = memory.MemoryPointer(mem, 0)
    return memory._at(memptr.ptr, shape, strides, dtype, memptr.mem)


def _raw(a):
    """The same array without a hold on its memory, for queued work, and the block to hold instead."""
    mem = _memory_of(a)
    if not isinstance(mem, memory.Memory) and (mem is None or mem.block is None):
        return a, ()
    return memory._at(a.ctypes.data, a.shape, a.strides, a.dtype), (mem.block,)


def _wrap(x):
    """Device arrays for NumPy's results; what does not lie in device memory yet is copied there."""
    if isinstance(x, np.ndarray | np.generic):
        if isinstance(x, np.generic) or _memory_of(x) is None:
            host, x = x, _new(x.shape, x.dtype, "F" if np.isfortran(x) else "C")
            x[...] = host
        return ndarray._of(x)
    if isinstance(x, tuple | list):
        return type(x)(map(_wrap, x))
    return x


def _unwrap(x):
    """NumPy arrays for device arrays; host arrays are refused."""
    if isinstance(x, ndarray):
        if x._mem.device_id != runtime.getDevice():
            raise ValueError(
                "Array device must be same as the current device: "
                f"array device = {x._mem.device_id} while current = {runtime.getDevice()}"
            )
        return x._a
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    if isinstance(x, tuple | list):
        return type(x)(map(_unwrap, x))
    if isinstance(x, slice):
        return slice(*map(_unwrap, (x.start, x.stop, x.step)))
    return x


def _now(function):
    """A NumPy function for device arrays. It runs at once, after what is queued on the current stream."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        args = [_unwrap(a) for a in args]
        kwargs = {name: _unwrap(value) for name, value in kwargs.items()}
        with LOCK:
            stream._drain()
            return _wrap(function(*args, **kwargs))

    return run


def _view(method):
    """A method that gives a view where NumPy's does, which needs no waiting, and else a copy."""

    @functools.wraps(method)
    def run(self, *args, **kwargs):
        args = [_unwrap(a) for a in args]
        result = method(self._a, *args, **kwargs)
        if _memory_of(result) is not None:
            return ndarray._of(result)
        with LOCK:
            stream._drain()
            return _wrap(method(self._a, *args, **kwargs))

    return run


def _fill(target, value, index=...):
    """Queue target[index] = value on the current stream."""
    target, hold = _raw(target)
    if isinstance(value, np.ndarray):
        value, more = _raw(value)
        hold += more
    on = stream.get_current_stream()

    def run():
        target[index] = value

    on._queue(run, hold)


def _is_basic(index):
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        part is None or part is Ellipsis or isinstance(part, slice)
        or (isinstance(part, int | np.integer) and not isinstance(part, bool))
        for part in parts
    )  # fmt: skip


class ndarray:
    """An array in device memory."""

    __array_priority__ = 100
    __hash__ = None

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        self._bind(_new(shape, dtype, order, memptr, strides))

    def _bind(self, a):
        self._a, self._mem = a, _memory_of(a)

    @classmethod
    def _of(cls, a):
        self = object.__new__(cls)
        self._bind(a)
        return self

    # ---- what NumPy may and may not do with it

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc, method, *args, **kwargs):
        return _now(getattr(ufunc, method))(*args, **kwargs)

    def __array_function__(self, function, types, args, kwargs):
        return _now(function)(*args, **kwargs)

    # ---- where it is

    data = property(lambda self: memory.MemoryPointer(self._mem, self._a.ctypes.data - self._mem.ptr))
    device = property(lambda self: Device(self._mem.device_id))
    base = property(lambda self: None if self._a.nbytes == getattr(self._mem, "size", -1) else self._mem)

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "strides": None if self._a.flags.c_contiguous else self.strides,
            "data": (self._a.ctypes.data, False),
            "stream": stream.get_current_stream().ptr or 1,
            "version": 3,
        }

    def __dlpack_device__(self):
        return 2, self._mem.device_id

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        from ._interchange import export

        return export(self, stream)

    # ---- copies between host and device

    def get(self, stream=None, order="C", out=None, blocking=True):
        a = self._a
        if out is None:
            if order == "A":
                order = "F" if a.flags.f_contiguous and not a.flags.c_contiguous else "C"
            out = np.empty(a.shape, a.dtype, order)
            out.view(np.uint8).fill(0xFF) if out.ndim and out.flags.c_contiguous else None
        elif not isinstance(out, np.ndarray):
            raise TypeError("Only numpy.ndarray can be obtained from cupy.ndarray")
        elif out.dtype != a.dtype:
            raise TypeError(f"{out.dtype} array cannot be obtained from {a.dtype} array")
        elif out.shape != a.shape:
            raise ValueError(f"Shape mismatch. Expected shape: {a.shape}, actual shape: {out.shape}")
        elif not (out.flags.c_contiguous or out.flags.f_contiguous):
            raise RuntimeError("`out` cannot be specified when copying to non-contiguous ndarray")
        source, hold = _raw(a)

        def run():
            out[...] = source

        with LOCK:
            on = _stream(stream)
            if blocking:
                on._check_idle()
            op = on._queue(run, hold)
            if blocking:
                _run([op])
        return out

    def set(self, arr, stream=None):
        a = self._a
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != a.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {a.dtype} array")
        if arr.shape != a.shape:
            raise ValueError(f"Shape mismatch. Old shape: {a.shape}, new shape: {arr.shape}")
        if not (a.flags.c_contiguous or a.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        same_layout = arr.flags.c_contiguous if a.flags.c_contiguous else arr.flags.f_contiguous
        if not (same_layout and pinned_memory._is_pinned(arr.ctypes.data)):
            arr = arr.copy()  # pageable memory has been read when the call returns
        target, hold = _raw(a)

        def run():
            target[...] = arr

        _stream(stream)._queue(run, hold)

    def item(self, *args):
        return self.get().item(*args)

    def tolist(self):
        return self.get().tolist()

    def tobytes(self, order="C"):
        return self.get().tobytes(order)

    def __float__(self):
        return float(self.get())

    def __int__(self):
        return int(self.get())

    def __bool__(self):
        return bool(self.get())

    def __complex__(self):
        return complex(self.get())

    def __index__(self):
        return operator.index(self.get()[()])

    def __repr__(self):
        return repr(self.get())

    def __str__(self):
        return str(self.get())

    def __format__(self, spec):
        return format(self.get()[()] if self.ndim == 0 else self.get(), spec)

    # ---- views and copies on the device

    shape = property(lambda self: self._a.shape, lambda self, shape: self._bind(self._a.reshape(shape, copy=False)))
    T = property(lambda self: ndarray._of(self._a.T))
    reshape = _view(np.ndarray.reshape)
    ravel = _view(np.ndarray.ravel)
    swapaxes = _view(np.ndarray.swapaxes)
    transpose = _view(np.ndarray.transpose)
    squeeze = _view(np.ndarray.squeeze)
    view = _view(np.ndarray.view)
    diagonal = _view(np.ndarray.diagonal)

    def __len__(self):
        return len(self._a)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        if _is_basic(index):
            parts = index if isinstance(index, tuple) else (index,)
            whole = any(part is Ellipsis for part in parts)
            return ndarray._of(self._a[index if whole else (*parts, ...)])  # one element is a 0-d view
        return _now(np.ndarray.__getitem__)(self, index)

    def __setitem__(self, index, value):
        value = _unwrap(value)
        index, target = _unwrap(index), _unwrap(self)
        if _is_basic(index):
            _fill(target, value, index)
        else:
            with LOCK:
                stream._drain()
                target[index] = value

    def fill(self, value):
        _fill(_unwrap(self), _unwrap(value))

    def copy(self, order="C"):
        return self.astype(self.dtype, order)

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        dtype = np.dtype(dtype)
        if not copy and dtype == self.dtype:
            return self
        a = _unwrap(self)
        order = ("F" if a.flags.f_contiguous and not a.flags.c_contiguous else "C") if order in "KA" else order
        out = _new(a.shape, dtype, order)
        _fill(out, a)
        return ndarray._of(out)

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __getattr__(self, name):
        if name.startswith("_"):  # not NumPy's own protocols, which would convert without being asked
            raise AttributeError(name)
        value = getattr(np.ndarray, name)
        if callable(value):
            return functools.partial(_now(value), self)
        value = getattr(self._a, name)
        return ndarray._of(value) if isinstance(value, np.ndarray) else value


_run = stream._run


def _stream(given):
    return stream.get_current_stream() if given is None else given


def _operator(name):
    function = getattr(np.ndarray, f"__{name}__")

    def run(self, *others):
        result = _now(function)(self, *others)
        return self if name[0] == "i" and name != "invert" else result

    setattr(ndarray, f"__{name}__", run)


_OPERATORS = """
    add sub mul truediv floordiv mod pow matmul and or xor lshift rshift divmod
    radd rsub rmul rtruediv rfloordiv rmod rpow rmatmul rand ror rxor
    iadd isub imul itruediv ifloordiv imod ipow iand ior ixor
    neg pos abs invert lt le gt ge eq ne
"""
for _name in _OPERATORS.split():
    _operator(_name)
