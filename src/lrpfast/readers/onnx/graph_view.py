"""What the files' patterns look at: the nodes before a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from .file import Node
from .fold import integers


class Graph(Protocol):
    """A file's nodes."""

    @property
    def constants(self) -> Mapping[str, np.ndarray]:
        """By name."""

    @property
    def producer(self) -> Mapping[str, Node]:
        """The node that makes each value, by the value's name."""


def axes_of(graph: Graph, node: Node) -> tuple[int, ...] | None:
    """The axes of a reduction or of Unsqueeze; None where they are left out or computed."""
    if len(node.inputs) > 1 and node.inputs[1]:
        array = graph.constants.get(node.inputs[1])
        return None if array is None else integers(array, "axes")
    axes = node.attributes.get("axes")
    return None if axes is None else tuple(axes)
