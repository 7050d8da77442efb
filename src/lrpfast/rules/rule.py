"""The definition of a rule: data, a list of groups, written once.

For a linear layer z = x W + b, every group g of a rule contributes

    z_g  = Σ_products sign · part(x) · part(W) + part(b)
    s_g  = mask_g · R / stabilize(z_g)
    R_in = Σ_g coefficient_g · Σ_products sign · part(x) ⊙ (s_g · part(W)ᵀ)

and nothing else in lrpfast contains a rule's formula. A new rule is a class with a
``groups`` method in the file of similar rules, its name in ``registry.py``, an oracle
function in ``tests/oracle.py`` and a line in ``docs/rules.md``.

Parts of x: ``x``, ``x+``, ``x-``, ``|x|``, ``1``, ``low``, ``high``. Parts of W and b:
``w``, ``w+``, ``w-``, ``|w|``, ``w^2``, ``1``, ``w+gw+`` (w + γw⁺) and ``w+gw-``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

import numpy as np

from ..errors import RuleError

#: The bias conventions of most rules, in the order of messages.
BIAS = ("absorb", "ignore", "distribute", "repeat")

#: Weight and bias parts: name -> function of the array and gamma.
WEIGHT_PARTS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "w": lambda w, g: w,
    "w+": lambda w, g: np.maximum(w, 0),
    "w-": lambda w, g: np.minimum(w, 0),
    "|w|": lambda w, g: np.abs(w),
    "w^2": lambda w, g: w * w,
    "1": lambda w, g: np.ones_like(w),
    "w+gw+": lambda w, g: w + w.dtype.type(g) * np.maximum(w, 0),
    "w+gw-": lambda w, g: w + w.dtype.type(g) * np.minimum(w, 0),
}


def changed(thing: Any) -> dict[str, Any]:
    """The fields of a dataclass in this package that differ from their defaults or have none."""
    values = {}
    for f in fields(thing):
        value, default = getattr(thing, f.name), f.default
        if isinstance(value, Stabilizer) and isinstance(default, (int, float)):
            default = Stabilizer(default)
        if isinstance(value, np.ndarray) or value != default:
            values[f.name] = value
    return values


def short(thing: Any) -> str:
    """The repr of a dataclass in this package, without fields that have their defaults: ``Epsilon(epsilon=0.1)``."""
    required = {f.name for f in fields(thing) if f.default is MISSING}
    arguments = (_value(v) if key in required else f"{key}={_value(v)}" for key, v in changed(thing).items())
    return f"{type(thing).__name__}({', '.join(arguments)})"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_value, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, np.ndarray):
        return f"array of shape {value.shape}" if value.ndim else repr(value.item())
    return value.__name__ if isinstance(value, type) else repr(value)


def number(value: Any, name: str) -> float:
    """A finite number as a float; RuleError, which begins with ``name``, for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise RuleError(f"{name} must be a number, not {value!r}")
    if not math.isfinite(value):
        raise RuleError(f"{name} must be finite, not {value}")
    return float(value)


def digits(value: float) -> str:
    """A number in the least digits that identify it: ``1e-06``, ``0.25000004``."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


#: The kinds of stabilizers, and what follows their value in texts.
_KINDS = {"sign": "·sign", "zero": " where z = 0", "unsigned": " unsigned"}


@dataclass(frozen=True)
class Stabilizer:
    """A number that keeps denominators away from zero.

    Parameters
    ----------
    value : float
        Above zero.
    kind : {"sign", "zero", "unsigned"}
        "sign" adds value · sign(z) with sign(0) = +1; "zero" adds it only where
        z == 0 (iNNvestigate's convention); "unsigned" adds it whatever the sign
        (LXT's ``lxt.explicit``), so that z = −value divides by zero.

    Examples
    --------
    >>> lrpfast.rules.Zero(stabilizer=lrpfast.rules.Stabilizer(1e-7, "zero")).stabilizer.kind
    'zero'
    >>> str(lrpfast.rules.Stabilizer(1e-6))
    '1e-06·sign'
    """

    value: float
    kind: str = "sign"

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", number(self.value, "stabilizer"))
        if self.value <= 0:
            raise RuleError(f"a stabilizer must be above zero, not {self.value}")
        if self.kind not in _KINDS:
            raise RuleError(f"a stabilizer's kind is 'sign', 'zero' or 'unsigned', not {self.kind!r}")

    __repr__ = short

    def __str__(self) -> str:
        return digits(self.value) + _KINDS[self.kind]


@dataclass(frozen=True)
class Product:
    """sign · part(x) · part(W), one product of a group's sum.

    Parameters
    ----------
    input : {"x", "x+", "x-", "|x|", "1", "low", "high"}
        The part of x.
    weight : str
        The part of W, a key of ``WEIGHT_PARTS``.
    sign : {1, -1}
    of : {"kernel", "bias", "bias/n"}
        The origin of the weight: "bias" is the bias in every row of a matrix with W's shape,
        "bias/n" the same divided by the number of inputs. These are the two conventions
        that give the inputs a share of the bias.

    Examples
    --------
    >>> product = lrpfast.rules.Zero().groups()[0].products[0]
    >>> product.input, product.weight, product.sign
    ('x', 'w', 1)
    """

    input: str
    weight: str
    sign: int = 1
    of: str = "kernel"

    __repr__ = short


@dataclass(frozen=True)
class Group:
    """One term of a rule: products over a common denominator.

    Parameters
    ----------
    products : tuple of Product
    stabilizer : Stabilizer
    bias : str, optional
        The part of the bias in the denominator, a key of ``WEIGHT_PARTS``; None for no bias.
    coefficient : float
        The factor of the term.
    mask : {0, 1, -1}
        Unless 0, only outputs whose z, including the bias, has this sign.

    Examples
    --------
    >>> group, = lrpfast.rules.Epsilon(0.1).groups()
    >>> group.products[0].input, group.products[0].weight, group.bias, group.stabilizer.value
    ('x', 'w', 'w', 0.1)
    """

    products: tuple[Product, ...]
    stabilizer: Stabilizer
    bias: str | None = None
    coefficient: float = 1.0
    mask: int = 0

    __repr__ = short


@dataclass(frozen=True, eq=False)  # a rule without an own __eq__ is equal to itself alone
class Rule:
    """Base of every rule. Rules are immutable, comparable and picklable.

    Examples
    --------
    >>> lrpfast.rules.Gamma(0.5) == lrpfast.rules.from_name("gamma", gamma=0.5)
    True
    >>> [issubclass(rule, lrpfast.rules.Rule) for rule in (lrpfast.rules.Flat, lrpfast.rules.Pass)]
    [True, True]
    """

    name: ClassVar[str] = ""
    #: The rule's bias conventions.
    conventions: ClassVar[tuple[str, ...]] = ()
    equation: ClassVar[str] = ""

    __repr__ = short

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "stabilizer" and not isinstance(value, Stabilizer):
                object.__setattr__(self, "stabilizer", Stabilizer(value))
            elif f.type == "float":
                object.__setattr__(self, f.name, number(value, f"{self.name}: {f.name}"))
            elif f.name == "bias" and value not in self.conventions:
                raise RuleError(
                    f"{self.name}: bias={value!r} is not a convention of this rule; "
                    f"choose from {', '.join(map(repr, self.conventions))}"
                )
            elif f.type == "bool" and not isinstance(getattr(self, f.name), bool):
                raise RuleError(f"{self.name}: {f.name} is True or False, not {getattr(self, f.name)!r}")

    def groups(self) -> tuple[Group, ...]:
        """The rule as data; see the module's docstring.

        Raises
        ------
        RuleError
            For a rule that does not apply to layers with weights, such as `Pass`.
        """
        raise RuleError(f"{type(self).__name__} has no groups: it is no rule for layers with weights")

    @property
    def has_arrays(self) -> bool:
        """Whether a parameter has a value for each feature, as bounds may."""
        values = (getattr(self, f.name) for f in fields(self))
        return any(isinstance(value, np.ndarray) and value.ndim for value in values)

    @property
    def multiplies_input(self) -> bool:
        """Whether relevance is proportional to x, so that x = 0 receives none."""
        return all(p.input in ("x", "x+", "x-", "|x|") for g in self.groups() for p in g.products)


class WithBias(Rule):
    """Base of the rules with a bias convention; not a dataclass, so that its annotations are not fields."""

    stabilizer: Any
    bias: str

    def _group(self, products: tuple[Product, ...], bias: str, **rest: Any) -> Group:
        """A group under this rule's bias convention; ``bias`` is the group's own bias part."""
        stabilizer = rest.pop("stabilizer", None) or self.stabilizer
        convention = self.bias
        if convention in ("distribute", "repeat"):
            of = "bias" if convention == "repeat" else "bias/n"
            return Group((*products, Product("1", bias, of=of)), stabilizer, None, **rest)
        part = {"absorb": bias, "ignore": None, "full": "w", "share": bias}[convention]  # shared afterwards
        return Group(products, stabilizer, part, **rest)
