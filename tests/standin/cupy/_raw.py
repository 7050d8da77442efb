"""Kernels from CUDA source, compiled for the CPU together with cuda_shim.h."""

import ctypes
import functools
import hashlib
import re
import subprocess
from pathlib import Path

import numpy as np

from kept import kept

from ._array import ndarray
from .cuda import memory, runtime, stream
from .cuda.compiler import CompileException
from .cuda.driver import CUDADriverError, KernelError
from .standin import CONFIG, LOCK, LOG, compiler, rng

_FOLDER = Path(__file__).resolve().parents[1]  # of cuda_shim.h and what it includes
_FLAGS = ["-std=gnu++17", "-fno-strict-aliasing", "-w", "-ffp-contract=off", "-O1", "-shared", "-fPIC"]
_ENTRY = re.compile(
    r'extern\s*"C"\s*__global__\s+void\s+(?:__launch_bounds__\s*\(([^()]*(?:\([^()]*\)[^()]*)*)\)\s*)?(\w+)\s*\('
)
_ALIGNED = r"(?:(?:__align__|alignas)\s*\(\s*\d+\s*\)\s+)?"
_DYNAMIC = re.compile(rf"\bextern\s+__shared__\s+{_ALIGNED}([\w:<> ]+?)\s+{_ALIGNED}(\w+)\s*\[\s*\]\s*;")
_SHARED = re.compile(r"(?:\bstatic\s+)?\b__shared__\b([^;]*);")


@functools.cache
def _flags():
    """The compiler's options: fused multiply-add as an instruction where the machine has it."""
    try:
        fma = " fma " in Path("/proc/cpuinfo").read_text()
    except OSError:
        fma = False
    return [*_FLAGS, "-mfma"] if fma else _FLAGS


def _call(command, code, options):
    done = subprocess.run(command, input=code, capture_output=True, text=True)
    if done.returncode:
        raise CompileException(done.stderr[:8000], code, "kernel.cu", tuple(options))
    return done.stdout


def _place(declaration):
    """A declaration of shared variables as static ones that every block finds full of NaN."""
    text, depth, names, start = declaration[1], 0, [], 0
    for i, char in enumerate([*text, ","]):
        depth += (char in "[(<{") - (char in "])>}")
        if char == "," and not depth:
            names.append(re.search(r"(\w+)\s*(?:\[|$)", re.sub(r"<.*>|\([^()]*\)", "", text[start:i]).rstrip())[1])
            start = i + 1
    return f"static{text};" + "".join(f" SHIM_POISON({name})" for name in names)


def _source(code, names, options, macros):
    """The C++ file for a CUDA source: macros expanded, shared variables placed, a table of kernels added."""
    includes = "\n".join(re.findall(r"^\s*#\s*include\s*<c?(?:std\w+|math|float|limits)(?:\.h)?>", code, re.M))
    code = re.sub(r"^[ \t]*#[ \t]*include.*$", "", code, flags=re.M)
    preprocess = [compiler(), "-std=gnu++17", "-x", "c++", "-E", "-w", "-DLRP_CPU_SHIM=1", "-D__CUDACC__=1"]
    body = _call([*preprocess, *macros, "-"], f'#line 1 "kernel.cu"\n{code}', options)
    body = _DYNAMIC.sub(r"\1* const \2 = (\1*)shim::dynamic_shared;", body)
    body = _SHARED.sub(_place, body)
    kernels = [(name, bounds.split(",")[0].strip() or "0") for bounds, name in _ENTRY.findall(body)]
    kernels += [(name, "0") for name in names]
    if not kernels:
        raise CompileException('no extern "C" __global__ kernel found', code, "kernel.cu", tuple(options))
    table = ", ".join(f'shim::kernel("{name}", (int)({bound}), {name})' for name, bound in kernels)
    return f'#include "cuda_shim.h"\n{includes}\nnamespace {{\n{body}\n}}\nSHIM_TABLE({table})\n'


def _build(code, names, options):
    """Compile to a shared library, or find it among those of other processes and earlier runs."""
    if compiler() is None:
        raise RuntimeError("the stand-in needs a C++ compiler")
    macros = [option for option in options if option.startswith(("-D", "-U"))]
    flags = [*_flags(), *macros]
    files = [path.read_text() for path in (*sorted(_FOLDER.glob("*.h")), Path(__file__))]
    key = repr((code, tuple(names), files, flags, compiler()))

    def compile_to(path):
        source = _source(code, names, options, macros)
        _call([compiler(), *flags, "-I", str(_FOLDER), "-x", "c++", "-", "-o", str(path)], source, options)

    lib = ctypes.CDLL(str(kept(f"standin-{hashlib.sha256(key.encode()).hexdigest()[:24]}.so", compile_to)))
    lib.shim_name.restype = lib.shim_parameters.restype = lib.shim_message.restype = ctypes.c_char_p
    return lib


class _Parameter:
    """A kernel's parameter, from the shim's description of it: kind, bytes, and a star for a pointer."""

    def __init__(self, text):
        self.pointer = text.endswith("*")
        self.kind, self.size = text[0], int(text[1:].rstrip("*"))

    def __str__(self):
        return f"{self.kind}{self.size}{'*' if self.pointer else ''}"

    def takes(self, dtype):
        if self.kind == "V":
            return self.pointer or (dtype.itemsize == self.size and dtype.kind == "V")
        kinds = {"u": "ub", "b": "b"}.get(self.kind, self.kind) if self.pointer else self.kind
        return dtype.kind in kinds and dtype.itemsize == self.size


class RawKernel:
    """One kernel of a module."""

    num_regs, local_size_bytes, const_size_bytes, shared_size_bytes = 32, 0, 0, 0

    def __init__(self, code, name, options=(), backend="nvrtc", **kwargs):
        self.name, self.code, self.options = name, code, tuple(options)
        self._module = RawModule(code=code, options=options, backend=backend)
        self._dynamic = 48 << 10

    @functools.cached_property
    def _lib(self):
        return self._module._library()

    @functools.cached_property
    def _number(self):
        self._lib  # noqa: B018 - compiles
        if self.name not in self._module._numbers:
            raise CUDADriverError(500, f" ({self.name})")
        return self._module._numbers[self.name]

    @functools.cached_property
    def _parameters(self):
        return [_Parameter(text) for text in self._lib.shim_parameters(self._number).decode().split()]

    def compile(self, log_stream=None):
        self._number  # noqa: B018

    @functools.cached_property
    def max_threads_per_block(self):
        return self._lib.shim_bound(self._number) or 1024

    @property
    def max_dynamic_shared_size_bytes(self):
        return self._dynamic

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size):
        if not 0 <= size <= 227 << 10:
            raise CUDADriverError(1, f" ({size} bytes of dynamic shared memory)")
        self._dynamic = int(size)

    @property
    def attributes(self):
        names = "max_threads_per_block num_regs local_size_bytes const_size_bytes shared_size_bytes"
        return {name: getattr(self, name) for name in [*names.split(), "max_dynamic_shared_size_bytes"]}

    def __call__(self, grid, block, args, *, shared_mem=0, stream=None):
        size = [(*(int(n) for n in dims), 1, 1)[:3] for dims in (grid, block)]
        self._check(*size, shared_mem)
        values, hold, ends = self._bind(args)
        on = _current(stream)
        if not on.null and on.device_id != runtime.getDevice():
            raise CUDADriverError(400)

        def run():
            pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
            LOG.append((self.name, *size))
            seed = rng().getrandbits(31) if CONFIG["order"] == 2 else 0
            sizes = (ctypes.c_uint * 6)(*size[0], *size[1])
            room = ctypes.c_size_t(shared_mem)
            if self._lib.shim_launch(self._number, pointers, sizes, room, CONFIG["order"], seed, bool(CONFIG["ftz"])):
                raise self._error(self._lib.shim_message().decode())
            for ptr, slack in ends:
                if ctypes.string_at(ptr, slack) != b"\xff" * slack:
                    raise KernelError(700, f": {self.name}: a write past the end of an array")

        on._queue(run, hold)

    def _error(self, message):
        address = re.match(r"invalid access to (0x\w+)", message)
        where = f", {memory._describe(int(address[1], 16))}" if address else ""
        return KernelError(700 if address else 719, f": {self.name}: {message}{where}")

    def _check(self, grid, block, shared_mem):
        threads = block[0] * block[1] * block[2]
        fits = threads <= self.max_threads_per_block and max(block[:2]) <= 1024 and block[2] <= 64
        if min(grid + block) < 1 or not fits or max(grid[1:]) > 65535 or grid[0] >= 1 << 31:
            raise CUDADriverError(1, f" ({self.name}: grid {grid}, block {block})")
        if not 0 <= shared_mem <= self._dynamic:
            raise CUDADriverError(1, f" ({self.name}: {shared_mem} bytes of dynamic shared memory)")

    def _bind(self, args):
        """The values that the kernel gets, the blocks they point into, and what lies behind these."""
        if len(args) != len(self._parameters):
            raise TypeError(f"{self.name} takes {len(self._parameters)} arguments, got {len(args)}")
        values, hold = [], []
        for i, (arg, parameter) in enumerate(zip(args, self._parameters, strict=True)):
            if parameter.pointer:
                value = np.array(self._pointer(i, arg, parameter, hold), np.uint64)
            elif isinstance(arg, np.generic | np.ndarray) and arg.size == 1 and parameter.takes(arg.dtype):
                value = np.array(arg)  # by value: a scalar, or an array of one structure
                _blocks_inside(value, hold)
            else:
                got = f"numpy {arg.dtype}" if isinstance(arg, np.generic) else type(arg).__name__
                raise TypeError(f"{self.name}, argument {i}: a parameter {parameter} got {got}")
            values.append(value)
        current = runtime.getDevice()
        for block in hold:
            if block.device != current:
                raise CUDADriverError(
                    700, f" ({self.name}: an array of device {block.device} while device {current} is current)"
                )
        return values, hold, [(block.ptr + block.nbytes, block.slack) for block in hold if block.slack]

    def _pointer(self, i, arg, parameter, hold):
        if arg is None:
            return 0
        if isinstance(arg, ndarray):
            if not parameter.takes(arg.dtype):
                raise TypeError(f"{self.name}, argument {i}: a parameter {parameter} got an array of {arg.dtype}")
            mem, ptr = arg._mem, arg._a.ctypes.data
        elif isinstance(arg, memory.MemoryPointer):
            mem, ptr = arg.mem, arg.ptr
        elif isinstance(arg, np.uint64):  # an address as a number
            block = memory._block_at(int(arg)) if arg else None
            if arg and block is None:
                raise CUDADriverError(700, f" ({self.name}, argument {i}: {int(arg):#x} is in no array)")
            if block is not None:
                hold.append(block)
            return int(arg)
        else:
            raise TypeError(f"{self.name}, argument {i}: a pointer parameter got {type(arg).__name__}")
        if mem.block is not None:
            hold.append(mem.block)
        elif mem.device_id != runtime.getDevice():
            raise CUDADriverError(700, f" ({self.name}: an array of device {mem.device_id})")
        return ptr


def _current(given):
    return stream.get_current_stream() if given is None else given


def _blocks_inside(value, hold):
    """Find the arrays that the pointers in a structure point to."""
    if value.dtype.kind == "V" and value.nbytes >= 8:
        words = np.frombuffer(value.tobytes()[: value.nbytes // 8 * 8], np.uint64)
        hold += [block for block in map(memory._block_at, map(int, words)) if block is not None]


class RawModule:
    """The kernels of one source."""

    def __init__(self, code=None, *, path=None, options=(), backend="nvrtc", name_expressions=None, **kwargs):
        if not isinstance(options, tuple):
            raise TypeError("options must be a tuple of str")
        self.code, self.options, self.backend = code, options, backend
        self.name_expressions = list(name_expressions or ())
        self._lib = self._numbers = None

    def _library(self):
        with LOCK:
            if self._lib is None:
                self._lib = _build(self.code, self.name_expressions, self.options)
                self._numbers = {self._lib.shim_name(i).decode(): i for i in range(self._lib.shim_count())}
        return self._lib

    def compile(self, log_stream=None):
        self._library()

    def get_function(self, name):
        kernel = RawKernel.__new__(RawKernel)
        kernel.name, kernel.code, kernel.options = name, self.code, self.options
        kernel._module, kernel._dynamic = self, 48 << 10
        kernel.compile()
        return kernel
