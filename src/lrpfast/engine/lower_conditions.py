"""The program of conditions: one forward pass, and for each condition a backward pass from its layers down.

Masks of relevance are data of a run; the program depends on the masked layers alone. Its backward pass is in segments,
each of which begins where a layer's relevance is masked. Where two conditions in a row agree down to a layer, the
second one runs the segments from that layer on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ..kernels import Backend
from ..kernels.memory_plan import touched
from ..kernels.operation import Operation
from ..kernels.ops import Copy
from ..kernels.program import Program
from ..rules.gradients import GradientComposite
from .lower import (
    backward_pass,
    computing,
    forward_pass,
    init_relevance,
    input_relevance,
    mask_relevance,
    start_of_outputs,
)
from .plan import Plan
from .program_builder import ProgramBuilder

#: Values of the plan, each below the one before.
Chain = tuple[int, ...]


@dataclass(frozen=True)
class Conditional:
    """A program whose runs take masks.

    Attributes
    ----------
    program : Program
    routes : dict
        For each chain of masked values the segments that lead to the relevance of the input, one for each value; None
        where a value's mask changes nothing that is left to compute.
    """

    program: Program
    routes: dict[Chain, tuple[int | None, ...]]


def lower_conditions(
    plan: Plan,
    backend: Backend,
    chains: Collection[Chain],
    *,
    parallel: bool,
    dtype: str,
    operands: str,
    rectify: bool,
    input_range: tuple[float, float] | None,
    gradients: GradientComposite | None,
) -> Conditional:
    """The program for conditions on these chains of values.

    With ``parallel`` there is a single chain, and paths around its values count too; else relevance flows through all
    values of a chain.
    """
    builder = ProgramBuilder(plan, dtype, operands, backend, trace=False)
    builder.times_input = gradients is not None and gradients.times_input
    output = forward_pass(builder)
    start = init_relevance(builder, output, rectify, gradients)
    lowering = _Conditions(builder, gradients, start)
    routes = lowering.past(next(iter(chains))) if parallel else lowering.through(chains)
    ends: list[int] = []
    backward: list[Operation] = []
    for segment in lowering.segments:
        backward += segment
        ends.append(len(backward))
    program = Program(
        tuple(builder.sizes),
        (*builder.forward, *lowering.once),
        tuple(backward),
        output,
        lowering.result,
        builder.dtype.name,
        operands,
        keep=(output,),
        input_range=input_range,
        allow_nan=plan.mask_nan,
        segments=tuple(ends),
    )
    return Conditional(program, routes)


class _Conditions:
    """The operations of the backward pass: those of all conditions, which run once, and those of each segment."""

    def __init__(self, builder: ProgramBuilder, gradients: GradientComposite | None, start: int) -> None:
        self.builder, self.gradients, self.start = builder, gradients, start
        self.once: tuple[Operation, ...] = ()
        self.segments: list[tuple[Operation, ...]] = []
        self.result = -1

    def through(self, chains: Collection[Chain]) -> dict[Chain, tuple[int | None, ...]]:
        """Segments from value to value of each chain, and from the last one to the input."""
        builder, tops = self.builder, sorted({chain[0] for chain in chains})
        relevance = backward_pass(builder, start_of_outputs(builder, self.start), tops)
        self.once = computing({relevance[v] for v in tops}, builder.backward)
        if len(chains) > 1:  # several segments end at the input: what they write is one buffer
            self.result = builder.buffer(builder.sizes[0])
        routes: dict[Chain, tuple[int | None, ...]] = {}
        for top in tops:
            self._follow((top,), relevance[top], sorted(chains), (), routes)
        return routes

    def _follow(
        self,
        begun: Chain,
        relevance: int,
        chains: Sequence[Chain],
        route: tuple[int, ...],
        routes: dict[Chain, tuple[int | None, ...]],
    ) -> None:
        """The segments of all chains that begin with these values, from the relevance of the last of these on."""
        builder, value = self.builder, begun[-1]
        if begun in chains:
            builder.backward = []
            of_values = backward_pass(builder, {value: [mask_relevance(builder, relevance)]})
            self._end(input_relevance(builder, self.gradients, of_values, None))
            routes[begun] = (*route, len(self.segments) - 1)
        below = sorted(
            {chain[len(begun)] for chain in chains if len(chain) > len(begun) and chain[: len(begun)] == begun}
        )
        if below:
            builder.backward = []
            of_values = backward_pass(builder, {value: [mask_relevance(builder, relevance)]}, below)
            self.segments.append(computing({of_values[v] for v in below}, builder.backward))
            route = (*route, len(self.segments) - 1)
            for v in below:
                self._follow((*begun, v), of_values[v], chains, route, routes)

    def _end(self, result: int) -> None:
        """End a segment at the relevance of the input."""
        builder = self.builder
        if self.result < 0:
            self.result = result
        elif result != self.result:
            builder.backward.append(Copy(result, self.result))
        self.segments.append(computing({self.result}, builder.backward))

    def past(self, chain: Chain) -> dict[Chain, tuple[int | None, ...]]:
        """A segment for each value: what depends on its mask, and on that of no value below."""
        builder = self.builder
        relevance = backward_pass(builder, start_of_outputs(builder, self.start), (), chain)
        mask_of = {relevance[v]: i for i, v in enumerate(chain) if v in relevance}
        self.result = input_relevance(builder, self.gradients, relevance, self.start)
        operations = computing({self.result}, builder.backward)
        levels = _levels(operations, mask_of)
        if max(levels) < 0:  # no mask changes anything
            copy = builder.buffer(builder.sizes[0])
            operations, levels = (*operations, Copy(self.result, copy)), [*levels, 0]
            self.result = copy
        pairs = list(zip(operations, levels, strict=True))
        self.once = tuple(o for o, level in pairs if level < 0)
        used = sorted({level for level in levels if level >= 0})
        self.segments = [tuple(o for o, own in pairs if own == level) for level in used]
        return {chain: tuple(used.index(i) if i in used else None for i in range(len(chain)))}


def _levels(operations: Sequence[Operation], mask_of: Mapping[int, int]) -> list[int]:
    """The number of the lowest mask that each operation depends on, or another that writes what it writes; -1 for none.

    ``mask_of`` has the numbers of masks, from above to below, by the buffers of masked relevance.
    """
    levels, of_buffer, changes = [-1] * len(operations), dict(mask_of), True
    while changes:
        changes = False
        read_at: dict[int, int] = {}  # the lowest mask of operations that have read a buffer
        for i, operation in enumerate(operations):
            reads, writes = touched(operation)
            before = [of_buffer.get(b, -1) for b in reads | writes] + [read_at.get(b, -1) for b in writes]
            level = max(levels[i], *before)
            for b in reads:
                read_at[b] = max(read_at.get(b, -1), level)
            for b in writes:
                if of_buffer.get(b, -1) < level:
                    of_buffer[b], changes = level, True
            changes = changes or level > levels[i]
            levels[i] = level
    return levels
