"""Several nodes that are one layer: what exporters write where the format has no operator of its own.

A function of one value is recognised by its figures, not by its spelling: the nodes are computed
at a few hundred points and compared with the functions that lrpfast has. Where nodes match, one
node of a name of ours (it ends in "*") stands for them, under the name of the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .file import Node

#: Where functions are compared, and how closely; exporters round their constants to float32.
_POINTS = np.concatenate([np.linspace(-9.013, 9.007, 361), [-40.0, 40.0]])
_CLOSE = 2e-6

_erf = np.vectorize(math.erf, otypes=[float])


def _sigmoid(x: np.ndarray) -> Any:
    return 1 / (1 + np.exp(-x))


def _softplus(x: np.ndarray) -> Any:
    return np.logaddexp(0, x)


def _clip(x: Any, low: Any = -np.inf, high: Any = np.inf) -> Any:
    return np.minimum(np.maximum(x, low), high)


#: The functions that are recognised: the node that stands for them, and their formula.
_FUNCTIONS: tuple[tuple[str, dict[str, Any], Callable[[np.ndarray], np.ndarray]], ...] = (
    ("Relu", {}, lambda x: np.maximum(x, 0)),
    ("Gelu", {"approximate": "none"}, lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2)))),
    (
        "Gelu",
        {"approximate": "tanh"},
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    ("Silu*", {}, lambda x: x * _sigmoid(x)),
    ("Mish", {}, lambda x: x * np.tanh(_softplus(x))),
    ("HardSwish", {}, lambda x: x * _clip(x / 6 + 0.5, 0, 1)),
    ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, lambda x: _clip(x / 6 + 0.5, 0, 1)),
    ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}, lambda x: _clip(x / 5 + 0.5, 0, 1)),
    ("Sigmoid", {}, _sigmoid),
    ("Tanh", {}, np.tanh),
    ("LogSigmoid*", {}, lambda x: -_softplus(-x)),
    ("Softplus", {}, _softplus),
    ("Softsign", {}, lambda x: x / (1 + np.abs(x))),
    ("Relu6*", {}, lambda x: _clip(x, 0, 6)),
)
_TABLE = [(op, attributes, function(_POINTS)) for op, attributes, function in _FUNCTIONS]

#: Operators that functions are made of, on numbers.
_FORMULAS: dict[str, Callable[..., np.ndarray]] = {
    **{"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power},
    **{"Sqrt": np.sqrt, "Neg": np.negative, "Abs": np.abs, "Exp": np.exp, "Log": np.log, "Erf": _erf},
    **{"Tanh": np.tanh, "Sigmoid": _sigmoid, "Softplus": _softplus, "Reciprocal": lambda x: 1 / x},
    **{"Relu": lambda x: np.maximum(x, 0), "Clip": _clip, "Min": np.minimum, "Max": np.maximum},
    **{"Identity": lambda x: x, "HardSigmoid": lambda x: x},
}
#: Those that end one.
_ENDS = ("Mul", "Div", "Add", "Sub", "Clip", "Min", "Max", "Log", "Reciprocal")
#: The most nodes that one function may be made of.
_DEEPEST = 24

_AFFINE = ("Add", "Sub", "Mul", "Div")


class Matcher:
    """Finds layers that the file spells out as several nodes."""

    def __init__(self, nodes: Sequence[Node], constants: Mapping[str, np.ndarray], outputs: Sequence[str]) -> None:
        self.constants = constants
        self.maker = {name: node for node in nodes for name in node.outputs if name}
        self.rank = {name: i for i, node in enumerate(nodes) for name in node.outputs if name}
        self.uses: dict[str, int] = {}
        for name in [*(name for node in nodes for name in node.inputs), *outputs]:
            self.uses[name] = self.uses.get(name, 0) + 1
        self._functions: dict[str, Node | None] = {}
        #: arrays that belong to no name in the file
        self.made: dict[str, np.ndarray] = {}

    def match(self, node: Node) -> Node:
        """The node that stands for this one and those before it; itself where it is no pattern."""
        return self.function(node) or self._normalized(node) or self._affine(node) or self._stacked(node) or node

    # -- functions of one value -------------------------------------------------

    def function(self, node: Node) -> Node | None:
        """A function of one value that lrpfast has."""
        if node.op not in _ENDS:
            return None
        if node.outputs[0] not in self._functions:
            self._functions[node.outputs[0]] = self._recognised(node)
        return self._functions[node.outputs[0]]

    def _recognised(self, root: Node) -> Node | None:
        inside, edge, stack = {root.outputs[0]}, set(), [root]
        while stack:  # all that the root is computed from by such operators
            for name in filter(None, stack.pop().inputs):
                if name in self.constants or name in inside:
                    continue
                maker = self.maker.get(name)
                if maker is not None and maker.op in _FORMULAS and len(inside) < _DEEPEST:
                    inside.add(name)
                    stack.append(maker)
                edge.add(name)
        if len(edge) > _DEEPEST or len(inside) < 2 and root.op not in ("Min", "Max", "Clip"):
            return None
        for base in sorted(edge, key=lambda name: self.rank.get(name, -1)):  # the widest pattern first
            values = self._values(root.outputs[0], base, {}, inside)
            if values is None or not np.isfinite(values).all():
                continue
            for op, attributes, wanted in _TABLE:
                if (np.abs(values - wanted) <= _CLOSE * (1 + np.abs(wanted))).all():
                    return replace(root, op=op, inputs=(base,), attributes=attributes)
        return None

    def _values(self, name: str, base: str, known: dict[str, Any], inside: set[str]) -> Any:
        """What a value is where ``base`` is `_POINTS`; None where it depends on something else."""
        if name == base:
            return _POINTS
        if name in self.constants:
            array = self.constants[name]
            return np.float64(array.ravel()[0]) if array.size == 1 and array.dtype.kind in "fiu" else None
        if name not in inside:
            return None
        if name not in known:
            known[name] = None
            node = self.maker[name]
            formula = _FORMULAS[node.op]
            args = [self._values(i, base, known, inside) if i else None for i in node.inputs]
            if node.op == "Clip":
                ends = {"low": args[1] if len(args) > 1 else node.attributes.get("min")}
                ends["high"] = args[2] if len(args) > 2 else node.attributes.get("max")
                missing = args[0] is None or any(
                    i and a is None for i, a in zip(node.inputs[1:], args[1:], strict=True)
                )
                if not missing:
                    known[name] = _clip(args[0], **{key: end for key, end in ends.items() if end is not None})
            elif node.op == "HardSigmoid" and args[0] is not None:
                alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
                known[name] = _clip(alpha * args[0] + beta, 0, 1)
            elif all(a is not None for a in args) and not (node.op in ("Min", "Max") and len(args) != 2):
                with np.errstate(all="ignore"):
                    known[name] = formula(*args)
        return known[name]

    # -- layer normalization ------------------------------------------------------

    def _normalized(self, node: Node) -> Node | None:
        """(x - mean) / sqrt(variance + epsilon) over a sample's axes, or x / sqrt(mean of squares + epsilon)."""
        if node.op not in ("Div", "Mul"):
            return None
        for top, bottom in (node.inputs, node.inputs[::-1])[: 2 if node.op == "Mul" else 1]:
            root = self._made(bottom)
            if node.op == "Mul":
                if root is not None and root.op == "Reciprocal":
                    root = self._made(root.inputs[0])
                elif root is None or root.op != "Pow" or self._number(root.inputs[1]) != -0.5:
                    continue
            if root is None or not (
                root.op == "Sqrt" or (root.op == "Pow" and abs(self._number(root.inputs[1])) == 0.5)
            ):
                continue
            total = self._made(root.inputs[0])
            if total is None or total.op != "Add":
                continue
            epsilon, rest = self._split(total)
            mean = self._made(rest)
            if epsilon is None or epsilon.size != 1 or mean is None or mean.op != "ReduceMean":
                continue
            square = self._made(mean.inputs[0])
            if square is None or not self._is_square(square):
                continue
            found = self._centred(top, square.inputs[0], mean)
            if found is not None:
                x, op = found
                attributes = {"axes": self._axes(mean), "epsilon": float(epsilon.ravel()[0])}
                return replace(node, op=op, inputs=(x,), attributes=attributes)
        return None

    def _centred(self, top: str, squared: str, mean: Node) -> tuple[str, str] | None:
        """What is normalized, and how, where ``top`` is divided by the root of the mean of ``squared``²."""
        if not mean.attributes.get("keepdims", 1) or not self._axes(mean):
            return None
        for name in {top, squared}:
            sub = self._made(name)
            if sub is None or sub.op != "Sub":
                return (top, "RMSNorm*") if top == squared else None
            middle = self._made(sub.inputs[1])
            fits = (
                middle is not None
                and middle.op == "ReduceMean"
                and middle.inputs[0] == sub.inputs[0]
                and self._axes(middle) == self._axes(mean)
                and middle.attributes.get("keepdims", 1)
            )
            if not fits:
                return (top, "RMSNorm*") if top == squared else None
        subs = [self.maker[name].inputs[0] for name in (top, squared)]
        return (subs[0], "LayerNorm*") if subs[0] == subs[1] else None

    def _is_square(self, node: Node) -> bool:
        if node.op == "Pow":
            return self._number(node.inputs[1]) == 2
        return node.op == "Mul" and node.inputs[0] == node.inputs[1]

    def _axes(self, node: Node) -> tuple[int, ...] | None:
        if len(node.inputs) > 1 and node.inputs[1]:
            array = self.constants.get(node.inputs[1])
            return None if array is None else tuple(int(a) for a in array.ravel())
        return node.attributes.get("axes")

    # -- constants added and multiplied -------------------------------------------

    def _affine(self, node: Node) -> Node | None:
        """Constants added and multiplied: a bias, batch normalization, or a layer normalization's own."""
        parts: list[tuple[Node, np.ndarray, bool]] = []
        at: Node | None = node
        name = node.outputs[0]
        while at is not None and at.op in _AFFINE:
            constant, rest = self._split(at)
            if constant is None or (at.op == "Div" and at.inputs[1] == rest):
                break
            if parts and (self.uses[name] != 1 or self.function(at)):
                break
            parts.append((at, constant.astype(np.float64), at.inputs[1] == rest))
            name = rest
            at = self._made(rest)
        if not parts:
            return None
        scale, shift = np.array(1.0), np.array(0.0)
        for part, constant, turned in reversed(parts):
            if part.op in ("Add", "Sub"):
                if part.op == "Sub":
                    if turned:
                        scale, shift = -scale, -shift
                    else:
                        constant = -constant
                shift = shift + constant
            else:
                with np.errstate(all="ignore"):
                    factor = constant if part.op == "Mul" else 1 / constant
                scale, shift = scale * factor, shift * factor
        extra = {"scale": scale, "shift": shift}
        if at is None or self.uses[name] != 1:
            return replace(node, op="Affine*", inputs=(name,), attributes=extra)
        if at.op == "BatchNormalization" and len(at.outputs) == 1:
            return replace(at, outputs=node.outputs, attributes={**at.attributes, "affine": extra})
        if at.op in ("Conv", "ConvTranspose", "MatMul", "Gemm") and (scale == 1).all():
            room = len(at.inputs) < 3 or (at.op != "MatMul" and not at.inputs[2])
            room = room and any(i in self.constants for i in at.inputs)
            if room and "added" not in at.attributes:
                return replace(at, outputs=node.outputs, attributes={**at.attributes, "added": shift})
        if (normal := self._normalized(at)) is not None:
            return replace(normal, outputs=node.outputs, attributes={**normal.attributes, "affine": extra})
        return replace(node, op="Affine*", inputs=(name,), attributes=extra)

    # -- stack, then sum ----------------------------------------------------------

    def _stacked(self, node: Node) -> Node | None:
        """Tensors stacked along an axis of their own and summed over it: how exporters write a Sum module."""
        ops = {"ReduceSum": "Sum", "ReduceMean": "Mean", "ReduceMax": "Max", "ReduceMin": "Min"}
        concat = self._made(node.inputs[0]) if node.op in ops else None
        if concat is None or concat.op != "Concat" or node.attributes.get("keepdims", 1):
            return None
        axes = self._axes(node)
        if axes != (concat.attributes.get("axis"),):
            return None
        names = []
        for name in concat.inputs:
            part = self._made(name)
            if part is None or part.op != "Unsqueeze" or self._axes(part) != axes:
                return None
            names.append(part.inputs[0])
        return replace(node, op=ops[node.op], inputs=tuple(names), attributes={})

    # -- helpers ------------------------------------------------------------------

    def _made(self, name: str) -> Node | None:
        return self.maker.get(name)

    def _number(self, name: str) -> float:
        array = self.constants.get(name)
        return float(array.ravel()[0]) if array is not None and array.size == 1 else math.nan

    def _split(self, node: Node) -> tuple[np.ndarray | None, str]:
        """The constant among a node's two inputs, and the other."""
        if len(node.inputs) != 2:
            return None, ""
        a, b = node.inputs
        if b in self.constants and a not in self.constants:
            return self.constants[b], a
        if a in self.constants and b not in self.constants:
            return self.constants[a], b
        return None, ""
