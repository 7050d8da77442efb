"""The ``.cu`` files as compiled modules: the files of each module, its types, and its kernels.

A module is compiled when a kernel is first used, once for each device; CuPy keeps the binaries on disk.
"""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

from ..codes import ENUMS
from .tiles import TILES, tile

FOLDER = Path(__file__).parent
_RECURRENT = ("recurrent.cu", "recurrent_gradient.cu", "recurrent_back.cu")
#: The files of each module, in order.
MODULES = {
    "tile": ("common.cu", "epilogue.cu", "tile_loaders.cu", "tile_sums.cu", "tile.cu"),
    "split_k_reduce": ("common.cu", "epilogue.cu", "split_k_reduce.cu"),
    "channelwise": ("common.cu", "epilogue.cu", "channelwise.cu"),
    "light": ("common.cu", "functions.cu", "light.cu", "attention.cu", *_RECURRENT),
    "input": ("common.cu", "input.cu"),
}
#: The kinds of a module. Two are float32 with products on tensor cores, and differ from it only in "tile": "tensor" has
#: operands that are TF32 numbers, "3xtf32" splits each into two.
KINDS = {
    "float32": ("-DREAL=float",),
    "float64": ("-DREAL=double", "-DDOUBLE"),
    "tensor": ("-DREAL=float", "-DTENSOR_CORES"),
    "3xtf32": ("-DREAL=float", "-DTENSOR_CORES", "-DSPLIT_OPERANDS"),
}
TENSOR_KINDS = ("tensor", "3xtf32")
#: No implicit fused multiply-adds, so that the arithmetic is the same as on the CPU.
OPTIONS = ("-std=c++17", "--fmad=false")
THREADS = 256

_compiled: dict[tuple[int, str, str], Any] = {}
_functions: dict[tuple[int, str, str, str], Any] = {}
_lock = threading.Lock()


def header() -> str:
    """The header of every module, from Python's definitions: enums, and the tiles of `tile.cu`."""
    lines = [f"enum {{ {', '.join(f'{code.name} = {code.value}' for code in enum)} }};" for enum in ENUMS]
    conditions = {
        "3xtf32": "defined(SPLIT_OPERANDS)",
        "tensor": "defined(TENSOR_CORES)",
        "float64": "defined(DOUBLE)",
        "float32": "1",
    }
    for i, (kind, condition) in enumerate(conditions.items()):
        lines.append(f"#{'elif' if i else 'if'} {condition}")
        lines.append(f"#define TILES {' '.join(tile.source() for tile in TILES[kind])}")
    return "\n".join([*lines, "#endif", ""])


@functools.cache
def source(module: str) -> str:
    """The source of a module, with line directives, so that compilers name the file and line of an error."""
    files = (f'#line 1 "{name}"\n{(FOLDER / name).read_text(encoding="utf-8")}\n' for name in MODULES[module])
    return "".join([header(), *files])


def function(device: int, module: str, kind: str, name: str) -> Any:
    """A kernel for the current device."""
    if kind in TENSOR_KINDS and module != "tile":
        kind = "float32"
    key = (device, module, kind, name)
    kernel = _functions.get(key)
    if kernel is None:
        with _lock:
            if key[:3] not in _compiled:
                import cupy

                _compiled[key[:3]] = cupy.RawModule(code=source(module), options=(*OPTIONS, *KINDS[kind]))
            kernel = _compiled[key[:3]].get_function(name)
            if module == "tile":
                kernel.max_dynamic_shared_size_bytes = tile(kind, name).shared
            _functions[key] = kernel
    return kernel


def forget() -> None:
    """Drop the compiled modules, for tests that change the device."""
    _compiled.clear()
    _functions.clear()
