"""Runs compiled programs over batches, a chunk at a time, and turns faults into errors."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import SampleError
from ..kernels import DEFAULT_START, Compiled, Fault, Start, backend
from ..model.graph import Model
from .inputs import PRECISIONS, check_precision
from .lower import lower_forward
from .plan import make_plan
from .ports import Ports
from .threads import check_threads, get_num_threads

#: Input and output bytes handled between two looks at the interpreter's signals, so
#: that Ctrl-C is heard and that inputs to be cast are cast a piece at a time.
CHUNK_BYTES = 64 << 20


def chunks(samples: int, bytes_per_sample: int) -> Iterator[slice]:
    """The batch as slices of at most `CHUNK_BYTES`, at least one sample each; an empty batch is one empty slice."""
    rows = max(1, CHUNK_BYTES // max(1, bytes_per_sample))
    for first in range(0, max(1, samples), rows):
        yield slice(first, min(samples, first + rows))


def as_rows(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """C-contiguous samples in the program's dtype; a view where x already is."""
    if x.dtype == dtype and x.flags.c_contiguous and x.flags.aligned:
        return x
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, which the run reports
        return np.ascontiguousarray(x, dtype)


def raise_fault(
    fault: Fault, x: np.ndarray, first: int, precision: str, input_range: tuple[float, float] | None, mask_nan: bool
) -> None:
    """The error for a fault that a run found in ``x``, not yet cast, whose first row is sample ``first``."""
    row = np.asarray(x[fault.sample])

    def error(text: str, wrong: np.ndarray | None = None) -> SampleError:
        feature = () if wrong is None else tuple(int(i) for i in np.argwhere(wrong)[0])
        shown = f"{row[feature]:g}" if feature else ""
        return SampleError(text.replace("{value}", shown), first + fault.sample, feature)

    rescale = "rescale the input or the model" if precision == "float64" else "use precision='float64' or rescale"
    # what is not finite in the input shows in its sums at the latest
    bad = np.isinf(row) if mask_nan else ~np.isfinite(row)
    beyond = np.abs(row) > np.finfo(PRECISIONS[precision][0]).max
    if fault.kind == "not_finite" and not (bad | beyond).any():
        raise error(f"{{where}}: an activation or relevance overflows {precision}; {rescale}")
    if fault.kind == "input_out_of_range":
        assert input_range is not None
        outside = (row < input_range[0]) | (row > input_range[1])
        raise error(f"{{where}} = {{value}} is outside the declared input_range {input_range}", outside)
    if not bad.any():
        raise error(f"{{where}} = {{value}} is beyond {precision}; {rescale}", beyond)
    hint = "" if mask_nan or np.isinf(row[bad][0]) else "; for masked features pass mask_nan=True"
    raise error(f"{{where}} is {{value}}: inputs must be finite{hint}", bad)


def run(
    compiled: Compiled,
    x: np.ndarray,
    out: np.ndarray,
    *,
    first: int,
    threads: int,
    memory: int | None = None,
    start: Start = DEFAULT_START,
    keep: dict[int, np.ndarray] | None = None,
    precision: str,
    input_range: tuple[float, float] | None = None,
    mask_nan: bool = False,
) -> None:
    """Cast one chunk to out's dtype and run it; raises InputError for what the run finds wrong."""
    rows = as_rows(x, out.dtype)
    fault = compiled.run(rows, out, threads=threads, memory=memory, start=start, keep=keep)
    if fault is not None:
        raise_fault(fault, x, first, precision, input_range, mask_nan)


def begin_at(start: Start, part: slice) -> Start:
    """The start for a slice of the samples it was made for."""
    if start.mode == "index" and start.step and start.targets is not None:
        return Start("index", start.targets[part], start.step, start.count)
    if start.mode == "array" and start.array is not None:
        return Start("array", array=start.array[part])
    return start


_predictors: weakref.WeakKeyDictionary[Model, dict[tuple, tuple[Compiled, Ports]]] = weakref.WeakKeyDictionary()


def predict(
    model: Model, x: Any, *, precision: str = "float32", device: str = "auto", threads: int | None = None
) -> Any:
    """`Model.predict`: compiles the forward pass once per model and precision."""
    dtype_name, tf32 = check_precision(precision)
    dtype = np.dtype(dtype_name)
    count = check_threads(threads) or get_num_threads()
    programs = _predictors.setdefault(model, {})
    shapes = tuple(np.shape(a)[1:] for a in (x if len(model.inputs) > 1 else [x])) if model.is_open else ()
    known = programs.get((precision, device, shapes))
    if known is None:
        fixed = model.with_input_shape(*shapes) if model.is_open else model
        program = lower_forward(make_plan(fixed, None), dtype=dtype_name, tf32=tf32)
        known = programs[precision, device, shapes] = backend(device).compile(program), Ports(fixed)
    compiled, ports = known
    x = ports.pack(x)
    out = np.empty((len(x), *ports.output_row), dtype)
    per_sample = (math.prod(x.shape[1:]) + math.prod(out.shape[1:])) * dtype.itemsize
    for part in chunks(len(x), per_sample):
        run(compiled, x[part], out[part], first=part.start, threads=count, precision=precision)
    return ports.unpack_output(out)
