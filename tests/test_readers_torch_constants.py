"""What vision and text transformers compute of constants and of positions, as small modules against PyTorch's own."""

import numpy as np
import pytest

import lrpfast
from lrpfast import layers

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra 'torch')")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

GENERATOR = torch.Generator().manual_seed(0)


def numbers(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR)


class Function(nn.Module):
    """A function of the inputs, as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *x):
        return self.function(*x)


def check(function, *inputs, batch="open"):
    """Predictions are PyTorch's, for other samples too; returns the model."""
    module = function if isinstance(function, nn.Module) else Function(function)
    sizes = tuple({0: torch.export.Dim("batch", min=1, max=64)} if batch == "open" else {} for _ in inputs)
    sizes = sizes if isinstance(function, nn.Module) else (sizes,)
    with torch.no_grad():
        program = torch.export.export(module.double().eval(), inputs, dynamic_shapes=sizes)
    model = lrpfast.from_torch(program)
    x = [value.numpy() for value in inputs]
    found = model.predict(x if len(x) > 1 else x[0], precision="float64")
    expected = module(*inputs).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    return model


TABLE, IMAGE, WEIGHT, VECTOR = numbers(1, 3, 4, 5), numbers(2, 3, 8, 10), numbers(6, 3, 2, 2), numbers(7)

CONSTANTS = {
    "bilinear": lambda x: x + F.interpolate(TABLE, size=(8, 10), mode="bilinear"),
    "bilinear, corners": lambda x: x + F.interpolate(TABLE, size=(8, 10), mode="bilinear", align_corners=True),
    "bicubic": lambda x: x + F.interpolate(TABLE, scale_factor=2, mode="bicubic"),
    "bicubic, smooth": lambda x: x + F.interpolate(TABLE, size=(8, 10), mode="bicubic", antialias=True),
    "nearest": lambda x: x + F.interpolate(TABLE, size=(8, 10)),
    "convolution": lambda x: x + F.conv2d(F.pad(TABLE, (3, 3, 3, 3)), WEIGHT[:3])[..., :8, :10],
    "pooling": lambda x: x + F.avg_pool2d(TABLE, 2).mean() + F.max_pool2d(TABLE, 2)[..., :1, :1],
    "adaptive pooling": lambda x: x * F.adaptive_avg_pool2d(TABLE, 1),
    "layer norm": lambda x: x + F.layer_norm(TABLE, (4, 5), TABLE[0, 0], TABLE[0, 1])[..., :1, :1],
    "layer norm of a vector": lambda x: x * F.layer_norm(VECTOR, (7,))[3],
    "norms": lambda x: (
        x * sum(torch.linalg.vector_norm(TABLE, ord, dim=(1, 2))[0, 0] for ord in (2, 1, np.inf, -np.inf, 0, -1))
    ),
    "group norm": lambda x: x + F.group_norm(TABLE, 3)[..., :1, :1],
    "functions": lambda x: x + F.gelu(TABLE)[..., :1, :1] * F.silu(VECTOR)[2] - F.softplus(VECTOR[:1]),
    "standardized weights": lambda x: F.conv2d(
        x, F.batch_norm(WEIGHT.reshape(1, 6, -1), None, None, training=True).reshape_as(WEIGHT)
    ),
    "normalized weights": lambda x: F.conv2d(x, F.batch_norm(WEIGHT, VECTOR[:3], VECTOR[:3].abs())),
}  # fmt: skip


@pytest.mark.parametrize("batch", ["open", "fixed"])
@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_that_layers_compute(name, batch):
    check(CONSTANTS[name], IMAGE, batch=batch)


def test_one_sample_and_one_place():
    check(CONSTANTS["bilinear"], IMAGE[:1], batch="fixed")
    point = numbers(1, 3, 1, 1)
    check(lambda x: x * F.interpolate(point, size=(1, 1), mode="bilinear"), numbers(2, 3, 1, 1))


def test_constants_that_depend_on_the_number_of_samples():
    check(lambda x: x + F.layer_norm(TABLE.expand(x.shape[0], -1, -1, -1), (5,))[..., :1, :1], IMAGE)


def test_a_constant_that_cannot_be_computed_says_so():
    def function(x):
        return x + F.conv2d(TABLE, WEIGHT.transpose(0, 1)[:, :, :1, :1])

    with pytest.raises(RuntimeError):
        function(IMAGE)
    with pytest.raises(lrpfast.LrpfastError, match="sin"):
        lrpfast.from_torch(Function(lambda x: torch.sin(x) + F.layer_norm(VECTOR, (7,))[0]), IMAGE)


def relative_positions(x):
    """BEiT's table of indices, which is changed in place."""
    grid = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij")).flatten(1)
    distance = (grid[:, :, None] - grid[:, None]).permute(1, 2, 0).contiguous()
    distance[:, :, 0] += 1
    distance[:, :, 1] += 2
    distance[:, :, 0] *= 5
    index = torch.zeros(7, 7, dtype=torch.int64)
    index[1:, 1:] = distance.sum(-1)
    index[0] = 15
    index[:, 0] = 16
    index.narrow(0, 0, 1)[0, 0] = 17
    table = torch.linspace(-1, 1, 18, dtype=torch.float64)
    return x + table[index.view(-1)].view(7, 7)


def test_parts_of_constants_that_are_changed_in_place():
    check(relative_positions, numbers(2, 7, 7))


def changed_for_each_sample(x):
    """A mask of each sample, which OPT changes in place, as a whole and in parts."""
    mask = torch.ones(3, 4, dtype=torch.float64).triu(1).expand(x.shape[0], -1, -1).clone()
    mask[:, :, 0] = 2.0
    mask.copy_(mask.masked_fill(mask == 0, -1.0))
    mask += 1
    return x * mask


def test_constants_of_each_sample_that_are_changed_in_place():
    check(changed_for_each_sample, numbers(2, 3, 4))


def test_rows_of_a_constant_table_by_index_select():
    """M2M100's positions: rows for words of all samples, one after the other."""
    table = numbers(7, 4)
    words = torch.tensor([[1, 6, 2], [0, 3, 3]])
    check(lambda ids: table.index_select(0, ids.view(-1)).view(ids.shape[0], 3, 4).tanh(), words)


@pytest.mark.parametrize(
    "change",
    [
        lambda scale: scale.expand(3, 4)[:, 1].mul_(3.0),
        lambda scale: scale.t().reshape(-1)[:0].add_(1.0) + scale.expand(3, 4)[0].add_(1.0).sum(),
    ],
)
def test_a_change_that_cannot_be_followed_is_refused_though_nothing_uses_its_result(change):
    """Else what shares its memory would be read without the change."""

    def function(x):
        scale = torch.ones(3, 4, dtype=torch.float64)
        change(scale)
        return x * scale.sum(0)

    with pytest.raises(lrpfast.UnsupportedLayerError, match="in place"):
        lrpfast.from_torch(Function(function), numbers(2, 4))


HEADS, QUERIES = 2, numbers(2, 4, 6)


def heads_of(x):
    """(batch · heads, tokens, size), as BERT's successors have it."""
    return x.view(x.shape[0], x.shape[1], HEADS, -1).permute(0, 2, 1, 3).reshape(-1, x.shape[1], x.shape[2] // HEADS)


def apart(y, x):
    """Samples by themselves again."""
    return y.reshape(x.shape[0], HEADS, *y.shape[1:])


POSITIONS, PLACES = numbers(HEADS, 5, 3), torch.tensor([[2, 1, 0, 0], [3, 2, 1, 0], [4, 3, 2, 1], [4, 4, 3, 2]])


def test_products_with_constants_that_are_repeated_for_every_sample():
    check(lambda x: apart(torch.bmm(heads_of(x), POSITIONS.repeat(x.shape[0], 1, 1).transpose(1, 2)), x), QUERIES)
    check(lambda x: apart(torch.bmm(POSITIONS.repeat(x.shape[0], 1, 1), heads_of(x).transpose(1, 2)), x), QUERIES)
    kernel, row = numbers(1, 3, 6, 2), numbers(3, 1, 4)
    check(lambda x: x[:, None] @ kernel, QUERIES)  # an axis that the input has once
    check(lambda x: row @ x[:, None], QUERIES)
    table = numbers(1, 1, 4, 6, 2)
    with pytest.raises(lrpfast.UnsupportedLayerError, match="shape"):
        lrpfast.from_torch(Function(lambda x: x[:, None] @ table), QUERIES)


def test_gather_at_constant_places():
    x = numbers(3, 4, 5)
    check(lambda x: torch.gather(x, 2, PLACES.expand(x.shape[0], 4, 4)), x)
    check(lambda x: torch.gather(x, -2, PLACES[:2, :3].clamp(max=3).expand(x.shape[0], -1, -1)), x)
    index = PLACES.clamp(max=2)[None]
    check(lambda x: apart(torch.gather(heads_of(x), -1, index.repeat(2 * x.shape[0], 1, 1)), x), QUERIES)
    for index, word in ((torch.arange(2)[:, None, None].expand(2, 4, 5), "sample"), (PLACES[None], "sample")):
        with pytest.raises(lrpfast.UnsupportedLayerError, match=word):
            lrpfast.from_torch(Function(lambda x, index=index: torch.gather(x, 2, index)), numbers(2, 4, 5))


def test_relevance_of_what_is_gathered_goes_to_its_places():
    model = check(lambda x: torch.gather(x, 1, torch.tensor([[2, 2, 0]]).expand(x.shape[0], 3)), numbers(2, 3))
    relevance = lrpfast.Analyzer(model, "epsilon", precision="float64").analyze(
        np.ones((1, 3)), np.array([[1.0, 2, 4]])
    )
    assert relevance.tolist() == [[4, 0, 3]]


def test_windows_of_an_axis():
    x = numbers(2, 9, 3)
    for dim, size, step in ((1, 4, 2), (1, 9, 1), (-1, 2, 1), (1, 1, 3)):
        check(lambda x, d=dim, s=size, t=step: x.unfold(d, s, t), x)
    check(lambda x: x + TABLE.flatten().unfold(0, 3, 4)[:9], x)


@pytest.mark.parametrize(
    "window",
    [{"kernel_size": 3}, {"kernel_size": (2, 1), "stride": (2, 3), "padding": (0, 1), "dilation": (3, 1)}],
    ids=str,
)
def test_windows_of_images(window):
    check(lambda x: F.unfold(x, **window), IMAGE)
    check(lambda x: F.unfold(x, **window), numbers(2, 1, 4, 3))
    with pytest.raises(lrpfast.LrpfastError, match="window|shape"):
        lrpfast.from_torch(
            Function(lambda x: torch.ops.aten.im2col(x, [9, 9], [1, 1], [0, 0], [1, 1])), numbers(2, 1, 4, 3)
        )


def test_other_names_and_what_is_joined_to_nothing():
    check(
        lambda x: torch.multiply(torch.subtract(x, TABLE[..., :1, :1], alpha=2), 3) / torch.divide(VECTOR[0], 2), IMAGE
    )
    check(lambda x: torch.cat([torch.zeros(0, dtype=torch.float64), x, x], 1), QUERIES)
    check(lambda x: x + torch.arange(6).expand_as(x[:, 0]).to(x.dtype)[:, None], QUERIES)


def test_a_part_of_nothing_joins_what_is_left():
    x = numbers(2, 4, 6)
    check(lambda x: torch.cat([2 * x[..., :6], x[..., 6:]], -1), x)
    check(lambda x: torch.cat([x[:, 4:], 2 * x], 1), x, batch="fixed")


def attends(bias):
    """Attention of heads with what a function of the mask and of the queries adds to the scores."""

    def function(x, mask):
        q = x.view(x.shape[0], 4, HEADS, 3).transpose(1, 2)
        return F.scaled_dot_product_attention(q, q, q, attn_mask=bias(q, mask[:, None, None, :] != 0))

    return function


BIAS = numbers(1, HEADS, 4, 4)
BIASES = {
    "chosen": lambda q, seen: torch.where(seen, BIAS, torch.finfo(q.dtype).min),
    "chosen where not": lambda q, seen: torch.where(~seen, -1e9, BIAS),
    "added": lambda q, seen: BIAS + (1.0 - seen.to(q.dtype)) * -1e9,
    "added after": lambda q, seen: (1.0 - seen.to(q.dtype)) * torch.finfo(q.dtype).min + BIAS,
    "of the queries": lambda q, seen: (q @ POSITIONS[:, :4].transpose(1, 2)).masked_fill(~seen, -1e9),
}


@pytest.mark.parametrize("name", BIASES)
def test_relative_positions_and_masks(name):
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    model = check(attends(BIASES[name]), QUERIES, mask)
    relevance = lrpfast.Analyzer(model, "attn_lrp", precision="float64").analyze([QUERIES.numpy(), mask.numpy()])
    assert np.isfinite(relevance[0]).all() and relevance[0].any() and not relevance[1].any()
    fused = any(isinstance(layer, layers.Attention) for layer in model.layers)
    assert fused == ("queries" not in name)


def test_scores_with_what_the_queries_add():
    """SAM's attention; relevance is that of the same products written out."""

    def function(x, written):
        q = x.view(x.shape[0], 4, HEADS, 3).transpose(1, 2)
        added = q @ POSITIONS[:, :4].transpose(1, 2) + BIAS
        if written:
            return torch.softmax(q @ q.transpose(-1, -2) * 3**-0.5 + added, -1) @ q
        return F.scaled_dot_product_attention(q, q, q, attn_mask=added)

    called, written = (check(lambda x, w=w: function(x, w), QUERIES) for w in (False, True))
    r = np.ones((2, *called.output_shape))
    parts = [
        lrpfast.Analyzer(m, "attn_lrp", precision="float64").analyze(QUERIES.numpy(), r) for m in (called, written)
    ]
    np.testing.assert_allclose(parts[0], parts[1], rtol=0, atol=1e-10 * np.abs(parts[1]).max())


def test_einsum_of_joined_samples_and_constants():
    """SAM's positions: windows and heads are one axis with the batch."""

    def function(x):
        rows = heads_of(x).view(-1, 2, 2, 3)
        scores = torch.einsum("bhwc,hkc->bhwk", rows, POSITIONS) + torch.einsum("hkc,bhwc->bhwk", POSITIONS, rows)
        return apart(scores, x)

    check(function, QUERIES)
    with pytest.raises(lrpfast.UnsupportedLayerError, match="batch"):
        lrpfast.from_torch(
            Function(lambda x: torch.einsum("btc,bkc->tk", heads_of(x), POSITIONS.repeat(2, 1, 1))), QUERIES
        )


class Disentangled(nn.Module):
    """DeBERTa's attention: scores of contents, and of contents with relative positions both ways."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(6, 6) for _ in range(3))
        self.positions, self.norm = nn.Parameter(numbers(8, 6)), nn.LayerNorm(6)

    def forward(self, x):
        samples, tokens = x.shape[:2]
        q, k, v = (heads_of(part(x)) for part in (self.query, self.key, self.value))
        distance = torch.arange(tokens)[:, None] - torch.arange(tokens)[None] + 4
        index = distance.clamp(0, 7)[None].expand(q.shape[0], -1, -1)
        table = self.norm(self.positions)
        scores = torch.bmm(q, k.transpose(1, 2))
        keys, queries = (heads_of(part(table)[None]).repeat(samples, 1, 1) for part in (self.key, self.query))
        scores = scores + torch.gather(torch.bmm(q, keys.transpose(1, 2)), -1, index)
        scores = scores + torch.gather(torch.bmm(k, queries.transpose(1, 2)), -1, index).transpose(1, 2)
        result = torch.bmm(torch.softmax(scores / 3, -1), v)
        return result.view(samples, HEADS, tokens, 3).permute(0, 2, 1, 3).reshape(samples, tokens, 6)


@pytest.mark.parametrize("tokens", [1, 4])
def test_disentangled_attention(tokens):
    torch.manual_seed(0)
    x = numbers(2, tokens, 6)
    model = check(Disentangled(), x)
    for name in ("attn_lrp", "cp_lrp", "gradient"):
        relevance = lrpfast.Analyzer(model, name, precision="float64").analyze(x.numpy(), np.ones((2, tokens, 6)))
        assert np.isfinite(relevance).all() and relevance.any()


def test_the_gradient_of_disentangled_attention_is_autograds():
    torch.manual_seed(0)
    module, x = Disentangled(), numbers(2, 4, 6).requires_grad_()
    model = check(module, x.detach())
    module(x).sum().backward()
    found = lrpfast.Analyzer(model, "gradient", precision="float64").analyze(x.detach().numpy(), np.ones((2, 4, 6)))
    np.testing.assert_allclose(found, x.grad.numpy(), rtol=0, atol=1e-12 * np.abs(found).max())
