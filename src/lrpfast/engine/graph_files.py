"""Attribution graphs as files: JSON, a table, or GraphML."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from ..errors import InputError
from ..output import replacing

Rows = Sequence[Any]

#: The columns of a table: the channel, the channel above it, and the relevance that it gets from there.
COLUMNS = ("layer", "channel", "of_layer", "of_channel", "relevance")
#: The attributes of GraphML's nodes and edges, and their types.
_ATTRIBUTES = {"node": {"layer": "string", "channel": "long", "relevance": "double"}, "edge": {"relevance": "double"}}


def check_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix of a file that a graph can be written to.

    Raises
    ------
    InputError
        For any other.
    """
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in _WRITERS:
        raise InputError(f"{path}: an attribution graph is written to {', '.join(_WRITERS)}, not to {suffix!r}")
    return suffix


def save(nodes: Rows, edges: Rows, path: str | os.PathLike[str]) -> None:
    """Write a graph's tables to a file; its suffix says how."""
    content = _WRITERS[check_suffix(path)](nodes, edges)
    with replacing(path) as file:
        file.write(content)


def _json(nodes: Rows, edges: Rows) -> bytes:
    tables = {"nodes": [n._asdict() for n in nodes], "edges": [e._asdict() for e in edges]}
    return (json.dumps(tables, ensure_ascii=False, indent=1) + "\n").encode()


def _csv(nodes: Rows, edges: Rows) -> bytes:
    """The uppermost channel, which is of none, and then every edge."""
    text, root = io.StringIO(), nodes[0]
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerow((root.layer, root.channel, "", "", repr(root.relevance)))
    table.writerows((e.to_layer, e.to_channel, e.layer, e.channel, repr(e.relevance)) for e in edges)
    return text.getvalue().encode()


def _graphml(nodes: Rows, edges: Rows) -> bytes:
    root = ElementTree.Element("graphml", xmlns="http://graphml.graphdrawing.org/xmlns")
    for kind, attributes in _ATTRIBUTES.items():
        for name, type_name in attributes.items():
            key = {"id": f"{kind}_{name}", "for": kind, "attr.name": name, "attr.type": type_name}
            ElementTree.SubElement(root, "key", key)

    def add(parent: ElementTree.Element, kind: str, attributes: dict[str, str], values: Any) -> None:
        element = ElementTree.SubElement(parent, kind, attributes)
        for name in _ATTRIBUTES[kind]:
            ElementTree.SubElement(element, "data", key=f"{kind}_{name}").text = str(getattr(values, name))

    body = ElementTree.SubElement(root, "graph", edgedefault="directed")
    for node in nodes:
        add(body, "node", {"id": f"{node.layer}:{node.channel}"}, node)
    for edge in edges:
        ends = {"source": f"{edge.layer}:{edge.channel}", "target": f"{edge.to_layer}:{edge.to_channel}"}
        add(body, "edge", ends, edge)
    ElementTree.indent(root, " ")
    content: bytes = ElementTree.tostring(root, "utf-8", xml_declaration=True)
    return content + b"\n"


_WRITERS = {".json": _json, ".csv": _csv, ".graphml": _graphml}
