"""``lrpfast inspect``: a model's layers, their rules, the cost."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .. import table
from ..engine.plan import describe
from ..model.canonize import canonize
from ..model.graph import Model
from ..model.layers import Activation, BatchNorm, Identity
from ..rules import Pass
from ..rules.composites import Assignment
from . import options


def run(arguments: argparse.Namespace) -> None:
    """Print them."""
    model = options.model_of(arguments)
    analyzer = options.analyzer(model, arguments)
    print(model.summary())
    print(f"\nrules under {', '.join([repr(arguments.rule), *arguments.rule_for])}")
    start = options.layer(arguments.start)
    indices = range(len(model.nodes)) if start is None else model.needed(start)
    bare = model.without_output_activation(analyzer.stripped)
    left_out = set() if start is not None else _functions(model) - _functions(bare)
    folded = _folded(model, analyzer.assignment) if analyzer.composite.canonize else set()
    for line in _assignment(model, analyzer.assignment, indices, left_out, folded):
        print(f"  {line}")
    if left_out:
        print("  the final softmax or sigmoid is left out: its input is explained")
    if model.is_open:
        print("\nthe model leaves input sizes open: it is planned for each size that comes")
    else:
        print(f"\nplan ({arguments.precision})\n{analyzer.plan()}")


def _assignment(
    model: Model, assignment: Assignment, indices: Sequence[int], left_out: set[str], folded: set[str]
) -> list[str]:
    """A table of the layers that are explained, with their rules, and those of activation functions other than pass."""
    rows: list[tuple[str, ...]] = [("#", "layer", "type", "rule", "activation")]
    for i in indices:
        node = model.nodes[i]
        rule, function = (describe(rules.get(i, Pass())) for rules in (assignment.rules, assignment.activations))
        if node.name in folded:
            rule = "folded"
        elif node.name in left_out and isinstance(node.layer, Activation):
            rule = "left out"
        elif node.name in left_out:
            function = "left out"
        rows.append((str(i), node.name, type(node.layer).__name__, rule, function if function != "pass" else ""))
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    return table.lines(rows)


def _folded(model: Model, assignment: Assignment) -> set[str]:
    """The names of the batch normalizations that are folded into a neighbouring layer: they have no rule."""
    pairs = zip(model.nodes, canonize(model, assignment.kept).nodes, strict=True)
    return {node.name for node, now in pairs if isinstance(node.layer, BatchNorm) and isinstance(now.layer, Identity)}


def _functions(model: Model) -> set[str]:
    """The names of the layers that are an activation function or end with one."""
    return {n.name for n in model.nodes if isinstance(n.layer, Activation) or getattr(n.layer, "activation", None)}
