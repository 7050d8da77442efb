"""Averages of gradients at several points: integrated gradients and SmoothGrad."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import InputError, LrpfastError, ShapeError
from ..kernels import Start
from ..rules.gradients import GradientComposite, Noise
from .execute import as_rows
from .io_layout import IOLayout


def fixed_start(start: Start, output: Callable[[], np.ndarray]) -> Start:
    """The start of all points of a sample: the largest output is that of the sample itself."""
    if start.mode != "max":
        return start
    rows = output()
    rows = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    first, size = start.window or (0, rows.shape[1])
    largest = rows[:, first : first + size].argmax(1) if len(rows) else np.empty(0)
    return Start("index", largest.astype(np.int64) + first, step=1, window=start.window)


def baseline_row(composite: GradientComposite | None, layout: IOLayout, input_range: Any) -> np.ndarray:
    """The baseline of integrated gradients as one row of all inputs, float64; empty if there is none."""
    if composite is None:
        return np.empty(0)
    if composite.noise is not None and input_range is not None and composite.noise.scale:
        raise InputError(
            f"smoothgrad's noise leaves the declared input_range {tuple(input_range)}: give no input_range"
        )
    if composite.path is None:
        return np.empty(0)
    baseline = composite.path.baseline
    each = baseline if isinstance(baseline, list) else [baseline] * len(layout.inputs)
    if len(each) != len(layout.inputs):
        raise ShapeError(f"integrated_gradients: {len(each)} baselines for {len(layout.inputs)} inputs")
    rows = []
    for array, slot in zip(each, layout.inputs, strict=True):
        try:
            rows.append(np.broadcast_to(array, slot.shape).ravel())
        except ValueError:
            raise ShapeError(
                f"integrated_gradients: baseline must be a number or have one sample's shape {slot.shape}, "
                f"not {array.shape}"
            ) from None
    row: np.ndarray = np.concatenate(rows)
    if input_range is not None and ((row < input_range[0]) | (row > input_range[1])).any():
        raise InputError(f"integrated_gradients: the baseline is outside the declared input_range {tuple(input_range)}")
    return row


def average(
    composite: GradientComposite,
    baseline: np.ndarray,
    layout: IOLayout,
    x: np.ndarray,
    out: np.ndarray,
    gradient: Callable[[np.ndarray, np.ndarray], None],
) -> None:
    """Average the gradients at the points of some samples; sums are float64, in the order of the points.

    Parameters
    ----------
    composite : GradientComposite
    baseline : array
        As `baseline_row` returns it.
    layout : IOLayout
    x : array, shape (samples, *row)
    out : array, shape (samples, targets, *row)
    gradient : callable
        Writes the gradients at given points to an array shaped like ``out``.
    """
    rows = as_rows(x, out.dtype)
    total, each = np.zeros(out.shape), np.empty_like(out)
    begin = rows if composite.path is None else baseline_rows(baseline, layout, rows)
    points = _noisy(composite, layout, rows) if composite.path is None else _on_path(composite, begin, rows)
    for weight, point in points:
        try:
            gradient(point, each)
        except LrpfastError:
            if not np.isfinite(rows).all():
                gradient(rows, each)  # the error is the sample's own
            raise
        total += weight * each
    if composite.path is not None:
        total *= (rows.astype(np.float64) - begin)[:, None]
    out[...] = total


def baseline_rows(baseline: np.ndarray, layout: IOLayout, rows: np.ndarray) -> np.ndarray:
    """Where the paths of some samples begin, float64: masks stay as they are, and so do features that are NaN."""
    masks = _masks(layout).reshape(rows.shape[1:])
    begin: np.ndarray = np.where(masks | np.isnan(rows), rows, baseline.reshape(rows.shape[1:]))
    return begin


def explained_values(start: Start, y: np.ndarray) -> np.ndarray:
    """The part of an output, (samples, outputs), that a start explains, as `fixed_start` returns it: (samples,)."""
    first, size = start.window or (0, y.shape[1])
    values: np.ndarray
    if start.mode == "array" and start.array is not None:
        values = (start.array.reshape(y.shape) * y).sum(1)
    elif start.mode == "all" or start.targets is None:
        values = y[:, first : first + size].sum(1)
    elif start.mode == "pair":
        values = y[:, start.targets[0]] - y[:, start.targets[1]]
    else:
        targets = np.broadcast_to(start.targets.reshape(-1), (len(y),))
        values = np.take_along_axis(y, targets[:, None], 1)[:, 0]
    return values


def _masks(layout: IOLayout) -> np.ndarray:
    """For each value of a row of all inputs, whether it is that of a mask, which is neither moved nor made noisy."""
    return np.concatenate([np.full(slot.size, slot.is_mask) for slot in layout.inputs])


def _on_path(composite: GradientComposite, begin: np.ndarray, rows: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    assert composite.path is not None
    difference = rows.astype(np.float64) - begin
    for at, weight in zip(*composite.path.points(), strict=True):
        yield float(weight), (begin + at * difference).astype(rows.dtype)


def _noisy(composite: GradientComposite, layout: IOLayout, rows: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    noise = composite.noise
    assert noise is not None
    numbers = ~_masks(layout).reshape(rows.shape[1:])
    generators = [_generator(noise, row) for row in rows]
    for _ in range(noise.samples):
        point = rows.copy()
        for row, generator in zip(point, generators, strict=True):
            row += numbers * (rows.dtype.type(noise.scale) * generator.standard_normal(row.shape, rows.dtype))
        yield 1 / noise.samples, point


def _generator(noise: Noise, row: np.ndarray) -> np.random.Generator:
    """A sample's own noise, from the seed and its values, so that the batch does not matter."""
    mark = hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=16).digest()
    return np.random.Generator(np.random.SFC64([noise.seed, int.from_bytes(mark, "little")]))
