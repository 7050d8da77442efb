"""Functions and normalizations that a PyTorch program writes out as arithmetic, as operators again.

They are recognised as those of ONNX files are, by their formulas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..onnx.file import Node
from ..onnx.log_sums import FIRST_OUTPUT
from ..onnx.patterns import Matcher
from .constants import UNCHANGED
from .records import Op, PerBatch, Ref, TorchProgram

#: Operators of one or two arguments, by ONNX's names of them.
_NAMES = {
    **{
        "aten.add": "Add",
        "aten.sub": "Sub",
        "aten.mul": "Mul",
        "aten.div": "Div",
        "aten.neg": "Neg",
        "aten.abs": "Abs",
        "aten.eq": "Equal",
    },
    **{"aten.exp": "Exp", "aten.log": "Log", "aten.erf": "Erf", "aten.tanh": "Tanh", "aten.sigmoid": "Sigmoid"},
    **{"aten.softplus": "Softplus", "aten.reciprocal": "Reciprocal", "aten.sqrt": "Sqrt", "aten.relu": "Relu"},
}
#: Powers, by their exponents.
_POWERS = {"aten.rsqrt": -0.5, "aten.square": 2.0}

#: The operator for what is recognised, where its attributes are the operator's arguments.
_FUNCTIONS = {
    **{"Gelu": "aten.gelu", "Silu*": "aten.silu", "Mish": "aten.mish", "HardSwish": "aten.hardswish"},
    **{"Sigmoid": "aten.sigmoid", "Tanh": "aten.tanh", "LogSigmoid*": "aten.log_sigmoid", "Softplus": "aten.softplus"},
}
#: Reductions over named axes, by ONNX's names of them.
_REDUCTIONS = {"aten.mean": "ReduceMean", "aten.sum": "ReduceSum", "aten.amax": "ReduceMax", "aten.max": "ReduceMax"}
_REDUCTIONS["aten.logsumexp"] = "ReduceLogSumExp"
_UNSQUEEZED = {"aten.squeeze": "Squeeze", "aten.unsqueeze": "Unsqueeze"}
#: The operators of softmaxes, which have an axis.
_SOFTMAXES = {"Softmax*": "aten.softmax", "LogSoftmax*": "aten.log_softmax"}
_NORMS = {"LayerNorm*": "lrpfast.layer_norm", "RMSNorm*": "lrpfast.rms_norm"}


class _Writer:
    """The arithmetic of a program as nodes of ONNX."""

    def __init__(self, program: TorchProgram, values: Mapping[str, Any]) -> None:
        self.constants = {name: a for name, a in values.items() if isinstance(a, np.ndarray)}
        self.same: dict[str, str] = {}  # of a copy: what it is a copy of
        self.nodes: list[Node] = []
        self.shapes = program.shapes
        for op in program.ops:
            node = self._node(op) if op.outputs else None
            if node is not None:
                self.nodes.append(node)

    def _input(self, op: Op, key: str) -> str:
        value = op.arguments.get(key)
        if isinstance(value, Ref):
            return self.same.get(value.name, value.name)
        name = f"{op.name}.{key}"
        self.constants[name] = np.asarray(0.0 if value is None else value)
        return name

    def _node(self, op: Op) -> Node | None:
        name = op.base.removeprefix("aten.")
        if name in UNCHANGED and len(op.outputs) == 1:
            source = op.arguments.get("self", op.arguments.get("input"))
            if isinstance(source, Ref) and op.arguments.get("dtype") in (None, 6, 7, 8, 13):
                self.same[op.outputs[0]] = self.same.get(source.name, source.name)
            return None
        attributes: dict[str, Any] = {}
        inputs: tuple[str, ...]
        if op.base in _NAMES:
            if op.arguments.get("alpha", 1) != 1 or op.arguments.get("rounding_mode") is not None:
                return self._unknown(op)
            keys = ("self", "other") if "other" in op.arguments else ("self",)
            kind, inputs = _NAMES[op.base], tuple(self._input(op, key) for key in keys)
        elif op.base == "aten.pow":
            kind, inputs = "Pow", (self._input(op, "self"), self._input(op, "exponent"))
        elif op.base in _POWERS:
            exponent = f"{op.name}.exponent"
            self.constants[exponent] = np.asarray(_POWERS[op.base])
            kind, inputs = "Pow", (self._input(op, "self"), exponent)
        elif op.base in _REDUCTIONS and isinstance(op.arguments.get("dim"), (int, list, tuple)):
            kind, inputs, dim = _REDUCTIONS[op.base], (self._input(op, "self"),), op.arguments["dim"]
            axes = (dim,) if isinstance(dim, int) else tuple(dim)
            attributes = {"axes": axes, "keepdims": int(bool(op.arguments.get("keepdim")))}
        elif op.base in _UNSQUEEZED and isinstance(op.arguments.get("dim"), (int, list, tuple)):
            kind, inputs, dim = _UNSQUEEZED[op.base], (self._input(op, "self"),), op.arguments["dim"]
            attributes = {"axes": (dim,) if isinstance(dim, int) else tuple(dim)}
        elif op.base == "aten.where" and len(op.arguments) == 3:
            kind, inputs = "Where", tuple(self._input(op, key) for key in ("condition", "self", "other"))
        elif op.base == "_operator.getitem" and (first := _first_of_several(op)):
            kind, inputs = FIRST_OUTPUT, (first,)
        else:
            return self._unknown(op)
        return Node(kind, op.name, inputs, op.outputs, attributes, "")

    def _unknown(self, op: Op) -> Node:
        """An operator that is no part of a function."""
        inputs = tuple(self.same.get(name, name) for value in op.arguments.values() for name in _names(value))
        return Node("?", op.name, inputs, op.outputs, {}, "")


def _first_of_several(op: Op) -> str:
    """The name of several results, of which a node takes the first; "" where it takes another."""
    source, index = (*op.arguments.values(), None, None)[:2]
    return source.name if isinstance(source, Ref) and index == 0 else ""


def _names(value: Any) -> list[str]:
    if isinstance(value, Ref):
        return [value.name]
    return [name for v in value for name in _names(v)] if isinstance(value, (list, tuple)) else []


def recognised(program: TorchProgram, values: Mapping[str, Any]) -> TorchProgram:
    """The program with what it writes out as operators; ``values`` are its constants."""
    writer = _Writer(program, values)
    matcher = Matcher(writer.nodes, writer.constants, program.outputs)
    matches = {node.name: match for node in writer.nodes if (match := matcher.written_out(node)) is not None}
    replaced = replace(program, ops=[_replaced(op, matches.get(op.name), program) for op in program.ops])
    return _bare_softmax(replaced, values)


def _bare_softmax(program: TorchProgram, values: Mapping[str, Any]) -> TorchProgram:
    """The program without what `run_decompositions` puts around attention's softmax: 0 where all scores are -inf.

    `Softmax` gives 0 there by itself.
    """
    makers = {name: op for op in program.ops for name in op.outputs}

    def made_by(value: Any, base: str) -> Op | None:
        op = makers.get(value.name) if isinstance(value, Ref) else None
        return op if op is not None and op.base == base else None

    def argument(op: Op | None, base: str) -> Op | None:
        return None if op is None else made_by(op.arguments.get("self"), base)

    def is_zero(value: Any) -> bool:
        full = made_by(value, "aten.full_like")
        constant = values.get(value.name) if isinstance(value, Ref) else value
        constant = full.arguments.get("fill_value") if full is not None else constant
        pair = (constant.first, constant.second) if isinstance(constant, PerBatch) else (constant,)
        return all(isinstance(c, (int, float, np.ndarray)) and not np.any(c) for c in pair)

    def bare(op: Op) -> Op:
        if op.base != "aten.where" or not is_zero(op.arguments.get("self")):
            return op
        softmax = made_by(op.arguments.get("other"), "aten._softmax")
        seen = argument(made_by(op.arguments.get("condition"), "aten.logical_not"), "aten.any")
        hidden = argument(argument(seen, "aten.logical_not"), "aten.eq")
        if softmax is None or seen is None or hidden is None or hidden.arguments.get("other") != -np.inf:
            return op
        dims = (seen.arguments.get("dim"), softmax.arguments.get("dim"))
        if hidden.arguments["self"] != softmax.arguments["self"] or dims[0] != dims[1]:
            return op
        return replace(op, target="aten.alias.default", arguments={"self": op.arguments["other"]})

    return replace(program, ops=[bare(op) for op in program.ops])


def _replaced(op: Op, match: Node | None, program: TorchProgram) -> Op:
    if match is None:
        return op
    source = Ref(match.inputs[0])
    if match.op in _FUNCTIONS:
        attributes = {key: value for key, value in match.attributes.items() if key == "approximate"}
        return replace(op, target=f"{_FUNCTIONS[match.op]}.default", arguments={"self": source, **attributes})
    if match.op == "Clip*":
        limits = {"min": match.attributes["low"], "max": match.attributes["high"]}
        return replace(op, target="aten.clamp.default", arguments={"self": source, **limits})
    if match.op in _SOFTMAXES and len(match.inputs) == 1:
        return replace(
            op, target=f"{_SOFTMAXES[match.op]}.int", arguments={"self": source, "dim": match.attributes["axis"]}
        )
    if match.op == "LogSumExp*":
        arguments = {
            "self": source,
            "dim": list(match.attributes["axes"]),
            "keepdim": bool(match.attributes["keepdims"]),
        }
        return replace(op, target="aten.logsumexp.default", arguments=arguments)
    rank = len(program.shapes.get(source.name, ()))
    axes = match.attributes.get("axes", ())
    if match.op not in _NORMS or not rank or sorted(a % rank for a in axes) != list(range(rank - len(axes), rank)):
        return op
    count = match.attributes.get("count")
    sizes: Any = program.shapes[source.name][rank - len(axes) :]
    if count is not None and (None in sizes or count != math.prod(sizes)):
        return op
    affine = match.attributes.get("affine") or {}
    arguments = {"input": source, "count": len(axes), "eps": match.attributes["epsilon"], **affine}
    return replace(op, target=f"{_NORMS[match.op]}.default", arguments=arguments)
