"""What must hold of operations, so that no kernel of any backend reads or writes where it must not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .codes import OF_ROWS
from .contraction_ops import Contract, Divide, Redistribute
from .geometry import Geometry
from .operation import require

#: accumulators, outputs and shares of one contraction
MAX_SUMS = 8


def check_geometry(geometry: Geometry, operation: object) -> None:
    """Taps and positions inside their grids, and every output row covered once."""
    covered = np.zeros(geometry.out, np.int64)
    for region in geometry.regions:
        require(len(region.axes) == 3, operation, "a region has three axes")
        for axis, source, out in zip(region.axes, geometry.source, geometry.out, strict=True):
            shape = np.shape(axis.index)
            require(
                len(shape) == 2 and shape[0] == len(axis.positions),
                operation,
                "an axis has a row of taps for each position",
            )
            require(axis.factor is None or np.shape(axis.factor) == shape, operation, "factors are shaped like taps")
            require(
                np.all((axis.positions >= 0) & (axis.positions < out)), operation, "positions outside the output grid"
            )
            require(np.all((axis.index >= -1) & (axis.index < source)), operation, "taps outside the source grid")
        first, second, third = [axis.positions for axis in region.axes]
        covered[np.ix_(first, second, third)] += 1
    require(np.all(covered == 1), operation, "regions must cover every output row exactly once")


def same_positions(one: Geometry, other: Geometry) -> bool:
    """Whether two geometries make the same output rows, region by region."""
    return (
        one.out == other.out
        and len(one.regions) == len(other.regions)
        and all(
            np.array_equal(a.positions, b.positions)
            for r, s in zip(one.regions, other.regions, strict=True)
            for a, b in zip(r.axes, s.axes, strict=True)
        )
    )


def check_contraction(operation: Any, sizes: Sequence[int]) -> None:
    """Shapes of everything a contraction touches; geometries by themselves are right."""
    terms, rows = operation.terms, operation.rows
    require(terms and rows > 0, operation, "no terms or no rows")
    backward = isinstance(operation, Redistribute)
    size = sizes[operation.out if backward else operation.outputs[0].buffer]
    require(size % rows == 0, operation, f"{size} values are not {rows} rows")
    width, geometry = size // rows, terms[0].geometry
    for term in terms:
        require((term.geometry is None) == (geometry is None), operation, "all terms have a geometry or none has")
        if geometry is not None:
            if term.geometry is not geometry:
                require(same_positions(term.geometry, geometry), operation, "regions differ between terms")
            require(int(np.prod(geometry.out)) == rows, operation, "rows do not fill the output grid")
            require(len(term.weights) == len(geometry.regions), operation, "one array of weights for each region")
    check_weights(operation, sizes, width)
    sums = 1 + max(term.accumulator for term in terms)
    require(sums <= MAX_SUMS, operation, f"{sums} sums, at most {MAX_SUMS} are possible")
    require(all(term.sign in (-1, 0, 1, 2) for term in terms), operation, "a sign is +1, -1, 2 or 0")
    require(not operation.diagonal or not any(term.sign for term in terms), operation, "a diagonal term has no sign")
    if isinstance(operation, Redistribute):
        check_shares(operation, sizes, size, sums)
    else:
        check_outputs(operation, sizes, size, sums)


def check_weights(operation: Any, sizes: Sequence[int], width: int) -> None:
    """Shapes of all weights, and that they fit the sources' rows."""
    shape = None  # of a dense layer's weights, or groups and columns
    for term in operation.terms:
        depth, geometry = sizes[term.source], term.geometry
        source_rows = operation.rows if geometry is None else int(np.prod(geometry.source))
        require(depth % source_rows == 0, operation, f"a source of {depth} values has not {source_rows} rows")
        channels = depth // source_rows
        regions = (None,) if geometry is None else geometry.regions
        for region, w in zip(regions, (term.weights,) if geometry is None else term.weights, strict=True):
            taps = 1 if region is None else int(np.prod([np.shape(axis.index)[1] for axis in region.axes]))
            if operation.diagonal:
                right = w.shape in ((taps, width), (taps, 1)) and channels == width
            elif region is None:
                right = w.shape == (channels, width)
                require(shape in (None, w.shape), operation, "weights differ in shape")
                shape = w.shape
            else:
                right = w.ndim == 3 and w.shape[0] * w.shape[2] == width and w.shape[0] > 0
                right = right and depth % w.shape[0] == 0 and w.shape[1] == taps * (channels // w.shape[0])
                require(shape in (None, (w.shape[0], w.shape[2])), operation, "groups differ in shape")
                shape = w.shape[0], w.shape[2]
            require(right, operation, f"weights of shape {w.shape} do not fit")


def check_shares(operation: Redistribute, sizes: Sequence[int], size: int, sums: int) -> None:
    """What a redistribution's sums are multiplied by and divided by."""
    shares = operation.shares
    require(len(shares) <= MAX_SUMS, operation, f"at most {MAX_SUMS} shares are possible")
    require(shares and sizes[operation.x] == size, operation, "x and out differ in size")
    require(all(0 <= s.accumulator < sums for s in shares), operation, "a share of no sum")
    bounded = [s for s in shares if s.part in ("x-low", "x-high")]
    require(all(s.bound is not None for s in bounded), operation, "a share without its bound")
    fit = all(s.bound is None or np.size(s.bound) in (1, size) for s in shares)
    require(fit, operation, "a bound has one value or a sample's")
    if operation.divide is not None:
        check_divisors(operation.divide, sizes, size)
    require(operation.plus is None or sizes[operation.plus] == size, operation, "what is added differs in size")
    require(len(operation.branches) <= MAX_SUMS, operation, f"at most {MAX_SUMS} branches are possible")
    for branch in operation.branches:
        require({sizes[branch.x], sizes[branch.out]} == {size}, operation, "branches differ in size")
        if branch.divide is not None:
            check_divisors(branch.divide, sizes, size)


def check_outputs(operation: Contract, sizes: Sequence[int], size: int, sums: int) -> None:
    """What a contraction's sums become."""
    require(len(operation.outputs) <= MAX_SUMS, operation, f"at most {MAX_SUMS} outputs are possible")
    for output in operation.outputs:
        require(sizes[output.buffer] == size, operation, "outputs differ in size")
        require(output.plus is None or sizes[output.plus] == size, operation, "what is added differs in size")
        require(len(output.coefficients) <= sums, operation, "more coefficients than sums")
        require(not (output.relu and output.zero), operation, "a ReLU gives 0 as it is")
        require(
            output.constant is None or np.size(output.constant) in (size // operation.rows, size),
            operation,
            "a constant has a value for each column, or for each row's",
        )


def check_divisors(operation: Divide, sizes: Sequence[int], size: int) -> None:
    """Sizes of what a redistribution's division reads."""
    z = [operation.z] if operation.mask_z is None else [operation.z, operation.mask_z]
    check_divide(operation, [sizes[b] if isinstance(b, int) else int(np.size(b)) for b in z], [size])


# Checks of light operations, which take the sizes of the buffers read and written: `operation.light` calls them.

Sizes = Sequence[int]


def check_divide(operation: Divide, read: Sizes, written: Sizes) -> None:
    """A denominator for each value."""
    fits = set(read) == set(written) and (isinstance(operation.z, int) or np.size(operation.z) == written[0])
    require(fits, operation, "z differs in size")
    require(not operation.mask or operation.mask_z is not None, operation, "a mask without its z")


def check_same_size(operation: Any, read: Sizes, written: Sizes) -> None:
    """Value by value, or row by row: all buffers have the same size."""
    require(len({*read, *written}) == 1, operation, "buffers differ in size")
    columns = getattr(operation, "columns", 1)
    require(written[0] % columns == 0, operation, f"{written[0]} values are not rows of {columns}")


def check_activate(operation: Any, read: Sizes, written: Sizes) -> None:
    """Rows only where the function is one of rows; PReLU's slopes."""
    require(len({*read, *written}) == 1, operation, "buffers differ in size")
    if operation.function in OF_ROWS:
        check_same_size(operation, read, written)
    if operation.function == "prelu":
        slopes = np.size(operation.parameters["negative_slope"])
        require(slopes == written[0], operation, "a slope for each element")


def check_activate_back(operation: Any, read: Sizes, written: Sizes) -> None:
    """As `check_activate`; functions of rows have another operation."""
    of_rows = operation.function in OF_ROWS
    require(not of_rows, operation, "a function of rows has a slope of its own: SoftmaxBack")
    check_activate(operation, read, written)


def check_scale(operation: Any, read: Sizes, written: Sizes) -> None:
    """A factor for each value."""
    check_same_size(operation, read, written)
    require(np.size(operation.values) == written[0], operation, "a value for each element")


def check_normalize(operation: Any, read: Sizes, written: Sizes) -> None:
    """gamma and beta."""
    check_same_size(operation, read, written)
    for name in ("gamma", "beta"):
        value = getattr(operation, name, None)
        fits = value is None or np.size(value) == operation.columns
        require(fits, operation, f"{name} has a value for each column")


def check_gather(operation: Any, read: Sizes, written: Sizes) -> None:
    """An index into the source for each value of the output."""
    _check_index(operation, written[0], read[0])


def check_scatter(operation: Any, read: Sizes, written: Sizes) -> None:
    """An index into the output for each value of the source."""
    _check_index(operation, read[0], written[0])


def _check_index(operation: Any, size: int, limit: int) -> None:
    index = operation.index
    require(np.shape(index) == (size,), operation, "an index for each value")
    require(np.size(index) == 0 or (np.min(index) >= -1 and np.max(index) < limit), operation, "indices outside")


def check_strided(operation: Any, read: Sizes, written: Sizes) -> None:
    """Runs inside their buffers."""
    for offset, step, size in (
        (operation.source_offset, operation.source_step, read[0]),
        (operation.out_offset, operation.out_step, written[0]),
    ):
        ends = offset, offset + (operation.count - 1) * step
        inside = operation.count == 0 or (min(ends) >= 0 and max(ends) + operation.length <= size)
        require(inside, operation, "runs reach outside")


def check_pool(operation: Any, read: Sizes, written: Sizes) -> None:
    """Buffers as large as the grids."""
    source, pooled = _pooled_sizes(operation)
    require(list(read) == [source] and set(written) == {pooled}, operation, "buffers do not fit the grids")


def check_pool_back(operation: Any, read: Sizes, written: Sizes) -> None:
    """Buffers as large as the grids."""
    source, pooled = _pooled_sizes(operation)
    require([*read, *written] == [pooled, pooled, source], operation, "buffers do not fit the grids")


def _pooled_sizes(operation: Any) -> tuple[int, int]:
    geometry = operation.geometry
    require(len(geometry.regions) == 1, operation, "a pool has one region")
    return int(np.prod(geometry.source)) * operation.columns, int(np.prod(geometry.out)) * operation.columns


def check_dot(operation: Any, read: Sizes, written: Sizes) -> None:
    """Matrices of m, n and k."""
    m, n, k, count = operation.m, operation.n, operation.k, operation.count
    fits = [*read, *written] == [count * m * k, count * n * k, count * m * n]
    require(fits, operation, "buffers do not fit m, n and k")


def check_dot_back(operation: Any, read: Sizes, written: Sizes) -> None:
    """Matrices of m, n and k."""
    m, n, k, count = operation.m, operation.n, operation.k, operation.count
    fits = [*read, *written] == [count * m * n, count * n * k, count * m * k, count * m * k]
    require(fits, operation, "buffers do not fit m, n and k")


def check_masked_softmax(operation: Any, read: Sizes, written: Sizes) -> None:
    """Masks that fit."""
    check_same_size(operation, read, written)
    size = operation.columns if operation.seen is None else np.size(operation.seen)
    fits = size > 0 and size % operation.columns == 0 and written[0] % size == 0
    require(fits, operation, "seen is not repeated a whole number of times")


def check_attention(operation: Any, read: Sizes, written: Sizes) -> None:
    """Queries, keys, values and masks of the shapes that it says."""
    h = operation.shape
    rows = [] if operation.rows is None else [2 * h.lead * h.heads * h.n]
    _check_heads(operation, read)
    require(list(written) == [h.lead * h.heads * h.n * h.e, *rows], operation, "buffers do not fit the heads")


def check_attention_back(operation: Any, read: Sizes, written: Sizes) -> None:
    """As `check_attention`; relevance is as large as what it is of."""
    h = operation.shape
    _check_heads(operation, read)
    out = h.lead * h.heads * h.n * h.e
    require(list(read[-3:]) == [2 * h.lead * h.heads * h.n, out, out], operation, "buffers do not fit the heads")
    require(0 <= operation.sums <= 2, operation, "sums of a bias and a mask")
    both = operation.to_q is not None and operation.to_k is not None
    require(both != operation.detached, operation, "queries and keys have relevance unless weights are constants")
    require(list(written) == [read[2], *(read[:2] if both else ())], operation, "buffers do not fit the heads")


def _check_heads(operation: Any, read: Sizes) -> None:
    h = operation.shape
    sizes = (h.lead, h.heads, h.kv_heads, h.n, h.m, h.d, h.e)
    require(min(sizes) > 0 and h.heads % h.kv_heads == 0, operation, "sizes must be above 0, heads shared alike")
    require(min(h.before, h.after) >= -1 and len(h.steps) == 12, operation, "limits and steps")
    keys = h.lead * h.m * h.kv_heads
    require(list(read[:3]) == [h.lead * h.n * h.heads * h.d, keys * h.d, keys * h.e], operation, "buffers do not fit")
    masks = [np.size(a) if a is not None else 0 for a in (h.seen, h.bias)]
    masks.append(read[3] if operation.mask is not None else 0)
    for i, size in enumerate(masks):
        steps = h.steps[4 * i : 4 * i + 4]
        last = sum(step * (n - 1) for step, n in zip(steps, (h.lead, h.heads, h.n, h.m), strict=True))
        inside = min(steps) >= 0 and (last < size if size else not any(steps))
        require(inside, operation, "steps reach outside of a mask or bias")


def check_lookup(operation: Any, read: Sizes, written: Sizes) -> None:
    """A row of the table for each index."""
    require(written[0] == read[0] * operation.table.shape[1], operation, "buffers do not fit the columns")


def check_sum_channels(operation: Any, read: Sizes, written: Sizes) -> None:
    """A sum for each row of channels."""
    require(read[0] == written[0] * operation.columns, operation, "buffers do not fit the columns")


def check_share_remainder(operation: Any, read: Sizes, written: Sizes) -> None:
    """As many rows of relevance as of values."""
    n, columns = operation.n, operation.columns
    fits = n > 0 and read[0] % n == 0 and [read[1], written[0]] == [read[0] // n * columns] * 2
    require(fits, operation, "buffers do not fit the columns")
