"""Functions of one value, as sums of products: spellings that mean the same in every number become the same formula.

A formula is compared with another by its structure and its constants, never by values at a few points: what two
functions do beyond these would be lost. A product, a quotient by a number and a power are multiplied out; a limit
(clip) keeps its ends as numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

#: Sums and products that functions never need; a file could have any.
_MOST_TERMS, _HIGHEST_DEGREE = 12, 8
#: How far off a constant may be that float32 cannot hold, such as the square root of 2: exporters round it, and round
#: products of it once more. A constant that float32 holds must be that number, up to the order of float64's operations.
_ROUNDED, _SAME = 2.0**-22, 2.0**-48
#: A constant of one rounding to float32.
_ROUNDED_ONCE = 2.0**-24 * 1.01


class NoFormula(Exception):  # noqa: N818 (not an error: there is nothing to recognise)
    """There is no function of one value here, or none that is simple enough."""


@dataclass(frozen=True)
class Atom:
    """What is multiplied: the value itself ("x"), or a function of a formula, with the numbers that it has."""

    op: str
    of: Formula | None = None
    numbers: tuple[float, ...] = ()


#: Atoms and how often each is multiplied.
Product = frozenset[tuple[Atom, int]]
_ONE: Product = frozenset()


class Formula:
    """A sum of products of atoms, each with a coefficient other than 0."""

    def __init__(self, terms: Mapping[Product, float]) -> None:
        if len(terms) > _MOST_TERMS or not all(math.isfinite(c) and c for c in terms.values()):
            raise NoFormula
        if any(sum(count for _, count in product) > _HIGHEST_DEGREE for product in terms):
            raise NoFormula
        self.terms = dict(terms)

    @cached_property
    def _hash(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Formula) and self.terms == other.terms

    @property
    def constant(self) -> float:
        return self.terms.get(_ONE, 0.0)

    @property
    def single(self) -> tuple[float, Atom] | None:
        """(a, A) of a · A + constant, where there is no more to it."""
        rest = [(product, c) for product, c in self.terms.items() if product]
        if len(rest) != 1 or len(rest[0][0]) != 1:
            return None
        ((product, c),) = rest
        ((atom, count),) = product
        return (c, atom) if count == 1 else None

    def __add__(self, other: Formula | float) -> Formula:
        terms = dict(self.terms)
        for product, c in _formula(other).terms.items():
            total = terms.pop(product, 0.0) + c
            if product or total:  # what is infinite or not a number does not vanish from a difference with itself
                terms[product] = total
        return Formula(terms)

    def __mul__(self, other: Formula | float) -> Formula:
        total: Formula | None = None
        for product, c in self.terms.items():
            for product2, c2 in _formula(other).terms.items():
                counts = Counter(dict(product))
                counts.update(dict(product2))
                term = Formula({frozenset(counts.items()): c * c2})
                total = term if total is None else total + term
        if total is None:
            raise NoFormula
        return total

    def __neg__(self) -> Formula:
        return self * -1.0

    def __sub__(self, other: Formula | float) -> Formula:
        return self + -_formula(other)

    def __rsub__(self, other: float) -> Formula:
        return _formula(other) - self

    def __truediv__(self, other: Formula | float) -> Formula:
        return self * power(_formula(other), -1.0)

    def __rtruediv__(self, other: float) -> Formula:
        return _formula(other) / self

    __radd__, __rmul__ = __add__, __mul__


def _formula(value: Formula | float) -> Formula:
    return value if isinstance(value, Formula) else number(value)


def number(value: float) -> Formula:
    """A constant."""
    return Formula({_ONE: float(value)} if value else {})


def _atom(op: str, of: Formula | None = None, *numbers: float) -> Formula:
    return Formula({frozenset({(Atom(op, of, numbers), 1)}): 1.0})


#: The value that functions are of.
X = _atom("x")
_X_ITSELF: Product = frozenset({(Atom("x"), 1)})


def _varies(f: Formula) -> Formula:
    if not any(f.terms):
        raise NoFormula
    return f


def _odd(op: str) -> Callable[[Formula], Formula]:
    """f(-x) = -f(x), so that one sign of the argument is enough."""

    def build(f: Formula) -> Formula:
        turned = _varies(f).terms.get(_X_ITSELF, 1.0) < 0
        return -_atom(op, -f) if turned else _atom(op, f)

    return build


erf, tanh = _odd("erf"), _odd("tanh")


def absolute(f: Formula) -> Formula:
    """|f|."""
    return _atom("abs", -f if _varies(f).terms.get(_X_ITSELF, 1.0) < 0 else f)


def exp(f: Formula) -> Formula:
    """e to the power of f."""
    return _atom("exp", _varies(f))


def sigmoid(f: Formula) -> Formula:
    """1 / (1 + exp(-f))."""
    return _atom("sigmoid", _varies(f))


def softplus(f: Formula) -> Formula:
    """log(1 + exp(f))."""
    return _atom("softplus", _varies(f))


def log(f: Formula) -> Formula:
    """A logarithm: softplus is log(1 + exp(x)), and the logarithm of sigmoid(x) is -softplus(-x)."""
    single = _varies(f).single
    if single and single[0] == 1 and f.constant == 1 and single[1].op == "exp":
        return softplus(_inside(single[1]))
    if single and single[0] == 1 and f.constant == 0 and single[1].op == "sigmoid":
        return -softplus(-_inside(single[1]))
    return _atom("log", f)


def power(f: Formula, exponent: float) -> Formula:
    """A power: multiplied out where the exponent is a small whole number; 1 / (1 + exp(x)) is sigmoid(-x)."""
    if exponent == 1:
        return f
    if exponent in (2, 3):
        return f * power(f, exponent - 1)
    if not any(f.terms):
        if exponent != -1 or not f.constant:
            raise NoFormula
        return number(1 / f.constant)
    single = f.single
    if exponent == -1 and single and single[0] == 1 and f.constant == 1 and single[1].op == "exp":
        return sigmoid(-_inside(single[1]))
    return _atom("power", f, float(exponent))


def clip(f: Formula, low: float = -math.inf, high: float = math.inf) -> Formula:
    """min(max(f, low), high); of a · A + b with its ends as those of A, and limits of limits as one."""
    if math.isnan(low) or math.isnan(high):
        raise NoFormula
    low = min(low, high)
    single = _varies(f).single
    if single is None:
        return _atom("clip", f, low, high)
    (a, atom), b = single, f.constant
    low, high = sorted(((low - b) / a, (high - b) / a))
    of = Formula({frozenset({(atom, 1)}): 1.0})
    if atom.op == "clip":
        inner = atom.numbers
        of, (low, high) = _inside(atom), (min(max(end, low), high) for end in inner)
    return _atom("clip", of, low, high) * a + b


def _inside(atom: Atom) -> Formula:
    if atom.of is None:
        raise NoFormula
    return atom.of


def limits(f: Formula) -> tuple[float, float] | None:
    """The ends, where the formula is min(max(x, low), high) and nothing else."""
    single = f.single
    if single is None or single[0] != 1 or f.constant or single[1].op != "clip" or single[1].of != X:
        return None
    low, high = single[1].numbers
    return low, high


# -- comparison -----------------------------------------------------------------


def _near(formula: float, pattern: float, rounded: bool) -> bool:
    if formula == pattern:
        return True
    if not (math.isfinite(formula) and math.isfinite(pattern)):
        return False
    if rounded:
        return abs(formula - pattern) <= _ROUNDED_ONCE * abs(pattern)
    close = _SAME if float(np.float32(pattern)) == pattern else _ROUNDED
    return abs(formula - pattern) <= close * abs(pattern)


def fits(formula: Formula, pattern: Formula, rounded: bool = False) -> bool:
    """Whether two formulas are the same but for how constants were rounded.

    With ``rounded``, every constant may be off by one rounding to float32: what is computed of one that float32
    cannot hold, as 1/6 times 3 is.
    """
    if len(formula.terms) != len(pattern.terms):
        return False
    left = dict(formula.terms)
    for product, c in pattern.terms.items():
        match = next((p for p, d in left.items() if _near(d, c, rounded) and _same(p, product, rounded)), None)
        if match is None:
            return False
        del left[match]
    return True


def _same(formula: Product, pattern: Product, rounded: bool) -> bool:
    if len(formula) != len(pattern):
        return False
    left = list(formula)
    for atom, count in pattern:
        match = next((i for i, (a, n) in enumerate(left) if n == count and _alike(a, atom, rounded)), None)
        if match is None:
            return False
        del left[match]
    return True


def _alike(formula: Atom, pattern: Atom, rounded: bool) -> bool:
    if formula.op != pattern.op or len(formula.numbers) != len(pattern.numbers):
        return False
    if not all(_near(a, b, rounded) for a, b in zip(formula.numbers, pattern.numbers, strict=True)):
        return False
    return formula.of is pattern.of or (
        formula.of is not None and pattern.of is not None and fits(formula.of, pattern.of, rounded)
    )


# -- the functions ----------------------------------------------------------------


def _hard_sigmoid(f: Formula) -> dict[str, Any]:
    single = f.single
    assert single is not None
    return {"alpha": single[0], "beta": f.constant}


def _gate(width: float) -> Formula:
    return clip(X / (2 * width) + 0.5, 0, 1)


#: What is recognised: the node that stands for it, its attributes, its spellings, and whether what is computed of
#: rounded constants is in it.
_FUNCTIONS: tuple[tuple[str, Any, tuple[Formula, ...], bool], ...] = (
    ("Relu", {}, (X * 0.5 + absolute(X) * 0.5,), False),
    ("Gelu", {"approximate": "none"}, (X * 0.5 * (1 + erf(X * math.sqrt(0.5))),), False),
    (
        "Gelu",
        {"approximate": "tanh"},
        (
            0.5 * X * (1 + tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * power(X, 3)))),
            X * sigmoid(2 * math.sqrt(2 / math.pi) * (X + 0.044715 * power(X, 3))),
        ),
        False,
    ),
    ("Silu*", {}, (X * sigmoid(X), 0.5 * X * (1 + tanh(0.5 * X))), False),
    ("Mish", {}, (X * tanh(softplus(X)),), False),
    ("HardSwish", {}, (X * _gate(3.0),), True),
    ("HardSigmoid", _hard_sigmoid, (_gate(3.0), _gate(2.5)), True),
    ("Sigmoid", {}, (sigmoid(X), 0.5 * tanh(0.5 * X) + 0.5), False),
    ("Tanh", {}, (tanh(X), 2 * sigmoid(2 * X) - 1), False),
    ("LogSigmoid*", {}, (-softplus(-X), clip(X, high=0.0) - softplus(-absolute(X))), False),
    ("Softplus", {}, (softplus(X), clip(X, low=0.0) + softplus(-absolute(X))), False),
    ("Softsign", {}, (X / (1 + absolute(X)),), False),
)


def recognised(f: Formula) -> tuple[str, dict[str, Any]] | None:
    """The operator that computes the formula, and its attributes; None where lrpfast has none."""
    ends = limits(f)
    if ends is not None:
        return "Clip*", {"low": ends[0], "high": ends[1]}
    for op, attributes, spellings, rounded in _FUNCTIONS:
        if any(fits(f, pattern, rounded) for pattern in spellings):
            return op, attributes(f) if callable(attributes) else attributes
    return None


#: Operators that functions are made of.
FORMULAS: dict[str, Callable[..., Formula]] = {
    **{"Add": lambda a, b: a + b, "Sub": lambda a, b: a - b, "Mul": lambda a, b: a * b, "Div": lambda a, b: a / b},
    **{"Neg": lambda a: -a, "Abs": absolute, "Exp": exp, "Log": log, "Erf": erf, "Tanh": tanh, "Sigmoid": sigmoid},
    **{"Softplus": softplus, "Reciprocal": lambda a: power(a, -1.0), "Sqrt": lambda a: power(a, 0.5)},
    **{"Relu": lambda a: clip(a, low=0.0), "Identity": lambda a: a},
}
