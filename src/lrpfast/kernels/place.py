"""Where a program's buffers lie in a workspace, and how much work its operations are: for any backend."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Any

from .program import Contract, Divide, Dot, DotBack, Operation, Program, Redistribute, Remask, Strided

#: What each light operation reads and writes, by the names of its fields; besides, perhaps, ``sources``.
BUFFERS = {
    "Activate": (("source",), ("out",)),
    "Unmask": (("source",), ("clean", "present")),
    "Scale": (("source",), ("out",)),
    "Remask": (("present",), ("buffer",)),
    "Begin": (("output",), ("out",)),
    "Copy": (("source",), ("out",)),
    "Accumulate": ((), ("out",)),
    "Slope": (("x", "relevance"), ("out",)),
    "SoftmaxBack": (("x", "y", "relevance"), ("out",)),
    "Gather": (("source",), ("out",)),
    "Scatter": (("source",), ("out",)),
    "Strided": (("source",), ("out",)),
    "Pool": (("source",), ("out", "winner")),
    "Unpool": (("relevance", "winner"), ("out",)),
    "Multiply": ((), ("out",)),
    "Extremum": ((), ("out", "winner")),
    "Select": (("relevance", "winner"), ("out",)),
    "Normalize": (("source",), ("out",)),
    "NormalizeBack": (("x", "s"), ("out",)),
    "LocalNormalize": (("source",), ("out",)),
    "Dot": (("a", "b"), ("out",)),
    "DotBack": (("s", "other", "x"), ("out",)),
    "Lookup": (("source",), ("out",)),
    "Total": (("source",), ("out",)),
}
#: Forward operations whose output may overflow; contractions and activations check their own.
OVERFLOWS = {"Accumulate", "Multiply", "Normalize", "LocalNormalize", "Dot", "Lookup", "Total"}


def touched(operation: Operation) -> tuple[set[int], set[int]]:
    """Buffers an operation reads and writes."""
    match operation:
        case Contract():
            return {t.source for t in operation.terms}, {o.buffer for o in operation.outputs}
        case Redistribute():
            reads = {t.source for t in operation.terms} | {operation.x}
            return reads | (_divisors(operation.divide) if operation.divide else set()), {operation.out}
        case Divide():
            return {operation.relevance} | _divisors(operation), {operation.out}
    fields_read, fields_written = BUFFERS[type(operation).__name__]
    reads = {getattr(operation, name) for name in fields_read} | set(getattr(operation, "sources", ()))
    writes = {getattr(operation, name) for name in fields_written}
    reads, writes = reads - {None}, writes - {None}
    if isinstance(operation, (Strided, Remask)):  # what they do not write, they keep
        reads |= writes
    return reads, writes


def _divisors(divide: Divide) -> set[int]:
    return {b for b in (divide.z, divide.mask_z) if isinstance(b, int)}


def place(program: Program, align: int = 1) -> tuple[list[int], int]:
    """Where each buffer lies in a workspace (elements per sample; -1 where an outside array is used), and its width.

    A buffer's place is free again after its last use, so relevance moves between
    two places and only what the backward pass needs is kept. Places are multiples of ``align``.
    """
    operations = (*program.forward, *program.backward)
    end = len(operations)
    outside = {0, program.output if program.result is None else program.result}
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for at, operation in enumerate(operations):
        reads, writes = touched(operation)
        for b in reads | writes:
            first.setdefault(b, at)
            # what the forward pass leaves for the backward pass must survive every target
            last[b] = end if at >= len(program.forward) > first[b] else at
    for b in (*program.keep, program.output):
        last[b] = end
    begins: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    for b in sorted(first.keys() - outside):
        begins.setdefault(first[b], []).append(b)
        ends.setdefault(last[b], []).append(b)
    offsets, widths = [-1] * len(program.sizes), [-(-size // align) * align for size in program.sizes]
    free = _Free()
    for at in range(end):
        for b in ends.get(at - 1, ()):
            free.give(offsets[b], widths[b])
        for b in begins.get(at, ()):
            offsets[b] = free.take(widths[b])
    return offsets, max((offsets[b] + widths[b] for b in first.keys() - outside), default=0)


class _Free:
    """The gaps of a workspace without an end, in order: few, however many buffers there are."""

    def __init__(self) -> None:
        self.starts: list[int] = [0]
        self.ends: list[float] = [math.inf]

    def take(self, size: int) -> int:
        """The first place where so much is free."""
        i = next(i for i, start in enumerate(self.starts) if self.ends[i] - start >= size)
        start = self.starts[i]
        self.starts[i] += size
        if self.starts[i] == self.ends[i]:
            del self.starts[i], self.ends[i]
        return start

    def give(self, start: int, size: int) -> None:
        """Free a place again; gaps side by side become one."""
        if not size:
            return
        i = bisect.bisect_left(self.starts, start)
        self.starts.insert(i, start)
        self.ends.insert(i, start + size)
        for right in (i + 1, i):
            if 0 < right < len(self.starts) and self.ends[right - 1] == self.starts[right]:
                del self.starts[right], self.ends[right - 1]


def work(operation: Operation, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """(floating-point operations, rows that share weights) per sample of each product in an operation."""
    match operation:
        case Dot() | DotBack():
            return [(2 * operation.m * operation.n * operation.k, operation.m)]
        case Contract() | Redistribute():
            out = operation.out if isinstance(operation, Redistribute) else operation.outputs[0].buffer
            parts = []
            regions: list[tuple[int, Any]]
            for term in operation.terms:
                if term.geometry is None:
                    regions = [(operation.rows, term.weights)]
                elif getattr(operation, "spread", False):
                    regions = [(math.prod(term.geometry.out), term.weights)]
                else:
                    counts = (
                        math.prod(len(axis.positions) for axis in region.axes) for region in term.geometry.regions
                    )
                    regions = list(zip(counts, term.weights, strict=True))
                for rows, weights in regions:
                    size = len(weights) * sizes[out] // operation.rows if operation.diagonal else weights.size
                    parts.append((2 * rows * size, rows))
            return parts
    return []


def flops(program: Program) -> int:
    """Floating-point operations of all contractions, per sample."""
    operations = (*program.forward, *program.backward)
    return sum(flop for operation in operations for flop, _ in work(operation, program.sizes))
