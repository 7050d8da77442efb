"""ONNX models: the graph is read, constants are folded, patterns recognised, and the rest built channels last."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...budget import budgeted, held_bytes
from ...errors import InputError, LrpfastError, ModelFormatError, ShapeError, UnsupportedLayerError
from ...model.graph import Model
from ..channels_first import Builder
from .context import NodeContext
from .file import Branch, File, Input, Node, read
from .fold import FOLDED, FoldedValue, fold
from .ops import OPERATORS
from .patterns import Matcher
from .schema import check

#: The sizes of two batches for which shapes are computed: what differs between them depends on the batch.
BATCHES = (7919, 7907)

#: What NumPy and Python raise for attributes and constants of wrong types, shapes and sizes.
_MISFITS = (ValueError, TypeError, IndexError, KeyError, AttributeError, ArithmeticError)

#: Operators that are read as parts of a function alone.
_REMEDIES = {
    "Erf": "It works in a GELU, x * (1 + erf(x / sqrt(2))) / 2, whose constants are these to the precision of float32",
    "Log": "It works in a softplus, log(1 + exp(x)), and in a log-sigmoid, log(sigmoid(x))",
}

#: What may use an input of whole numbers: operators that round nothing.
_ON_NUMBERS = ("Cast", "Gather", "Identity", "Shape", "Size")


def from_onnx(model: Any) -> Model:
    """The Model of an ONNX file, which takes and returns arrays as the file says: images channels first.

    Parameters
    ----------
    model : str, path-like, bytes or onnx.ModelProto
        Operators of the versions 7 to 28. The first axis of every input and output is the
        batch's, whatever size the file gives it.

    Returns
    -------
    Model

    Raises
    ------
    ModelNotFoundError
        When there is nothing at the path.
    ModelFormatError
        When it is no ONNX model, or a damaged one.
    UnsupportedLayerError
        When it has an operator, or an attribute of one, that lrpfast does not read; the message names it.
    MissingPackageError
        When the package onnx is not installed.

    Examples
    --------
    >>> from onnx import parser
    >>> text = '<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }'
    >>> lrpfast.from_onnx(parser.parse_model(text)).predict(np.array([[-1.0, 2.0]])).tolist()
    [[0.0, 2.0]]
    """
    what = f"{os.fsdecode(model)}: " if isinstance(model, (str, os.PathLike)) else ""
    try:
        with budgeted(_held(model)):
            return build(read(model))
    except InputError:
        raise
    except LrpfastError as error:
        if what and not str(error).startswith(what) and isinstance(error, (ModelFormatError, UnsupportedLayerError)):
            raise type(error)(f"{what}{error}") from error
        raise
    except (MemoryError, RecursionError) as error:
        raise ModelFormatError(f"{what}reading it takes more memory than there is ({error})") from error


def _held(model: Any) -> int:
    """How many bytes the model's file, or what stands for it, holds; 0 where there is none to read."""
    if isinstance(model, (bytes, bytearray, memoryview)):
        return len(model)
    if isinstance(model, (str, os.PathLike)):
        path = Path(os.fsdecode(model))
        try:
            return held_bytes(path) if path.is_file() else 0
        except OSError:
            return 0
    graph = getattr(model, "graph", None)  # not of the whole, which may be more than protobuf writes
    return sum(item.ByteSize() for item in (*graph.initializer, *graph.node)) if graph is not None else 0


def build(file: File) -> Model:
    """The Model of a graph."""
    builder = Builder()
    constants = _constants(file)
    planned = _planned(file, Matcher(file.nodes, constants, file.outputs))
    values: dict[str, Any] = {name: FoldedValue(array, array) for name, array in constants.items()}
    for place in file.inputs:
        with _naming(f"input {place.name!r}"):
            values[place.name] = builder.input(place.name, place.sample)
    whole = {place.name for place in file.inputs if place.whole}
    _Reading(builder, file.opset, _batches(file.inputs), whole).run(planned, values)
    for name in file.outputs:
        if name not in values:
            raise UnsupportedLayerError(f"the output {name!r} is none that lrpfast computes")
        if isinstance(values[name], FoldedValue):
            raise UnsupportedLayerError(f"the output {name!r} depends on no input, so there is nothing to explain")
    with _naming("the graph"):
        return builder.model([values[name] for name in file.outputs], file.name)


@dataclass(frozen=True)
class _Reading:
    """What the nodes of one file have in common; ``whole`` are the names of inputs of whole numbers."""

    builder: Builder
    opset: int
    batches: tuple[int, int]
    whole: set[str]

    def run(self, nodes: Sequence[Node], values: dict[str, Any]) -> None:
        """Add what the nodes make to the values."""
        for node in nodes:
            with _naming(str(node)):
                made = self._made(node, values)
            for name, value in zip(node.outputs, made, strict=False):
                if name and value is not None:
                    values[name] = value

    def _made(self, node: Node, values: dict[str, Any]) -> list[Any]:
        args = [values.get(name) if name else None for name in node.inputs]
        for name in filter(None, node.inputs):
            if name not in values:  # a mask or indices, say
                raise node.unsupported(f"takes {name!r}, an output that lrpfast does not compute")
            if name in self.whole and node.op not in _ON_NUMBERS:
                raise node.unsupported(f"computes with {name!r}, an input of whole numbers", "Cast it to float first")
        if node.op == "If":
            return self._branch(node, args[0], values)
        if node.op in FOLDED and all(arg is None or isinstance(arg, FoldedValue) for arg in args):
            return fold(node, args)
        if node.op in OPERATORS:
            self.builder.scope = node.name
            return NodeContext(node, args, self.builder, self.opset, self.batches).run(OPERATORS[node.op])
        remedy = _REMEDIES.get(node.op) or f"These work: {', '.join(known_operators())}"
        raise node.unsupported("is of an operator that lrpfast does not read on what the model computes", remedy)

    def _branch(self, node: Node, condition: Any, values: dict[str, Any]) -> list[Any]:
        """What an If makes whose condition is known, of the inputs' shapes say."""
        if not isinstance(condition, FoldedValue) or not condition.fixed or condition.first.size != 1:
            raise node.unsupported("chooses by what the model computes, or by the batch's size")
        branch = node.attributes.get("then_branch" if condition.first.ravel()[0] else "else_branch")
        if not isinstance(branch, Branch):
            raise ModelFormatError("the branch that it takes is missing")
        for inner in branch.nodes:
            with _naming(str(inner)):
                check(inner, self.opset, branch.constants)
        inside = {**values, **{name: FoldedValue(array, array) for name, array in branch.constants.items()}}
        self.run(branch.nodes, inside)
        return [inside[name] for name in branch.outputs]


def known_operators() -> list[str]:
    """Operators that lrpfast reads on what a model computes; on constants alone there are more."""
    return sorted(name for name in {*OPERATORS, "If"} if not name.endswith("*"))


def _constants(file: File) -> dict[str, np.ndarray]:
    """What does not depend on any input, nor on its shape."""
    constants = dict(file.constants)
    for node in file.nodes:
        with _naming(str(node)):
            check(node, file.opset, constants)
        if node.op in FOLDED and all(name in constants or not name for name in node.inputs):
            args = [FoldedValue(constants[name], constants[name]) if name else None for name in node.inputs]
            with _naming(str(node)):
                found = fold(node, args)
            constants.update((name, value.first) for name, value in zip(node.outputs, found, strict=False) if name)
    return constants


def _planned(file: File, matcher: Matcher) -> list[Node]:
    """The nodes that the outputs need, in order, patterns in the place of the nodes they are made of."""
    shapes = set(matcher.constants)  # what is computed from shapes and constants alone, and so folded later
    for node in file.nodes:
        if node.op in ("Shape", "Size") or (node.op in FOLDED and shapes.issuperset(filter(None, node.inputs))):
            shapes.update(node.outputs)
    needed = set(file.outputs)
    planned = []
    for node in reversed(file.nodes):
        if needed.isdisjoint(node.outputs) or all(name in matcher.constants for name in node.outputs if name):
            continue
        with _naming(str(node)):
            match = node if shapes.issuperset(node.outputs) else matcher.match(node)
        planned.append(match)
        needed.update(match.inputs)
    return planned[::-1]


def _batches(inputs: list[Input]) -> tuple[int, int]:
    """Two sizes of the batch, or twice the one that the file fixes."""
    fixed = {place.shape[0] for place in inputs}
    if fixed == {None} or not fixed:
        return BATCHES
    if len(fixed) > 1:
        raise UnsupportedLayerError(
            f"the inputs begin with axes of {', '.join(str(n) for n in fixed)} values; lrpfast takes the first axis of "
            "each for the batch, which must be the same"
        )
    (size,) = fixed
    return (size, size)  # type: ignore[return-value]


@contextlib.contextmanager
def _naming(where: str) -> Iterator[None]:
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
