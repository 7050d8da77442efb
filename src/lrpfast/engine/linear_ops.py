"""Layers with weights: what each does forwards, and with relevance backwards.

`forward` and `backward` are what ``nonlinear_ops.py`` has for all other layers: they append operations to the program.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import InputError
from ..kernels.contraction_ops import Contract, Divide, DivideBySign, Output, Redistribute, Share, Term, WeightsOrigin
from ..kernels.ops import Pool, PoolBack, Scale, ShareRemainder
from ..kernels.program import Program
from ..rules import WEIGHT_PARTS, Gradient, Pass, Product
from . import nonlinear_ops
from .plan import GroupPlan, LinearPlan
from .program_builder import SMALLEST, ProgramBuilder
from .trace import GroupTrace


def forward(builder: ProgramBuilder, step: LinearPlan, inputs: Sequence[int]) -> None:
    """The layer's contraction; its output, and the ReLU's that follows, have buffers from here on."""
    op, out_size = step.operator, builder.plan.sizes[step.output]
    node = builder.plan.model.nodes[step.node]
    shapes = [builder.plan.model.nodes[i].shape for i in node.inputs]
    sources = list(inputs)
    if len(sources) > 1:
        pairs = zip(inputs, shapes, strict=True)
        sources = [builder.stretch(b, nonlinear_ops.stretched(s, node.shape)) for b, s in pairs]  # type: ignore[arg-type]
    builder.sources[step.output] = sources
    bias = None if op.bias is None else op.bias.astype(builder.dtype).ravel()
    relu = builder.plan.relu_consumers.get(step.output)
    if not builder.explains:
        out = builder.buffer(out_size)
        terms = tuple(_term(builder, step, j, b, "x", "w", "kernel", 0) for j, b in enumerate(sources))
        builder.forward.append(_contract(step, terms, (Output(out, (1.0,), bias, relu is not None),), op.out_rows))
        builder.buffers[step.output if relu is None else relu] = out
        return
    outputs = []
    needs_z = any(g.pre_activation == "output" or g.mask for g in step.groups) or (
        builder.trace and any(g.pre_activation == "activation" for g in step.groups)
    )
    if relu is None or needs_z or step.output in builder.stored:
        builder.pre_activations[step.output] = builder.buffers[step.output] = builder.buffer(out_size)
        zero = SMALLEST[builder.dtype.name] if step.nonzero else 0.0
        outputs.append(Output(builder.pre_activations[step.output], step.forward, bias, zero=zero))
    if relu is not None:
        builder.activations[step.output] = builder.buffers[relu] = builder.buffer(out_size)
        outputs.append(Output(builder.buffers[relu], step.forward, bias, relu=True))
    for i, g in enumerate(step.groups):
        if g.pre_activation == "own":
            builder.denominators[step.output, i] = builder.buffer(out_size)
            outputs.append(Output(builder.denominators[step.output, i], g.coefficients, _constant(builder, step, g)))
    known: dict[str, int | None] = {"1": builder.present}
    for key in ("low", "high"):
        if any(s.source == key for s in step.sums):
            assert builder.present is not None
            known[key] = out = builder.buffer(builder.sizes[0])
            bound = np.broadcast_to(_bound(builder, step, key), (builder.sizes[0],))
            builder.forward.append(Scale(builder.present, out, bound))
    terms = tuple(
        _term(builder, step, j, b if s.source == "x" else known[s.source], s.part, s.weight, s.of, s.accumulator)
        for s in step.sums
        for j, b in enumerate(sources)
    )
    builder.forward.append(_contract(step, terms, tuple(outputs), op.out_rows))


def _term(
    builder: ProgramBuilder,
    step: LinearPlan,
    j: int,
    source: int | None,
    part: str,
    weight: str,
    of: str,
    accumulator: int,
) -> Term:
    """One contraction forwards, over the j-th of the layer's inputs."""
    assert source is not None
    weights, sign, origin = _weights(builder, step, j, weight, of, False)
    return Term(source, weights, part, accumulator, step.operator.geometry(False, weight), sign, origin)


def _weights(
    builder: ProgramBuilder, step: LinearPlan, j: int, part: str, of: str, backward: bool
) -> tuple[Any, int, WeightsOrigin | None]:
    """A part of the weights for the j-th input, their sign and origin; the same array whenever it is asked for."""
    op = step.operator
    sign = op.sign(part, of)
    part = "w" if sign else part
    key = (step.output, j, part, of, backward)
    if key not in builder.weight_parts:
        builder.weight_parts[key] = op.weights(j, part, of, step.gamma, builder.dtype, backward)
    return builder.weight_parts[key], sign, _origin(builder, step, key)


def _origin(builder: ProgramBuilder, step: LinearPlan, key: tuple[Any, ...]) -> WeightsOrigin | None:
    """What a part of the weights is derived from, whatever the size of the layer's input."""
    op = step.operator
    _, j, part, of, backward = key
    taps = op.weight_taps(backward)
    if taps is None:
        return None
    layer = step.layer  # of which another one may have the same kernel, as one without its activation
    owner = layer.kernel if of == "kernel" and hasattr(layer, "kernel") else layer
    function = WEIGHT_PARTS[part]
    form = (type(layer), op.kernels[j].shape, op.kernels[j].strides)
    return WeightsOrigin(owner, (form, j, function, of, step.gamma, builder.dtype.name, backward, taps))


def _contract(step: LinearPlan, terms: tuple[Term, ...], outputs: tuple[Output, ...], rows: int) -> Contract:
    return Contract(terms, outputs, rows, step.operator.kind == "diagonal", step.operator.tf32)


def _bound(builder: ProgramBuilder, step: LinearPlan, key: str) -> np.ndarray:
    """low or high as the kernels take it: one value, or one for every element of a sample."""
    value = getattr(step.rule, key)
    if value.ndim == 0:
        return np.reshape(value.astype(builder.dtype), 1)
    return np.broadcast_to(value, _shape(builder, step)).astype(builder.dtype).ravel()


def _constant(builder: ProgramBuilder, step: LinearPlan, group: GroupPlan) -> np.ndarray | None:
    """What does not depend on x in a group's z: bounds and ones times weights, and the bias.

    The backend computes the products, so that they are rounded as all others are.
    """
    total = _bias(builder, step, group)
    if group.constants:
        products = _constants(builder, step, group.constants)
        if total is not None:  # either may have a row for all rows
            columns = step.operator.out_columns
            products = (products.reshape(-1, columns) + total.reshape(-1, columns)).ravel()
        total = products
    return total


def _bias(builder: ProgramBuilder, step: LinearPlan, group: GroupPlan) -> np.ndarray | None:
    """The part of the bias in a group's z."""
    return None if group.bias is None else step.operator.layer_bias(group.bias, step.gamma, builder.dtype).ravel()


def _constants(builder: ProgramBuilder, step: LinearPlan, products: Sequence[Product]) -> np.ndarray:
    op = step.operator
    ones = np.ones(1, builder.dtype)
    values = [ones if p.input == "1" else _bound(builder, step, p.input) for p in products]
    alike = op.taps is None and all(v.size == 1 for v in values)  # every row has the same constants
    rows, out_rows = (1, 1) if alike else (op.rows, op.out_rows)
    total = np.zeros((out_rows, op.out_columns), builder.dtype)
    out = np.empty((1, total.size), builder.dtype)
    for p, value in zip(products, values, strict=True):
        if p.of != "kernel":  # n inputs, each with b or with b/n
            count = np.resize(op.fan_in, (out_rows, 1))
            each = count if p.of == "bias" else count > 0
            total += op.layer_bias(p.weight, step.gamma, builder.dtype) * each.astype(builder.dtype)
            continue
        terms = tuple(_term(builder, step, j, 0, "x", p.weight, p.of, 0) for j in range(len(op.kernels)))
        size = rows * op.columns
        program = Program(
            (size, total.size),
            (_contract(step, terms, (Output(1),), out_rows),),
            (),
            output=1,
            result=None,
            dtype=builder.dtype.name,
            operands=builder.operands,
        )
        x = np.ascontiguousarray(np.broadcast_to(value, (1, size)))
        assert builder.backend is not None
        if builder.backend.compile(program).run(x, out, threads=1) is not None:
            name = builder.plan.model.nodes[step.node]
            raise InputError(f"{name}: the constant denominator of {step.rule.name} overflows {builder.dtype}")
        total += p.sign * out.reshape(total.shape)
    return total[0] if (total == total[0]).all() else total.ravel()


def _shape(builder: ProgramBuilder, step: LinearPlan) -> tuple[int, ...]:
    """One sample's shape of what a linear layer takes; a sum's is that of its output."""
    node = builder.plan.model.nodes[step.node]
    shapes = {builder.plan.model.nodes[i].shape for i in node.inputs}
    return shapes.pop() if len(shapes) == 1 else node.shape  # type: ignore[return-value]


def backward(builder: ProgramBuilder, step: LinearPlan, r: int) -> list[int]:
    """The relevance of each of the layer's inputs, from that of its output."""
    if isinstance(step.rule, Pass):
        return [r]
    groups = [_group(builder, step, i, r) for i in range(len(step.groups))]
    used = sorted({t.group for t in step.back}) if groups else []
    shares = getattr(step.rule, "bias", None) == "share"
    if len(used) == 1 and not (groups[used[0]].mask or builder.trace or r in builder.stored_relevance or shares):
        groups[used[0]] = _divide(builder, groups[used[0]], step.groups[used[0]].pre_activation == "activation")
    else:
        divisions = range(len(groups)) if builder.trace else used
        builder.backward.extend(_divide_by_sign(*groups) if step.by_sign else (groups[i] for i in divisions))
    outs = [_redistribute(builder, step, groups, r, j, b) for j, b in enumerate(builder.sources[step.output])]
    if shares:
        outs = [_share_remainder(builder, step, r, out) for out in outs]
    node = builder.plan.model.nodes[step.node]
    shapes: list[Any] = [builder.plan.model.nodes[i].shape for i in node.inputs]
    if len(outs) > 1:
        outs = [
            builder.shrink(b, nonlinear_ops.stretched(s, node.shape), math.prod(s))  # type: ignore[arg-type]
            for b, s in zip(outs, shapes, strict=True)
        ]
    traces = () if shares else _traces(builder, step, groups)
    builder.note(step, r, outs, traces, remainder=isinstance(step.rule, Gradient) or shares)
    return outs


def _divide(builder: ProgramBuilder, divide: Divide, activation: bool) -> Divide:
    """Append a layer's only division, where it costs least; returns it with the buffer that it writes.

    Relevance that nothing else reads is divided by what computes it, and below a max pooling before it goes to its
    winners: only these have any, and they are where z is the pooled value. ``activation``: z is a ReLU's output.
    """
    r, above = divide.relevance, builder.backward[-1]
    if isinstance(above, Redistribute) and above.out == r:
        # the layer above hands over s at once: its relevance is not stored
        divide = replace(divide, out=r)
        builder.backward[-1] = replace(above, divide=divide)
    elif activation and isinstance(above, PoolBack) and above.out == r and above.geometry.disjoint:
        pool = next(o for o in builder.forward if isinstance(o, Pool) and o.winner == above.winner)
        if pool.source != divide.z:
            builder.backward.append(divide)
            return divide
        del builder.backward[-1]
        pooled = replace(divide, relevance=above.relevance, z=pool.out, out=builder.buffer(builder.sizes[pool.out]))
        if above.relevance in builder.stored_relevance:
            builder.backward.append(pooled)
        else:
            pooled = _divide(builder, pooled, False)
        builder.backward.append(replace(above, relevance=pooled.out, out=divide.out))
    else:
        builder.backward.append(divide)
    return divide


def _group(builder: ProgramBuilder, step: LinearPlan, i: int, r: int) -> Divide:
    """What computes s of a group from the layer's relevance r."""
    g, at = step.groups[i], step.output
    size = builder.plan.sizes[at]
    z: int | np.ndarray
    if g.pre_activation == "activation":
        z = builder.pre_activations[at] if builder.trace else builder.activations[at]
    elif g.pre_activation == "output":
        z = builder.pre_activations[at]
    elif g.pre_activation == "own":
        z = builder.denominators[at, i]
    else:
        constant = _constant(builder, step, g)
        z = np.zeros(size, builder.dtype) if constant is None else np.resize(constant, size)
    mask_z = builder.pre_activations[at] if g.mask else None
    out = builder.buffer(size)
    return replace(builder.divide(r, z, out, g.stabilizer), mask=g.mask, mask_z=mask_z)


def _divide_by_sign(above: Divide, below: Divide) -> list[DivideBySign]:
    """Two divisions, where z is above and below zero, as one; the second buffer has the result times the sign of z."""
    assert isinstance(above.z, int) and isinstance(below.z, int) and above.mask_z is not None
    z = above.z, below.z, above.mask_z
    return [DivideBySign(above.relevance, *z, above.out, below.out, above.stabilizer, above.kind)]


def _redistribute(builder: ProgramBuilder, step: LinearPlan, groups: Sequence[Divide], r: int, j: int, x: int) -> int:
    """The layer's contraction backwards, from the s of its groups to its j-th input."""
    op = step.operator
    terms = []
    for t in step.back:
        source = groups[t.group].out if groups else r
        of = "kernel" if t.of == "kernel" else "bias"
        weights, sign, origin = _weights(builder, step, j, t.weight, of, True)
        if t.of == "bias/n":
            source, weights = _divided_bias(builder, step, source, weights)
            origin = None
        terms.append(Term(source, weights, "x", t.accumulator, op.geometry(True, t.weight), sign, origin))
    shares = []
    for s in step.shares:
        key = {"x-low": "low", "x-high": "high"}.get(s.part)
        shares.append(Share(s.accumulator, s.part, s.coefficient, _bound(builder, step, key) if key else None))
    out = builder.buffer(builder.sizes[x])
    diagonal = op.kind == "diagonal"
    operation = Redistribute(tuple(terms), tuple(shares), x, out, op.rows, None, diagonal, op.tf32)
    builder.backward.append(operation)
    return out


def _share_remainder(builder: ProgramBuilder, step: LinearPlan, r: int, out: int) -> int:
    """What biases and stabilizers took of each row's relevance, in equal parts to all of its inputs."""
    whole = builder.buffer(builder.sizes[out])
    builder.backward.append(ShareRemainder(r, out, whole, step.operator.columns, step.operator.out_columns))
    return whole


def _divided_bias(builder: ProgramBuilder, step: LinearPlan, s: int, weights: Any) -> tuple[int, Any]:
    """b / n: in the weights where every output sees as many inputs, else in s."""
    fan_in = step.operator.fan_in
    if (fan_in == fan_in[0]).all():
        n = builder.dtype.type(max(1, int(fan_in[0])))
        return s, tuple(w / n for w in weights) if isinstance(weights, tuple) else weights / n
    out = builder.buffer(builder.sizes[s])
    each = np.divide(1.0, fan_in, out=np.zeros(len(fan_in)), where=fan_in > 0)
    builder.backward.append(Scale(s, out, np.repeat(each, step.operator.out_columns).astype(builder.dtype)))
    return out, weights


def _traces(builder: ProgramBuilder, step: LinearPlan, groups: Sequence[Divide]) -> tuple[GroupTrace, ...]:
    """What the layer's balance is made of."""
    pairs = zip(step.groups, groups, strict=True)
    return tuple(
        GroupTrace(g, (groups[0] if step.by_sign else d).out, d.z, d.mask_z, _bias(builder, step, g)) for g, d in pairs
    )
