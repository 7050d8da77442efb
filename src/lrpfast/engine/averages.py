"""Averages of gradients at several points: integrated gradients and SmoothGrad."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import InputError, LrpfastError, ShapeError
from ..kernels import Start
from ..kernels.arrays import as_array, as_tensors, is_tensor, like, to_host
from ..rules.gradients import GradientComposite, Noise
from .balance import no_conservation
from .execute import as_rows
from .explain_scope import explained_targets
from .explanation import Explanation
from .io_layout import IOLayout
from .programs import Programs
from .settings import AnalyzerSettings


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


class AveragedGradients:
    """Part of `AnalyzerCore`."""

    settings: AnalyzerSettings
    layout: IOLayout
    analyze: Callable[..., Any]
    _programs: Programs
    _per_sample: int
    _baseline: np.ndarray
    _pack: Callable[[Any], Any]
    _start: Callable[[Any, Any], tuple[Start, tuple[int, ...]]]
    _outputs: Callable[[Any], np.ndarray]

    def _average(self, x: Any, start: Start, axes: tuple[int, ...], result: Any, output: np.ndarray | None) -> None:
        """Averages of gradients, written to ``result``; the outputs of the samples themselves to ``output``."""
        gradients, programs, settings = self.settings.gradients, self._programs, self.settings
        assert gradients is not None
        start = fixed_start(start, lambda: to_host(self._outputs(x)))
        if output is not None:
            output[...] = to_host(self._outputs(x)).reshape(output.shape)
        for part in programs.chunks(len(x), 4 * self._per_sample * math.prod(axes)):
            rows, part_start = to_host(x[part]), start.part(part)
            into = np.empty((*axes, *rows.shape), settings.dtype)
            means = np.empty((len(rows), *(axes or (1,)), *rows.shape[1:]), settings.dtype)

            def gradient(
                points: np.ndarray,
                out: np.ndarray,
                into: np.ndarray = into,
                first: int = part.start,
                start: Start = part_start,
            ) -> None:
                programs.run(programs.main, points, into, first, settings, start)
                out[...] = into.swapaxes(0, 1) if axes else into[:, None]

            average(gradients, self._baseline, self.layout, rows, means, gradient)
            result[part] = like(means if axes else means[:, 0], x)

    def _explain_average(self, x: Any, target: Any, layers: bool) -> Explanation:
        """`Analyzer.explain` of averages of gradients, which exist at the input alone."""
        gradients = self.settings.gradients
        assert gradients is not None
        if layers:
            raise InputError(f"{gradients.name} averages gradients at the input: it gives hidden layers none")
        inputs = self._pack(x)
        start, axes = self._start(inputs, target)
        if axes:
            raise InputError("explain takes one target per sample; call it once for each column of targets")
        relevance = self.analyze(x, target)
        output = to_host(self._outputs(inputs))
        completeness = None
        if gradients.path is not None and gradients.postprocess is None:
            rows = self.layout.pack(relevance if self.layout.several else to_host(as_array(relevance)))
            completeness = self._completeness(to_host(inputs), to_host(rows), fixed_start(start, lambda: output))
        y = self.layout.unpack_output(like(output, inputs))
        target = explained_targets(start, output)
        y = as_tensors(y) if is_tensor(x) else y
        return Explanation(relevance, y, target, no_conservation(), completeness=completeness)

    def _completeness(self, x: np.ndarray, relevance: np.ndarray, start: Start) -> np.ndarray:
        """Σ R less the difference that it should be, f(x) − f(baseline), of each sample."""
        begin = baseline_rows(self._baseline, self.layout, x)
        difference = self._outputs(x).astype(np.float64) - self._outputs(begin)
        difference = difference.reshape(len(x), math.prod(self.layout.output_row))
        total = np.nansum(relevance.reshape(len(x), math.prod(self.layout.row)), 1, np.float64)
        return total - explained_values(start, difference)
