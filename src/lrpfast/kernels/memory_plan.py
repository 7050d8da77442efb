"""Where a program's buffers lie in a workspace, and how much work its operations are: for any backend."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .contraction_ops import Contract, Redistribute
from .operation import Operation, row_of
from .ops import AttentionBack, AttentionOp, DotBack, DotOp, Recur, RecurBack
from .program import Program

#: A step's products have a row for each sample: a quarter of a tile's rows asks for so many samples as fill some tiles.
STEP_ROWS = 4


def touched(operation: Operation) -> tuple[set[int], set[int]]:
    """Buffers an operation reads and writes."""
    row = row_of(operation)
    reads, writes = ({b for b in buffers if b is not None} for buffers in row.buffers(operation))
    return (reads | writes if row.keeps else reads), writes


def plan_memory(program: Program, align: int = 1) -> tuple[list[int], int]:
    """Where each buffer lies in a workspace (elements per sample; -1 where an outside array is used), and its width.

    A buffer's memory is free again after its last use, so relevance moves between
    two of them and only what the backward pass needs is kept. Offsets are multiples of ``align``.
    Buffers that several segments of the backward pass use have memory of their own, since segments run again.
    """
    uses = _uses(program)
    offsets = [-1] * len(program.sizes)
    return offsets, _place(uses, program.sizes, offsets, align)


@dataclass(frozen=True)
class Stage:
    """Operations from ``begin`` to ``end`` of both passes, which a thread runs for so many samples at a time."""

    begin: int
    end: int
    samples: int


@dataclass(frozen=True)
class Layout:
    """Where buffers lie in a thread's workspace.

    Attributes
    ----------
    offsets : list of int
        Of each buffer, in elements per sample; -1 where an outside array is used.
    inner : list of bool
        Whether a buffer is used within one stage alone, and so has room for the samples of a stage.
    width, inner_width : int
        Elements per sample of the buffers for all samples of a micro-batch, and of inner ones.
    stages : tuple of Stage
    """

    offsets: list[int]
    inner: list[bool]
    width: int
    inner_width: int
    stages: tuple[Stage, ...]


def plan_stages(program: Program, stages: tuple[Stage, ...]) -> Layout:
    """As `plan_memory`, for stages: of what they leave for others, all samples are there at the same time."""
    stage_of = {at: stage for stage in stages for at in range(stage.begin, stage.end)}
    outer: dict[int, tuple[int, int]] = {}
    inner: dict[int, tuple[int, int]] = {}
    end = len(program.forward) + len(program.backward)
    for b, (first, last) in _uses(program).items():
        before, after = stage_of.get(first), stage_of.get(last)
        if before is not None and before is after:
            inner[b] = first, last
            continue
        first = first if before is None else before.begin
        outer[b] = first, last if after is None or last == end else after.end - 1
    offsets = [-1] * len(program.sizes)
    widths = [_place(uses, program.sizes, offsets, 1) for uses in (outer, inner)]
    return Layout(offsets, [b in inner for b in range(len(offsets))], widths[0], widths[1], stages)


def _uses(program: Program) -> dict[int, tuple[int, int]]:
    """The first and the last operation that each buffer of a workspace is needed for; the end, where it must stay."""
    operations = (*program.forward, *program.backward)
    begin, end = len(program.forward), len(operations)
    segment_of = [-1] * begin + [i for i, (low, high) in enumerate(program.parts) for _ in range(low, high)]
    outside = {0, program.output if program.result is None else program.result}
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for at, operation in enumerate(operations):
        reads, writes = touched(operation)
        for b in reads | writes:
            first.setdefault(b, at)
            # what the forward pass leaves for the backward pass must survive every target
            shared = segment_of[at] != segment_of[first[b]]
            last[b] = end if shared or last.get(b) == end else at
            if shared:
                first[b] = min(first[b], begin)
    for b in (*program.keep, program.output):
        last[b] = end
    return {b: (first[b], last[b]) for b in sorted(first.keys() - outside)}


def _place(uses: dict[int, tuple[int, int]], sizes: Sequence[int], offsets: list[int], align: int) -> int:
    """Give buffers offsets such that those in use at the same time do not overlap; returns the width of all."""
    begins: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    for b, (first, last) in uses.items():
        begins.setdefault(first, []).append(b)
        ends.setdefault(last, []).append(b)
    widths = {b: -(-sizes[b] // align) * align for b in uses}
    gaps = _Gaps()
    for at in range(max(begins, default=-1) + 1):
        for b in ends.get(at - 1, ()):
            gaps.release(offsets[b], widths[b])
        for b in begins.get(at, ()):
            offsets[b] = gaps.allocate(widths[b])
    return max((offsets[b] + width for b, width in widths.items()), default=0)


class _Gaps:
    """The gaps of a workspace without an end, in order: few, however many buffers there are."""

    def __init__(self) -> None:
        self.starts: list[int] = [0]
        self.ends: list[float] = [math.inf]

    def allocate(self, size: int) -> int:
        """The first place where so much is free."""
        i = next(i for i, start in enumerate(self.starts) if self.ends[i] - start >= size)
        start = self.starts[i]
        self.starts[i] += size
        if self.starts[i] == self.ends[i]:
            del self.starts[i], self.ends[i]
        return start

    def release(self, start: int, size: int) -> None:
        """Free a place again; gaps side by side become one."""
        if not size:
            return
        i = bisect.bisect_left(self.starts, start)
        self.starts.insert(i, start)
        self.ends.insert(i, start + size)
        for right in (i + 1, i):
            if 0 < right < len(self.starts) and self.ends[right - 1] == self.starts[right]:
                del self.starts[right], self.ends[right - 1]


def work_of(operation: Operation, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """(floating-point operations, rows that share weights) per sample of each product in an operation."""
    match operation:
        case DotOp() | DotBack():
            return [(2 * operation.count * operation.m * operation.n * operation.k, operation.m)]
        case AttentionOp():
            return [(operation.shape.work, operation.shape.n)]
        case AttentionBack():
            return [((1 if operation.detached else 3) * operation.shape.work, operation.shape.n)]
        case Recur() | RecurBack():
            r = operation.recurrence
            weights = r.weights.size + (0 if r.candidate is None else r.candidate.size)
            return [(2 * r.steps * weights, STEP_ROWS)]
        case Contract() | Redistribute():
            out = operation.out if isinstance(operation, Redistribute) else operation.outputs[0].buffer
            products = []
            regions: list[tuple[int, Any]]
            for term in operation.terms:
                if term.geometry is None:
                    regions = [(operation.rows, term.weights)]
                else:
                    counts = (
                        math.prod(len(axis.positions) for axis in region.axes) for region in term.geometry.regions
                    )
                    regions = list(zip(counts, term.weights, strict=True))
                for rows, weights in regions:
                    size = len(weights) * sizes[out] // operation.rows if operation.diagonal else weights.size
                    products.append((2 * rows * size, rows))
            return products
    return []


def flops(program: Program) -> int:
    """Floating-point operations of all contractions, per sample."""
    operations = (*program.forward, *program.backward)
    return sum(flop for operation in operations for flop, _ in work_of(operation, program.sizes))
