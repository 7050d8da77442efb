"""Vectors of exp and what follows from it: every function in units in the last place, on every instruction set."""

import os
import subprocess
import sys

import numpy as np
import pytest

import lrpfast
from lrpfast.kernels._cpu import instruction_sets

mpmath = pytest.importorskip("mpmath")

#: how far off, in units in the last place: 1, rounding of the result included, of what vectors compute
ULPS = {
    "exponential": (1.0, 1.0),
    "sigmoid": (1.0, 2.0),
    "silu": (1.0, 2.5),
    "tanh": (1.0, 1.0),
    "gelu": (1.0, 3.0),
    "gelu by tanh": (1.0, 3.0),
}
#: The same of derivatives in float64, away from where they are 0.
SLOPES = {"silu": 4.0, "gelu": 4.0, "gelu by tanh": 4.0}


def activation(function):
    by_tanh = function == "gelu by tanh"
    return lrpfast.layers.Activation("gelu", {"approximate": True}) if by_tanh else lrpfast.layers.Activation(function)


def by_tanh(mp, x):
    """2 u of GELU by tanh, and its derivative."""
    of_u, cubic = 2 * mp.sqrt(2 / mp.pi), mpmath.mpf("0.044715")
    return of_u * (x + cubic * x**3), of_u * (1 + 3 * cubic * x**2)


def exact(function, x):
    """In 40 digits, then rounded to double-double as a pair."""
    mp = mpmath.mp
    with mpmath.workdps(40):
        x = mpmath.mpf(float(x))
        return {
            "exponential": lambda: mp.exp(x),
            "sigmoid": lambda: 1 / (1 + mp.exp(-x)),
            "silu": lambda: x / (1 + mp.exp(-x)),
            "tanh": lambda: mp.tanh(x),
            "gelu": lambda: x * mp.erfc(-x / mp.sqrt(2)) / 2,
            "gelu by tanh": lambda: x / (1 + mp.exp(-by_tanh(mp, x)[0])),
        }[function]()


def exact_slope(function, x):
    """The derivative, in 40 digits."""
    mp = mpmath.mp
    with mpmath.workdps(40):
        x = mpmath.mpf(float(x))
        if function == "gelu":
            return mp.erfc(-x / mp.sqrt(2)) / 2 + x * mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)
        v, slope = by_tanh(mp, x) if function == "gelu by tanh" else (x, 1)
        t = 1 / (1 + mp.exp(-v))
        return t + x * slope * t * (1 - t)


def points(function, dtype):
    rng = np.random.default_rng(0)
    ends = {
        "exponential": 88 if dtype == np.float32 else 709,
        "tanh": 12,
        "gelu": 12 if dtype == np.float32 else 38.4,
        "gelu by tanh": 10 if dtype == np.float32 else 21,
        "sigmoid": 87 if dtype == np.float32 else 745,
        "silu": 80 if dtype == np.float32 else 750,
    }
    far = rng.uniform(-1, 1, 300) * ends[function]
    far = np.concatenate([far, rng.uniform(-8, -3, 100)])
    near = rng.normal(size=200) * 2.0 ** rng.integers(-20, 2, 200)
    return np.concatenate([far, near, [0.0, -0.0, 1.0, -1.0]]).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("function", ULPS)
def test_units_in_the_last_place(function, dtype):
    x = points(function, dtype)
    model = lrpfast.from_layers([activation(function)], input_shape=len(x))
    got = model.predict(x[None], precision=np.dtype(dtype).name)[0]
    worst = 0.0
    for a, y in zip(x, got, strict=True):
        value = exact(function, a)
        ulp = float(np.spacing(dtype(abs(float(value))))) or float(np.finfo(dtype).smallest_subnormal)
        worst = max(worst, abs(float(mpmath.mpf(float(y)) - value)) / ulp)
    assert worst <= ULPS[function][dtype == np.float64]


@pytest.mark.parametrize("function", SLOPES)
def test_derivatives(function):
    """In units in the last place, or of 1 where the derivative passes through 0."""
    end = {"silu": 700, "gelu": 37, "gelu by tanh": 20}[function]
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(-1, 1, 200) * end, rng.uniform(-8, 3, 300), [0.0, -1e30, 1e30]])
    model = lrpfast.from_layers([activation(function)], input_shape=len(x))
    got = lrpfast.Analyzer(model, "gradient", precision="float64", device="cpu").analyze(x[None], np.ones((1, len(x))))
    for a, y in zip(x, got[0], strict=True):
        value = exact_slope(function, a)
        ulp = np.spacing(1.0) if -3 < a < -0.3 else np.spacing(abs(float(value)))
        assert abs(float(mpmath.mpf(float(y)) - value)) <= SLOPES[function] * ulp, a


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_far_from_zero(dtype):
    """tanh is ±1, GELU and SiLU are x or nothing."""
    x = np.array([-1e30, -60.0, 60.0, 1e30, -0.0, 0.0], dtype)
    half, far = np.maximum(x, 0), np.where(np.abs(x) == 60, 0, x)  # SiLU of -60 is not quite 0
    cases = (("tanh", x, np.sign(x)), ("gelu", x, half), ("gelu by tanh", x, half), ("silu", far, np.maximum(far, 0)))
    for function, x, expected in cases:
        model = lrpfast.from_layers([activation(function)], input_shape=len(x))
        got = model.predict(x[None], precision=np.dtype(dtype).name)[0]
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_norms_of_any_width(dtype):
    """Rows shorter and longer than a vector, against sums in long double."""
    for size in (1, 2, 7, 8, 17, 64, 100):
        rng = np.random.default_rng(size)
        x, gamma, beta = (rng.normal(size=shape).astype(dtype) for shape in ((5, size), size, size))
        wide = x.astype(np.longdouble)
        centered = wide - wide.mean(1, keepdims=True)
        norms = {
            lrpfast.layers.LayerNorm(gamma, beta, epsilon=1e-3): centered
            / np.sqrt((centered**2).mean(1)[:, None] + 1e-3),
            lrpfast.layers.RMSNorm(gamma, beta, epsilon=1e-3): wide / np.sqrt((wide**2).mean(1)[:, None] + 1e-3),
        }
        for layer, normal in norms.items():
            got = lrpfast.from_layers([layer], input_shape=size).predict(x, precision=np.dtype(dtype).name)
            expected = (normal * gamma + beta).astype(np.float64)
            np.testing.assert_allclose(got, expected, rtol=0, atol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_where_it_overflows_and_underflows(dtype):
    """Small results are right below the smallest normal number, and what is too large is an error, not a number."""
    limits = np.finfo(dtype)
    lowest = float(np.log(np.float64(limits.smallest_subnormal)))
    x = np.array([lowest + 0.5, lowest + 5, lowest - 5, -1e4, float(np.log(limits.max)) - 1e-3], dtype)
    model = lrpfast.from_layers([lrpfast.layers.Activation("exponential")], input_shape=1)
    got = model.predict(x[:, None], precision=np.dtype(dtype).name)[:, 0]
    with np.errstate(under="ignore"):
        np.testing.assert_allclose(
            got, np.exp(x.astype(np.longdouble)).astype(dtype), rtol=1e-6, atol=float(limits.smallest_subnormal)
        )
    with pytest.raises(lrpfast.errors.LrpfastError, match="not finite|overflow"):
        model.predict(np.array([[800.0]]), precision=np.dtype(dtype).name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("size", [1, 3, 8, 17, 64])
def test_softmax(dtype, size):
    x = (np.random.default_rng(size).normal(size=(4, size)) * 10).astype(dtype)
    model = lrpfast.from_layers([lrpfast.layers.Softmax()], input_shape=size)
    e = np.exp(x.astype(np.longdouble) - x.max(1, keepdims=True))
    got = model.predict(x, precision=np.dtype(dtype).name)
    np.testing.assert_allclose(
        got, (e / e.sum(1, keepdims=True)).astype(np.float64), rtol=64 * np.finfo(dtype).eps, atol=1e-300
    )


@pytest.mark.parametrize("isa", instruction_sets()[:-1])
def test_other_instruction_sets(isa):
    """This file on each of them, in a process of its own."""
    if os.environ.get("LRPFAST_ISA"):
        pytest.skip("this is that process")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(command, env={**os.environ, "LRPFAST_ISA": isa}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:]
