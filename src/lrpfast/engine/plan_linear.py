"""Which contractions one layer with weights needs under its rule, and no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from ..rules import Gradient, Group, Product
from .graph_ir import PlanNode
from .plan import BackTerm, GroupPlan, LinearPlan, SharePlan, Sum
from .sign_analysis import weight_sign

#: (input part, weight part, whose weights)
Key = tuple[str, str, str]
_FORWARD: Key = ("x", "w", "kernel")

#: Sums over x·w and |x|·|w| may serve a rule that weighs contributions of the two signs by up to so different factors:
#: rounding then costs no more digits than the rule's own sums do, times this.
LARGEST_RATIO = 8.0

# w⁺ and w⁻ coefficients of each weight part, gamma given: how sums over signs make up the others
_IN_SIGNS: dict[str, Callable[[float], tuple[float, float]]] = {
    "w": lambda g: (1.0, 1.0),
    "w+": lambda g: (1.0, 0.0),
    "w-": lambda g: (0.0, 1.0),
    "w+gw+": lambda g: (1.0 + g, 1.0),
    "w+gw-": lambda g: (1.0, 1.0 + g),
}


def plan_linear(unit: PlanNode, x_sign: int, relu_above: bool, masked: bool, tf32: bool) -> LinearPlan:
    """Decide one layer. ``relu_above``: all relevance that comes is proportional to max(z, 0)."""
    rule, op = unit.rule, unit.operator
    assert op is not None
    gamma = float(getattr(rule, "gamma", 0.0))
    w_sign = weight_sign(op)
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

    simplified = [_simplify_group(g, x_sign, w_sign, gamma) for g in groups]
    if any(g.products for g in simplified):
        groups = simplified
    # else every contribution is zero by its signs; one form of it stays, which computes the zeros
    denominators = [_denominator(g, op.bias is not None, relu_above, masked) for g in groups]
    quantities = [{_FORWARD: 1.0}, *(d.quantity for d in denominators if d.kind == "own")]
    split = [_atoms(q, x_sign, w_sign, gamma, tf32 and op.tf32) for q in quantities]
    sums, combinations = _forward_sums(quantities, split)
    own = iter(combinations[1:])
    planned = tuple(
        GroupPlan(g.coefficient, g.stabilizer, g.mask, g.bias, d.kind, next(own) if d.kind == "own" else (), d.fixed)
        for g, d in zip(groups, denominators, strict=True)
    )
    products = [{(p.input, p.weight, p.of): float(p.sign) for p in g.products} for g in groups]
    by_sign = _backward_by_sign(groups, [_atoms(q, x_sign, w_sign, gamma, tf32 and op.tf32) for q in products])
    terms, shares = by_sign or _backward_terms(groups)
    return LinearPlan(*unit.head, sums, combinations[0], planned, terms, shares, by_sign=by_sign is not None)


def _simplify_group(group: Group, x_sign: int, w_sign: int, gamma: float) -> Group:
    products = (_simplify(p, x_sign, w_sign, gamma) for p in group.products)
    return replace(group, products=tuple(p for p in products if p is not None))


class _Denominator(NamedTuple):
    """Where a group's z comes from, as `GroupPlan.pre_activation` says it, and the sums that it is made of."""

    kind: str
    quantity: dict[Key, float]
    fixed: tuple[Product, ...]


def _denominator(group: Group, has_bias: bool, relu_above: bool, masked: bool) -> _Denominator:
    varying = [p for p in group.products if masked or p.input not in ("1", "low", "high")]
    constants = tuple(p for p in group.products if p not in varying)
    quantity = {(p.input, p.weight, p.of): float(p.sign) for p in varying}
    if not varying:
        kind = "constant"
    elif quantity == {_FORWARD: 1.0} and not constants and (group.bias == "w" or not has_bias):
        # a ReLU's output is z wherever relevance is not zero: no need to keep z
        kind = "activation" if relu_above else "output"
    else:
        kind = "own"
    return _Denominator(kind, quantity, constants)


def _forward_sums(
    quantities: list[dict[Key, float]], split: list[dict[Key, float]]
) -> tuple[tuple[Sum, ...], list[tuple[float, ...]]]:
    """The contractions forwards, and how each quantity is combined from their accumulators.

    Quantities are computed as they are written, or all but the layer's output from sums over single signs (``split``),
    or all from those of x·w and |x|·|w|: whichever takes the fewest contractions. The output, which is the first, is
    no sum of such sums: they are larger than it, so that it would be a difference and lose digits.
    """
    forms = [quantities, [quantities[0], *split[1:]]]
    if all(sizes := [_in_sizes(q) for q in split]):
        forms.append([q for q in sizes if q is not None])
    all_keys = [list(dict.fromkeys(key for q in form for key in q)) for form in forms]
    quantities, keys = min(zip(forms, all_keys, strict=True), key=lambda form: len(form[1]))
    columns = {key: tuple(q.get(key, 0.0) for q in quantities) for key in keys}
    accumulators = list(dict.fromkeys(columns.values()))
    sums = tuple(
        Sum(*(("x", x) if x in ("x", "x+", "x-", "|x|") else (x, "x")), w, of, accumulators.index(column))
        for (x, w, of), column in columns.items()
    )
    return sums, [tuple(column[q] for column in accumulators) for q in range(len(quantities))]


def _in_sizes(atoms: dict[Key, float]) -> dict[Key, float] | None:
    """A quantity over single signs as one of x·w and |x|·|w|; None where it is none, or would lose digits.

    With a factor for contributions above zero and one for those below, a Σ(xw)⁺ + c Σ(xw)⁻ is
    (a + c)/2 Σxw + (a − c)/2 Σ|x||w|.
    """
    above = {atoms.get((x, w, "kernel"), 0.0) for x, w in (("x+", "w+"), ("x-", "w-"))}
    below = {atoms.get((x, w, "kernel"), 0.0) for x, w in (("x+", "w-"), ("x-", "w+"))}
    a, c = above.pop(), below.pop()
    if above or below or min(a, c) <= 0 or max(a, c) > LARGEST_RATIO * min(a, c):
        return None
    total = {key: factor for key, factor in atoms.items() if key[0] not in ("x+", "x-") or key[2] != "kernel"}
    total[_FORWARD] = (a + c) / 2
    if a != c:
        total["|x|", "|w|", "kernel"] = (a - c) / 2
    return total


def _backward_by_sign(
    groups: list[Group], split: list[dict[Key, float]]
) -> tuple[tuple[BackTerm, ...], tuple[SharePlan, ...]] | None:
    """Two groups, for z above and below zero, that weigh contributions alike but for their sign: two contractions.

    (a + c)/2 x ⊙ (s Wᵀ) + (a − c)/2 |x| ⊙ (s sign(z) |W|ᵀ).
    """
    if [g.mask for g in groups] != [1, -1] or groups[0].stabilizer != groups[1].stabilizer:
        return None
    size = ("|x|", "|w|", "kernel")
    above, below = (_in_sizes(atoms) for atoms in split)
    if above is None or below is None or groups[0].coefficient != groups[1].coefficient:
        return None
    if above != {**below, size: -below.get(size, 0.0)} or set(above) != {_FORWARD, size}:
        return None
    c = groups[0].coefficient
    shares = SharePlan(0, "x", c * above[_FORWARD]), SharePlan(1, "|x|", c * above[size])
    return (BackTerm(0, "w", "kernel", 0), BackTerm(1, "|w|", "kernel", 1)), shares


def _backward_terms(groups: list[Group]) -> tuple[tuple[BackTerm, ...], tuple[SharePlan, ...]]:
    """The contractions backwards, and what their accumulators are multiplied by."""
    keys: list[tuple[str, float]] = []
    terms: list[BackTerm] = []
    for i, g in enumerate(groups):
        for part, product, factor in _backward_products(g):
            key = (part, g.coefficient * factor)
            if key not in keys:
                keys.append(key)
            terms.append(BackTerm(i, product.weight, product.of, keys.index(key)))
    return tuple(terms), tuple(SharePlan(i, part, c) for i, (part, c) in enumerate(keys))


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


def _backward_products(group: Group) -> list[tuple[str, Product, float]]:
    """Products as they redistribute: (part that multiplies, product whose weights contract, sign).

    With bounds, x·(sW) − low·(sW⁺) − high·(sW⁻) is (x − low)·(sW⁺) + (x − high)·(sW⁻),
    one contraction less.
    """
    bounds = [p for p in group.products if p.input in ("low", "high")]
    if bounds:
        return [(f"x-{p.input}", p, 1.0) for p in bounds]
    return [(p.input, p, float(p.sign)) for p in group.products]
