"""The GPU's kernels, run on the CPU by a stand-in for CuPy, against the oracle.

Every array ends at a page that cannot be read, all memory begins as NaN, and threads run forwards, backwards and at
random. Each kernel of each module runs here at least once, which the last test holds.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest

import cases
import lrpfast
import oracle
import oracle_layers
import test_graphs
import test_layers
import test_recurrent
import test_recurrent_gradients
from test_layers import dtype
from tolerances import Expected

PRECISIONS = (*test_layers.PRECISIONS, "3xtf32")

#: inputs, outputs, samples: edges of all tiles (128, 64, 32, 16), of quads and of steps of K, and a split K
SIZES = [(1, 1, 1), (3, 2, 13), (17, 65, 2), (66, 17, 35), (37, 130, 34), (600, 5, 3), (20, 40, 3)]


@pytest.fixture(params=[0, 1, 2], ids=["forwards", "backwards", "at random"])
def gpu(request, standin):
    """The stand-in with its threads in some order."""
    standin.CONFIG["order"] = request.param
    return standin


@pytest.mark.share
@pytest.mark.parametrize("case", cases.CASES, ids=cases.case_id)
def test_dense(case, standin):
    for i, (n, m, count) in enumerate(SIZES):
        standin.CONFIG["order"] = i % 3
        (layer,) = cases.network((n, m))
        r = np.random.default_rng(m).normal(size=(count, m)).astype(np.float32)
        dense = lrpfast.layers.Dense(layer.w, layer.b)
        for nonnegative in (False, True):
            x = cases.inputs(count, n, nonnegative=nonnegative)
            expected = Expected(lambda ar, x=x, layer=layer, r=r: oracle.redistribute(case, layer, x, r, ar))
            precision = PRECISIONS[(i + 2 * nonnegative) % 4]
            got = lrpfast.redistribute(
                cases.rule(case),
                dense,
                x.astype(dtype(precision)),
                r.astype(dtype(precision)),
                precision=precision,
                device="gpu",
            )
            expected.check(got, precision, f"{n} x {m}, {count} samples")


#: larger than a tile in every direction, so that tiles meet: rows, columns, samples
LARGE = [(130, 135, 130), (150, 70, 130), (40, 30, 70), (30, 40, 70)]


@functools.cache
def large_dense(name, size):
    """(layer, case, x, r, what is expected), computed once for both ways of multiplying."""
    n, m, count = size
    (layer,) = cases.network((n, m))
    case = (name, {"low": -3.0, "high": 4.0} if name == "z_box" else {})
    r = np.random.default_rng(m).normal(size=(count, m)).astype(np.float32)
    x = cases.inputs(count, n)
    return layer, case, x, r, Expected(lambda ar: oracle.redistribute(case, layer, x, r, ar))


@pytest.mark.share
@pytest.mark.parametrize("library", [True, False], ids=["cublas", "own"])
@pytest.mark.parametrize("size", LARGE, ids=str)
@pytest.mark.parametrize("name", ["epsilon", "alpha_beta", "gamma", "z_box"])
def test_large_dense(name, size, library, standin, monkeypatch):
    from lrpfast.kernels.cuda import contractions

    standin.CONFIG["cublas"] = library
    standin.CONFIG["order"] = 2
    monkeypatch.setattr(contractions, "LIBRARY_FLOPS", 1)
    layer, case, x, r, expected = large_dense(name, size)
    for precision in PRECISIONS:
        got = lrpfast.redistribute(
            cases.rule(case),
            lrpfast.layers.Dense(layer.w, layer.b),
            x.astype(dtype(precision)),
            r.astype(dtype(precision)),
            precision=precision,
            device="gpu",
        )
        expected.check(got, precision)


@pytest.mark.parametrize("capability", ["75", "90"])
def test_tf32_with_and_without_tensor_cores(capability, standin):
    standin.CONFIG["compute_capability"] = capability
    layers = cases.network((35, 70, 20, 3))
    x = cases.inputs(40, 35)
    for case in (("epsilon", {"epsilon": 0.1}), ("alpha_beta", {})):
        expected = Expected(lambda ar, case=case: oracle.explain(layers, [case] * 3, x, ar=ar))
        analyzer = lrpfast.Analyzer(cases.model(layers), cases.rule(case), precision="tf32", device="gpu")
        expected.check(analyzer.analyze(x), "tf32", str(case))


def test_a_sum_of_exactly_zero_passes_relevance_on(gpu):
    first = lrpfast.layers.Dense(np.repeat([[1.0], [-1.0]], 64, 1))
    second = lrpfast.layers.Dense(np.full((64, 1), 3.0 / 64), np.ones(1))
    as_it_is = lrpfast.rules.Zero(stabilizer=lrpfast.rules.Stabilizer(1e-6, "zero"))
    x = np.array([[2.0, 2.0], [2.0, 1.0], [0.0, 0.0]])
    for precision in PRECISIONS:
        model = lrpfast.from_layers([first, second])
        got = lrpfast.Analyzer(model, as_it_is, precision=precision, device="gpu").analyze(x)
        np.testing.assert_allclose(got, [[6, -6], [6, -3], [0, 0]], rtol=1e-6)


# Convolutions and all other layers: the lists of test_layers, some rules each.

#: always: kernels that each have few cases
ALWAYS = ("local response", "attention", "softmax", "rotary", "matrices")
LAYERS = [p for i, p in enumerate(test_layers.SINGLE) if i % 6 == 0 or p.id.startswith(ALWAYS)]


@pytest.mark.share
@pytest.mark.parametrize("shapes, layer, rule, precisions", LAYERS)
def test_layer(shapes, layer, rule, precisions, standin):
    standin.CONFIG["order"] = len(rule[0]) % 3
    split = ("3xtf32",) if "tf32" in precisions else ()
    test_layers.check(layer, rule, test_layers.inputs(layer, shapes), (*precisions, *split))


#: by the test's case and the rule: the oracle computes them once for all orders of threads
LARGE_CONVOLUTIONS = {}


@pytest.mark.parametrize(
    "layer, shape, count",
    [
        (test_layers.W.conv((3, 2), 8, 66, padding="same"), (6, 5, 8), 5),
        (test_layers.W.conv((3, 3), 3, 20, groups=2, strides=2), (9, 9, 6), 9),
        (test_layers.W.conv((2, 1, 2), 3, 130, padding="same"), (3, 2, 3, 3), 8),
        (test_layers.W.conv_transpose((3, 2), 12, 5, strides=(2, 3)), (4, 5, 12), 3),
        (test_layers.W.depthwise((3, 3), 37, padding="same"), (5, 4, 37), 2),
    ],
    ids=["2d", "groups", "3d", "transposed", "depthwise"],
)
def test_large_convolutions(layer, shape, count, gpu):
    out = oracle_layers.chain(shape, layer).forward([cases.values(shape)[0]]).shapes[-1]
    r, x = cases.values(out, count, seed=9), cases.values(shape, count)
    for case, precision in (
        ("epsilon", "float32"),
        ("alpha_beta", "tf32"),
        ("alpha_beta", "float64"),
        ("alpha_beta", "3xtf32"),
    ):
        expected = LARGE_CONVOLUTIONS.setdefault(
            (id(layer), case),
            Expected(lambda ar, case=case: oracle_layers.redistribute((case, {}), layer, [x], r, ar)),
        )
        got = lrpfast.redistribute(
            case, cases.layer(layer), x.astype(dtype(precision)), r, precision=precision, device="gpu"
        )
        expected.check(cases.flat(got, count), precision, case)


@pytest.mark.parametrize("precision", test_layers.PRECISIONS)
def test_convolutions_by_the_library(precision, standin, monkeypatch):
    """Rows written out (im2col), then cuBLAS: forwards and backwards, where weights are taken whole."""
    from lrpfast.kernels.cuda import contractions

    monkeypatch.setattr(contractions, "CONVOLUTION", "library")
    monkeypatch.setattr(contractions, "LIBRARY_FLOPS", 1)
    layer = test_layers.W.conv((3, 2), 17, 18, padding="same", dilation=(1, 2))
    x, r = cases.values((4, 5, 17), 3), cases.values((4, 5, 18), 3, seed=9)
    expected = Expected(lambda ar: oracle_layers.redistribute(("epsilon", {}), layer, [x], r, ar))
    got = lrpfast.redistribute(
        "epsilon", cases.layer(layer), x.astype(dtype(precision)), r, precision=precision, device="gpu"
    )
    expected.check(cases.flat(got, 3), precision)
    # forwards and backwards
    assert [name for name, *_ in standin.LOG].count("rows_of_term") == 2


@pytest.mark.parametrize("precision", PRECISIONS)
def test_masked_features(precision, standin):
    layers = cases.network((9, 7, 3))
    x = cases.inputs(5, 9)
    zeros = np.where(np.arange(9) % 4 == 1, 0, x)
    masked = np.where(np.arange(9) % 4 == 1, np.nan, x).astype(np.float32)
    expected = Expected(lambda ar: oracle.explain(layers, [("epsilon", {})] * 2, zeros, ar=ar))
    got = lrpfast.Analyzer(cases.model(layers), "epsilon", precision=precision, mask_nan=True, device="gpu").analyze(
        masked
    )
    assert np.isnan(got[:, 1::4]).all()
    expected.check(np.nan_to_num(got), precision)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("name", test_graphs.NETS)
def test_graph(name, precision, gpu):
    for rule in test_graphs.RULES[:: 1 + len(test_graphs.RULES) // 3]:
        test_graphs.test_relevance(name, rule, precision)


@pytest.mark.parametrize("function, parameters", test_layers.ACTIVATIONS, ids=str)
def test_activation(function, parameters, standin):
    test_layers.test_activations(function, parameters)


@pytest.mark.parametrize(
    "kind",
    ["float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"],
)
def test_inputs_of_every_type_are_cast_on_the_device(kind, standin):
    layers = cases.network((7, 5, 2))
    model = cases.model(layers)
    x = (cases.inputs(9, 7) * 3).astype(kind)
    exact = np.asarray(x, np.float64)
    expected = Expected(lambda ar: oracle.explain(layers, [("epsilon", {})] * 2, exact, ar=ar))
    for precision in ("float32", "float64"):
        analyzer = lrpfast.Analyzer(model, "epsilon", device="gpu", precision=precision)
        expected.check(analyzer.analyze(x), precision, kind)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_bfloat16_inputs(device, standin):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes, which gives NumPy bfloat16, is not installed")
    layers = cases.network((7, 5, 2))
    x = cases.inputs(9, 7).astype(ml_dtypes.bfloat16)
    expected = Expected(lambda ar: oracle.explain(layers, [("epsilon", {})] * 2, x.astype(np.float64), ar=ar))
    analyzer = lrpfast.Analyzer(cases.model(layers), "epsilon", device=device)
    for _ in range(3):
        expected.check(analyzer.analyze(x), "float32", device)
    x[3, 2] = np.nan
    with pytest.raises(lrpfast.InputError, match=r"x\[3, 2\] is nan"):
        analyzer.analyze(x)


def test_half_precision_is_cast_exactly(standin):
    import cupy

    from lrpfast.kernels.cuda import modules

    bits = np.arange(1 << 16, dtype=np.uint16)
    for name, real in (("float32", np.float32), ("float64", np.float64)):
        with np.errstate(invalid="ignore"):  # among all bit patterns are signalling NaNs
            halves = bits.view(np.float16).astype(real)
            bfloats = (bits.astype(np.uint32) << 16).view(np.float32).astype(real)
        for cast, exact in (("float16", halves), ("bfloat16", bfloats)):
            made = cupy.empty(len(bits), real)
            modules.function(0, "input", name, f"cast_{cast}")(
                (9,), (256,), (cupy.asarray(bits), made, np.int64(len(bits)))
            )
            np.testing.assert_array_equal(made.get(), exact)


# Recurrent layers


@pytest.mark.filterwarnings("ignore::lrpfast.RelevanceWarning")
@pytest.mark.parametrize("precision", PRECISIONS[:2])
@pytest.mark.parametrize("cell", test_recurrent.CELLS)
def test_recurrent_layers(cell, precision, standin):
    case = test_recurrent.Case(cell, units=35, return_sequences=True, takes_mask=True, takes_state=True)
    within = 1e-10 if precision == "float64" else 2e-5
    test_recurrent.check(case, {"epsilon": 0.1, "product": "half", "bias": "share"}, precision, within, device="gpu")


@pytest.mark.parametrize("precision", PRECISIONS[:2])
@pytest.mark.parametrize("cell", test_recurrent.CELLS)
def test_derivatives_of_recurrent_layers(cell, precision, standin):
    case = test_recurrent.Case(cell, units=35, return_sequences=True, takes_mask=True, takes_state=True)
    within = 1e-10 if precision == "float64" else 2e-5
    test_recurrent_gradients.check(case, precision, within, device="gpu")


@pytest.mark.parametrize("precision", PRECISIONS[:2])
def test_masks_of_steps_and_shared_biases(precision, standin):
    graph = lrpfast.Graph()
    model = graph.model(graph.add(lrpfast.layers.StepMask(-1.0), graph.input((3, 2))))
    x = np.array([[[-1.0, -1.0], [-1.0, 2.0], [0.0, 0.0]]])
    assert model.predict(x, precision=precision, device="gpu").tolist() == [[0, 1, 1]]
    layer, r = (
        lrpfast.layers.Dense(cases.Weights(5).kernel(4, 3), np.ones(3)),
        np.float64(cases.values((5, 3), count=2)),
    )
    rule = lrpfast.rules.Recurrent(0.1, bias="share")
    shared = lrpfast.redistribute(rule, layer, cases.values((5, 4), count=2), r, precision=precision, device="gpu")
    np.testing.assert_allclose(shared.sum(-1), r.sum(-1), atol=1e-4 if precision == "float32" else 1e-12)


@pytest.mark.parametrize("precision", PRECISIONS[:2])
def test_masks_of_relevance(precision, gpu):
    """Masks of channels, which are repeated over positions, and of single values."""
    conv = lrpfast.layers.Conv(cases.Weights(5).kernel(2, 2, 1, 5), name="conv")
    layers = [conv, lrpfast.layers.Flatten(), lrpfast.layers.Dense(cases.Weights(6).kernel(20, 2))]
    model, x = lrpfast.from_layers(layers, input_shape=(3, 3, 1)), cases.values((3, 3, 1), count=7)
    some = np.arange(20).reshape(2, 2, 5) % 3 > 0
    conditions = [{"conv": {1, 4}}, {"conv": some}, {"conv": ~some}]
    on_gpu, on_cpu = (
        lrpfast.Analyzer(model, "epsilon", precision=precision, device=device).analyze(x, 1, conditions=conditions)
        for device in ("gpu", "cpu")
    )
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-4 if precision == "float32" else 1e-10, atol=1e-6)


#: modules that other files' tests launch: test_gpu_trials.py, test_gpu_many_k.py
ELSEWHERE = ("trial_tile", "wgmma_tile", "many_k")
TABLE = Path(__file__).parent / "data" / "gpu_registers.json"


def test_every_kernel_runs_here(request):
    """The kernels of the table (test_gpu_compile.py) are those that this file's tests launched."""
    launched = getattr(request.config, "launched_kernels", set())
    whole = request.config.getoption("cases") == "all" and not hasattr(request.config, "workerinput")
    if request.session.testsfailed or not whole or not any("test_large_dense" in name for name in _done(request)):
        pytest.skip("not all tests of this file ran before this one: --cases all, without -n")
    table = json.loads(TABLE.read_text())["registers"]["sm_90"]
    own = {m: kinds for m, kinds in table.items() if m not in ELSEWHERE}
    kernels = {(m, k, name) for m, kinds in own.items() for k, names in kinds.items() for name in names}
    missing = sorted(kernels - launched)
    assert not missing, f"never launched: {missing}"


def _done(request):
    """Tests of this file that were asked for; all of them where the file was run as a whole."""
    here = [item.name for item in request.session.items if item.path == request.path]
    return here if len(here) > 300 else []


@pytest.fixture(autouse=True)
def note_launches(request, monkeypatch):
    """Keep which kernel of which module and kind the tests of this file launch."""
    from lrpfast.kernels.cuda import modules

    launched = request.config.__dict__.setdefault("launched_kernels", set())
    function = modules.function

    def noted(device, module, kind, name):
        launched.add(
            (module, "float32" if kind in modules.TENSOR_KINDS and module not in modules.TILE_MODULES else kind, name)
        )
        return function(device, module, kind, name)

    monkeypatch.setattr(modules, "function", noted)
