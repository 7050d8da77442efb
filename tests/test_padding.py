"""Lists of samples of different lengths, padded in buckets: the bits of each sample alone, and what is never padded."""

import itertools

import numpy as np
import pytest

import lrpfast
from lrpfast import layers as L
from lrpfast.engine.padded_layers import Planned
from lrpfast.engine.padding import Padding
from lrpfast.readers.open_model import OpenModel

WIDTH, HEADS = 12, 3
BOUNDS = (np.full((1, 8), -9.0), np.full((1, 8), 9.0))
LENGTHS = (5, 3, 1, 9, 4, 3, 20, 70, 66, 2)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def attention(graph, kind, q, k, v, mask):
    """Attention in one layer, or written out as products and a softmax."""
    if kind != "written out":
        window = (None, 0) if kind == "causal" else None
        return graph.add(L.Attention(HEADS, window=window), q, k, v, *mask)
    heads = [graph.add(L.Reshape((-1, HEADS, WIDTH // HEADS)), t) for t in (q, k, v)]
    q, k, v = (graph.add(L.Permute((1, 0, 2)), t) for t in heads)
    weights = graph.add(L.Softmax(), graph.add(L.MatMul(transpose_b=True), q, k), *mask)
    out = graph.add(L.Permute((1, 0, 2)), graph.add(L.MatMul(), weights, v))
    return graph.add(L.Reshape((-1, WIDTH)), out)


def pooled(graph, pool, x, n):
    """A vector of a sample's hidden rows, and its size."""
    if pool == "first":
        return graph.add(L.Flatten(), graph.add(L.Take(([0],)), x)), WIDTH
    if pool == "last":  # of scores that a norm and a dense layer give for every row
        rows = graph.add(L.Dense(normal(8, WIDTH, 7)), graph.add(L.LayerNorm(normal(3, WIDTH)), x))
        return graph.add(L.Flatten(), graph.add(L.Crop(((n - 1, 0),)), rows)), 7
    if pool == "attention":
        scores = graph.add(L.Permute((1, 0)), graph.add(L.Dense(normal(77, WIDTH, 1)), x))
        return graph.add(L.Flatten(), graph.add(L.MatMul(), graph.add(L.Softmax(), scores), x)), WIDTH
    backwards = pool == "gru"
    kind, gates = (L.GRU, 3) if backwards else (L.LSTM, 4)
    layer = kind(normal(5, WIDTH, gates * 6) * 0.3, normal(6, 6, gates * 6) * 0.3, go_backwards=backwards)
    return graph.add(layer, x), 6


def network(kind, pool, n):
    """One block of a transformer with positions, and a pool."""
    graph = lrpfast.Graph()
    ids = graph.input((n,), name="ids")
    mask = [graph.input((n,), name="mask", kind="truth")] if kind == "mask" else []
    x = graph.add(L.Embedding(normal(9, 30, WIDTH)), ids)
    flat = n * WIDTH
    positions = L.BatchNorm(np.zeros(flat), np.ones(flat), beta=normal(1, 100 * WIDTH)[:flat], epsilon=0.0)
    x = graph.add(L.Reshape((n, WIDTH)), graph.add(positions, graph.add(L.Flatten(), x)))
    q, k, v = (graph.add(L.Dense(normal(seed, WIDTH, WIDTH) * 0.3, normal(seed + 50, WIDTH)), x) for seed in range(3))
    total = graph.add(L.Add(), x, attention(graph, kind, q, k, v, mask))
    hidden = graph.add(L.Dense(normal(4, WIDTH, WIDTH) * 0.3, normal(5, WIDTH) * 0.1, "gelu"), total)
    out, size = pooled(graph, pool, graph.add(L.Add(), total, hidden), n)
    return graph.model(graph.add(L.Dense(normal(7, size, 3)), out))


def opened(make, inputs=1):
    """A model that is made anew for each length."""
    return OpenModel(
        make(5), make(6), [(None, *make(5).nodes[0].shape[1:])] * inputs, lambda shapes: make(shapes[0][0])
    )


def samples(lengths=LENGTHS):
    return [np.random.default_rng(i).integers(1, 30, n) for i, n in enumerate(lengths)]


def padded_lengths(analyzer):
    return analyzer._core.padded_lengths


KINDS = ["whole", "mask", "causal", "written out"]
POOLS = ["first", "last", "attention", "lstm", "gru"]


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("rule", ["attn_lrp", "cp_lrp", "epsilon", "input_t_gradient"])
@pytest.mark.parametrize(("kind", "pool"), list(itertools.product(KINDS, POOLS)))
def test_padded_samples_have_the_bits_of_each_alone(kind, pool, rule, precision):
    masked = kind == "mask"
    model = opened(lambda n: network(kind, pool, n), 2 if masked else 1)
    analyzer = lrpfast.Analyzer(model, rule, precision=precision, device="cpu")
    ids = samples()
    x = [ids, [np.ones(len(i)) for i in ids]] if masked else ids
    relevance = analyzer.analyze(x)
    assert padded_lengths(analyzer), "this model's samples should be padded"
    predicted = model.predict(x, precision=precision)
    for i, one in enumerate(ids):
        alone = [one[None], np.ones((1, len(one)))] if masked else one[None]
        expected = analyzer.analyze(alone)
        got = relevance[0][i] if masked else relevance[i]
        np.testing.assert_array_equal(got, expected[0][0] if masked else expected[0])
        np.testing.assert_array_equal(predicted[i], model.predict(alone, precision=precision)[0])
        assert not masked or not relevance[1][i].any()


def same_balance(balance, i, own):
    """The figures of the i-th sample have the bits of an explanation of it alone; steps after its last one are NaN."""
    assert (balance.layer, balance.rule) == (own.layer, own.rule)
    for figure in ("incoming", "outgoing", "bias", "stabilizer", "lost", "amplification"):
        np.testing.assert_array_equal(getattr(balance, figure)[i], getattr(own, figure)[0], f"{own.layer}: {figure}")
    assert (balance.steps is None) == (own.steps is None)
    for figure in vars(own.steps or object) if own.steps else ():
        steps, alone = getattr(balance.steps, figure)[i], getattr(own.steps, figure)[0]
        np.testing.assert_array_equal(steps[: len(alone)], alone, f"{own.layer}: {figure}")
        assert np.isnan(steps[len(alone) :]).all()


@pytest.mark.filterwarnings("ignore::lrpfast.RelevanceWarning")
@pytest.mark.parametrize("rule", ["attn_lrp", "cp_lrp", "epsilon", "input_t_gradient"])
@pytest.mark.parametrize(("kind", "pool"), list(itertools.product(KINDS, POOLS)))
def test_explanations_of_padded_samples_have_the_bits_of_each_alone(kind, pool, rule):
    """Relevance, outputs, targets, the relevance of every layer, and the balance."""
    masked = kind == "mask"
    model = opened(lambda n: network(kind, pool, n), 2 if masked else 1)
    analyzer = lrpfast.Analyzer(model, rule, device="cpu")
    ids = samples()
    whole = analyzer.explain([ids, [np.ones(len(i)) for i in ids]] if masked else ids, layers=True)
    assert padded_lengths(analyzer), "this model's samples should be padded"
    for i, one in enumerate(ids):
        own = analyzer.explain([one[None], np.ones((1, len(one)))] if masked else one[None], layers=True)
        pairs = zip(whole.relevance, own.relevance, strict=True) if masked else [(whole.relevance, own.relevance)]
        for relevance, alone in pairs:
            np.testing.assert_array_equal(relevance[i], alone[0])
        np.testing.assert_array_equal(whole.output[i], own.output[0])
        assert whole.target[i] == own.target[0]
        assert list(whole.layers) == list(own.layers)
        for name, alone in own.layers.items():
            np.testing.assert_array_equal(whole.layers[name][i], alone[0], name)
        for balance, alone in zip(whole.conservation, own.conservation, strict=True):
            same_balance(balance, i, alone)


def test_explanations_of_tensors_and_by_name():
    """Layers of one size are one array, others a list; relevance of tensors comes back as tensors."""
    torch = pytest.importorskip("torch")
    analyzer = lrpfast.Analyzer(opened(lambda n: network("whole", "first", n)), "attn_lrp", target=1, device="cpu")
    ids = samples()
    whole = analyzer.explain(ids, layers=True)
    tensors = analyzer.explain({"ids": [torch.tensor(i) for i in ids]}, layers=True)
    assert padded_lengths(analyzer) and analyzer.explain(ids).layers is None
    assert isinstance(whole.layers["flatten_1"], np.ndarray)
    for name, own in whole.layers.items():
        for i, n in enumerate(LENGTHS):
            np.testing.assert_array_equal(own[i], tensors.layers[name][i])
            assert not isinstance(own, list) or n in own[i].shape or n * WIDTH in own[i].shape
    for i in range(len(ids)):
        np.testing.assert_array_equal(tensors.relevance["ids"][i].numpy(), whole.relevance[i])


def test_neighbours_and_their_order_do_not_matter():
    model = opened(lambda n: network("whole", "first", n))
    analyzer = lrpfast.Analyzer(model, "attn_lrp", target=1, device="cpu")
    ids = samples()
    whole = analyzer.analyze(ids)
    for order in (range(9, -1, -1), (3, 8, 1), (7, 7, 5)):
        for at, relevance in zip(order, analyzer.analyze([ids[i] for i in order]), strict=True):
            np.testing.assert_array_equal(relevance, whole[at])


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_padded_gets_exactly_nothing(kind):
    """Whatever the padding holds; here other words."""
    model = opened(lambda n: network(kind, "last", n), 2 if kind == "mask" else 1)
    analyzer = lrpfast.Analyzer(model, "attn_lrp", target=1, precision="float64", device="cpu")
    padded = analyzer._core.padding.to(12, 7)
    core = analyzer._core.for_padded(padded)
    words = np.array([[*range(1, 8), *[0] * 5], [*range(1, 8), *range(20, 25)]])
    masks = [np.repeat(np.arange(12)[None] < 7, 2, 0)] if kind == "mask" else []
    relevance = core.analyze([words, *masks, *padded.mask_values([7, 7])])
    assert relevance[0][:, :7].all() and not relevance[0][:, 7:].any()
    assert not any(r.any() for r in relevance[1:])
    np.testing.assert_array_equal(relevance[0][0], relevance[0][1])


def of_tokens(*layers):
    """Layers on sequences of 8 channels."""
    return lrpfast.from_layers([*layers, L.Dense(normal(7, layers_out(layers), 2))], input_shape=(None, 8))


def layers_out(layers):
    return lrpfast.from_layers(list(layers), input_shape=(11, 8)).output_shape[-1]


def with_shift(beta):
    def make(n):
        graph = lrpfast.Graph()
        x = graph.input((n, 8))
        shift = L.BatchNorm(np.zeros(8 * n), np.ones(8 * n), beta=beta(n).ravel(), epsilon=0.0)
        x = graph.add(L.Reshape((n, 8)), graph.add(shift, graph.add(L.Flatten(), x)))
        x = graph.add(L.Flatten(), graph.add(L.Take(([0],)), graph.add(L.Attention(2), x, x, x)))
        return graph.model(graph.add(L.Dense(normal(1, 8, 2)), x))

    return OpenModel(make(5), make(6), [(None, 8)], lambda shapes: make(shapes[0][0]))


def second_last():
    def make(n):
        return lrpfast.from_layers([L.Crop(((n - 2, 1),)), L.Flatten(), L.Dense(normal(1, 8, 2))], input_shape=(n, 8))

    return OpenModel(make(5), make(6), [(None, 8)], lambda shapes: make(shapes[0][0]))


NOT_PADDED = {
    "mean": lambda: of_tokens(L.Dense(normal(1, 8, 4)), L.GlobalAveragePool()),
    "maximum": lambda: of_tokens(L.Dense(normal(1, 8, 4)), L.GlobalMaxPool()),
    "convolution": lambda: of_tokens(L.Conv(normal(1, 3, 8, 4), padding="same"), L.Take(([0],)), L.Flatten()),
    "steps": lambda: lrpfast.from_layers([L.Dense(normal(1, 8, 2))], input_shape=(None, 8)),
    "softmax over positions": lambda: of_tokens(
        L.Permute((1, 0)), L.Activation("softmax"), L.Permute((1, 0)), L.Take(([0],)), L.Flatten()
    ),
    "positions from the end": lambda: with_shift(lambda n: normal(1, 100, 8)[:n][::-1]),
    "the last but one": second_last,
}


@pytest.mark.filterwarnings("ignore::lrpfast.RelevanceWarning")
@pytest.mark.parametrize("name", NOT_PADDED)
def test_models_whose_samples_are_never_padded(name):
    """Their samples run in groups of one length, with the bits of each alone."""
    model = NOT_PADDED[name]()
    x = [normal(i, n, 8) for i, n in enumerate((5, 3, 7, 3, 16))]
    analyzer = lrpfast.Analyzer(model, "epsilon", target=1, precision="float64", device="cpu")
    relevance, predicted = analyzer.analyze(x), model.predict(x, precision="float64")
    assert not padded_lengths(analyzer)
    for one, r, y in zip(x, relevance, predicted, strict=True):
        np.testing.assert_array_equal(r, analyzer.analyze(one[None])[0])
        np.testing.assert_array_equal(y, model.predict(one[None], precision="float64")[0])


def test_positions_that_go_on_are_padded():
    analyzer = lrpfast.Analyzer(with_shift(lambda n: normal(1, 100, 8)[:n]), "attn_lrp", target=1, device="cpu")
    analyzer.analyze([normal(i, n, 8) for i, n in enumerate((5, 3, 7))])
    assert padded_lengths(analyzer) == [7]


def of_numbers(n):
    """Attention on numbers, so that every setting of an analyzer applies."""
    graph = lrpfast.Graph()
    x = graph.input((n, 8))
    q, k, v = (graph.add(L.Dense(normal(seed, 8, 8), name=name), x) for seed, name in enumerate("qkv"))
    first = graph.add(L.Flatten(), graph.add(L.Take(([0],)), graph.add(L.Attention(2), q, k, v)))
    return graph.model(graph.add(L.Dense(normal(1, 8, 2)), graph.add(L.Dense(normal(3, 8, 8), name="hidden"), first)))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rule": "lxt_explicit"},
        {"rule": lrpfast.composites.AttnLRP() | lrpfast.composites.ByName({"v": lrpfast.rules.ZBox(*BOUNDS)})},
        {"rule": "integrated_gradients"},
        {"input_range": (-9, 9)},
        {"y_ref": 0.1},
        {"start": "hidden", "target": 3},
    ],
    ids=["none", "counts masks", "bounds", "averages", "input_range", "y_ref", "start"],
)
def test_settings_that_depend_on_a_whole_sample(settings):
    """There, samples are not padded, and have the bits of each alone."""
    options = {"rule": "attn_lrp", "target": 1, "device": "cpu", **settings}
    analyzer = lrpfast.Analyzer(opened(of_numbers), options.pop("rule"), **options)
    x = [normal(i, n, 8) for i, n in enumerate((5, 3, 9))]
    for one, relevance in zip(x, analyzer.analyze(x), strict=True):
        np.testing.assert_array_equal(relevance, analyzer.analyze(one[None])[0])
    assert bool(padded_lengths(analyzer)) == (not settings)


def test_a_wrong_value_is_named_in_the_callers_sample():
    make = lambda n: network("whole", "first", n)  # noqa: E731
    analyzer = lrpfast.Analyzer(opened(make), "attn_lrp", target=1, device="cpu")
    ids = samples()
    ids[3][4] = 99
    for call in (analyzer.analyze, analyzer.explain, analyzer.model.predict):
        with pytest.raises(lrpfast.InputError, match=r"x\[3, 4\] of inputs is 99"):
            call(ids)


def test_a_length_that_the_model_refuses():
    """A bucket is as long as its longest sample where the model takes nothing longer, and an error names the limit."""

    def make(n):
        if n > 19:
            raise lrpfast.ShapeError(f"there are 19 positions, not {n}")
        return network("whole", "first", n)

    analyzer = lrpfast.Analyzer(opened(make), "attn_lrp", target=1, device="cpu")
    ids = samples((19, 7, 18))
    for one, relevance in zip(ids, analyzer.analyze(ids), strict=True):
        np.testing.assert_array_equal(relevance, analyzer.analyze(one[None])[0])
    assert padded_lengths(analyzer) == [19]
    with pytest.raises(lrpfast.ShapeError, match="19 positions"):
        analyzer.analyze(samples((19, 24)))


def test_lengths_that_differ_between_inputs():
    """Queries of one length, keys of another: in groups of both."""
    graph = lrpfast.Graph()
    a, b = graph.input((None, 8)), graph.input((None, 8))
    first = graph.add(L.Take(([0],)), graph.add(L.Attention(2), a, b, b))
    model = graph.model(graph.add(L.Dense(normal(1, 8, 2)), graph.add(L.Flatten(), first)))
    analyzer = lrpfast.Analyzer(model, "attn_lrp", target=1, device="cpu")
    x = [[normal(i, n, 8) for i, n in enumerate((3, 5, 4))], [normal(i + 9, n, 8) for i, n in enumerate((6, 2, 4))]]
    relevance = analyzer.analyze(x)
    assert not padded_lengths(analyzer)
    for i in range(3):
        for r, one in zip(relevance, analyzer.analyze([x[0][i][None], x[1][i][None]]), strict=True):
            np.testing.assert_array_equal(r[i], one[0])


def cost(ends, lengths, compiled, per_compile):
    of_sample = [min(e for e in ends if e >= n) for n in lengths]
    return sum(of_sample) + per_compile * sum(e not in compiled for e in ends)


@pytest.mark.parametrize("per_compile", [0.5, 7, 40, 1e6])
@pytest.mark.parametrize("seed", range(4))
def test_the_cheapest_buckets(seed, per_compile):
    """Against all choices of buckets."""
    rng = np.random.default_rng(seed)
    lengths, compiled = rng.integers(2, 60, 12).tolist(), rng.integers(2, 70, seed).tolist()
    model = opened(lambda n: network("whole", "first", n))
    padding = Padding(model, lambda fixed: Planned(fixed, None))
    padding.positions_per_compile = per_compile
    ends = padding.buckets([*lengths, 1, 0], compiled)
    assert ends[-2:] == [1, 0] and all(end >= n for end, n in zip(ends, lengths, strict=False))
    alone = {n: padding.buckets([n], ())[0] for n in lengths}
    assert all(n <= end < 1.25 * n + 1 for n, end in alone.items())
    candidates = sorted({*alone.values(), *compiled})
    choices = (c for size in range(1, len(candidates) + 1) for c in itertools.combinations(candidates, size))
    best = min(cost(c, lengths, compiled, per_compile) for c in choices if max(c) >= max(lengths))
    chosen = sorted(set(ends[:-2]))
    assert cost(chosen, lengths, compiled, per_compile) == pytest.approx(best)
