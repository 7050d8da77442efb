"""The programs of relevance from layer to layer after one forward pass.

The run of the first program computes the forward pass and the relevance of the uppermost layer, and keeps the buffers
that the backward passes below read. Each other program takes these as its input, and computes the relevance of one
layer from that of the layer before: any number of times, without a forward pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..kernels import Backend
from ..kernels.memory_plan import touched
from ..kernels.operation import Operation
from ..kernels.ops import Copy, Strided
from ..kernels.program import Program
from ..rules.gradients import GradientComposite
from .lower import backward_pass, computing, forward_pass, init_relevance, start_of_outputs
from .plan import Plan
from .program_builder import ProgramBuilder


@dataclass(frozen=True)
class StepPrograms:
    """The programs of relevance from layer to layer.

    Attributes
    ----------
    first : Program
        The forward pass, and the relevance of the uppermost layer; keeps what the others take.
    steps : tuple of Program
        From each layer to the next; input and start are what ``first`` kept, and relevance of the layer above.
    inputs : tuple of tuple of int
        The buffers of ``first`` that lie one after the other in the input of each step.
    """

    first: Program
    steps: tuple[Program, ...]
    inputs: tuple[tuple[int, ...], ...]


def lower_steps(
    plan: Plan,
    backend: Backend,
    values: Sequence[int],
    *,
    dtype: str,
    operands: str,
    rectify: bool,
    input_range: tuple[float, float] | None,
    gradients: GradientComposite | None,
) -> StepPrograms:
    """The programs for these values of the plan, from above to below."""
    builder = ProgramBuilder(plan, dtype, operands, backend, trace=False, stored=frozenset(values))
    builder.times_input, builder.copies_input = gradients is not None and gradients.times_input, True
    output = forward_pass(builder)
    start = init_relevance(builder, output, rectify, gradients)
    relevance = backward_pass(builder, start_of_outputs(builder, start), values[:1])
    top = _alone(builder, relevance[values[0]], start)
    backward = computing({top}, builder.backward)
    parts: list[tuple[tuple[Operation, ...], int, int]] = []
    for upper, lower in itertools.pairwise(values):
        builder.backward = []
        begin = init_relevance(builder, builder.buffers[upper], False, gradients)
        relevance = backward_pass(builder, {upper: [begin]}, (lower,))
        result = _alone(builder, relevance[lower], begin)
        parts.append((computing({result}, builder.backward), builder.buffers[upper], result))
    inputs = tuple(_left_by_forward(operations) for operations, _, _ in parts)
    keep = sorted({output}.union(*inputs))
    options: dict[str, Any] = {"dtype": builder.dtype.name, "operands": operands}
    first = Program(
        tuple(builder.sizes),
        tuple(builder.forward),
        backward,
        output,
        top,
        keep=tuple(keep),
        input_range=input_range,
        allow_nan=plan.mask_nan,
        **options,
    )
    steps = []
    for (operations, source, result), buffers in zip(parts, inputs, strict=True):
        at = [0, *itertools.accumulate(builder.sizes[b] for b in buffers)]
        sizes = (at[-1], *builder.sizes[1:])
        forward = [Strided(0, b, 1, sizes[b], begin) for b, begin in zip(buffers, at, strict=False)]
        steps.append(Program(sizes, tuple(forward), operations, source, result, **options))
    return StepPrograms(first, tuple(steps), inputs)


def _alone(builder: ProgramBuilder, relevance: int, start: int) -> int:
    """A buffer with this relevance, which is not the one that it begins in."""
    if relevance != start:
        return relevance
    out = builder.buffer(builder.sizes[relevance])
    builder.backward.append(Copy(relevance, out))
    return out


def _left_by_forward(operations: Sequence[Operation]) -> tuple[int, ...]:
    """The buffers that operations read before they write them."""
    written: set[int] = set()
    result: set[int] = set()
    for operation in operations:
        reads, writes = touched(operation)
        result |= reads - written
        written |= writes
    return tuple(sorted(result))
