"""Several nodes that are one layer: what exporters write where the format has no operator of its own.

A function of one value is recognised by its formula (formulas.py), not by its spelling. Where nodes match, one
node of a name of ours (it ends in "*") stands for them, under the name of the last.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...errors import ModelFormatError
from .fast_norms import fast_norm
from .file import Node
from .fold import integers
from .formulas import FORMULAS, Formula, NoFormula, X, clip, number, power, recognised
from .log_sums import alike, log_sum
from .step_masks import step_mask
from .unit_norms import unit_norm

#: Operators that make a function more than sums and products; without one there is none to recognise.
_CURVED = {
    *("Abs", "Exp", "Log", "Erf", "Tanh", "Sigmoid", "Softplus", "Relu"),
    *("Clip", "Min", "Max", "HardSigmoid"),
}
#: All that functions are made of.
_PARTS = {*FORMULAS, *_CURVED, "Pow"}
#: Those that end one.
_ENDS = ("Mul", "Div", "Add", "Sub", "Clip", "Min", "Max", "Log", "Reciprocal")
#: The most nodes that one function may be made of, and how many of `_CURVED` one after the other.
_MOST_NODES, _DEEPEST = 24, 4

_AFFINE = ("Add", "Sub", "Mul", "Div")


def _applied(node: Node, args: Sequence[Formula | None]) -> Formula:
    """An operator's formula, of those of its inputs."""
    first, rest = args[0] if args else None, args[1:]
    if first is None or (node.op in FORMULAS and None in rest):
        raise NoFormula
    if node.op == "Clip":
        return clip(first, *(_end(node, rest, i, key) for i, key in enumerate(("min", "max"))))
    if node.op == "HardSigmoid":
        return clip(node.attributes.get("alpha", 0.2) * first + node.attributes.get("beta", 0.5), 0, 1)
    if node.op == "Pow":
        return power(first, _number_of(rest[0] if len(rest) == 1 else None))
    if node.op in ("Min", "Max"):
        variable = [f for f in args if f is not None and any(f.terms)]
        ends = [_number_of(f) for f in args if f is None or not any(f.terms)]
        if len(variable) != 1 or not ends:
            raise NoFormula
        return clip(variable[0], high=min(ends)) if node.op == "Min" else clip(variable[0], low=max(ends))
    return FORMULAS[node.op](*args)


def _number_of(f: Formula | None) -> float:
    if f is None or any(f.terms):
        raise NoFormula
    return f.constant


def _end(node: Node, limits: Sequence[Formula | None], i: int, key: str) -> float:
    """One of Clip's ends: an input or, before version 11, an attribute."""
    none = (-math.inf, math.inf)[i]
    if i < len(limits):
        end = limits[i]
        return none if end is None else _number_of(end)
    return float(node.attributes.get(key, none))


def _fitted(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of two constants together."""
    try:
        return np.broadcast_shapes(a, b)
    except ValueError:
        raise ModelFormatError(f"constants of shapes {a} and {b} do not fit each other") from None


def _stays_apart(node: Node, constant: np.ndarray, after: tuple[Node, np.ndarray, bool]) -> bool:
    """Whether constants are layers of their own: two sums (positions, types), or a scale and a bias of scores."""
    if after[0].op not in ("Add", "Sub") or after[1].size == 1:
        return False
    return node.op in ("Add", "Sub") if constant.size > 1 else node.op in ("Mul", "Div") and after[1].ndim > 2


class Matcher:
    """Finds layers that the file spells out as several nodes."""

    def __init__(self, nodes: Sequence[Node], constants: Mapping[str, np.ndarray], outputs: Sequence[str]) -> None:
        self.constants = constants
        self.producer = {name: node for node in nodes for name in node.outputs if name}
        self.rank = {name: i for i, node in enumerate(nodes) for name in node.outputs if name}
        self.uses: dict[str, int] = {}
        for name in [*(name for node in nodes for name in node.inputs), *outputs]:
            self.uses[name] = self.uses.get(name, 0) + 1
        self._functions: dict[str, Node | None] = {}

    def match(self, node: Node) -> Node:
        """The node that stands for this one and those before it; itself where it is no pattern."""
        result = step_mask(self, node) or self.function(node) or self._softmax(node) or log_sum(self, node)
        result = result or self._normalized(node) or unit_norm(self, node) or self._affine(node)
        result = result or self._stacked(node) or node
        return replace(result, written=node.op) if result.op.endswith("*") else result

    def written_out(self, node: Node) -> Node | None:
        """The function, softmax or normalization that ends here, with its constants; None where there is none."""
        result = self.function(node) or self._softmax(node) or log_sum(self, node) or self._normalized(node)
        if result is None and (affine := self._affine(node)) is not None and affine.op in ("LayerNorm*", "RMSNorm*"):
            return affine
        return result

    # -- functions of one value -------------------------------------------------

    def function(self, node: Node) -> Node | None:
        """A function of one value that lrpfast has."""
        if node.op not in _ENDS:
            return None
        if node.outputs[0] not in self._functions:
            self._functions[node.outputs[0]] = self._recognised(node)
        return self._functions[node.outputs[0]]

    def _recognised(self, root: Node) -> Node | None:
        inside, edge, curved = self._around(root)
        if not curved or len(inside) < 2:
            return None
        for base in sorted(edge, key=lambda name: self.rank.get(name, -1)):  # the widest pattern first
            known: dict[str, Formula | None] = {base: X}
            try:
                result = recognised(self._formula(root.outputs[0], known, inside))
            except NoFormula:
                continue
            if result is not None:
                used = [i for name in known if name != base for i in self.producer[name].inputs if i in self.constants]
                rank = max((self.constants[i].ndim for i in used), default=0)
                return replace(root, op=result[0], inputs=(base,), attributes={**result[1], "rank*": rank})
        return None

    def _around(self, root: Node) -> tuple[set[str], set[str], bool]:
        """What the root may be a formula of: values that such operators make, what these take, and if one is curved.

        The nearest come first: sums of residual blocks may go back to the first of them.
        """
        inside, edge, any_curved = {root.outputs[0]}, set(), False
        queue = deque([(root, 0)])
        while queue:
            node, depth = queue.popleft()
            depth += node.op in _CURVED
            any_curved = any_curved or depth > 0
            for name in node.inputs:
                if not name or name in self.constants or name in inside:
                    continue
                producer = self.producer.get(name)
                if producer is not None and producer.op in _PARTS and depth < _DEEPEST and len(inside) < _MOST_NODES:
                    inside.add(name)
                    queue.append((producer, depth))
                edge.add(name)
        return inside, edge, any_curved

    def _formula(self, name: str, known: dict[str, Formula | None], inside: set[str]) -> Formula:
        """What a value is of the base, which is `X` in ``known``; NoFormula where it depends on something else."""
        if name in self.constants:
            array = self.constants[name]
            if array.size != 1 or array.dtype.kind not in "fiu":
                raise NoFormula
            return number(float(array.ravel()[0]))
        if name not in known:
            if name not in inside:
                raise NoFormula
            known[name] = None  # found to be no formula, until it is one
            node = self.producer[name]
            args = [self._formula(i, known, inside) if i else None for i in node.inputs]
            known[name] = _applied(node, args)
        result = known[name]
        if result is None:
            raise NoFormula
        return result

    # -- softmax ------------------------------------------------------------------

    def _softmax(self, node: Node) -> Node | None:
        """exp(x) / Σ exp(x) along one axis, where x may have its largest value subtracted, as JAX writes it."""
        powers = self._producer(node.inputs[0]) if node.op == "Div" else None
        if powers is None or powers.op != "Exp":
            return None
        total, shapes = self._reduced(node.inputs[1], "ReduceSum")
        if total is None or not alike(self, total.inputs[0], node.inputs[0]) or len(self._axes(total) or ()) != 1:
            return None
        x, centred = powers.inputs[0], self._producer(powers.inputs[0])
        if centred is not None and centred.op == "Sub":
            largest, more = self._reduced(centred.inputs[1], "ReduceMax")
            if largest is not None and largest.inputs[0] == centred.inputs[0]:
                if self._axes(largest) != self._axes(total):
                    return None
                x, shapes = centred.inputs[0], [*shapes, *more]
        (axis,) = self._axes(total) or ()
        return replace(node, op="Softmax*", inputs=(x, *shapes), attributes={"axis": axis})

    def _reduced(self, name: str, op: str) -> tuple[Node | None, list[str]]:
        """The reduction whose axis of size 1 this value has, and the shapes that it got on the way."""
        shapes: list[str] = []
        node, unsqueezed = self._producer(name), None
        while node is not None and node.op in ("Reshape", "Expand", "Unsqueeze", "Max"):
            rest = node.inputs[0]
            if node.op == "Max":
                constant, rest = self._split(node)
                if constant is None or not np.isneginf(constant).all():
                    return None, []
            elif node.op == "Unsqueeze":
                if unsqueezed is not None:
                    return None, []
                unsqueezed = self._axes(node)
            elif 0 in self.constants.get(node.inputs[1], np.ones(1)):  # sizes that are copied
                return None, []
            else:
                shapes.append(node.inputs[1])
            node = self._producer(rest)
        if node is None or node.op != op:
            return None, []
        stays = bool(node.attributes.get("keepdims", 1))
        again = stays if unsqueezed is None else not stays and unsqueezed == self._axes(node)
        return (node, shapes) if again or (not stays and shapes and unsqueezed is None) else (None, [])

    # -- layer normalization ------------------------------------------------------

    def _normalized(self, node: Node) -> Node | None:
        """(x - mean) / sqrt(variance + epsilon) over a sample's axes, or x / sqrt(mean of squares + epsilon)."""
        if node.op not in ("Div", "Mul"):
            return None
        if (fast := fast_norm(self, node)) is not None:
            return fast
        for top, bottom in (node.inputs, node.inputs[::-1])[: 2 if node.op == "Mul" else 1]:
            root, exponent = self._producer(bottom), -0.5 if node.op == "Mul" else 0.5
            if root is not None and root.op == "Reciprocal":
                root, exponent = self._producer(root.inputs[0]), -exponent
            if root is None or self._exponent(root) != exponent:
                continue
            total = self._producer(root.inputs[0])
            if total is None or total.op != "Add":
                continue
            epsilon, rest = self._split(total)
            mean = self._producer(rest)
            if epsilon is None or epsilon.size != 1 or mean is None or mean.op != "ReduceMean":
                continue
            square = self._producer(mean.inputs[0])
            if square is None or not self._is_square(square):
                continue
            result = self._centred(top, square.inputs[0], mean)
            if result is not None:
                x, op = result
                attributes = {"axes": self._axes(mean), "epsilon": float(epsilon.ravel()[0])}
                return replace(node, op=op, inputs=(x,), attributes=attributes)
        return None

    def _centred(self, top: str, squared: str, mean: Node) -> tuple[str, str] | None:
        """What is normalized, and how, where ``top`` is divided by the root of the mean of ``squared``²."""
        if not mean.attributes.get("keepdims", 1) or not self._axes(mean):
            return None
        for name in {top, squared}:
            sub = self._producer(name)
            if sub is None or sub.op != "Sub":
                return (top, "RMSNorm*") if top == squared else None
            middle = self._producer(sub.inputs[1])
            fits = (
                middle is not None
                and middle.op == "ReduceMean"
                and middle.inputs[0] == sub.inputs[0]
                and self._axes(middle) == self._axes(mean)
                and middle.attributes.get("keepdims", 1)
            )
            if not fits:
                return (top, "RMSNorm*") if top == squared else None
        subs = [self.producer[name].inputs[0] for name in (top, squared)]
        return (subs[0], "LayerNorm*") if subs[0] == subs[1] else None

    def _exponent(self, node: Node) -> float:
        """The power that a node raises to; NaN where it does something else."""
        return self._number(node.inputs[1]) if node.op == "Pow" else 0.5 if node.op == "Sqrt" else math.nan

    def _is_square(self, node: Node) -> bool:
        if node.op == "Pow":
            return self._exponent(node) == 2
        return node.op == "Mul" and node.inputs[0] == node.inputs[1]

    def _axes(self, node: Node) -> tuple[int, ...] | None:
        if len(node.inputs) > 1 and node.inputs[1]:
            array = self.constants.get(node.inputs[1])
            return None if array is None else integers(array, "axes")
        return node.attributes.get("axes")

    # -- constants added and multiplied -------------------------------------------

    def _affine(self, node: Node) -> Node | None:
        """Constants added and multiplied: a bias, batch normalization, or a layer normalization's own."""
        parts: list[tuple[Node, np.ndarray, bool]] = []
        shape: tuple[int, ...] = ()
        at: Node | None = node
        name = node.outputs[0]
        while at is not None and at.op in _AFFINE:
            constant, rest = self._split(at)
            if constant is None or (at.op == "Div" and at.inputs[1] == rest):
                break
            if parts and (self.uses[name] != 1 or self.function(at)):
                break
            if parts and _stays_apart(at, constant, parts[-1]):
                break
            wider = _fitted(shape, constant.shape)
            if math.prod(wider) > max(math.prod(shape), constant.size):
                break  # a table of all pairs of values, which only the tensor between them may need
            shape = wider
            parts.append((at, constant.astype(np.float64), at.inputs[1] == rest))
            name = rest
            at = self._producer(rest)
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
                with np.errstate(all="ignore"):  # a layer refuses what is not finite
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
            own = normal.attributes.get("affine", {}).get("scale", 1.0)
            extra["scale"] = own * scale
            return replace(normal, outputs=node.outputs, attributes={**normal.attributes, "affine": extra})
        return replace(node, op="Affine*", inputs=(name,), attributes=extra)

    # -- stack, then sum ----------------------------------------------------------

    def _stacked(self, node: Node) -> Node | None:
        """Tensors stacked along an axis of their own and summed over it: how exporters write a Sum module."""
        ops = {"ReduceSum": "Sum", "ReduceMean": "Mean", "ReduceMax": "Max", "ReduceMin": "Min"}
        concat = self._producer(node.inputs[0]) if node.op in ops else None
        if concat is None or concat.op != "Concat" or node.attributes.get("keepdims", 1):
            return None
        axes = self._axes(node)
        if axes != (concat.attributes.get("axis"),):
            return None
        names = []
        for name in concat.inputs:
            part = self._producer(name)
            if part is None or part.op != "Unsqueeze" or self._axes(part) != axes:
                return None
            names.append(part.inputs[0])
        return replace(node, op=ops[node.op], inputs=tuple(names), attributes={})

    # -- helpers ------------------------------------------------------------------

    def _producer(self, name: str) -> Node | None:
        return self.producer.get(name)

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
