"""Operators of PyTorch, one small module each: predictions against PyTorch's own, in float64."""

import functools

import numpy as np
import pytest

import lrpfast

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra 'torch')")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

IMAGE = (4, 8, 8)
POSITIONS = torch.arange(8, dtype=torch.float64)
SHAPES = {1: (4, 12), 2: (4, 12, 11), 3: (4, 6, 7, 8)}


class Function(nn.Module):
    """A function of the input and of modules, as a module."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, x):
        return self.function(x, *self.parts)


MODULES = {
    **{
        name: (getattr(nn, name), IMAGE)
        for name in (
            *("ReLU", "ReLU6", "LeakyReLU", "ELU", "SELU", "CELU", "GELU", "SiLU", "Tanh", "Sigmoid", "Hardsigmoid"),
            *("Hardswish", "Hardtanh", "Softplus", "Softsign", "Mish", "PReLU", "Dropout", "Identity", "Flatten"),
            *("LogSigmoid", "Hardshrink", "Softshrink", "Tanhshrink", "RReLU"),
        )
    },
    "normalized by length over two axes": (lambda: Function(lambda x: F.normalize(x, dim=(2, 3))), IMAGE),
    "constants: min, max, norm, repeats": (
        lambda: Function(
            lambda x: (
                x * torch.min(POSITIONS, 3 - POSITIONS)
                + POSITIONS.max()
                + POSITIONS[None].max(0)[0]
                + POSITIONS.norm(dim=0)
                + POSITIONS[:4].repeat_interleave(2)
            )
        ),
        (8,),
    ),  # fmt: skip
    "PReLU of channels": (lambda: nn.PReLU(4), IMAGE),
    "GELU tanh": (lambda: nn.GELU("tanh"), IMAGE),
    "Softplus beta": (lambda: nn.Softplus(2), IMAGE),
    "Softmax of channels": (lambda: nn.Softmax(1), IMAGE),
    "Softmax last": (lambda: nn.Softmax(-1), IMAGE),
    "LogSoftmax of channels": (lambda: nn.LogSoftmax(1), IMAGE),
    "LogSoftmax last": (lambda: nn.LogSoftmax(-1), IMAGE),
    "Softmin": (lambda: nn.Softmin(1), IMAGE),
    "CELU alpha": (lambda: nn.CELU(0.4), IMAGE),
    "Hardtanh from 0": (lambda: nn.Hardtanh(0, 3), IMAGE),
    "Hardtanh from 0.5": (lambda: nn.Hardtanh(0.5, 0.9), IMAGE),
    "Threshold": (lambda: nn.Threshold(0.3, 0), IMAGE),
    "ReLU in place": (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(True)), IMAGE),
    "Linear": (lambda: nn.Linear(8, 3), (8,)),
    "Linear without bias, on the last axis": (lambda: nn.Linear(8, 3, bias=False), IMAGE),
    "Flatten, Linear": (lambda: nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)), IMAGE),
    "Unflatten": (lambda: nn.Sequential(nn.Flatten(), nn.Unflatten(1, (8, 4, -1)), nn.Conv2d(8, 2, 3)), IMAGE),
    "BatchNorm of features": (lambda: nn.BatchNorm1d(4), (4,)),
    "divisor_override": (lambda: nn.AvgPool2d(2, divisor_override=3), IMAGE),
    "AdaptiveAvgPool of one axis": (lambda: nn.AdaptiveAvgPool2d((None, 2)), IMAGE),
    "AdaptiveMaxPool": (lambda: nn.AdaptiveMaxPool2d((4, 2)), IMAGE),
    "LayerNorm": (lambda: nn.LayerNorm(8), IMAGE),
    "LayerNorm of all": (lambda: nn.LayerNorm(IMAGE), IMAGE),
    "RMSNorm": (lambda: nn.RMSNorm(8), IMAGE),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), IMAGE),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(3, alpha=0.1), IMAGE),
    "LocalResponseNorm, even": (lambda: nn.LocalResponseNorm(2, alpha=0.1), IMAGE),
    "LocalResponseNorm of sequences": (lambda: nn.LocalResponseNorm(3, alpha=0.1), (5, 7)),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(2), IMAGE),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), IMAGE),
    "PixelUnshuffle": (lambda: nn.PixelUnshuffle(2), IMAGE),
    "ZeroPad and crop": (lambda: nn.ZeroPad2d((1, 2, 0, -1)), IMAGE),
    "ConstantPad": (lambda: nn.ConstantPad2d(1, 3.5), IMAGE),
    "ReflectionPad": (lambda: nn.ReflectionPad2d((1, 2, 3, 0)), IMAGE),
    "ReplicationPad": (lambda: nn.ReplicationPad2d(2), IMAGE),
    "CircularPad": (lambda: nn.CircularPad2d(1), IMAGE),
    "Upsample": (lambda: nn.Upsample(scale_factor=2), IMAGE),
    "Upsample to a size": (lambda: nn.Upsample(size=(16, 24)), IMAGE),
    "Upsample bilinear": (lambda: nn.Upsample(scale_factor=(2, 3), mode="bilinear"), IMAGE),
    "Upsample linear": (lambda: nn.Upsample(scale_factor=3, mode="linear"), (4, 5)),
    "Upsample trilinear": (lambda: nn.Upsample(scale_factor=(1.5, 2, 0.6), mode="trilinear"), (2, 3, 4, 5)),
    "Upsample bicubic": (lambda: nn.Upsample(scale_factor=1.7, mode="bicubic"), IMAGE),
    "Upsample bicubic, corners": (lambda: nn.Upsample(size=(5, 19), mode="bicubic", align_corners=True), IMAGE),
    "Upsample linear, corners": (lambda: nn.Upsample(scale_factor=1.4, mode="linear", align_corners=True), (4, 7)),
    "Upsample linear to one": (lambda: nn.Upsample(size=1, mode="linear"), (4, 7)),
    "Upsample recomputed": (
        lambda: nn.Upsample(scale_factor=1.3, mode="bilinear", recompute_scale_factor=True),
        IMAGE,
    ),
    "Upsample nearest by parts": (lambda: nn.Upsample(scale_factor=0.6), IMAGE),
    "Upsample nearest-exact": (lambda: nn.Upsample(size=(5, 19), mode="nearest-exact"), IMAGE),
    "bilinear, smoothed": (
        lambda: Function(lambda x: F.interpolate(x, (3, 11), mode="bilinear", antialias=True)),
        IMAGE,
    ),
    "bicubic, smoothed": (
        lambda: Function(lambda x: F.interpolate(x, (3, 11), mode="bicubic", antialias=True)),
        IMAGE,
    ),
    "weight_norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 3, 3)), IMAGE),
    "spectral_norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3)), (8,)),
}


def _by_rank(rank):
    def make(kind, *arguments, **keywords):
        return lambda: getattr(nn, f"{kind}{rank}d")(*arguments, **keywords)

    yield "Conv", make("Conv", 4, 6, 3, stride=2, padding=1)
    yield "Conv groups, dilation", make("Conv", 4, 6, 2, groups=2, dilation=2)
    yield "Conv depthwise", make("Conv", 4, 8, 3, groups=4, padding=1)
    for mode in ("reflect", "replicate", "circular"):
        yield f"Conv {mode}", make("Conv", 4, 3, 3, padding=2, padding_mode=mode)
    yield "Conv same", make("Conv", 4, 3, 4, padding="same")
    yield "Conv same dilation", make("Conv", 4, 3, 2, dilation=3, padding="same")
    yield "Conv valid", make("Conv", 4, 3, 2, padding="valid")
    yield "ConvTranspose", make("ConvTranspose", 4, 6, 3, stride=2, padding=1, output_padding=1)
    yield "ConvTranspose groups", make("ConvTranspose", 4, 6, 3, stride=2, groups=2, dilation=2)
    yield "BatchNorm", make("BatchNorm", 4)
    yield "InstanceNorm", make("InstanceNorm", 4, affine=True)
    yield "InstanceNorm tracked", make("InstanceNorm", 4, track_running_stats=True)
    yield "MaxPool", make("MaxPool", 3, 2, 1)
    yield "MaxPool ceil", make("MaxPool", 3, 2, 1, ceil_mode=True)
    yield "MaxPool dilation", make("MaxPool", 3, 1, 1, dilation=2)
    yield "MaxPool dilation, ceil", make("MaxPool", 2, 3, 1, dilation=3, ceil_mode=True)
    yield "MaxPool wide strides", make("MaxPool", 2, 3, ceil_mode=True)
    for counts in (True, False):
        yield f"AvgPool {counts}", make("AvgPool", 3, 2, 1, count_include_pad=counts)
        yield f"AvgPool ceil {counts}", make("AvgPool", 3, 2, 1, ceil_mode=True, count_include_pad=counts)
        yield f"AvgPool ceil, no padding {counts}", make("AvgPool", 4, 3, 0, ceil_mode=True, count_include_pad=counts)
    yield "AdaptiveAvgPool", make("AdaptiveAvgPool", 3)
    yield "AdaptiveAvgPool to 1", make("AdaptiveAvgPool", 1)
    yield "AdaptiveMaxPool to 1", make("AdaptiveMaxPool", 1)


for _rank in SHAPES:
    MODULES.update({f"{name} {_rank}d": (make, SHAPES[_rank]) for name, make in _by_rank(_rank)})

ROW, COLUMN, MATRIX, HEADS, TOKEN = (
    torch.randn(n, generator=torch.Generator().manual_seed(0)).double()
    for n in (8, (4, 1, 1), (8, 5), (4, 8, 5), (1, 1, 8, 8))
)


def window_mask(x):
    """A mask as Swin writes it: constants changed in place, a piece at a time."""
    mask = x.new_zeros((8, 8))
    for i, rows in enumerate((slice(0, 3), slice(3, 8))):
        for j, columns in enumerate((slice(0, 2), slice(2, 8))):
            mask[rows, columns] = 2 * i + j
    mask = mask.view(2, 4, 8).permute(1, 0, 2).reshape(8, 8)
    return x + mask.masked_fill(mask != 0, -3.0).masked_fill(mask == 0, 0.0)


def log_softmax(x):
    """It cannot overflow, as it is written."""
    largest = (1000 * x).max(-1, keepdim=True)[0]
    return (1000 * x - largest) - (1000 * x - largest).exp().sum(-1, keepdim=True).log()


FUNCTIONS = {
    "add": lambda x: x + x.relu(),
    "sub alpha": lambda x: torch.sub(x, x.relu(), alpha=2),
    "mul": lambda x: x * x.sigmoid(),
    "constants": lambda x: 3 * x + ROW - COLUMN / 2,
    "rsub": lambda x: 1 - x,
    "constant minus": lambda x: COLUMN - x,
    "a constant for each value": lambda x: x * torch.ones(4, 8, 8, dtype=torch.float64) * 2,
    "div": lambda x: x / 3,
    "div by a value": lambda x: x / (1 + x.square()) - 2 / x.exp(),
    "normalize": lambda x: x / x.square().sum(1, keepdim=True).sqrt(),
    "roots and powers": lambda x: x.exp().rsqrt() * x.sigmoid().reciprocal() + x.exp().pow(0.7) + x.pow(3) - x**2,
    "neg, abs": lambda x: -x.abs(),
    "pow": lambda x: x**2 + x**3,
    "square": lambda x: x.square(),
    "stack, sum": lambda x: torch.stack([x, x.relu()], -1).sum(-1),
    "stack, mean": lambda x: torch.stack([x, x.relu()], 1).mean(1),
    "stack, amax": lambda x: torch.stack([x, -x], 2).amax(2),
    "stack": lambda x: torch.stack([x, x.relu()], 2),
    "mean": lambda x: x.mean((2, 3)),
    "mean keepdim": lambda x: x.mean((2, 3), keepdim=True),
    "mean of channels": lambda x: x.mean(1),
    "mean of all": lambda x: x.mean((1, 2, 3), keepdim=True),
    "sum": lambda x: x.sum((1, 3)),
    "amax": lambda x: x.amax((2, 3)),
    "amax of channels": lambda x: x.amax(1),
    "amin": lambda x: x.amin((2, 3)),
    "max": lambda x: x.max(2)[0],
    "min": lambda x: x.min(2, keepdim=True).values,
    "log": lambda x: x.abs().log(),
    "logsumexp": lambda x: torch.logsumexp(400 * x, (1, 3)),
    "logsumexp keepdim, of a stack": lambda x: torch.logsumexp(torch.stack([x, 900 * x], 2), 2, keepdim=True),
    "logsumexp written out": lambda x: x.exp().sum(-1).log(),
    "log_softmax written out": lambda x: x - x.exp().sum(1, keepdim=True).log(),
    "log_softmax, less the largest": log_softmax,
    "softmax written out": lambda x: x.exp() / x.exp().sum(2, keepdim=True),
    "where by a comparison": lambda x: torch.where(x > 0.1, x, 0.5 * x) + torch.where(x <= x.sigmoid(), 1.0, x),
    "a product with a comparison": lambda x: x * (x > 0) + (x <= ROW).double() * x.tanh(),
    "masked_fill by comparisons": lambda x: x.masked_fill((x < 0.2) & (x > -0.3) | ~(x.tanh() != 0), 0.7),
    "a comparison that is moved": lambda x: torch.where(x.amax(3).unsqueeze(3) > 1, x, -x),
    "a comparison with a constant mask": lambda x: x.masked_fill((x > 0) & (ROW > 0), 0.0),
    "var": lambda x: x.var(1),
    "var of the population": lambda x: x.var((2, 3), unbiased=False, keepdim=True),
    "std": lambda x: x.std(-1),
    "norm": lambda x: x.norm(dim=1) + torch.linalg.vector_norm(x, ord=1, dim=1),
    "norm, largest": lambda x: torch.linalg.vector_norm(x, ord=float("inf"), dim=(2, 3)),
    "F.normalize": lambda x: F.normalize(x, dim=1),
    "prod": lambda x: x.prod(1),
    "cosine_similarity": lambda x: F.cosine_similarity(x, x.relu() + 1, dim=1),
    "pairwise_distance": lambda x: F.pairwise_distance(x, x.sigmoid()),
    "addcmul, addcdiv": lambda x: torch.addcmul(x, x.tanh(), ROW, value=0.5) + torch.addcdiv(x, x.relu(), x.exp()),
    "lerp": lambda x: torch.lerp(x, x.relu(), 0.3),
    "baddbmm": lambda x: torch.baddbmm(x[:, 0], x[:, 1], x[:, 2], beta=0.5, alpha=2),
    "bases": lambda x: torch.exp2(x) + torch.log2(x.abs() + 1) + torch.log10(x.abs() + 1),
    "tril, triu": lambda x: x.tril() + x.triu(1),
    "maximum": lambda x: torch.maximum(x, x.sigmoid()),
    "maximum with a constant": lambda x: torch.maximum(x, COLUMN) - torch.minimum(ROW, x),
    "a constant turned": lambda x: x * ROW.flip(0),
    "minimum": lambda x: torch.minimum(x, x.sigmoid()),
    "cat": lambda x: torch.cat([x, x.relu()], 1),
    "cat last": lambda x: torch.cat([x, x.relu()], -1),
    "split": lambda x: torch.split(x, 3, 1)[1],
    "split sizes": lambda x: torch.split(x, [1, 3], 1)[1],
    "chunk": lambda x: x.chunk(3, 2)[2],
    "slice": lambda x: x[:, 1:3, ::2, :-1],
    "select": lambda x: x[:, -1],
    "index_select": lambda x: x.index_select(1, torch.tensor([2, 3, 0])),
    "index": lambda x: x[:, [3, 1]],
    "flip": lambda x: x.flip(3),
    "roll": lambda x: x.roll(1, 2),
    "unbind": lambda x: x.unbind(1)[1],
    "narrow": lambda x: x.narrow(2, 1, 4),
    "pad": lambda x: F.pad(x, (1, 2)),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "transpose": lambda x: x.transpose(1, 3),
    "movedim": lambda x: x.movedim(1, -1),
    "reshape": lambda x: x.reshape(x.shape[0], -1),
    "view": lambda x: x.view(-1, 4, 64),
    "permute, reshape": lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], 16, -1).relu(),
    "squeeze": lambda x: x.mean(1, keepdim=True).squeeze(1),
    "unsqueeze": lambda x: x.unsqueeze(2),
    "unflatten, flatten": lambda x: x.unflatten(1, (2, 2)).flatten(2, 3),
    "expand": lambda x: x.mean(1, keepdim=True).expand(-1, 3, -1, -1),
    "repeat": lambda x: x.repeat(1, 1, 2, 1),
    "repeat on a new axis": lambda x: x.unsqueeze(2).repeat(1, 1, 3, 1, 1).flatten(1, 2),
    "repeat interleaved": lambda x: x.repeat_interleave(3, 2),
    "clone, contiguous": lambda x: x.clone().contiguous().detach() + 0,
    "matmul": lambda x: x @ MATRIX,
    "matmul from the left": lambda x: MATRIX.T @ x,
    "matmul of values": lambda x: x[:, 0] @ x[:, 1],
    "one number": lambda x: x.mean((1, 2, 3)),
    "one number of a vector": lambda x: x.flatten(1)[:, 3],
    "one number, squeezed": lambda x: x.sum((1, 2, 3), keepdim=True).squeeze((1, 2, 3)).relu() + 1,
    "one number for all": lambda x: x * x.mean((1, 2, 3)).unsqueeze(1).unsqueeze(2).unsqueeze(3),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "clamp min": lambda x: x.clamp(min=0.2),
    "clamp max": lambda x: x.clamp(max=0.2),
    "clamp without end": lambda x: x.clamp(0.0, float("inf")) + x.clamp(float("-inf"), 0.3),
    "exp": lambda x: x.exp(),
    "broadcast": lambda x: x * x.mean((2, 3), keepdim=True) + x[:, :1],
    "stretched by a constant": lambda x: x.mean(1, keepdim=True) + COLUMN,
    "in place": lambda x: F.relu(x.relu().add_(1.0) - x, inplace=True),
    "class token": lambda x: torch.cat([TOKEN.expand(x.shape[0], -1, -1, -1), x], 1),
    "class token, repeated": lambda x: torch.cat([x, TOKEN.repeat(x.shape[0], 1, 1, 1), x], 1),
    "stack with a constant": lambda x: torch.stack([x, torch.ones_like(x)], 2),
    "arange": lambda x: x * torch.arange(8) + torch.arange(4, dtype=x.dtype)[:, None, None] / 3,
    "where": lambda x: torch.where(torch.arange(8) % 3 == 1, x, torch.zeros_like(x) - 2),
    "where of two values": lambda x: torch.where(torch.arange(8) > 3, x, x.exp()),
    "masked_fill": lambda x: x.masked_fill(torch.tril(torch.ones(8, 8)) == 0, -5.0),
    "a constant changed in place": window_mask,
    "a constant rounded": lambda x: x + (3 * ROW).long(),
    "a constant through a layer": lambda x: x + F.linear(ROW, MATRIX.T, MATRIX[0]).sum(),
    "glu": lambda x: F.glu(x, 1),
    "glu last": lambda x: F.glu(x),
    "einsum": lambda x: torch.einsum("bchw,wk->bkch", x, MATRIX),
    "einsum by channels": lambda x: torch.einsum("bchw,cwk->bhck", x, HEADS),
    "einsum over two axes": lambda x: torch.einsum("...chw,cwk->...kh", x, HEADS),
    "einsum, element by element": lambda x: torch.einsum("bchw,w->bhwc", x, ROW),
    "einsum of a sum": lambda x: torch.einsum("bchw->bwh", x),
    "einsum of two matrices": lambda x: torch.einsum("bij,bkj->bki", x[:, 0], x[:, 1]),
    "matmul by channels": lambda x: x @ HEADS,
    "index on two axes": lambda x: x[:, [0, 1], [3, -1]],
    "index by a matrix": lambda x: x[:, torch.tensor([[0, 1], [2, 3]])],
    "expand_as": lambda x: x.mean(1, keepdim=True).expand_as(x),
    "size arithmetic": lambda x: x.reshape(x.size(0), x.size(1) * x.size(2) // 2, -1) + x.size(1),
}
MODULES.update({name: (functools.partial(Function, f), IMAGE) for name, f in FUNCTIONS.items()})


def made(name):
    """The module in float64 with statistics and weights that are not trivial, and inputs."""
    torch.manual_seed(0)
    make, shape = MODULES[name]
    module = make().double()
    for part in module.modules():
        if getattr(part, "running_mean", None) is not None:
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
        if "Norm" in type(part).__name__ and getattr(part, "weight", None) is not None:
            nn.init.normal_(part.weight)
    return module, torch.randn(3, *shape, dtype=torch.float64)


@pytest.mark.parametrize("name", MODULES)
def test_predictions_are_pytorchs(name):
    module, x = made(name)
    model = lrpfast.from_torch(module, x)
    assert module.training, "the module's mode is its user's"
    with torch.no_grad():
        wanted = module.eval()(x.clone())
    got = model.predict(x, precision="float64")
    assert got.shape == wanted.shape
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    for rule in ("epsilon", "z_plus"):  # every layer has a rule, and relevance the input's shape
        relevance = lrpfast.Analyzer(model, rule, target=0, precision="float64").analyze(x)
        assert relevance.shape == x.shape and torch.isfinite(relevance).all()


@pytest.mark.parametrize("name", ["Conv 2d", "Flatten, Linear", "LocalResponseNorm", "stack, sum", "ReLU in place"])
def test_a_file_holds_the_same_model(name, tmp_path):
    module, x = made(name)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module.eval(), (x,), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "model.pt2")
    models = [lrpfast.load(tmp_path / "model.pt2"), lrpfast.from_torch(program), lrpfast.from_torch(module, x)]
    assert len({m.summary() for m in models}) == 1
    results = [m.predict(x.numpy(), precision="float64").tobytes() for m in models]
    assert len(set(results)) == 1


def test_embedding():
    module = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2)).double()
    x = torch.randint(0, 9, (5, 3))
    model = lrpfast.from_torch(module, x)
    torch.testing.assert_close(model.predict(x, precision="float64"), module(x).detach(), rtol=1e-12, atol=1e-12)


def test_several_inputs_and_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(2, 3)

        def forward(self, x, y):
            z = self.a(x) + self.b(y)
            return z, torch.relu(z)

    module, inputs = Two().double(), (torch.randn(3, 4).double(), torch.randn(3, 2).double())
    got = lrpfast.from_torch(module, inputs).predict(list(inputs), precision="float64")
    for a, b in zip(got, module(*inputs), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-12, atol=1e-12)


def test_half_precision_weights():
    module = nn.Linear(4, 3).bfloat16()
    x = torch.randn(2, 4, dtype=torch.bfloat16)
    got = lrpfast.from_torch(module, x).predict(x, precision="float64")
    torch.testing.assert_close(got, module.double()(x.double()).detach(), rtol=1e-12, atol=1e-12)


def test_layers_are_named_after_modules():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

        def forward(self, x):
            return torch.tanh(self.body(x)) + x

    model = lrpfast.from_torch(Net(), torch.ones(2, 4))
    assert [layer.name for layer in model.layers] == ["x", "body.0", "body.1", "tanh", "add"]


def test_decomposed_programs():
    """Core ATen operators, as run_decompositions leaves them."""
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 5)
    )
    module, x = module.double().eval(), torch.randn(3, 3, 4, 4, dtype=torch.float64)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    model = lrpfast.from_torch(program.run_decompositions())
    torch.testing.assert_close(model.predict(x, precision="float64"), module(x).detach(), rtol=1e-12, atol=1e-12)


# -- what is refused ------------------------------------------------------------


def refused(module, x, *words, error=lrpfast.UnsupportedLayerError):
    with pytest.raises(error) as caught:
        lrpfast.from_torch(module, x)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_an_operator_outside_the_list_is_named():
    refused(
        nn.Sequential(nn.ReLU(), nn.Sequential(Function(lambda x: torch.sin(x)))),
        torch.ones(2, 4),
        *("aten.sin.default", "'sin'", "'1.0'", "2 of 2"),
    )


def test_every_obstacle_is_named_at_once():
    refused(
        Function(lambda x: torch.sin(x) + torch.cos(torch.sin(x.relu()))),
        torch.ones(2, 4),
        *("3 operators", "2 operators aten.sin.default 'sin' (1 of 5), 'sin_1' (3 of 5)", "operator aten.cos.default"),
    )


def test_a_recurrent_layer_comes_before_what_is_beside_it():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent = nn.LSTM(8, 8, batch_first=True, proj_size=4)

        def forward(self, x):
            return torch.sin(x)[:, -1, :4] + self.recurrent(x)[0][:, -1]

    with pytest.raises(lrpfast.UnsupportedLayerError) as caught:
        lrpfast.from_torch(Recurrent(), torch.randn(2, 5, 8))
    text = str(caught.value)
    assert "zeros" not in text and text.index("proj_size") < text.index("aten.sin"), text


def test_changes_in_place_are_listed_with_all_that_is_not_read():
    def function(x):
        y = x * 2
        y[:, 0] += 1
        z = torch.sin(x)
        z[:, 1] *= 3
        return y + z

    with pytest.raises(lrpfast.UnsupportedLayerError) as caught:
        lrpfast.from_torch(Function(function), torch.ones(2, 4))
    text = str(caught.value)
    assert text.startswith("PyTorch module 'Function': 3 operators are not read:"), text
    assert text.count("changes in place a tensor that") == 2 and "aten.sin.default 'sin'" in text, text
    assert "Write it without in-place operations" in text


def test_a_constant_changed_after_its_use_is_refused():
    def function(x):
        scale = torch.ones(4)
        y = x * scale
        return y + scale.mul_(3)

    refused(Function(function), torch.ones(2, 4), "in place", "used before")


def test_attention():
    """Multi-head attention, with and without its weights, and the bare function."""

    class Attends(nn.Module):
        def __init__(self, weights):
            super().__init__()
            self.attention, self.weights = nn.MultiheadAttention(8, 2, batch_first=True), weights

        def forward(self, x):
            return self.attention(x, x, x, need_weights=self.weights)[0]

    torch.manual_seed(0)
    causal = Function(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True))
    for module, shape in ((Attends(False), (3, 5, 8)), (Attends(True), (3, 5, 8)), (causal, (3, 2, 5, 8))):
        module, x = module.double().eval(), torch.randn(shape, dtype=torch.float64)
        model = lrpfast.from_torch(module, x)
        torch.testing.assert_close(model.predict(x, precision="float64"), module(x).detach(), rtol=1e-12, atol=1e-12)


MASK = torch.ones(5, 5).tril()[torch.randperm(5, generator=torch.Generator().manual_seed(0))] > 0


@pytest.mark.parametrize("batch", ["fixed", "open"])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.scaled_dot_product_attention(x, x, x),
        lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
        lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=MASK),
        lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=MASK.double()),
        lambda x: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(x, x, x, is_causal=True)[0],
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval(),
    ],
    ids=["plain", "causal", "mask", "bias", "flash", "encoder layer"],
)
def test_attention_that_is_taken_apart(function, batch):
    """`run_decompositions` writes products out, with a softmax that is 0 where all scores are -inf."""
    layer = isinstance(function, nn.Module)
    module = function if layer else Function(function)
    x = torch.randn((3, 5, 8) if layer else (3, 2, 5, 8), dtype=torch.float64)
    sizes = ({0: torch.export.Dim("batch", min=1, max=64)} if batch == "open" else {},)
    with torch.no_grad():
        program = torch.export.export(module, (x,), dynamic_shapes=sizes)
    model = lrpfast.from_torch(program.run_decompositions())
    assert [type(item) for item in model.layers].count(lrpfast.layers.Attention) == 1
    torch.testing.assert_close(model.predict(x, precision="float64"), module(x).detach(), rtol=1e-12, atol=1e-12)


def test_the_fast_path_is_refused_by_name():
    w, b = torch.randn(24, 8), torch.randn(24)
    names = ("aten._native_multi_head_attention.default", "set_fastpath_enabled(False)")
    function = Function(lambda x: torch._native_multi_head_attention(x, x, x, 8, 2, w, b, w[:8], b[:8], None, False)[0])
    refused(function.eval(), torch.ones(2, 5, 8), *names)


@pytest.mark.parametrize(
    "function, word",
    [
        (lambda x: x - x.mean(0), "batch"),
        (lambda x: x.flip(0), "batch"),
        (lambda x: x.reshape(x.shape[0] * 2, 2), "batch"),
        (lambda x: x.sum(), "batch"),
        (lambda x: torch.div(x, 3, rounding_mode="floor"), "rounds"),
        (lambda x: F.softplus(x, threshold=1), "threshold"),
        (lambda x: (2 * x).long().float(), "rounds"),
        (lambda x: x.repeat(1, 20_000_000), "repeats"),
        (lambda x: x.repeat_interleave(2), "one axis and one number"),
        (lambda x: x.repeat_interleave(20_000_000, 1), "repeats"),
        (lambda x: F.rrelu(x, training=True), "random"),
        (lambda x: x if x.shape[0] == 2 else -x, "fixed number of samples"),
        (lambda x: x if x.sum() > 0 else -x, "cannot trace"),
    ],
)
def test_what_cannot_be_followed_says_why(function, word):
    refused(Function(function), torch.ones(2, 4), word, error=lrpfast.LrpfastError)


def test_a_view_that_is_changed_is_refused():
    def change(x):
        y = x * 2
        y[:, 0] = 5.0
        return y

    refused(Function(change), torch.ones(2, 4), "in place")


def test_calls_that_cannot_be_meant():
    for arguments in (
        (3,),
        (nn.Linear,),
        (nn.Linear(2, 2),),
        (nn.Linear(2, 2), "x"),
        (nn.Linear(2, 2), torch.ones(())),
    ):
        with pytest.raises(lrpfast.InputError):
            lrpfast.from_torch(*arguments)


def test_every_part_keeps_its_mode():
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout()).train()
    module[1].eval()
    lrpfast.from_torch(module, torch.ones(1, 3))
    assert module.training and module[0].training and not module[1].training
    np.testing.assert_array_equal(lrpfast.from_torch(module, torch.ones(1, 3)).predict(np.ones((0, 3))).shape, (0, 3))


@pytest.mark.parametrize(
    "function, words",
    [
        (lambda x: x > 0, "returns 'gt', a comparison, which cannot be explained"),
        (lambda x: x + (x > 0), "computes with the result of a comparison, which is a step"),
        (lambda x: torch.where(x > float("inf"), x, 0.0), "compares with a constant that is infinite"),
        (lambda x: x.std(1, correction=4), "divides by 4 values less 4"),
        (lambda x: torch.linalg.vector_norm(x, ord=0.5, dim=1), "norm of order 0.5"),
    ],
)
def test_comparisons_and_reductions_that_are_refused(function, words):
    with pytest.raises(lrpfast.UnsupportedLayerError, match=words):
        lrpfast.from_torch(Function(function), torch.randn(2, 4, 3))


@pytest.mark.parametrize("order, read", [(1, True), (float("inf"), True), ("fro", True), (2, False), ("nuc", False)])
def test_norms_of_matrices(order, read):
    """Over two axes, `torch.linalg.norm` of an order is another norm than that of a vector."""
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    functions = [lambda x: torch.linalg.norm(x, ord=order, dim=(1, 2)), lambda x: torch.linalg.matrix_norm(x, order)]
    functions.append(lambda x: torch.linalg.matrix_norm(x, order, (3, 1), keepdim=True))
    for function in functions:
        program = torch.export.export(Function(function), (x,))  # for more samples, PyTorch may not trace it
        if read:
            found = lrpfast.from_torch(program).predict(x.numpy(), precision="float64")
            np.testing.assert_allclose(found, function(x).numpy(), rtol=1e-12)
        else:
            with pytest.raises(lrpfast.UnsupportedLayerError, match=f"is the matrix norm of order {order}"):
                lrpfast.from_torch(program)


def test_all_relevance_goes_to_what_a_comparison_selects():
    module = Function(lambda x: torch.where(x > 0.5, 2 * x, 0.1 * x))
    x = np.array([[-1.0, 0.2, 0.7, 2.0]])
    model = lrpfast.from_torch(module, torch.zeros(2, 4))
    relevance = lrpfast.Analyzer(model, lrpfast.rules.Epsilon(1e-12), precision="float64").analyze(x, np.ones((1, 4)))
    np.testing.assert_allclose(relevance, np.ones((1, 4)), rtol=1e-9)
