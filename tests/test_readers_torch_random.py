"""Random PyTorch modules of 2 to 12 layers: predictions against PyTorch, relevance against zennit, in float64."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lrpfast

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra 'torch')")
from torch import nn  # noqa: E402


class Residual(nn.Module):
    """x + f(x), with zennit's Sum where zennit is there to give it a rule."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.Sequential(*parts)
        try:
            from zennit.layer import Sum
        except ImportError:
            self.sum = None
        else:
            self.sum = Sum()

    def forward(self, x):
        a = self.parts(x)
        return x + a if self.sum is None else self.sum(torch.stack([x, a], -1))


@st.composite
def modules(draw):
    """A module and the shape of one sample: convolutions, pooling and sums, then dense layers."""
    count = draw(st.integers(2, 12))
    channels, size = draw(st.integers(1, 4)), draw(st.integers(4, 9))
    shape: tuple[int, ...] = (channels, size, size)
    if draw(st.booleans()):
        shape = (draw(st.integers(1, 12)),)
    first, layers = shape, []
    while len(layers) < count:
        choices = ["linear", "relu"] if len(shape) == 1 else ["conv", "relu", "pool", "average", "residual", "flatten"]
        if not layers:  # a ReLU on inputs has no layer before it to be fused with
            choices.remove("relu")
        kind = draw(st.sampled_from(choices))
        if kind == "linear":
            out = draw(st.integers(1, 12))
            layers.append(nn.Linear(shape[0], out, bias=draw(st.booleans())))
            shape = (out,)
        elif kind == "relu":
            layers.append(nn.ReLU())
        elif kind == "flatten":
            layers.append(nn.Flatten())
            shape = (int(np.prod(shape)),)
        elif kind == "residual":
            layers.append(Residual(nn.Conv2d(shape[0], shape[0], 3, padding=1, bias=draw(st.booleans())), nn.ReLU()))
        elif min(shape[1:]) < 2:
            continue
        elif kind == "conv":
            k, stride, pad = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(0, 1))
            out = draw(st.integers(1, 5))
            layers.append(nn.Conv2d(shape[0], out, k, stride, pad, bias=draw(st.booleans())))
            n = (shape[1] + 2 * pad - k) // stride + 1
            shape = (out, n, n)
        else:
            layers.append(nn.MaxPool2d(2) if kind == "pool" else nn.AvgPool2d(2))
            shape = (shape[0], shape[1] // 2, shape[2] // 2)
    if len(shape) > 1:
        layers.append(nn.Flatten())
        shape = (int(np.prod(shape)),)
    layers.append(nn.Linear(shape[0], draw(st.integers(1, 4))))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    module = nn.Sequential(*layers).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module, torch.randn(3, *first, dtype=torch.float64)


SETTINGS = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@SETTINGS
@given(modules())
def test_predictions(drawn):
    module, x = drawn
    got = lrpfast.from_torch(module, x).predict(x, precision="float64")
    with torch.no_grad():
        wanted = module.eval()(x)
    assert ((got - wanted).abs() <= 1e-11 * max(1.0, float(wanted.abs().max()))).all()


#: names, lrpfast's rule and zennit's
RULES = {
    "epsilon": (lrpfast.rules.Epsilon(1e-6), lambda z: z.Epsilon(1e-6)),
    "z_plus": (lrpfast.rules.ZPlus(), lambda z: z.ZPlus()),
    "alpha_beta": (lrpfast.rules.AlphaBeta(2, 1), lambda z: z.AlphaBeta(2, 1)),
    "gamma": (lrpfast.rules.Gamma(0.25), lambda z: z.Gamma(0.25)),
}


def zennits(module, x, rule):
    """zennit's relevance of the first output's value."""
    import zennit.rules
    from zennit.attribution import Gradient
    from zennit.composites import LayerMapComposite
    from zennit.types import Activation, AvgPool, Convolution, Linear

    composite = LayerMapComposite(
        [
            (Activation, zennit.rules.Pass()),
            (zennit.layer.Sum, zennit.rules.Norm()),
            (AvgPool, zennit.rules.Norm()),
            (Convolution, rule(zennit.rules)),
            (Linear, rule(zennit.rules)),
        ]
    )

    def start(output):
        relevance = torch.zeros_like(output)
        relevance[:, 0] = output[:, 0]
        return relevance

    with Gradient(module, composite) as attributor:
        return attributor(x.clone().requires_grad_(), start)[1]


@pytest.mark.parametrize("name", RULES)
@SETTINGS
@given(drawn=modules())
def test_relevance(name, drawn):
    pytest.importorskip("zennit", reason="zennit is not installed")
    module, x = drawn
    ours, theirs = RULES[name]
    model = lrpfast.from_torch(module, x)
    got = lrpfast.Analyzer(model, lrpfast.composites.Uniform(ours), target=0, precision="float64").analyze(x)
    wanted = zennits(module.eval(), x, theirs)
    # where relevance amplifies, both divide by what nearly vanishes, and rounding grows with it
    z = float(module(x).detach().abs().max())
    floor = 1e-8 * torch.amax(wanted.abs(), tuple(range(1, x.ndim)), keepdim=True) + 1e-12 * z
    assert ((got - wanted).abs() <= floor).all(), float(((got - wanted).abs() / floor).max())
