"""TensorFlow's operations in models of TF 2.0 to 2.3: a `TensorFlowOpLayer` holds a node of TensorFlow's graph."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import ModelFormatError
from .arguments import parsed
from .record import KerasLayer

#: The class of such layers.
TF_OP_LAYER = "TensorFlowOpLayer"

#: TensorFlow's name of an operation; its arguments in the order of the node's inputs, "*" for a list of all others;
#: arguments that are attributes of the node, by the name that they have there; and Keras's name of the operation.
_Row = tuple[str, tuple[str, ...], dict[str, str]]

_BINARY = ("a", "b")
_REDUCED: tuple[tuple[str, ...], dict[str, str]] = (("a", "axis"), {"keepdims": "keep_dims"})
_ROWS: dict[str, _Row] = {
    **{
        name: (keras, _BINARY, {})
        for name, keras in (
            *(("Add", "add"), ("AddV2", "add"), ("BiasAdd", "add"), ("Sub", "subtract"), ("Mul", "multiply")),
            *(("RealDiv", "divide"), ("Div", "divide"), ("Maximum", "maximum"), ("Minimum", "minimum")),
            *(("Pow", "power"), ("Greater", "greater"), ("GreaterEqual", "greater_equal"), ("Less", "less")),
            *(("LessEqual", "less_equal"), ("Equal", "equal"), ("NotEqual", "not_equal")),
            *(("LogicalAnd", "logical_and"), ("LogicalOr", "logical_or")),
        )
    },
    **{
        name: (keras, ("a",), {})
        for name, keras in (
            *(("Neg", "negative"), ("Abs", "absolute"), ("Square", "square"), ("Sqrt", "sqrt"), ("Rsqrt", "rsqrt")),
            *(("Reciprocal", "reciprocal"), ("Inv", "reciprocal"), ("Log", "log"), ("Exp", "exp"), ("Relu", "relu")),
            *(("Relu6", "relu6"), ("Selu", "selu"), ("Elu", "elu"), ("Tanh", "tanh"), ("Sigmoid", "sigmoid")),
            *(("Softplus", "softplus"), ("Softsign", "softsign"), ("Softmax", "softmax"), ("Identity", "identity")),
            *(("LogSoftmax", "log_softmax"), ("StopGradient", "identity"), ("LogicalNot", "logical_not")),
            *(("Shape", "shape"), ("Cast", "cast")),
        )
    },
    **{
        name: (keras, *_REDUCED)
        for name, keras in (("Mean", "mean"), ("Sum", "sum"), ("Max", "max"), ("Min", "min"), ("Prod", "prod"))
    },
    "LeakyRelu": ("leaky_relu", ("a",), {"negative_slope": "alpha"}),
    "Select": ("where", ("condition", *_BINARY), {}),
    "SelectV2": ("where", ("condition", *_BINARY), {}),
    "MatMul": ("matmul", _BINARY, {"transpose_a": "transpose_a", "transpose_b": "transpose_b"}),
    "BatchMatMul": ("matmul", _BINARY, {"transpose_a": "adj_x", "transpose_b": "adj_y"}),
    "BatchMatMulV2": ("matmul", _BINARY, {"transpose_a": "adj_x", "transpose_b": "adj_y"}),
    "Einsum": ("einsum", ("*operands",), {"equation": "equation"}),
    "AddN": ("add_n", ("*a",), {}),
    "ConcatV2": ("concatenate", ("*a", "axis"), {}),
    "Pack": ("stack", ("*a",), {"axis": "axis"}),
    "Unpack": ("unstack", ("a",), {"axis": "axis"}),
    "Reshape": ("reshape", ("a", "shape"), {}),
    "Transpose": ("transpose", ("a", "axes"), {}),
    "ExpandDims": ("expand_dims", ("a", "axis"), {}),
    "Squeeze": ("squeeze", ("a",), {"axis": "squeeze_dims"}),
    "Tile": ("tile", ("a", "repeats"), {}),
    "Pad": ("pad", ("a", "pairs"), {}),
    "PadV2": ("pad", ("a", "pairs", "constant_values"), {}),
    "MirrorPad": ("pad", ("a", "pairs"), {"mode": "mode"}),
    "GatherV2": ("take", ("a", "indices", "axis"), {}),
    "ReverseV2": ("flip", ("a", "axis"), {}),
    "ClipByValue": ("clip", ("a", "low", "high"), {}),
    "StridedSlice": ("get_item", ("a", "begin", "end", "strides"), {}),
}


def tf_operation(layer: KerasLayer) -> str:
    """Keras's name of the operation; TensorFlow's where lrpfast does not read it."""
    op = str(_node(layer).get("op"))
    return _ROWS[op][0] if op in _ROWS else op


def tf_arguments(layer: KerasLayer, values: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """The call's arguments by position and by name: other layers' outputs, with the layer's constants between them."""
    node = _node(layer)
    op = str(node.get("op"))
    constants = layer.config.get("constants") or {}
    if not isinstance(constants, Mapping):
        raise ModelFormatError(f"{layer}: its constants are no mapping from their positions")
    fixed = {int(position): parsed(value) for position, value in constants.items()}
    rest = iter(values)
    arguments = [fixed[i] if i in fixed else next(rest, None) for i in range(len(values) + len(fixed))]
    _, names, attributes = _ROWS[op]
    result: dict[str, Any] = {}
    args: list[Any] = []
    for i, name in enumerate(names):
        if name.startswith("*"):
            count = len(arguments) - (len(names) - 1 - i)
            operands, arguments = arguments[:count], arguments[count:]
            if name == "*operands":
                args = operands
            else:
                result[name[1:]] = operands
        elif arguments:
            result[name] = arguments.pop(0)
    attr = node.get("attr")
    for name, key in attributes.items():
        value = _attribute(attr.get(key) if isinstance(attr, Mapping) else None)
        if value not in (None, []):
            result[name] = value
    if op == "StridedSlice":
        return args, {"a": result["a"], "key": _key(layer, result, attr if isinstance(attr, Mapping) else {})}
    if op == "BiasAdd" and isinstance(attr, Mapping) and _attribute(attr.get("data_format")) == "NCHW":
        raise layer.unsupported("works on channels first", "Save the model with channels last")
    return args, result


def _key(layer: KerasLayer, arguments: Mapping[str, Any], attr: Mapping[str, Any]) -> list[Any]:
    """What a StridedSlice takes, as Python writes it: bit i of each mask is of the i-th item."""
    masks = {
        name: int(_attribute(attr.get(f"{name}_mask")) or 0)
        for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    begin, end, strides = (np.ravel(arguments[key]).tolist() for key in ("begin", "end", "strides"))
    if not len(begin) == len(end) == len(strides):
        raise ModelFormatError(f"{layer}: its slice begins at {begin} and ends at {end}")
    key: list[Any] = []
    for i, (first, last, step) in enumerate(zip(begin, end, strides, strict=True)):
        bit = 1 << i
        if masks["ellipsis"] & bit:
            key.append(Ellipsis)
        elif masks["new_axis"] & bit:
            key.append(None)
        elif masks["shrink_axis"] & bit:
            key.append(int(first))
        else:
            bounds = (None if masks["begin"] & bit else first, None if masks["end"] & bit else last)
            key.append(slice(*bounds, None if step == 1 else step))
    return key


# -- the node ---------------------------------------------------------------------


def _node(layer: KerasLayer) -> Mapping[str, Any]:
    """The node's definition: a mapping, or the bytes of TensorFlow's message, which JSON holds as text."""
    node = layer.config.get("node_def")
    if isinstance(node, Mapping):
        return node
    if not isinstance(node, str):
        raise ModelFormatError(f"{layer}: its node_def is missing")
    try:
        return _message(node.encode())
    except (ValueError, IndexError) as error:
        raise ModelFormatError(f"{layer}: its node_def is damaged ({error})") from error


def _attribute(value: Any) -> Any:
    """An attribute's value, from JSON's form of TensorFlow's message."""
    if not isinstance(value, Mapping) or not value:
        return None
    ((kind, inner),) = list(value.items())[:1]
    if kind == "list" and isinstance(inner, Mapping):
        return [int(i) for i in inner.get("i", [])]
    if kind == "i":
        return int(inner)
    if kind == "s":
        return _text(inner)
    return inner if kind in ("b", "f") else None


def _text(value: Any) -> str:
    """A string: JSON's form has it in base 64."""
    if isinstance(value, bytes):
        return value.decode()
    return base64.b64decode(str(value)).decode()


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message in protobuf's wire format, and their values: numbers, or bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            raise ValueError("a field that does not end")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 127) << shift
        shift += 7
        if byte < 128 or shift > 63:
            return result, at


def _message(data: bytes) -> dict[str, Any]:
    """A NodeDef as JSON would have it: the operation's name, and its attributes."""
    result: dict[str, Any] = {"attr": {}}
    for number, value in _fields(data):
        if number == 2:
            result["op"] = value.decode()
        elif number == 5:
            entry = dict(_fields(value))
            result["attr"][entry[1].decode()] = _value(entry.get(2, b""))
    return result


def _value(data: bytes) -> dict[str, Any]:
    decode: dict[int, tuple[str, Callable[[Any], Any]]] = {
        1: ("list", lambda v: {"i": [n for number, n in _fields(v) if number == 3 for n in _numbers(n)]}),
        2: ("s", bytes),
        3: ("i", _signed),
        4: ("f", lambda v: float(np.frombuffer(v, "<f4")[0])),
        5: ("b", bool),
    }
    return {decode[number][0]: decode[number][1](value) for number, value in _fields(data) if number in decode}


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _numbers(value: Any) -> list[int]:
    """Whole numbers of a list, packed or one by one."""
    if isinstance(value, int):
        return [_signed(value)]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(_signed(number))
    return numbers
