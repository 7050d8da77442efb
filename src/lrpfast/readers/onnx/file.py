"""What an ONNX file holds, as plain records: nodes in order, constants as NumPy arrays, inputs and outputs.

Only this module sees protobuf messages, and only here is the package `onnx` imported.
"""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...budget import also_holds, check_layers, take
from ...errors import (
    InputError,
    MissingPackageError,
    ModelFormatError,
    ModelNotFoundError,
    UnsupportedLayerError,
    install_text,
)
from ...model.layers import Shape
from ..input_shape import FIX_SIZE, InputShapes, resolve_shapes
from ..obstacles import ObstacleError

#: Versions of the operators that lrpfast reads.
OLDEST, NEWEST = 7, 28

#: Element types that lrpfast reads, by their number in TensorProto: NumPy's dtype, and the field without raw data.
_TYPES: dict[int, tuple[str, str]] = {
    1: ("<f4", "float_data"),
    2: ("u1", "int32_data"),
    3: ("i1", "int32_data"),
    4: ("<u2", "int32_data"),
    5: ("<i2", "int32_data"),
    6: ("<i4", "int32_data"),
    7: ("<i8", "int64_data"),
    9: ("?", "int32_data"),
    10: ("<f2", "int32_data"),
    11: ("<f8", "double_data"),
    12: ("<u4", "uint64_data"),
    13: ("<u8", "uint64_data"),
    16: ("bfloat16", "int32_data"),
}
#: Those of them that are not whole numbers.
_FLOATS = (1, 10, 11, 16)
_BOOL = 9


@dataclass(frozen=True, eq=False)
class Node:
    """One node of the graph.

    Attributes
    ----------
    op : str
    name : str
    inputs, outputs : tuple of str
        Names of values; "" where one is left out.
    attributes : mapping
        Numbers, text, tuples and arrays.
    position : str
        "3 of 40".
    written : str
        The operator in the file, where ``op`` is a name of ours for several nodes.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    position: str
    written: str = ""

    def __str__(self) -> str:
        return f"node {self.name!r} ({self.written or self.op}, {self.position})"

    def unsupported(self, problem: str, remedy: str = "") -> ObstacleError:
        return ObstacleError(f"{self} {problem}" + (f". {remedy}" if remedy else ""), problem, remedy)


@dataclass(frozen=True, eq=False)
class Branch:
    """A graph in a node, as of an If: its nodes in order, its constants, and the names of its inputs and outputs."""

    nodes: list[Node]
    constants: Mapping[str, np.ndarray]
    inputs: list[str]
    outputs: list[str]

    @property
    def outer(self) -> tuple[str, ...]:
        """Names of values that it takes from the graph around it."""
        own = {*self.constants, *self.inputs, *(name for node in self.nodes for name in node.outputs)}
        used = [*(name for node in self.nodes for name in node.inputs if name), *self.outputs]
        return tuple(dict.fromkeys(name for name in used if name not in own))


@dataclass(frozen=True)
class Input:
    """One input of the graph.

    Attributes
    ----------
    name : str
    shape : tuple
        With the batch axis, which is first here; None where the file leaves a size open.
    integer : bool
        Whether it holds whole numbers.
    truth : bool
        Whether it holds truths.
    problem : str
        Why lrpfast cannot take it; "" if it can.
    batch : int
        Which axis is the batch's in the file.
    """

    name: str
    shape: tuple[int | None, ...]
    integer: bool = False
    truth: bool = False
    problem: str = ""
    batch: int = 0

    @property
    def sample(self) -> Shape:
        return self.shape[1:]


@dataclass
class File:
    """A whole graph, its nodes in the order of computation; ``labels`` are the outputs that hold no floats."""

    name: str
    opset: int
    nodes: list[Node]
    inputs: list[Input]
    outputs: list[str]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    labels: set[str] = field(default_factory=set)


def package() -> Any:
    """The package `onnx`; MissingPackageError where it is not installed."""
    try:
        import onnx
        import onnx.inliner  # which `import onnx` leaves out
    except ImportError:
        message = f"ONNX models need onnx: {install_text('onnx', 'onnx')}"
        raise MissingPackageError(message, name="onnx") from None
    return onnx


def read(source: Any, input_shape: InputShapes | None = None) -> File:
    """The graph in a file, in bytes, or in a ModelProto.

    Raises
    ------
    ModelNotFoundError, ModelFormatError, UnsupportedLayerError, MissingPackageError, InputError
    """
    onnx = package()
    folder = None
    if isinstance(source, (str, os.PathLike)):
        path = Path(os.fsdecode(source))
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise ModelNotFoundError(str(path)) from None
        except (OSError, ValueError) as error:
            raise ModelFormatError(f"{path}: cannot be read ({error})") from error
        folder = path.parent
    elif isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif isinstance(source, onnx.ModelProto):
        return _graph(onnx, source, None, input_shape or {})
    else:
        raise InputError(f"from_onnx takes a path, bytes or an onnx.ModelProto, not {type(source).__name__}")
    if data.startswith((b"\x89HDF\r\n", b"PK\x03\x04")):
        raise ModelFormatError("no ONNX model, but an HDF5 file or a zip archive; lrpfast.load reads what Keras saved")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # the parser's own class; which one depends on its version
        raise ModelFormatError(f"a damaged or truncated ONNX file ({error}); copy or download it again") from error
    return _graph(onnx, proto, folder, input_shape or {})


def _graph(onnx: Any, proto: Any, folder: Path | None, input_shape: InputShapes) -> File:
    if not proto.HasField("graph") or not proto.graph.node:
        raise ModelFormatError("no ONNX model: there is no graph in it")
    if len(proto.functions):
        check_layers(*counted(proto))
        proto = _inlined(onnx, proto)
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    opset = versions.get("", versions.get("ai.onnx", 0))
    if not OLDEST <= opset <= NEWEST:
        raise UnsupportedLayerError(
            f"the file's operators are of version {opset}; lrpfast reads {OLDEST} to {NEWEST}. "
            "onnx.version_converter.convert_version changes it"
        )
    graph = proto.graph
    if len(graph.sparse_initializer):
        raise UnsupportedLayerError("the file holds sparse weights, which lrpfast does not read. Save them dense")
    constants = _initializers(graph, folder)
    inputs = _inputs([value for value in graph.input if value.name not in constants], input_shape)
    nodes = [_node(item, i, len(graph.node), folder) for i, item in enumerate(graph.node, 1)]
    outputs = [value.name for value in graph.output]
    if not outputs:
        raise ModelFormatError("the graph has no output")
    known = {*constants, *(value.name for value in inputs)}
    labels = {value.name for value in graph.output if value.type.tensor_type.elem_type not in (0, *_FLOATS)}
    return File(graph.name or "model", opset, _sorted(nodes, known, outputs), inputs, outputs, constants, labels)


def _inlined(onnx: Any, proto: Any) -> Any:
    """The model with the nodes of its functions in the place of what calls them."""
    try:
        plain = onnx.inliner.inline_local_functions(proto)
    except Exception as error:
        raise ModelFormatError(f"its functions cannot be put in place ({error})") from error
    if not len(plain.functions):
        return plain
    try:  # those of another version of the operators are left; they are converted where their types are known
        typed = onnx.shape_inference.infer_shapes(proto)
        return onnx.inliner.inline_local_functions(typed, convert_version=True)
    except Exception as error:
        names = ", ".join(f"{f.domain}.{f.name}" for f in plain.functions)
        raise UnsupportedLayerError(
            f"its functions {names} are of another version of the operators than its graph, and cannot be converted "
            f"({error}). Save them in the graph's version"
        ) from error


def counted(proto: Any) -> tuple[int, int]:
    """How many nodes a model has with its functions put in place, and how many its file writes down.

    Functions that call each other twice double at every step.
    """
    functions = {(f.domain, f.name): f for f in proto.functions}
    counts: dict[tuple[str, str], int] = {}

    def nodes(items: Any, inside: tuple[tuple[str, str], ...]) -> int:
        return sum(of(item, inside) for item in items)

    def of(item: Any, inside: tuple[tuple[str, str], ...]) -> int:
        key = (item.domain, item.op_type)
        if key in inside or len(inside) > 500:
            raise ModelFormatError(f"its function {item.op_type!r} calls itself")
        if key in functions:
            if key not in counts:
                counts[key] = nodes(functions[key].node, (*inside, key))
            return counts[key]
        return 1 + sum(nodes(a.g.node, inside) for a in item.attribute if a.HasField("g"))

    written = len(proto.graph.node) + sum(len(f.node) for f in proto.functions)
    return nodes(proto.graph.node, ()), written


def _initializers(graph: Any, folder: Path | None) -> dict[str, np.ndarray]:
    return {t.name: array(t, f"the tensor {t.name!r}", folder) for t in graph.initializer}


#: The cure for an input that is a setting.
_MAKE_CONSTANT = (
    "Make it a constant, such as 1: model = onnx.load(path); model.graph.initializer.append("
    "onnx.numpy_helper.from_array(numpy.int64(1), name)); lrpfast.from_onnx(model)"
)


def _inputs(values: list[Any], input_shape: InputShapes) -> list[Input]:
    """The graph's inputs, with sizes of the caller's where the file leaves them open."""
    found = [_input(value) for value in values]
    positions = _batch_positions(values, {name: shape for name, shape, _, problem in found if shape and not problem})
    found = [(name, _batch_first(shape, positions.get(name, 0)), kind, why) for name, shape, kind, why in found]
    samples = {name: None if shape is None else shape[1:] for name, shape, *_ in found}
    if len(samples) < len(found):
        raise ModelFormatError("two inputs of the graph have the same name")
    shapes = resolve_shapes(samples, input_shape)
    inputs = []
    for (name, shape, element, problem), sample in zip(found, shapes, strict=True):
        if sample is None:
            problem = f"has no shape. {FIX_SIZE}"
        whole = element not in (*_FLOATS, _BOOL)
        shape = (shape[0] if shape else None, *(sample or ()))
        inputs.append(Input(name, shape, whole, element == _BOOL, problem, positions.get(name, 0)))
    return inputs


def _batch_positions(values: list[Any], shapes: Mapping[str, tuple[int | None, ...]]) -> dict[str, int]:
    """The batch's axis of inputs that do not begin with it: states of recurrent layers, (layers, batch, units).

    That is the one axis that has the name, or the size, of the axis that the first input begins with.
    """
    axes = {value.name: value.type.tensor_type.shape.dim for value in values}
    names = {name: [dim.dim_param for dim in axes[name]] for name in shapes}
    if not shapes:
        return {}
    first = next((name for name, shape in shapes.items() if shape[0] is None), next(iter(shapes)))
    batch, label = shapes[first][0], names[first][0]
    result = {}
    for name, shape in shapes.items():
        same = [i for i, n in enumerate(shape) if n == batch and not (label and names[name][i] not in ("", label))]
        if shape[0] != batch and len(same) == 1:
            result[name] = same[0]
    return result


def _batch_first(shape: tuple[int | None, ...] | None, position: int) -> tuple[int | None, ...] | None:
    return None if shape is None else (*shape[position : position + 1], *shape[:position], *shape[position + 1 :])


def _input(value: Any) -> tuple[str, tuple[int | None, ...] | None, int, str]:
    """An input's name, its shape with the batch axis, None if the file has none, its element type, and a problem."""
    kind = value.type.WhichOneof("value")
    element = value.type.tensor_type.elem_type
    if kind != "tensor_type":
        return value.name, (), element, f"is a {kind or 'value without a type'}, not a tensor"
    if not value.type.tensor_type.HasField("shape"):
        return value.name, None, element, ""
    sizes: list[int | None] = []
    for dim in value.type.tensor_type.shape.dim:
        fixed = dim.dim_value if dim.WhichOneof("value") == "dim_value" else None
        if fixed is not None and not -1 <= fixed < 1 << 40:
            raise ModelFormatError(f"input {value.name!r} has an axis of {fixed} values")
        sizes.append(fixed if fixed is not None and fixed > 0 else None)
    if len(sizes) < 2:
        problem = f"has {len(sizes)} axes; lrpfast takes the first for the batch, and needs another. {_MAKE_CONSTANT}"
        return value.name, tuple(sizes), element, problem
    return value.name, tuple(sizes), element, ""


def _node(item: Any, number: int, count: int, folder: Path | None) -> Node:
    outputs = tuple(item.output)
    name = item.name or next((output for output in outputs if output), "") or f"node_{number}"
    op = item.op_type if item.domain in ("", "ai.onnx") else f"{item.domain}.{item.op_type}"
    attributes = {entry.name: _attribute(entry, f"node {name!r}", folder) for entry in item.attribute}
    branches = [value for value in attributes.values() if isinstance(value, Branch)]
    inputs = (*item.input, *(name for branch in branches for name in branch.outer))
    return Node(op, name, inputs, outputs, attributes, f"{number} of {count}")


def _attribute(entry: Any, where: str, folder: Path | None) -> Any:
    kind = entry.type
    if kind == 1:
        return float(entry.f)
    if kind == 2:
        return int(entry.i)
    if kind == 3:
        return entry.s.decode("utf-8", "replace")
    if kind == 4:
        return array(entry.t, f"{where}: the tensor in {entry.name!r}", folder)
    if kind == 5:
        nodes = [_node(item, i, len(entry.g.node), folder) for i, item in enumerate(entry.g.node, 1)]
        ends = ([value.name for value in side] for side in (entry.g.input, entry.g.output))
        return Branch(nodes, _initializers(entry.g, folder), *ends)
    if kind == 6:
        return tuple(map(float, entry.floats))
    if kind == 7:
        return tuple(map(int, entry.ints))
    if kind == 8:
        return tuple(text.decode("utf-8", "replace") for text in entry.strings)
    return entry  # a type, a sparse tensor, …: no handler takes it, and so the node is refused by name


def array(tensor: Any, label: str, folder: Path | None) -> np.ndarray:
    """The values of a TensorProto; ModelFormatError where they are not as many as it says."""
    if tensor.data_type not in _TYPES:
        raise UnsupportedLayerError(
            f"{label} has elements of type {tensor.data_type}, which lrpfast does not read. These work: floats of 16 "
            "to 64 bits, integers of 8 to 64 bits, and booleans"
        )
    dtype, where = _TYPES[tensor.data_type]
    size = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
    shape = tuple(tensor.dims)
    if any(n < 0 for n in shape) or len(shape) > 32:
        raise ModelFormatError(f"{label} has the shape {shape}")
    count = math.prod(shape)  # Python's integers do not overflow
    if tensor.data_location == 1:
        values = _external(tensor, label, folder, count * size, "<u2" if dtype == "bfloat16" else dtype)
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != count * size:
            raise ModelFormatError(
                f"{label} says {shape}, {count * size:,} bytes, and holds {len(tensor.raw_data):,} bytes"
            )
        take(count * size, label)
        values = np.frombuffer(tensor.raw_data, "<u2" if dtype == "bfloat16" else dtype)
    else:
        entries = getattr(tensor, where)
        if len(entries) != count:
            raise ModelFormatError(f"{label} says {shape}, {count:,} values, and holds {len(entries):,}")
        take(8 * count, label)
        if dtype in ("<f2", "bfloat16"):
            values = np.array(entries, "<i4").astype("<u2")
            values = values.view("<f2") if dtype == "<f2" else values
        else:
            values = np.array(entries).astype(dtype) if count else np.empty(0, dtype)
    if dtype == "bfloat16":  # the upper half of a float32
        values = (values.astype("<u4") << 16).view("<f4")
    return values.reshape(shape)


def _external(tensor: Any, label: str, folder: Path | None, size: int, dtype: str) -> np.ndarray:
    """Values in a file beside the model: of nothing else, and of as many bytes as there are."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise ModelFormatError(
            f"{label} lies in the file {location!r} beside the model; give from_onnx the model's path"
        )
    try:
        path = (folder / location).resolve(strict=True)
        inside = path.is_relative_to(folder.resolve()) and path.is_file()
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", size))
        available = path.stat().st_size
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelFormatError(f"{label} lies in {location!r}, which cannot be read ({error})") from error
    if not location or os.path.isabs(location) or not inside:
        raise ModelFormatError(f"{label} lies in {location!r}, which is no file in the model's folder")
    if length != size or offset < 0 or offset + size > available:
        raise ModelFormatError(
            f"{label} needs {size:,} bytes from {offset:,} of {location!r}; {length:,} are declared, the file has "
            f"{available:,}"
        )
    also_holds(path)
    take(size, label)
    return np.fromfile(path, dtype, size // np.dtype(dtype).itemsize, offset=offset)


def _sorted(nodes: Sequence[Node], known: set[str], outputs: Sequence[str]) -> list[Node]:
    """The nodes in the order of computation; ModelFormatError for cycles, and for values that nothing makes."""
    maker: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in filter(None, node.outputs):
            if name in maker or name in known:
                raise ModelFormatError(f"{node} makes {name!r}, which is there already")
            maker[name] = i
    for name in outputs:
        if name not in maker and name not in known:
            raise ModelFormatError(f"the output {name!r} is made by no node")
    missing = []
    users: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        sources = set()
        for name in filter(None, node.inputs):
            if name in maker:
                sources.add(maker[name])
            elif name not in known:
                raise ModelFormatError(f"{node} takes {name!r}, which nothing makes")
        missing.append(len(sources))
        for source in sources:
            users.setdefault(source, []).append(i)
    ready = [i for i, count in enumerate(missing) if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(nodes[i])
        for user in users.get(i, ()):
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, user)
    if len(order) < len(nodes):
        stuck = next(node for i, node in enumerate(nodes) if missing[i])
        raise ModelFormatError(f"{stuck} feeds itself, directly or through other nodes")
    return order
