"""Arrays of more than 2**31 elements: every index must be counted in 64 bits.

They take no memory: one block of pages is mapped into the address range over and over, as input and as output, with
nothing mapped before and behind. An index that was cut to 32 bits ends in a crash, and a count that was cut leaves the
last block, which has pages of its own, as it was.
"""

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lrpfast

BLOCK = 1 << 24  # float32 elements
COUNT = (1 << 31) // BLOCK + 1

pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create") or sys.maxsize < 1 << 33, reason="needs Linux's memfd_create on a 64-bit machine"
)


def repeated(first, last):
    """An array of COUNT blocks, of which all but the last are ``first``; both are shared, not copied."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    nbytes, guard, fixed, reserve = 4 * BLOCK, 1 << 34, 0x10, 0x4000

    def place(address, length, protection, flags, file):
        found = libc.mmap(address, length, protection, flags, file, 0)
        if found in (None, ctypes.c_void_p(-1).value):
            pytest.skip(f"this system does not map so much address space: {os.strerror(ctypes.get_errno())}")
        return found

    base = place(None, COUNT * nbytes + 2 * guard, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | reserve, -1) + guard
    for number, values in enumerate((first, last)):
        file = os.memfd_create("lrpfast")
        os.ftruncate(file, nbytes)
        for block in range(COUNT - 1) if number == 0 else (COUNT - 1,):
            place(base + block * nbytes, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | fixed, file)
        os.close(file)
        array = np.frombuffer((ctypes.c_float * BLOCK).from_address(base + (number and COUNT - 1) * nbytes), np.float32)
        array[:] = values
    return np.frombuffer((ctypes.c_float * (BLOCK * COUNT)).from_address(base), np.float32)


def block():
    return np.random.default_rng(0).uniform(0.5, 1, BLOCK).astype(np.float32)


def one_image():
    """One sample: a convolution's rows and taps."""
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(4, 4, 64, 2)).astype(np.float32)
    row, values = (512, 64), block()
    found = {}
    for name, shape in (("small", (512, *row)), ("large", (512 * COUNT, *row))):
        convolution = lrpfast.layers.Conv(kernel, strides=4)
        analyzer = lrpfast.Analyzer(
            lrpfast.from_layers([convolution], input_shape=shape), "epsilon", target="all", device="cpu"
        )
        if name == "small":
            found[name] = analyzer.analyze(values.reshape(1, *shape)).ravel()
        else:
            out = repeated(0, np.nan)
            analyzer.analyze(repeated(values, values).reshape(1, *shape), out=out.reshape(1, *shape))
            found[name] = out[-BLOCK:]
    np.testing.assert_array_equal(found["large"], found["small"])


def many_samples():
    """Many samples: where each of them lies."""
    rng = np.random.default_rng(2)
    dense, features = lrpfast.layers.Dense, 4096
    layers = [
        dense(rng.normal(size=(features, 8)).astype(np.float32), activation="relu"),
        dense(rng.normal(size=(8, 2)).astype(np.float32)),
    ]
    analyzer = lrpfast.Analyzer(lrpfast.from_layers(layers), "z_plus", device="cpu")
    values = block()
    small = analyzer.analyze(values.reshape(-1, features))
    out = repeated(0, np.nan)
    analyzer.analyze(repeated(values, values).reshape(-1, features), out=out.reshape(-1, features))
    np.testing.assert_array_equal(out[-BLOCK:].reshape(small.shape), small)


@pytest.mark.sweep
@pytest.mark.parametrize("function", ["one_image", "many_samples"])
def test_more_than_two_to_the_31(function):
    """In a process of its own: a wrong index is a crash."""
    done = subprocess.run(
        [sys.executable, "-c", f"import test_large; test_large.{function}()"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
