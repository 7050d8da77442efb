"""precision="3xtf32": three products on tensor cores, as accurate as float32; an error where there are none."""

import numpy as np
import pytest

import cases
import lrpfast

#: The root mean square error of a sum as a share of the sum of its terms' sizes, over that of a chain of float32
#: multiply-adds: below 1 from some dozens of terms on; above it for a few, which tensor cores truncate
RATIOS = {8: 2.0, 64: 1.0, 600: 1.0}


def operands(kind, depth):
    """x and w whose products add up, differ in sign, or cancel but for a thousandth."""
    rng = np.random.default_rng(depth)
    x, w = rng.normal(size=(40, depth)), rng.normal(size=(depth, 24))
    if kind == "positive":
        x, w = np.abs(x), np.abs(w)
    if kind == "cancelling":
        half = depth // 2
        x[:, half:] = x[:, :half]
        w[half:] = -w[:half] * (1 + 1e-3 * rng.normal(size=(half, 24)))
    return np.float32(x), np.float32(w)


@pytest.mark.parametrize("kind", ["positive", "mixed", "cancelling"])
@pytest.mark.parametrize("depth", RATIOS)
def test_sums_are_as_accurate_as_in_float32(depth, kind, standin):
    standin.CONFIG["cublas"] = False
    x, w = operands(kind, depth)
    exact, size = np.float64(x) @ np.float64(w), np.abs(np.float64(x)) @ np.abs(np.float64(w))
    model = lrpfast.from_layers([lrpfast.layers.Dense(w)])
    errors = {}
    for precision in ("float32", "3xtf32"):
        errors[precision] = (model.predict(x, precision=precision, device="gpu") - exact) / size
    split = errors["3xtf32"]
    assert np.abs(split).max() < 4 * 2.0**-23 * max(1, np.sqrt(depth) / 8)
    assert np.sqrt((split**2).mean()) < RATIOS[depth] * np.sqrt((errors["float32"] ** 2).mean())


def test_the_parts_hold_all_digits_but_the_last(standin):
    """x · 1 = high + low, whatever the digits of x."""
    x = np.concatenate([1 + np.arange(4096) * 2.0**-23, 2 - np.arange(1, 4097) * 2.0**-23]).astype(np.float32)
    model = lrpfast.from_layers([lrpfast.layers.Dense(np.ones((1, 1)))])
    got = model.predict(x[:, None], precision="3xtf32", device="gpu")[:, 0]
    assert np.abs(np.float64(got) - x).max() <= 2.0**-22  # a unit of low's last digit, and a truncation
    assert (model.predict(np.zeros((2, 1)), precision="3xtf32", device="gpu") == 0).all()


@pytest.mark.parametrize("factor", [1e-20, 1e15])
def test_values_of_any_size(factor, standin):
    layers = cases.network((35, 20, 3))
    x = cases.inputs(6, 35)
    model = cases.model(layers)
    scaled = np.float32(factor) * x
    got, expected = (
        lrpfast.Analyzer(model, "z_plus", precision=p, device="gpu").analyze(scaled) for p in ("3xtf32", "float32")
    )
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_the_same_bytes_again_and_names(standin):
    model = cases.model(cases.network((35, 70, 3)))
    x = cases.inputs(40, 35)
    analyzer = lrpfast.Analyzer(model, "epsilon", precision="3xtf32", device="gpu")
    first = analyzer.analyze(x)
    assert analyzer.precision == "3xtf32" and "3xtf32" in repr(analyzer)
    for _ in range(3):  # by launches, then as a graph
        assert analyzer.analyze(x).tobytes() == first.tobytes()
    assert any(name in {"middle_1", "wide_1"} for name, *_ in standin.LOG)


@pytest.mark.parametrize("x", [np.nan, np.inf])
def test_inputs_that_are_not_finite(x, standin):
    analyzer = lrpfast.Analyzer(cases.model(cases.network((5, 3))), "epsilon", precision="3xtf32", device="gpu")
    values = np.ones((3, 5), np.float32)
    values[1, 2] = x
    with pytest.raises(lrpfast.InputError, match=r"x\[1, 2\]"):
        analyzer.analyze(values)


def test_the_cpu_has_no_tensor_cores():
    model = cases.model(cases.network((5, 3)))
    for call in (
        lambda: lrpfast.Analyzer(model, "epsilon", precision="3xtf32", device="cpu"),
        lambda: model.predict(np.ones((1, 5)), precision="3xtf32", device="cpu"),
    ):
        with pytest.raises(lrpfast.DeviceError, match=r"'3xtf32'.* the CPU; use precision='float32'"):
            call()


def test_an_old_gpu_has_no_tensor_cores_for_it(standin):
    standin.CONFIG["compute_capability"] = "75"
    with pytest.raises(lrpfast.DeviceError, match=r"gpu:0 .*capability 7\.5.* use precision='float32'"):
        lrpfast.Analyzer(cases.model(cases.network((5, 3))), "epsilon", precision="3xtf32", device="gpu")
