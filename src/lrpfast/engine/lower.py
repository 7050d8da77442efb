"""From a plan to a backend's program: operations in order, and the buffers they use, named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..kernels import Backend
from ..kernels.contraction_ops import Redistribute, Share
from ..kernels.operation import Operation
from ..kernels.ops import (
    Accumulate,
    Activate,
    ActivateBack,
    Copy,
    Gather,
    InitRelevance,
    MaskNaN,
    RestoreNaN,
    Scatter,
    SoftmaxBack,
    Strided,
)
from ..kernels.program import Program
from ..rules import Pass, Stabilizer, Taylor
from . import linear, passes
from .plan import FunctionPlan, GroupPlan, LinearPlan, Plan, Step
from .trace import GroupTrace, LayerTrace


@dataclass
class Lowered:
    """A program, and, when traced, where its parts are kept."""

    program: Program
    layers: list[LayerTrace] = field(default_factory=list)
    relevance: dict[int, int] = field(default_factory=dict)  # relevance of each value


def lower_forward(plan: Plan, *, dtype: str, tf32: bool) -> Program:
    """The forward pass alone."""
    return Lowering(plan, dtype, tf32, None, trace=False).forward_only()


def lower(
    plan: Plan,
    backend: Backend,
    *,
    dtype: str,
    tf32: bool,
    trace: bool = False,
    rectify: bool = False,
    input_range: tuple[float, float] | None = None,
) -> Lowered:
    """The program of an explanation; ``trace`` keeps what the balance of relevance needs."""
    lowering = Lowering(plan, dtype, tf32, backend, trace=trace)
    return lowering.explain(rectify, input_range)


class Lowering:
    """A program as it is written. Values are the plan's, buffers the program's."""

    def __init__(self, plan: Plan, dtype: str, tf32: bool, backend: Backend | None, *, trace: bool) -> None:
        self.plan, self.dtype, self.tf32, self.backend, self.trace = plan, np.dtype(dtype), tf32, backend, trace
        self.explains = backend is not None
        model = plan.model
        self.inputs = [plan.values[i] for i in model.inputs]
        self.outputs = [plan.values[i] for i in model.outputs]
        self.sizes: list[int] = [sum(plan.sizes[v] for v in self.inputs)]
        self.forward: list[Operation] = []
        self.backward: list[Operation] = []
        self.present: int | None = None
        self.held: dict[int, int] = {}  # the buffer of each value
        self.state: dict[int, Any] = {}  # what a layer's forward pass leaves for its backward pass, by its output
        self.sources: dict[int, list[int]] = {}  # of each linear layer, by its output, as are:
        self.z: dict[int, int] = {}  # its z, bias included, where it is kept
        self.activation: dict[int, int] = {}  # the ReLU above it
        self.own: dict[tuple[int, int], int] = {}  # denominators of its groups
        self.taken: dict[tuple[Any, ...], Any] = {}  # parts of weights
        self.traces: list[LayerTrace] = []
        self.fused = self._fused()

    def _fused(self) -> dict[int, int]:
        """Values that only a plain ReLU takes, with the ReLU's value: its layer computes both in one go."""
        taken: dict[int, list[Step]] = {}
        for step in self.plan.steps:
            for v in step.inputs:
                taken.setdefault(v, []).append(step)
        fused = {}
        for step in self.plan.steps:
            after = taken.get(step.output, [])
            if isinstance(step, LinearPlan) and step.output not in self.outputs and len(after) == 1:
                relu = after[0]
                if isinstance(relu, FunctionPlan) and relu.layer.is_plain_relu:
                    fused[step.output] = relu.output
        return fused

    def buffer(self, size: int) -> int:
        self.sizes.append(size)
        return len(self.sizes) - 1

    # small pieces, for passes.py too

    def stretch(self, source: int, index: np.ndarray | None) -> int:
        """The source's values in another order or number, on the way forwards."""
        if index is None:
            return source
        out = self.buffer(len(index))
        self.forward.append(Gather(source, out, index))
        return out

    def shrink(self, source: int, index: np.ndarray | None, size: int) -> int:
        """What `stretch` did, undone with relevance: summed where a value was repeated."""
        if index is None:
            return source
        out = self.buffer(size)
        self.backward.append(Scatter(source, out, index))
        return out

    def permuted(self, source: int, shape: tuple[int, int]) -> int:
        """A matrix's transpose, on the way backwards."""
        index = np.arange(math.prod(shape), dtype=np.int64).reshape(shape).T.ravel()
        out = self.buffer(len(index))
        self.backward.append(Gather(source, out, index))
        return out

    def divided(
        self, r: int, z: int, size: int, stabilizer: Stabilizer, bias: np.ndarray | None = None
    ) -> tuple[int, GroupTrace]:
        """s = r / stabilized z, and what the balance needs of it."""
        s = self.buffer(size)
        self.backward.append(passes.divide(r, z, s, stabilizer, self.dtype))
        return s, GroupTrace(GroupPlan(1.0, stabilizer, 0, None, "output", (), ()), s, z, None, bias)

    def elementwise(self, source: int, x: int, out: int, share: Share) -> Redistribute:
        """out = coefficient · part(x) ⊙ source."""
        return passes.elementwise(source, x, out, share, self.dtype)

    def note(
        self,
        step: Step,
        incoming: int,
        outgoing: Sequence[int],
        groups: tuple[GroupTrace, ...] = (),
        lost_at: np.ndarray | None = None,
        remainder: bool = False,
    ) -> None:
        """Keep what the balance of one layer is made of; a layer's last word counts."""
        if not self.trace:
            return
        if self.traces and self.traces[-1].step is step:
            del self.traces[-1]
        self.traces.append(LayerTrace(step, incoming, tuple(outgoing), groups, lost_at, remainder))

    # forward

    def run_forward(self) -> int:
        """Lower the forward pass; returns the output's buffer."""
        if self.plan.mask_nan:
            clean, self.present = self.buffer(self.sizes[0]), self.buffer(self.sizes[0])
            self.forward.append(MaskNaN(0, clean, self.present))
            self.held[self.inputs[0]] = clean
        elif len(self.inputs) == 1:
            self.held[self.inputs[0]] = 0
        else:
            first = 0
            for v in self.inputs:
                size = self.plan.sizes[v]
                self.held[v] = self.buffer(size)
                self.forward.append(Strided(0, self.held[v], 1, size, first))
                first += size
        for step in self.plan.steps:
            if step.output in self.held:
                continue  # a ReLU that its layer has computed
            sources = [self.held[v] for v in step.inputs]
            if isinstance(step, LinearPlan):
                linear.forward(self, step, sources)
            elif isinstance(step, FunctionPlan):
                self.held[step.output] = self.function_forward(step, sources[0])
            else:
                self.held[step.output] = passes.forward(self, step, sources)
        if len(self.outputs) == 1:
            at = self.held[self.outputs[0]]
            if at:
                return at
            out = self.buffer(self.sizes[0])
            self.forward.append(Copy(at, out))
            return out
        out = self.buffer(sum(self.plan.sizes[v] for v in self.outputs))
        first = 0
        for v in self.outputs:
            size = self.plan.sizes[v]
            self.forward.append(Strided(self.held[v], out, 1, size, 0, 0, first))
            first += size
        return out

    def function_forward(self, step: FunctionPlan, source: int) -> int:
        out = self.buffer(self.sizes[source])
        columns = step.shape[-1] if step.shape else 1
        self.forward.append(Activate(source, out, step.layer.function, self.parameters(step), columns))
        return out

    @staticmethod
    def parameters(step: FunctionPlan) -> Any:
        """A function's parameters, PReLU's slopes in the shape of one sample."""
        parameters = step.layer.parameters
        if step.layer.function == "prelu":
            return {"negative_slope": np.broadcast_to(parameters["negative_slope"], step.shape)}
        return parameters

    def forward_only(self) -> Program:
        output = self.run_forward()
        return Program(tuple(self.sizes), tuple(self.forward), (), output, None, self.dtype.name, self.tf32)

    # backward

    def explain(self, rectify: bool, input_range: tuple[float, float] | None) -> Lowered:
        output = self.run_forward()
        begun = self.buffer(self.sizes[output])
        self.backward.append(InitRelevance(output, begun, rectify))
        handed: dict[int, list[int]] = {}  # to each value, from the layers above it
        if len(self.outputs) == 1:
            handed[self.outputs[0]] = [begun]
        else:
            first = 0
            for v in self.outputs:
                size = self.plan.sizes[v]
                handed.setdefault(v, []).append(self.buffer(size))
                self.backward.append(Strided(begun, handed[v][-1], 1, size, first))
                first += size
        relevance: dict[int, int] = {}
        for step in reversed(self.plan.steps):
            r = relevance[step.output] = self.collect(handed[step.output])
            if isinstance(step, LinearPlan):
                outs = linear.backward(self, step, r)
            elif isinstance(step, FunctionPlan):
                outs = [self.function_backward(step, r)]
            else:
                outs = passes.backward(self, step, r, self.held[step.output])
            for v, out in zip(step.inputs, outs, strict=True):
                handed.setdefault(v, []).append(out)
        for v in self.inputs:
            relevance[v] = self.collect(handed[v])
        result = self.result([relevance[v] for v in self.inputs], begun)
        if len(self.inputs) == 1:
            relevance[self.inputs[0]] = result
        if self.present is not None:
            self.backward.append(RestoreNaN(result, self.present))
        program = Program(
            tuple(self.sizes),
            tuple(self.forward),
            tuple(self.backward),
            output,
            result,
            self.dtype.name,
            self.tf32,
            self.kept(output, relevance, result) if self.trace else (),
            input_range,
            self.plan.mask_nan,
        )
        return Lowered(program, self.traces, relevance)

    def collect(self, handed: Sequence[int]) -> int:
        """All that layers above hand to a value."""
        if len(handed) == 1:
            return handed[0]
        out = self.buffer(self.sizes[handed[0]])
        self.backward.append(Accumulate(tuple(handed), out))
        return out

    def result(self, inputs: Sequence[int], begun: int) -> int:
        """The relevance of the input, of several one after the other, in a buffer that nothing else is in."""
        if len(inputs) == 1 and inputs[0] != begun:
            return inputs[0]
        out = self.buffer(self.sizes[0])
        if len(inputs) == 1:
            self.backward.append(Copy(inputs[0], out))
            return out
        first = 0
        for b in inputs:
            self.backward.append(Strided(b, out, 1, self.sizes[b], 0, 0, first))
            first += self.sizes[b]
        return out

    def function_backward(self, step: FunctionPlan, r: int) -> int:
        if isinstance(step.rule, Pass):
            return r
        y = self.held[step.output]
        out = self.buffer(self.sizes[r])
        if isinstance(step.rule, Taylor):
            self.backward.append(SoftmaxBack(self.held[step.inputs[0]], y, r, out, step.shape[-1]))
        elif step.layer.function == "log_softmax":
            # R − s Σ R, with s = exp(y)
            s = self.buffer(self.sizes[r])
            self.backward.append(Activate(y, s, "exponential"))
            self.backward.append(SoftmaxBack(None, s, r, out, step.shape[-1]))
        elif step.layer.function == "softmax":
            # s (R − Σ s R) is what the Taylor form gives of s R, without x
            scaled = self.buffer(self.sizes[r])
            self.backward.append(self.elementwise(r, y, scaled, Share(0, "x")))
            self.backward.append(SoftmaxBack(None, y, scaled, out, step.shape[-1]))
        else:
            # a ReLU's derivative can be told from its value, where its argument is not kept
            x = self.held.get(step.inputs[0], y)
            self.backward.append(ActivateBack(x, r, out, step.layer.function, self.parameters(step)))
        self.note(step, r, (out,), remainder=True)
        return out

    def kept(self, output: int, relevance: dict[int, int], result: int) -> tuple[int, ...]:
        """The buffers that a traced run hands out besides its result."""
        keep = {output, *relevance.values()}
        for t in self.traces:
            keep |= {t.incoming, *t.outgoing}
            for g in t.groups:
                keep |= {b for b in (g.s, g.z, g.mask_z) if isinstance(b, int)}
        return tuple(sorted(keep - {result, 0}))
