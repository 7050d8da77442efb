"""Recurrent layers that a graph writes out step by step, as one node again.

PyTorch's exporter unrolls nn.RNN, Keras does with ``unroll=True``. Such a graph multiplies by the same recurrent
kernel again and again, each time what came of the last product. What it computes of a random sequence, in double
precision, is compared with what a layer of these weights computes; where that explains all values which the rest of
the graph uses, one node stands for the steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import LrpfastError
from ...model import layers as L
from ..batch_axis import FIRST, BatchAxis
from ..channels_first import Builder, Tensor
from ..forward import agrees, forward
from ..recurrent import CELL, HIDDEN, SEQUENCE, lay_out
from .candidates import candidates
from .file import File, Node
from .fold import FOLDED, evaluate

#: Operators that move values between a sequence and the rows that its steps take.
_MOVES = ("Slice", "Gather", "Split", "Squeeze", "Unsqueeze", "Transpose", "Reshape", "Identity")
#: Operators whose results are numbers of axes alone.
_SIZES = ("Shape", "Size")
#: The most steps that are compared.
_MOST_STEPS = 2000

#: The node that stands for all steps.
UNROLLED = "Unrolled*"
#: The h of a step that is not the last.
_ROW = "row"
#: Axes that results may have: b for the batch, s for the steps, of which there may be one, and u for the units.
_SHAPES = ("bu", "sbu", "bsu")


@dataclass(frozen=True)
class _Result:
    """What one value of the graph is: a result of the layer, or the h of one step, and its axes in the file."""

    kind: str
    axes: str
    step: int = 0


@dataclass(frozen=True)
class _Chain:
    """Products by one recurrent kernel, each of what came of the one before, and those that bring in the sequence."""

    nodes: list[Node]
    recurrent: np.ndarray
    kernel: np.ndarray
    sources: list[str]
    others: list[Node]

    @property
    def scaled(self) -> np.ndarray:
        """The recurrent kernel at a size at which rounding does not grow from step to step: to compare with."""
        norm = float(np.linalg.norm(self.recurrent, 2))
        return self.recurrent / np.float64(max(norm, 1.0))


class _Graph:
    """A file's nodes, as they are while more and more of them are replaced."""

    def __init__(self, file: File, constants: Mapping[str, np.ndarray]) -> None:
        self.file, self.constants, self.nodes = file, constants, list(file.nodes)
        self.producer = {name: node for node in self.nodes for name in node.outputs if name}
        self._weights: dict[str, np.ndarray | None] = {}

    def weight(self, node: Node) -> np.ndarray | None:
        """The constant matrix that a node multiplies rows by; None where it does not."""
        key = node.outputs[0]
        if key not in self._weights:
            self._weights[key] = self._weight(node)
        return self._weights[key]

    def _weight(self, node: Node) -> np.ndarray | None:
        if node.op not in ("MatMul", "Gemm") or node.inputs[0] in self.constants:
            return None
        array = self.constants.get(node.inputs[1])
        if array is None or array.ndim != 2 or array.dtype.kind != "f":
            return None
        if node.op == "MatMul":
            return array
        plain = node.attributes.get("alpha", 1.0) == node.attributes.get("beta", 1.0) == 1
        plain = plain and not node.attributes.get("transA", 0)
        return (array.T if node.attributes.get("transB", 0) else array) if plain else None

    def upstream(self, name: str) -> Iterator[str]:
        """The values that a value is made of by moves alone, itself first."""
        while True:
            yield name
            node = self.producer.get(name)
            if node is None or node.op not in _MOVES or node.inputs[0] in self.constants:
                return
            name = node.inputs[0]

    def replace(self, new: Node, after: str) -> None:
        """A node for the values that it makes, behind the one that makes its input."""
        results = set(new.outputs)
        nodes = []
        for node in self.nodes:
            if results.isdisjoint(node.outputs):
                nodes.append(node)
            elif not results.issuperset(filter(None, node.outputs)):
                nodes.append(replace(node, outputs=tuple("" if name in results else name for name in node.outputs)))
        at = next((i + 1 for i, node in enumerate(nodes) if after in node.outputs), 0)
        self.nodes = [*nodes[:at], new, *nodes[at:]]
        self.producer = {name: node for node in self.nodes for name in node.outputs if name}


def rolled_up(file: File, constants: Mapping[str, np.ndarray]) -> list[Node]:
    """The file's nodes, with one for all steps of each recurrent layer that they write out."""
    graph = _Graph(file, constants)
    groups: dict[tuple[Any, ...], list[Node]] = {}
    for node in graph.nodes:
        weight = graph.weight(node)
        if weight is not None and len(weight) and weight.shape[1] in [n * len(weight) for n in (1, 3, 4)]:
            groups.setdefault((weight.shape, weight[:1].tobytes()), []).append(node)
    for group in groups.values():
        group = [node for node in group if np.array_equal(graph.weight(node), graph.weight(group[0]))]  # type: ignore[arg-type]
        chain = _chain(graph, group) if 2 <= len(group) <= _MOST_STEPS else None
        for source in chain.sources if chain else ():
            new = _recognised(graph, chain, source)  # type: ignore[arg-type]
            if new is not None:
                graph.replace(new, source)
                break
    return graph.nodes


def _chain(graph: _Graph, group: list[Node]) -> _Chain | None:
    """Where the last of some products by one matrix depends on all the others; None where it does not."""
    own, met, others = {node.outputs[0] for node in group}, {group[-1].outputs[0]}, dict[str, Node]()
    pending, visited = [group[-1].inputs[0]], set[str]()
    while pending:
        name = pending.pop()
        node = graph.producer.get(name)
        if node is None or name in visited or node.op in _SIZES:
            continue
        visited.add(name)
        if node.outputs[0] in own:
            met.add(node.outputs[0])
        elif graph.weight(node) is not None:
            others[node.outputs[0]] = node
            continue
        pending.extend(name for name in node.inputs if name and name not in graph.constants)
    recurrent = graph.weight(group[0])
    kernels = [graph.weight(node) for node in others.values()]
    if met != own or recurrent is None or not kernels or kernels[0] is None or not np.isfinite(recurrent).all():
        return None
    if any(k is None or not np.array_equal(k, kernels[0]) for k in kernels) or (
        kernels[0].shape[1] != recurrent.shape[1]
    ):
        return None
    paths = [list(graph.upstream(node.inputs[0])) for node in others.values()]
    sources = [name for name in paths[0] if all(name in path for path in paths)]
    return _Chain(group, recurrent, kernels[0], sources, list(others.values()))


def _recognised(graph: _Graph, chain: _Chain, source: str) -> Node | None:
    """The node that stands for the steps, which take their rows from one value of the graph."""
    products = {node.outputs[0] for node in chain.nodes}
    for steps, batch_first in _layouts(graph, chain, source):
        samples = 3 if steps != 3 else 4  # so that no two axes are taken for each other
        x = np.random.default_rng(0).normal(size=(samples, steps, len(chain.kernel)))
        values = _values(graph, chain, source, x, batch_first)
        if chain.nodes[-1].outputs[0] not in values:
            continue
        computed = {name: value for name, value in values.items() if value.dtype.kind == "f" and name != source}
        numbers = np.sort(np.concatenate([value.ravel() for value in computed.values()]))
        biases = _biases(graph, chain, values)
        cells = zip(
            *(candidates(chain.kernel, array, biases) for array in (chain.recurrent, chain.scaled)), strict=True
        )
        for (cell, scaled), backwards in itertools.product(cells, (False, True)):
            layer, compared = (replace(c, go_backwards=backwards) for c in (cell, scaled))
            if not _begins(compared, x, numbers):
                continue
            results = _results(compared, x, computed)
            used = _used(graph, results) if results else products
            if used.isdisjoint(products):
                attributes = {
                    "layer": layer,
                    "shape": (steps, len(chain.kernel)),
                    "batch": FIRST if batch_first else BatchAxis(1),
                    "results": [results[name] for name in results if name in used],
                    "nodes": [node for node in graph.nodes if not computed.keys().isdisjoint(node.outputs)],
                }
                outputs = tuple(name for name in results if name in used)
                first = chain.nodes[0]
                return replace(
                    first, op=UNROLLED, inputs=(source,), outputs=outputs, attributes=attributes, written=first.op
                )
    return None


def _layouts(graph: _Graph, chain: _Chain, source: str) -> Iterable[tuple[int, bool]]:
    """How many steps a sequence may have, and whether the batch is its first axis."""
    for item in graph.file.inputs:
        if item.name == source:
            steps = item.sample[0] if len(item.sample) == 2 else None
            return [(steps, True)] if steps is not None and steps <= _MOST_STEPS else []
    count = len(chain.nodes)  # one less where the first state is 0 and its product is left out
    return itertools.product((count, count + 1), (True, False))


def _values(graph: _Graph, chain: _Chain, source: str, x: np.ndarray, batch_first: bool) -> dict[str, np.ndarray]:
    """What the graph computes of a sequence, as far as the steps alone decide it."""
    shapes = {item.name: (len(x), *item.sample) for item in graph.file.inputs}
    constants, scaled = graph.constants, chain.scaled
    values: dict[str, np.ndarray] = {source: x if batch_first else np.swapaxes(x, 0, 1)}
    for node in graph.nodes:
        if node.outputs[0] in values or node.outputs[0] in constants:
            continue
        shape = shapes.get(node.inputs[0]) if node.op == "Shape" else None
        if shape is not None and None not in shape and node.inputs[0] != source:
            begin, end = node.attributes.get("start", 0), node.attributes.get("end", len(shape))
            values[node.outputs[0]] = np.array(shape[begin:end], np.int64)
            continue
        args = [None if not name else values.get(name, constants.get(name)) for name in node.inputs]
        if any(arg is None and name for arg, name in zip(args, node.inputs, strict=True)):
            continue
        weight = graph.weight(node)
        if weight is not None:
            pairs = ((chain.recurrent, scaled), (chain.kernel, chain.kernel))
            weight = next((use for matrix, use in pairs if np.array_equal(weight, matrix)), None)
            if weight is None:
                continue
        try:
            results = _evaluated(node, [arg if arg is None else _double(arg) for arg in args], weight)
        except LrpfastError:
            continue
        values.update((name, _double(v)) for name, v in zip(node.outputs, results, strict=False) if name)
    return values


def _evaluated(node: Node, args: list[Any], weight: np.ndarray | None) -> list[np.ndarray]:
    if weight is not None:
        return [args[0] @ weight + (args[2] if len(args) > 2 and args[2] is not None else 0.0)]
    if node.op == "Cast" and args[0].dtype.kind == "f" and node.attributes.get("to", 1) in (1, 10, 11, 16):
        return [args[0]]
    return evaluate(node, args) if node.op in FOLDED else []


def _double(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _biases(graph: _Graph, chain: _Chain, values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Constant vectors of as many values as the kernels have columns, that are added to what the steps compute."""
    result: dict[bytes, np.ndarray] = {}
    for node in graph.nodes:
        if node.op in ("Add", "Gemm") and node.outputs[0] in values:
            for name in node.inputs[2:] if node.op == "Gemm" else node.inputs:
                array = graph.constants.get(name)
                if array is not None and array.size == chain.kernel.shape[1] == array.shape[-1]:
                    result.setdefault(array.tobytes(), array.ravel())
    return list(result.values())


def _begins(layer: Any, x: np.ndarray, numbers: np.ndarray) -> bool:
    """Whether the h of a layer's first two steps are among the numbers (in order): most layers need no more steps."""
    sequence, *_ = forward(layer, x[:, -2:] if layer.go_backwards else x[:, :2])
    h = sequence[0].ravel()
    tolerance = 1e-9 * np.abs(sequence).max()
    return bool((np.searchsorted(numbers, h + tolerance) > np.searchsorted(numbers, h - tolerance)).all())


def _results(layer: Any, x: np.ndarray, values: Mapping[str, np.ndarray]) -> dict[str, _Result]:
    """Which values of the graph are results of a layer."""
    sequence, *states = forward(layer, x)
    samples, _, units = sequence.shape
    finals = dict(zip((HIDDEN, CELL), states, strict=False))
    results: dict[str, _Result] = {}
    for name, value in values.items():
        for axes in _SHAPES:
            if value.ndim != len(axes):
                continue
            rows = np.moveaxis(value, axes.index("b"), 0)
            if rows.shape == sequence.shape and agrees(rows, sequence):
                results[name] = _Result(SEQUENCE, axes)
            if rows.size != samples * units or rows.shape[0] != samples:
                continue
            rows = rows.reshape(samples, units)
            kind = next((kind for kind, state in finals.items() if agrees(rows, state)), None)
            near = np.abs(sequence[0, :, 0] - rows[0, 0]) <= 1e-9 * np.abs(rows).max()
            steps = [step for step in np.flatnonzero(near) if kind is None and agrees(rows, sequence[:, step])]
            if kind or steps:
                results[name] = _Result(kind or _ROW, axes, int(steps[0]) if steps else 0)
    return results


def _used(graph: _Graph, results: Mapping[str, Any]) -> set[str]:
    """The values that the outputs need where the results are known."""
    pending, used = list(graph.file.outputs), set[str]()
    while pending:
        name = pending.pop()
        if name in used or name in graph.constants:
            continue
        used.add(name)
        node = graph.producer.get(name)
        if name not in results and node is not None:
            pending.extend(filter(None, node.inputs))
    return used


def lay_out_steps(node: Node, value: Any, builder: Builder) -> list[Any] | None:
    """The results of a node that stands for all steps; None where what it takes is no such sequence."""
    attributes = node.attributes
    layer, results = attributes["layer"], attributes["results"]
    if not isinstance(value, Tensor) or value.shape != attributes["shape"] or value.batch != attributes["batch"]:
        return None
    t, steps = builder.plain(value), attributes["shape"][0]
    kinds = {SEQUENCE if result.kind == _ROW else result.kind for result in results}
    nodes = lay_out(builder.add, layer, (t.node,), steps, [k for k in (SEQUENCE, HIDDEN, CELL) if k in kinds])
    tensors: list[Any] = []
    for result in results:
        batch = BatchAxis(result.axes.index("b"))
        if result.kind == SEQUENCE:
            tensors.append(Tensor(nodes[SEQUENCE], (steps, layer.units), (0, 1), batch))
            continue
        row = nodes.get(result.kind)
        if row is None:
            crop = L.Crop(((result.step, steps - 1 - result.step),))
            row = builder.add(L.Flatten(), builder.add(crop, nodes[SEQUENCE], part="row"), part="h")
        tensor = Tensor(row, (layer.units,), (0,))
        tensors.append(tensor if result.axes == "bu" else builder.reshape(tensor, (1, layer.units), batch))
    return tensors
