"""From a plan to a backend's program: weight parts taken, buffers named, epilogues fused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import InputError
from ..kernels import Backend
from ..kernels.program import (
    Activate,
    Begin,
    Contract,
    Copy,
    Divide,
    Operation,
    Output,
    Program,
    Redistribute,
    Remask,
    Scale,
    Share,
    Term,
    Unmask,
)
from ..rules.rule import WEIGHT_PARTS, Product
from .plan import FunctionPlan, GroupPlan, LinearPlan, Plan


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
    """Buffers of one layer's incoming and outgoing relevance."""

    step: LinearPlan
    incoming: int
    outgoing: int
    groups: tuple[GroupTrace, ...]


@dataclass
class Lowered:
    """A program, and, when traced, where its parts are kept."""

    program: Program
    layers: list[LayerTrace] = field(default_factory=list)
    relevance: dict[int, int] = field(default_factory=dict)  # relevance of each node's output


def _layer_bias(step: LinearPlan, part: str, dtype: np.dtype) -> np.ndarray:
    return WEIGHT_PARTS[part](step.layer.bias.astype(dtype), step.gamma)


def _weights(step: LinearPlan, part: str, of: str, dtype: np.dtype) -> np.ndarray:
    """A weight part in the layer's own orientation, (in, out)."""
    if of == "kernel":
        return WEIGHT_PARTS[part](step.layer.kernel.astype(dtype), step.gamma)
    row = _layer_bias(step, part, dtype)
    if of == "bias/n":
        row = row / dtype.type(step.layer.kernel.shape[0])
    return np.broadcast_to(row, step.layer.kernel.shape)


def _bound(step: LinearPlan, key: str, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """low or high as the kernels take it: one value, or one for every element of a sample."""
    value = getattr(step.rule, key)
    return value.astype(dtype).reshape(1) if value.ndim == 0 else np.broadcast_to(value, shape).astype(dtype).ravel()


def lower_forward(plan: Plan, *, dtype: str, tf32: bool) -> Program:
    """The forward pass alone."""
    return _Lowering(plan, dtype, tf32, None, trace=False).forward_only()


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
    lowering = _Lowering(plan, dtype, tf32, backend, trace=trace)
    return lowering.explain(rectify, input_range)


class _Lowering:
    def __init__(self, plan: Plan, dtype: str, tf32: bool, backend: Backend | None, *, trace: bool) -> None:
        self.plan, self.dtype, self.tf32, self.backend, self.trace = plan, np.dtype(dtype), tf32, backend, trace
        self.sizes: list[int] = [math.prod(plan.model.input_shape)]
        self.forward: list[Operation] = []
        self.present: int | None = None
        self.inputs: dict[int, int] = {}  # of each step with weights, by its place in the plan
        self.z: dict[int, int] = {}  # its z, bias included, where it is kept
        self.activation: dict[int, int] = {}  # the ReLU above it
        self.own: dict[tuple[int, int], int] = {}  # denominators of its groups

    def buffer(self, size: int) -> int:
        self.sizes.append(size)
        return len(self.sizes) - 1

    def shape(self, step: LinearPlan) -> tuple[int, ...]:
        node = self.plan.model.nodes[step.node]
        return self.plan.model.nodes[node.inputs[0]].shape  # type: ignore[return-value]

    # forward

    def run_forward(self, explain: bool) -> int:
        """Lower the forward pass; returns the output's buffer."""
        at = 0
        if self.plan.mask_nan:
            clean, self.present = self.buffer(self.sizes[0]), self.buffer(self.sizes[0])
            self.forward.append(Unmask(0, clean, self.present))
            at = clean
        steps = self.plan.steps
        skip = False
        for k, step in enumerate(steps):
            if skip:
                skip = False
                continue
            if isinstance(step, FunctionPlan):
                function, parameters = step.layer.function, step.layer.parameters
                if function == "prelu":
                    parameters = {"negative_slope": np.broadcast_to(parameters["negative_slope"], step.shape)}
                out = self.buffer(self.sizes[at])
                self.forward.append(Activate(at, out, function, parameters, step.shape[-1] if step.shape else 1))
                at = out
                continue
            after = steps[k + 1] if k + 1 < len(steps) else None
            relu = isinstance(after, FunctionPlan) and after.layer.is_plain_relu
            at = self.linear_forward(k, step, at, relu, explain)
            skip = relu
        if at == 0:
            out = self.buffer(self.sizes[0])
            self.forward.append(Copy(0, out))
            at = out
        return at

    def linear_forward(self, k: int, step: LinearPlan, x: int, relu: bool, explain: bool) -> int:
        """The layer's contraction; returns its output, after a ReLU if one follows."""
        self.inputs[k] = x
        size = step.rows * step.layer.kernel.shape[1]
        bias = None if step.layer.bias is None else step.layer.bias.astype(self.dtype)
        if not explain:
            out = self.buffer(size)
            term = Term(x, step.layer.kernel.astype(self.dtype))
            self.forward.append(Contract((term,), (Output(out, (1.0,), bias, relu),), step.rows))
            return out
        outputs = []
        needs_z = any(g.z == "output" or g.mask for g in step.groups) or (
            self.trace and any(g.z == "activation" for g in step.groups)
        )
        if not relu or needs_z:
            self.z[k] = self.buffer(size)
            outputs.append(Output(self.z[k], step.forward, bias))
        if relu:
            self.activation[k] = self.buffer(size)
            outputs.append(Output(self.activation[k], step.forward, bias, relu=True))
        for i, g in enumerate(step.groups):
            if g.z == "own":
                self.own[k, i] = self.buffer(size)
                outputs.append(Output(self.own[k, i], g.coefficients, self.constant(step, g)))
        sources = {"x": x, "1": self.present}
        for key in ("low", "high"):
            if any(s.source == key for s in step.sums):
                sources[key] = self.buffer(self.sizes[x])
                bound = np.broadcast_to(_bound(step, key, self.shape(step), self.dtype), (self.sizes[x],))
                self.forward.append(Scale(self.present, sources[key], bound))
        terms = tuple(
            Term(sources[s.source], _weights(step, s.weight, s.of, self.dtype), s.part, s.accumulator)
            for s in step.sums
        )
        self.forward.append(Contract(terms, tuple(outputs), step.rows))
        return self.activation[k] if relu else self.z[k]

    def constant(self, step: LinearPlan, group: GroupPlan) -> np.ndarray | None:
        """What does not depend on x in a group's z: bounds and ones times weights, and the bias.

        The backend computes the products, so that they are rounded as all others are.
        """
        total = None if group.bias is None else _layer_bias(step, group.bias, self.dtype)
        if group.constants:
            products = self.contract_constants(step, group.constants)
            total = products if total is None else (products.reshape(-1, len(total)) + total).ravel()
        return total

    def contract_constants(self, step: LinearPlan, products: Sequence[Product]) -> np.ndarray:
        depth, columns = step.layer.kernel.shape
        ones = np.ones(1, self.dtype)
        values = [ones if p.input == "1" else _bound(step, p.input, self.shape(step), self.dtype) for p in products]
        rows = step.rows if any(v.size > 1 for v in values) else 1
        total = np.zeros((1, rows * columns), self.dtype)
        out = np.empty_like(total)
        for p, value in zip(products, values, strict=True):
            if p.of != "kernel":  # n inputs, each with b or with b/n
                total += _layer_bias(step, p.weight, self.dtype) * (depth if p.of == "bias" else 1)
                continue
            term = Term(0, _weights(step, p.weight, p.of, self.dtype))
            program = Program(
                (rows * depth, rows * columns),
                (Contract((term,), (Output(1),), rows),),
                (),
                output=1,
                result=None,
                dtype=self.dtype.name,
                tf32=self.tf32,
            )
            x = np.ascontiguousarray(np.broadcast_to(value, (1, rows * depth)))
            assert self.backend is not None
            if self.backend.compile(program).run(x, out, threads=1) is not None:
                raise InputError(f"{step.layer}: the constant denominator of {step.rule.name} overflows {self.dtype}")
            total += p.sign * out
        return total[0]

    def forward_only(self) -> Program:
        output = self.run_forward(explain=False)
        return Program(tuple(self.sizes), tuple(self.forward), (), output, None, self.dtype.name, self.tf32)

    # backward

    def explain(self, rectify: bool, input_range: tuple[float, float] | None) -> Lowered:
        output = self.run_forward(explain=True)
        r = self.buffer(self.sizes[output])
        backward: list[Operation] = [Begin(output, r, rectify)]
        traces: list[LayerTrace] = []
        relevance: dict[int, int] = {}
        top = len(self.plan.model.nodes)  # the lowest node whose relevance is known
        for k, step in reversed(list(enumerate(self.plan.steps))):
            if not isinstance(step, LinearPlan):
                continue  # relevance passes activations unchanged
            relevance.update(dict.fromkeys(range(step.node, top), r))
            top = step.node
            groups = [self.group(k, i, r) for i in range(len(step.groups))]
            used = sorted({t.group for t in step.back})
            above = backward[-1]
            if isinstance(above, Redistribute) and len(used) == 1 and not groups[used[0]].mask and not self.trace:
                # the layer above hands over s at once: its relevance is not stored
                groups[used[0]] = replace(groups[used[0]], out=r)
                backward[-1] = replace(above, divide=groups[used[0]])
            else:
                backward.extend(groups[i] for i in (range(len(groups)) if self.trace else used))
            out = self.buffer(self.sizes[self.inputs[k]])
            backward.append(self.redistribute(step, groups, self.inputs[k], out))
            traces.append(self.layer_trace(step, groups, r, out))
            r = out
        if not traces:
            out = self.buffer(self.sizes[0])
            backward.append(Copy(r, out))
            r = out
        relevance.update(dict.fromkeys(range(top), r))
        if self.present is not None:
            backward.append(Remask(r, self.present))
        program = Program(
            tuple(self.sizes),
            tuple(self.forward),
            tuple(backward),
            output,
            r,
            self.dtype.name,
            self.tf32,
            self.kept(output, relevance, traces, r) if self.trace else (),
            input_range,
            self.plan.mask_nan,
        )
        return Lowered(program, traces, relevance)

    def redistribute(self, step: LinearPlan, groups: Sequence[Divide], x: int, out: int) -> Redistribute:
        """The layer's contraction backwards, from the s of its groups."""
        terms = tuple(
            Term(groups[t.group].out, _weights(step, t.weight, t.of, self.dtype).T, "x", t.accumulator)
            for t in step.back
        )
        shares = []
        for s in step.shares:
            key = {"x-low": "low", "x-high": "high"}.get(s.part)
            bound = _bound(step, key, self.shape(step), self.dtype) if key else None
            shares.append(Share(s.accumulator, s.part, s.coefficient, bound))
        return Redistribute(terms, tuple(shares), x, out, step.rows)

    def layer_trace(self, step: LinearPlan, groups: Sequence[Divide], incoming: int, outgoing: int) -> LayerTrace:
        """What the layer's balance is made of."""
        traced = []
        for g, d in zip(step.groups, groups, strict=True):
            bias = None if g.bias is None else _layer_bias(step, g.bias, self.dtype)
            traced.append(GroupTrace(g, d.out, d.z, d.mask_z, bias))
        return LayerTrace(step, incoming, outgoing, tuple(traced))

    @staticmethod
    def kept(output: int, relevance: dict[int, int], traces: Sequence[LayerTrace], result: int) -> tuple[int, ...]:
        """The buffers that a traced run hands out besides its result."""
        keep = {output, *relevance.values()}
        for t in traces:
            keep |= {t.incoming, t.outgoing}
            for g in t.groups:
                keep |= {b for b in (g.s, g.z, g.mask_z) if isinstance(b, int)}
        return tuple(sorted(keep - {result}))

    def group(self, k: int, i: int, r: int) -> Divide:
        """What computes s of a group from the layer's relevance r."""
        step = self.plan.steps[k]
        assert isinstance(step, LinearPlan)
        g = step.groups[i]
        size = step.rows * step.layer.kernel.shape[1]
        z: int | np.ndarray
        if g.z == "activation":
            z = self.z[k] if self.trace else self.activation[k]
        elif g.z == "output":
            z = self.z[k]
        elif g.z == "own":
            z = self.own[k, i]
        else:
            constant = self.constant(step, g)
            z = np.zeros(size, self.dtype) if constant is None else np.resize(constant, size)
        mask_z = self.z[k] if g.mask else None
        out = self.buffer(size)
        value = self.dtype.type(g.stabilizer.value)
        return Divide(r, z, out, float(value), g.stabilizer.kind, g.mask, mask_z)
