"""Recognises arrays on the host, arrays on a GPU and PyTorch tensors without importing CuPy or PyTorch."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from ..errors import DeviceError

#: DLPack's kDLCUDA and kDLCUDAManaged
_CUDA = (2, 13)


def on_device(array: Any) -> bool:
    """Whether an array is CuPy's."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def is_tensor(x: Any) -> bool:
    """Whether x is a PyTorch tensor, or a list that begins with one."""
    torch = sys.modules.get("torch")  # a caller with a tensor has imported PyTorch
    if torch is None:
        return False
    first = x[0] if isinstance(x, (list, tuple)) and len(x) else x
    return isinstance(first, getattr(torch, "Tensor", ()))


def without_gradient(x: Any) -> Any:
    """A PyTorch tensor that other libraries can read: detached, and float32 if NumPy lacks its type; else x itself.

    Relevance is not part of the autograd graph, so detaching loses nothing.
    """
    if not is_tensor(x) or isinstance(x, (list, tuple)):
        return x
    x = x.detach()
    return x.float() if x.dtype is sys.modules["torch"].bfloat16 and not x.is_cuda else x


def as_tensors(value: Any) -> Any:
    """Arrays, and lists and mappings of them, as PyTorch tensors that share their memory."""
    if isinstance(value, list):
        return [as_tensors(v) for v in value]
    if isinstance(value, dict):
        return {key: as_tensors(v) for key, v in value.items()}
    torch = sys.modules["torch"]
    return torch.from_dlpack(value) if on_device(value) else torch.from_numpy(value)


def from_device(x: Any) -> Any:
    """An array of any library on a GPU as a CuPy array, without a copy; None for anything else."""
    if isinstance(x, np.ndarray):
        return None
    if on_device(x):
        return x
    by_dlpack = hasattr(x, "__dlpack_device__") and int(x.__dlpack_device__()[0]) in _CUDA
    if not by_dlpack and not hasattr(x, "__cuda_array_interface__"):
        return None
    try:
        import cupy
    except Exception as error:  # an import may fail with any exception
        raise DeviceError(
            f"inputs are on a GPU ({type(x).__name__}), for which CuPy is needed, and it cannot be imported "
            f"({error}): pip install 'cupy-cuda13x[ctk]' (lrpfast's extra 'cuda13'), or copy the inputs to the host"
        ) from error
    return cupy.from_dlpack(x) if by_dlpack else cupy.asarray(x)


def as_array(x: Any) -> Any:
    """x as an array: a CuPy array if it is on a GPU, else a NumPy array."""
    x = without_gradient(x)
    there = from_device(x)
    return np.asarray(x) if there is None else there


def module_of(array: Any) -> Any:
    """NumPy, or CuPy for an array on a GPU."""
    return sys.modules["cupy"] if on_device(array) else np


def to_host(array: Any) -> np.ndarray:
    """A NumPy array with the same values; the array itself if it is one."""
    return array.get() if on_device(array) else np.asarray(array)


def device_of(array: Any) -> AbstractContextManager[Any]:
    """A context in which the array's GPU is the current one; for an array on the host, it has no effect."""
    if not on_device(array):
        return nullcontext()
    device: AbstractContextManager[Any] = sys.modules["cupy"].cuda.Device(array.device.id)
    return device


def like(array: Any, other: Any) -> Any:
    """A NumPy array on the device that ``other`` is on."""
    if not on_device(other):
        return array
    with device_of(other):
        return sys.modules["cupy"].asarray(array)


def empty_like(shape: tuple[int, ...], dtype: Any, other: Any) -> Any:
    """An empty array on the device of ``other``, the host or the same GPU."""
    with device_of(other):
        return module_of(other).empty(shape, dtype)
