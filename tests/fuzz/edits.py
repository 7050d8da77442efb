"""Edits of files, as lists that JSON can hold: chosen at random by what a file is, made again from a record.

An edit of bytes knows nothing of the format; the others keep a file whole and change what it says, so that they get
past its checksums and deep into its reader. ``["in", part, edit]`` edits a part: a member of a zip archive, a text
attribute in an HDF5 file, the values of an .npy file.
"""

from __future__ import annotations

import ast
import io
import json
import math
import struct
import warnings
import zipfile
from typing import Any

import h5py
import numpy as np

BYTES = ("set", "cut", "drop", "repeat", "insert", "splice")

NUMBERS = [
    *(0, 1, -1, 2, -2, 3, 7, 255, 65536, 10**6, 2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, 2**63),
    *(-(2**63), 2**64, 10**30, 0.5, -1.5, 1e-300, 1e300, float("nan"), float("inf"), float("-inf")),
]
WORDS = [
    *("", "x", "same", "valid", "linear", "relu", "softmax", "channels_first", "../../etc/passwd", "a/b", "é\0"),
]
VALUES = [
    *(*NUMBERS, *WORDS, True, False, None, [], {}, [[]], [0], [-1, -1], [None], {"a": 1}, [1, 2, 3, 4, 5], "y" * 5000),
]
DTYPES = [
    *("<f2", "<f4", ">f4", "<f8", "<i4", "|u1", "|b1", "<c8", "|S3", "<U2", "|O", "<M8[s]", "|V2", "<f4,<i4"),
    *("(2,)<f4", "x"),
]


def made(data: bytes, edits: list[Any], seeds: dict[str, bytes]) -> bytes:
    """``data`` after all edits; ``seeds`` are the files that parts may be taken from."""
    for edit in edits:
        data = _edited(data, edit, seeds)
    return data


def _edited(data: bytes, edit: list[Any], seeds: dict[str, bytes]) -> bytes:
    what, *how = edit
    if what in BYTES:
        return _bytes(data, what, how, seeds)
    if what == "in":
        part, inner = how
        return _with_part(data, part, _edited(_parts(data)[part], inner, seeds))
    return {"zip": _zip, "json": _json, "hdf5": _hdf5, "proto": _proto, "npy": _npy}[what](data, *how)


def chosen(data: bytes, random: Any, seeds: dict[str, bytes], whole: bool) -> list[Any]:
    """An edit that suits ``data``; of bytes only, unless the file is ``whole``."""
    kind = kind_of(data) if whole and random.random() < 0.75 else None
    if kind in ("zip", "hdf5", "npy") and random.random() < 0.6:
        parts = _parts(data)
        if parts:
            part = random.choice(list(parts))
            return ["in", part, chosen(parts[part], random, seeds, whole)]
    if kind is None:
        return _choose_bytes(data, random, seeds)
    by = {"zip": _choose_zip, "json": _choose_json, "hdf5": _choose_hdf5, "proto": _choose_proto, "npy": _choose_npy}
    return by[kind](data, random)


def keeps_whole(edit: list[Any]) -> bool:
    """Whether a file can be taken apart safely after the edit; HDF5's library crashes on some damaged files."""
    return keeps_whole(edit[2]) if edit[0] == "in" else edit[0] not in BYTES


def kind_of(data: bytes) -> str | None:
    """The format, if it can be edited as such."""
    if data.startswith(b"PK\x03\x04"):
        return "zip"
    if data.startswith(b"\x89HDF"):
        return "hdf5"
    if data.startswith(b"\x93NUMPY"):
        return "npy"
    if data[:1] in (b"{", b"["):
        return "json"
    return "proto" if data[:1] == b"\x08" and len(data) > 100 else None


# -- bytes ---------------------------------------------------------------------


def _bytes(data: bytes, what: str, how: list[Any], seeds: dict[str, bytes]) -> bytes:
    at = how[0]
    if what == "set":
        new = bytes.fromhex(how[1])
        return data[:at] + new + data[at + len(new) :]
    if what == "cut":
        return data[:at]
    if what == "drop":
        return data[:at] + data[at + how[1] :]
    if what == "repeat":
        return data[: at + how[1]] + data[at : at + how[1]] * how[2] + data[at + how[1] :]
    if what == "insert":
        return data[:at] + bytes.fromhex(how[1]) + data[at:]
    name, begin, count = how[1:]
    return data[:at] + seeds[name][begin : begin + count] + data[at + count :]


def _choose_bytes(data: bytes, random: Any, seeds: dict[str, bytes]) -> list[Any]:
    size = len(data)
    at = random.randrange(size + 1) if random.random() < 0.6 else random.randrange(min(size, 600) + 1)
    what = random.choice(("set",) * 5 + BYTES)
    count = min(random.choice((1, 1, 2, 4, 8, 64, 1000)), size)
    if what == "set":
        number = random.choice(NUMBERS[:20])
        wide = struct.pack("<q" if random.random() < 0.7 else ">q", (number + 2**63) % 2**64 - 2**63)
        new = (random.randbytes(count), bytes([random.randrange(256)]), wide[: random.choice((2, 4, 8))])
        return [what, at, random.choice(new).hex()]
    if what == "insert":
        return [what, at, random.randbytes(count).hex()]
    if what == "splice":
        name = random.choice(list(seeds))
        return [what, at, name, random.randrange(len(seeds[name])), random.choice((4, 64, 1000, 10_000))]
    return [what, at] + {"drop": [count], "repeat": [count, random.choice((1, 2, 100))]}.get(what, [])


# -- parts ---------------------------------------------------------------------


def _parts(data: bytes) -> dict[str, bytes]:
    kind = kind_of(data)
    if kind == "zip":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    if kind == "hdf5":
        texts = {}
        with h5py.File(io.BytesIO(data), "r") as file:
            for path in _objects(file):
                for name, value in file[path].attrs.items():
                    if isinstance(value, (str, bytes)) and len(value) > 30:
                        texts[f"{path}@{name}"] = value.encode() if isinstance(value, str) else value
        return texts
    return {"values": data[10 + int.from_bytes(data[8:10], "little") :]}


def _with_part(data: bytes, part: str, new: bytes) -> bytes:
    kind = kind_of(data)
    if kind == "zip":
        return _zip(data, "replace", part, new)
    if kind == "hdf5":
        path, name = part.rsplit("@", 1)
        return _hdf5(data, path, "attribute", name, new.decode("utf-8", "surrogateescape"))
    end = 10 + int.from_bytes(data[8:10], "little")
    whole = data[:end] + new
    # text is stored as an array of its bytes, whose number must stay right
    return _npy(whole, "shape", [len(new)]) if b"|u1" in data[:end] and len(new) != len(data) - end else whole


def _zip(data: bytes, what: str, name: str, new: Any = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "duplicate name"
        for info in old.infolist():
            content, mine = old.read(info), info.filename == name
            if mine and what == "remove":
                continue
            if mine and what == "replace":
                content = new
            if mine and what == "zeros":
                content = bytes(new)
            packed = zipfile.ZIP_DEFLATED if mine and what in ("pack", "zeros") else info.compress_type
            archive.writestr(new if mine and what == "rename" else info.filename, content, packed, compresslevel=1)
            if mine and what == "twice":
                archive.writestr(name, content if new is None else content[:new], packed)
    return out.getvalue()


def _choose_zip(data: bytes, random: Any) -> list[Any]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
    what, name = random.choice(("remove", "rename", "twice", "pack", "zeros")), random.choice(names)
    if what == "rename":
        return ["zip", what, name, random.choice((*names, "../" + name, "/" + name, name.upper(), name + "\0", "é"))]
    how = {"zeros": [random.choice((0, 1, 1000, 1 << 18))], "twice": [random.choice((None, 5))]}
    return ["zip", what, name, *how.get(what, [])]


# -- JSON ----------------------------------------------------------------------


def _json(data: bytes, path: list[Any], what: str, value: Any = None) -> bytes:
    document = json.loads(data)
    if what == "deep":
        marked = _json(data, path, "set", "<deep>")
        return marked.replace(b'"<deep>"', b"[" * value + b"]" * value)
    if what == "copy":
        what, value = "set", _at(document, value)
    if not path:
        return json.dumps(value).encode()
    holder, key = _at(document, path[:-1]), path[-1]
    if what == "set":
        holder[key] = value
    elif what == "remove":
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, holder[key])
    else:
        holder[key + "2"] = holder[key]
    return json.dumps(document).encode()


def _at(document: Any, path: list[Any]) -> Any:
    for key in path:
        document = document[key]
    return document


def _places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(document, list):
        document = dict(enumerate(document))
    for key, value in document.items() if isinstance(document, dict) else ():
        found += _places(value, (*path, key))
    return found


def _choose_json(data: bytes, random: Any) -> list[Any]:
    try:
        places = _places(json.loads(data))
    except (ValueError, RecursionError):
        return ["cut", len(data) // 2]
    path, what = list(random.choice(places)), random.choice(("set", "set", "set", "remove", "twice", "copy", "deep"))
    if what == "deep":
        return ["json", path, what, random.choice((10, 500, 100_000))]
    value = {"set": random.choice(VALUES), "copy": list(random.choice(places))}.get(what)
    return ["json", path, "set" if not path else what, value]


# -- HDF5 ----------------------------------------------------------------------


def _objects(file: h5py.File) -> list[str]:
    found = ["/"]
    file.visit(found.append)
    return found


def _hdf5(data: bytes, path: str, what: str, *how: Any) -> bytes:
    out = io.BytesIO(data)
    with h5py.File(out, "r+") as file:
        if what == "attribute":
            file[path].attrs[how[0]] = how[1]
        elif what == "no attribute":
            del file[path].attrs[how[0]]
        else:
            old = file[path][()] if isinstance(file[path], h5py.Dataset) else np.zeros(3)
            attrs = dict(file[path].attrs)
            del file[path]
            if what == "soft":
                file[path] = h5py.SoftLink(how[0])
            elif what == "external":
                file[path] = h5py.ExternalLink("other.h5", how[0])
            elif what == "hard":
                file[path] = file[how[0]]
            elif what == "declare":
                file.create_dataset(path, tuple(how[0]), how[1], chunks=tuple(how[2]) if how[2] else None)
            elif what == "typed":
                file[path] = old.astype(how[0])
            elif what == "packed":
                file.create_dataset(path, data=np.zeros(how[0], "f4"), compression="gzip")
            elif what == "value":
                file[path] = np.full_like(old, how[0])
            if what in ("declare", "typed", "packed", "value"):
                file[path].attrs.update(attrs)
    return out.getvalue()


def _choose_hdf5(data: bytes, random: Any) -> list[Any]:
    with h5py.File(io.BytesIO(data), "r") as file:
        places = _objects(file)
        path = random.choice(places)
        node, attributes = file[path], list(file[path].attrs)
        shape = list(node.shape or ()) if isinstance(node, h5py.Dataset) else [3]
    names = ["layer_names", "weight_names", "scale_factor", "_FillValue", "missing_value", "coordinates", "units"]
    links = ("soft", "external", "hard")
    what = random.choice(("attribute", "no attribute", "remove", *links, "declare", "typed", "packed", "value"))
    if what == "attribute" or (what == "no attribute" and not attributes) or path == "/":
        name = random.choice(attributes + names)
        value = random.choice((*NUMBERS[:16], *NUMBERS[-7:], *WORDS[:5], ["a", "b"], [1.0, 2.0], [], "y" * 5000))
        return ["hdf5", path, "attribute", name, value]
    if what == "no attribute":
        return ["hdf5", path, what, random.choice(attributes)]
    if what in links:
        return ["hdf5", path, what, random.choice(places)]
    if what == "declare":
        large = random.choice(([2**20] * 2, [2**40], [2**31, 8], [0] * len(shape), [*shape, 1], shape[:-1], [0, 2**40]))
        chunks = [min(64, n) or 1 for n in large] if random.random() < 0.5 else None
        return ["hdf5", path, what, large, random.choice(("f4", "f8", "f2", "i4", "u1")), chunks]
    if what == "typed":
        return ["hdf5", path, what, random.choice(("f2", ">f4", "f8", "i4", "i8", "u1", "c8", "S4", "?"))]
    if what == "packed":
        return ["hdf5", path, what, [1 << random.choice((4, 18))]]
    return ["hdf5", path, what] + ([random.choice(NUMBERS[-6:])] if what == "value" else [])


# -- protobuf ------------------------------------------------------------------


def _proto(data: bytes, path: list[Any], what: str, value: Any = None) -> bytes:
    import onnx

    proto = onnx.ModelProto()
    proto.ParseFromString(data)
    *way, last = path
    holder = proto
    for key in way:
        holder = holder[key] if isinstance(key, int) else getattr(holder, key)
    if what == "copy":
        other = proto
        for key in value:
            other = other[key] if isinstance(key, int) else getattr(other, key)
        # a message that holds the other, or lies in it, cannot be copied onto it
        value, what = type(other).FromString(other.SerializeToString()) if hasattr(other, "CopyFrom") else other, "set"
    if isinstance(last, int) and what == "remove":
        del holder[last]
    elif isinstance(last, int) and what == "twice":
        items = list(holder)
        (holder.append if not hasattr(items[last], "CopyFrom") else lambda v: holder.add().CopyFrom(v))(items[last])
    elif isinstance(last, int) and hasattr(holder[last], "CopyFrom"):
        holder[last].CopyFrom(value)
    elif isinstance(last, int):
        holder[last] = _fitting(holder[last], value)
    elif what == "remove":
        holder.ClearField(last)
    elif hasattr(getattr(holder, last), "CopyFrom"):
        getattr(holder, last).CopyFrom(value)
    else:
        setattr(holder, last, _fitting(getattr(holder, last), value))
    return proto.SerializeToString()


def _fitting(old: Any, value: Any) -> Any:
    return value.encode() if isinstance(old, bytes) and isinstance(value, str) else value


def _fields(message: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    found = []
    for field, value in message.ListFields():
        here = (*path, field.name)
        items = [((*here, i), v) for i, v in enumerate(value)] if hasattr(value, "append") else [(here, value)]
        for at, item in items:
            if len(found) < 5000:
                found.append((at, item))
                if hasattr(item, "ListFields"):
                    found += _fields(item, at)
    return found


def _choose_proto(data: bytes, random: Any) -> list[Any]:
    import onnx

    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception:  # the parser's own class
        return ["cut", len(data) // 2]
    fields = _fields(proto)
    if not fields:
        return ["cut", len(data) // 2]
    path, old = random.choice(fields)
    alike = [list(at) for at, value in fields if type(value) is type(old)]
    what = random.choice(("set", "set", "copy", "copy", "remove", "twice"))
    if what == "copy" or (what == "set" and hasattr(old, "ListFields")):
        return ["proto", list(path), "copy", random.choice(alike)]
    if what == "twice" and not isinstance(path[-1], int):
        what = "remove"
    if what != "set":
        return ["proto", list(path), what]
    if isinstance(old, (str, bytes)):
        return ["proto", list(path), what, random.choice((*WORDS, "Reshape", "Conv", "Gather", "Expand", "Resize"))]
    if isinstance(old, float):
        return ["proto", list(path), what, random.choice(NUMBERS[-8:])]
    return ["proto", list(path), what, random.choice([n for n in NUMBERS[:19] if n < 2**63])]


# -- .npy ----------------------------------------------------------------------


def _npy(data: bytes, key: str, value: Any) -> bytes:
    end = 10 + int.from_bytes(data[8:10], "little")
    header = ast.literal_eval(data[10:end].decode("latin-1"))
    text = {**header, key: tuple(value) if key == "shape" and isinstance(value, list) else value}
    new = (value if key == "text" else repr(text)).encode("latin-1")
    return data[:8] + (len(new) + 1).to_bytes(2, "little") + new + b"\n" + data[end:]


def _choose_npy(data: bytes, random: Any) -> list[Any]:
    key = random.choice(("shape", "shape", "shape", "descr", "descr", "fortran_order", "text"))
    shape = list(ast.literal_eval(data[10 : 10 + int.from_bytes(data[8:10], "little")].decode("latin-1"))["shape"])
    if key == "shape" and shape:
        if random.random() < 0.5:
            shape[random.randrange(len(shape))] = random.choice(NUMBERS)
        else:
            other = ([], [0, *shape[1:]], [*shape, 1], [*shape, 0, 2**62], [1] * 70, [math.prod(shape)], [0, 2**40])
            shape = random.choice(other)
        return ["npy", key, shape]
    if key == "text":
        return ["npy", key, random.choice(("(" * 3000, "{" * 9000, "{}", "{'descr': " + "-" * 9000 + "1}", "1" * 9000))]
    return ["npy", key, random.choice(DTYPES if key == "descr" else VALUES)]
