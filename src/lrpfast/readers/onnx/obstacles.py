"""Nodes of an ONNX file that lrpfast does not read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...errors import UnsupportedLayerError
from ..obstacles import Obstacle, ObstacleError, Obstacles
from .file import Input, Node

#: Operators that compute with whole numbers inside, and the cure.
QUANTIZED = dict.fromkeys(
    (
        *("com.microsoft.QAttention", "com.microsoft.MatMulNBits", "com.microsoft.QEmbedLayerNormalization"),
        *("com.microsoft.QOrderedMatMul", "com.microsoft.QOrderedAttention", "com.microsoft.QMoE"),
    ),
    "Load the float model that was quantized",
)

#: Models without layers, and what explains them.
NO_LAYERS = {
    **{
        f"ai.onnx.ml.TreeEnsemble{kind}": "Relevance goes through layers; SHAP explains trees"
        for kind in ("", "Classifier", "Regressor")
    },
    **{f"ai.onnx.ml.SVM{kind}": "LinearSVC and LinearSVR are read" for kind in ("Classifier", "Regressor")},
}

#: Operators that a user knows by name, and what to call them: they come first, before the moves around them.
LAYERS = {
    **{op: "is a recurrent layer" for op in ("LSTM", "GRU", "RNN")},
    **{
        op: "is an attention layer"
        for op in ("Attention", "com.microsoft.Attention", "com.microsoft.MultiHeadAttention", "LinearAttention")
    },
    **{op: "is a loop" for op in ("Loop", "Scan")},
    "If": "is a choice",
    **dict.fromkeys(QUANTIZED, "computes with quantized weights inside"),
    **{op: "consists of decision trees" if "Tree" in op else "is a support vector machine" for op in NO_LAYERS},
}


#: Parts of the names of other such operators, as com.microsoft.DynamicQuantizeLSTM.
_WELL_KNOWN = re.compile("LSTM|GRU|RNN|Attention")


class Unread:
    """Stands for what a node would compute that is not read, so that the others are read all the same."""


UNREAD = Unread()


class NodeObstacles(Obstacles):
    """Collects nodes that are not read."""

    def __init__(self) -> None:
        super().__init__("node")

    def add_input(self, item: Input) -> None:
        """An input that is not read."""
        error = ObstacleError(f"input {item.name!r} {item.problem}", item.problem)
        self.add(Obstacle("input", repr(item.name), error))

    def add_inputs(self, items: Sequence[Input], problem: str, remedy: str) -> None:
        """Inputs that do not fit each other."""
        names = ", ".join(repr(item.name) for item in items)
        error = ObstacleError(f"the inputs {names} {problem}. {remedy}", problem, remedy)
        self.add(Obstacle("inputs", names, error))

    def add_node(self, node: Node, error: UnsupportedLayerError) -> None:
        """A node, and why it is not read."""
        kind = node.written or node.op
        text = str(error)
        if not isinstance(error, ObstacleError) or error.problem == text:
            error = ObstacleError(text, text.removeprefix(f"{node}: ").removeprefix(f"{node} "))
        self.add(
            Obstacle(
                kind, f"{node.name!r} ({node.position})", error, 0 if kind in LAYERS or _WELL_KNOWN.search(kind) else 1
            )
        )
