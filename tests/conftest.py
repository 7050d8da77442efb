"""The stand-in for CuPy, and how many of the tests run.

The stand-in is a fixture, or, with LRPFAST_TEST_DEVICE=standin, there for all tests that leave the device open. With
LRPFAST_TEST_SHARE=3 a test of many cases runs one in three of them.
"""

import collections
import os

import pytest

import standin_loader

EVERYWHERE = os.environ.get("LRPFAST_TEST_DEVICE") == "standin"
if EVERYWHERE:
    standin_loader.install()

SHARE = int(os.environ.get("LRPFAST_TEST_SHARE", "1"))
#: tests of fewer cases than that run them all
MANY = 40
TURN = 17


def pytest_collection_modifyitems(config, items):
    def test(item):
        return item.path, getattr(item, "originalname", item.name)

    cases, number, left_out = collections.Counter(map(test, items)), collections.Counter(), []
    for item in items:
        at = number[test(item)]
        number[test(item)] += 1
        # every third, so that each layer of a list has its turn, and now and then one earlier: other rules, other sizes
        if cases[test(item)] >= MANY and (at - at // TURN) % SHARE:
            left_out.append(item)
    config.hook.pytest_deselected(items=left_out)
    away = set(left_out)
    items[:] = [item for item in items if item not in away]


@pytest.fixture
def standin():
    """The stand-in in the place of CuPy: its kernels run on the CPU. Yields its settings (`cupy.standin`)."""
    from lrpfast.kernels.cuda import cublas, devices

    cupy = standin_loader.install()
    if cupy.standin.compiler() is None:
        if not EVERYWHERE:
            standin_loader.remove()
        pytest.skip("no C++ compiler (CXX, g++, c++ or clang++) to run the GPU kernels on the CPU with")
    devices.forget()
    cublas.forget()
    yield cupy.standin
    cupy.standin.reset()
    if not EVERYWHERE:
        standin_loader.remove()
    devices.forget()
    cublas.forget()
