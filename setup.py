"""Builds the compiled kernels; everything else is in pyproject.toml.

``LRPFAST_DEBUG=1`` builds them with bounds and overflow checks, assertions and symbols; ``LRPFAST_SANITIZE=1`` with
AddressSanitizer and UndefinedBehaviorSanitizer. Neither Cython nor setuptools looks at them to see what is up to date:
build in a fresh copy, as `.ci/sanitize` does.
"""

import os
import sys

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

if sys.platform == "win32":
    raise SystemExit(
        "lrpfast cannot be built on Windows: its kernels use POSIX threads, the vector extensions of GCC and Clang, "
        "and a 64-bit long. Use it in WSL."
    )

DEBUG, SANITIZE = (os.environ.get(name, "0") not in ("", "0") for name in ("LRPFAST_DEBUG", "LRPFAST_SANITIZE"))

# No -ffast-math and no contraction: fused multiply-adds only where tile.h writes
# them. What is left out (errno, traps) changes no value.
FLAGS = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
LINK = ["-pthread"]
if DEBUG or SANITIZE:
    FLAGS += ["-O1", "-g", "-fno-omit-frame-pointer", "-UNDEBUG"]
else:
    FLAGS += ["-O3", "-g0"]  # after Python's own flags, which often ask for symbols
    LINK += ["-Wl,-s"] if sys.platform == "linux" else []
if SANITIZE:
    FLAGS += ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    LINK += ["-fsanitize=address,undefined"]

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
KERNELS = "src/lrpfast/kernels"
DEPENDS = ("_cpu.pxd", "_contract.pxi", "_light.pxi", "compute.h", "tile.h", "pool.h")

setup(
    ext_modules=cythonize(
        [
            Extension(
                "lrpfast.kernels._cpu",
                [f"{KERNELS}/_cpu.pyx", f"{KERNELS}/compute.c", f"{KERNELS}/pool.c"],
                depends=[f"{KERNELS}/{name}" for name in DEPENDS],
                include_dirs=[KERNELS, numpy.get_include()],
                define_macros=MACROS,
                extra_compile_args=FLAGS,
                extra_link_args=LINK,
            ),
            Extension(
                "lrpfast.batch._moments",
                ["src/lrpfast/batch/_moments.pyx"],
                define_macros=MACROS,
                extra_compile_args=FLAGS,
                extra_link_args=LINK,
            ),
        ],
        compiler_directives=DIRECTIVES,
    )
)
