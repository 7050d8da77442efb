"""Rules and composites as Python objects: equality, copies, what they print, what they refuse."""

import copy
import pickle
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest

from lrpfast import composites as C
from lrpfast import layers as L
from lrpfast import rules as R

#: another value for each field, and where a rule needs them, its values
OTHER = {
    **dict.fromkeys(("split_input", "generalized", "scale_bias"), False),
    **{
        "stabilizer": R.Stabilizer(1e-3, "zero"),
        "epsilon": 0.5,
        "gamma": 0.5,
        "low": -3,
        "high": [1, 2],
        "to": "last",
        "product": "half",
        "scores": R.Stabilizer(1e-3),
        "sums": R.Stabilizer(1e-3),
        "masks": True,
    },
}
PAIRS = {"alpha": (1, 0), "beta": (1, 0)}
BOUNDS = {"low": 0, "high": 1}


def variants(cls):
    """A rule, and others that each differ in one field (or in alpha and beta, which go together)."""
    rule = cls(**BOUNDS) if cls is R.ZBox else cls()
    for f in fields(cls):
        if f.name == "bias":
            others = [{"bias": bias} for bias in cls.conventions if bias != rule.bias]
        elif f.name in PAIRS:
            others = [{f.name: PAIRS[f.name]}] if cls is R.AlphaBetaX else [{"alpha": 3, "beta": 2}]
        else:
            others = [{f.name: OTHER[f.name]}]
        yield from (replace(rule, **other) for other in others)


@pytest.mark.parametrize("cls", R.RULES.values(), ids=R.RULES)
def test_a_rule_is_equal_where_every_field_is(cls):
    rule = cls(**BOUNDS) if cls is R.ZBox else cls()
    made = list(variants(cls))
    assert len(made) >= len(fields(cls)) - (cls is R.Flat or cls is R.ZBox)  # whose bias has one convention
    for other in made:
        assert rule != other and other == replace(other) and hash(other) == hash(replace(other))
    for i in (rule, *made):
        for again in (pickle.loads(pickle.dumps(i)), copy.deepcopy(i), copy.copy(i)):
            assert again == i and hash(again) == hash(i)
    assert all(rule != other() for other in R.RULES.values() if other not in (cls, R.ZBox))


def test_boxes():
    assert R.ZBox(0, 1) != R.ZBox(-5, 5) and R.ZBox(0, 1) != R.ZBox([0, 0], 1)
    assert R.ZBox(-0.0, 1) == R.ZBox(0, 1) and hash(R.ZBox(-0.0, 1)) == hash(R.ZBox(0, 1))
    assert R.ZBox([0, 1], 2) == R.ZBox(np.array([0.0, 1.0]), 2) != R.Zero()


@pytest.mark.parametrize("again", [lambda box: pickle.loads(pickle.dumps(box)), copy.deepcopy, copy.copy, replace])
def test_the_bounds_of_copies_are_read_only(again):
    box = again(R.ZBox(-1, [1.0, 2.0]))
    for bound in (box.low, box.high):
        with pytest.raises(ValueError, match="read-only"):
            bound[...] = 0


@dataclass(frozen=True, eq=False)
class OfOnesOwn(R.Rule):
    weights: Any = None


def test_a_rule_without_its_own_equality_is_equal_to_itself():
    one, other = OfOnesOwn(np.ones(2)), OfOnesOwn(np.ones(2))
    assert one == one and one != other and len({one, other}) == 2


BOX = R.ZBox([0, 0], 1, stabilizer=1e-3)
REPRS = [
    (R.Epsilon(), "Epsilon()"),
    (R.Epsilon(0.3), "Epsilon(epsilon=0.3)"),
    (R.Zero(stabilizer=1e-3, bias="ignore"), "Zero(stabilizer=Stabilizer(0.001), bias='ignore')"),
    (R.Zero(stabilizer=R.Stabilizer(1e-9, "zero")), "Zero(stabilizer=Stabilizer(1e-09, kind='zero'))"),
    (R.AlphaBetaX((1, 0), (0, 0)), "AlphaBetaX(alpha=(1.0, 0.0), beta=(0.0, 0.0))"),
    (R.ZBox(-1, 2), "ZBox(low=-1.0, high=2.0)"),
    (BOX, "ZBox(low=array of shape (2,), high=1.0, stabilizer=Stabilizer(0.001))"),
    (R.WSquare().groups()[0], "Group((Product('1', 'w^2'),), Stabilizer(1e-06))"),
    (R.Zero().groups()[0], "Group((Product('x', 'w'),), Stabilizer(1e-09), bias='w')"),
    (C.Entry("first", "flat", among=L.Conv), "Entry('first', Flat(), among=(Conv,))"),
    (C.ByIndex({-1: "zero"}), "Composite((Entry('nth', Zero(), value=-1),), name='by index')"),
    (C.Composite((), "own", canonize=False), "Composite((), name='own', canonize=False)"),
]


@pytest.mark.parametrize("thing, shown", REPRS, ids=[shown for _, shown in REPRS])
def test_reprs_are_short_and_can_be_evaluated(thing, shown):
    assert repr(thing) == shown
    assert "array of" in shown or eval(shown, {**vars(L), **vars(C), **vars(R)}) == thing


def test_the_reprs_of_presets_are_short():
    for name, make in C.COMPOSITES.items():
        made = make(**(BOUNDS if "box" in name else {}))
        assert len(repr(made)) < 900 and eval(repr(made), {**vars(L), **vars(C), **vars(R)}) == made


def test_only_a_rules_own_numbers_are_positional():
    numbers = {f.name for cls in R.RULES.values() for f in fields(cls) if not f.kw_only}
    assert numbers == {"epsilon", "gamma", "alpha", "beta", "low", "high"}
    with pytest.raises(TypeError, match="positional"):
        R.Gamma(0.25, True, True)
