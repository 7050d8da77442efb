"""ONNX's LSTM, GRU and RNN as layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import ModelFormatError, ShapeError
from ...model import layers as L
from ..axis_ops import pad, take
from ..batch_axis import FIRST, BatchAxis
from ..channels_first import Tensor
from ..recurrent import (
    CELL,
    HIDDEN,
    SEQUENCE,
    Direction,
    added,
    checked_steps,
    lay_out_all,
    reordered,
)
from ..recurrent_states import constant_row, stacked_states, state_rows
from .context import NodeContext
from .fold import FoldedValue

#: How many gates each has, and their order as lrpfast has it: an LSTM's are i, o, f, c in ONNX.
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_LSTM_ORDER = (0, 2, 3, 1)
#: The functions of each, by default.
_FUNCTIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
#: ONNX's names of functions: lrpfast's, and what alpha and beta are in them, with their defaults.
_ACTIVATIONS: dict[str, tuple[str, dict[str, float]]] = {
    "relu": ("relu", {}),
    "tanh": ("tanh", {}),
    "sigmoid": ("sigmoid", {}),
    "softsign": ("softsign", {}),
    "softplus": ("softplus", {}),
    "leakyrelu": ("leaky_relu", {"negative_slope": 0.01}),
    "thresholdedrelu": ("relu", {"threshold": 1.0}),
    "hardsigmoid": ("hard_sigmoid", {"slope": 0.2, "offset": 0.5}),
    "elu": ("elu", {"alpha": 1.0}),
}
_WAYS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def _activations(ctx: NodeContext, ways: int) -> list[list[L.Activation]]:
    """The functions of each direction."""
    default = _FUNCTIONS[ctx.node.op]
    names = ctx.attr("activations") or default * ways
    alphas, betas = (list(ctx.attr(f"activation_{key}") or ()) for key in ("alpha", "beta"))
    if len(names) != len(default) * ways:
        raise ModelFormatError(f"it has {len(names)} activations for {ways} directions of {len(default)}")
    result = []
    for name in names:
        if name.lower() not in _ACTIVATIONS:
            raise ctx.unsupported(
                f"has the activation {name!r}, which lrpfast does not know",
                f"These work: {', '.join(_FUNCTIONS['LSTM'][:2])}, Relu, LeakyRelu, ThresholdedRelu, HardSigmoid, Elu, "
                "Softsign, Softplus",
            )
        function, parameters = _ACTIVATIONS[name.lower()]
        values = dict(parameters)
        for key, numbers in zip(parameters, (alphas, betas), strict=False):  # consumed by those that take them
            if numbers:
                values[key] = numbers.pop(0)
        result.append(L.Activation(function, values))
    return [result[i : i + len(default)] for i in range(0, len(result), len(default))]


def _layer(ctx: NodeContext, weights: Sequence[np.ndarray | None], functions: Sequence[L.Activation]) -> Any:
    """One direction's layer, from its W, R and B."""
    op = ctx.node.op
    kernel, recurrent, bias = weights
    assert kernel is not None
    assert recurrent is not None
    kernel, recurrent = kernel.T, recurrent.T
    two = None if bias is None else bias.reshape(2, -1)
    if op == "LSTM":
        kernel, recurrent = reordered(kernel, _LSTM_ORDER), reordered(recurrent, _LSTM_ORDER)
        whole = None if two is None else reordered(added(*two), _LSTM_ORDER)
        gate, cell, output = functions
        return L.LSTM(kernel, recurrent, whole, cell, gate_activation=gate, output_activation=output)
    if op == "GRU":
        after = bool(ctx.attr("linear_before_reset", 0))
        whole = None if two is None else two if after else added(*two)
        return L.GRU(kernel, recurrent, whole, functions[1], gate_activation=functions[0], reset_after=after)
    return L.SimpleRNN(kernel, recurrent, None if two is None else added(*two), functions[0])


def _refuse_settings(ctx: NodeContext) -> None:
    """Settings that no layer of lrpfast has, by their names."""
    if ctx.attr("clip") is not None:
        raise ctx.unsupported("clips what its gates get (clip)", "Export the model without it")
    if ctx.attr("input_forget", 0):
        raise ctx.unsupported("couples its input and forget gates (input_forget)", "Export the model without it")
    if ctx.node.op == "LSTM" and ctx.has(7) and ctx.const(7, "P").any():
        raise ctx.unsupported("has peepholes (P)", "Export the model without them")


def _states(ctx: NodeContext, names: Sequence[str], ways: int, layout: int) -> list[dict[str, Any]]:
    """For each direction: constant states by their fields' names, and, under "", the nodes of states."""
    result: list[dict[str, Any]] = [{} for _ in range(ways)]
    inputs = [ctx.args[5 + i] if ctx.has(5 + i) else None for i in range(len(names))]
    values = [ctx.value(5 + i) for i, arg in enumerate(inputs) if arg is not None and not isinstance(arg, FoldedValue)]
    like = values[0] if values else None
    for i, name in enumerate(names):
        arg = inputs[i]
        if arg is not None and not isinstance(arg, FoldedValue):
            value = ctx.value(5 + i)
            if value.batch != (FIRST if layout else BatchAxis(1)):
                raise ctx.unsupported(f"begins with {name} whose batch axis is {value.batch.position}")
            nodes = state_rows(ctx.builder, value, ways)
        else:
            array = None if arg is None else _constant(ctx, arg, layout)
            if like is None:
                for way in range(ways) if array is not None else ():
                    result[way][name] = array[way]  # type: ignore[index]
                continue
            rows = np.zeros((ways, like.shape[-1] or 1)) if array is None else array
            nodes = [
                constant_row(ctx.builder, at, row)
                for at, row in zip(state_rows(ctx.builder, like, ways), rows, strict=True)
            ]
        for way, at in enumerate(nodes):
            result[way].setdefault("", []).append(at)
    return result


def _constant(ctx: NodeContext, known: FoldedValue, layout: int) -> np.ndarray | None:
    """An initial state that is the same for every sample, as (directions, units); None for zeros."""
    arrays = [np.moveaxis(a, 0, 1) if layout else a for a in (known.first, known.second)]
    row = arrays[0][:, :1]
    if arrays[0].ndim != 3 or any(a.shape[::2] != row.shape[::2] or not (a == row).all() for a in arrays):
        raise ctx.unsupported("begins with states that differ between samples", "Give the states as an input")
    return row[:, 0] if row.any() else None


def _length(ctx: NodeContext, steps: int | None) -> int | None:
    """How many of the steps count; None for all."""
    if not ctx.has(4):
        return None
    known = ctx.args[4]
    if not isinstance(known, FoldedValue):
        raise ctx.unsupported("takes the number of steps of each sample (sequence_lens)", "Give all samples all steps")
    lengths = np.unique(np.concatenate([known.first.ravel(), known.second.ravel()]))
    if len(lengths) != 1 or not steps or not 0 < lengths[0] <= steps:
        raise ctx.unsupported(f"goes through sequences of {lengths.tolist()} of {steps} steps", "Give all all steps")
    return None if lengths[0] == steps else int(lengths[0])


def _recurrent(ctx: NodeContext) -> list[Any]:
    op, layout = ctx.node.op, ctx.attr("layout", 0)
    backwards = _WAYS.get(str(ctx.attr("direction", "forward")).lower())
    if backwards is None:
        raise ModelFormatError(f"its direction is {ctx.attr('direction')!r}")
    _refuse_settings(ctx)
    ways = len(backwards)
    x = ctx.value()
    if len(x.shape) == 2 and not layout and x.batch == FIRST:
        raise ctx.unsupported(
            "goes through the samples as if they were time steps: the file's first axis is both",
            "Samples must not be mixed. Export the model with a batch axis of its own, (steps, batch, features)",
        )
    if len(x.shape) != 2 or x.batch != (FIRST if layout else BatchAxis(1)):
        raise ctx.unsupported(
            f"takes a tensor whose batch axis is {x.batch.position} of {x.rank}, where layout is {layout}",
            "Samples must not be mixed",
        )
    w, r = ctx.const(1, "W"), ctx.const(2, "R")
    b = ctx.maybe(3, "B")
    units, features = r.shape[-1], x.shape[1]
    expected = ((ways, _GATES[op] * units, features), (ways, _GATES[op] * units, units))
    if (w.shape, r.shape) != expected or ctx.attr("hidden_size", units) != units:
        raise ShapeError(f"its W and R have shapes {w.shape} and {r.shape}; its input asks for {expected}")
    functions = _activations(ctx, ways)
    t = ctx.builder.plain(x)
    steps = checked_steps(t.shape, "")
    length = _length(ctx, steps)
    if length is not None:
        t = ctx.builder.plain(take(ctx.builder, t, 0, range(length)))
    names = ("initial_h", "initial_c") if op == "LSTM" else ("initial_h",)
    directions = []
    for i, own in enumerate(_states(ctx, names, ways, layout)):
        nodes = tuple(own.pop("", ()))
        cell = _layer(ctx, (w[i], r[i], None if b is None else b[i]), functions[i])
        flags = {"go_backwards": backwards[i], "takes_state": bool(nodes), **own}
        directions.append(Direction(replace(cell, **flags), nodes, ("forward", "backward")[i] if ways == 2 else ""))
    used = {i for i, name in enumerate(ctx.node.outputs) if name}
    results = [name for i, name in enumerate((SEQUENCE, HIDDEN, CELL)) if i in used]
    return _outputs(ctx, directions, t, (length, steps), results, layout)


def _outputs(
    ctx: NodeContext,
    directions: Sequence[Direction],
    t: Tensor,
    lengths: tuple[int | None, int | None],
    results: Sequence[str],
    layout: int,
) -> list[Any]:
    """Y, Y_h and Y_c, where they are used."""
    builder, ways, units = ctx.builder, len(directions), directions[0].layer.units
    length, steps = lengths
    sequence, ends = lay_out_all(builder.add, directions, t.node, steps if length is None else length, results)
    outputs: list[Any] = [None]
    if sequence is not None:
        flat = Tensor(sequence, tuple(builder.shapes[sequence]), (0, 1), t.batch)
        y: Any = flat
        if length is not None and steps is not None:
            y = pad(builder, flat, {0: (0, steps - length)}, "constant")
        outputs = [builder.reshape(y, (y.shape[0], ways, units), FIRST if layout else BatchAxis(2))]
    for name in (HIDDEN, CELL)[: 2 if ctx.node.op == "LSTM" else 1]:
        nodes = [end[name] for end in ends if name in end]
        outputs.append(stacked_states(builder, nodes, FIRST if layout else BatchAxis(1)) if nodes else None)
    return outputs


#: How each operator is built.
RECURRENT: dict[str, Callable[[NodeContext], Any]] = {"LSTM": _recurrent, "GRU": _recurrent, "RNN": _recurrent}
