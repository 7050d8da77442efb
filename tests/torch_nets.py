"""Random PyTorch modules of 2 to 12 layers for one, two and three spatial axes, or none; as hypothesis draws them."""

import torch
from hypothesis import strategies as st
from torch import nn

try:
    from zennit.layer import Sum
except ImportError:  # the rule of a sum is zennit's alone; without it sums are only added

    class Sum(nn.Module):
        def forward(self, x):
            return x.sum(-1)


#: Softplus is x above PyTorch's threshold, which only from 37 on is so in float64.
#: Numbers that ONNX keeps as attributes, in float32, are chosen such that this rounds nothing.
ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU, nn.ReLU6, nn.PReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid),
    *(nn.Hardswish, nn.Softsign, lambda: nn.LeakyReLU(0.125), lambda: nn.Softplus(threshold=40)),
)


class Bilinear(nn.Upsample):
    """An up-sampling that takes means, and so a rule of its own."""


class Residual(nn.Module):
    """x + f(x), as zennit's Sum over a stack."""

    def __init__(self, part):
        super().__init__()
        self.part, self.sum = part, Sum()

    def forward(self, x):
        return self.sum(torch.stack([x, self.part(x)], -1))


class Branches(nn.Module):
    """Two parts on the same values, their channels side by side."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        return torch.cat([part(x) for part in self.parts], 1)


class Gated(nn.Module):
    """x times a gate for each channel, as squeeze-and-excitation has it."""

    def __init__(self, channels, rank):
        super().__init__()
        pool = getattr(nn, f"AdaptiveAvgPool{rank}d")(1)
        self.gate = nn.Sequential(pool, getattr(nn, f"Conv{rank}d")(channels, channels, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.gate(x)


class Function(nn.Module):
    """A function as a module, so that a Sequential may hold it."""

    def __init__(self, function, text):
        super().__init__()
        self.function, self.text = function, text

    def forward(self, x):
        return self.function(x)

    def extra_repr(self):
        return self.text


def _of(rank, name, *args, **keywords):
    return getattr(nn, name.format(rank))(*args, **keywords)


def _dense(draw, shape, rank):
    """A dense layer; where there are spatial axes, after flattening them or on the last alone."""
    if rank and draw(st.booleans()):
        return nn.Flatten()
    return nn.Linear(shape[-1], draw(st.integers(1, 12)), bias=draw(st.booleans()))


def _convolution(draw, shape, rank):
    k = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([g for g in (1, 2, shape[0]) if shape[0] % g == 0]))
    out = groups * draw(st.integers(1, 4 if groups == 1 else 2))
    keywords = {"groups": groups, "bias": draw(st.booleans()), "dilation": draw(st.integers(1, 2))}
    if draw(st.booleans()):
        return _of(rank, "Conv{}d", shape[0], out, k, padding="same", **keywords)
    keywords |= {"stride": draw(st.integers(1, 2)), "padding": draw(st.integers(0, 1))}
    return _of(rank, "Conv{}d", shape[0], out, k, **keywords)


def _transposed(draw, shape, rank):
    stride = draw(st.integers(1, 2))
    keywords = {"stride": stride, "padding": draw(st.integers(0, 1)), "bias": draw(st.booleans())}
    keywords["output_padding"] = draw(st.integers(0, stride - 1))
    groups = draw(st.sampled_from([g for g in (1, shape[0]) if shape[0] % g == 0]))
    return _of(
        rank, "ConvTranspose{}d", shape[0], groups * draw(st.integers(1, 3)), draw(st.integers(1, 3)),
        groups=groups, **keywords,
    )  # fmt: skip


def _normed(draw, shape, rank):
    """A convolution or dense layer and its batch norm; without an epsilon, which zennit would count twice."""
    out = draw(st.integers(1, 4))
    if rank == 0:
        layer, norm = nn.Linear(shape[0], out), nn.BatchNorm1d(out, eps=0)
    else:
        layer = _of(rank, "Conv{}d", shape[0], out, draw(st.integers(1, 2)), bias=draw(st.booleans()))
        norm = _of(rank, "BatchNorm{}d", out, eps=0)
    return nn.Sequential(layer, norm)


def _pool(draw, shape, rank):
    k = draw(st.integers(2, 3))
    keywords = {"stride": draw(st.integers(1, 3)), "padding": draw(st.integers(0, k // 2))}
    if draw(st.booleans()):  # with padding, the exporter gets sizes wrong
        keywords = {"stride": draw(st.integers(1, k)), "ceil_mode": True}
    if draw(st.booleans()):
        return _of(rank, "MaxPool{}d", k, **keywords)
    return _of(rank, "AvgPool{}d", k, count_include_pad=draw(st.booleans()), **keywords)


def _to_size(draw, shape, rank):
    """Pooling to a given size, one that divides the input's, as exporters ask for it."""
    sizes = tuple(draw(st.sampled_from([m for m in range(1, n + 1) if n % m == 0])) for n in shape[1:])
    kind = draw(st.sampled_from(["AdaptiveAvgPool{}d", "AdaptiveMaxPool{}d"]))
    return _of(rank, kind, sizes if rank > 1 else sizes[0])


def _activation(draw, shape, rank):
    kind = draw(st.sampled_from(ACTIVATIONS))
    return kind(shape[0]) if kind is nn.PReLU else kind()


def _residual(draw, shape, rank):
    if rank == 0:
        return Residual(nn.Sequential(nn.Linear(shape[0], shape[0]), nn.ReLU()))
    conv = _of(rank, "Conv{}d", shape[0], shape[0], 3, padding=1, bias=draw(st.booleans()))
    return Residual(nn.Sequential(conv, nn.ReLU()))


def _branches(draw, shape, rank):
    if rank == 0:
        return Branches(*(nn.Linear(shape[0], draw(st.integers(1, 4))) for _ in range(2)))
    one = _of(rank, "Conv{}d", shape[0], draw(st.integers(1, 3)), 1)
    return Branches(one, _of(rank, "MaxPool{}d", 3, 1, 1))


def _resized(draw, shape, rank):
    if draw(st.booleans()):
        return nn.Upsample(scale_factor=draw(st.integers(2, 3)), mode="nearest")
    size = tuple(draw(st.sampled_from([m for m in range(1, 8) if m != n])) for n in shape[1:])
    mode = ["linear", "bilinear", "trilinear"][rank - 1]
    return Bilinear(size=size, mode=mode, align_corners=draw(st.booleans()))


def _moved(draw, shape, rank):
    """Values moved, cut or dropped."""
    choices = [nn.Dropout(0.5), nn.Identity(), Function(lambda x: x[:, :1], "x[:, :1]")]
    if rank:
        pads = [draw(st.integers(0, 2)) for _ in range(2 * rank)]
        choices += [
            Function(lambda x: nn.functional.pad(x, pads), f"pad {pads}"),
            Function(lambda x: x[..., 1:], "x[..., 1:]"),
            Function(lambda x: x.transpose(1, -1), "transpose 1, -1"),
            Function(lambda x: x.movedim(1, -1), "channels last"),
            Function(lambda x: x.flatten(2).transpose(1, 2).reshape(x.shape), "rows of all channels"),
            Function(lambda x: torch.cat([x[:, -1:], x[:, : max(x.shape[1] - 1, 1)]], 1), "channels turned"),
        ]
    if rank == 2 and shape[0] % 4 == 0:
        choices.append(nn.PixelShuffle(2))
    return draw(st.sampled_from(choices))


def _unexplained(draw, shape, rank):
    """What zennit hands relevance through otherwise than lrpfast, or not at all."""
    scale = torch.linspace(0.5, 1.5, shape[-1], dtype=torch.float64)
    epsilon = 2.0**-16
    choices = [
        nn.LayerNorm(list(shape), epsilon),
        nn.LayerNorm(shape[-1], epsilon),
        nn.Softmax(1),
        Function(lambda x: x * scale - scale / 3, "x · a - b"),
        Function(lambda x: torch.max(x, 0.5 - x), "maximum"),
        Function(lambda x: x - x.mean(-1, keepdim=True), "x - mean"),
        Function(lambda x: x * torch.tanh(x), "x · tanh x"),
    ]
    if rank:
        value = draw(st.floats(-2, 2))
        pads = [draw(st.integers(0, 1)) for _ in range(2 * rank)]
        choices += [
            Gated(shape[0], rank),
            nn.GroupNorm(draw(st.sampled_from([g for g in (1, 2, shape[0]) if shape[0] % g == 0])), shape[0], epsilon),
            Function(lambda x: nn.functional.pad(x, pads, value=value), f"pad {pads} with {value}"),
            Function(lambda x: nn.functional.pad(x, pads, mode="replicate"), f"replicate {pads}"),
            Function(lambda x: x.amax(-1, keepdim=True) + x, "x + largest"),
        ]
        if min(shape[1:]) > 1:
            choices.append(Function(lambda x: nn.functional.pad(x, pads, mode="reflect"), f"reflect {pads}"))
    return draw(st.sampled_from(choices))


_SPATIAL = (_convolution, _convolution, _transposed, _normed, _pool, _to_size, _residual, _branches, _resized, _moved)


@st.composite
def modules(draw, explained=True):
    """A module in double precision, and a batch for it; with ``explained``, of layers that zennit has rules for."""
    count, rank = draw(st.integers(2, 12)), draw(st.integers(0, 3))
    size = st.integers(4, 9) if rank < 3 else st.integers(3, 5)
    shape = first = (draw(st.integers(1, 4 if rank else 12)), *(draw(size) for _ in range(rank)))
    seed = draw(st.integers(0, 2**16))
    torch.manual_seed(seed)
    layers = []
    while len(layers) < count - 1:
        kinds = [*(_SPATIAL if rank else (_normed, _residual, _branches)), _dense]
        kinds += [_activation] * 3 if layers else []
        kinds += [] if explained else [_unexplained] * 3
        layer = draw(st.sampled_from(kinds))(draw, shape, rank).double().eval()
        try:
            with torch.no_grad():
                made = tuple(layer(torch.zeros(2, *shape, dtype=torch.float64)).shape[1:])
        except (RuntimeError, ValueError):  # windows that do not fit, say
            continue
        if not 0 < torch.Size(made).numel() <= 3000:
            continue
        layers.append(layer)
        shape, rank = made, len(made) - 1
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(torch.Size(shape).numel(), draw(st.integers(1, 4))))
    for name, buffer in module.named_buffers():
        if "running" in name:
            nn.init.uniform_(buffer, 0.5, 1.5)
    module = module.double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module, torch.randn(3, *first, dtype=torch.float64)
