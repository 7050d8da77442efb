"""The ``.cu`` files as compiled modules: the files of each module, its types, and its kernels.

A module is compiled when a kernel is first used, once for each device; CuPy keeps the binaries on disk.
"""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

from ...errors import DeviceError
from ..codes import ENUMS
from .handles import first_line
from .tiles import TILES, TRIAL, WGMMA, tile

FOLDER = Path(__file__).parent
_RECURRENT = ("recurrent.cu", "recurrent_gradient.cu", "recurrent_back.cu")
#: The files of each module, in order.
MODULES = {
    "tile": ("common.cu", "epilogue.cu", "tile_loaders.cu", "tile_sums.cu", "tile.cu"),
    TRIAL: ("common.cu", "epilogue.cu", "tile_loaders.cu", "tile_sums.cu", "tile.cu"),
    WGMMA: ("common.cu", "epilogue.cu", "tile_loaders.cu", "tile_sums.cu", "tile_wgmma.cu", "tile.cu"),
    "split_k_reduce": ("common.cu", "epilogue.cu", "split_k_reduce.cu"),
    "many_k": ("common.cu", "epilogue.cu", "many_k.cu"),
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
#: The modules whose kernels are tiles: those in use, and those that have not been measured (`tiles.CHOICE`).
TILE_MODULES = ("tile", TRIAL, WGMMA)
#: No implicit fused multiply-adds, so that the arithmetic is the same as on the CPU.
OPTIONS = ("-std=c++17", "--fmad=false")
#: More of a module. CuPy adds the device's own architecture, sm_90, and NVRTC takes the one that has more.
MORE_OPTIONS = {WGMMA: ("-arch=sm_90a",)}
NO_WGMMA = (
    "LRPFAST_GPU_TILE='wgmma' needs the compiler of CUDA 13 (lrpfast's extra 'cuda13'), since that of CUDA 12 refuses "
    "to be told two architectures; install it, or unset LRPFAST_GPU_TILE"
)
THREADS = 256
#: many_k.cu: the largest number of values on a layer's narrow side, and the rows of one sum that a thread has
#: at a time; of two sums it has half as many.
MOST_FEW = 8
AT_ONCE = {"float32": 4, "float64": 2}

_compiled: dict[tuple[int, str, str], Any] = {}
_functions: dict[tuple[int, str, str, str], Any] = {}
_lock = threading.Lock()


def header(module: str = "tile") -> str:
    """The header of a module, from Python's definitions: enums, and the tiles of `tile.cu`."""
    lines = [f"enum {{ {', '.join(f'{code.name} = {code.value}' for code in enum)} }};" for enum in ENUMS]
    conditions = {
        "3xtf32": "defined(SPLIT_OPERANDS)",
        "tensor": "defined(TENSOR_CORES)",
        "float64": "defined(DOUBLE)",
        "float32": "1",
    }
    for i, (kind, condition) in enumerate(conditions.items()):
        lines.append(f"#{'elif' if i else 'if'} {condition}")
        lines.append(f"#define TILES {' '.join(tile.source() for tile in TILES[kind] if tile.module == module)}")
    lines.append("#endif")
    if module == TRIAL:
        lines.append("#define TRIAL_TILES")
    if module == WGMMA:
        lines.append("#define WARPGROUPS")
    if module == "many_k":
        lines.append(f"enum {{ MOST_FEW = {MOST_FEW}, THREADS = {THREADS} }};")
        lines.append(f"enum {{ AT_ONCE = sizeof(REAL) == 8 ? {AT_ONCE['float64']} : {AT_ONCE['float32']} }};")
    return "\n".join([*lines, ""])


@functools.cache
def source(module: str) -> str:
    """The source of a module, with line directives, so that compilers name the file and line of an error."""
    files = (f'#line 1 "{name}"\n{(FOLDER / name).read_text(encoding="utf-8")}\n' for name in MODULES[module])
    return "".join([header(module), *files])


def function(device: int, module: str, kind: str, name: str) -> Any:
    """A kernel for the current device."""
    if kind in TENSOR_KINDS and module not in TILE_MODULES:
        kind = "float32"
    key = (device, module, kind, name)
    kernel = _functions.get(key)
    if kernel is None:
        with _lock:
            if key[:3] not in _compiled:
                import cupy

                options = (*OPTIONS, *MORE_OPTIONS.get(module, ()), *KINDS[kind])
                _compiled[key[:3]] = cupy.RawModule(code=source(module), options=options)
            try:
                kernel = _compiled[key[:3]].get_function(name)
            except Exception as error:
                if module != WGMMA:
                    raise
                raise DeviceError(f"{NO_WGMMA}; the compiler says: {first_line(error)}") from error
            if module in TILE_MODULES:
                kernel.max_dynamic_shared_size_bytes = tile(kind, name).shared
            _functions[key] = kernel
    return kernel


def forget() -> None:
    """Drop the compiled modules, for tests that change the device."""
    _compiled.clear()
    _functions.clear()
