"""Everything in a file that lrpfast does not read, in one message: grouped by its reason, each with its nodes."""

from __future__ import annotations

from ...errors import UnsupportedLayerError
from .file import Node, NodeError

#: Operators that a user knows by name, and what to call them: they come first, before the moves around them.
LAYERS = {
    **{op: "is a recurrent layer" for op in ("LSTM", "GRU", "RNN")},
    **{
        op: "is an attention layer"
        for op in ("Attention", "com.microsoft.Attention", "com.microsoft.MultiHeadAttention", "LinearAttention")
    },
    **{op: "is a loop" for op in ("Loop", "Scan")},
    "If": "is a choice",
    **{
        op: "computes with quantized weights inside"
        for op in ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
    },
}
#: How many nodes of one reason a message names.
_NAMED = 4


class Unread:
    """Stands for what a node would compute that is not read, so that the others are read all the same."""


UNREAD = Unread()


class Obstacles:
    """Collects what is not read."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], list[Node]] = {}
        self._remedies: dict[str, None] = {}
        self._first: UnsupportedLayerError | None = None

    def add(self, node: Node, error: UnsupportedLayerError) -> None:
        """A node, and why it is not read."""
        problem, remedy = (error.problem, error.remedy) if isinstance(error, NodeError) else (str(error), "")
        self._groups.setdefault((node.written or node.op, problem), []).append(node)
        if remedy:
            self._remedies[remedy] = None
        self._first = self._first or error

    def check(self) -> None:
        """UnsupportedLayerError that names all of them; nothing where there is none."""
        nodes = [node for group in self._groups.values() for node in group]
        if not nodes:
            return
        if len(nodes) == 1 and self._first is not None:
            raise UnsupportedLayerError(str(self._first)) from self._first
        lines = [f"{len(nodes)} nodes are not read:"]
        for (op, problem), group in sorted(self._groups.items(), key=lambda item: item[0][0] not in LAYERS):
            named = ", ".join(f"{node.name!r} ({node.position})" for node in group[:_NAMED])
            others = f" and {len(group) - _NAMED} others" if len(group) > _NAMED else ""
            count = f"{len(group)} nodes {op}" if len(group) > 1 else f"node {op}"
            lines.append(f"- {count} {named}{others}: {problem}")
        raise UnsupportedLayerError("\n".join([*lines, *(f"{remedy}." for remedy in self._remedies)])) from self._first
