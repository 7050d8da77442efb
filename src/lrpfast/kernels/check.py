"""What must hold of operations, so that no kernel of any backend reads or writes where it must not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .program import OF_ROWS, Divide, Geometry, Redistribute, Term

#: accumulators, outputs and shares of one contraction
MAX_SUMS = 8


def require(condition: object, operation: object, reason: str) -> None:
    """Raise ValueError with the operation's name and the reason where the condition does not hold."""
    if not condition:
        raise ValueError(f"{type(operation).__name__}: {reason}")


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
    backward = hasattr(operation, "shares")
    size = sizes[operation.out if backward else operation.outputs[0].buffer]
    spread = backward and operation.spread
    require(size % rows == 0, operation, f"{size} values are not {rows} rows")
    width, geometry = size // rows, terms[0].geometry
    shape = None
    for term in terms:
        require((term.geometry is None) == (geometry is None), operation, "all terms have a geometry or none has")
        if spread:
            check_spread(term, geometry, operation, sizes, width)
            continue
        depth, weights = sizes[term.source], term.weights
        if geometry is not None:
            if term.geometry is not geometry:
                require(same_positions(term.geometry, geometry), operation, "regions differ between terms")
            require(int(np.prod(geometry.out)) == rows, operation, "rows do not fill the output grid")
            require(len(weights) == len(geometry.regions), operation, "one array of weights for each region")
        source_rows = rows if geometry is None else int(np.prod(term.geometry.source))
        require(depth % source_rows == 0, operation, f"a source of {depth} values has not {source_rows} rows")
        for i, w in enumerate(weights if geometry is not None else (weights,)):
            taps = (
                1
                if geometry is None
                else int(np.prod([np.shape(axis.index)[1] for axis in term.geometry.regions[i].axes]))
            )
            if operation.diagonal:
                right = w.shape in ((taps, width), (taps, 1)) and depth // source_rows == width
            elif geometry is None:
                right = w.shape == (depth // rows, width)
                require(shape in (None, w.shape), operation, "weights differ in shape")
                shape = w.shape
            else:
                right = w.ndim == 3 and w.shape[0] * w.shape[2] == width and w.shape[0] > 0
                right = right and depth % w.shape[0] == 0
                right = right and w.shape[1] == taps * (depth // source_rows // w.shape[0])
                require(shape in (None, (w.shape[0], w.shape[2])), operation, "groups differ in shape")
                shape = w.shape[0], w.shape[2]
            require(right, operation, f"weights of shape {w.shape} do not fit")
    sums = 1 + max(term.accumulator for term in terms)
    require(sums <= MAX_SUMS, operation, f"{sums} sums, at most {MAX_SUMS} are possible")
    require(all(term.sign in (-1, 0, 1) for term in terms), operation, "a sign is +1, -1 or 0")
    require(not operation.diagonal or not any(term.sign for term in terms), operation, "a diagonal term has no sign")
    if backward:
        require(len(operation.shares) <= MAX_SUMS, operation, f"at most {MAX_SUMS} shares are possible")
        require(operation.shares and sizes[operation.x] == size, operation, "x and out differ in size")
        require(all(0 <= s.accumulator < sums for s in operation.shares), operation, "a share of no sum")
        require(
            all(s.part not in ("x-low", "x-high") or s.bound is not None for s in operation.shares),
            operation,
            "a share without its bound",
        )
        require(
            all(s.bound is None or np.size(s.bound) in (1, size) for s in operation.shares),
            operation,
            "a bound has one value or a sample's",
        )
        if operation.divide is not None:
            check_divide(operation.divide, sizes, size)
        return
    require(len(operation.outputs) <= MAX_SUMS, operation, f"at most {MAX_SUMS} outputs are possible")
    for output in operation.outputs:
        require(sizes[output.buffer] == size, operation, "outputs differ in size")
        require(len(output.coefficients) <= sums, operation, "more coefficients than sums")
        require(
            output.constant is None or np.size(output.constant) in (width, size),
            operation,
            "a constant has a value for each column, or for each row's",
        )


def check_spread(
    term: Term, geometry: Geometry | None, operation: Redistribute, sizes: Sequence[int], width: int
) -> None:
    """Shapes of a term whose rows add to the rows of the output that they name."""
    require(
        geometry is not None and term.geometry is geometry and len(geometry.regions) == 1,
        operation,
        "all terms share a geometry of one region",
    )
    assert geometry is not None
    source_rows = int(np.prod(geometry.out))
    taps = int(np.prod([np.shape(a.index)[1] for a in geometry.regions[0].axes]))
    require(
        int(np.prod(geometry.source)) == operation.rows and not operation.diagonal,
        operation,
        "rows do not fill the output grid",
    )
    require(
        np.array_equal(
            np.concatenate([a.positions for a in geometry.regions[0].axes]),
            np.concatenate([np.arange(n) for n in geometry.out]),
        ),
        operation,
        "rows are in order",
    )
    require(sizes[term.source] % source_rows == 0, operation, "a source does not fill its grid")
    require(term.part == "x", operation, "a part of the source")
    require(
        np.shape(term.weights) == (sizes[term.source] // source_rows, taps * width),
        operation,
        f"weights of shape {np.shape(term.weights)} do not fit",
    )


def check_divide(operation: Divide, sizes: Sequence[int], size: int) -> None:
    """Sizes of what a division reads."""
    z = [operation.z] if operation.mask_z is None else [operation.z, operation.mask_z]
    require(all((sizes[b] if isinstance(b, int) else np.size(b)) == size for b in z), operation, "z differs in size")
    require(not operation.mask or operation.mask_z is not None, operation, "a mask without its z")


def check_light(operation: Any, sizes: Sequence[int], reads: Sequence[int], writes: Sequence[int]) -> None:
    """Sizes and indices of every other operation."""
    name = type(operation).__name__
    touched = [sizes[b] for b in (*reads, *writes)]
    out = sizes[writes[0]]
    columns = getattr(operation, "columns", 1)
    require(columns > 0, operation, "no columns")
    if name in ("Gather", "Scatter"):
        index, limit = operation.index, sizes[reads[0]] if name == "Gather" else out
        require(
            np.shape(index) == (out if name == "Gather" else sizes[reads[0]],), operation, "an index for each value"
        )
        require(np.size(index) == 0 or (np.min(index) >= -1 and np.max(index) < limit), operation, "indices outside")
    elif name == "Strided":
        for offset, step, size in (
            (operation.source_offset, operation.source_step, sizes[reads[0]]),
            (operation.out_offset, operation.out_step, out),
        ):
            ends = offset, offset + (operation.count - 1) * step
            require(
                operation.count == 0 or (min(ends) >= 0 and max(ends) + operation.length <= size),
                operation,
                "runs reach outside",
            )
    elif name in ("Pool", "Unpool"):
        geometry = operation.geometry
        require(len(geometry.regions) == 1, operation, "a pool has one region")
        source, pooled = (int(np.prod(grid)) * columns for grid in (geometry.source, geometry.out))
        want = [source] + [pooled] * len(writes) if name == "Pool" else [pooled, pooled, source]
        require(touched == want, operation, "buffers do not fit the grids")
    elif name in ("Dot", "DotBack"):
        m, n, k = operation.m, operation.n, operation.k
        require(
            touched == ([m * k, n * k, m * n] if name == "Dot" else [m * n, n * k, m * k, m * k]),
            operation,
            "buffers do not fit m, n and k",
        )
    elif name in ("Lookup", "Total"):
        columns = operation.table.shape[1] if name == "Lookup" else columns
        wide, narrow = (out, sizes[reads[0]]) if name == "Lookup" else (sizes[reads[0]], out)
        require(wide == narrow * columns, operation, "buffers do not fit the columns")
    else:
        require(len(set(touched)) == 1, operation, "buffers differ in size")
        require(
            name == "Activate" and operation.function not in OF_ROWS or out % columns == 0,
            operation,
            f"{out} values are not rows of {columns}",
        )
    if hasattr(operation, "sources"):
        require(writes[0] not in operation.sources[1:], operation, "only the first source may be the output")
    elif name not in ("Slope", "Activate", "Scale", "Remask", "Select", "Copy", "Strided"):
        require(not set(reads) & set(writes), operation, "the output may not be a source")
    for values in ("gamma", "beta") if name in ("Normalize", "NormalizeBack") else ():
        value = getattr(operation, values, None)
        require(value is None or np.size(value) == columns, operation, f"{values} has a value for each column")
    if name == "Scale":
        require(np.size(operation.values) == out, operation, "a value for each element")
    if name in ("Activate", "Slope") and operation.function == "prelu":
        require(np.size(operation.parameters["negative_slope"]) == out, operation, "a slope for each element")
    require(
        name != "Slope" or operation.function not in OF_ROWS,
        operation,
        "a function of rows has a slope of its own: SoftmaxBack",
    )
