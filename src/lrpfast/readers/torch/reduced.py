"""ATen operators that reduce axes by several layers, and other arithmetic of several steps; part of `nodes`' table."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...budget import take as count
from ...model import layers as L
from .. import reductions
from ..arithmetic import absolute, add, clipped, divide, logarithm, matrix_product, multiply, power, total
from ..axis_ops import affine, fixed
from ..channels_first import Value
from .graph import TorchNode

Converter = Callable[[TorchNode], Any]


def _axes(node: TorchNode, x: Value) -> list[int]:
    """The sample's axes that an operator reduces."""
    dim = node.get("dim")
    if dim is None or dim == []:
        raise node.unsupported("reduces over all axes, the batch's too", "Name the axes")
    return [x.axis(d) for d in (dim if isinstance(dim, list) else [dim])]


def _spread(root: bool) -> Converter:
    """The variance, or its root: the sum of squares is divided by the number of values less a correction."""

    def convert(node: TorchNode) -> Any:
        x = node.tensor()
        axes, keep = _axes(node, x), bool(node.get("keepdim", False))
        n = math.prod(fixed(x, axis) for axis in axes)
        correction = node.get("correction", int(bool(node.get("unbiased", True))))
        if not n > correction:
            raise node.unsupported(f"divides by {n} values less {correction}, which is no number above 0")
        variance = reductions.variance(node.builder, x, axes, keep)
        if correction:
            variance = affine(node.builder, variance, n / (n - correction), 0.0)
        return power(node.builder, variance, 0.5) if root else variance

    return convert


def _norm(node: TorchNode) -> Any:
    x, order = node.tensor(), node.get("ord", node.get("p", 2))
    axes, keep = _axes(node, x), bool(node.get("keepdim", False))
    if node.op.base == "aten.linalg_norm" and len(axes) == 2 and order not in (None, "fro"):
        return _of_matrices(node, x, axes, order, keep)
    order = 2.0 if order in (None, "fro") else float(order)
    if order == math.inf:
        return reductions.largest(node.builder, absolute(node.builder, x), axes, keep)
    if order < 1:
        raise node.unsupported(f"is the norm of order {order:g}", "Those of 1 and above work")
    return reductions.norm(order)(node.builder, x, axes, keep)


def _of_matrices(node: TorchNode, x: Value, axes: list[int], order: Any, keep: bool) -> Value:
    """The largest sum of absolutes along columns (order 1) or rows (infinity), or the root of the sum of squares."""
    if order == "fro":
        return reductions.norm(2.0)(node.builder, x, axes, keep)
    if order not in (1, math.inf):
        raise node.unsupported(f"is the matrix norm of order {order}", 'Those of 1, inf and "fro" work')
    sums = reductions.sum_of_absolutes(node.builder, x, [axes[order != 1]], True)
    return reductions.largest(node.builder, sums, axes, keep)


def _matrix_norm(node: TorchNode) -> Any:
    x, dim = node.tensor(), node.get("dim", [-2, -1])
    axes = [x.axis(d) for d in dim]
    return _of_matrices(node, x, axes, node.get("ord", "fro"), bool(node.get("keepdim", False)))


def _unit_norm(node: TorchNode) -> Any:
    """x / |x|, as `passes` found it."""
    x = node.tensor()
    return reductions.unit_norm(node.builder, x, _axes(node, x))


def _product(node: TorchNode) -> Any:
    x = node.tensor()
    return reductions.product(node.builder, x, _axes(node, x), bool(node.get("keepdim", False)))


def _cosine_similarity(node: TorchNode) -> Any:
    """x · y / (max(|x|, eps) max(|y|, eps))."""
    a, b = node.operands(node.get("x1"), node.get("x2"))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        raise node.unsupported("compares with a constant", "Divide it by its norm, and multiply by it")
    axes, builder, low = [a.axis(node.get("dim", 1))], node.builder, float(node.get("eps", 1e-8))
    lengths = [clipped(builder, reductions.norm(2.0)(builder, x, axes, False), low, None) for x in (a, b)]
    return divide(builder, total(builder, multiply(builder, a, b), axes, False), multiply(builder, *lengths))


def _distance(node: TorchNode) -> Any:
    """|x - y + eps| over the last axis."""
    a, b = node.operands(node.get("x1"), node.get("x2"))
    difference = affine(node.builder, add(node.builder, a, b, -1.0), 1.0, float(node.get("eps", 1e-6)))
    axes = [difference.axis(-1)]
    return reductions.norm(float(node.get("p", 2)))(node.builder, difference, axes, bool(node.get("keepdim", False)))


# -- arithmetic ---------------------------------------------------------------


def _plus_product(operation: Callable[..., Any]) -> Converter:
    """self + value · (tensor1 · tensor2), or their quotient."""

    def convert(node: TorchNode) -> Any:
        x, a, b = node.operands(node.get("self"), node.get("tensor1"), node.get("tensor2"))
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return add(node.builder, x, a * b if operation is multiply else a / b, float(node.get("value", 1)))
        return add(node.builder, x, operation(node.builder, a, b), float(node.get("value", 1)))

    return convert


def _lerp(node: TorchNode) -> Any:
    """self + weight · (end - self)."""
    weight = node.get("weight")
    if not isinstance(weight, (int, float)):
        raise node.unsupported("takes weights that are a tensor", "Write the sum of products out")
    a, b = node.operands(node.get("self"), node.get("end"))
    if isinstance(a, np.ndarray):
        return add(node.builder, a * (1 - weight), b, float(weight))
    return add(node.builder, affine(node.builder, a, 1.0 - weight, 0.0), b, float(weight))


def _plus_matrices(node: TorchNode) -> Any:
    """beta · self + alpha · batch1 @ batch2."""
    result = matrix_product(node.builder, node.tensor("batch1"), node.tensor("batch2"))
    alpha, beta = float(node.get("alpha", 1)), float(node.get("beta", 1))
    result = affine(node.builder, result, alpha, 0.0) if alpha != 1 else result
    if beta == 0:
        return result
    x, result = node.operands(node.get("self"), result)  # type: ignore[assignment]
    return add(node.builder, result, x, beta)


def _of_a_base(base: float, exponential: bool) -> Converter:
    """base ** x, or the logarithm to a base."""

    def convert(node: TorchNode) -> Any:
        x, factor = node.tensor(), math.log(base)
        if exponential:
            return node.builder.each(L.Activation("exponential"), affine(node.builder, x, factor, 0.0))
        return affine(node.builder, logarithm(node.builder, x), 1 / factor, 0.0)

    return convert


def _triangle(function: Callable[..., Any]) -> Converter:
    """Matrices with zeros below, or above, a diagonal."""

    def convert(node: TorchNode) -> Any:
        x = node.tensor()
        rows, columns = (fixed(x, x.axis(dim)) for dim in (-2, -1))
        count(8 * rows * columns, f"a triangle of {rows} x {columns} values")
        return multiply(node.builder, x, function(np.ones((rows, columns)), int(node.get("diagonal", 0))))

    return convert


#: Operators of this file, without their overloads.
REDUCED: dict[str, Converter] = {
    "aten.var": _spread(False),
    "aten.std": _spread(True),
    **dict.fromkeys(("aten.linalg_vector_norm", "aten.linalg_norm", "aten.norm"), _norm),
    "aten.linalg_matrix_norm": _matrix_norm,
    "lrpfast.unit_norm": _unit_norm,
    "aten.prod": _product,
    "aten.cosine_similarity": _cosine_similarity,
    "aten.pairwise_distance": _distance,
    "aten.addcmul": _plus_product(multiply),
    "aten.addcdiv": _plus_product(divide),
    "aten.lerp": _lerp,
    "aten.baddbmm": _plus_matrices,
    "aten.exp2": _of_a_base(2.0, True),
    "aten.log2": _of_a_base(2.0, False),
    "aten.log10": _of_a_base(10.0, False),
    "aten.tril": _triangle(np.tril),
    "aten.triu": _triangle(np.triu),
}
