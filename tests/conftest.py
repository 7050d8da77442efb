"""The stand-in for CuPy: a fixture, or, with LRPFAST_TEST_DEVICE=standin, for all tests that leave the device open."""

import os

import pytest

import standin_loader

EVERYWHERE = os.environ.get("LRPFAST_TEST_DEVICE") == "standin"
if EVERYWHERE:
    standin_loader.install()


@pytest.fixture
def standin():
    """The stand-in in the place of CuPy: its kernels run on the CPU. Yields its settings (`cupy.standin`)."""
    from lrpfast.kernels.cuda import devices, products

    cupy = standin_loader.install()
    if cupy.standin.compiler() is None:
        if not EVERYWHERE:
            standin_loader.remove()
        pytest.skip("no C++ compiler (CXX, g++, c++ or clang++) to run the GPU kernels on the CPU with")
    devices.forget()
    products.forget()
    yield cupy.standin
    cupy.standin.reset()
    if not EVERYWHERE:
        standin_loader.remove()
    devices.forget()
    products.forget()
