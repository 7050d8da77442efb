"""What a plan is: which contractions an explanation takes, layer by layer; it prints itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import table
from ..kernels import PackedSize
from ..model.graph import Model
from ..model.layers import RNN, Activation, Layer
from ..rules import Gradient, Pass, Product, Rule, Stabilizer
from ..rules.rule import changed
from .operators import Operator
from .row_selection import Rows


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

    ``pre_activation`` says where its denominator z comes from: "activation" (the ReLU above this
    layer's z), "output" (the layer's own z), "own" (sums of its own) or
    "constant" (it does not depend on x).
    """

    coefficient: float
    stabilizer: Stabilizer
    mask: int
    bias: str | None
    pre_activation: str
    coefficients: tuple[float, ...]
    constants: tuple[Product, ...]


@dataclass(frozen=True)
class BackTerm:
    """One contraction backwards: s of a group times a weight part, added to an accumulator.

    Of two groups that are divided by sign, 0 means s of both and 1 the same times the sign of z.
    """

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
    by_sign: bool = False  # whether two groups, for z above and below zero, are divided together
    nonzero: bool = False  # whether a z of exactly 0 counts as the smallest of numbers: see `planner.cancels`

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
    """Any other layer: what it does forwards and backwards is in ``nonlinear_ops.py``."""

    node: int
    name: str
    layer: Layer
    shapes: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]
    rule: Rule
    inputs: tuple[int, ...]
    output: int
    nonzero: bool = False  # of products of matrices, as in `LinearPlan`

    @property
    def contractions(self) -> int:
        """Matrix products for an explanation: of a recurrent layer one a step and direction."""
        return 2 * self.shapes[0][0] if isinstance(self.layer, RNN) else 0

    @property
    def flops(self) -> int:
        """Floating-point operations of these products, per sample."""
        if not isinstance(self.layer, RNN):
            return 0
        inputs, columns = sum(len(w) for w in (self.layer.kernel, self.layer.recurrent_kernel)), self.layer.units
        # the candidate's block alone goes back where products give all to the signal
        signal = not isinstance(self.rule, Gradient) and getattr(self.rule, "product", "signal") == "signal"
        return 2 * self.shapes[0][0] * inputs * columns * (self.layer.gates + (1 if signal else self.layer.gates))


Step = LinearPlan | FunctionPlan | LayerPlan


@dataclass(frozen=True, eq=False)
class Plan:
    """What an Analyzer will do, layer by layer; ``str`` of it is a table.

    ``values`` gives each node's output as a value; nodes that change nothing share their input's.
    ``relu_consumers`` has each value that only a plain ReLU takes, with the ReLU's value: the layer below may
    compute both in one go. ``model`` is the caller's with its selections early; ``nodes`` has for each of the caller's
    nodes the one that computes it, and which rows of it this one has, if not all. ``packed`` says what the weights
    take in the order in which the CPU's kernels read them; None on GPUs, which read them as they are. ``libraries``
    says which convolutions cuDNN computes, where it was asked to.
    """

    model: Model
    steps: tuple[Step, ...]
    values: tuple[int, ...]
    sizes: tuple[int, ...]  # of each value
    mask_nan: bool
    relu_consumers: dict[int, int]
    nodes: tuple[tuple[int, Rows | None], ...]
    packed: PackedSize | None = None
    libraries: str | None = None

    @property
    def contractions(self) -> int:
        return sum(s.contractions for s in self.steps if not isinstance(s, FunctionPlan))

    @property
    def flops(self) -> int:
        return sum(s.flops for s in self.steps if not isinstance(s, FunctionPlan))

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
                    rows.append((name, describe(step.rule), *_recurrent_cells(step)))
                continue
            forward = " + ".join(_product(s.source if s.source != "x" else s.part, s.weight, s.of) for s in step.sums)
            parts = {share.accumulator: share.part for share in step.shares}
            s = ("s", "s·sign(z)") if step.by_sign else ("s",) * len(step.groups or step.back)
            backward = " + ".join(
                f"{parts[t.accumulator]}*({s[t.group]}·{_weight(t.weight, t.of)}ᵀ)" for t in step.back
            )
            where = ", ".join(dict.fromkeys(_DENOMINATOR[g.pre_activation] for g in step.groups))
            count = str(step.contractions)
            rows.append((f"{name} {step.operator.text}", describe(step.rule), forward, backward, count, where))
        foot = f"{self.contractions} contractions, {self.flops:,} floating-point operations a sample"
        if self.packed is not None and self.packed.tiles:  # more than the weights themselves
            foot += f"\n{self.packed}"
        if self.libraries is not None:
            foot += f"\n{self.libraries}"
        return rows, foot


def _recurrent_cells(step: Step) -> tuple[str, str, str, str]:
    """What the table says of a recurrent layer's products; of other layers nothing."""
    if not isinstance(step, LayerPlan) or not step.contractions:
        return "", "", "", ""
    if isinstance(step.rule, Gradient):
        return "[x, h]·W each step", "derivative·Wᵀ", str(step.contractions), ""
    return "[x, h]·W each step", "[x, h]*(s·Wᵀ)", str(step.contractions), "each step's sums"


_DENOMINATOR = {
    "activation": "the activation above",
    "output": "the layer's z",
    "own": "z of its own",
    "constant": "constant",
}


_WEIGHTS = {
    "w": "W",
    "w+": "W⁺",
    "w-": "W⁻",
    "|w|": "|W|",
    "w^2": "W²",
    "1": "1",
    "w+gw+": "(W+γW⁺)",
    "w+gw-": "(W+γW⁻)",
}


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
