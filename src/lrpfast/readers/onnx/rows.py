"""Operators on samples that a Reshape joined with another axis: (batch · count, …), as tf2onnx writes dense layers.

Inside, the rows are an axis of the sample. Operators that treat every row alike are read as ever, on one axis more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .file import Node
from .fold import FoldedValue
from .values import Rows

#: Operators that treat rows alike, where they work along no axis or one after the first.
_ALIKE = {
    *("MatMul", "Gemm", "Affine*", "Add", "Sub", "Mul", "Div", "Pow", "Neg", "Sum", "Min", "Max", "Sqrt", "Reciprocal"),
    *(
        "Relu",
        "LeakyRelu",
        "PRelu",
        "Elu",
        "Celu",
        "Selu",
        "Gelu",
        "Sigmoid",
        "Tanh",
        "HardSigmoid",
        "HardSwish",
        "Exp",
    ),
    *("Softplus", "Softsign", "Mish", "Swish", "Silu*", "LogSigmoid*", "Clip", "Clip*", "Abs", "ThresholdedRelu"),
    *("Softmax", "LogSoftmax", "LayerNormalization", "LayerNorm*", "RMSNorm*", "Identity", "Dropout", "Cast"),
}
#: Those that know rows themselves.
KNOWING = ("Reshape", "Flatten", "Shape", "Size")


def as_samples(node: Node, args: Sequence[Any], opset: int) -> tuple[Node, list[Any], int]:
    """The node and its inputs with rows as an axis of the sample, and how many rows there are."""
    rows = [arg for arg in args if isinstance(arg, Rows)]
    counts = {row.count for row in rows}
    known = all(arg is None or isinstance(arg, (Rows, FoldedValue)) for arg in args)
    if node.op not in _ALIKE or len(counts) > 1 or not known:
        raise node.unsupported(
            "takes rows that a Reshape joined with the batch; dense layers and activations work on these",
            "Keep the batch axis first and samples apart",
        )
    rank = max(len(row.value.shape) for row in rows)  # of the file's tensor, batch and all
    if node.op in ("MatMul", "Gemm") and isinstance(args[1], FoldedValue) and args[1].first.ndim > rank:
        raise node.unsupported(f"has a weight of shape {args[1].first.shape}, which puts axes before the rows")
    attributes = {key: _moved(node, key, value, rank) for key, value in node.attributes.items()}
    if node.op in ("Softmax", "LogSoftmax") and opset < 13:
        attributes.setdefault("axis", 2)
    if node.op == "Gemm":
        attributes["rows*"] = 1
    inputs = [
        FoldedValue(_constant(node, arg.first, rank), _constant(node, arg.second, rank))
        if isinstance(arg, FoldedValue) and not (node.op in ("MatMul", "Gemm") and i == 1)
        else arg.value
        if isinstance(arg, Rows)
        else arg
        for i, arg in enumerate(args)
    ]
    return replace(node, attributes=attributes), inputs, rows[0].count


def _moved(node: Node, key: str, value: Any, rank: int) -> Any:
    """An attribute for samples of one axis more: axes counted from the first, and constants."""
    if key == "axis" and -rank <= value < rank:
        return value % rank + 1 if value % rank else 0  # 0, the rows and the batch, is refused where it is read
    if key == "axes":
        return tuple(a % rank + 1 if a % rank else 0 for a in value)
    if key == "added" and value is not None:
        return _constant(node, value, rank)
    if key in ("scale", "shift") and node.op == "Affine*":
        return _constant(node, value, rank)
    if key == "affine" and value is not None:
        return {name: _constant(node, array, rank) for name, array in value.items()}
    return value


def _constant(node: Node, array: np.ndarray, rank: int) -> np.ndarray:
    """A constant without the axis that meets the rows; it may not tell one from another."""
    array = np.asarray(array)
    if array.ndim < rank:
        return array
    if array.ndim > rank or array.shape[0] != 1:
        raise node.unsupported(f"combines a constant of shape {array.shape} with rows that are the batch's too")
    return np.asarray(array[0])
