"""Which of a program's contractions read many zeros, as its operations tell: kernels may skip these.

A ReLU leaves zeros where its input is negative. Relevance is x ⊙ something where a rule multiplies by the input, so
that it is zero there too; below a max pooling it is zero everywhere but at the winners. How many zeros there are
depends on the data: after a ReLU half of the values as a rule, and more in trained networks; below a pooling of 2 × 2
five in six.
"""

from __future__ import annotations

from collections.abc import Sequence

from .contraction_ops import Contract, Divide, Redistribute
from .memory_plan import touched
from .operation import Operation
from .ops import Accumulate, Activate, Copy, PoolBack, Scale

#: How many of a buffer's values are zeros.
NONE, MANY, NEARLY_ALL = 0, 1, 2


def zeros_read(operations: Sequence[Operation]) -> list[int]:
    """Of every operation of a program, in order: how many zeros all that it contracts has at least."""
    zeros: dict[int, int] = {}
    found = []
    for operation in operations:
        terms = operation.terms if isinstance(operation, (Contract, Redistribute)) else ()
        found.append(min((zeros.get(term.source, NONE) for term in terms), default=NONE))
        left = _zeros_left(operation, zeros)
        for buffer in touched(operation)[1]:
            zeros[buffer] = left.get(buffer, NONE)
    return found


def _zeros_left(operation: Operation, zeros: dict[int, int]) -> dict[int, int]:
    """The zeros in what an operation writes, given those in what there is before it."""
    match operation:
        case Contract():
            return {output.buffer: MANY for output in operation.outputs if output.relu}
        case Redistribute() if zeros.get(operation.x) and all(share.part == "x" for share in operation.shares):
            return {operation.out: MANY}
        case Activate(function="relu") if operation.parameters["negative_slope"] == 0:
            return {operation.out: MANY}
        case PoolBack():
            return {operation.out: NEARLY_ALL}
        case Divide():
            return {operation.out: zeros.get(operation.relevance, NONE)}
        case Copy() | Scale():
            return {operation.out: zeros.get(operation.source, NONE)}
        case Accumulate():
            return {operation.out: min(zeros.get(source, NONE) for source in operation.sources)}
    return {}
