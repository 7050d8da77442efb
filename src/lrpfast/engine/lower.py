"""From a plan to a backend's program: weight parts taken, buffers named, epilogues fused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import InputError
from ..kernels import Backend
from ..kernels.program import (
    Accumulate,
    Activate,
    Begin,
    Contract,
    Copy,
    Divide,
    Gather,
    Operation,
    Output,
    Program,
    Redistribute,
    Remask,
    Scale,
    Scatter,
    Share,
    Slope,
    SoftmaxBack,
    Strided,
    Term,
    Unmask,
)
from ..rules import Gradient, Pass, Product, Stabilizer, Taylor
from . import passes
from .plan import FunctionPlan, GroupPlan, LinearPlan, Plan, Step


@dataclass(frozen=True)
class GroupTrace:
    """Where a group's s and z are kept, for the balance of relevance."""

    group: GroupPlan
    s: int
    z: int | np.ndarray
    mask_z: int | None
    bias: np.ndarray | None


@dataclass(frozen=True)
class LayerTrace:
    """Buffers of one layer's incoming and outgoing relevance.

    ``lost_at`` are output values whose relevance goes nowhere. ``remainder`` says that
    the rule itself does not conserve, so that whatever is missing counts as lost.
    """

    step: Step
    incoming: int
    outgoing: tuple[int, ...]
    groups: tuple[GroupTrace, ...] = ()
    lost_at: np.ndarray | None = None
    remainder: bool = False


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

    def shape(self, step: LinearPlan) -> tuple[int, ...]:
        """One sample's shape of what a linear layer takes; a sum's is that of its output."""
        node = self.plan.model.nodes[step.node]
        shapes = {self.plan.model.nodes[i].shape for i in node.inputs}
        return shapes.pop() if len(shapes) == 1 else node.shape  # type: ignore[return-value]

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
            self.forward.append(Unmask(0, clean, self.present))
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
                self.linear_forward(step, sources)
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

    def linear_forward(self, step: LinearPlan, inputs: Sequence[int]) -> None:
        """The layer's contraction; its output, and the ReLU's that follows, are held from here on."""
        op, out_size = step.operator, self.plan.sizes[step.output]
        node = self.plan.model.nodes[step.node]
        shapes = [self.plan.model.nodes[i].shape for i in node.inputs]
        sources = list(inputs)
        if len(sources) > 1:
            sources = [self.stretch(b, passes.stretched(s, node.shape)) for b, s in zip(inputs, shapes, strict=True)]  # type: ignore[arg-type]
        self.sources[step.output] = sources
        bias = None if op.bias is None else op.bias.astype(self.dtype).ravel()
        relu = self.fused.get(step.output)
        if not self.explains:
            out = self.buffer(out_size)
            terms = tuple(self.term(step, j, b, "x", "w", "kernel", 0) for j, b in enumerate(sources))
            self.contract(step, terms, (Output(out, (1.0,), bias, relu is not None),))
            self.held[step.output if relu is None else relu] = out
            return
        outputs = []
        needs_z = any(g.z == "output" or g.mask for g in step.groups) or (
            self.trace and any(g.z == "activation" for g in step.groups)
        )
        if relu is None or needs_z:
            self.z[step.output] = self.held[step.output] = self.buffer(out_size)
            outputs.append(Output(self.z[step.output], step.forward, bias))
        if relu is not None:
            self.activation[step.output] = self.held[relu] = self.buffer(out_size)
            outputs.append(Output(self.held[relu], step.forward, bias, relu=True))
        for i, g in enumerate(step.groups):
            if g.z == "own":
                self.own[step.output, i] = self.buffer(out_size)
                outputs.append(Output(self.own[step.output, i], g.coefficients, self.constant(step, g)))
        known: dict[str, int | None] = {"1": self.present}
        for key in ("low", "high"):
            if any(s.source == key for s in step.sums):
                assert self.present is not None
                known[key] = out = self.buffer(self.sizes[0])
                bound = np.broadcast_to(self.bound(step, key), (self.sizes[0],))
                self.forward.append(Scale(self.present, out, bound))
        terms = tuple(
            self.term(step, j, b if s.source == "x" else known[s.source], s.part, s.weight, s.of, s.accumulator)
            for s in step.sums
            for j, b in enumerate(sources)
        )
        self.contract(step, terms, tuple(outputs))

    def term(
        self, step: LinearPlan, j: int, source: int | None, part: str, weight: str, of: str, accumulator: int
    ) -> Term:
        """One contraction forwards, over the j-th of the layer's inputs."""
        assert source is not None
        weights, sign = self.weights(step, j, weight, of, False)
        return Term(source, weights, part, accumulator, step.operator.geometry(False, weight), sign)

    def weights(
        self, step: LinearPlan, j: int, part: str, of: str, backward: bool, spread: bool = False
    ) -> tuple[Any, int]:
        """A part of the weights for the j-th input, and their sign; the same array whenever it is asked for."""
        op = step.operator
        sign = op.sign(part, of)
        part = "w" if sign else part
        key = (step.output, j, part, of, backward, spread)
        if key not in self.taken:
            if spread:
                self.taken[key] = op.spread_weights(j, part, of, step.gamma, self.dtype)
            else:
                self.taken[key] = op.weights(j, part, of, step.gamma, self.dtype, backward)
        return self.taken[key], sign

    def contract(self, step: LinearPlan, terms: tuple[Term, ...], outputs: tuple[Output, ...]) -> None:
        op = step.operator
        self.forward.append(Contract(terms, outputs, op.out_rows, op.kind == "diagonal", op.tf32))

    def bound(self, step: LinearPlan, key: str) -> np.ndarray:
        """low or high as the kernels take it: one value, or one for every element of a sample."""
        value = getattr(step.rule, key)
        if value.ndim == 0:
            return np.reshape(value.astype(self.dtype), 1)
        return np.broadcast_to(value, self.shape(step)).astype(self.dtype).ravel()

    def constant(self, step: LinearPlan, group: GroupPlan) -> np.ndarray | None:
        """What does not depend on x in a group's z: bounds and ones times weights, and the bias.

        The backend computes the products, so that they are rounded as all others are.
        """
        total = None
        if group.bias is not None:
            total = step.operator.layer_bias(group.bias, step.gamma, self.dtype).ravel()
        if group.constants:
            products = self.contract_constants(step, group.constants)
            if total is not None:
                products = (products.reshape(-1, len(total)) + total).ravel()
            total = products
        return total

    def contract_constants(self, step: LinearPlan, products: Sequence[Product]) -> np.ndarray:
        op = step.operator
        ones = np.ones(1, self.dtype)
        values = [ones if p.input == "1" else self.bound(step, p.input) for p in products]
        alike = op.taps is None and all(v.size == 1 for v in values)  # every row has the same constants
        rows, out_rows = (1, 1) if alike else (op.rows, op.out_rows)
        total = np.zeros((out_rows, op.out_columns), self.dtype)
        out = np.empty((1, total.size), self.dtype)
        for p, value in zip(products, values, strict=True):
            if p.of != "kernel":  # n inputs, each with b or with b/n
                count = np.resize(op.seen, (out_rows, 1))
                each = count if p.of == "bias" else count > 0
                total += op.layer_bias(p.weight, step.gamma, self.dtype) * each.astype(self.dtype)
                continue
            terms = tuple(self.term(step, j, 0, "x", p.weight, p.of, 0) for j in range(len(op.kernels)))
            size = rows * op.columns
            program = Program(
                (size, total.size),
                (Contract(terms, (Output(1),), out_rows, op.kind == "diagonal", op.tf32),),
                (),
                output=1,
                result=None,
                dtype=self.dtype.name,
                tf32=self.tf32,
            )
            x = np.ascontiguousarray(np.broadcast_to(value, (1, size)))
            assert self.backend is not None
            if self.backend.compile(program).run(x, out, threads=1) is not None:
                name = self.plan.model.nodes[step.node]
                raise InputError(f"{name}: the constant denominator of {step.rule.name} overflows {self.dtype}")
            total += p.sign * out.reshape(total.shape)
        return total[0] if (total == total[0]).all() else total.ravel()

    def forward_only(self) -> Program:
        output = self.run_forward()
        return Program(tuple(self.sizes), tuple(self.forward), (), output, None, self.dtype.name, self.tf32)

    # backward

    def explain(self, rectify: bool, input_range: tuple[float, float] | None) -> Lowered:
        output = self.run_forward()
        begun = self.buffer(self.sizes[output])
        self.backward.append(Begin(output, begun, rectify))
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
                outs = self.linear_backward(step, r)
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
            self.backward.append(Remask(result, self.present))
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
            self.backward.append(Slope(x, r, out, step.layer.function, self.parameters(step)))
        self.note(step, r, (out,), remainder=True)
        return out

    def linear_backward(self, step: LinearPlan, r: int) -> list[int]:
        if isinstance(step.rule, Pass):
            return [r]
        groups = [self.group(step, i, r) for i in range(len(step.groups))]
        used = sorted({t.group for t in step.back}) if groups else []
        above = self.backward[-1]
        if (
            isinstance(above, Redistribute)
            and above.out == r
            and len(used) == 1
            and not groups[used[0]].mask
            and not self.trace
        ):
            # the layer above hands over s at once: its relevance is not stored
            groups[used[0]] = replace(groups[used[0]], out=r)
            self.backward[-1] = replace(above, divide=groups[used[0]])
        else:
            self.backward.extend(groups[i] for i in (range(len(groups)) if self.trace else used))
        outs = [self.redistribute(step, groups, r, j, b) for j, b in enumerate(self.sources[step.output])]
        node = self.plan.model.nodes[step.node]
        shapes: list[Any] = [self.plan.model.nodes[i].shape for i in node.inputs]
        if len(outs) > 1:
            outs = [
                self.shrink(b, passes.stretched(s, node.shape), math.prod(s))  # type: ignore[arg-type]
                for b, s in zip(outs, shapes, strict=True)
            ]
        self.note(step, r, outs, self.group_traces(step, groups), remainder=isinstance(step.rule, Gradient))
        return outs

    def redistribute(self, step: LinearPlan, groups: Sequence[Divide], r: int, j: int, x: int) -> int:
        """The layer's contraction backwards, from the s of its groups to its j-th input."""
        op = step.operator
        assert self.backend is not None
        spread = op.spreads(self.backend.spread_columns)
        terms = []
        for t in step.back:
            source = groups[t.group].out if groups else r
            of = "kernel" if t.of == "kernel" else "bias"
            weights, sign = self.weights(step, j, t.weight, of, True, spread)
            if t.of == "bias/n":
                source, weights = self.divided_bias(step, source, weights)
            terms.append(Term(source, weights, "x", t.accumulator, op.geometry(not spread, t.weight), sign))
        shares = []
        for s in step.shares:
            key = {"x-low": "low", "x-high": "high"}.get(s.part)
            shares.append(Share(s.accumulator, s.part, s.coefficient, self.bound(step, key) if key else None))
        out = self.buffer(self.sizes[x])
        diagonal = op.kind == "diagonal"
        self.backward.append(
            Redistribute(tuple(terms), tuple(shares), x, out, op.rows, None, diagonal, op.tf32, spread)
        )
        return out

    def divided_bias(self, step: LinearPlan, s: int, weights: Any) -> tuple[int, Any]:
        """b / n: in the weights where every output sees as many inputs, else in s."""
        seen = step.operator.seen
        if (seen == seen[0]).all():
            n = self.dtype.type(max(1, int(seen[0])))
            return s, tuple(w / n for w in weights) if isinstance(weights, tuple) else weights / n
        out = self.buffer(self.sizes[s])
        each = np.divide(1.0, seen, out=np.zeros(len(seen)), where=seen > 0)
        self.backward.append(Scale(s, out, np.repeat(each, step.operator.out_columns).astype(self.dtype)))
        return out, weights

    def group_traces(self, step: LinearPlan, groups: Sequence[Divide]) -> tuple[GroupTrace, ...]:
        """What the layer's balance is made of."""
        traced = []
        for g, d in zip(step.groups, groups, strict=True):
            bias = None
            if g.bias is not None:
                bias = step.operator.layer_bias(g.bias, step.gamma, self.dtype).ravel()
            traced.append(GroupTrace(g, d.out, d.z, d.mask_z, bias))
        return tuple(traced)

    def kept(self, output: int, relevance: dict[int, int], result: int) -> tuple[int, ...]:
        """The buffers that a traced run hands out besides its result."""
        keep = {output, *relevance.values()}
        for t in self.traces:
            keep |= {t.incoming, *t.outgoing}
            for g in t.groups:
                keep |= {b for b in (g.s, g.z, g.mask_z) if isinstance(b, int)}
        return tuple(sorted(keep - {result, 0}))

    def group(self, step: LinearPlan, i: int, r: int) -> Divide:
        """What computes s of a group from the layer's relevance r."""
        g, at = step.groups[i], step.output
        size = self.plan.sizes[at]
        z: int | np.ndarray
        if g.z == "activation":
            z = self.z[at] if self.trace else self.activation[at]
        elif g.z == "output":
            z = self.z[at]
        elif g.z == "own":
            z = self.own[at, i]
        else:
            constant = self.constant(step, g)
            z = np.zeros(size, self.dtype) if constant is None else np.resize(constant, size)
        mask_z = self.z[at] if g.mask else None
        out = self.buffer(size)
        value = self.dtype.type(g.stabilizer.value)
        return Divide(r, z, out, float(value), g.stabilizer.kind, g.mask, mask_z)
