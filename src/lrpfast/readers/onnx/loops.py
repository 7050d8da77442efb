"""Loops that are recurrent layers: what tf2onnx makes of a Keras layer that has no operator of its own.

The body of such a loop is one step of a cell, and its weights are constants. What the loop computes of random numbers
in double precision is compared with what a layer of these weights computes; where it is the same, the layer stands for
the loop.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import LrpfastError
from ...model import layers as L
from ..batch_axis import BatchAxis
from ..candidates import candidates
from ..channels_first import Builder, Tensor
from ..forward import agrees, forward
from ..masks import Condition
from ..recurrent import CELL, HIDDEN, SEQUENCE, lay_out
from .file import Branch, Node
from .fold import FOLDED, FoldedValue, evaluate

#: Samples that are compared, and the most steps.
_SAMPLES, _MOST_STEPS = 3, 2000


def recurrent_loop(node: Node, graph: Branch, values: Mapping[str, Any], builder: Builder) -> list[Any] | None:
    """The results of a Loop that is a recurrent layer; None where it is none.

    Parameters
    ----------
    node : Node
    graph : Branch
        Its body.
    values : mapping
        What is known and computed outside, by name.
    builder : Builder
    """
    outside = [name for name in graph.outer if isinstance(values.get(name), Tensor)]
    masks = [name for name in graph.outer if isinstance(values.get(name), Condition)]
    own = node.inputs[2 : len(node.inputs) - len(graph.outer)]
    state: list[Any] = [values.get(name) for name in own]
    known = {name: values[name] for name in graph.outer if isinstance(values.get(name), FoldedValue)}
    if len(outside) != 1 or len(masks) > 1 or not all(isinstance(item, FoldedValue) for item in state):
        return None
    x, mask = values[outside[0]], values[masks[0]] if masks else None
    if len(x.shape) != 2 or x.batch != BatchAxis(1) or None in x.shape or x.shape[0] > _MOST_STEPS:
        return None
    if mask is not None and (mask.expanded or mask.tensor.batch != x.batch or mask.tensor.shape != (x.shape[0], 1)):
        return None
    rng = np.random.default_rng(0)
    numbers, counts = rng.normal(size=(x.shape[0], _SAMPLES, x.shape[1])), rng.integers(0, 2, (x.shape[0], _SAMPLES))
    arrays = [_few(item) for item in state]
    environment = {name: _few(item) for name, item in known.items()} | dict(graph.constants) | {outside[0]: numbers}
    if mask is not None:
        flags = np.where(counts, mask.true, mask.false)[:, :, None]
        environment[masks[0]] = flags.astype(bool) if mask.boolean else flags
    try:
        results = _run(graph, arrays, environment)
    except LrpfastError:
        return None
    if results is None:
        return None
    others = {outside[0], *masks}
    arrays += [array for name, array in environment.items() if name not in others]
    constants = [array for array in arrays if array.ndim in (1, 2) and array.size > 1]
    for cell in _candidates(constants, x.shape[1]):
        for zero in (False, True) if mask is not None else (False,):
            layer = replace(cell, takes_mask=mask is not None, zero_masked=zero)
            expected = _expected(layer, np.swapaxes(numbers, 0, 1), counts.T)
            names = [_name(result, expected) if use else "" for result, use in zip(results, node.outputs, strict=False)]
            if None not in names and any(names):
                return _laid_out(builder, layer, (x, mask), [str(name) for name in names])
    return None


def _few(item: FoldedValue) -> np.ndarray:
    """A constant for a few samples, in double precision; where it depends on the batch, its first axis is that."""
    array = item.first if item.fixed else item.first[:_SAMPLES]
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _run(graph: Branch, state: list[np.ndarray], known: Mapping[str, np.ndarray]) -> list[np.ndarray] | None:
    """What the loop computes: the final states, and what it collects; None where an operator is of no use here."""
    if any(inner.op not in FOLDED for inner in graph.nodes):
        return None
    collected: list[list[np.ndarray]] = []
    for number in range(_MOST_STEPS + 1):
        own = dict(zip(graph.inputs, [np.array(number), np.array(True), *state], strict=False))
        inner = {**known, **own}
        for step in graph.nodes:
            results = evaluate(step, [inner[name] if name else None for name in step.inputs])
            inner.update(zip(step.outputs, map(_double, results), strict=False))
        outputs = [inner[name] for name in graph.outputs]
        state, rest = outputs[1 : 1 + len(state)], outputs[1 + len(state) :]
        collected.append(rest)
        if not bool(outputs[0]):
            return [*state, *(np.stack(items) for items in zip(*collected, strict=True))]
    return None


def _double(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _candidates(constants: Sequence[np.ndarray], features: int | None) -> Iterator[Any]:
    """Layers that the constants may be the weights of."""
    vectors = [array for array in constants if array.ndim == 1]
    for kernel, recurrent in itertools.permutations([array for array in constants if array.ndim == 2], 2):
        if kernel.shape[0] == features:
            yield from candidates(kernel, recurrent, vectors)


def _expected(layer: Any, x: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """The layer's results; ``counts`` says which of the steps do, where the layer takes a mask."""
    sequence, *states = forward(layer, x, mask=counts if layer.takes_mask else None)
    if layer.zero_masked:
        sequence = sequence * counts[:, :, None]
    return {SEQUENCE: np.swapaxes(sequence, 0, 1), **dict(zip((HIDDEN, CELL), states, strict=False))}


def _name(result: np.ndarray, expected: Mapping[str, np.ndarray]) -> str | None:
    """Which of the layer's results a result is."""
    return next((name for name, array in expected.items() if agrees(result, array)), None)


def _laid_out(builder: Builder, layer: Any, inputs: tuple[Tensor, Condition | None], names: Sequence[str]) -> list[Any]:
    x, mask = inputs
    t = builder.plain(x)
    nodes = [t.node]
    if mask is not None:
        nodes.append(builder.add(L.Flatten(), builder.plain(mask.truth(builder)).node, part="mask"))
    results = lay_out(builder.add, layer, nodes, t.shape[0], [n for n in (SEQUENCE, HIDDEN, CELL) if n in names])
    units = layer.units
    tensors: dict[str, Any] = {
        name: Tensor(node, (t.shape[0], units), (0, 1), BatchAxis(1))
        if name == SEQUENCE
        else Tensor(node, (units,), (0,))
        for name, node in results.items()
    }
    return [tensors.get(name) for name in names]
