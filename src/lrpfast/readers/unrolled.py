"""Recurrent layers that a model writes out step by step, as the layers that they are.

PyTorch's exporters unroll nn.RNN, LSTMs are written by hand, and Keras has ``unroll=True``. Such a model multiplies by
the same recurrent kernel again and again, each time what its gates made of the product before. What it computes of a
random sequence, in double precision, is compared with what a layer of these weights computes. Where that accounts for
all values that the rest of the model uses, the layer takes their place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..model import layers as L
from ..model.layers import Layer, Shape
from .candidates import candidates
from .forward import FUNCTIONS, agrees, forward
from .recurrent import CELL, HIDDEN, SEQUENCE, lay_out

Node = tuple[Layer, tuple[int, ...]]

#: Layers that move values between a sequence and the rows that its steps take.
_MOVES = (L.Crop, L.Take, L.Flatten, L.Reshape, L.Permute, L.Identity)
#: Samples that are compared, and the most steps.
_SAMPLES, _MOST_STEPS = 3, 2000
#: The most numbers that all steps may compute: a file that asks for more is read as it is.
_MOST_VALUES = 1 << 26
#: The h of a step that is not the last.
_ROW = "row"


@dataclass(frozen=True)
class _Source:
    """A node that holds a sequence: its steps lie along one axis, the features of a step along all others."""

    node: int
    shape: tuple[int, ...]
    axis: int

    @property
    def steps(self) -> int:
        return self.shape[self.axis]

    @property
    def order(self) -> tuple[int, ...]:
        """The axes, that of the steps first."""
        return (self.axis, *(a for a in range(len(self.shape)) if a != self.axis))

    def values(self, x: np.ndarray) -> np.ndarray:
        """What the node holds where the sequence is x: (samples, steps, features)."""
        first = x.reshape(len(x), *(self.shape[a] for a in self.order))
        return np.moveaxis(first, 1, self.axis + 1)

    def sequence(self, new: _Rebuilt, node: int) -> int:
        """The node of the sequence (steps, features) in a new graph."""
        if self.axis:
            node = new.add(L.Permute(self.order), node, part="steps")
        features = math.prod(self.shape) // self.steps
        return node if len(self.shape) == 2 else new.add(L.Reshape((self.steps, features)), node, part="rows")


@dataclass(frozen=True)
class _Chain:
    """Products by one recurrent kernel, each of what became of the one before, and where the sequence may come from."""

    products: tuple[int, ...]
    recurrent: np.ndarray
    kernel: np.ndarray
    sources: tuple[_Source, ...]

    @property
    def scaled(self) -> np.ndarray:
        """The recurrent kernel at a size at which rounding does not grow from step to step: to compare with."""
        norm = float(np.linalg.norm(self.recurrent.astype(np.float64), 2))
        return self.recurrent / np.float64(max(norm, 1.0))


def _dense(node: Node) -> np.ndarray | None:
    """The kernel of a product; None for any other layer."""
    layer = node[0]
    return layer.kernel if isinstance(layer, L.Dense) and layer.activation is None else None


class _Graph:
    """The nodes of a model, whose recurrent layers are replaced one by one."""

    def __init__(self, nodes: Sequence[Node], shapes: Sequence[Shape], outputs: Sequence[int]) -> None:
        self.nodes, self.shapes, self.outputs = list(nodes), list(shapes), list(outputs)

    def groups(self) -> Iterator[list[int]]:
        """Products by the same kernel that may be a recurrent one, in order."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for i, node in enumerate(self.nodes):
            kernel = _dense(node)
            if kernel is not None and kernel.shape[1] in [n * len(kernel) for n in (1, 3, 4)]:
                groups.setdefault((kernel.shape, kernel[:1].tobytes()), []).append(i)
        for group in groups.values():
            first: Any = _dense(self.nodes[group[0]])
            same = [i for i in group if np.array_equal(first, _dense(self.nodes[i]))]  # type: ignore[arg-type]
            if 2 <= len(same) <= _MOST_STEPS:
                yield same

    def chain(self, group: Sequence[int]) -> _Chain | None:
        """The products as a chain; None where the last does not depend on all the others."""
        met, others, visited = {group[-1]}, set[int](), set[int]()
        pending = list(self.nodes[group[-1]][1])
        while pending:
            i = pending.pop()
            if i in visited:
                continue
            visited.add(i)
            if i in group:
                met.add(i)
            elif _dense(self.nodes[i]) is not None:
                others.add(i)
                continue
            pending.extend(self.nodes[i][1])
        kernels = [_dense(self.nodes[i]) for i in others]
        recurrent = _dense(self.nodes[group[0]])
        if len(met) < len(group) or not kernels or recurrent is None or not np.isfinite(recurrent).all():
            return None
        kernel: Any = kernels[0]
        if kernel.shape[1] != recurrent.shape[1] or not all(np.array_equal(kernel, k) for k in kernels):  # type: ignore[arg-type]
            return None
        paths = [list(self._upstream(self.nodes[i][1][0])) for i in others]
        shared = [i for i in paths[0] if all(i in path for path in paths)]
        sources = [source for i in shared for source in self._sources(i, len(kernel))]
        return _Chain(tuple(group), recurrent, kernel, tuple(sources))

    def _sources(self, i: int, features: int) -> Iterator[_Source]:
        """The sequences of so many features that a node may hold."""
        shape = tuple(n for n in self.shapes[i] if n is not None)
        if len(shape) < len(self.shapes[i]) or len(shape) < 2:
            return
        for axis, steps in enumerate(shape):
            if 2 <= steps <= _MOST_STEPS and math.prod(shape) == steps * features:
                yield _Source(i, shape, axis)

    def _upstream(self, i: int) -> Iterator[int]:
        """The nodes that a node's values come from by moves alone, itself first."""
        yield i
        while isinstance(self.nodes[i][0], _MOVES):
            (i,) = self.nodes[i][1]
            yield i

    def used(self, known: Mapping[int, Any]) -> set[int]:
        """The nodes that the outputs need where some are known."""
        pending, used = list(self.outputs), set[int]()
        while pending:
            i = pending.pop()
            if i not in used:
                used.add(i)
                pending.extend(self.nodes[i][1] if i not in known else ())
        return used


@dataclass(frozen=True)
class _Result:
    """What a node is: a result of the layer, or the h of one step."""

    kind: str
    step: int = 0


def fuse_recurrent(
    nodes: Sequence[Node], shapes: Sequence[Shape], outputs: Sequence[int]
) -> tuple[list[Node], list[Shape], list[int]]:
    """The nodes, their shapes and the outputs, with a layer for all steps of each recurrent layer written out."""
    graph, rest = _Graph(nodes, shapes, outputs), 0
    while True:
        groups = list(graph.groups())[rest:]
        if not groups:
            return graph.nodes, graph.shapes, graph.outputs
        chain = graph.chain(groups[0])
        replaced = next(filter(None, (_recognised(graph, chain, i) for i in chain.sources)), None) if chain else None
        if replaced is None:
            rest += 1
        else:
            graph = replaced


def _recognised(graph: _Graph, chain: _Chain, source: _Source) -> _Graph | None:
    """The graph with a layer in the place of the steps, which take their rows from one node."""
    x = np.random.default_rng(0).normal(size=(_SAMPLES, source.steps, len(chain.kernel)))
    values = _values(graph, chain, source.node, source.values(x))
    if chain.products[-1] not in values:
        return None
    del values[source.node]
    numbers = np.sort(np.concatenate([value.ravel() for value in values.values()]))
    biases = _biases(graph, chain, values)
    cells = zip(*(candidates(chain.kernel, array, biases) for array in (chain.recurrent, chain.scaled)), strict=True)
    for (cell, scaled), backwards in itertools.product(cells, (False, True)):
        compared = replace(scaled, go_backwards=backwards)
        if not _begins(compared, x, numbers):
            continue
        results = _results(compared, x, values)
        used = graph.used(results)
        if results and used.isdisjoint(chain.products):
            results = {i: result for i, result in results.items() if i in used}
            return _replaced(graph, chain, source, replace(cell, go_backwards=backwards), results)
    return None


def _values(graph: _Graph, chain: _Chain, source: int, x: np.ndarray) -> dict[int, np.ndarray]:
    """What the nodes compute of a sequence, as far as the steps alone decide it."""
    values, scaled, size = {source: x}, chain.scaled, 0
    for i, (layer, inputs) in enumerate(graph.nodes):
        if size > _MOST_VALUES:
            return {source: x}
        if i in values or not inputs or any(j not in values for j in inputs):
            continue
        args = [values[j] for j in inputs]
        kernel = _dense(graph.nodes[i])
        if kernel is not None:
            pairs = ((chain.recurrent, scaled), (chain.kernel, chain.kernel))
            weights = next((use for own, use in pairs if np.array_equal(kernel, own)), None)
            if weights is not None:
                bias = layer.bias  # type: ignore[attr-defined]
                size += len(x) * math.prod(graph.shapes[i])  # type: ignore[arg-type]
                values[i] = args[0] @ weights.astype(np.float64) + (0.0 if bias is None else bias)
            continue
        compute = _COMPUTED.get(type(layer))
        value = None if compute is None else compute(layer, args)
        if value is not None:
            values[i] = value
            size += value.size
    return values


def _activation(layer: Any, args: list[np.ndarray]) -> np.ndarray | None:
    function = FUNCTIONS.get(layer.function)
    plain = function is not None and layer.parameters == L.Activation(layer.function).parameters
    return function(args[0]) if function is not None and plain else None


def _crop(layer: Any, args: list[np.ndarray]) -> np.ndarray:
    (x,) = args
    margins = [(0, 0), *layer.pairs]
    return x[tuple(slice(a, n - b) for n, (a, b) in zip(x.shape, margins, strict=False))]


def _take(layer: Any, args: list[np.ndarray]) -> np.ndarray:
    (x,) = args
    for axis, index in enumerate(layer.places):
        x = x if index is None else np.take(x, index, axis + 1)
    return x


def _add(layer: Any, args: list[np.ndarray]) -> np.ndarray:
    total: np.ndarray = np.sum(np.broadcast_arrays(*args), axis=0)
    return total


#: What layers compute of arrays with the samples first; None where it is no function of those in `FUNCTIONS`.
_COMPUTED: dict[type[Layer], Callable[[Any, list[np.ndarray]], np.ndarray | None]] = {
    L.Identity: lambda layer, args: args[0],
    L.Activation: _activation,
    L.Crop: _crop,
    L.Take: _take,
    L.Flatten: lambda layer, args: args[0].reshape(len(args[0]), -1),
    L.Reshape: lambda layer, args: args[0].reshape(len(args[0]), *layer.shape),
    L.Permute: lambda layer, args: args[0].transpose(0, *(a + 1 for a in layer.axes)),
    L.BatchNorm: lambda layer, args: args[0] * layer.factor() + layer.offset(),
    L.Concat: lambda layer, args: np.concatenate(args, layer.axis + 1 if layer.axis >= 0 else layer.axis),
    L.Add: _add,
    L.Subtract: lambda layer, args: args[0] - args[1],
    L.Multiply: lambda layer, args: np.prod(np.broadcast_arrays(*args), axis=0),
}


def _biases(graph: _Graph, chain: _Chain, values: Mapping[int, Any]) -> list[np.ndarray]:
    """Vectors of as many values as the kernels have columns, that are added to what the steps compute."""
    result: dict[bytes, np.ndarray] = {}
    for i in values:
        layer: Any = graph.nodes[i][0]
        bias = layer.offset() if isinstance(layer, L.BatchNorm) else getattr(layer, "bias", None)
        if bias is not None and bias.size == chain.kernel.shape[1] and bias.any():
            bias = np.asarray(bias, np.float64).ravel()
            result.setdefault(bias.tobytes(), bias)
    return list(result.values())


def _begins(layer: Any, x: np.ndarray, numbers: np.ndarray) -> bool:
    """Whether the h of a layer's first two steps are among the numbers (in order): most layers need no more steps."""
    sequence, *_ = forward(layer, x[:, -2:] if layer.go_backwards else x[:, :2])
    h = sequence[0].ravel()
    tolerance = 1e-9 * np.abs(sequence).max()
    return bool((np.searchsorted(numbers, h + tolerance) > np.searchsorted(numbers, h - tolerance)).all())


def _results(layer: Any, x: np.ndarray, values: Mapping[int, np.ndarray]) -> dict[int, _Result]:
    """Which nodes are results of a layer."""
    sequence, *states = forward(layer, x)
    units, firsts = layer.units, sequence[0, :, 0]
    finals = dict(zip((HIDDEN, CELL), states, strict=False))
    results: dict[int, _Result] = {}
    for i, value in values.items():
        shape = tuple(n for n in value.shape[1:] if n != 1)
        if shape == tuple(n for n in sequence.shape[1:] if n != 1) and agrees(value.reshape(sequence.shape), sequence):
            results[i] = _Result(SEQUENCE)
        if value.size != _SAMPLES * units:
            continue
        rows = value.reshape(_SAMPLES, units)
        kind = next((kind for kind, state in finals.items() if agrees(rows, state)), None)
        near = np.abs(firsts - rows[0, 0]) <= 1e-9 * np.abs(rows).max()
        steps = [step for step in np.flatnonzero(near) if kind is None and agrees(rows, sequence[:, step])]
        if kind or steps:
            results[i] = _Result(kind or _ROW, int(steps[0]) if steps else 0)
    return results


class _Rebuilt:
    """The nodes of a new graph, and which of them stand for the old ones."""

    def __init__(self, graph: _Graph, stem: str) -> None:
        self.nodes: list[Node] = []
        self.shapes: list[Shape] = []
        self.number: dict[int, int] = {}
        self._stem, self._names = stem, {str(layer.name) for layer, _ in graph.nodes}
        self._names.discard(stem)
        self._outputs: set[int] = set()

    def append(self, layer: Layer, *inputs: int) -> int:
        self.nodes.append((layer, inputs))
        self.shapes.append(layer.output_shape(*(self.shapes[j] for j in inputs)))
        return len(self.nodes) - 1

    def add(self, layer: Layer, *inputs: int, part: str = "") -> int:
        """Add a layer under a name that no other has."""
        stem = name = "/".join(filter(None, [self._stem, part]))
        count = 0
        while name in self._names:
            count += 1
            name = f"{stem}_{count}"
        self._names.add(name)
        return self.append(replace(layer, name=name), *inputs)

    def renamed(self, at: int, name: str) -> int:
        """The node under an output's name; another node where it is an output already."""
        if at in self._outputs:
            return self.append(L.Identity(name=name), at)
        self._outputs.add(at)
        layer, inputs = self.nodes[at]
        self.nodes[at] = (replace(layer, name=name), inputs)
        return at


def _replaced(graph: _Graph, chain: _Chain, source: _Source, layer: Any, results: Mapping[int, _Result]) -> _Graph:
    """The graph whose results come from the layer."""
    needed = graph.used({**results, source.node: None}) | {source.node}
    pending = [source.node]
    while pending:
        inputs = graph.nodes[pending.pop()][1]
        pending.extend(j for j in inputs if j not in needed)
        needed.update(inputs)
    new = _Rebuilt(graph, str(graph.nodes[chain.products[0]][0].name))
    rows: dict[_Result, int] = {}
    for i, (old, inputs) in enumerate(graph.nodes):
        if i in results and i in needed:
            at, shape = rows[results[i]], graph.shapes[i]
            if new.shapes[at] != shape:
                at = new.append(L.Reshape(shape, name=old.name), at)  # type: ignore[arg-type]
            elif i in graph.outputs:
                at = new.renamed(at, str(old.name))
            new.number[i] = at
        elif i in needed:
            new.number[i] = new.append(old, *(new.number[j] for j in inputs))
        if i == source.node:
            rows = _laid_out(new, layer, source.sequence(new, new.number[i]), source.steps, set(results.values()))
    return _Graph(new.nodes, new.shapes, [new.number[i] for i in graph.outputs])


def _laid_out(new: _Rebuilt, layer: Any, source: int, steps: int, results: set[_Result]) -> dict[_Result, int]:
    """The nodes of a layer's results."""
    kinds = {SEQUENCE if result.kind == _ROW else result.kind for result in results}
    nodes = lay_out(new.add, layer, (source,), steps, [kind for kind in (SEQUENCE, HIDDEN, CELL) if kind in kinds])
    rows = {}
    for result in sorted(results, key=lambda result: (result.kind, result.step)):
        if result.kind == _ROW:
            row = new.add(L.Crop(((result.step, steps - 1 - result.step),)), nodes[SEQUENCE], part="row")
            rows[result] = new.add(L.Flatten(), row, part="h")
        else:
            rows[result] = nodes[result.kind]
    return rows
