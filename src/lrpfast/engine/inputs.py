"""Checks of the caller's arguments: inputs, targets, output arrays, options."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import InputError, LrpfastError, ShapeError
from ..kernels import Start
from ..kernels.arrays import as_array, from_device, module_of, on_device, to_host, without_gradient
from ..model.layers.base import fits, whole

#: The dtype of a precision, and what its contractions multiply (`Program.operands`).
PRECISIONS = {
    "float32": ("float32", "whole"),
    "float64": ("float64", "whole"),
    "tf32": ("float32", "rounded"),
    "3xtf32": ("float32", "split"),
    "bf16x2": ("float32", "pairs"),
}


def check_precision(precision: Any) -> tuple[str, str]:
    """(dtype name, `Program.operands`) of a precision."""
    try:
        return PRECISIONS[precision]
    except (KeyError, TypeError):
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}") from None


def check_flag(value: Any, name: str) -> bool:
    """Return a bool; InputError for anything but True and False."""
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def check_memory(memory: Any) -> int | None:
    """A byte budget for workspaces, or None."""
    if memory is None:
        return None
    count = whole(memory)
    if count is None or count < 1:
        raise InputError(f"memory must be a number of bytes of at least 1, or None, not {memory!r}")
    return count


def check_range(input_range: Any) -> tuple[float, float] | None:
    """(low, high) as floats, or None."""
    if input_range is None:
        return None
    try:
        low, high = (float(v) for v in input_range)
    except (TypeError, ValueError):
        raise InputError(f"input_range must be a pair (low, high) of numbers, not {input_range!r}") from None
    if math.isnan(low) or math.isnan(high) or low > high:
        raise InputError(f"input_range needs low <= high, not ({low}, {high})")
    return low, high


def unmasked(x: Any) -> Any:
    """A masked array as a plain one, with NaN where it is masked (integers become floats); anything else unchanged."""
    if type(x) is np.ndarray or not isinstance(x, np.ma.MaskedArray):
        return x
    if not np.ma.is_masked(x):
        return np.asarray(x.data)
    if x.dtype.kind in "iub":  # as in reading packed files
        x = x.astype(np.float32 if x.dtype.itemsize <= 2 else np.float64)
    elif x.dtype.kind != "f":
        raise TypeError(f"a masked array of {x.dtype}")
    return x.filled(np.nan)


def as_real(x: Any, name: str) -> Any:
    """x as an array of real numbers, not yet cast: a CuPy array if x is on a GPU, else a NumPy array."""
    if isinstance(x, (str, bytes, os.PathLike)):
        raise InputError(
            f"{name} must be an array of real numbers, not {x!r:.80}; np.load reads an .npy file, and Analyzer.stream "
            "takes paths"
        )
    try:
        x = unmasked(without_gradient(x))
        on_gpu = from_device(x)
        if on_gpu is not None:
            x = on_gpu
        elif not isinstance(x, np.ndarray):
            x = np.from_dlpack(x) if not hasattr(x, "__array__") and hasattr(x, "__dlpack__") else np.asarray(x)
    except LrpfastError:
        raise
    except (TypeError, ValueError, BufferError, RuntimeError) as error:
        raise InputError(f"{name} cannot be made an array: {error}") from None
    if x.dtype.kind not in "fiub" and x.dtype.name != "bfloat16":
        if x.dtype.kind == "O":
            raise InputError(
                f"{name} have dtype object (rows of different lengths, or None?); give an array of real numbers"
            )
        raise InputError(f"{name} must be real numbers, not dtype {x.dtype}")
    return x


def as_batch(x: Any, shape: tuple[int, ...], name: str = "inputs") -> Any:
    """x as an array of samples of the given shape, real and not yet cast, as in `as_real`.

    Raises
    ------
    InputError
        For anything but real numbers.
    ShapeError
        For a wrong shape.
    """
    x = as_real(x, name)
    if x.shape[1:] != shape and not fits(x.shape[1:], shape) or x.ndim == 0:
        expected = f"(samples, {', '.join(map(str, shape))})"
        hint = "; for one sample add the batch axis: x[None]" if x.shape == shape else _other_layout(x.shape, shape)
        raise ShapeError(f"{name} must have shape {expected}, not {x.shape}{hint}")
    return x


def _other_layout(got: tuple[int, ...], shape: tuple[int | None, ...]) -> str:
    """Advice for samples with channels first in place of last, or the other way round."""
    if len(got) != len(shape) + 1 or len(shape) < 2:
        return ""
    last, first = (0, *range(2, len(got)), 1), (0, len(got) - 1, *range(1, len(got) - 1))
    for axes, where in ((last, "last"), (first, "first")):
        if fits(tuple(got[axis] for axis in axes[1:]), shape):
            return f"; the model has channels {where}: x.transpose{axes}"
    return ""


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype, x: Any) -> Any:
    """The caller's output array, if relevance can be written to it: on the host, or on the GPU of x."""
    if on_device(x) and not (on_device(out) and out.device.id == x.device.id):
        raise InputError(f"out must be a CuPy array on gpu:{x.device.id}, as the inputs are, not {type(out).__name__}")
    if not on_device(x) and not isinstance(out, np.ndarray):
        raise InputError(f"out must be a NumPy array, not {type(out).__name__}")
    if out.shape != shape:
        raise ShapeError(f"out must have shape {shape}, not {out.shape}")
    if out.dtype != dtype:
        raise InputError(f"out must have dtype {dtype}, not {out.dtype}")
    if not out.flags.c_contiguous or not getattr(out.flags, "writeable", True):
        raise InputError("out must be C-contiguous and writeable")
    if not getattr(out.flags, "aligned", True):
        raise InputError("out must be aligned: its values begin between the places of its dtype")
    if module_of(x).may_share_memory(out, x):
        raise InputError("out must not share memory with the inputs")
    return out


def own(value: Any) -> Any:
    """A target or a reference value with copies of its arrays, which the caller cannot change."""
    if isinstance(value, Mapping):
        return {key: own(v) for key, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(own(v) for v in value)
    if isinstance(value, np.generic) or callable(value) or not is_array(value):
        return value
    copied = np.array(to_host(as_array(value)))
    copied.flags.writeable = False
    return copied


def is_array(value: Any) -> bool:
    """Whether a value is an array of NumPy or another library."""
    return hasattr(value, "__array__") or hasattr(value, "__dlpack__")


TARGETS = "target must be 'max', 'all', an index, an array or a callable"


def check_target(target: Any, shape: tuple[int, ...] | None = None) -> None:
    """Raise InputError for a target that is invalid for any inputs: of any model, or for outputs of a shape."""
    if isinstance(target, (bool, np.bool_)):
        raise InputError("target must not be True or False")
    known = isinstance(target, (str, int, np.integer, tuple, list, Mapping)) or callable(target) or is_array(target)
    if not known or isinstance(target, np.inexact) or (isinstance(target, str) and target not in ("max", "all")):
        raise InputError(f"{TARGETS}, not {target!r}")
    if shape is None:
        return
    if isinstance(target, tuple):
        _as_pair(target, shape)
    elif isinstance(target, list) and len(shape) > 1 and any(isinstance(t, tuple) for t in target):
        raise InputError(
            f"a list of tuples has two readings for outputs of shape {shape}. One index for each sample, as in captum: "
            f"target=np.ravel_multi_index(np.transpose(target), {shape}). Several outputs for each sample, counted "
            "flat: target=np.array(target)"
        )


def _are_indices(values: tuple[Any, ...]) -> bool:
    return all(isinstance(t, (int, np.integer)) and not isinstance(t, bool) for t in values)


def _as_pair(target: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[int, int]:
    """The flat indices of the two outputs whose difference a tuple selects.

    For outputs with one axis two numbers, for others two full indices: two numbers could be the index of one output.
    """
    size = math.prod(shape)
    if len(target) == 2 and all(isinstance(t, tuple) and len(t) == len(shape) and _are_indices(t) for t in target):
        for index in target:
            if not _inside(index, shape):
                raise InputError(f"target {index} is out of range: the model's outputs have shape {shape}")
        a, b = (int(np.ravel_multi_index(index, shape)) for index in target)
    elif len(target) == 2 and len(shape) < 2 and _are_indices(target):
        a, b = (_check_index(int(t), size) for t in target)
    elif len(shape) < 2:
        hint = f"; output {target[0]} alone is target={target[0]}" if len(target) == 1 and _are_indices(target) else ""
        raise InputError(
            f"a tuple target is a pair (a, b) of outputs whose difference is explained, not {target!r}{hint}"
        )
    else:
        raise InputError(
            f"target {target!r} does not say what to explain of outputs of shape {shape}: "
            f"{_alternatives(target, shape)}"
        )
    if a == b:
        raise InputError(f"target {target!r} is an output's difference with itself")
    return a, b


def _inside(index: tuple[Any, ...], shape: tuple[int, ...]) -> bool:
    return len(index) == len(shape) and all(0 <= i < n for i, n in zip(index, shape, strict=True))


def _alternatives(target: tuple[Any, ...], shape: tuple[int, ...]) -> str:
    """The targets that a tuple may mean for outputs with several axes."""
    texts = []
    if _are_indices(target) and _inside(target, shape):
        index = [int(t) for t in target]
        texts.append(f"output {index}, as captum reads it, is target={int(np.ravel_multi_index(index, shape))}")
    if len(target) == 2 and _are_indices(target) and all(0 <= t < math.prod(shape) for t in target):
        a, b = (tuple(int(i) for i in np.unravel_index(int(t), shape)) for t in target)
        written = "-".join(",".join(map(str, index)) for index in (a, b))
        texts.append(
            f"the difference of outputs {target[0]} and {target[1]}, counted flat, is target={(a, b)} "
            f"(--target {written})"
        )
    if not texts:
        first = (0,) * len(shape)
        last = tuple(n - 1 for n in shape)
        texts.append(
            f"one output is its index, counted flat from 0 to {math.prod(shape) - 1}; a difference is a pair of full "
            f"indices, as {(last, first)}"
        )
    return "; ".join(texts)


def _check_index(value: int, size: int) -> int:
    if not 0 <= value < size:
        raise InputError(f"target {value} is out of range: the model has outputs 0 to {size - 1}")
    return int(value)


def as_start(
    target: Any,
    samples: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    output: Callable[[], np.ndarray],
) -> tuple[Start, tuple[int, ...]]:
    """The starting relevance for the caller's target.

    Parameters
    ----------
    target
        "max", "all", an integer, one integer per sample, a (samples, k) integer
        array, a pair of integers or of full indices, a float array shaped like the output or (samples, k, *output),
        or a callable that makes such an array of the output.
    samples, shape
        The batch size and one sample's output shape.
    dtype
        Of the relevance.
    output
        Computes the output, for a callable target.

    Returns
    -------
    start : Start
    axes : tuple of int
        (k,) for several targets a sample, else ().
    """
    size = math.prod(shape)
    check_target(target, shape)
    if isinstance(target, str):
        return Start(target), ()
    if isinstance(target, (int, np.integer)):
        return Start("index", np.array([_check_index(int(target), size)], np.int64)), ()
    if isinstance(target, tuple):
        return Start("pair", np.array(_as_pair(target, shape), np.int64)), ()
    if callable(target):
        y = output()
        array = _target_array(target(y.reshape(samples, *shape)), "what the target makes of the output")
        if array.dtype.kind in "iub":
            array = array.astype(np.float64)
        elif array.dtype.kind != "f":
            raise InputError(f"what the target makes of the output must hold real numbers, not dtype {array.dtype}")
    else:
        array = _target_array(target, "target")
        if array.ndim == 0:
            if array.dtype.kind not in "iu":
                raise InputError(f"{TARGETS}, not {array}")
            return as_start(int(array), samples, shape, dtype, output)
    if array.shape == (0,) and samples == 0:
        array = array.astype(np.int64)  # one target for each sample of an empty batch
    if array.dtype.kind in "iu":
        if array.ndim not in (1, 2) or array.shape[0] != samples or 0 in array.shape[1:]:
            raise ShapeError(
                f"integer targets must have shape ({samples},), one per sample, or ({samples}, k), not {array.shape}"
            )
        if array.size:
            _check_index(int(array.min()), size)
            _check_index(int(array.max()), size)
        targets = np.require(array, np.int64, ["C", "A"])
        k = array.shape[1] if array.ndim == 2 else 1
        return Start("index", targets, step=k, count=k), (k,) if array.ndim == 2 else ()
    if array.dtype.kind == "f":
        several = array.ndim == len(shape) + 2 and array.shape[:1] + array.shape[2:] == (samples, *shape)
        if array.shape != (samples, *shape) and not (several and array.shape[1]):
            labels = array.shape == (samples,) and bool((array == np.rint(array)).all())
            raise ShapeError(
                f"a starting relevance must have the output's shape {(samples, *shape)}, or ({samples}, k, "
                f"{', '.join(map(str, shape))}) for k explanations of each sample, not {array.shape}"
                + ("; classes are whole numbers: target.astype(int)" if labels else "")
            )
        if not np.isfinite(array).all():
            position = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise InputError(f"the starting relevance is not finite at {position}: {array[position]}")
        with np.errstate(over="ignore"):
            rows = np.require(array, dtype, ["C", "A"])
        count = array.shape[1] if several else 1
        return Start("array", count=count, array=rows), (count,) if several else ()
    raise InputError(f"{TARGETS}, not dtype {array.dtype}")


def _target_array(value: Any, name: str) -> np.ndarray:
    """A target as an array on the host."""
    try:
        return to_host(as_array(value))
    except (TypeError, ValueError) as error:
        if isinstance(error, LrpfastError):
            raise
        raise InputError(f"{name} cannot be made an array: {error}") from None
