"""Layers of many inputs and few outputs, read and written by windows of 16 bytes (LRPFAST_GPU_WIDE=windows)."""

import numpy as np
import pytest

import cases
import lrpfast
import oracle
from test_layers import dtype
from tolerances import Expected

#: every shift of a row against 16 bytes, and rows that are all aligned
WIDTHS = [1024, 1025, 1026, 1027]
#: one group of rows and several, whole and not
SAMPLES = [1, 3, 9, 37]
RULES = [
    ("epsilon", {"epsilon": 0.1}),
    ("alpha_beta", {}),
    ("z_plus", {}),
    ("gamma", {}),
    ("flat", {}),
    ("z_box", {"low": -3.0, "high": 4.0}),
]


@pytest.fixture(autouse=True)
def windows(standin, monkeypatch):
    from lrpfast.kernels.cuda import many_k

    monkeypatch.setattr(many_k, "CHOICE", "windows")
    standin.CONFIG["order"] = 2
    return many_k


def launched(standin):
    return {name for name, *_ in standin.LOG if name.startswith(("many_k", "small_k"))}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule[0])
@pytest.mark.parametrize("precision", ["float32", "float64", "tf32"])
def test_rules(rule, precision, standin):
    i = RULES.index(rule)
    width, count = WIDTHS[(i + len(precision)) % 4], SAMPLES[i % 4]
    (layer,) = cases.network((width, 5))
    x, r = cases.inputs(count, width), cases.values((5,), count, seed=9)
    expected = Expected(lambda ar: oracle.redistribute(rule, layer, x, r, ar))
    got = lrpfast.redistribute(
        cases.rule(rule), lrpfast.layers.Dense(layer.w, layer.b), x.astype(dtype(precision)), r,
        precision=precision, device="gpu",
    )  # fmt: skip
    expected.check(got, precision)
    if rule[0] != "alpha_beta":  # which has more sums than two
        assert {name[:-2] for name in launched(standin)} >= {"small_k"}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", SAMPLES)
def test_networks(width, count, standin):
    standin.CONFIG["order"] = (width + count) % 3
    layers, x = cases.network((width, 8, 2)), cases.inputs(count, width)
    case = (("epsilon", {"epsilon": 0.1}), ("z_plus", {}))[width % 2]
    expected = Expected(lambda ar: oracle.explain(layers, [case] * 2, x, ar=ar))
    analyzer = lrpfast.Analyzer(cases.model(layers), cases.rule(case), device="gpu")
    expected.check(analyzer.analyze(x), "float32")
    sums = 1 + width % 2
    assert launched(standin) == {f"many_k_{sums}", f"small_k_{sums}"}


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_inputs_that_begin_anywhere(offset, standin):
    """A view of an array on the device is read in place."""
    import cupy

    layers, whole = cases.network((1026, 3)), cases.inputs(5, 1026)
    there = cupy.empty(offset + whole.size, np.float32)
    there[offset:] = cupy.asarray(whole.reshape(-1))
    x = there[offset:].reshape(whole.shape)
    expected = Expected(lambda ar: oracle.explain(layers, [("epsilon", {"epsilon": 0.1})], whole, ar=ar))
    got = lrpfast.Analyzer(cases.model(layers), cases.rule(("epsilon", {"epsilon": 0.1})), device="gpu").analyze(x)
    expected.check(got.get(), "float32")
    assert launched(standin) == {"many_k_1", "small_k_1"}


def test_outputs_may_be_the_many(standin):
    """A decoder: few inputs, many outputs, and a bias."""
    layers, x = cases.network((3, 8, 1026)), cases.inputs(6, 3)
    case = ("epsilon", {"epsilon": 0.1})
    expected = Expected(lambda ar: oracle.explain(layers, [case] * 2, x, 7, ar))
    got = lrpfast.Analyzer(cases.model(layers), cases.rule(case), target=7, device="gpu").analyze(x)
    expected.check(got, "float32")
    assert launched(standin) == {"small_k_1", "many_k_1"}


def test_splits_fill_the_device_and_are_added_in_order(standin, windows, monkeypatch):
    standin.CONFIG["multiprocessors"] = 16
    layers, x = cases.network((5003, 6)), cases.inputs(5, 5003)
    case = ("epsilon", {"epsilon": 0.1})
    expected = Expected(lambda ar: oracle.explain(layers, [case], x, ar=ar))
    analyzer = lrpfast.Analyzer(cases.model(layers), cases.rule(case), device="gpu")
    first = analyzer.analyze(x)
    expected.check(first, "float32")
    assert ("many_k_1", (4, 4, 1), (256, 1, 1)) in standin.LOG
    assert analyzer.analyze(x).tobytes() == first.tobytes()


def test_inputs_that_are_not_finite(standin):
    layers, x = cases.network((1027, 3)), cases.inputs(5, 1027)
    x[3, 1026] = np.inf
    analyzer = lrpfast.Analyzer(cases.model(layers), "epsilon", device="gpu")
    with pytest.raises(lrpfast.InputError, match=r"x\[3, 1026\] is inf"):
        analyzer.analyze(x)


def test_weights_of_both_directions_are_one_array(standin):
    from lrpfast.kernels.cuda import device_arrays

    model = cases.model(cases.network((1027, 3)))
    analyzer = lrpfast.Analyzer(model, "epsilon", device="gpu")
    analyzer.analyze(cases.inputs(2, 1027))
    assert sum("windows" in key for key in device_arrays.WEIGHTS) == 1


@pytest.mark.parametrize("sizes", [(1023, 3), (1024, 9), (9, 1024)], ids=str)
def test_other_layers_are_tiles(sizes, standin):
    layers = cases.network(sizes)
    lrpfast.Analyzer(cases.model(layers), "epsilon", device="gpu").analyze(cases.inputs(3, sizes[0]))
    assert not launched(standin)


def test_by_default_all_are_tiles(standin, windows, monkeypatch):
    monkeypatch.setattr(windows, "CHOICE", "tiles")
    lrpfast.Analyzer(cases.model(cases.network((1024, 3))), "epsilon", device="gpu").analyze(cases.inputs(3, 1024))
    assert not launched(standin)


def test_an_unknown_choice_is_an_error(standin, windows, monkeypatch):
    monkeypatch.setattr(windows, "CHOICE", "fast")
    with pytest.raises(lrpfast.DeviceError, match="LRPFAST_GPU_WIDE='fast' must be 'tiles' or 'windows'"):
        lrpfast.Analyzer(cases.model(cases.network((1024, 3))), "epsilon", device="gpu")
