"""The planner: which contractions an explanation needs, and no more.

Runs once for an Analyzer, in plain Python, on facts about signs: after a ReLU
x⁻ is gone, weights of one sign have one part. What it decides is a `Plan` that
prints itself; ``execute.py`` lowers it to a backend's program. DESIGN.md,
section 2, has the reasons; each is repeated where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import table
from ..errors import InputError, RuleError
from ..model.graph import Model, Node
from ..model.layers import (
    Activation,
    Concat,
    Dot,
    Embedding,
    Flatten,
    Input,
    Layer,
    LocalResponseNorm,
    Maximum,
    Minimum,
    Multiply,
    Reshape,
)
from ..rules import Gradient, Group, Pass, Product, Rule, Stabilizer, Zero
from ..rules.composites import Assignment
from ..rules.roles import ROUTE, role
from ..rules.rule import changed
from .operators import Operator, operator

#: (input part, weight part, whose weights)
Key = tuple[str, str, str]
FORWARD: Key = ("x", "w", "kernel")

# w⁺ and w⁻ coefficients of each weight part, gamma given: how sums over signs make up the others
_IN_SIGNS: dict[str, Callable[[float], tuple[float, float]]] = {
    "w": lambda g: (1.0, 1.0),
    "w+": lambda g: (1.0, 0.0),
    "w-": lambda g: (0.0, 1.0),
    "w+gw+": lambda g: (1.0 + g, 1.0),
    "w+gw-": lambda g: (1.0, 1.0 + g),
}


@dataclass(frozen=True)
class Sum:
    """One contraction: part(x) · part(W), added to an accumulator.

    ``source`` is "x", or, where features are masked, "1", "low" or "high".
    """

    source: str
    part: str
    weight: str
    of: str
    accumulator: int


@dataclass(frozen=True)
class GroupPlan:
    """How one group of a rule is computed.

    ``z`` says where its denominator comes from: "activation" (the ReLU above this
    layer's z), "output" (the layer's own z), "own" (sums of its own) or
    "constant" (it does not depend on x).
    """

    coefficient: float
    stabilizer: Stabilizer
    mask: int
    bias: str | None
    z: str
    coefficients: tuple[float, ...]
    constants: tuple[Product, ...]


@dataclass(frozen=True)
class BackTerm:
    """One contraction backwards: s of a group times a weight part, added to an accumulator."""

    group: int
    weight: str
    of: str
    accumulator: int


@dataclass(frozen=True)
class SharePlan:
    """coefficient · part(x) ⊙ accumulator."""

    accumulator: int
    part: str
    coefficient: float


@dataclass(frozen=True, eq=False)
class LinearPlan:
    """Everything that is decided about one linear layer.

    ``inputs`` and ``output`` are values: what layers hand on, numbered by the plan.
    Under `Gradient` there are no groups, and ``back`` contracts the relevance itself.
    """

    node: int
    name: str
    layer: Layer
    operator: Operator
    rule: Rule
    inputs: tuple[int, ...]
    output: int
    sums: tuple[Sum, ...]
    forward: tuple[float, ...]
    groups: tuple[GroupPlan, ...]
    back: tuple[BackTerm, ...]
    shares: tuple[SharePlan, ...]

    @property
    def gamma(self) -> float:
        return float(getattr(self.rule, "gamma", 0.0))

    @property
    def gradient(self) -> bool:
        return isinstance(self.rule, Gradient)

    @property
    def contractions(self) -> int:
        """Matrix products for an explanation, the forward pass included."""
        return len(self.sums) + len(self.back)

    @property
    def flops(self) -> int:
        """Floating-point operations of these products, per sample."""
        return 2 * self.operator.multiplications * self.contractions


@dataclass(frozen=True, eq=False)
class FunctionPlan:
    """An activation function, as a layer or as an attribute of one."""

    node: int
    name: str
    layer: Activation
    shape: tuple[int, ...]
    rule: Rule
    inputs: tuple[int, ...]
    output: int


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """Any other layer: what it does forwards and backwards is in ``passes.py``."""

    node: int
    name: str
    layer: Layer
    shapes: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]
    rule: Rule
    inputs: tuple[int, ...]
    output: int


Step = LinearPlan | FunctionPlan | LayerPlan


@dataclass(frozen=True, eq=False)
class Plan:
    """What an Analyzer will do, layer by layer; ``str`` of it is a table.

    ``values`` gives each node's output as a value; nodes that change nothing share their input's.
    """

    model: Model
    steps: tuple[Step, ...]
    values: tuple[int, ...]
    sizes: tuple[int, ...]  # of each value
    mask_nan: bool

    @property
    def contractions(self) -> int:
        return sum(s.contractions for s in self.steps if isinstance(s, LinearPlan))

    @property
    def flops(self) -> int:
        return sum(s.flops for s in self.steps if isinstance(s, LinearPlan))

    @property
    def rules(self) -> list[Rule]:
        """Every rule in use, in forward order."""
        return [s.rule for s in self.steps]

    def __str__(self) -> str:
        rows, foot = self._table()
        return "\n".join([*table.lines(rows), foot])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows, foot = self._table()
        return table.html(rows, foot=foot)

    def _table(self) -> tuple[list[tuple[str, ...]], str]:
        """The table's rows, and what stands below them."""
        rows: list[tuple[str, ...]] = [("layer", "rule", "forward", "backward", "contractions", "denominator")]
        for step in self.steps:
            name = step.name
            if not isinstance(step, LinearPlan):
                if not isinstance(step.rule, Pass):
                    rows.append((name, describe(step.rule), "", "", "", ""))
                continue
            forward = " + ".join(_product(s.source if s.source != "x" else s.part, s.weight, s.of) for s in step.sums)
            parts = {share.accumulator: share.part for share in step.shares}
            backward = " + ".join(f"{parts[t.accumulator]}*(s·{_weight(t.weight, t.of)}ᵀ)" for t in step.back)
            where = ", ".join(dict.fromkeys(_DENOMINATOR[g.z] for g in step.groups))
            count = str(step.contractions)
            rows.append((f"{name} {step.operator.text}", describe(step.rule), forward, backward, count, where))
        return rows, f"{self.contractions} contractions, {self.flops:,} floating-point operations a sample"


_DENOMINATOR = {
    "activation": "the activation above",
    "output": "the layer's z",
    "own": "z of its own",
    "constant": "constant",
}


_WEIGHTS = {"w": "W", "w+": "W⁺", "w-": "W⁻", "w^2": "W²", "1": "1", "w+gw+": "(W+γW⁺)", "w+gw-": "(W+γW⁻)"}


def _weight(part: str, of: str) -> str:
    name = _WEIGHTS.get(part, part.replace("w", "W"))  # a rule of a user's own may have parts of its own
    return name if of == "kernel" else name.replace("W", "b") + ("/n" if of == "bias/n" else "")


def _product(x: str, part: str, of: str) -> str:
    return f"{x}·{_weight(part, of)}"


def describe(rule: Rule) -> str:
    """A rule with the parameters that differ from its defaults: ``epsilon(epsilon=0.1)``."""
    shown = []
    for key, value in changed(rule).items():
        if isinstance(value, np.ndarray):
            shown.append(f"{key}={value:g}" if value.ndim == 0 else f"{key}=array{value.shape}")
        else:
            shown.append(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}")
    return rule.name + (f"({', '.join(shown)})" if shown else "")


def _sign(array: np.ndarray) -> int:
    """+1 or −1 where no element has the other sign, else 0."""
    return 1 if (array >= 0).all() else -1 if (array <= 0).all() else 0


def _simplify(product: Product, x_sign: int, w_sign: int, gamma: float) -> Product | None:
    """A product with parts that signs make whole written as whole; None where it vanishes."""
    for sign, part in ((1, "x+"), (-1, "x-")):
        if product.input == part and x_sign:
            if x_sign != sign:
                return None
            product = replace(product, input="x")
    if product.of != "kernel":
        return product
    for sign, part in ((1, "w+"), (-1, "w-")):
        if product.weight == part and w_sign:
            if w_sign != sign:
                return None
            product = replace(product, weight="w")
    if gamma == 0 and product.weight in ("w+gw+", "w+gw-"):
        product = replace(product, weight="w")
    return product


def _atoms(quantity: dict[Key, float], x_sign: int, w_sign: int, gamma: float, tf32: bool) -> dict[Key, float]:
    """The quantity as a combination of sums over one sign of x and one of w, where it can be.

    Under TF32 w + γw⁺ is rounded as a whole before it is multiplied, so it has no parts.
    """
    total: dict[Key, float] = {}
    for (x, w, of), factor in quantity.items():
        if of != "kernel" or x not in ("x", "x+", "x-") or w not in _IN_SIGNS or (tf32 and "g" in w):
            total[x, w, of] = total.get((x, w, of), 0.0) + factor
            continue
        for xp in ("x+", "x-") if x == "x" and not x_sign else (x,):
            for wp, c in zip(("w+", "w-"), _IN_SIGNS[w](gamma), strict=True):
                product = _simplify(Product(xp, wp), x_sign, w_sign, gamma)
                if c and product:
                    key = (product.input, product.weight, "kernel")
                    total[key] = total.get(key, 0.0) + c * factor
    return total


def _plan_linear(unit: _Unit, x_sign: int, relu_above: bool, masked: bool, tf32: bool) -> LinearPlan:
    """Decide one layer. ``relu_above``: all relevance that comes is proportional to max(z, 0)."""
    rule, op = unit.rule, unit.operator
    assert op is not None
    gamma = float(getattr(rule, "gamma", 0.0))
    w_sign = _weight_sign(op)
    if isinstance(rule, Gradient):
        sums: tuple[Sum, ...] = (Sum("x", "x", "w", "kernel", 0),)
        back = (BackTerm(0, "w", "kernel", 0),)
        return LinearPlan(*unit.head, sums, (1.0,), (), back, (SharePlan(0, "1", 1.0),))
    groups = [g for g in rule.groups() if g.coefficient]
    if op.bias is None:
        groups = [replace(g, bias=None, products=tuple(p for p in g.products if p.of == "kernel")) for g in groups]
    if relu_above:
        # relevance is zero unless z > 0: the group for z < 0 has nothing to do, the mask neither
        groups = [replace(g, mask=0) for g in groups if g.mask >= 0]

    def simplified(group: Group) -> Group:
        products = (_simplify(p, x_sign, w_sign, gamma) for p in group.products)
        return replace(group, products=tuple(p for p in products if p is not None))

    whole = [simplified(g) for g in groups]
    if not any(g.products for g in whole):
        whole = groups  # every contribution is zero by its signs; keep one form of it, which computes the zeros

    # what has to be known: the layer's own z, and the denominators that are not it
    quantities: list[dict[Key, float]] = [{FORWARD: 1.0}]
    kinds: list[str] = []
    constants: list[tuple[Product, ...]] = []
    for g in whole:
        varying = [p for p in g.products if masked or p.input not in ("1", "low", "high")]
        fixed = tuple(p for p in g.products if p not in varying)
        quantity = {(p.input, p.weight, p.of): float(p.sign) for p in varying}
        constants.append(fixed)
        if not varying:
            kinds.append("constant")
        elif quantity == quantities[0] and not fixed and (g.bias == "w" or op.bias is None):
            # ReLU's output is z wherever relevance is not zero: no need to keep z
            kinds.append("activation" if relu_above else "output")
        else:
            kinds.append("own")
            quantities.append(quantity)

    # as they are written, or all from sums over single signs: whichever takes fewer contractions
    direct = list(dict.fromkeys(key for q in quantities for key in q))
    split = [_atoms(q, x_sign, w_sign, gamma, tf32 and op.tf32) for q in quantities]
    atoms = list(dict.fromkeys(key for q in split for key in q))
    if len(atoms) < len(direct):
        quantities, direct = split, atoms
    columns = {key: tuple(q.get(key, 0.0) for q in quantities) for key in direct}
    accumulators = list(dict.fromkeys(columns.values()))
    sums = tuple(
        Sum(*(("x", x) if x in ("x", "x+", "x-") else (x, "x")), w, of, accumulators.index(column))
        for (x, w, of), column in columns.items()
    )
    combinations = [tuple(column[q] for column in accumulators) for q in range(len(quantities))]
    own = iter(combinations[1:])
    planned = tuple(
        GroupPlan(g.coefficient, g.stabilizer, g.mask, g.bias, kind, next(own) if kind == "own" else (), fixed)
        for g, kind, fixed in zip(whole, kinds, constants, strict=True)
    )

    keys: list[tuple[str, float]] = []
    terms: list[BackTerm] = []
    for i, g in enumerate(whole):
        for part, product, factor in _backward_products(g):
            key = (part, g.coefficient * factor)
            if key not in keys:
                keys.append(key)
            terms.append(BackTerm(i, product.weight, product.of, keys.index(key)))
    shares = tuple(SharePlan(i, part, c) for i, (part, c) in enumerate(keys))
    return LinearPlan(*unit.head, sums, combinations[0], planned, tuple(terms), shares)


def _backward_products(group: Group) -> list[tuple[str, Product, float]]:
    """Products as they redistribute: (part that multiplies, product whose weights contract, sign).

    With bounds, x·(sW) − low·(sW⁺) − high·(sW⁻) is (x − low)·(sW⁺) + (x − high)·(sW⁻),
    one contraction less.
    """
    bounds = [p for p in group.products if p.input in ("low", "high")]
    if bounds:
        return [(f"x-{p.input}", p, 1.0) for p in bounds]
    return [(p.input, p, float(p.sign)) for p in group.products]


@dataclass(frozen=True, eq=False)
class _Unit:
    """A step before it is decided."""

    node: int
    name: str
    layer: Layer
    operator: Operator | None
    rule: Rule
    inputs: tuple[int, ...]
    output: int
    shapes: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]

    @property
    def head(self) -> tuple[int, str, Layer, Any, Rule, tuple[int, ...], int]:
        """A LinearPlan's first fields."""
        return self.node, self.name, self.layer, self.operator, self.rule, self.inputs, self.output


def _common(signs: Sequence[int]) -> int:
    """The sign that all of several arrays have, 0 where they differ."""
    return signs[0] if len(set(signs)) == 1 else 0


def _weight_sign(operator: Operator) -> int:
    """The sign that all weights have, 0 where they differ."""
    factors = [t.factor for t in operator.taps or () if t.factor is not None]
    return 0 if any(_sign(f) != 1 for f in factors) else _common([_sign(kernel) for kernel in operator.kernels])


def _units(model: Model, assignment: Assignment | None) -> tuple[list[_Unit], list[int], list[int]]:
    """The steps in order, each node's value, and the size of every value."""
    units: list[_Unit] = []
    values: list[int] = []
    sizes: list[int] = []

    def value(node: Node) -> int:
        size = 1
        for n in node.shape:
            if n is None:
                raise InputError(f"{node}: its shape {node.shape} is open; build the model with a fixed input shape")
            size *= n
        sizes.append(size)
        return len(sizes) - 1

    for i, node in enumerate(model.nodes):
        layer = node.layer
        shapes: tuple[Any, ...] = tuple(model.nodes[j].shape for j in node.inputs)
        inputs = tuple(values[j] for j in node.inputs)
        shape: tuple[Any, ...] = node.shape
        if isinstance(layer, Input):
            values.append(value(node))
            continue
        linear = isinstance(layer, Activation) and layer.function == "linear"
        if layer.identity or linear:
            values.append(inputs[0])
            continue
        op = operator(layer, shapes, shape)
        rule = assignment.rules[i] if assignment else Zero() if op else Pass()
        if isinstance(layer, (Flatten, Reshape)) and isinstance(rule, (Pass, Gradient)):
            values.append(inputs[0])
            continue
        out = value(node)
        units.append(_Unit(i, node.name, layer, op, rule, inputs, out, shapes, shape))
        function = getattr(layer, "activation", None)
        if function is not None and function.function != "linear":
            rule = assignment.activations[i] if assignment else Pass()
            z, out = out, value(node)
            name = f"{node.name}/{function.function}"
            units.append(_Unit(i, name, function, None, rule, (z,), out, (shape,), shape))
        values.append(out)
    return units, values, sizes


def _signs(units: Sequence[_Unit], count: int, inputs: dict[int, int]) -> list[int]:
    """What is known of each value's sign: +1 for never below zero, −1 for never above, else 0."""
    signs = [0] * count
    for v, sign in inputs.items():
        signs[v] = sign
    for unit in units:
        layer, got = unit.layer, [signs[v] for v in unit.inputs]
        sign = 0
        if unit.operator is not None:
            sign = _common(got) * _weight_sign(unit.operator)
            if unit.operator.bias is not None and _sign(unit.operator.bias) != sign:
                sign = 0
        elif isinstance(layer, Activation):
            sign = layer.sign
        elif isinstance(layer, Embedding):
            sign = _sign(layer.table)
        elif isinstance(layer, (Multiply, Dot)):
            sign = int(np.prod(got))
        elif role(layer) is ROUTE or isinstance(layer, LocalResponseNorm):
            sign = _common(got)
        signs[unit.output] = sign
    return signs


def _follows(units: Sequence[_Unit], outputs: Sequence[int], count: int) -> list[bool]:
    """For each value, whether all relevance that reaches it is zero wherever the value is.

    A rule that multiplies by its input makes it so, and layers that hand values on
    keep it; a model's output never counts, since an explanation may start there from
    any array, and neither does a layer that shares relevance by other things.
    """
    follows = [True] * count
    for v in outputs:
        follows[v] = False
    for unit in reversed(units):
        after = follows[unit.output]
        layer, rule = unit.layer, unit.rule
        if isinstance(layer, Activation):
            keeps = rule.multiplies_input if layer.function == "softmax" and not isinstance(rule, Pass) else False
            keeps = keeps or (layer.is_plain_relu and (after or isinstance(rule, Gradient)))
        elif unit.operator is not None:
            keeps = not isinstance(rule, Pass) and rule.multiplies_input
        elif isinstance(layer, (Multiply, Dot)):
            keeps = isinstance(layer, Dot) and not isinstance(rule, Gradient)
        elif isinstance(layer, (Maximum, Minimum, Concat, Embedding)) or role(layer) is ROUTE:
            keeps = after or not isinstance(rule, (Pass, Gradient))
        else:
            keeps = not isinstance(rule, Pass) and rule.multiplies_input
        for v in unit.inputs:
            follows[v] = follows[v] and keeps
    return follows


def make_plan(
    model: Model,
    assignment: Assignment | None,
    *,
    input_range: tuple[float, float] | None = None,
    mask_nan: bool = False,
    tf32: bool = False,
) -> Plan:
    """Plan an explanation of a model whose outputs are already the values to explain.

    Without an assignment the plan is good for the forward pass alone.

    Raises
    ------
    InputError
        When ``mask_nan`` meets another layer than one with weights first, or several inputs.
    RuleError
        When a rule gives inputs a share of the bias and features are masked.
    """
    units, values, sizes = _units(model, assignment)
    outputs = [values[i] for i in model.outputs]
    sign = _sign(np.asarray(input_range)) if input_range is not None else 0
    signs = _signs(units, len(sizes), {values[i]: sign for i in model.inputs})
    follows = _follows(units, outputs, len(sizes))
    consumers: dict[int, list[_Unit]] = {}
    for unit in units:
        for v in set(unit.inputs):
            consumers.setdefault(v, []).append(unit)
    masked = _masked(model, units, values) if mask_nan else -1
    steps: list[Step] = []
    for unit in units:
        if unit.operator is not None and not isinstance(unit.rule, Pass):
            after = consumers.get(unit.output, [])
            relu = len(after) == 1 and unit.output not in outputs and _is_relu(after[0].layer)
            # a ReLU's gradient stops relevance where it is zero, whatever comes
            relu = relu and (follows[after[0].output] or isinstance(after[0].rule, Gradient))
            x_sign = _common([signs[v] for v in unit.inputs])
            steps.append(_plan_linear(unit, x_sign, relu, masked in unit.inputs, tf32))
        elif unit.operator is not None:
            steps.append(LinearPlan(*unit.head, (Sum("x", "x", "w", "kernel", 0),), (1.0,), (), (), ()))
        elif isinstance(unit.layer, Activation):
            step = FunctionPlan(unit.node, unit.name, unit.layer, unit.shape, unit.rule, unit.inputs, unit.output)
            steps.append(step)
        else:
            head = (unit.node, unit.name, unit.layer, unit.shapes, unit.shape, unit.rule, unit.inputs, unit.output)
            steps.append(LayerPlan(*head))
    return Plan(model, tuple(steps), tuple(values), tuple(sizes), mask_nan)


def _is_relu(layer: Layer) -> bool:
    return isinstance(layer, Activation) and layer.is_plain_relu


def _masked(model: Model, units: Sequence[_Unit], values: Sequence[int]) -> int:
    """The value whose features may be masked: the one input, which only layers with weights may take."""
    if len(model.inputs) > 1:
        raise InputError(f"mask_nan is for models with one input, this one has {len(model.inputs)}")
    value = values[model.inputs[0]]
    for unit in units:
        if value not in unit.inputs:
            continue
        if unit.operator is None or isinstance(unit.rule, (Pass, Gradient)):
            raise InputError(
                f"mask_nan: {model.nodes[unit.node]} changes the input before the first layer with weights, "
                "so that masked features would contribute"
            )
        if getattr(unit.rule, "bias", None) in ("distribute", "repeat"):
            raise RuleError(
                f"{model.nodes[unit.node]}: bias={unit.rule.bias!r} shares the bias among a fixed number of inputs, "  # type: ignore[attr-defined]
                "which mask_nan changes from sample to sample; use 'absorb' or 'ignore'"
            )
    return value
