"""The stand-in for CuPy, which of the tests run, and how they are spread over several processes.

The stand-in is a fixture, or, with LRPFAST_TEST_DEVICE=standin, there for all tests that leave the device open.

Long tests are marked `sweep`, and tests of many cases `share`: of these one case in three runs. `--cases rest` runs
what is left out, and `--cases all` everything. With LRPFAST_TEST_SHARE=3 every test of many cases runs one in three.

With LRPFAST_TEST_FLOAT32=3xtf32 what asks for float32 is computed under that precision.
With LRPFAST_TEST_TILES=1 every matrix product in float32 is done on tile registers, where large ones are.
With LRPFAST_TEST_SPARSE=1 the kernels for rows that are mostly zeros do all products that they can, of any input.
"""

import collections
import contextlib
import os

import pytest

import kept
import seeds
import selection
import standin_loader

EVERYWHERE = os.environ.get("LRPFAST_TEST_DEVICE") == "standin"
if EVERYWHERE:
    standin_loader.install()

if name := os.environ.get("LRPFAST_TEST_FLOAT32"):
    from lrpfast.engine.inputs import PRECISIONS

    PRECISIONS["float32"] = PRECISIONS[name]

if os.environ.get("LRPFAST_TEST_TILES"):
    from lrpfast.kernels import _cpu

    _cpu.PRODUCTS_FROM.update(dict.fromkeys(_cpu.PRODUCTS_FROM, 1))

if os.environ.get("LRPFAST_TEST_SPARSE"):
    from lrpfast.kernels import _cpu, zeros

    _cpu.SPARSE_FROM.update(dict.fromkeys(_cpu.SPARSE_FROM, 1))
    _cpu.zeros_read = lambda operations: [zeros.NEARLY_ALL] * len(operations)

#: for all tests of MANY cases or more, marked or not
SHARE = int(os.environ.get("LRPFAST_TEST_SHARE", "1"))
MANY = 40

with contextlib.suppress(ImportError):  # a wheel is tested with little else
    from hypothesis import settings

    settings.register_profile("quick", deadline=None, derandomize=True, max_examples=15)
    settings.register_profile("rest", deadline=None, derandomize=True, max_examples=60)


def pytest_addoption(parser):
    parser.addoption(
        "--cases",
        choices=("quick", "rest", "all"),
        default="quick",
        help="quick: without the long tests and most cases of those that have many; rest: what that leaves out; or all",
    )


def pytest_configure(config):
    # random networks amplify relevance, or lose it; tests that are about the warnings expect them
    config.addinivalue_line("filterwarnings", "ignore::lrpfast.errors.RelevanceWarning")
    config.addinivalue_line("markers", "sweep: takes long, so that only --cases rest and all run it")
    config.addinivalue_line("markers", "share: has many cases, of which one in three runs, and the others in the rest")
    if (cache := getattr(config, "cache", None)) and kept.VARIABLE not in os.environ:
        with contextlib.suppress(OSError):  # it may not be writable; then each process compiles for itself
            os.environ[kept.VARIABLE] = str(cache.mkdir("compiled"))
    if config.pluginmanager.hasplugin("hypothesispytest"):
        settings.load_profile("quick" if config.getoption("cases") == "quick" else "rest")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    # neighbours stay in one process, which computes once what they share, until another has nothing left to do
    if config.getoption("numprocesses", None) and config.getoption("dist") == "no":
        config.option.dist = "worksteal"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores, 8)  # each has all modules in memory, almost 1 GB, and threads of its own


def pytest_collection_modifyitems(config, items):
    cases = config.getoption("cases")
    if any("::" in argument for argument in config.args):
        cases = "all"  # who names a test wants it
    tests = collections.defaultdict(list)
    for item in items:
        tests[item.path, getattr(item, "originalname", item.name)].append(item)
    left_out = set()
    for own in tests.values():
        if SHARE > 1 and len(own) >= MANY:
            left_out |= all_but(own, selection.quick(names(own), SHARE))
        left_out |= others(own, cases)
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    seeds.reseed(item.name)


def others(items, cases):
    """Those of a test's items that do not run."""
    if cases == "all":
        return set()
    long = {item for item in items if item.get_closest_marker("sweep")}
    many = [item for item in items if item not in long]
    if many and many[0].get_closest_marker("share"):
        long |= all_but(many, selection.quick(names(many)))
    if cases == "quick":
        return long
    # Hypothesis takes more examples in the rest
    return {item for item in items if item not in long and not getattr(item.obj, "is_hypothesis_test", False)}


def names(items):
    return [item.callspec.id if hasattr(item, "callspec") else "" for item in items]


def all_but(items, chosen):
    return {item for at, item in enumerate(items) if at not in chosen}


@pytest.fixture
def standin():
    """The stand-in in the place of CuPy: its kernels run on the CPU. Yields its settings (`cupy.standin`)."""
    from lrpfast.kernels.cuda import cublas, cudnn, devices

    cupy = standin_loader.install()
    if cupy.standin.compiler() is None:
        if not EVERYWHERE:
            standin_loader.remove()
        pytest.skip("no C++ compiler (CXX, g++, c++ or clang++) to run the GPU kernels on the CPU with")
    devices.forget()
    cublas.HANDLES.forget()
    cudnn.forget()
    yield cupy.standin
    cupy.standin.reset()
    if not EVERYWHERE:
        standin_loader.remove()
    devices.forget()
    cublas.HANDLES.forget()
    cudnn.forget()
