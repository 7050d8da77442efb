"""Dense layers of many inputs and few outputs, which have kernels of their own in both directions."""

import numpy as np
import pytest

import cases
import lrpfast
import oracle
from lrpfast.kernels import _cpu
from test_amx import guarded
from tolerances import Expected

#: inputs and outputs: ends of blocks of 512 inputs, of panels and vectors; groups of four outputs, the limit of outputs
SIZES = [(520, 1), (575, 4), (1024, 5), (1537, 8), (1100, 16), (1100, 17)]
#: forms of the kernels: one sum, parts of x, both signs at once, weights of their own for each part
CASES = [
    ("epsilon", {"epsilon": 0.1}),
    ("z_plus", {}),
    ("alpha_beta", {}),
    ("alpha_beta", {"alpha": 1.0, "beta": 0.0}),
    ("gamma", {}),
    ("z_box", {"low": -3.0, "high": 4.0}),
    ("flat", {}),
]


@pytest.mark.share
@pytest.mark.parametrize("isa", _cpu.instruction_sets())
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=cases.case_id)
def test_figures_and_the_same_bits_for_any_batch(monkeypatch, case, size, isa):
    monkeypatch.setenv("LRPFAST_ISA", isa)
    layers = cases.network((*size, 3))
    x = cases.inputs(29, size[0])  # more rows than a piece has
    composite = lrpfast.composites.Uniform(lrpfast.rules.Epsilon(0.1), cases.rule(case))
    expected = Expected(lambda ar: oracle.explain(layers, [case, ("epsilon", {"epsilon": 0.1})], x[:3], ar=ar))
    for precision in ("float32", "float64"):
        one, two = (lrpfast.Analyzer(cases.model(layers), composite, precision=precision, threads=t) for t in (1, 2))
        relevance = one.analyze(x)
        expected.check(relevance[:3], precision, str(size))
        for count in (1, 2, 5, 25):
            np.testing.assert_array_equal(two.analyze(x[:count]), relevance[:count])


@pytest.mark.parametrize("isa", _cpu.instruction_sets())
@pytest.mark.parametrize("case", CASES[:4], ids=cases.case_id)
def test_nothing_is_touched_beyond_the_end(monkeypatch, case, isa):
    monkeypatch.setenv("LRPFAST_ISA", isa)
    for n in (521, 1023):
        layers = cases.network((n, 3, 2))
        analyzer = lrpfast.Analyzer(cases.model(layers), cases.rule(case), target=0)
        x, out = guarded(2 * n, np.float32).reshape(2, n), guarded(2 * n, np.float32).reshape(2, n)
        x[:] = cases.inputs(2, n)
        assert analyzer.analyze(x, out=out).tobytes() == analyzer.analyze(x.copy()).tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("case", CASES[:5], ids=cases.case_id)
def test_input_that_is_not_finite_is_refused(case, value):
    layers = cases.network((700, 4, 2))
    x = cases.inputs(30, 700)
    x[27, 699] = value
    with pytest.raises(lrpfast.errors.LrpfastError, match="27"):
        lrpfast.Analyzer(cases.model(layers), cases.rule(case)).analyze(x)
