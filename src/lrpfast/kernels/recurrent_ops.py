"""Operations of recurrent layers: all steps of a sequence in one, forwards and backwards; and masks of steps.

Both backends compute in double precision, whatever the program's dtype is: relevance is a quotient of sums that may
nearly cancel, handed on over hundreds of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .codes import FUNCTIONS, BiasShare, Cell, ProductShare
from .operation import Operation, light, require

#: columns of the account of a step: what biases, stabilizers and zero outputs took, and what it hands to the step
#: before, ΣR and Σ|R|
ACCOUNT = 5
#: values that a step keeps of each unit: where products give all to the signal, else, and for the derivative
_SLOTS = {
    Cell.SIMPLE: (2, 2, 1),
    Cell.LSTM: (5, 12, 6),
    Cell.GRU_AFTER: (6, 9, 5),
    Cell.GRU_BEFORE: (6, 9, 5),
}


@dataclass(frozen=True, eq=False)
class Recurrence:
    """A recurrent layer as kernels see it, and how it shares out relevance.

    ``weights`` have a row for each feature and then each unit, and a block of columns, ``units`` wide, for each
    pre-activation: of an LSTM i, f, g, o; of a GRU z, r and, where it resets after the product, x W_n and h U_n.
    A GRU that resets before it has ``candidate`` for n besides, whose rows are the features and r h. ``bias`` and
    ``candidate_bias`` have a value for each column, and initial states one for each unit. Functions are pairs of a name
    and parameters.
    """

    cell: Cell
    steps: int
    weights: np.ndarray
    bias: np.ndarray
    candidate: np.ndarray | None
    candidate_bias: np.ndarray
    initial_h: np.ndarray
    initial_c: np.ndarray
    cell_function: tuple[str, Mapping[str, Any]]
    gate_function: tuple[str, Mapping[str, Any]]
    output_function: tuple[str, Mapping[str, Any]]
    backwards: bool = False
    sequences: bool = False
    time_order: bool = True
    zero_masked: bool = False
    return_state: bool = False
    epsilon: float = 1e-6
    product: ProductShare = ProductShare.SIGNAL
    bias_share: BiasShare = BiasShare.ABSORB

    @property
    def units(self) -> int:
        """The number of units."""
        return len(self.initial_h)

    @property
    def features(self) -> int:
        """The number of features of each step."""
        return len(self.weights) - self.units

    @property
    def blocks(self) -> int:
        """The blocks of columns."""
        return int(self.weights.shape[1]) // self.units

    @property
    def slots(self) -> int:
        """Values that a step keeps of each unit."""
        return _SLOTS[self.cell][2 if self.derivative else self.product != ProductShare.SIGNAL]

    @property
    def derivative(self) -> bool:
        """Whether the layer hands on its derivative, and no relevance."""
        return self.product == ProductShare.DERIVATIVE

    @property
    def state_size(self) -> int:
        """Values that all steps keep."""
        return self.steps * self.slots * self.units

    @property
    def scratch_size(self) -> int:
        """Values of the program's dtype in which a sample's numbers in double precision have room, an even number."""
        return 2 * (12 * self.units + self.features)

    @property
    def output_size(self) -> int:
        """Values of the output."""
        return ((self.steps if self.sequences else 1) + self.return_state) * self.units

    @property
    def relevant_blocks(self) -> slice:
        """The columns whose pre-activations receive relevance."""
        if self.product != ProductShare.SIGNAL or self.cell == Cell.SIMPLE:
            return slice(None)
        last = {Cell.LSTM: 3, Cell.GRU_AFTER: 4, Cell.GRU_BEFORE: 2}[self.cell]
        return slice(2 * self.units, last * self.units)


def widened(array: np.ndarray, units: int, width: int) -> np.ndarray:
    """An array in double precision whose blocks of ``units`` columns are ``width`` wide, with zeros."""
    blocks = np.asarray(array, np.float64).reshape(*array.shape[:-1], -1, units)
    wide = np.zeros((*blocks.shape[:-1], width))
    wide[..., :units] = blocks
    return wide.reshape(*array.shape[:-1], -1)


def _flags(*buffers: int | None) -> int:
    """Which of some buffers there are, a bit each."""
    return sum(1 << i for i, buffer in enumerate(buffers) if buffer is not None)


def function_code(function: tuple[str, Mapping[str, Any]]) -> tuple[int, tuple[float, ...]]:
    """A function's number, −1 for none, and its parameters as kernels take them."""
    name, p = function
    if name == "linear":
        return -1, ()
    if name == "relu":
        return FUNCTIONS[name], (
            np.inf if p["max_value"] is None else p["max_value"],
            p["negative_slope"],
            p["threshold"],
        )
    return FUNCTIONS[name], tuple(float(value) for value in p.values())


_MISFIT = "buffers do not fit steps, features and units"


def _check_recurrence(r: Recurrence, operation: Operation) -> None:
    columns = {Cell.SIMPLE: 1, Cell.LSTM: 4, Cell.GRU_AFTER: 4, Cell.GRU_BEFORE: 2}[r.cell] * r.units
    require(r.steps > 0 and r.units > 0 and r.features > 0, operation, "no steps, units or features")
    require(r.weights.ndim == 2 and r.weights.shape[1] == columns, operation, "weights do not fit the cell")
    require(r.bias.shape == (columns,) and r.candidate_bias.shape == (r.units,), operation, "a bias for each column")
    require(r.initial_c.shape == (r.units,), operation, "an initial state for each unit")
    before = r.cell == Cell.GRU_BEFORE
    fits = r.candidate is not None and r.candidate.shape == (len(r.weights), r.units)
    require(fits if before else r.candidate is None, operation, "a candidate's weights where it has its own")
    require(r.epsilon > 0, operation, "no epsilon")


def _check_recur(operation: Recur, read: Sequence[int], written: Sequence[int]) -> None:
    r = operation.recurrence
    _check_recurrence(r, operation)
    sizes = [r.steps * r.features, *([r.steps] if operation.mask is not None else [])]
    sizes += [r.units for state in (operation.h, operation.c) if state is not None]
    require(list(read) == sizes, operation, _MISFIT)
    states = [r.state_size] if operation.state is not None else []
    require(
        list(written) == [r.output_size, *states, r.scratch_size],
        operation,
        _MISFIT,
    )


def _check_recur_back(operation: RecurBack, read: Sequence[int], written: Sequence[int]) -> None:
    r = operation.recurrence
    _check_recurrence(r, operation)
    masks = [r.steps] if operation.mask is not None else []
    require((operation.x is None) == r.derivative, operation, "x is read where products share relevance")
    inputs = [] if r.derivative else [r.steps * r.features]
    require(list(read) == [*inputs, *masks, r.state_size, r.output_size], operation, _MISFIT)
    sizes = [r.steps * r.features, *(r.units for state in (operation.out_h, operation.out_c) if state is not None)]
    sizes += [r.steps * ACCOUNT] if operation.account is not None else []
    sizes += [r.scratch_size]
    require(list(written) == sizes, operation, _MISFIT)


@light(
    ("source", "mask", "h", "c"),
    ("out", "state", "scratch"),
    _check_recur,
    lambda o: {"recurrence": o.recurrence, "flag": _flags(o.mask, o.h, o.c, o.state)},
    overflows=True,
)
@dataclass(frozen=True, eq=False)
class Recur(Operation):
    """A recurrent layer: out = the states of all steps, or of the last; ``state`` = what the way back needs of them.

    ``mask`` has a value for each step, 0 where it does not count; ``h`` and ``c`` are initial states. Any may be None.
    ``scratch`` is for kernels that keep a sample's numbers in double precision in the workspace.
    """

    source: int
    mask: int | None
    h: int | None
    c: int | None
    out: int
    state: int | None
    scratch: int
    recurrence: Recurrence


@light(
    ("x", "mask", "state", "relevance"),
    ("out", "out_h", "out_c", "account", "scratch"),
    _check_recur_back,
    lambda o: {"recurrence": o.recurrence, "flag": _flags(o.mask, o.out_h, o.out_c, o.account)},
)
@dataclass(frozen=True, eq=False)
class RecurBack(Operation):
    """out = relevance of x; ``out_h``, ``out_c`` = that of the initial states; ``account`` has `ACCOUNT` values a step.

    These three may be None; ``scratch`` as in `Recur`. ``x`` is None where the recurrence hands on its derivative: all
    of its factors are in ``state``.
    """

    x: int | None
    mask: int | None
    state: int
    relevance: int
    out: int
    out_h: int | None
    out_c: int | None
    account: int | None
    scratch: int
    recurrence: Recurrence


def _check_mask_steps(operation: MaskSteps, read: Sequence[int], written: Sequence[int]) -> None:
    size = read[0] if operation.applies else read[0] // operation.columns
    require(read[0] % operation.columns == 0 and written[0] == size, operation, "buffers do not fit the columns")


@light(("source",), ("out",), _check_mask_steps, lambda o: {"p": (o.value,), "flag": o.applies})
@dataclass(frozen=True, eq=False)
class MaskSteps(Operation):
    """out = 0 for each row of ``columns`` values that are all ``value``, else 1; ``applies``: the row, or zeros."""

    source: int
    out: int
    columns: int
    value: float
    applies: bool
