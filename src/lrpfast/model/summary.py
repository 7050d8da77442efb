"""A model as a table: a row for each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from .node import Node


def summary_table(
    nodes: Sequence[Node], name: str, input_shape: Any, output_shape: Any
) -> tuple[str, list[tuple[str, ...]]]:
    """The summary's first line, and its rows; a layer that is used twice counts once."""
    rows: list[tuple[str, ...]] = [("#", "layer", "type", "output", "parameters", "", "from")]
    layer_ids: set[int] = set()
    total = 0
    for i, node in enumerate(nodes):
        layer = node.layer
        arrays = [getattr(layer, f.name) for f in fields(layer) if isinstance(getattr(layer, f.name), np.ndarray)]
        count = sum(a.size for a in arrays)
        total += 0 if id(layer) in layer_ids else count
        layer_ids.add(id(layer))
        source = ", ".join(nodes[j].name for j in node.inputs) if node.inputs not in ((), (i - 1,)) else ""
        rows.append((str(i), node.name, type(layer).__name__, str(node.shape), f"{count:,}", layer.describe(), source))
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    return f"{name}: {input_shape} -> {output_shape}, {total:,} parameters", rows
