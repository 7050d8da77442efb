"""The planner: which contractions an explanation needs, and no more.

Runs once for an Analyzer, in plain Python, on facts about signs: after a ReLU
x⁻ is gone, weights of one sign have one part. What it decides is a `Plan` that
prints itself; ``execute.py`` lowers it to a backend's program. DESIGN.md,
section 2, has the reasons; each is repeated where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .. import table
from ..errors import InputError, RuleError, UnsupportedLayerError
from ..model.graph import Model
from ..model.layers import Activation, Dense, Layer
from ..rules.rule import Group, Product, Rule, Stabilizer

#: (input part, weight part, whose weights)
Key = tuple[str, str, str]
FORWARD: Key = ("x", "w", "kernel")

# w⁺ and w⁻ coefficients of each weight part, gamma given: how sums over signs make up the others
_IN_SIGNS = {
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


@dataclass(frozen=True)
class LinearPlan:
    """Everything that is decided about one layer with weights."""

    node: int
    layer: Dense
    rule: Rule
    rows: int
    sums: tuple[Sum, ...]
    forward: tuple[float, ...]
    groups: tuple[GroupPlan, ...]
    back: tuple[BackTerm, ...]
    shares: tuple[SharePlan, ...]

    @property
    def gamma(self) -> float:
        return float(getattr(self.rule, "gamma", 0.0))

    @property
    def contractions(self) -> int:
        """Matrix products for an explanation, the forward pass included."""
        return len(self.sums) + len(self.back)

    @property
    def flops(self) -> int:
        """Floating-point operations of these products, per sample."""
        return 2 * self.rows * self.layer.kernel.size * self.contractions


@dataclass(frozen=True)
class FunctionPlan:
    """An activation function; relevance passes it unchanged."""

    node: int
    layer: Activation
    shape: tuple[int, ...]


Step = LinearPlan | FunctionPlan


@dataclass(frozen=True)
class Plan:
    """What an Analyzer will do, layer by layer; ``str`` of it is a table."""

    model: Model
    rules: Mapping[int, Rule]
    steps: tuple[Step, ...]
    mask_nan: bool

    @property
    def contractions(self) -> int:
        return sum(s.contractions for s in self.steps if isinstance(s, LinearPlan))

    @property
    def flops(self) -> int:
        return sum(s.flops for s in self.steps if isinstance(s, LinearPlan))

    def __str__(self) -> str:
        rows = [("layer", "rule", "forward", "backward", "contractions", "denominator")]
        for step in self.steps:
            if isinstance(step, FunctionPlan):
                continue
            forward = " + ".join(_product(s.source if s.source != "x" else s.part, s.weight, s.of) for s in step.sums)
            parts = {share.accumulator: share.part for share in step.shares}
            backward = " + ".join(f"{parts[t.accumulator]}*(s·{_weight(t.weight, t.of)}ᵀ)" for t in step.back)
            where = ", ".join(dict.fromkeys(_DENOMINATOR[g.z] for g in step.groups))
            name = f"{step.layer.name} {step.layer.kernel.shape[0]}→{step.layer.kernel.shape[1]}"
            rows.append((name, describe(step.rule), forward, backward, str(step.contractions), where))
        foot = f"{self.contractions} contractions, {self.flops:,} floating-point operations a sample"
        return "\n".join([*table.lines(rows), foot])

    __repr__ = __str__


_DENOMINATOR = {
    "activation": "the activation above",
    "output": "the layer's z",
    "own": "z of its own",
    "constant": "constant",
}


def _weight(part: str, of: str) -> str:
    name = {"w": "W", "w+": "W⁺", "w-": "W⁻", "w^2": "W²", "1": "1", "w+gw+": "(W+γW⁺)", "w+gw-": "(W+γW⁻)"}[part]
    return name if of == "kernel" else name.replace("W", "b") + ("/n" if of == "bias/n" else "")


def _product(x: str, part: str, of: str) -> str:
    return f"{x}·{_weight(part, of)}"


def describe(rule: Rule) -> str:
    """A rule with the parameters that differ from its defaults: ``epsilon(epsilon=0.1)``."""
    shown = []
    for key, f in rule.__dataclass_fields__.items():
        value = getattr(rule, key)
        if key == "stabilizer":
            if value != Stabilizer(f.default):
                shown.append(f"stabilizer={value}")
        elif isinstance(value, np.ndarray):
            shown.append(f"{key}={value:g}" if value.ndim == 0 else f"{key}=array{value.shape}")
        elif value != f.default:
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


def _plan_linear(
    rule: Rule,
    layer: Dense,
    node: int,
    rows: int,
    x_sign: int,
    relu_above: bool,
    masked: bool,
    tf32: bool,
) -> LinearPlan:
    """Decide one layer. ``relu_above``: all relevance that comes is proportional to max(z, 0)."""
    gamma = float(getattr(rule, "gamma", 0.0))
    w_sign = _sign(layer.kernel)
    groups = [g for g in rule.groups() if g.coefficient]
    if layer.bias is None:
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
        elif quantity == quantities[0] and not fixed and (g.bias == "w" or layer.bias is None):
            # ReLU's output is z wherever relevance is not zero: no need to keep z
            kinds.append("activation" if relu_above else "output")
        else:
            kinds.append("own")
            quantities.append(quantity)

    # as they are written, or all from sums over single signs: whichever takes fewer contractions
    direct = list(dict.fromkeys(key for q in quantities for key in q))
    split = [_atoms(q, x_sign, w_sign, gamma, tf32) for q in quantities]
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
    back: list[BackTerm] = []
    for i, g in enumerate(whole):
        for part, product, factor in _backward_products(g):
            key = (part, g.coefficient * factor)
            if key not in keys:
                keys.append(key)
            back.append(BackTerm(i, product.weight, product.of, keys.index(key)))
    shares = tuple(SharePlan(i, part, c) for i, (part, c) in enumerate(keys))
    return LinearPlan(node, layer, rule, rows, sums, combinations[0], planned, tuple(back), shares)


def _backward_products(group: Group) -> list[tuple[str, Product, float]]:
    """Products as they redistribute: (part that multiplies, product whose weights contract, sign).

    With bounds, x·(sW) − low·(sW⁺) − high·(sW⁻) is (x − low)·(sW⁺) + (x − high)·(sW⁻),
    one contraction less.
    """
    bounds = [p for p in group.products if p.input in ("low", "high")]
    if bounds:
        return [(f"x-{p.input}", p, 1.0) for p in bounds]
    return [(p.input, p, float(p.sign)) for p in group.products]


def make_plan(
    model: Model,
    rules: Mapping[int, Rule],
    *,
    input_range: tuple[float, float] | None = None,
    mask_nan: bool = False,
    tf32: bool = False,
    predict: bool = False,
) -> Plan:
    """Plan an explanation of a chain whose output is already the value to explain.

    ``predict`` plans for the forward pass alone, where a softmax may stand anywhere.

    Raises
    ------
    UnsupportedLayerError
        For a softmax that is not the model's last activation.
    InputError
        When ``mask_nan`` meets an activation before the first layer with weights.
    RuleError
        When a rule gives inputs a share of the bias and features are masked.
    """
    # linear layers and functions in order; reshapes and no-ops only rename
    units: list[tuple[int, Layer, tuple[int, ...]]] = []
    for i, node in enumerate(model.nodes):
        if any(n is None for n in node.shape):
            raise InputError(f"{node.layer}: its shape {node.shape} is open; build the model with a fixed input shape")
        before = model.nodes[node.inputs[0]].shape if node.inputs else ()
        if isinstance(node.layer, Dense):
            units.append((i, node.layer, before))
            if node.layer.activation is not None:
                units.append((i, node.layer.activation, node.shape))
        elif isinstance(node.layer, Activation) and node.layer.function != "linear":
            units.append((i, node.layer, node.shape))
    steps: list[Step] = []
    sign = _sign(np.asarray(input_range)) if input_range is not None else 0
    masked = mask_nan
    for at, (i, layer, shape) in enumerate(units):
        if isinstance(layer, Activation):
            owner = model.nodes[i].layer
            if layer.function == "softmax" and not predict:
                raise UnsupportedLayerError(
                    f"{owner}: a softmax inside the network has no rule yet; only a final softmax, which is left out"
                )
            if masked:
                raise InputError(
                    f"mask_nan: {owner} changes the input before the first layer with weights, "
                    "so that masked features would contribute"
                )
            steps.append(FunctionPlan(i, layer, shape))
            sign = 1 if layer.is_nonnegative else 0
            continue
        if masked and getattr(rules[i], "bias", None) in ("distribute", "repeat"):
            raise RuleError(
                f"{layer}: bias={rules[i].bias!r} shares the bias among a fixed number of inputs, "
                "which mask_nan changes from sample to sample; use 'absorb' or 'ignore'"
            )
        steps.append(
            _plan_linear(
                rules[i],
                layer,
                i,
                math.prod(shape[:-1]),
                sign,
                _relevance_follows_relu(units, at, rules),
                masked,
                tf32,
            )
        )
        sign, masked = 0, False
    return Plan(model, rules, tuple(steps), mask_nan)


def _relevance_follows_relu(
    units: list[tuple[int, Layer, tuple[int, ...]]], at: int, rules: Mapping[int, Rule]
) -> bool:
    """Whether relevance that reaches this layer's z is zero wherever max(z, 0) is.

    Exactly a ReLU next, then a layer whose rule multiplies by its input; the
    output layer never counts, since an explanation may start there from any array.
    """
    if at + 2 >= len(units):
        return False
    after, consumer = units[at + 1][1], units[at + 2]
    return (
        isinstance(after, Activation)
        and after.is_plain_relu
        and isinstance(consumer[1], Dense)
        and rules[consumer[0]].multiplies_input
    )
