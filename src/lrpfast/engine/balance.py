"""Where relevance went: the balance of every layer, and the report of an explanation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, overload

import numpy as np

from .. import table
from ..errors import InputError
from ..table import counted
from .plan import describe
from .trace import LayerTrace

#: Growth of Σ|R| in one layer above which its figures are said to mean little. α2β1
#: triples Σ|R| by construction; what passes this has denominators near zero.
AMPLIFICATION_LIMIT = 100.0


@dataclass(frozen=True, eq=False, repr=False)
class StepBalance:
    """Relevance into and out of every step of a recurrent layer, in float64, steps in the order of the input.

    incoming + what the step after hands on = outgoing + states + bias + stabilizer + lost, to rounding.

    Attributes
    ----------
    incoming : array, shape (samples, steps)
        What arrives at the step's own output; of layers without sequences the last step has all.
    outgoing : array
        Of the step's features.
    states : array
        What it hands to the states of the step before; that of the first step, which is computed first, goes to the
        initial states. Constant ones keep it: it is among what the layer lost.
    bias, stabilizer, lost : array
        As in `Balance`.

    Examples
    --------
    >>> layer = lrpfast.layers.SimpleRNN(np.ones((1, 2)), np.eye(2) / 2, np.ones(2))
    >>> model = lrpfast.from_layers([layer], input_shape=(3, 1))
    >>> steps = lrpfast.Analyzer(model, "epsilon").explain(np.ones((1, 3, 1)), 0).conservation[0].steps
    >>> steps.bias.shape, bool(steps.bias[0, 2] > steps.bias[0, 0])
    ((1, 3), True)
    """

    incoming: np.ndarray
    outgoing: np.ndarray
    states: np.ndarray
    bias: np.ndarray
    stabilizer: np.ndarray
    lost: np.ndarray

    def __repr__(self) -> str:
        samples, steps = self.incoming.shape
        return f"<lrpfast.StepBalance of {counted(steps, 'step')}, {counted(samples, 'sample')}>"


@dataclass(frozen=True, eq=False, repr=False)
class Balance:
    """Relevance into and out of one layer, for every sample, in float64; prints as means.

    incoming = outgoing + bias + stabilizer + lost, to the rounding of the run's dtype.

    Attributes
    ----------
    layer : str
    rule : str
    incoming, outgoing : array, shape (samples,)
        Σ_j R_j above and Σ_i R_i below the layer.
    bias : array
        c · Σ_j s_j b_j of every group: what the bias took.
    stabilizer : array
        c · Σ_j s_j (stabilize(z_j) − z_j): what the stabilizer took.
    lost : array
        What met a denominator of exactly zero, a mask or padding, and what a rule that does not
        conserve relevance (gradient, taylor) adds or drops; may be negative.
    amplification : array
        Σ_i |R_i| / Σ_j |R_j|; of a recurrent layer the largest over its steps, of what they hand on.
    steps : StepBalance, optional
        Of a recurrent layer: the account of every step.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0], [2.0]]), np.array([1.0]))])
    >>> explanation = lrpfast.Analyzer(model, "zero", precision="float64").explain(np.array([[1.0, 1.0]]))
    >>> balance = explanation.conservation[0]
    >>> np.abs(balance.rounding) < 1e-12, balance.bias.round(3)
    (array([ True]), array([1.]))
    """

    layer: str
    rule: str
    incoming: np.ndarray
    outgoing: np.ndarray
    bias: np.ndarray
    stabilizer: np.ndarray
    lost: np.ndarray
    amplification: np.ndarray
    steps: StepBalance | None = None

    @property
    def rounding(self) -> np.ndarray:
        """What is left: the rounding of the run, which TF32 makes visible."""
        rest: np.ndarray = self.incoming - self.outgoing - self.bias - self.stabilizer - self.lost
        return rest

    def means(self) -> list[str]:
        """The means over the samples, in the order of `COLUMNS`, as text."""
        return [f"{np.mean(getattr(self, key)) if len(self.incoming) else math.nan:.6g}" for key in COLUMNS]

    def __repr__(self) -> str:
        means = ", ".join(f"{key} {mean}" for key, mean in zip(COLUMNS, self.means(), strict=True))
        samples = counted(len(self.incoming), "sample")
        return f"<lrpfast.Balance of {self.layer!r} under {self.rule}, mean of {samples}: {means}>"


FIELDS = ("incoming", "outgoing", "bias", "stabilizer", "lost")
COLUMNS = (*FIELDS, "rounding", "amplification")


class Conservation(Sequence[Balance]):
    """The balance of every layer, from the output down; prints as a table of means.

    A sequence: an index gives a `Balance`, a slice another `Conservation`, a layer's name its `Balance`.

    Attributes
    ----------
    note : str
        Why there are no balances, as of gradients; else empty.

    Raises
    ------
    InputError
        For a name that no layer here has.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0], [2.0]]), np.array([1.0]))])
    >>> report = lrpfast.Analyzer(model, "zero").explain(np.array([[1.0, 1.0]])).conservation
    >>> len(report), [balance.layer for balance in report]
    (1, ['dense'])
    >>> report["dense"].outgoing.round(3)
    array([3.])
    """

    def __init__(self, layers: Sequence[Balance], note: str = "") -> None:
        self._layers, self.note = tuple(layers), note

    @overload
    def __getitem__(self, index: int | str) -> Balance: ...
    @overload
    def __getitem__(self, index: slice) -> Conservation: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Conservation(self._layers[index])
        if isinstance(index, str):
            for balance in self._layers:
                if balance.layer == index:
                    return balance
            if self.note:
                raise InputError(self.note)
            names = ", ".join(repr(balance.layer) for balance in self._layers)
            raise InputError(f"no layer called {index!r} redistributes relevance here; those that do are {names}")
        return self._layers[index]

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Balance]:
        return iter(self._layers)

    def to_dict(self) -> dict[str, np.ndarray]:
        """Every figure of every layer and sample as columns, as a data frame takes them.

        Returns
        -------
        dict of arrays, shape (layers · samples,)
            ``layer`` and ``rule``, ``sample`` (its number in the batch), and the figures of `Balance`, in float64;
            layer by layer.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0], [2.0]]), np.array([1.0]))])
        >>> report = lrpfast.Analyzer(model, "zero").explain(np.array([[1.0, 1.0], [2.0, 1.0]])).conservation
        >>> columns = report.to_dict()  # pandas.DataFrame(columns)
        >>> list(columns)[:5], columns["sample"]
        (['layer', 'rule', 'sample', 'incoming', 'outgoing'], array([0, 1]))
        """
        samples = [len(b.incoming) for b in self._layers]
        columns = {
            "layer": np.repeat([b.layer for b in self._layers], samples),
            "rule": np.repeat([b.rule for b in self._layers], samples),
            "sample": np.concatenate([np.arange(0), *map(np.arange, samples)]),
        }
        for key in COLUMNS:
            columns[key] = np.concatenate([np.zeros(0), *(getattr(b, key) for b in self._layers)])
        return columns

    def __str__(self) -> str:
        if self.note:
            return self.note
        head, rows = self._table()
        return "\n".join([head, *table.lines(rows, right=2)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        if self.note:
            return table.paragraph(self.note)
        head, rows = self._table()
        return table.html(rows, head, right=2)

    def _table(self) -> tuple[str, list[tuple[str, ...]]]:
        """What stands above the table, and its rows."""
        rows: list[tuple[str, ...]] = [("layer", "rule", *COLUMNS)]
        samples = len(self._layers[0].incoming) if self._layers else 0
        rows += [(b.layer, b.rule, *b.means()) for b in self._layers]
        return f"relevance by layer, mean of {counted(samples, 'sample')}", rows


def _stabilized(z: np.ndarray, value: float, kind: str) -> np.ndarray:
    if kind == "zero":
        return np.where(z == 0, z + value, z)
    if kind == "unsigned":
        return z + value
    return z + np.where(z >= 0, value, -value)


def _sum_in_order(values: np.ndarray) -> np.ndarray:
    """Σ over the second axis, one value after the other: zeros between values, as padding has them, change no bit."""
    total: np.ndarray = np.add.accumulate(values, 1)[:, -1] if values.shape[1] else np.zeros(len(values))
    return total


def _sum(values: np.ndarray) -> np.ndarray:
    total: np.ndarray = values.sum(1)
    return total


def layer_balance(
    trace: LayerTrace, buffers: dict[int, np.ndarray], samples: int, *, in_order: bool = False
) -> dict[str, np.ndarray]:
    """The figures of one layer from a traced run's buffers; Σ|R| in and out beside them.

    ``in_order`` makes them the same bits where samples are padded.
    """
    total = _sum_in_order if in_order else _sum

    def value(source: Any) -> np.ndarray:
        if isinstance(source, np.ndarray):
            return source.astype(np.float64)[None]
        return buffers[source].astype(np.float64)

    incoming = value(trace.incoming)
    # NaN: masked features
    outgoing = np.concatenate([np.nan_to_num(value(b), nan=0.0) for b in trace.outgoing], 1)
    bias, stabilizer, lost = np.zeros(samples), np.zeros(samples), np.zeros(samples)
    # the share of each output's relevance that no live denominator takes
    share = np.ones_like(incoming) if trace.groups else None
    for g in trace.groups:
        assert share is not None
        c = g.group.coefficient
        s, z = value(g.s), value(g.z)
        open_ = np.ones_like(incoming, dtype=bool)
        if g.mask_z is not None:
            mask_z = value(g.mask_z)
            open_ = mask_z > 0 if g.group.mask > 0 else mask_z < 0
            s = np.where(open_, s, 0.0)  # two groups may share a buffer
        if g.bias is not None:
            b = np.resize(g.bias.astype(np.float64), s.shape[1])
            bias += c * total(s * b)
        dead = np.broadcast_to(z == 0, s.shape)
        stabilizer_part = s * (_stabilized(z, g.group.stabilizer.value, g.group.stabilizer.kind) - z)
        stabilizer += c * total(np.where(dead, 0.0, stabilizer_part))
        share -= c * (open_ & ~dead)
    total_in, total_out = total(incoming), total(outgoing)
    if trace.remainder:
        lost = total_in - total_out - bias - stabilizer
    elif share is not None:
        lost = total(incoming * share)
    largest = np.zeros(samples)
    steps: dict[str, np.ndarray] = {}
    if trace.steps is not None:
        steps, largest = _step_figures(trace, value, incoming, samples)
        bias, stabilizer = total(steps["bias"]), total(steps["stabilizer"])
        lost = total(steps["lost"])
        if len(trace.outgoing) == 1:  # initial states that are constant
            lost = lost + steps["states"][:, -1 if trace.steps.recurrence.backwards else 0]
    if trace.lost_at is not None:
        lost = lost + total(incoming[:, trace.lost_at])
    return {
        "incoming": total_in,
        "outgoing": total_out,
        "bias": bias,
        "stabilizer": stabilizer,
        "lost": lost,
        "absolute_in": total(np.abs(incoming)),
        "absolute_out": np.maximum(total(np.abs(outgoing)), largest),
        **{f"steps_{key}": figure for key, figure in steps.items()},
    }


def _step_figures(
    trace: LayerTrace, value: Callable[[Any], np.ndarray], incoming: np.ndarray, samples: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The figures of a recurrent layer's steps, and the largest Σ|R| that one of them hands on."""
    assert trace.steps is not None
    r = trace.steps.recurrence
    account = value(trace.steps.account).reshape(samples, r.steps, -1)
    arriving = np.zeros((samples, r.steps))
    rows = incoming.reshape(samples, -1, r.units).sum(2)
    last = 0 if r.backwards else -1
    if r.sequences:
        ordered = rows[:, : r.steps]
        arriving += ordered if r.time_order or not r.backwards else ordered[:, ::-1]
    else:
        arriving[:, last] += rows[:, 0]
    if r.return_state:
        arriving[:, last] += rows[:, -1]
    outgoing = value(trace.steps.outgoing).reshape(samples, r.steps, -1).sum(2)
    columns = {"bias": 0, "stabilizer": 1, "lost": 2, "states": 3}
    figures = {key: account[:, :, at] for key, at in columns.items()}
    return {"incoming": arriving, "outgoing": outgoing, **figures}, account[:, :, 4].max(1, initial=0)


def no_conservation() -> Conservation:
    """In place of the balances of gradients: why there are none."""
    return Conservation([], "no balance: gradients say how the output changes, and need not add up to it in any layer")


def make_conservation(
    traces: Sequence[LayerTrace], parts: Sequence[dict[str, np.ndarray]], numbers: Sequence[int] | None = None
) -> tuple[Conservation, list[str]]:
    """Records from the figures of each layer, and what is to be said of layers where relevance grew beyond meaning.

    ``numbers`` are those of the samples for the caller.
    """
    balances, texts = [], []
    for trace, p in zip(traces, parts, strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            growth = np.where(p["absolute_in"] > 0, p["absolute_out"] / p["absolute_in"], 1.0)
        figures = {key: p[key] for key in FIELDS}
        name = trace.step.name
        steps = StepBalance(**{f.name: p[f"steps_{f.name}"] for f in fields(StepBalance)}) if trace.steps else None
        balances.append(Balance(name, describe(trace.step.rule), amplification=growth, steps=steps, **figures))
        if len(growth) and growth.max() > AMPLIFICATION_LIMIT:
            worst = int(growth.argmax())
            sample = worst if numbers is None else numbers[worst]
            many = int((growth > AMPLIFICATION_LIMIT).sum())
            remedy = "A larger epsilon prevents it" + (
                ", and so does bias='absorb'" if getattr(trace.step.rule, "bias", "absorb") == "ignore" else ""
            )
            texts.append(
                f"{name}: {describe(trace.step.rule)} multiplies relevance {growth[worst]:,.0f}-fold "
                f"(sample {sample}; more than {AMPLIFICATION_LIMIT:g}-fold in {many} of "
                f"{counted(len(growth), 'sample')}): its denominators nearly vanish, so that single values mean "
                f"little. {remedy}"
            )
    return Conservation(balances), texts
