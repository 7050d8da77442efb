"""PyTorch's recurrent modules, as one operator each, and their cells; part of the table in `nodes`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import ShapeError
from ...model import layers as L
from ..batch_axis import FIRST, BatchAxis
from ..channels_first import Flat, Tensor
from ..recurrent import (
    CELL,
    HIDDEN,
    SEQUENCE,
    Direction,
    checked_steps,
    lay_out,
    lay_out_all,
)
from ..recurrent_states import constant_row, state_rows
from .cells import cell_of
from .graph import Stack, TorchNode
from .records import PerBatch, refs

Converter = Callable[[TorchNode], Any]

#: The batch is the second axis.
_SECOND = BatchAxis(1)


def _constant_state(node: TorchNode, value: Any) -> np.ndarray | None:
    """An initial state (rows, batch, units) that is the same for every sample, as (rows, units); None for zeros."""
    arrays = [value.first, value.second] if isinstance(value, PerBatch) else [value]
    first = np.asarray(arrays[0])
    if first.ndim != 3:
        raise ShapeError(f"its initial state has shape {first.shape}, not (layers, batch, units)")
    row = first[:, :1]
    if any(a.shape[0] != row.shape[0] or not (a == row).all() for a in map(np.asarray, arrays)):
        raise node.unsupported("begins with states that differ between samples", "Give the states as an input")
    return row[:, 0] if row.any() else None


def _states(node: TorchNode, names: Sequence[str], values: Sequence[Any], rows: int) -> list[dict[str, Any]]:
    """For each layer and direction: constants by their fields' names, and, under "", the nodes of states."""
    result: list[dict[str, Any]] = [{} for _ in range(rows)]
    computed = [isinstance(value, (Tensor, Flat)) for value in values]
    for name, value in zip(names, values, strict=True):
        if isinstance(value, (Tensor, Flat)):
            nodes = state_rows(node.builder, value, rows)
        else:
            array = _constant_state(node, value)
            if not any(computed):
                for i in range(rows) if array is not None else ():
                    result[i][name] = array[i]  # type: ignore[index]
                continue
            other = values[computed.index(True)]
            units = other.shape[-1]
            zeros = np.zeros((rows, units)) if array is None else array
            nodes = [
                constant_row(node.builder, at, row)
                for at, row in zip(state_rows(node.builder, other, rows), zeros, strict=True)
            ]
        for i, at in enumerate(nodes):
            result[i].setdefault("", []).append(at)
    return result


def used_results(node: TorchNode, count: int) -> set[int]:
    """Which of an operator's results anything uses."""
    op, program = node.op, node.program
    used = {name for other in program.ops for value in other.arguments.values() for name in refs(value)}
    used.update(program.outputs)
    if len(op.outputs) > 1:
        return {i for i, name in enumerate(op.outputs) if name in used}
    indices: set[int] = set()
    for other in program.ops:
        first, *rest = [*other.arguments.values(), None]
        if op.outputs[0] in refs(first):
            if not other.base.endswith(".getitem") or not isinstance(rest[0], int):
                return set(range(count))
            indices.update([rest[0]] if used.intersection(other.outputs) else [])
    return indices


def _recurrent(kind: str) -> Converter:
    names = ("initial_h", "initial_c") if kind == "lstm" else ("initial_h",)

    def convert(node: TorchNode) -> Any:
        if node.get("batch_sizes") is not None:
            raise node.unsupported("goes through packed sequences", "Pad them, and give the model all steps")
        if node.get("train", False) and node.get("dropout", 0.0):
            raise node.unsupported("drops values at random", "Export the module in eval mode")
        x, first = node.tensor("input"), bool(node.get("batch_first", False))
        if x.batch != (FIRST if first else _SECOND) or len(x.shape) != 2:
            raise node.unsupported(
                f"takes a tensor whose batch axis is {x.batch.position} of {x.rank}, where batch_first is {first}",
                "Samples must not be mixed",
            )
        count, both = node.get("num_layers", 1), bool(node.get("bidirectional", False))
        ways, arrays = 1 + both, [np.asarray(w) for w in node.get("params")]
        each = 2 + 2 * bool(node.get("has_biases", True))
        if len(arrays) != count * ways * each:
            if len(arrays) == count * ways * (each + 1):
                raise node.unsupported("projects its states (proj_size)", "These work: LSTMs without a projection")
            raise ShapeError(f"it has {len(arrays)} weights, {count} layers in {ways} directions have {each} each")
        hx = node.get("hx")
        initial = [] if hx is None else hx if isinstance(hx, list) else [hx]
        states = _states(node, names[: len(initial)], initial, count * ways)
        return _run(node, kind, x, [arrays[i : i + each] for i in range(0, len(arrays), each)], states, ways)

    return convert


def _run(
    node: TorchNode, kind: str, x: Any, weights: list[list[np.ndarray]], states: list[dict[str, Any]], ways: int
) -> Any:
    """The results of all layers: the sequence, and the final states as stacks (layers · directions, batch, units)."""
    builder, t = node.builder, node.builder.plain(x)
    used = used_results(node, 3 if kind == "lstm" else 2)
    at, steps = t.node, checked_steps(t.shape, "")
    sequence: int | None = None
    finals: dict[str, list[int]] = {HIDDEN: [], CELL: []}
    layers = len(weights) // ways
    for n in range(layers):
        directions = []
        for way in range(ways):
            own = dict(states[n * ways + way])
            nodes = tuple(own.pop("", ()))
            flags = {"go_backwards": way == 1, "takes_state": bool(nodes), **own}
            layer = replace(cell_of(kind, weights[n * ways + way]), **flags)
            part = f"l{n}{'_reverse' * way}" if len(weights) > 1 else ""
            directions.append(Direction(layer, nodes, part))
        results = [SEQUENCE] if n < layers - 1 or 0 in used else []
        results += [HIDDEN] if 1 in used else []
        results += [CELL] if 2 in used else []
        sequence, ends = lay_out_all(builder.add, directions, at, steps, results)
        at = at if sequence is None else sequence
        for name, several in finals.items():
            several += [end[name] for end in ends if name in end]
    outputs: list[Any] = [None]
    if sequence is not None and 0 in used:
        outputs = [Tensor(sequence, tuple(builder.shapes[sequence]), (0, 1), x.batch)]
    for name in (HIDDEN, CELL)[: 2 if kind == "lstm" else 1]:
        rows = [Tensor(i, tuple(builder.shapes[i]), (0,)) for i in finals[name]]
        outputs.append(Stack(tuple(rows), 0) if rows else None)
    return tuple(outputs)


def _one_step(kind: str) -> Converter:
    """A cell, which goes one step: a layer of one step that takes its states."""

    def convert(node: TorchNode) -> Any:
        builder, x = node.builder, node.builder.plain(node.tensor("input"))
        hx = node.get("hx")
        initial = hx if isinstance(hx, list) else [hx]
        names = ("w_ih", "w_hh", "b_ih", "b_hh")
        layer = cell_of(kind, [w for w in map(node.constant, names) if w is not None])
        if x.batch != FIRST or len(x.shape) != 1:
            raise node.unsupported(f"takes samples of shape {x.shape}, not (features,)")
        flags: dict[str, Any] = {}
        nodes: list[int] = []
        if any(isinstance(value, (Tensor, Flat)) for value in initial):
            like = next(builder.plain(value).node for value in initial if isinstance(value, (Tensor, Flat)))
            flags["takes_state"] = True
            for value in initial:
                computed = isinstance(value, (Tensor, Flat))
                nodes.append(builder.plain(value).node if computed else constant_row(builder, like, _row(node, value)))
        else:
            flags = {name: _row(node, value) for name, value in zip(layer.states, initial, strict=True)}
        row = builder.add(L.Reshape((1, *x.shape)), x.node, part="step")  # type: ignore[arg-type]
        results = (HIDDEN, CELL)[: len(layer.states)]
        ends = lay_out(builder.add, replace(layer, **flags), (row, *nodes), 1, results)
        values = [Tensor(ends[name], (layer.units,), (0,)) for name in results]
        return tuple(values) if kind == "lstm" else values[0]

    return convert


def _row(node: TorchNode, value: Any) -> np.ndarray:
    """A state (batch, units) that is the same for every sample."""
    arrays = [value.first, value.second] if isinstance(value, PerBatch) else [np.asarray(value)]
    row: np.ndarray = arrays[0][0]
    if any(not (a == row).all() for a in arrays):
        raise node.unsupported("begins with states that differ between samples", "Give the states as an input")
    return row


#: Operators of this file, without their overloads.
RECURRENT: dict[str, Converter] = {
    "aten.lstm": _recurrent("lstm"),
    "aten.gru": _recurrent("gru"),
    "aten.rnn_tanh": _recurrent("tanh"),
    "aten.rnn_relu": _recurrent("relu"),
    "aten.lstm_cell": _one_step("lstm"),
    "aten.gru_cell": _one_step("gru"),
    "aten.rnn_tanh_cell": _one_step("tanh"),
    "aten.rnn_relu_cell": _one_step("relu"),
}
