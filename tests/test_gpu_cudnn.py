"""Convolutions by cuDNN (LRPFAST_GPU_CONVOLUTION=cudnn), on a stand-in for its frontend (tests/standin/cudnn).

The stand-in puts engines that spoil results before the one that is right, so that a note that is not left out shows.
"""

import sys
import threading

import numpy as np
import pytest

import cases
import lrpfast
import oracle_layers
import test_layers
from oracle_layers import Layer
from tolerances import Expected

W = cases.Weights()
RULES = [("epsilon", {}), ("alpha_beta", {}), ("z_plus", {}), ("flat", {}), ("gamma", {"gamma": 0.3})]


@pytest.fixture
def library(standin, monkeypatch):
    """Every convolution by cuDNN that it can compute, however small; yields the stand-in for its frontend."""
    import cudnn

    from lrpfast.kernels.cuda import contractions

    monkeypatch.setattr(contractions, "CONVOLUTION", "cudnn")
    monkeypatch.setattr(contractions, "LIBRARY_FLOPS", 1)
    monkeypatch.setattr(contractions, "NARROW", 0)
    return cudnn


#: geometries whose padding differs by side, or some of whose windows see other taps than all others
OWN = {
    *("conv2d same", "conv3d same", "transposed 2d", "transposed 3d", "causal", "causal, dilation"),
    *("same, even window, even size", "same, even window, odd size, stride 2", "same, stride larger than the window"),
    *("same, window larger than the input", "pads on one side", "2d, dilation", "2d, groups, stride"),
    *("2d, pads that differ", "2d, windows that see nothing", "2d, even sizes, even windows", "3d, dilation"),
    *("transposed, same, odd window", "transposed, output padding", "transposed, dilation"),
    *("transposed 2d, cut, output padding", "transposed 2d, groups"),
}
GEOMETRIES = [g for g in (*test_layers.PLAIN, *test_layers.GEOMETRIES) if g[2].kind in ("Conv", "ConvTranspose")]
PLAIN = [g for g in GEOMETRIES if g[0] not in OWN]
assert len(PLAIN) + len(OWN) == len(GEOMETRIES)


@pytest.mark.share
@pytest.mark.parametrize("rule", RULES, ids=cases.case_id)
@pytest.mark.parametrize("name, shape, layer", GEOMETRIES, ids=[g[0] for g in GEOMETRIES])
def test_every_geometry(name, shape, layer, rule, library):
    test_layers.check(layer, rule, test_layers.inputs(layer, [shape]), test_layers.PRECISIONS)


def plan_of(layer, shape, rule="epsilon", **options):
    """The plan of an analyzer of one layer."""
    net = test_layers.alone(layer, [shape])
    return lrpfast.Analyzer(cases.graph(net), rule, device="gpu", **options).plan()


BOTH = "cuDNN computes 2 of 2 convolutions, in batches that are worth a call"


@pytest.mark.parametrize("name, shape, layer", PLAIN, ids=[g[0] for g in PLAIN])
def test_plain_convolutions_are_found(name, shape, layer, library):
    """Not one of the operations, forwards or backwards, is left to our own kernels."""
    pointwise = name in ("window of one", "2d, window of one")  # dense layers on every position
    assert plan_of(layer, shape).libraries == (None if pointwise else BOTH)
    test_layers.check(layer, ("epsilon", {}), test_layers.inputs(layer, [shape]), ("float32",))
    assert {engine for *_, engine in library.CALLS} == (set() if pointwise else {"sgemm"})


@pytest.mark.parametrize("shape, layer", [pytest.param(*g[1:], id=g[0]) for g in GEOMETRIES if g[0] in OWN])
def test_others_are_left_to_our_kernels_and_the_plan_says_so(shape, layer, library):
    plan = plan_of(layer, shape)
    assert "cuDNN computes 0 of 2" in str(plan) or "cuDNN computes 1 of 2" in str(plan)
    assert any(r in str(plan) for r in ("padding that is not the same at both ends", "positions that are not evenly"))


def test_tensor_cores_are_for_tf32_alone(library):
    layer = W.conv((3, 3), 8, 12, padding="same")
    for precision, engine in (("float32", "sgemm"), ("float64", "tensor"), ("tf32", "tensor"), ("3xtf32", None)):
        library.CALLS.clear()
        x = test_layers.inputs(layer, [(5, 4, 8)])
        test_layers.check(layer, ("alpha_beta", {}), x, (precision,))
        assert {used for *_, used in library.CALLS} == ({engine} - {None})
    plan = plan_of(layer, (5, 4, 8), precision="3xtf32")
    assert "3xTF32's products are lrpfast's own" in plan.libraries


# A network, in all the ways in which a batch is run.

SHAPE = (6, 7, 8)
FIRST = W.conv((3, 3), 8, 20, padding="same")


SECOND = W.conv((3, 3), 20, 24, strides=2, padding=((1, 1), (1, 1)))
NET = oracle_layers.chain(
    SHAPE,
    Layer("Conv", FIRST.parameters | {"activation": "relu"}),
    Layer("Conv", SECOND.parameters | {"activation": "relu"}),
    Layer("GlobalAveragePool"),
    W.dense(24, 3),
)


def analyzer_of(net=NET, rule="alpha_beta", **options):
    return lrpfast.Analyzer(cases.graph(net), rule, device="gpu", **options)


def expected(x, net=NET, rule="alpha_beta"):
    return Expected(lambda ar: net.explain(net.rules((rule, {})), [x], "max", ar))


def check(got, x, **options):
    got = got.get() if hasattr(got, "get") else got
    expected(x, **options).check(cases.flat(got, len(x)))


@pytest.fixture
def small_chunks(monkeypatch):
    from lrpfast.kernels.cuda import replay, run

    monkeypatch.setattr(run, "WORKSPACE_BYTES", 1)
    monkeypatch.setattr(replay, "REPLAY_FLOPS", 0)


@pytest.mark.parametrize("on_gpu", [False, True], ids=["host", "device"])
def test_many_chunks(on_gpu, library, small_chunks):
    import cupy

    x = cases.values(SHAPE, 41)
    given = cupy.asarray(x) if on_gpu else x
    analyzer = analyzer_of()
    got, again = analyzer.analyze(given), analyzer.analyze(given)
    assert (got == again).all()
    check(got, x)
    assert len({shape[0] for _, shape, *_ in library.CALLS if shape[1] != 32}) == 2  # 32 channels are the check's


def test_device_arrays_that_begin_anywhere(library):
    """Rows of 105 float32 are no multiple of 16 bytes, and cuDNN reads 16 bytes at a time."""
    import cupy

    net = oracle_layers.chain((21, 5), W.conv((3,), 5, 8, padding="same"), Layer("Flatten"), W.dense(168, 2))
    x = cases.values((21, 5), 9)
    got = analyzer_of(net, "epsilon").analyze(cupy.asarray(x)[1:])
    check(got, x[1:], net=net, rule="epsilon")
    assert {shape[:2] for _, shape, *_ in library.CALLS[1:]} == {(8, 5), (8, 8)}


def test_memory_holds_workspaces_too(library):
    from lrpfast.kernels.cuda import cudnn

    x = cases.values(SHAPE, 40)
    executable = analyzer_of()._core._programs.main._executables[0]
    convolutions = [o.convolution for o in (*executable.forward, *executable.backward) if hasattr(o, "convolution")]
    for convolution in filter(None, convolutions):
        for one in convolution.convolutions:
            assert convolution.scratch(4) * 4 > cudnn.workspace_bytes(one, 4, np.dtype(np.float32))
            assert cudnn.find_plan(0, one, 4, np.dtype(np.float32), False).workspace > 0
    need = executable.workspace_bytes(4)
    with pytest.raises(lrpfast.InputError, match="one sample needs"):
        analyzer_of(memory=executable.workspace_bytes(1)).analyze(x)
    check(analyzer_of(memory=2 * need).analyze(x), x)
    assert max(shape[0] for _, shape, *_ in library.CALLS) < 40


def test_several_threads(library):
    x, analyzer, results = cases.values(SHAPE, 6), analyzer_of(), [None] * 4

    def work(i):
        results[i] = analyzer.analyze(x[: 3 + i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, got in enumerate(results):
        check(got, x[: 3 + i])


def test_inputs_that_are_not_finite(library):
    x = cases.values(SHAPE, 4)
    x[2, 1, 1, 1] = np.inf
    with pytest.raises(lrpfast.InputError, match=r"x\[2, 1, 1, 1\] is inf"):
        analyzer_of().analyze(x)


def test_a_shape_without_an_engine_is_left_to_our_kernels(library, standin):
    from lrpfast.kernels.cuda import cudnn

    x = cases.values(SHAPE, 5)
    standin.CONFIG["cudnn_refuses"] = lambda transposed, dim, filter_dim: transposed
    analyzer = analyzer_of()
    assert "computes 3 of 4" in str(analyzer.plan())
    assert "backwards: cuDNN: No valid engine configs" in str(analyzer.plan())
    check(analyzer.analyze(x), x)
    # of some numbers of samples only
    standin.CONFIG["cudnn_refuses"] = lambda transposed, dim, filter_dim: dim[0] == 5
    cudnn.forget()
    library.CALLS.clear()
    analyzer = analyzer_of()
    assert "computes 4 of 4" in str(analyzer.plan())
    check(analyzer.analyze(x), x)
    assert 5 not in {shape[0] for _, shape, *_ in library.CALLS}
    check(analyzer.analyze(x[:3]), x[:3])
    assert 3 in {shape[0] for _, shape, *_ in library.CALLS}


def test_small_batches_and_narrow_layers_are_not_worth_a_call(standin, monkeypatch):
    import cudnn

    from lrpfast.kernels.cuda import contractions

    monkeypatch.setattr(contractions, "CONVOLUTION", "cudnn")
    analyzer = analyzer_of()
    assert "computes 3 of 4" in str(analyzer.plan())
    assert "so few channels that lrpfast's own kernels are bound by memory (16 or fewer)" in str(analyzer.plan())
    cudnn.CALLS.clear()
    analyzer.analyze(cases.values(SHAPE, 5))
    assert not cudnn.CALLS


# Where cuDNN cannot be used.

CURE = r"pip install 'lrpfast\[cudnn\]'.*unset LRPFAST_GPU_CONVOLUTION"


def test_without_the_library(library, standin):
    standin.CONFIG["cudnn"] = False
    with pytest.raises(lrpfast.DeviceError, match=rf"cuDNN cannot be used: Unable to find symbol.*{CURE}"):
        analyzer_of()


def test_without_the_package(library, monkeypatch):
    monkeypatch.setitem(sys.modules, "cudnn", None)
    with pytest.raises(lrpfast.DeviceError, match=rf"cuDNN cannot be used: import of cudnn halted.*{CURE}"):
        analyzer_of()
    dense = lrpfast.from_layers([lrpfast.layers.Dense(W.kernel(4, 3))], input_shape=(4,))
    lrpfast.Analyzer(dense, "epsilon", device="gpu")  # nothing is asked of cuDNN


def test_a_machine_that_forces_tf32(library, standin):
    standin.CONFIG["cudnn_tf32"] = True
    with pytest.raises(lrpfast.DeviceError, match="cuDNN rounds float32 convolutions to TF32 on this machine"):
        analyzer_of()


def test_what_is_said_of_the_machine(library, standin):
    from lrpfast.kernels import backend

    assert backend("gpu").describe()["cuDNN"] == "9.17.0, frontend 1.32.0"
    from lrpfast.kernels.cuda import cudnn

    cudnn.forget()
    standin.CONFIG["cudnn"] = False
    assert "no (Unable to find symbol cudnnCreate); pip install" in backend("gpu").describe()["cuDNN"]


def test_an_unknown_choice(standin, monkeypatch):
    from lrpfast.kernels.cuda import contractions

    monkeypatch.setattr(contractions, "CONVOLUTION", "cuddn")
    with pytest.raises(lrpfast.DeviceError, match="must be 'own', 'cudnn' or 'library'"):
        analyzer_of()
