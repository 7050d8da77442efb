"""Memory of dropped results, for new ones: when it is used, what bounds it, and that no living array shares it."""

import gc
import threading

import numpy as np
import pytest

import lrpfast
from lrpfast.engine import result_memory
from lrpfast.engine.result_memory import result_array

MIB = 1 << 20
F4 = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.delenv(result_memory.VARIABLE, raising=False)
    lrpfast.set_result_memory(0)
    lrpfast.set_result_memory(None)
    yield
    monkeypatch.delenv(result_memory.VARIABLE, raising=False)
    lrpfast.set_result_memory(0)
    lrpfast.set_result_memory(None)


def address(array):
    return array.__array_interface__["data"][0]


def kept():
    gc.collect()
    return sum(block.nbytes for block in result_memory._free.values())


def test_the_memory_of_a_dropped_result_is_used_again():
    first = result_array((2, MIB), F4)
    at = address(first)
    first[:] = 1
    del first
    assert kept() == 8 * MIB
    second = result_array((MIB, 2), F4)
    assert address(second) == at and second.shape == (MIB, 2) and second.dtype == F4 and kept() == 0
    assert second.flags.c_contiguous and second.flags.writeable and second.flags.aligned


def test_not_while_any_view_is_left():
    first = result_array((2, MIB), F4)
    view = first[1, 5:].reshape(1, -1)[:, ::2]
    first[:] = 7
    del first
    assert kept() == 0
    second = result_array((2, MIB), F4)
    second[:] = 1
    assert (view == 7).all()
    del view
    assert kept() == 8 * MIB


def test_small_results_and_other_sizes_have_memory_of_their_own():
    del (first := [result_array((2, MIB), F4)])[:]
    assert first == [] and kept() == 8 * MIB
    assert result_array((10,), F4).base is None
    large, smaller = result_array((4, MIB), F4), result_array((MIB,), F4)
    assert kept() == 8 * MIB and large.shape == (4, MIB) and smaller.shape == (MIB,)


def test_the_limit_is_kept_to_and_the_oldest_go():
    lrpfast.set_result_memory(20 * MIB)
    results = [result_array((n, MIB), F4) for n in (1, 2, 3)]
    while results:
        results.pop(0)
    assert sorted(b.nbytes // MIB for b in result_memory._free.values()) == [8, 12]
    lrpfast.set_result_memory(12 * MIB)
    assert kept() == 12 * MIB
    lrpfast.set_result_memory(0)
    assert kept() == 0 and result_array((2, MIB), F4).base is None


def test_the_environment_variable(monkeypatch):
    assert lrpfast.get_result_memory() == 256 * MIB
    monkeypatch.setenv(result_memory.VARIABLE, "4096")
    assert lrpfast.get_result_memory() == 4096
    lrpfast.set_result_memory(5)
    assert lrpfast.get_result_memory() == 5
    lrpfast.set_result_memory(None)
    monkeypatch.setenv(result_memory.VARIABLE, "much")
    with pytest.raises(lrpfast.InputError, match="LRPFAST_RESULT_MEMORY must be a whole number of bytes.*'much'"):
        lrpfast.get_result_memory()


@pytest.mark.parametrize("nbytes", [-1, 2.5, "1", True])
def test_bad_limits(nbytes):
    with pytest.raises(lrpfast.InputError, match="nbytes must be a whole number of bytes"):
        lrpfast.set_result_memory(nbytes)


def test_a_loop_of_analyze_uses_it_and_results_that_are_kept_stay():
    random = np.random.default_rng(0)
    w = random.normal(size=(3000, 2)).astype(F4)
    analyzer = lrpfast.Analyzer(lrpfast.from_layers([lrpfast.layers.Dense(w)]), "epsilon", device="cpu")
    x = random.normal(size=(200, 3000)).astype(F4)
    out = np.empty_like(x)
    analyzer.analyze(x, out=out)
    first = analyzer.analyze(x)
    at, copy = address(first), first.copy()
    second = analyzer.analyze(x[::-1])
    assert address(second) != at and (first == copy).all() and first.tobytes() == out.tobytes()
    del first
    assert address(analyzer.analyze(x)) == at
    assert (second == copy[::-1]).all()


def test_threads_never_share_a_block():
    wrong = []

    def work(number):
        for _ in range(50):
            array = result_array((1, MIB // 2), F4)
            array[:] = number
            if not (array == number).all():
                wrong.append(number)
            del array

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
