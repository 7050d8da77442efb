"""Arithmetic of values and constants, for every reader whose files write it as operators.

An operand is a value of the model, or an array without a batch axis that is the same for every sample. At least
one operand of each function is a value: what constants alone give, a reader computes itself. Arrays are
stretched to values and values to arrays, as NumPy does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import ShapeError, UnsupportedLayerError
from ..model import layers as L
from .axis_ops import affine, constant, fixed, take
from .batch_axis import FIRST, BatchAxis
from .channels_first import Builder, Tensor, Value, clip
from .file_axes import aligned, permute, shown

Operand = Value | np.ndarray


def add(builder: Builder, a: Operand, b: Operand, factor: float = 1.0) -> Value:
    """a + factor · b."""
    if isinstance(b, np.ndarray):
        assert not isinstance(a, np.ndarray)
        return affine(builder, a, 1.0, np.asarray(b, float) * factor)
    if isinstance(a, np.ndarray):
        return affine(builder, b, float(factor), a)
    if abs(factor) != 1:
        b, factor = affine(builder, b, float(abs(factor)), 0.0), math.copysign(1, factor)
    return builder.merge(L.Add() if factor == 1 else L.Subtract(), [a, b])


def multiply(builder: Builder, a: Operand, b: Operand) -> Value:
    """a · b."""
    if isinstance(b, np.ndarray):
        assert not isinstance(a, np.ndarray)
        return affine(builder, a, b, 0.0)
    if isinstance(a, np.ndarray):
        return affine(builder, b, a, 0.0)
    return builder.merge(L.Multiply(), [a, b])


def divide(builder: Builder, a: Operand, b: Operand) -> Value:
    """a / b: a product with the reciprocal where b is a value."""
    if not isinstance(b, np.ndarray):
        return multiply(builder, a, power(builder, b, -1.0))
    with np.errstate(all="ignore"):  # what is infinite is refused below
        return multiply(builder, a, np.asarray(1 / np.asarray(b, float)))


def power(builder: Builder, x: Value, exponent: float) -> Value:
    """x to a power that is one number."""
    return builder.each(L.Activation("power", {"exponent": exponent}), x)


def logarithm(builder: Builder, x: Value) -> Value:
    """log(x)."""
    return builder.each(L.Activation("log"), x)


def gated(builder: Builder, x: Value, axis: int) -> Value:
    """The first half of one of a sample's axes times the sigmoid of the second (GLU)."""
    half, odd = divmod(fixed(x, axis), 2)
    if odd:
        raise ShapeError(f"it halves axis {axis + 1} of {x.shape}")
    first, second = (take(builder, x, axis, range(start, start + half)) for start in (0, half))
    return multiply(builder, first, builder.each(L.Activation("sigmoid"), second))


def absolute(builder: Builder, x: Value) -> Value:
    """|x|."""
    return builder.each(L.Activation("relu", {"negative_slope": -1.0}), x)


def negative(builder: Builder, x: Value) -> Value:
    """-x."""
    return affine(builder, x, -1.0, 0.0)


def clipped(builder: Builder, x: Value, low: float | None, high: float | None) -> Value:
    """min(max(x, low), high), which is ``high`` everywhere where that is below ``low``."""
    if low is not None and high is not None:
        low = min(low, high)
    return builder.each(clip(low, high), x)


def extreme(builder: Builder, layer: L.Maximum | L.Minimum, operands: Sequence[Operand]) -> Value:
    """The largest or smallest of the operands; numbers among them clip the values."""
    values = [v for v in operands if not isinstance(v, np.ndarray)]
    arrays = [a for a in operands if isinstance(a, np.ndarray)]
    result: Value = values[0] if len(values) == 1 else builder.merge(layer, values)
    numbers = [float(a.ravel()[0]) for a in arrays if a.size == 1]
    if numbers:
        low, high = (max(numbers), None) if isinstance(layer, L.Maximum) else (None, min(numbers))
        result = clipped(builder, result, low, high)
    for array in arrays:
        if array.size != 1:
            result = builder.merge(layer, [result, constant(builder, result, array)])
    return result


def choose(builder: Builder, condition: np.ndarray, a: Operand, b: Operand) -> Value:
    """Values of ``a`` where a constant condition holds, of ``b`` elsewhere; those of an array may be infinite there."""
    condition = np.asarray(condition, bool)
    if isinstance(a, np.ndarray):
        assert not isinstance(b, np.ndarray)
        return affine(builder, b, ~condition, np.where(condition, a, 0.0))
    if isinstance(b, np.ndarray):
        return affine(builder, a, condition, np.where(condition, 0.0, b))
    return add(builder, affine(builder, a, condition, 0.0), affine(builder, b, ~condition, 0.0))


def concat(builder: Builder, operands: Sequence[Operand], axis: int) -> Value:
    """Operands one after the other on an axis of a sample; arrays are values that are the same for every sample."""
    first = next(v for v in operands if not isinstance(v, np.ndarray))
    rank = len(first.shape)
    values: list[Value] = []
    for operand in operands:
        if not isinstance(operand, np.ndarray):
            values.append(operand)
            continue
        if operand.ndim != rank:
            raise UnsupportedLayerError(f"joins a constant of shape {operand.shape} to samples of {rank} axes")
        shape = tuple(operand.shape[a] if a == axis else fixed(first, a) for a in range(rank))
        if operand.shape != shape:
            raise ShapeError(f"it joins a constant of shape {operand.shape} to samples of shape {first.shape}")
        if operand.shape[axis]:
            values.append(constant(builder, take(builder, first, axis, [0]), operand))
    return values[0] if len(values) == 1 else builder.merge(L.Concat(), values, axis)


def total(builder: Builder, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
    """The sum over axes of a sample: the mean, times how many values there are."""
    values = math.prod(fixed(x, axis) for axis in axes)
    result = builder.pool_all(x, axes, L.GlobalAveragePool, keepdims)
    return result if values == 1 else affine(builder, result, float(values), 0.0)


# -- sums of products ----------------------------------------------------------------


def _labels(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The labels of each operand and of the result; those that "..." stands for become capital Greek letters."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise ShapeError(f"{equation!r} is for {len(terms)} operands, not {len(ranks)}")
    hidden = [rank - len(t.replace("...", "")) if "..." in t else 0 for t, rank in zip(terms, ranks, strict=True)]
    if min(hidden) < 0 or max(hidden) > 20:
        raise ShapeError(f"{equation!r} does not fit operands of {', '.join(map(str, ranks))} axes")
    dots = "".join(chr(0x391 + i) for i in range(max(hidden)))
    terms = [t.replace("...", dots[len(dots) - n :]) for t, n in zip(terms, hidden, strict=True)]
    if not arrow:
        joined = "".join(terms)
        right = dots + "".join(sorted(c for c in set(joined) - set(dots) if joined.count(c) == 1))
    result = right.replace("...", dots)
    if any(len(t) != rank for t, rank in zip(terms, ranks, strict=True)) or not set(result) <= set("".join(terms)):
        raise ShapeError(f"{equation!r} does not fit operands of {', '.join(map(str, ranks))} axes")
    return terms, result


def einsum(builder: Builder, equation: str, operands: Sequence[Operand]) -> Value:
    """A sum of products: of a value and an array, or of two values that share axes they keep or axes they sum over.

    Each value's batch axis has the same label, which the arrays lack.
    """
    ranks = [v.ndim if isinstance(v, np.ndarray) else v.rank for v in operands]
    terms, result = _labels(equation, ranks)
    values, arrays = [], []
    with_array = len(operands) == 2 and any(isinstance(v, np.ndarray) for v in operands)
    for term, operand in zip(terms, operands, strict=True):
        if len(set(term)) != len(term):
            raise UnsupportedLayerError(f"takes the diagonal of an operand ({equation!r})")
        if isinstance(operand, np.ndarray):
            arrays.append((term, operand))
            continue
        at = operand.batch.position
        if with_array and not operand.batch.whole:
            return _joined_contraction(builder, equation, terms, result, operands)
        rest = [d for d in range(operand.rank) if d != at]
        values.append((term[at], "".join(term[d] for d in rest), permute(builder, operand, [at, *rest])))
    batches = {label for label, _, _ in values}
    batch = batches.pop() if len(batches) == 1 else " "
    if batch not in result or any(batch in term for term, _ in arrays):
        raise UnsupportedLayerError(f"sums over the batch axis, or has it on other axes ({equation!r})")
    of_sample = result.replace(batch, "")
    if len(values) == 2 and not arrays:
        product = _product_of_two(builder, equation, [(t, v) for _, t, v in values], of_sample)
    elif len(values) != 1 or len(arrays) > 1:
        raise UnsupportedLayerError(f"multiplies more than two operands ({equation!r}). Write it as several products")
    else:
        (_, labels, x), (term, array) = values[0], arrays[0] if arrays else ("", np.array(1.0))
        product = _contraction(builder, x, labels, array, term, of_sample)
    return permute(builder, product, [(batch + of_sample).index(label) for label in result])


def _joined_contraction(
    builder: Builder, equation: str, terms: Sequence[str], result: str, operands: Sequence[Operand]
) -> Value:
    """Of a value whose batch is joined with other axes, and an array: the joined axis stays as it is."""
    (x,) = (v for v in operands if not isinstance(v, np.ndarray))
    (term,) = (t for t, v in zip(terms, operands, strict=True) if v is x)
    label, batch = term[x.batch.position], x.batch
    arrays = [(t, v) for t, v in zip(terms, operands, strict=True) if isinstance(v, np.ndarray)]
    if label not in result or len(arrays) != 1 or label in arrays[0][0]:
        raise UnsupportedLayerError(f"sums over an axis that the batch is joined with ({equation!r})")
    parts = "[" * batch.outer + "]" * batch.inner  # labels that no equation has
    flat = replace(builder.tensor(x), batch=FIRST)
    of_sample, (other, array) = result.replace(label, parts), arrays[0]
    product = _contraction(builder, flat, term.replace(label, parts), array, other, of_sample)
    place = BatchAxis(result.index(label) + batch.outer, batch.outer, batch.inner)
    return replace(builder.tensor(product), batch=place)


def _contraction(builder: Builder, x: Value, labels: str, array: np.ndarray, term: str, result: str) -> Value:
    """The sum over the labels that the result lacks of x · array, whose axes have labels too."""
    for label in term:
        if label not in labels + result:  # in the array alone
            array, term = np.asarray(array.sum(term.index(label))), term.replace(label, "")
    labels, x = _summed(builder, x, labels, result + term)
    summed = "".join(label for label in labels if label not in result)
    added = "".join(label for label in result if label not in labels)
    shared = "".join(label for label in labels if label in term and label in result)
    free = "".join(label for label in labels if label in result and label not in term)
    size = {label: fixed(x, axis) for axis, label in enumerate(labels)} | dict(zip(term, array.shape, strict=True))
    array = array.transpose([term.index(label) for label in shared + summed + added])
    x = builder.transpose(x, [labels.index(label) for label in free + shared + summed])
    if not summed and not added:
        x = affine(builder, x, array, 0.0)
    else:
        groups, ins, outs = (math.prod(size[c] for c in part) for part in (shared, summed, added))
        sizes = [size[c] for c in free]
        x = builder.reshape(x, (*sizes, groups * ins))
        kernel = array.reshape(groups, ins, outs).astype(float if array.dtype.kind != "f" else array.dtype)
        if groups == 1:
            x = builder.dense(x, kernel[0], None)
        else:
            rows = builder.plain(builder.reshape(x, (math.prod(sizes), groups * ins)))
            layer = L.Conv(kernel.transpose(1, 0, 2).reshape(1, ins, groups * outs), None, groups=groups)
            node = builder.add(layer, rows.node)
            x = Tensor(node, (math.prod(sizes), groups * outs), (0, 1))
        x = builder.reshape(x, [size[c] for c in free + shared + added])
    order = free + shared + added
    return builder.transpose(x, [order.index(label) for label in result])


def matrix_product(builder: Builder, a: Value, b: Value) -> Value:
    """The product of matrices of each sample, which are on the file's last two axes; those before are stretched."""
    if min(a.rank, b.rank) < 2:
        raise UnsupportedLayerError(f"multiplies tensors of shapes {shown(a)} and {shown(b)}; both must be matrices")
    a, b = aligned(builder, [a, b])
    for value in (a, b):
        for dim in (-1, -2):
            value.axis(dim)  # which must not hold the batch
    a, b = builder.plain(a), builder.plain(b)
    layer = L.Dot((1, 0)) if len(a.shape) == len(b.shape) == 2 else L.MatMul()
    node = builder.add(layer, a.node, b.node)
    return replace(a, node=node, shape=tuple(builder.shapes[node]))


def constant_product(builder: Builder, x: Value, array: np.ndarray, on_left: bool) -> Value:
    """Products of each sample's matrices with constant ones, on either side; ``array`` has a sample's axes."""
    heads = "bcdefgh"[: len(x.shape) - 2]
    inner, outer = ("xy", "yz") if on_left else ("yz", "xy")
    stretched = [c for c, n, size in zip(heads, x.shape, array.shape, strict=False) if n == 1 != size]
    alone = [c for c, size in zip(heads, array.shape, strict=False) if size == 1]  # axes that the array lacks
    array = array.reshape([n for n, c in zip(array.shape, heads + "..", strict=True) if c not in alone])
    term = "".join(c for c in heads if c not in alone) + inner
    labels = "".join(c for c in heads if c not in stretched) + outer
    flat = builder.reshape(
        replace(builder.tensor(x), batch=FIRST),
        [n for n, c in zip(x.shape, heads + "..", strict=True) if c not in stretched],
    )
    return replace(builder.tensor(_contraction(builder, flat, labels, array, term, heads + "xz")), batch=x.batch)


def _product_of_two(builder: Builder, equation: str, values: Sequence[tuple[str, Value]], result: str) -> Value:
    """Axes that only one value has are summed there, and the values laid out as (both, own, summed)."""
    (left, a), (right, b) = (
        _summed(builder, x, labels, result + other)
        for (labels, x), (other, _) in zip(values, reversed(values), strict=True)
    )
    both = "".join(c for c in left if c in right and c in result)
    inner = "".join(c for c in left if c in right and c not in result)
    own_left, own_right = ("".join(c for c in t if c not in both + inner) for t in (left, right))
    order = both + own_left + own_right
    if inner and own_left and own_right and both:
        product: Value = _matrices(builder, [(left, a), (right, b)], both, inner, (own_left, own_right))
    elif inner and not both:
        a, b = (_matrix_of(builder, x, t, own, inner) for x, t, own in ((a, left, own_left), (b, right, own_right)))
        node = builder.add(L.Dot((1, 1)), builder.plain(a).node, builder.plain(b).node)
        product = Tensor(node, tuple(builder.shapes[node]), (0, 1))
        size = {c: fixed(x, t.index(c)) for t, x in values for c in t}
        product = builder.reshape(product, [size[c] for c in order])
    else:  # element by element, stretched along axes that one of them lacks
        whole = order + inner
        pair = [_spread(builder, x, t, whole) for x, t in ((a, left), (b, right))]
        product = builder.merge(L.Multiply(), pair)
        if inner:
            product = total(builder, product, range(len(order), len(whole)), False)
    return builder.transpose(product, [order.index(c) for c in result])


def _matrices(
    builder: Builder, values: Sequence[tuple[str, Value]], both: str, inner: str, own: tuple[str, str]
) -> Value:
    """Products of matrices, one for each place on the axes that both values have."""
    size = {c: fixed(x, axis) for labels, x in values for axis, c in enumerate(labels)}
    count = {labels: math.prod(size[c] for c in labels) for labels in (inner, *own)}
    shape = [size[c] for c in both]
    (left, a), (right, b) = values
    a = builder.transpose(a, [left.index(c) for c in both + own[0] + inner])
    b = builder.transpose(b, [right.index(c) for c in both + inner + own[1]])
    a = builder.reshape(a, [*shape, count[own[0]], count[inner]])
    b = builder.reshape(b, [*shape, count[inner], count[own[1]]])
    return builder.reshape(matrix_product(builder, a, b), [size[c] for c in both + own[0] + own[1]])


def _summed(builder: Builder, x: Value, labels: str, kept: str) -> tuple[str, Value]:
    """The value without the axes whose labels are not kept."""
    axes = [axis for axis, c in enumerate(labels) if c not in kept]
    if axes:
        x = total(builder, x, axes, False)
    return "".join(c for c in labels if c in kept), x


def _matrix_of(builder: Builder, x: Value, labels: str, rows: str, columns: str) -> Value:
    x = builder.transpose(x, [labels.index(c) for c in rows + columns])
    sizes = [fixed(x, axis) for axis in range(len(labels))]
    return builder.reshape(x, (math.prod(sizes[: len(rows)]), math.prod(sizes[len(rows) :])))


def _spread(builder: Builder, x: Value, labels: str, whole: str) -> Value:
    """The value with an axis of 1 for each label that it lacks."""
    x = builder.transpose(x, [labels.index(c) for c in whole if c in labels])
    sizes = iter([fixed(x, axis) for axis in range(len(labels))])
    return builder.reshape(x, [next(sizes) if c in labels else 1 for c in whole])
