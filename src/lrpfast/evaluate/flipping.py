"""The output of a model while features lose their values, in the order of their relevance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..batch import open_source
from ..batch.inputs import InputRows, SeveralSource, open_inputs
from ..engine.explanation import Explanation
from ..engine.inputs import as_real, is_array
from ..errors import InputError, ShapeError
from ..kernels.arrays import to_host
from ..model.graph import Model
from .curves import FlipCurves
from .measures import maps

ORDERS = ("most", "least", "random")
#: Points of a curve where nothing is said.
STEPS = 50
#: Values of perturbed inputs that are predicted at once.
VALUES = 1 << 22


def flip(
    model: Model,
    x: Any,
    relevance: Any,
    *,
    target: Any = "max",
    order: str | Sequence[str] = ORDERS,
    groups: Any = None,
    region: int | Sequence[int] | None = None,
    baseline: Any = 0.0,
    mask: Any = None,
    steps: int | None = None,
    seed: int = 0,
    precision: str = "float32",
    threads: int | None = None,
) -> FlipCurves:
    """Flip features in the order of their relevance, and record the explained output.

    y_k = f(x with its first k groups of features replaced by the baseline). Where the relevance is right, the output
    falls at once when the most relevant features are flipped first, and stays when the least relevant are.

    Parameters
    ----------
    model : Model
        Of one output. Its predictions are recorded as they are, softmax included; to record
        logits, pass ``model.without_softmax()``.
    x : array, shape (samples, *input_shape), or path
        Of a model with several inputs a list, or a mapping by the inputs' names; features of all inputs are flipped
        in one order. ``groups``, ``region``, ``baseline`` and ``mask`` are then mappings by name, or, for the baseline,
        one number or "mean" for all.
    relevance : array shaped like ``x``, Explanation, or path
        Files are read a few samples at a time.
    target : "max", int, or integer array, shape (samples,)
        The recorded output: each sample's largest before anything is flipped, an output's index, counted flat,
        or one for each sample.
    order : {"most", "least", "random"} or several of them
        The groups with the largest sum of relevance first, the smallest, or in an order drawn for each sample.
    groups : integer array, shape of a sample, or of its leading axes, optional
        Features with the same number are flipped together; those of negative numbers are never flipped. By default
        every feature is a group of its own.
    region : int or tuple of int, optional
        Instead of groups, the size of rectangular patches on the sample's leading axes, such as (8, 8) for images
        with channels last. Later axes belong to the patch; with channels first, (3, 8, 8) has three channels in it.
        Patches at the edge may be smaller.
    baseline : float, "mean", array or callable
        What a flipped feature becomes: a number, the sample's own mean, values that broadcast to
        (samples, *input_shape) or to one sample, or a function that makes them of x.
    mask : bool array, shape of a sample, optional
        True where features may be flipped.
    steps : int, optional
        Points of the curve after the first, at most as many as there are groups; by default 50.
    seed : int
        Of the random order.
    precision, threads
        As in `Model.predict`.

    Returns
    -------
    FlipCurves

    Raises
    ------
    InputError, ShapeError

    References
    ----------
    Bach et al. (2015), section "Pixel-flipping"; Samek et al. (2017), "Evaluating the visualization of what a deep
    neural network has learned".

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.diag([4.0, 2.0]))])
    >>> x = np.ones((2, 2))
    >>> relevance = lrpfast.Analyzer(model, "epsilon").analyze(x, target=0)
    >>> lrpfast.evaluate.flip(model, x, relevance, target=0, order="most").area["most"].tolist()
    [1.0, 1.0]
    """
    if isinstance(model.output_shape, list):
        raise InputError("flip evaluates models of one output; model.until(NAME) has one of several")
    orders = _as_orders(order)
    with _opened(model, x) as data, _opened(model, _on_host(relevance)) as shares:
        samples = data.shape[0]
        rows_of = data.rows if isinstance(data, SeveralSource) else None
        alike = data.shape[1:] == shares.shape[1:] and (rows_of is None or rows_of.shapes == shares.rows.shapes)
        if samples is None or samples == 0 or not alike or shares.shape[0] != samples:
            raise ShapeError(f"x and relevance must have the same shape, not {data.shape} and {shares.shape}")
        shape = tuple(int(n) for n in data.shape[1:])
        numbers = _numbers(shape, rows_of, groups, region, mask)
        count = int(numbers.max()) + 1
        points = _points(count, steps)
        targets = _as_targets(target, int(samples))
        generator = np.random.default_rng(seed)
        run = _Run(_predictor(model, rows_of, precision, threads), numbers, points, orders, generator)
        rows = max(1, VALUES // (math.prod(shape) * len(points)))
        parts = []
        for first in range(0, int(samples), rows):
            stop = min(first + rows, int(samples))
            batch = np.asarray(data.read(first, stop))
            part = maps(shares.read(first, stop))
            below = _baselines(baseline, batch, rows_of, first, int(samples))
            parts.append(run.curves(batch, part, below, None if targets is None else targets[first:stop], first))
    curves = {name: np.concatenate([part[name] for part in parts]) for name in orders}
    return FlipCurves(points / count, curves)


def _as_orders(order: Any) -> tuple[str, ...]:
    orders = (order,) if isinstance(order, str) else tuple(order)
    if not orders or any(name not in ORDERS for name in orders) or len(set(orders)) < len(orders):
        raise InputError(f"order must be one or several of {', '.join(ORDERS)}, not {order!r}")
    return orders


def _points(count: int, steps: Any) -> np.ndarray:
    """How many groups are flipped at each point."""
    if steps is None:
        steps = STEPS
    elif isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
        raise InputError(f"steps must be a whole number of at least 1, not {steps!r}")
    return np.unique(np.rint(np.linspace(0, count, min(int(steps), count) + 1)).astype(np.int64))


def _as_targets(target: Any, samples: int) -> np.ndarray | None:
    """One output's index for each sample; None for the largest."""
    if isinstance(target, str) and target == "max":
        return None
    values = np.asarray(target)
    if values.dtype.kind not in "iu" or values.shape not in ((), (samples,)):
        raise InputError(
            f"target must be 'max', an output's index, or one for each of {samples} samples, not {target!r:.80}"
        )
    return np.broadcast_to(values.astype(np.int64), (samples,))


def _opened(model: Model, x: Any) -> Any:
    """The samples as a source; of several inputs, which lie one after the other in a row."""
    return open_inputs(model, x) if isinstance(model.input_shape, list) else open_source(x)


def _on_host(relevance: Any) -> Any:
    """Relevance as `_opened` takes it: paths as they are, arrays as float64 on the host."""
    relevance = relevance.relevance if isinstance(relevance, Explanation) else relevance
    if isinstance(relevance, str) or hasattr(relevance, "__fspath__"):
        return relevance
    if isinstance(relevance, Mapping):
        return {name: _on_host(part) for name, part in relevance.items()}
    if isinstance(relevance, list) and relevance and not np.isscalar(relevance[0]) and np.ndim(relevance[0]) > 1:
        return [_on_host(part) for part in relevance]
    return maps(relevance)


def _predictor(
    model: Model, rows_of: InputRows | None, precision: str, threads: int | None
) -> Callable[[np.ndarray], np.ndarray]:
    """The model's outputs, (samples, outputs), of rows."""

    def predict(x: np.ndarray) -> np.ndarray:
        inputs: Any = x if rows_of is None else rows_of.split(x)
        outputs: np.ndarray = model.predict(inputs, precision=precision, threads=threads)
        return outputs.reshape(len(x), -1)

    return predict


def _of_inputs(value: Any, rows_of: InputRows, name: str) -> list[Any]:
    """What an argument is for each input: a mapping by the inputs' names; without it None for each."""
    if value is None:
        return [None] * len(rows_of.names)
    if not isinstance(value, Mapping) or not set(value) <= set(rows_of.names):
        raise InputError(
            f"{name}: the model has the inputs {', '.join(map(repr, rows_of.names))}; give a mapping from their names, "
            f"not {value!r:.80}"
        )
    return [value.get(key) for key in rows_of.names]


def _numbers(shape: tuple[int, ...], rows_of: InputRows | None, groups: Any, region: Any, mask: Any) -> np.ndarray:
    """Each feature's group, flat, counted from 0 without gaps; -1 where it is never flipped."""
    if rows_of is None:
        numbers = _group_of(shape, groups, region, mask)
    else:
        parts, first = [], 0
        arguments = [_of_inputs(v, rows_of, n) for v, n in ((groups, "groups"), (region, "region"), (mask, "mask"))]
        for own, *of_input in zip(rows_of.shapes, *arguments, strict=True):
            part = _group_of(own, *of_input)
            parts.append(np.where(part < 0, -1, part + first))
            first += int(part.max(initial=0)) + 1
        numbers = np.concatenate(parts)
    used = np.unique(numbers[numbers >= 0])
    if not used.size:
        raise InputError("no feature may be flipped: mask and groups leave none")
    return np.where(numbers < 0, -1, np.searchsorted(used, numbers))


def _group_of(shape: tuple[int, ...], groups: Any, region: Any, mask: Any) -> np.ndarray:
    """The number of each feature's group in one input, flat; negative where it is never flipped."""
    if groups is not None and region is not None:
        raise InputError("groups and region both say which features are flipped together; give one of them")
    if region is not None:
        numbers = _patches(shape, region)
    elif groups is not None:
        numbers = to_host(as_real(groups, "groups"))
        if numbers.dtype.kind not in "iub" or numbers.shape != shape[: numbers.ndim] or not numbers.ndim:
            raise ShapeError(
                f"groups must be whole numbers, one for each feature of a sample of shape {shape} or of its leading "
                f"axes, not {numbers.dtype} {numbers.shape}"
            )
        numbers = np.broadcast_to(numbers.reshape(numbers.shape + (1,) * (len(shape) - numbers.ndim)), shape)
    else:
        numbers = np.arange(math.prod(shape)).reshape(shape)
    numbers = np.array(numbers, np.int64).ravel()
    if mask is not None:
        allowed = to_host(as_real(mask, "mask"))
        if allowed.dtype != bool or allowed.shape != shape:
            raise ShapeError(f"mask must be boolean, of a sample's shape {shape}, not {allowed.dtype} {allowed.shape}")
        numbers[~allowed.ravel()] = -1
    return numbers


def _patches(shape: tuple[int, ...], region: Any) -> np.ndarray:
    """The number of the patch that each feature lies in."""
    sizes = tuple(region) if isinstance(region, (tuple, list)) else (region,)
    whole = all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n > 0 for n in sizes)
    if not whole or len(sizes) > len(shape):
        raise InputError(f"region must be whole numbers above 0, at most {len(shape)} of them, not {region!r}")
    numbers = np.zeros((1,) * len(shape), np.int64)
    for axis, size in enumerate(sizes):
        along = np.arange(shape[axis]) // size
        numbers = numbers * (int(along[-1]) + 1) + along.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return np.broadcast_to(numbers, shape)


def _baselines(baseline: Any, x: np.ndarray, rows_of: InputRows | None, first: int, samples: int) -> np.ndarray:
    """Values for the flipped features of a batch, shaped like it; each input's own where there are several."""
    if rows_of is None:
        return _as_baseline(baseline, x, first, samples)
    single = isinstance(baseline, (int, float, str, np.number))
    values = [baseline] * len(rows_of.names) if single else _of_inputs(baseline, rows_of, "baseline")
    parts = [
        _as_baseline(0.0 if own is None else own, part, first, samples)
        for own, part in zip(values, rows_of.split(x), strict=True)
    ]
    out = np.empty(x.shape, np.result_type(*parts))
    rows_of.join_into(parts, out)
    return out


def _as_baseline(baseline: Any, x: np.ndarray, first: int, samples: int) -> np.ndarray:
    """Values for the flipped features of a batch, shaped like it."""
    if isinstance(baseline, str):
        if baseline != "mean":
            raise InputError(f"baseline must be a number, 'mean', an array or a function, not {baseline!r}")
        values: Any = x.reshape(len(x), -1).mean(1, dtype=np.float64).reshape(-1, *(1,) * (x.ndim - 1))
    elif callable(baseline) and not is_array(baseline):
        values = to_host(as_real(baseline(x), "what the baseline makes of x"))
    else:
        values = to_host(as_real(baseline, "baseline"))
        if values.ndim == x.ndim and len(values) == samples > 1:
            values = values[first : first + len(x)]
    if not np.isfinite(values).all():
        raise InputError("baseline must be finite")
    try:
        return np.broadcast_to(values, x.shape)
    except ValueError:
        raise ShapeError(f"baseline of shape {values.shape} does not fit samples of shape {x.shape[1:]}") from None


class _Run:
    """What is the same for every batch."""

    def __init__(
        self,
        predict: Callable[[np.ndarray], np.ndarray],
        numbers: np.ndarray,
        points: np.ndarray,
        orders: Sequence[str],
        generator: np.random.Generator,
    ) -> None:
        self._predict = predict
        self._numbers, self._points, self._orders, self._generator = numbers, points, orders, generator

    def curves(
        self, x: np.ndarray, relevance: np.ndarray, baseline: np.ndarray, targets: np.ndarray | None, first: int
    ) -> dict[str, np.ndarray]:
        """The curves of a batch, for each order."""
        if not np.isfinite(relevance).all():
            row = first + int(np.argwhere(~np.isfinite(relevance))[0][0])
            raise InputError(f"the relevance of sample {row} is not finite; exclude such features by mask")
        whole = self._predict(x)
        size = whole.shape[1]
        targets = whole.argmax(1) if targets is None else targets
        if targets.min() < 0 or targets.max() >= size:
            raise InputError(f"target is out of range: the model has outputs 0 to {size - 1}")
        sums = self._sums(relevance)
        ranks = {name: self._ranks(name, sums) for name in self._orders}
        return {name: self._curve(x, baseline, targets, rank) for name, rank in ranks.items()}

    def _sums(self, relevance: np.ndarray) -> np.ndarray:
        """The relevance of each group, (samples, groups)."""
        flat, count = relevance.reshape(len(relevance), -1), int(self._numbers.max()) + 1
        used = np.flatnonzero(self._numbers >= 0)
        if len(used) == count and (np.diff(self._numbers[used]) == 1).all():
            return flat[:, used]
        return np.stack([np.bincount(self._numbers[used], row[used], count) for row in flat])

    def _ranks(self, name: str, sums: np.ndarray) -> np.ndarray:
        """When each group is flipped, from 0; equal groups in their own order."""
        if name == "random":
            return self._generator.permuted(np.tile(np.arange(sums.shape[1]), (len(sums), 1)), axis=1)
        order = np.argsort(-sums if name == "most" else sums, axis=1, kind="stable")
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, np.arange(sums.shape[1])[None], axis=1)
        return ranks

    def _curve(self, x: np.ndarray, baseline: np.ndarray, targets: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """The target's output at each point, (samples, points)."""
        at = np.where(self._numbers < 0, np.iinfo(np.int64).max, ranks[:, np.maximum(self._numbers, 0)]).reshape(
            x.shape
        )
        dtype = np.result_type(x.dtype, baseline.dtype, np.float32)
        flipped = np.empty((len(self._points), *x.shape), dtype)
        for values, count in zip(flipped, self._points, strict=True):
            np.copyto(values, x)
            np.copyto(values, baseline, where=at < count)
        output = self._predict(flipped.reshape(-1, *x.shape[1:])).reshape(len(self._points), len(x), -1)
        return output[:, np.arange(len(x)), targets].T.astype(np.float64)
