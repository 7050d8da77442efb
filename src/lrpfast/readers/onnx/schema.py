"""What the ONNX standard says of a node, checked before the node is read: its inputs, outputs and attributes.

What reads a node may then rely on it: inputs that must be there are, whole numbers are whole numbers, and an
attribute is of its type. The standard is the one that the package onnx has.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from ...errors import ModelFormatError
from .file import Branch, Node, package

#: Attribute types as the standard names them: what `file` makes of them, and what to call it.
_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "FLOAT": ((float, int), "a number"),
    "INT": (int, "a whole number"),
    "STRING": (str, "text"),
    "TENSOR": (np.ndarray, "a tensor"),
    "GRAPH": (Branch, "a graph"),
    "FLOATS": (tuple, "numbers"),
    "INTS": (tuple, "whole numbers"),
    "STRINGS": (tuple, "texts"),
}
_ITEMS: dict[str, tuple[type, ...]] = {"FLOATS": (float, int), "INTS": (int,), "STRINGS": (str,)}


class _Schema:
    """An operator's definition, as plain records."""

    def __init__(self, schema: Any) -> None:
        self.inputs = (schema.min_input, schema.max_input)
        self.outputs = (schema.min_output, schema.max_output)
        self.names = [item.name for item in schema.inputs]
        self.needed = [str(item.option).endswith("Single") for item in schema.inputs]
        self.whole = [set(item.types) <= {"tensor(int32)", "tensor(int64)"} for item in schema.inputs]
        self.attributes = {key: (a.type.name, a.required) for key, a in schema.attributes.items()}


@lru_cache(maxsize=1024)
def _schema(op: str, opset: int) -> _Schema | None:
    """None for an operator that the standard does not have in this version."""
    defs = package().defs
    try:
        return _Schema(defs.get_schema(op, opset, ""))
    except defs.SchemaError:
        return None


def check(node: Node, opset: int, constants: Mapping[str, np.ndarray]) -> None:
    """ModelFormatError where the node is none that the standard allows."""
    schema = _schema(node.op, opset)
    if schema is None:
        return
    branches = [value for value in node.attributes.values() if isinstance(value, Branch)]
    inputs = node.inputs[: len(node.inputs) - sum(len(branch.outer) for branch in branches)]
    for names, (least, most), label in ((inputs, schema.inputs, "inputs"), (node.outputs, schema.outputs, "outputs")):
        if not least <= len(names) <= most:
            expected = f"{least}" if most == least else f"{least} to {most}" if most < 1 << 20 else f"at least {least}"
            raise ModelFormatError(f"it has {len(names)} {label}, {node.op} has {expected}")
    for name, label, needed, whole in zip(inputs, schema.names, schema.needed, schema.whole, strict=False):
        if needed and not name:
            raise ModelFormatError(f"its input {label!r} is missing")
        if whole and name in constants and constants[name].dtype.kind not in "iu":
            raise ModelFormatError(f"its {label} is of {constants[name].dtype}, not of whole numbers")
    for key, (kind, required) in schema.attributes.items():
        if key not in node.attributes:
            if required:
                raise ModelFormatError(f"its attribute {key!r} is missing")
        elif kind in _KINDS and not _is(node.attributes[key], kind):
            shown = repr(node.attributes[key])[:60]
            raise ModelFormatError(f"its attribute {key!r} is {shown}, where {node.op} has {_KINDS[kind][1]}")


def _is(value: Any, kind: str) -> bool:
    items = value if isinstance(value, tuple) else ()
    return isinstance(value, _KINDS[kind][0]) and all(isinstance(v, _ITEMS[kind]) for v in items if kind in _ITEMS)
