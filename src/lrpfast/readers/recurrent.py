"""Recurrent layers of all formats as nodes: weights in lrpfast's order of gates, sequences and final states."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..errors import ShapeError
from ..model import layers as L
from ..model.layers import Layer

#: What a recurrent layer gives: the state of every step, and the last h and c.
SEQUENCE, HIDDEN, CELL = "sequence", "h", "c"


class Add(Protocol):
    """Adds a layer on nodes; ``part`` names a helper after the recurrent layer. Returns the node's number."""

    def __call__(self, layer: Layer, *inputs: int, part: str = "") -> int: ...


def reordered(array: np.ndarray, order: Sequence[int], axis: int = -1) -> np.ndarray:
    """The blocks of an axis, one for each gate, in another order."""
    blocks = np.split(array, len(order), axis)
    return np.concatenate([blocks[i] for i in order], axis)


def added(*biases: np.ndarray) -> np.ndarray:
    """The sum of the biases of one pre-activation, in double precision: float32 would round it."""
    result: np.ndarray = np.sum([np.asarray(bias, np.float64) for bias in biases], axis=0)
    return result


def lay_out(add: Add, layer: Any, inputs: Sequence[int], steps: int | None, results: Collection[str]) -> dict[str, int]:
    """The nodes of a recurrent layer's results, by their names.

    Parameters
    ----------
    add : Add
    layer : RNN
        ``return_sequences`` and ``return_state`` are set here.
    inputs : sequence of int
        The nodes of the sequence, the mask and the initial states.
    steps : int or None
        How many steps the sequence has; None where that is open.
    results : collection of str
        Among `SEQUENCE`, `HIDDEN` and `CELL`.
    """
    sequence, cell = SEQUENCE in results, CELL in results
    # rows of an open number are not cut, and where masked rows are 0 none is the last state: once for each result
    if sequence and len(results) > 1 and (steps is None or layer.zero_masked):
        rest = [name for name in results if name != SEQUENCE]
        state = replace(layer, zero_masked=False)
        return lay_out(add, layer, inputs, steps, [SEQUENCE]) | lay_out(
            named(add, "states"), state, inputs, steps, rest
        )
    settings = {"return_sequences": sequence, **({"return_state": cell} if isinstance(layer, L.LSTM) else {})}
    whole = replace(layer, **settings)
    node = add(whole, *inputs)
    if len(results) == 1 and not cell:
        return {next(iter(results)): node}
    rows = (steps or 0) if sequence else 1
    last = 0 if not sequence or (layer.go_backwards and layer.time_order) else rows - 1
    return {name: _result(add, node, name, rows, last, cell) for name in results}


def _result(add: Add, node: int, name: str, rows: int, last: int, cell: bool) -> int:
    """One result, from rows of the sequence, or of the last h alone, and a row more where there is a c."""
    total = rows + cell
    if name == SEQUENCE:
        return add(L.Crop(((0, 1),)), node, part="sequence") if cell else node
    at = rows if name == CELL else last
    row = node if total == 1 else add(L.Crop(((at, total - 1 - at),)), node, part=f"{name}_row")
    return add(L.Flatten(), row, part=name)


def named(add: Add, title: str) -> Add:
    """Adds layers as parts of a part."""

    def inner(layer: Layer, *inputs: int, part: str = "") -> int:
        return add(layer, *inputs, part="/".join(filter(None, [title, part])))

    return inner


def checked_steps(shape: tuple[int | None, ...], label: str) -> int | None:
    """The number of steps of a sequence (steps, features)."""
    if len(shape) != 2:
        raise ShapeError(f"{label}: it takes sequences, (steps, features); its input has shape {shape}")
    return shape[0]


@dataclass(frozen=True)
class Direction:
    """One direction of a recurrent layer: the layer, the nodes of its initial states, and its part in names."""

    layer: Any
    states: tuple[int, ...] = ()
    part: str = ""


def lay_out_all(
    add: Add, directions: Sequence[Direction], sequence: int, steps: int | None, results: Collection[str]
) -> tuple[int | None, list[dict[str, int]]]:
    """The node of the sequence of all directions, side by side, and the results of each."""
    nodes = [lay_out(named(add, d.part), d.layer, (sequence, *d.states), steps, results) for d in directions]
    whole = [results[SEQUENCE] for results in nodes if SEQUENCE in results]
    joined = add(L.Concat(-1), *whole) if len(whole) > 1 else None
    return (whole[0] if len(whole) == 1 else joined), nodes


def masked_state(add: Add, output: int, mask: int, initial: int | np.ndarray) -> int:
    """The node of the last h: where the mask (steps,) leaves out all steps, the initial one, not the output of 0.

    ``initial`` is the node of the initial state, or a constant.
    """
    column = add(L.Reshape((-1, 1)), mask, part="steps")
    counts = add(L.GlobalMaxPool(), column, part="any")
    if isinstance(initial, np.ndarray):
        initial = add(constant(initial), output, part="initial")
    return add(L.Where(), counts, output, initial, part="state")


def constant(row: np.ndarray) -> Layer:
    """A layer that makes the row of any row of as many values."""
    n = len(row)
    return L.BatchNorm(np.zeros(n), np.ones(n), np.zeros(n), row, 0.0)
