"""Builds the compiled kernels; everything else is in pyproject.toml."""

import sys

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

# No -ffast-math and no contraction: fused multiply-adds only where tile.h writes
# them. What is left out (errno, traps) changes no value.
FLAGS = [] if sys.platform == "win32" else ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
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
                extra_link_args=[] if sys.platform == "win32" else ["-pthread"],
            ),
            Extension(
                "lrpfast.batch._moments",
                ["src/lrpfast/batch/_moments.pyx"],
                define_macros=MACROS,
                extra_compile_args=FLAGS,
            ),
        ]
    )
)
