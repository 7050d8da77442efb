"""How fast is one layer, by rule, layer, dtype, instruction set and threads, beside NumPy doing the same products?"""

from __future__ import annotations

import numpy as np
import pytest

import kernels


def group(case: kernels.KernelCase) -> str:
    return f"{case.layer}, {case.dtype}, {case.threads} threads"


@pytest.mark.parametrize("tool", ["lrpfast", "numpy"])
@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.benchmark(group=group(c)), id=c.key) for c in kernels.cases()]
)
def test_kernel(benchmark, case, tool, small):
    if tool == "numpy" and case.isa:
        pytest.skip("NumPy chooses its instruction set by itself; see the case without one")
    arrays = kernels.arrays(case, small)
    ours, _ = kernels.lrpfast_call(case, arrays)
    theirs = kernels.numpy_call(case, arrays)
    with kernels.numpy_threads(case.threads) as limited:
        if tool == "numpy" and not (limited or small):
            pytest.skip("threadpoolctl, which sets NumPy's threads, is not installed")
        assert kernels.difference(ours(), theirs()) <= kernels.TOLERANCE[case.dtype]
        result = benchmark(ours if tool == "lrpfast" else theirs)
    assert np.isfinite(result).all()
