"""Runs compiled programs over batches, a chunk at a time, and turns faults into errors."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import DeviceError, SampleError
from ..kernels import DEFAULT_START, Backend, Compiled, Fault, Start, backend
from ..kernels.arrays import as_tensors, empty_like, is_tensor, module_of, on_device, to_host
from ..model.graph import Model
from . import sequences
from .inputs import PRECISIONS, check_precision
from .io_layout import IOLayout
from .lower import lower_forward
from .padded_layers import Planned
from .padding import Padding
from .planner import make_plan
from .threads import check_threads, get_num_threads


def chunks(samples: int, bytes_per_sample: int, nbytes: int) -> Iterator[slice]:
    """The batch as slices of at most ``nbytes`` (`Backend.batch_bytes`), at least one sample each.

    Ctrl-C is heard between them, and inputs to be cast are cast a piece at a time. An empty batch is one empty slice.
    """
    rows = max(1, nbytes // max(1, bytes_per_sample))
    for first in range(0, max(1, samples), rows):
        yield slice(first, min(samples, first + rows))


def as_rows(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """C-contiguous samples in the program's dtype, each value aligned."""
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, which the run reports
        rows: np.ndarray = module_of(x).ascontiguousarray(x, dtype)
    # of a file's bytes, say; CuPy's arrays have no such flag and are always aligned
    return rows if getattr(rows.flags, "aligned", True) else rows.copy()


def raise_fault(
    fault: Fault, x: np.ndarray, first: int, precision: str, input_range: tuple[float, float] | None, mask_nan: bool
) -> None:
    """The error for a fault that a run found in ``x``, not yet cast, whose first row is sample ``first``."""
    row = to_host(x[fault.sample])
    row = row.astype(np.float32) if row.dtype.kind == "V" else row  # bfloat16

    def error(text: str, wrong: np.ndarray | None = None) -> SampleError:
        feature = () if wrong is None else tuple(int(i) for i in np.argwhere(wrong)[0])
        shown = f"{row[feature]:g}" if feature else ""
        return SampleError(text.replace("{value}", shown), first + fault.sample, feature)

    rescale = "rescale the input or the model" if precision == "float64" else "use precision='float64' or rescale"
    # what is not finite in the input shows in its sums at the latest
    bad = np.isinf(row) if mask_nan else ~np.isfinite(row)
    beyond = np.abs(row) > np.finfo(PRECISIONS[precision][0]).max
    if fault.kind == "not_finite" and not (bad | beyond).any():
        raise error(
            f"{{where}}: an activation or relevance overflows {precision}, or is no number, as a root or logarithm of "
            f"what is below 0 is none; {rescale}"
        )
    if fault.kind == "input_out_of_range" and input_range is None:
        raise error("{where}: an index is no row of the table of an embedding")
    if fault.kind == "input_out_of_range":
        assert input_range is not None
        outside = (row < input_range[0]) | (row > input_range[1])
        raise error(f"{{where}} = {{value}} is outside the declared input_range {input_range}", outside)
    if not bad.any():
        raise error(f"{{where}} = {{value}} is beyond {precision}; {rescale}", beyond)
    hint = "" if mask_nan or np.isinf(row[bad][0]) else "; masked features need Analyzer(…, mask_nan=True)"
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
    notes: list[Any] | None = None,
    exact: bool = False,
) -> None:
    """Cast one chunk to out's dtype, if need be, and run it; raises InputError for what the run finds wrong.

    What the run notes of relevance's growth comes with ``first`` into ``notes``.
    """
    rows = x if compiled.accepts(x) else as_rows(x, out.dtype)
    own: list[Any] | None = None if notes is None else []
    fault = compiled.run(rows, out, threads=threads, memory=memory, start=start, keep=keep, notes=own, exact=exact)
    if own and notes is not None:
        notes.append((first, own[0]))
    if fault is not None:
        raise_fault(fault, x, first, precision, input_range, mask_nan)


def check_device(x: Any, on: Backend) -> None:
    """Inputs on a GPU need a backend that runs there."""
    if on_device(x) and not on.takes_device_arrays:
        raise DeviceError(
            f"inputs are on gpu:{x.device.id}, but device is {on.name!r}: pass device='gpu', or copy them to the host"
        )


Predictor = tuple[Backend, Compiled, IOLayout]
_predictors: weakref.WeakKeyDictionary[Model, dict[tuple[Any, ...], Predictor]] = weakref.WeakKeyDictionary()


_paddings: weakref.WeakKeyDictionary[Model, Padding] = weakref.WeakKeyDictionary()


def _forward(model: Model) -> Planned:
    return Planned(model, None)


def _padding_of(model: Model) -> Padding:
    """How samples of different lengths are padded for the forward pass of an open model."""
    known = _paddings.get(model)
    if known is None:
        known = _paddings[model] = Padding(model, _forward)
    return known


def predict(
    model: Model, x: Any, *, precision: str = "float32", device: str = "auto", threads: int | None = None
) -> Any:
    """`Model.predict`: compiles the forward pass once per model and precision."""
    x, _, samples = sequences.arranged(model, x)
    if samples is not None:

        def compute(group: sequences.Group) -> Any:
            of = model if group.padded is None else group.padded.model
            return predict(of, group.inputs, precision=precision, device=device, threads=threads)

        padding = _padding_of(model) if model.is_open else None
        lengths = padding.lengths(lambda padded: padded.model in _predictors) if padding else ()
        return sequences.joined_outputs(samples.run(compute, padding, lengths))
    dtype_name, operands = check_precision(precision)
    dtype = np.dtype(dtype_name)
    count = check_threads(threads) or get_num_threads()
    programs = _predictors.setdefault(model, {})
    shapes = tuple(np.shape(a)[1:] for a in (x if len(model.inputs) > 1 else [x])) if model.is_open else ()
    known = programs.get((precision, device, shapes))
    if known is None:
        fixed = model.with_input_shape(*shapes) if model.is_open else model
        plan = make_plan(fixed, None, data=sum(map(math.prod, shapes)) * dtype.itemsize)
        program = lower_forward(plan, dtype=dtype_name, operands=operands)
        on = backend(device)
        known = programs[precision, device, shapes] = on, on.compile(program), IOLayout(fixed)
    on, compiled, ports = known
    tensors, x = is_tensor(x), ports.pack(x)
    check_device(x, on)
    out = empty_like((len(x), *ports.output_row), dtype, x)
    per_sample = (math.prod(x.shape[1:]) + math.prod(out.shape[1:])) * dtype.itemsize
    for part in chunks(len(x), per_sample, on.batch_bytes):
        run(compiled, x[part], out[part], first=part.start, threads=count, precision=precision)
    y = ports.unpack_output(out)
    return as_tensors(y) if tensors else y
