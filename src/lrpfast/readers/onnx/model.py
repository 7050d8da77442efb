"""The Model of an ONNX graph: constants are folded, patterns recognised, and the rest built channels last."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...errors import (
    ApproximationWarning,
    InputError,
    ModelFormatError,
    ShapeError,
    UnsupportedLayerError,
)
from ...model import layers as L
from ...model.graph import Model
from ...model.layers import Shape
from ..batch_axis import BatchAxis
from ..channels_first import Builder, Flat, Tensor, Value
from ..conditions import CONDITIONS, compared_value, is_condition, moved
from ..masks import Condition
from ..untrusted import check_products
from .context import NodeContext
from .control_flow import CONTROL, branches, subgraph
from .dynamic_quantize import ON_SCALED, scaled
from .file import File, Input, Node
from .fold import BY_LAYERS, FOLDED, OF_ROWS, OF_SAMPLES, FoldedValue, fold
from .loops import recurrent_loop
from .obstacles import LAYERS, NO_LAYERS, QUANTIZED, UNREAD, NodeObstacles
from .ops import OPERATORS
from .patterns import Matcher
from .quantize import ON_QUANTIZED, ROUNDING, on_quantized
from .recurrent import RECURRENT
from .schema import check
from .shape_ops import MOVES
from .truths import mask_inputs
from .values import Integers, Quantized, Scaled, ZeroPoint

#: The sizes of two batches for which shapes are computed: what differs between them depends on the batch.
BATCHES = (11, 7)

#: What NumPy and Python raise for attributes and constants of wrong types, shapes and sizes.
_MISFITS = (ValueError, TypeError, IndexError, KeyError, AttributeError, ArithmeticError)

#: Operators that are read as parts of a function alone.
_REMEDIES = {
    "Erf": "It works in a GELU, x * (1 + erf(x / sqrt(2))) / 2, whose constants are these to the precision of float32",
}

#: What predictions of a quantized file are.
_QUANTIZED = (
    "the file is quantized: its whole numbers are read as the numbers that they approximate. Limits are kept, rounding "
    "is not, so predictions differ from the file's by that rounding"
)

#: What a file computes whose nodes fit one sample alone.
_ONE_SAMPLE = (
    "the file computes one sample at a time, though it leaves the batch's size open: its nodes do not fit more. It is "
    "read as it computes one"
)

#: What takes some samples of a batch on purpose.
_SELECTING = ("Slice", "Split", "Gather", "GatherND", "GatherElements", "Compress")

#: What makes one batch of inputs that begin with axes of different sizes.
_ONE_BATCH = (
    "Export the model with the batch as the first axis of each. An input that is the same for all samples becomes a "
    "constant: model = onnx.load(path); model.graph.initializer.append(onnx.numpy_helper.from_array(array, name)); "
    "lrpfast.from_onnx(model)"
)

#: What may use an input of whole numbers: operators that round nothing.
_ON_NUMBERS = {
    *("Cast", "Gather", "GatherND", "Identity", "CumSum", "Expand", *MOVES),
    *("OneHot", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
}


def build(file: File) -> Model:
    """The Model of a graph."""
    obstacles = NodeObstacles()
    batches = _batches([item for item in file.inputs if not item.problem], obstacles)
    try:
        return _build(file, batches, obstacles)
    except (UnsupportedLayerError, ModelFormatError):
        if batches != BATCHES or not obstacles.kinds.isdisjoint(_SELECTING):
            raise
        try:  # exporters may write the 1 of their example into the file, so that it computes nothing else
            model = _build(file, (1, 1), NodeObstacles())
        except (UnsupportedLayerError, ModelFormatError):
            model = None
        if model is None:
            raise
    warnings.warn(_ONE_SAMPLE, stacklevel=2)
    return model


def _build(file: File, batches: tuple[int, int], obstacles: NodeObstacles) -> Model:
    """The Model of a graph, by the shapes that it has for two sizes of the batch."""
    builder = _NamedBuilder(file.outputs)
    constants = _constants(file)
    outputs = [name for name in file.outputs if name not in file.labels] or file.outputs
    planned = _planned(file, outputs, Matcher(file.nodes, constants, file.outputs))
    values: dict[str, Any] = {name: FoldedValue(array, array) for name, array in constants.items()}
    masks = mask_inputs(file, constants)
    for item in file.inputs:
        if item.problem:
            obstacles.add_input(item)
            values[item.name] = UNREAD
            continue
        with _error_context(f"input {item.name!r}"):
            is_mask = item.name in masks
            tensor = builder.input(item.name, item.sample, "truth" if is_mask else "number")
            if item.batch:
                tensor = replace(tensor, batch=BatchAxis(item.batch))
            values[item.name] = Condition(tensor, boolean=item.truth) if is_mask else tensor
    integer_inputs = {item.name for item in file.inputs if item.integer and not item.problem and item.name not in masks}
    whole = {values[name].node for name in integer_inputs}
    reader = _GraphReader(builder, file.opset, batches, integer_inputs, set(builder.inputs), whole, obstacles)
    reader.run(planned, values)
    reader.obstacles.check()
    for name in outputs:
        if name not in values:
            raise UnsupportedLayerError(f"the output {name!r} is none that lrpfast computes")
        if isinstance(values[name], FoldedValue):
            raise UnsupportedLayerError(f"the output {name!r} depends on no input, so there is nothing to explain")
        if isinstance(values[name], Integers):
            raise UnsupportedLayerError(values[name].problem)
        if not isinstance(values[name], (Tensor, Flat)):
            kind = "a comparison" if is_condition(values[name]) else "a mask"
            kind = "quantized numbers" if isinstance(values[name], (Quantized, Scaled, ZeroPoint)) else kind
            raise UnsupportedLayerError(f"the output {name!r} holds {kind}, which cannot be explained")
    if any(node.op in ROUNDING for node in planned):
        warnings.warn(_QUANTIZED, ApproximationWarning, stacklevel=2)
    with _error_context("the graph"):
        return builder.finish({name: values[name] for name in outputs}, file.name)


class _NamedBuilder(Builder):
    """Gives the layers that make the file's outputs the outputs' names, and no other layer."""

    def __init__(self, outputs: Sequence[str]) -> None:
        super().__init__()
        self.inputs: list[int] = []
        self._names.update(dict.fromkeys(outputs, 0))

    def input(self, name: str, shape: Shape, kind: str = "number") -> Tensor:
        self._names.pop(name, None)  # an output that is an input keeps the input's name
        tensor = super().input(name, shape, kind)
        self.inputs.append(tensor.node)
        return tensor

    def finish(self, outputs: dict[str, Value], name: str) -> Model:
        """The model of these outputs."""
        last: dict[str, Value] = {}
        named = set(self.inputs)
        for key, value in outputs.items():
            plain = self.plain(value)
            if plain.node in named and self.nodes[plain.node][0].name != key:  # of two names for one value
                plain = self.each(L.Identity("Identity"), plain)  # type: ignore[assignment]
            layer, inputs = self.nodes[plain.node]
            if plain.node not in named:
                self.nodes[plain.node] = (replace(layer, name=key), inputs)
            named.add(plain.node)
            last[key] = plain
        return self.model(list(last.values()), name)


@dataclass(frozen=True)
class _GraphReader:
    """What the nodes of one file have in common; ``integer_inputs`` are the names of inputs of whole numbers."""

    builder: Builder
    opset: int
    batches: tuple[int, int]
    integer_inputs: set[str]
    inputs: set[int]
    whole: set[int]
    obstacles: NodeObstacles = field(default_factory=NodeObstacles)

    def run(self, nodes: Sequence[Node], values: dict[str, Any]) -> None:
        """Add what the nodes compute to the values, by name; what is not read is an obstacle, and UNREAD."""
        for node in nodes:
            try:
                with _error_context(str(node)):
                    outputs = self._outputs(node, values)
            except UnsupportedLayerError as error:
                self.obstacles.add_node(node, error)
                outputs = [UNREAD] * len(node.outputs)
            for name, value in zip(node.outputs, outputs, strict=False):
                if name and value is not None:
                    values[name] = value

    def _outputs(self, node: Node, values: dict[str, Any]) -> list[Any]:
        if node.op not in OPERATORS and node.op not in FOLDED and node.op not in CONTROL:
            raise self._unknown(node)
        args = [values.get(name) if name else None for name in node.inputs]
        for name in filter(None, node.inputs):
            if name not in values:  # a mask or indices, say
                raise node.unsupported(f"takes {name!r}, an output that lrpfast does not compute")
            if name in self.integer_inputs and node.op not in _ON_NUMBERS:
                raise node.unsupported(f"computes with {name!r}, an input of whole numbers", "Cast it to float first")
        layer = self._loop(node, values) if node.op == "Loop" else None
        if layer is not None:
            return layer
        pairs = branches(node, values, self.opset, self.run)
        if pairs is not None:
            return [self._selected(node, args[0], pair) for pair in pairs]
        if node.op in CONTROL:
            return CONTROL[node.op](node, values, self.opset, self.run)
        if any(arg is UNREAD for arg in args):
            return [UNREAD] * len(node.outputs)
        if node.op in FOLDED and all(arg is None or isinstance(arg, FoldedValue) for arg in args):
            return fold(node, args)
        if node.op in BY_LAYERS and all(arg is None or isinstance(arg, FoldedValue) for arg in args):
            return [self._by_layers(node, args)]
        self.builder.scope = node.name
        if node.op in ON_SCALED and any(isinstance(arg, Scaled) for arg in args):
            return [scaled(node, args, self._applied)]
        if node.op not in OPERATORS:
            raise self._unknown(node)
        condition = args[0] if args else None
        if node.op in MOVES and isinstance(condition, CONDITIONS):
            return [moved(condition, lambda value: self._built(node, [value, *args[1:]])[0], self.builder)]
        if node.op in ON_QUANTIZED and isinstance(args[0], Quantized):
            return on_quantized(node, args[0], args[1:], self._built)
        return self._built(node, args)

    def _applied(self, node: Node, args: list[Any]) -> Any:
        """A node's first output, folded where all its inputs are constants."""
        if all(arg is None or isinstance(arg, FoldedValue) for arg in args):
            return fold(node, args)[0]
        return self._built(node, args)[0]

    def _by_layers(self, node: Node, args: list[FoldedValue | None]) -> FoldedValue:
        """What a node gives of constants alone: what the layers predict that it is read as."""
        pairs = [(None, None) if arg is None else (arg.first, arg.second) for arg in args]
        first, second = ([pair[which] for pair in pairs] for which in (0, 1))
        result = self._predicted(node, first)
        same = all(arg is None or arg.fixed for arg in args)
        return FoldedValue(result, result if same else self._predicted(node, second))

    def _predicted(self, node: Node, arrays: list[Any]) -> np.ndarray:
        """What a node's layers make of one constant; others are its weights and settings."""
        constant: np.ndarray = arrays[0]
        axis = node.attributes.get("axis", -1)
        if node.op in OF_ROWS:  # counts from the end, since an axis of one sample is put before
            node = replace(node, attributes={**node.attributes, "axis": axis - constant.ndim if axis >= 0 else axis})
        samples = constant if node.op in OF_SAMPLES else constant[None]
        builder = Builder()
        rest = [None if a is None else FoldedValue(a, a) for a in arrays[1:]]
        x, batches = builder.input("constant", samples.shape[1:]), (len(samples), len(samples))
        context = NodeContext(node, [x, *rest], builder, self.opset, batches, set(), set())
        model = builder.model(context.run(OPERATORS[node.op])[:1], node.op)
        weights = arrays[1] if node.op.startswith("Conv") else node.attributes.get("kernel_shape")
        check_products(len(samples) * math.prod(n or 1 for n in model.output_shape), weights)
        result = model.predict(samples, precision="float64").astype(constant.dtype)
        return np.asarray(result if node.op in OF_SAMPLES else result[0])

    def _loop(self, node: Node, values: dict[str, Any]) -> list[Any] | None:
        """What a Loop computes that is a recurrent layer."""
        graph = subgraph(node, "body", self.opset)
        self.builder.scope = node.name
        return recurrent_loop(node, graph, values, self.builder)

    def _selected(self, node: Node, condition: Any, pair: tuple[Any, Any]) -> Any:
        """An output of an If: of one branch or the other, for each sample."""
        if any(value is UNREAD for value in pair):
            return UNREAD
        if any(n != 1 for n in compared_value(condition).shape):
            raise node.unsupported("chooses by more than one value of a sample")
        return self._built(replace(node, op="Where", attributes={}), [condition, *pair])[0]

    def _built(self, node: Node, args: list[Any]) -> list[Any]:
        context = NodeContext(node, args, self.builder, self.opset, self.batches, self.inputs, self.whole)
        return context.run(OPERATORS[node.op])

    def _unknown(self, node: Node) -> UnsupportedLayerError:
        if node.op in LAYERS:
            remedy = QUANTIZED.get(node.op) or NO_LAYERS.get(node.op, "")
            return node.unsupported(f"{LAYERS[node.op]}, which lrpfast does not read", remedy)
        domain = node.op.rpartition(".")[0]
        # those of another domain, or of whole numbers, are no help
        known = [op for op in known_operators() if op.rpartition(".")[0] in ("", domain) and op not in ROUNDING]
        remedy = _REMEDIES.get(node.op) or f"These work: {', '.join(known)}"
        return node.unsupported("is of an operator that lrpfast does not read on what the model computes", remedy)


def known_operators() -> list[str]:
    """Operators that lrpfast reads on what a model computes; on constants alone there are more."""
    return sorted(name for name in {*OPERATORS, *CONTROL} if not name.endswith("*"))


def _constants(file: File) -> dict[str, np.ndarray]:
    """What does not depend on any input, nor on its shape."""
    constants = dict(file.constants)
    for node in file.nodes:
        with _error_context(str(node)):
            check(node, file.opset, constants)
        if node.op in FOLDED and all(name in constants or not name for name in node.inputs):
            args = [FoldedValue(constants[name], constants[name]) if name else None for name in node.inputs]
            with _error_context(str(node)):
                results = fold(node, args)
            constants.update((name, value.first) for name, value in zip(node.outputs, results, strict=False) if name)
    return constants


def _planned(file: File, outputs: Sequence[str], matcher: Matcher) -> list[Node]:
    """The nodes that the outputs need, in order, patterns in the place of the nodes they are made of."""
    shapes = set(matcher.constants)  # what is computed from shapes and constants alone, and so folded later
    for node in file.nodes:
        if node.op in ("Shape", "Size") or (node.op in FOLDED and shapes.issuperset(filter(None, node.inputs))):
            shapes.update(node.outputs)
    needed = set(outputs)
    planned = []
    for node in reversed(file.nodes):
        if needed.isdisjoint(node.outputs) or all(name in matcher.constants for name in node.outputs if name):
            continue
        with _error_context(str(node)):
            match = node if shapes.issuperset(node.outputs) else matcher.match(node)
        if match.op in (*RECURRENT, "Loop"):  # what nothing uses is not computed
            match = replace(match, outputs=tuple(name if name in needed else "" for name in match.outputs))
        planned.append(match)
        needed.update(match.inputs)
    return planned[::-1]


def _batches(inputs: list[Input], obstacles: NodeObstacles) -> tuple[int, int]:
    """Two sizes of the batch, or twice the one that the file fixes; two that it fixes are an obstacle."""
    fixed = {item.shape[0] for item in inputs}
    if fixed == {None} or not fixed:
        return BATCHES
    if len(fixed) > 1:
        sizes = " and ".join("open size" if n is None else f"{n} values" for n in fixed)
        obstacles.add_inputs(
            inputs,
            f"begin with axes of {sizes}; lrpfast takes the first axis of each for the batch, which must be the same",
            _ONE_BATCH,
        )
        return BATCHES
    (size,) = fixed
    return (size, size)  # type: ignore[return-value]


@contextlib.contextmanager
def _error_context(where: str) -> Iterator[None]:
    """Name the node in errors about what it holds."""
    try:
        yield
    except (InputError, ShapeError) as error:
        raise ModelFormatError(f"{where}: {error}") from error
    except (ModelFormatError, UnsupportedLayerError) as error:
        if where in str(error):
            raise
        raise type(error)(f"{where}: {error}") from error
    except _MISFITS as error:
        raise ModelFormatError(f"{where}: its inputs or attributes do not fit it ({error})") from error
