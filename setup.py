"""Builds the compiled kernels; everything else is in pyproject.toml.

``LRPFAST_DEBUG=1`` builds them with bounds and overflow checks, assertions and symbols; ``LRPFAST_SANITIZE=1`` with
AddressSanitizer and UndefinedBehaviorSanitizer; ``LRPFAST_EMULATE_AMX=1`` with tile registers emulated in C, to test
what is done on them where there are none. Neither Cython nor setuptools looks at them to see what is up to date:
build in a fresh copy, as `.ci/sanitize` does.
"""

import os
import shutil
import sys
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG, SANITIZE = (os.environ.get(name, "0") not in ("", "0") for name in ("LRPFAST_DEBUG", "LRPFAST_SANITIZE"))
WINDOWS = sys.platform == "win32"

# No -ffast-math and no contraction: fused multiply-adds only where the kernels write
# them. What is left out (errno, traps) changes no value.
FLAGS = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
LINK = [] if WINDOWS else ["-pthread"]
if DEBUG or SANITIZE:
    FLAGS += ["-O1", "-g", "-fno-omit-frame-pointer", "-UNDEBUG"]
else:
    FLAGS += ["-O3", "-g0"]  # after Python's own flags, which often ask for symbols
    LINK += ["-Wl,-s"] if sys.platform == "linux" else []
if SANITIZE:
    FLAGS += ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    LINK += ["-fsanitize=address,undefined"]
if WINDOWS:
    FLAGS = ["--target=x86_64-pc-windows-msvc", *(f"/clang:{flag}" for flag in FLAGS)]


class BuildExt(build_ext):
    """On Windows clang-cl compiles, for Visual C++ has no vector extensions; headers and linker stay Visual C++'s."""

    def build_extensions(self):
        """Build, on Windows with the other compiler."""
        if WINDOWS:
            if self.plat_name != "win-amd64" or self.compiler.compiler_type != "msvc":
                raise SystemExit(
                    f"lrpfast cannot be built for {self.plat_name} with the compiler {self.compiler.compiler_type!r}. "
                    "On Windows it takes 64-bit Python on x86-64 and Visual C++: 32 bits are too few for the kernels' "
                    "indices, and nobody has tried Windows on Arm. In WSL it is as on Linux."
                )
            if not self.compiler.initialized:
                self.compiler.initialize()
            self.compiler.cc = clang_cl(self.compiler.cc)
        super().build_extensions()


def clang_cl(cl):
    """The path of clang-cl: on PATH, where LLVM's installer puts it, or in the Visual Studio of the compiler ``cl``."""
    places = [None, Path(os.environ.get("PROGRAMFILES", "C:/Program Files"), "LLVM/bin")]
    # Visual Studio has VC/Tools/MSVC/VERSION/bin/Hostx64/x64/cl.exe and VC/Tools/Llvm/x64/bin/clang-cl.exe
    places += [parent / "Llvm/x64/bin" for parent in Path(cl).parents if parent.name == "Tools"]
    for place in places:
        if found := shutil.which("clang-cl", path=place):
            return found
    raise SystemExit(
        "lrpfast's kernels need the compiler clang-cl on Windows, which was not found: install LLVM ('winget install "
        "LLVM.LLVM') or Visual Studio's component 'C++ Clang Compiler for Windows', beside Visual C++'s build tools."
    )


DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "initializedcheck": DEBUG,
    "overflowcheck": DEBUG,
    "show_performance_hints": not DEBUG,
    "wraparound": False,
    "cdivision": True,
    "freethreading_compatible": True,
}
MACROS = [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
if os.environ.get("LRPFAST_EMULATE_AMX", "0") not in ("", "0"):
    MACROS.append(("LRPFAST_EMULATE_AMX", None))
KERNELS = "src/lrpfast/kernels"
HEADERS = sorted(str(path) for pattern in ("_cpu.pxd", "*.pxi", "*.h") for path in Path(KERNELS).glob(pattern))

setup(
    ext_modules=cythonize(
        [
            Extension(
                "lrpfast.kernels._cpu",
                [f"{KERNELS}/_cpu.pyx", f"{KERNELS}/compute.c", f"{KERNELS}/pool.c"],
                depends=HEADERS,
                include_dirs=[KERNELS, numpy.get_include()],
                define_macros=MACROS,
                extra_compile_args=FLAGS,
                extra_link_args=LINK,
            ),
            Extension(
                "lrpfast.batch._moments",
                ["src/lrpfast/batch/_moments.pyx"],
                depends=["src/lrpfast/batch/transpose.h"],
                include_dirs=["src/lrpfast/batch"],
                define_macros=MACROS,
                extra_compile_args=FLAGS,
                extra_link_args=LINK,
            ),
        ],
        compiler_directives=DIRECTIVES,
    ),
    cmdclass={"build_ext": BuildExt},
)
