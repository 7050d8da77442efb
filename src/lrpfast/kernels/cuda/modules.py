"""The ``.cu`` files as compiled modules: which make up one, for which type, and where its kernels are found.

Compiled when a kernel is first asked for, once per device; CuPy keeps the binaries on disk.
"""

from __future__ import annotations

import functools
import re
import threading
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent
#: each module's files, in order
MODULES = {
    "tile": ("common.cu", "finish.cu", "tile.cu"),
    "planes": ("common.cu", "finish.cu", "planes.cu"),
    "lanes": ("common.cu", "finish.cu", "lanes.cu"),
    "light": ("common.cu", "functions.cu", "light.cu"),
    "input": ("common.cu", "input.cu"),
}
#: what a module is compiled for: "tensor" is float32 with TF32 products on tensor cores, of which only "tile" differs
KINDS = {
    "float32": ("-DREAL=float",),
    "float64": ("-DREAL=double", "-DDOUBLE"),
    "tensor": ("-DREAL=float", "-DTENSOR_CORES"),
}
#: no contraction of a * b + c where the source does not say so: the same arithmetic as on the CPU
OPTIONS = ("-std=c++17", "--fmad=false")
THREADS = 256

_compiled: dict[tuple[int, str, str], Any] = {}
_functions: dict[tuple[int, str, str, str], Any] = {}
_lock = threading.Lock()


@functools.cache
def source(module: str) -> str:
    """A module's whole source; compilers name the file and line of what they find wrong."""
    return "".join(f'#line 1 "{name}"\n{(FOLDER / name).read_text(encoding="utf-8")}\n' for name in MODULES[module])


class Tile(NamedTuple):
    """A block's rows of sums and columns of each, and the bytes of shared memory that it is given."""

    rows: int
    columns: int
    shared: int


@functools.cache
def tiles() -> dict[tuple[str, str, int], Tile]:
    """Every tile by kind, name and sums, as tile.cu has them."""
    found: dict[tuple[str, str, int], Tile] = {}
    text = source("tile")
    last = text[text.rindex("#ifdef TENSOR_CORES") :]
    tensor, _, rest = last.partition("#elif defined(DOUBLE)")
    double, _, single = rest.partition("#else")
    for kind, part in (("tensor", tensor), ("float64", double), ("float32", single)):
        for name, rows, columns, more in re.findall(r"^(?:TILE|FRAGMENTS)\((\w+), (\d+), (\d+), (.*)\)$", part, re.M):
            *_, shared, sums, _ = more.split(", ")
            found[kind, name, int(sums)] = Tile(int(rows), int(columns), int(shared))
    return found


def function(device: int, module: str, kind: str, name: str) -> Any:
    """A kernel for a device, which is the current one."""
    if kind == "tensor" and module != "tile":
        kind = "float32"
    key = (device, module, kind, name)
    found = _functions.get(key)
    if found is None:
        with _lock:
            if key[:3] not in _compiled:
                import cupy

                made = cupy.RawModule(code=source(module), options=(*OPTIONS, *KINDS[kind]))
                _compiled[key[:3]] = made
            found = _compiled[key[:3]].get_function(name)
            if module == "tile":
                found.max_dynamic_shared_size_bytes = shared_memory(kind, name)
            _functions[key] = found
    return found


def shared_memory(kind: str, name: str) -> int:
    """Bytes of shared memory that a launch of a tile's kernel asks for."""
    tile, _, sums = name.rpartition("_")
    return tiles()[kind, tile, int(sums)].shared


def forget() -> None:
    """Drop what was compiled; for tests that change the device."""
    _compiled.clear()
    _functions.clear()
