"""Random PyTorch modules, read both ways: predictions against PyTorch, relevance against zennit, in float64.

A developer's run draws a few; LRPFAST_RANDOM_NETS=500 draws as many for each test, of which a second brings two.
"""

import copy
import io
import os
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import lrpfast

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra 'torch')")
from torch_nets import Bilinear, modules  # noqa: E402

SETTINGS = settings(
    max_examples=int(os.environ.get("LRPFAST_RANDOM_NETS", 12)), deadline=None, suppress_health_check=list(HealthCheck)
)
#: Versions of ONNX's operators that PyTorch's exporter writes; before 11 it writes resizing as it is not.
OPSETS = (11, 13, 14, 17, 18, 20)


def onnx_bytes(module, x):
    """An ONNX file for any number of samples; its version follows from the module, so that all come up."""
    file = io.BytesIO()
    opset = OPSETS[(x.numel() + len(str(module))) % len(OPSETS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter that needs no onnxscript it warns, as of an old one
        torch.onnx.export(
            module, (x,), file, dynamo=False, opset_version=opset, input_names=["x"], dynamic_axes={"x": {0: "batch"}}
        )
    return file.getvalue()


def both_ways(module, x):
    """(name, Model) for each way that a module comes in."""
    yield "torch.export", lrpfast.from_torch(module, x)
    pytest.importorskip("onnx", reason="the package onnx is not installed (extra 'onnx')")
    try:
        data = onnx_bytes(module, x)
    except torch.onnx.errors.OnnxExporterError:  # it cannot write pooling to a size after some layers
        return
    yield "ONNX", lrpfast.from_onnx(data)


def check_predictions(module, x, way, model):
    got = np.asarray(model.predict(x.numpy(), precision="float64"))
    wanted = module(x).detach().numpy()
    assert got.shape == wanted.shape, way
    assert np.abs(got - wanted).max() <= 1e-11 * max(1.0, np.abs(wanted).max()), way


#: lrpfast's rules and zennit's
RULES = {
    "epsilon": (lrpfast.rules.Epsilon(1e-6), lambda z: z.Epsilon(1e-6)),
    "z_plus": (lrpfast.rules.ZPlus(), lambda z: z.ZPlus()),
    "alpha_beta": (lrpfast.rules.AlphaBeta(2, 1), lambda z: z.AlphaBeta(2, 1)),
    "gamma": (lrpfast.rules.Gamma(0.25), lambda z: z.Gamma(0.25)),
}


def zennits(module, x, rule):
    """zennit's relevance of the first output's value."""
    import zennit.rules as rules
    from zennit.attribution import Gradient
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.composites import LayerMapComposite
    from zennit.layer import Sum
    from zennit.types import Activation, AvgPool, Linear

    layers = [
        (Activation, rules.Pass()),
        (torch.nn.Mish, rules.Pass()),
        (Sum, rules.Norm()),
        (AvgPool, rules.Norm()),
        (Bilinear, rules.Norm()),
        (Linear, rule(rules)),
    ]

    def start(output):
        relevance = torch.zeros_like(output)
        relevance[:, 0] = output[:, 0]
        return relevance

    # zennit leaves the bias that a merged batch norm gives a layer
    with Gradient(copy.deepcopy(module), LayerMapComposite(layers, [SequentialMergeBatchNorm()])) as attributor:
        return attributor(x.clone().requires_grad_(), start)[1].numpy()


def largest(array):
    return np.abs(array).max(tuple(range(1, array.ndim)), keepdims=True)


@SETTINGS
@given(drawn=modules())
def test_relevance(drawn):
    pytest.importorskip("zennit", reason="zennit is not installed")
    module, x = drawn
    wanted = {name: zennits(module, x, theirs) for name, (_, theirs) in RULES.items()}
    for way, model in both_ways(module, x):
        check_predictions(module, x, way, model)
        for name, (rule, _) in RULES.items():
            composite = lrpfast.composites.Uniform(rule)
            got = lrpfast.Analyzer(model, composite, target=0, precision="float64").analyze(x.numpy())
            # where relevance amplifies, both divide by what nearly vanishes, and rounding grows with it
            floor = 1e-8 * largest(wanted[name]) + 1e-12 * float(module(x).detach().abs().max())
            assert (np.abs(got - wanted[name]) <= floor).all(), (way, name, (np.abs(got - wanted[name]) / floor).max())


@SETTINGS
@given(drawn=modules(explained=False))
def test_predictions(drawn):
    module, x = drawn
    for way, model in both_ways(module, x):
        check_predictions(module, x, way, model)
        got = lrpfast.Analyzer(model, "epsilon_plus", target=0, precision="float64").analyze(x.numpy())
        assert got.shape == x.shape and np.isfinite(got).all(), way
