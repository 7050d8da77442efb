"""Exported programs in .pt2 files (torch.export.save of PyTorch 2.8 and later), read without PyTorch.

Such a file is a zip archive with the program as JSON and the weights as raw bytes, and may have pickled
sample inputs beside them. Nothing in it is unpickled or evaluated: what `torch.export.load` would
unpickle (a weight or constant marked as pickled, an object of a class of one's own) is refused, and the
sample inputs are not looked at.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...budget import take
from ...errors import ModelFormatError, UnsupportedLayerError
from ...model.graph import Model
from ..input_shape import InputShapes
from ..untrusted import guarded, member, parse_json
from .inlined import WRAPPERS, Part, check_wrapper, inline
from .open_sizes import read
from .records import Op, Ref, TorchProgram

#: What separates a node's modules in the file.
_STACK = ";"

#: Element types by the numbers that the files have for them; bfloat16 (13) is widened.
_DTYPES = {
    **{1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f2", 7: "<f4", 8: "<f8", 12: "?"},
    **{13: "<u2", 28: "<u2", 34: "<u4", 35: "<u8"},
}
_BFLOAT16 = 13


def is_exported(names: list[str]) -> bool:
    """Whether a zip archive's members are an exported program's."""
    return any(_model_of(name) for name in names)


def _model_of(name: str) -> bool:
    parts = name.split("/")
    return len(parts) >= 2 and parts[-2] == "models" and parts[-1].endswith(".json")


def read_pt2(path: Path, input_shape: InputShapes) -> Model:
    """The Model in a .pt2 file.

    Parameters
    ----------
    path : Path
    input_shape : InputShapes

    Raises
    ------
    ModelFormatError
        When the file is damaged, of a kind that must be exported anew, or holds pickled weights.
    UnsupportedLayerError
        When the program has an operator that lrpfast does not read.
    """
    with guarded(f"{path}: PyTorch exported program"), zipfile.ZipFile(path) as archive:
        return read(_program(_Archive(archive)), input_shape)


class _Archive:
    """The members of the archive, without the folder that they lie in."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        models = [name for name in archive.namelist() if _model_of(name)]
        if len(models) != 1:
            raise ModelFormatError(f"holds {len(models)} programs, lrpfast reads files with one")
        self.root = models[0][: models[0].rindex("models/")]
        self.model = models[0].rsplit("/", 1)[1][: -len(".json")]
        order = self.read("byteorder").strip() if f"{self.root}byteorder" in archive.namelist() else b"little"
        if order != b"little":
            raise ModelFormatError(f"its numbers are {order[:16].decode('ascii', 'replace')}-endian; save it anew")

    def read(self, name: str) -> bytes:
        try:
            return member(self.archive, self.root + name)
        except KeyError:
            raise ModelFormatError(f"{name} is missing; the file was not written whole by torch.export.save") from None

    def document(self, name: str) -> dict[str, Any]:
        document = parse_json(self.read(name), name)
        if not isinstance(document, dict):
            raise ModelFormatError(f"{name} is no description of anything")
        return document

    def tensors(self, kind: str) -> dict[str, np.ndarray]:
        """The weights or the constants, by their names in the module."""
        name = f"data/{kind}/{self.model}_{kind}_config.json"
        raw: dict[str, bytes] = {}
        tensors = {}
        for key, entry in self.document(name)["config"].items():
            if entry.get("use_pickle") or entry.get("tensor_meta") is None:
                raise ModelFormatError(
                    f"{kind[:-1]} {key!r} is stored as a Python pickle (never opened: it can run code). "
                    "Save it anew with plain tensors, or give the module to lrpfast.from_torch"
                )
            member = f"data/{kind}/{entry['path_name']}"
            if member not in raw:
                raw[member] = self.read(member)
            tensors[key] = _tensor(key, entry["tensor_meta"], raw[member])
        return tensors


def _whole(value: Any, name: str) -> int:
    """A size of a stored tensor, as the file has it."""
    number = value.get("as_int") if isinstance(value, Mapping) else value
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**48:
        raise ModelFormatError(f"{name!r} has {value!r} in the place of a size")
    return number


def _tensor(name: str, meta: Mapping[str, Any], raw: bytes) -> np.ndarray:
    """An array from the bytes of a member; sizes and strides must stay within them."""
    code = meta["dtype"]
    if code not in _DTYPES:
        raise ModelFormatError(f"{name!r} has elements of a type that lrpfast does not read (number {code})")
    dtype = np.dtype(_DTYPES[code])
    shape = tuple(_whole(n, name) for n in meta["sizes"])
    strides = tuple(_whole(n, name) * dtype.itemsize for n in meta["strides"])
    offset = _whole(meta["storage_offset"], name) * dtype.itemsize
    if len(shape) != len(strides):
        raise ModelFormatError(f"{name!r} has {len(shape)} sizes and {len(strides)} strides")
    if 0 in shape:
        return np.zeros(shape, dtype)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + dtype.itemsize
    if last > len(raw):
        raise ModelFormatError(f"{name!r} reaches to byte {last:,} of {len(raw):,}")
    take(math.prod(shape) * dtype.itemsize, f"{name!r}")
    array = np.ndarray(shape, dtype, raw, offset, strides).copy()
    if code == _BFLOAT16:  # the upper half of a float32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array


def _program(archive: _Archive) -> TorchProgram:
    document = archive.document(f"models/{archive.model}.json")
    major = document.get("schema_version", {}).get("major")
    if major != 8:
        raise ModelFormatError(
            f"is of version {major} of PyTorch's format, lrpfast reads version 8. "
            "Save it anew, or use lrpfast.from_torch"
        )
    module = document["graph_module"]
    graph, signature = module["graph"], module["signature"]
    program = TorchProgram(
        ops=[],
        inputs=[],
        outputs=[],
        constants={},
        name=archive.model,
    )
    program.ops.extend(_ops(program, graph, ""))
    for symbol, limits in document.get("range_constraints", {}).items():
        program.ranges[symbol] = (_limit(limits.get("min_val")), _limit(limits.get("max_val")))
    stored = archive.tensors("weights")
    for spec in signature["input_specs"]:
        ((kind, value),) = spec.items()
        if kind == "user_input":
            argument = _argument(value["arg"])
            if isinstance(argument, Ref):
                program.inputs.append(argument.name)
        elif kind in ("parameter", "buffer", "tensor_constant"):
            key = value[f"{kind}_name"]
            if key not in stored:  # buffers that are not saved with the weights, and constants
                stored = archive.tensors("constants") | stored
            if key not in stored:
                raise ModelFormatError(f"{kind} {key!r} is not in the file")
            program.constants[value["arg"]["name"]] = stored[key]
        else:
            raise UnsupportedLayerError(f"has an input of kind {kind}, lrpfast reads tensors")
    for spec in signature["output_specs"]:
        ((kind, value),) = spec.items()
        argument = _argument(value["arg"]) if kind == "user_output" else None
        if not isinstance(argument, Ref):
            raise UnsupportedLayerError(f"has an output of kind {kind}, lrpfast reads tensors")
        program.outputs.append(argument.name)
    return program


def _ops(program: TorchProgram, graph: Mapping[str, Any], prefix: str) -> list[Op]:
    """A graph's operators; of its values, whose names begin with the prefix in the end, the program gets sizes."""
    for name, meta in graph["tensor_values"].items():
        program.set_sizes(prefix + name, [_size(size) for size in meta["sizes"]])
        program.kinds[prefix + name] = _kind(meta.get("dtype"))
    ops: list[Op] = []
    for node in graph["nodes"]:
        op = _op(node)
        kind = op.target.removeprefix("higher_order.")
        ops.extend(_inlined(program, node, op, kind, prefix) if kind in WRAPPERS else [op])
    return ops


def _inlined(program: TorchProgram, node: Mapping[str, Any], op: Op, kind: str, prefix: str) -> list[Op]:
    """The operators of the part of the program that a node calls."""
    arguments = [item["arg"] for item in node["inputs"]]
    at = next((i for i, a in enumerate(arguments) if "as_graph" in a), None)
    if at is None:
        raise ModelFormatError(f"{op.name!r} calls no part of the program")
    values = [_argument(a) for a in arguments]
    check_wrapper(kind, values)
    graph = arguments[at]["as_graph"]["graph"]
    inputs = [_argument(a) for a in graph["inputs"]]
    if len(inputs) != len(values) - at - 1 or any(not isinstance(i, Ref) for i in inputs):
        raise ModelFormatError(f"{op.name!r} calls a part of the program with other inputs than it has")
    part = Part(
        _ops(program, graph, f"{prefix}{op.name}/"),
        [i.name for i in inputs],
        [_argument(a) for a in graph["outputs"]],
    )
    return inline(part, op.name, values[at + 1 :], [[name] for name in op.outputs])


def _size(size: Mapping[str, Any]) -> int | str | None:
    """A number, or the expression that stands for an open size."""
    if "as_int" in size:
        return _whole(size, "a value")
    expression = size["as_expr"].get("expr_str") if isinstance(size.get("as_expr"), Mapping) else None
    return expression if isinstance(expression, str) else None


def _kind(dtype: Any) -> str:
    """What values of an element type are."""
    return "truth" if dtype == 12 else "whole" if isinstance(dtype, int) and 1 <= dtype <= 5 else "number"


def _limit(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _argument(argument: Mapping[str, Any]) -> Any:
    """An argument as a value; one that names something else is a `Ref`."""
    ((kind, value),) = argument.items()
    if kind == "as_none":
        return None
    if kind in ("as_tensor", "as_custom_obj", "as_graph"):
        return Ref(value["name"])
    if kind in ("as_tensors", "as_nested_tensors"):
        return [Ref(v["name"]) for v in value]
    if kind in ("as_sym_int", "as_sym_bool", "as_sym_float", "as_optional_tensor"):
        return Ref(value["as_name"]) if "as_name" in value else _argument(value)
    if kind in ("as_sym_ints", "as_sym_bools", "as_sym_floats", "as_optional_tensors"):
        return [Ref(v["as_name"]) if "as_name" in v else _argument(v) for v in value]
    if kind == "as_float":
        return float(value)  # infinities are strings
    if kind == "as_floats":
        return [float(v) for v in value]
    return value


def _op(node: Mapping[str, Any]) -> Op:
    target = str(node["target"]).removeprefix("torch.ops.")
    outputs = [name for output in node["outputs"] for name in _output_names(output)]
    module, kind = _module(node.get("metadata", {}).get("nn_module_stack", ""))
    arguments = {item["name"] or str(i): _argument(item["arg"]) for i, item in enumerate(node["inputs"])}
    name = node.get("name") or (outputs[0] if outputs else target)
    return Op(target, name, arguments, tuple(outputs), module, kind)


def _output_names(output: Mapping[str, Any]) -> list[str]:
    value = _argument(output)
    return [v.name for v in (value if isinstance(value, list) else [value]) if isinstance(v, Ref)]


def _module(stack: str) -> tuple[str, str]:
    """(path, class) of the innermost module, from "key,path,class;key,path,class"."""
    parts = stack.split(_STACK)[-1].split(",")
    if len(parts) != 3 or parts[0].startswith("_empty_nn_module_stack"):
        return "", ""
    return parts[1], parts[2]
