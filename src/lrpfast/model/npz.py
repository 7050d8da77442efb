"""lrpfast's own model file: a NumPy ``.npz`` with a JSON description, no pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelFormatError
from ..output import replacing
from . import layers as layer_types
from .node import Node

FORMAT = "lrpfast-model"
VERSION = 2
_TYPES = {
    cls.__name__: cls
    for cls in vars(layer_types).values()
    if isinstance(cls, type) and issubclass(cls, layer_types.Layer) and cls is not layer_types.Layer
}


def _encode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        key = f"array_{len(arrays)}"
        arrays[key] = value
        return {"array": key}
    if isinstance(value, layer_types.Layer):
        fields = {f.name: _encode(getattr(value, f.name), arrays) for f in dataclasses.fields(value)}
        if fields.get("kind") == "number":  # of inputs; without it older versions read the file, and digests stay
            del fields["kind"]
        return {"type": type(value).__name__, **fields}
    if isinstance(value, layer_types.Parameters):
        return {"mapping": {k: _encode(v, arrays) for k, v in value.items()}}
    return [_encode(v, arrays) for v in value] if isinstance(value, tuple) else value


def _decode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return tuple(_decode(v, arrays) for v in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "mapping" in value:
        return {k: _decode(v, arrays) for k, v in value["mapping"].items()}
    fields = {k: _decode(v, arrays) for k, v in value.items() if k != "type"}
    return _TYPES[value["type"]](**fields)


def _describe(nodes: Sequence[Node], name: str, outputs: Sequence[int]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The model as a JSON document and the arrays that it names."""
    arrays: dict[str, np.ndarray] = {}
    entries: list[dict[str, Any]] = []
    first: dict[int, int] = {}  # the index of the first use of each layer
    for i, node in enumerate(nodes):
        first_index = first.setdefault(id(node.layer), i)
        layer = _encode(node.layer, arrays) if first_index == i else {"same_as": first_index}
        entries.append({"layer": layer, "inputs": list(node.inputs)})
    header = {"format": FORMAT, "version": VERSION, "name": name, "nodes": entries, "outputs": list(outputs)}
    return header, arrays


def digest(nodes: Sequence[Node], name: str, outputs: Sequence[int]) -> str:
    """`Model.digest`: BLAKE2b of everything that `write` writes, except the attribute ``sequential``."""
    header, arrays = _describe(nodes, name, outputs)
    state = hashlib.blake2b(json.dumps(header).encode(), digest_size=16)
    for array in arrays.values():
        state.update(f"{array.dtype.str}{array.shape}".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def write(path: Path, nodes: Sequence[Node], name: str, outputs: Sequence[int], sequential: bool) -> None:
    """Write a model to ``path`` atomically."""
    header, arrays = _describe(nodes, name, outputs)
    if sequential:
        header["sequential"] = True
    members: dict[str, Any] = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays}
    with replacing(path) as file:
        np.savez(file, **members)


def _array(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """An array of an archive, after a check that the archive contains as much data as it declares."""
    info = archive.getinfo(f"{key}.npy")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):  # the length of the header that NumPy writes for plain numbers
            raise ModelFormatError(f"{info.filename} has .npy version {version}, expected (1, 0)")
        try:
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        except MemoryError:  # raised by Python's parser for deeply nested expressions
            raise ModelFormatError(f"{info.filename} has a header that cannot be read") from None
        if math.prod(shape) * dtype.itemsize != info.file_size - file.tell():
            raise ModelFormatError(
                f"{info.filename} declares {dtype} values of shape {shape}, "
                f"the archive holds {info.file_size - file.tell():,} bytes of them"
            )
    with archive.open(info) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


def read(path: Path) -> tuple[list[tuple[layer_types.Layer, tuple[int, ...]]], str, Any, bool]:
    """The nodes, name and outputs in a file of `write`, as `Model` takes them; a damaged file may raise anything."""
    with zipfile.ZipFile(path) as archive:
        header = json.loads(_array(archive, "header").tobytes())
        count = sum(name.startswith("array_") for name in archive.namelist())
        arrays = {f"array_{i}": _array(archive, f"array_{i}") for i in range(count)}
    if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("version") != VERSION:
        origin = "nothing"
        if isinstance(header, dict):
            origin = f"{header.get('format')!r} version {header.get('version')!r}"
        raise ModelFormatError(f"made for {origin}, this lrpfast reads {FORMAT!r} version {VERSION}")
    layers: list[layer_types.Layer] = []
    for node in header["nodes"]:
        same = node["layer"].get("same_as")
        layers.append(_decode(node["layer"], arrays) if same is None else layers[same])
    inputs = [tuple(node["inputs"]) for node in header["nodes"]]
    nodes = list(zip(layers, inputs, strict=True))
    return nodes, str(header["name"]), header["outputs"], header.get("sequential") is True
