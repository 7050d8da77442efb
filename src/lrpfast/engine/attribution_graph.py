"""How a channel's relevance comes from the channels of the layers below it: a graph for one explanation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError, MissingPackageError, ShapeError
from ..kernels.arrays import is_tensor
from ..table import Tabular, counted
from .conditions import chosen
from .core import AnalyzerCore
from .explain_scope import check_layers

#: How many channels each one is made of, layer by layer, unless the caller says otherwise.
WIDTH = (5, 3)


class GraphNode(NamedTuple):
    """A channel of a layer, and its relevance on all paths of the graph."""

    layer: str
    channel: int
    relevance: float


class GraphEdge(NamedTuple):
    """The relevance that a channel of a layer hands to one of a lower layer."""

    layer: str
    channel: int
    to_layer: str
    to_channel: int
    relevance: float


@dataclass(frozen=True, eq=False, repr=False)
class AttributionGraph(Tabular):
    """The channels below a channel that its relevance flows through, as plain tables.

    Attributes
    ----------
    nodes : list of GraphNode
        (layer, channel, relevance), the uppermost first, those of a layer by their absolute relevance.
    edges : list of GraphEdge
        (layer, channel, to_layer, to_channel, relevance).

    Examples
    --------
    >>> first = lrpfast.layers.Dense(np.array([[1.0, 2.0], [3.0, 1.0]]), name="first")
    >>> model = lrpfast.from_layers([first, lrpfast.layers.Dense(np.array([[2.0], [1.0]]), name="second")])
    >>> analyzer = lrpfast.Analyzer(model, "zero", precision="float64")
    >>> print(analyzer.attribution_graph(np.array([[1.0, 1.0]]), "second", 0, width=(2,)))
    relevance of channel 0 of 'second': 3 nodes, 2 edges
    layer   channel  of      of channel  relevance
    second        0                             11
    first         0  second           0          8
    first         1  second           0          3
    """

    nodes: list[GraphNode]
    edges: list[GraphEdge]

    def _rows(self) -> tuple[str, list[list[str]]]:
        root = self.nodes[0]
        head = (
            f"relevance of channel {root.channel} of {root.layer!r}: {counted(len(self.nodes), 'node')}, "
            f"{counted(len(self.edges), 'edge')}"
        )
        rows = [["layer", "channel", "of", "of channel", "relevance"]]
        rows.append([root.layer, str(root.channel), "", "", f"{root.relevance:.4g}"])
        for e in self.edges:
            rows.append([e.to_layer, str(e.to_channel), e.layer, str(e.channel), f"{e.relevance:.4g}"])
        return head, rows

    def to_networkx(self) -> Any:
        """A networkx.DiGraph whose nodes are (layer, channel); both nodes and edges have a ``relevance``.

        Raises
        ------
        MissingPackageError
            Without networkx.
        """
        try:
            import networkx
        except ImportError as error:
            raise MissingPackageError("to_networkx needs networkx: pip install networkx") from error
        graph = networkx.DiGraph()
        for node in self.nodes:
            graph.add_node((node.layer, node.channel), relevance=node.relevance)
        for edge in self.edges:
            ends = (edge.layer, edge.channel), (edge.to_layer, edge.to_channel)
            graph.add_edge(*ends, relevance=edge.relevance)
        return graph

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the graph to a file: ``.json`` (nodes and edges), ``.csv`` (edges) or ``.graphml``.

        Raises
        ------
        InputError
            For another suffix, or a path that cannot be written.
        """
        from .graph_files import save

        save(self.nodes, self.edges, path)


def attribution_graph(
    core: AnalyzerCore, x: Any, layer: str, channel: int, width: Any, layers: Any, target: Any
) -> AttributionGraph:
    """`Analyzer.attribution_graph`.

    One forward pass. From layer to layer, the relevance of every channel of the graph has a backward pass of its own,
    which ends at the next layer.
    """
    core = core.fixed(x)
    if core.layout.several or len(core.layout.outputs) > 1:
        raise InputError("attribution_graph is for models of one input and one output")
    if is_tensor(x) or np.shape(x)[:1] != (1,):
        raise ShapeError(f"attribution_graph takes one sample, an array of shape (1, …), not {np.shape(x)}")
    check_layers(core.explained_model, [layer])
    widths = _widths(width)
    below = _layers_below(core, layer, layers, len(widths))
    shapes: dict[str, Any] = {node.name: node.shape for node in core.explained_model.nodes}
    root = int(np.flatnonzero(chosen(_single(channel), shapes[layer], layer))[0])
    run = core.layer_steps(x, target, [layer, *below])
    relevance = run.relevance
    of_nodes = {root: relevance * (np.arange(shapes[layer][-1]) == root)}  # each channel's relevance, as a map
    nodes = [GraphNode(layer, root, float(of_nodes[root].sum(dtype=np.float64)))]
    edges: list[GraphEdge] = []
    for step, (upper, lower, count) in enumerate(zip([layer, *below], below, widths, strict=False)):
        handed = run.down(step, np.stack(list(of_nodes.values())))  # (nodes, *lower)
        next_nodes: dict[int, np.ndarray] = {}
        for node, own in zip(of_nodes, handed, strict=True):
            sums = own.reshape(-1, own.shape[-1]).sum(0, dtype=np.float64)
            best = np.argsort(-np.abs(sums), kind="stable")[:count]
            for c in best[sums[best] != 0].tolist():
                edges.append(GraphEdge(upper, node, lower, c, float(sums[c])))
                part = own * (np.arange(own.shape[-1]) == c)
                next_nodes[c] = next_nodes[c] + part if c in next_nodes else part
        if not next_nodes:
            break
        sizes = {c: float(part.sum(dtype=np.float64)) for c, part in next_nodes.items()}
        of_nodes = {c: next_nodes[c] for c in sorted(sizes, key=lambda c: (-abs(sizes[c]), c))}
        nodes += [GraphNode(lower, c, sizes[c]) for c in of_nodes]
    return AttributionGraph(nodes, edges)


def _single(channel: Any) -> int:
    if isinstance(channel, bool) or not isinstance(channel, (int, np.integer)):
        raise InputError(f"channel must be a whole number, not {channel!r}")
    return int(channel)


def _widths(width: Any) -> tuple[int, ...]:
    widths = (width,) if isinstance(width, (int, np.integer)) else width
    whole = isinstance(widths, (list, tuple)) and widths and all(isinstance(w, (int, np.integer)) for w in widths)
    if not whole or any(isinstance(w, bool) or w < 1 for w in widths):
        raise InputError(f"width must be whole numbers of at least 1, one for each layer below, not {width!r}")
    return tuple(int(w) for w in widths)


def _layers_below(core: AnalyzerCore, layer: str, layers: Any, count: int) -> list[str]:
    """The layers that the graph goes through, from above: the caller's, or the next ones with weights."""
    names = [node.name for node in core.explained_model.nodes]
    below = {names[i] for i in core.explained_model.needed(layer)} - {layer}
    if layers is None:
        weights = [step.name for step in core.plan.steps if getattr(step.layer, "kernel", None) is not None]
        found = [name for name in reversed(weights) if name in below]
        if not found:
            raise InputError(f"attribution_graph: no layer with weights is below {layer!r}")
        return found[:count]
    listed = [layers] if isinstance(layers, str) else list(layers)
    check_layers(core.explained_model, listed)
    order = [names.index(name) for name in (layer, *listed)]
    if sorted(order, reverse=True) != order or len(set(order)) < len(order) or not set(listed) <= below:
        raise InputError(f"layers must be below {layer!r}, from above to below, not {listed}")
    if len(listed) != count:
        raise InputError(f"width has {counted(count, 'number')} for {counted(len(listed), 'layer')}: one for each")
    return listed
