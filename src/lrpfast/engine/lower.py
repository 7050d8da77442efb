"""From a plan to a backend's program: every step's operations in order, forwards and then backwards."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..kernels import Backend
from ..kernels.memory_plan import touched
from ..kernels.operation import Operation
from ..kernels.ops import (
    Accumulate,
    Activate,
    Copy,
    InitRelevance,
    MaskNaN,
    MaskRelevance,
    MultiplyOp,
    RestoreNaN,
    Scatter,
    Strided,
)
from ..kernels.program import Program
from ..rules.gradients import GradientComposite
from ..rules.sides import carries_relevance
from . import activation_ops, attention_ops, linear_ops, nonlinear_ops
from .io_layout import IOLayout
from .plan import FunctionPlan, LayerPlan, LinearPlan, Plan
from .program_builder import ProgramBuilder
from .trace import LayerTrace


@dataclass
class Lowered:
    """A program, and where its parts are: if they are traced, or stored."""

    program: Program
    layers: list[LayerTrace] = field(default_factory=list)
    relevance: dict[int, int] = field(default_factory=dict)  # the buffer of each value's relevance
    values: dict[int, int] = field(default_factory=dict)  # the buffer of each value

    def up_to(self, value: int, *, output: bool) -> Program:
        """The forward pass up to a stored value, which is its output; up to the model's ``output`` if that is kept."""
        program, target = self.program, self.values[value]
        forward = computing({target, program.output} if output else {target}, program.forward)
        keep = (program.output,) if output and program.output != target else ()
        return replace(program, forward=forward, backward=(), output=target, result=None, keep=keep)

    def down_to(self, value: int, others: Collection[int]) -> Program:
        """The program whose result is the relevance of a stored value: nothing that only values below it need.

        ``others`` are stored values above it, whose relevance is kept too.
        """
        program, result, sizes = self.program, self.relevance[value], self.program.sizes
        backward: tuple[Operation, ...] = program.backward
        if any(isinstance(o, InitRelevance) and o.out == result for o in backward):  # the output itself
            backward, sizes, result = (*backward, Copy(result, len(sizes))), (*sizes, sizes[result]), len(sizes)
        backward = computing({result, *(self.relevance[v] for v in others)}, backward)
        return replace(program, sizes=sizes, backward=backward, result=result)


def computing(buffers: set[int], operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """The operations, in order, that the contents of these buffers depend on."""
    needed, result = set(buffers), []
    for operation in reversed(operations):
        reads, writes = touched(operation)
        if writes & needed:
            result.append(operation)
            needed |= reads
    return tuple(reversed(result))


def lower_forward(plan: Plan, *, dtype: str, operands: str) -> Program:
    """The forward pass alone."""
    builder = ProgramBuilder(plan, dtype, operands, None, trace=False)
    return builder.forward_program(forward_pass(builder))


def lower(
    plan: Plan,
    backend: Backend,
    *,
    dtype: str,
    operands: str,
    trace: bool = False,
    rectify: bool = False,
    input_range: tuple[float, float] | None = None,
    gradients: GradientComposite | None = None,
    stored: frozenset[int] = frozenset(),
) -> Lowered:
    """The program of an explanation; ``trace`` keeps what the balance of relevance needs.

    The values ``stored`` and their relevance have buffers, which a caller may keep.
    """
    builder = ProgramBuilder(plan, dtype, operands, backend, trace=trace, stored=stored)
    builder.times_input = gradients is not None and gradients.times_input
    output = forward_pass(builder)
    start = init_relevance(builder, output, rectify, gradients)
    relevance = backward_pass(builder, start_of_outputs(builder, start))
    result = input_relevance(builder, gradients, relevance, start)
    keep = {output, *relevance.values(), *builder.traced_buffers()} - {result, 0} if trace else set()
    program = Program(
        tuple(builder.sizes),
        tuple(builder.forward),
        tuple(builder.backward),
        output,
        result,
        builder.dtype.name,
        operands,
        tuple(sorted(keep)),
        input_range,
        plan.mask_nan,
    )
    return Lowered(program, builder.traces, relevance, builder.buffers)


def init_relevance(builder: ProgramBuilder, output: int, rectify: bool, gradients: GradientComposite | None) -> int:
    """Append what relevance begins with; returns its buffer."""
    start = builder.buffer(builder.sizes[output])
    builder.backward.append(InitRelevance(output, start, rectify, gradients is not None))
    return start


def input_relevance(
    builder: ProgramBuilder, gradients: GradientComposite | None, relevance: dict[int, int], start: int | None
) -> int:
    """Append what is left to do at the inputs; returns the buffer of their relevance, which replaces it in the dict.

    Nothing else is in this buffer; ``start`` is one that must stay as it is.
    """
    if gradients is not None:
        relevance |= {v: _of_gradient(builder, gradients, v, relevance[v]) for v in builder.inputs}
    result = _result(builder, [relevance[v] for v in builder.inputs], start)
    if len(builder.inputs) == 1:
        relevance[builder.inputs[0]] = result
    if builder.present is not None:
        builder.backward.append(RestoreNaN(result, builder.present))
    return result


def _of_gradient(builder: ProgramBuilder, gradients: GradientComposite, value: int, gradient: int) -> int:
    """What is made of the gradient of one input: its absolute values or squares, the input times it."""
    size, model = builder.sizes[gradient], builder.plan.model
    if gradients.postprocess is not None:
        source, gradient = gradient, builder.buffer(size)
        square = gradients.postprocess == "square"
        builder.backward.append(
            MultiplyOp((source, source), gradient)
            if square
            else Activate(source, gradient, "leaky_relu", {"negative_slope": -1.0})
        )
    slot = IOLayout(model).inputs[builder.inputs.index(value)]
    if not gradients.times_input or slot.entries is not None:  # embeddings are multiplied where they are looked up
        return gradient
    out = builder.buffer(size)
    builder.backward.append(MultiplyOp((builder.buffers[value], gradient), out))
    return out


def forward_pass(builder: ProgramBuilder) -> int:
    """Append the forward pass; returns the output's buffer."""
    buffers = builder.buffers
    _inputs(builder)
    for step in builder.plan.steps:
        if step.output in buffers:
            continue  # a ReLU that its layer has computed
        sources = [buffers[v] for v in step.inputs]
        if isinstance(step, LinearPlan):
            linear_ops.forward(builder, step, sources)
        elif isinstance(step, FunctionPlan):
            buffers[step.output] = activation_ops.forward(builder, step, sources[0])
        else:
            buffers[step.output] = _family(step).forward(builder, step, sources)
    if len(builder.outputs) > 1:
        out = builder.buffer(sum(builder.plan.sizes[v] for v in builder.outputs))
        builder.forward.extend(_joined(builder, [buffers[v] for v in builder.outputs], out))
        return out
    at = buffers[builder.outputs[0]]
    if at:
        return at
    out = builder.buffer(builder.sizes[0])  # an output that is the input
    builder.forward.append(Copy(at, out))
    return out


def _inputs(builder: ProgramBuilder) -> None:
    """The buffer of each input: buffer 0, its windows, or a copy of it in which NaN is zero."""
    if builder.plan.mask_nan:
        clean, builder.present = builder.buffer(builder.sizes[0]), builder.buffer(builder.sizes[0])
        builder.forward.append(MaskNaN(0, clean, builder.present))
        builder.buffers[builder.inputs[0]] = clean
    elif len(builder.inputs) == 1:
        v = builder.inputs[0]
        builder.buffers[v] = builder.buffer(builder.sizes[0]) if builder.copies_input else 0
        if builder.copies_input:
            builder.forward.append(Copy(0, builder.buffers[v]))
    else:
        first = 0
        for v in builder.inputs:
            size = builder.plan.sizes[v]
            builder.buffers[v] = builder.buffer(size)
            builder.forward.append(Strided(0, builder.buffers[v], 1, size, first))
            first += size


def _joined(builder: ProgramBuilder, sources: Sequence[int], out: int) -> list[Strided]:
    """Buffers one after the other in one."""
    operations, first = [], 0
    for source in sources:
        size = builder.sizes[source]
        operations.append(Strided(source, out, 1, size, 0, 0, first))
        first += size
    return operations


def _family(step: LayerPlan) -> Any:
    """The module that knows the layer."""
    return attention_ops if type(step.layer) in attention_ops.ATTENTION_OPS else nonlinear_ops


def start_of_outputs(builder: ProgramBuilder, start: int) -> dict[int, list[int]]:
    """The relevance of each output, from that of all outputs in one row."""
    if len(builder.outputs) == 1:
        return {builder.outputs[0]: [start]}
    contributions: dict[int, list[int]] = {}
    first = 0
    for v in builder.outputs:
        size = builder.plan.sizes[v]
        contributions.setdefault(v, []).append(builder.buffer(size))
        builder.backward.append(Strided(start, contributions[v][-1], 1, size, first))
        first += size
    return contributions


def backward_pass(
    builder: ProgramBuilder,
    contributions: dict[int, list[int]],
    wanted: Collection[int] = (),
    masked: Collection[int] = (),
) -> dict[int, int]:
    """Append the backward pass; returns the buffer of each value's relevance.

    It starts from ``contributions``: buffers of relevance of some values. Values that are ``wanted``, as those that
    the builder stores, have relevance in a buffer of their own. The relevance of ``masked`` values is masked before it
    goes on. Where no relevance comes, as to attention's weights under a conservative rule and to masks, nothing is
    computed.
    """
    carries = {
        v: carried for v, carried in zip(builder.plan.values, carries_relevance(builder.plan.model), strict=True)
    }
    kept = builder.stored.union(wanted)
    relevance: dict[int, int] = {}
    for step in reversed(builder.plan.steps):
        if step.output not in contributions:
            if builder.trace or step.output in kept:
                relevance[step.output] = _nothing(builder, step.output)
            continue
        r = relevance[step.output] = _arrived(builder, contributions, step.output, masked)
        if step.output in kept:
            builder.stored_relevance.add(r)
        outs: Sequence[int | None]
        if isinstance(step, LinearPlan):
            outs = linear_ops.backward(builder, step, r)
        elif isinstance(step, FunctionPlan):
            outs = [activation_ops.backward(builder, step, r)]
        else:
            outs = _family(step).backward(builder, step, r, builder.buffers[step.output])
        for v, out in zip(step.inputs, outs, strict=True):
            if out is not None and carries.get(v, True):
                contributions.setdefault(v, []).append(out)
    for v in builder.inputs:
        relevance[v] = _arrived(builder, contributions, v, masked) if v in contributions else _nothing(builder, v)
    return relevance


def _arrived(
    builder: ProgramBuilder, contributions: Mapping[int, Sequence[int]], value: int, masked: Collection[int]
) -> int:
    """A value's relevance, once all layers above it have contributed, without what its mask keeps back."""
    r = _accumulated(builder, contributions[value])
    if value not in masked:
        return r
    builder.stored_relevance.add(r)
    return mask_relevance(builder, r)


def mask_relevance(builder: ProgramBuilder, relevance: int) -> int:
    """Append the operation that masks a layer's relevance; returns its output."""
    out = builder.buffer(builder.sizes[relevance])
    builder.backward.append(MaskRelevance(relevance, out))
    return out


def _nothing(builder: ProgramBuilder, value: int) -> int:
    """A buffer of zeros, for a value that no relevance reaches: nothing of a buffer that is there."""
    out = builder.buffer(builder.plan.sizes[value])
    source = min(0, builder.buffers[builder.outputs[0]], key=lambda b: builder.sizes[b])
    builder.backward.append(Scatter(source, out, np.full(builder.sizes[source], -1, np.int64)))
    return out


def _accumulated(builder: ProgramBuilder, contributions: Sequence[int]) -> int:
    """The sum of what the layers above contribute to a value's relevance."""
    if len(contributions) == 1:
        return contributions[0]
    out = builder.buffer(builder.sizes[contributions[0]])
    builder.backward.append(Accumulate(tuple(contributions), out))
    return out


def _result(builder: ProgramBuilder, inputs: Sequence[int], start: int | None) -> int:
    """The relevance of the input, of several one after the other, in a buffer that nothing else is in."""
    if len(inputs) == 1 and inputs[0] != start:
        return inputs[0]
    out = builder.buffer(builder.sizes[0])
    builder.backward.extend([Copy(inputs[0], out)] if len(inputs) == 1 else _joined(builder, inputs, out))
    return out
