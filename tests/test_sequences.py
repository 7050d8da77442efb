"""Lists of samples of different lengths, and inputs by their names: the numbers of each sample alone."""

import collections
import warnings

import numpy as np
import pytest

import lrpfast
from lrpfast import layers as L


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def block(graph, x, mask=(), width=8):
    """A block of a transformer on tokens (n, width)."""

    def dense(seed, source, columns, activation=None):
        kernel = normal(seed, width, columns) * 0.4
        return graph.add(L.Dense(kernel, normal(seed + 50, columns) * 0.1, activation), source)

    attended = graph.add(L.Attention(2), *(dense(seed, x, width) for seed in range(3)), *mask)
    total = graph.add(L.Add(), x, dense(3, attended, width))
    return dense(4, total, width, "relu")


def tokens():
    """Any length, one output for each sample."""
    graph = lrpfast.Graph()
    x = graph.input((None, 8))
    hidden = block(graph, x)
    pooled = graph.add(L.Flatten(), graph.add(L.GlobalAveragePool(), hidden))
    return graph.model(graph.add(L.Dense(normal(7, 8, 3), normal(8, 3)), pooled))


def ids_and_mask(length=None):
    """Ids and a mask of keys, an output for the first token."""
    graph = lrpfast.Graph()
    ids, mask = graph.input((length,), name="ids"), graph.input((length,), name="mask", kind="truth")
    hidden = block(graph, graph.add(L.Embedding(normal(9, 11, 8)), ids), (mask,))
    first = graph.add(L.Flatten(), graph.add(L.Take(([0],)), hidden))
    return graph.model(graph.add(L.Dense(normal(7, 8, 3)), first))


def steps():
    """A recurrent layer with an output for every step."""
    layer = L.SimpleRNN(normal(1, 3, 4) * 0.5, normal(2, 4, 4) * 0.3, normal(3, 4) * 0.1, return_sequences=True)
    return lrpfast.from_layers([layer], input_shape=(None, 3))


LENGTHS = (5, 3, 1, 5, 4, 3)
SAMPLES = [normal(i, n, 8) for i, n in enumerate(LENGTHS)]


def sentences(lengths=LENGTHS):
    ids = [np.random.default_rng(i).integers(0, 11, n) for i, n in enumerate(lengths)]
    return ids, [np.ones(n, np.int64) for n in lengths]


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("target", [None, 1, [0, 1, 2, 0, 1, 2], np.arange(6) % 3, normal(3, 6, 3), (0, 2), "all"])
def test_a_list_has_the_bits_of_each_sample_alone(precision, target):
    analyzer = lrpfast.Analyzer(tokens(), "attn_lrp", precision=precision, target="max", device="cpu")
    relevance = analyzer.analyze(SAMPLES, target)
    assert isinstance(relevance, list) and len(relevance) == len(SAMPLES)
    for i, x in enumerate(SAMPLES):
        one = target[i : i + 1] if isinstance(target, (list, np.ndarray)) else target
        np.testing.assert_array_equal(relevance[i], analyzer.analyze(x[None], one)[0])


def test_an_array_of_objects_and_tuples_are_lists():
    analyzer = lrpfast.Analyzer(tokens(), "cp_lrp", target=0, device="cpu")
    expected = analyzer.analyze(SAMPLES)
    objects = np.empty(len(SAMPLES), object)
    objects[:] = SAMPLES
    for samples in (objects, tuple(SAMPLES), [x.tolist() for x in SAMPLES]):
        for a, b in zip(analyzer.analyze(samples), expected, strict=True):
            np.testing.assert_array_equal(a, b)
    alike = analyzer.analyze([x for x in SAMPLES if len(x) == 5])
    assert alike.shape == (2, 5, 8)  # of one shape: an array, as always


def test_the_analyzers_own_targets_are_those_of_the_samples():
    targets = [0, 1, 2, 0, 1, 2]
    analyzer = lrpfast.Analyzer(tokens(), "cp_lrp", target=targets, device="cpu")
    other = lrpfast.Analyzer(tokens(), "cp_lrp", device="cpu")
    for a, b in zip(analyzer.analyze(SAMPLES), other.analyze(SAMPLES, targets), strict=True):
        np.testing.assert_array_equal(a, b)
    several = other.analyze(SAMPLES, np.array([[0, 1]] * 6))
    assert [r.shape for r in several] == [(2, n, 8) for n in LENGTHS]


@pytest.mark.parametrize("length", [None, 5, 7])
@pytest.mark.parametrize("rule", ["attn_lrp", "cp_lrp", "gamma"])
def test_ids_with_a_mask(length, rule):
    """Of any length, or padded to the model's own, which the mask hides."""
    analyzer = lrpfast.Analyzer(ids_and_mask(length), rule, target=1, precision="float64", device="cpu")
    ids, masks = sentences()
    relevance, nothing = analyzer.analyze([ids, masks])
    assert [r.shape for r in relevance] == [(n,) for n in LENGTHS] == [r.shape for r in nothing]
    alone = lrpfast.Analyzer(ids_and_mask(), rule, target=1, precision="float64", device="cpu")
    for i in range(len(ids)):
        np.testing.assert_array_equal(relevance[i], alone.analyze([ids[i][None], masks[i][None]])[0][0])
        assert not nothing[i].any()
    alike = analyzer.analyze([[ids[0], ids[3]], [masks[0], masks[3]]])[0]
    np.testing.assert_array_equal(alike[1], relevance[3])


def test_inputs_by_name():
    analyzer = lrpfast.Analyzer(ids_and_mask(), "cp_lrp", target=1, device="cpu")
    ids, masks = sentences()
    encoded = collections.UserDict({"mask": [m.tolist() for m in masks], "ids": [i.tolist() for i in ids]})
    relevance = analyzer.analyze(encoded)
    assert list(relevance) == ["ids", "mask"]
    for a, b in zip(relevance["ids"], analyzer.analyze([ids, masks])[0], strict=True):
        np.testing.assert_array_equal(a, b)
    whole = analyzer.analyze({"ids": ids[0][None], "mask": masks[0][None]})
    np.testing.assert_array_equal(whole["ids"][0], relevance["ids"][0])
    assert analyzer.fixed({"ids": ids[0][None], "mask": masks[0][None]}).input_shape == [(5,), (5,)]
    explanation = analyzer.explain(encoded)
    assert list(explanation.relevance) == ["ids", "mask"] and "…" in repr(explanation)
    out = {"ids": np.empty((1, 5), np.float32), "mask": np.empty((1, 5), np.float32)}
    analyzer.analyze({"ids": ids[0][None], "mask": masks[0][None]}, out=out)
    np.testing.assert_array_equal(out["ids"], whole["ids"])
    with pytest.raises(lrpfast.InputError, match="'ids', 'mask'.*'input_ids'"):
        analyzer.analyze({"input_ids": ids[0][None]})


def test_predictions_of_lists():
    ids, masks = sentences()
    model = ids_and_mask()
    np.testing.assert_array_equal(
        model.predict([ids, masks]), [model.predict([i[None], m[None]])[0] for i, m in zip(ids, masks, strict=True)]
    )
    samples = [normal(i, n, 3) for i, n in enumerate(LENGTHS)]
    for x, y in zip(samples, steps().predict(samples), strict=True):
        np.testing.assert_array_equal(y, steps().predict(x[None])[0])


def test_explain_of_lists():
    analyzer = lrpfast.Analyzer(tokens(), "attn_lrp", precision="float64", device="cpu")
    explanation = analyzer.explain(SAMPLES, layers=True)
    for i, x in enumerate(SAMPLES):
        one = analyzer.explain(x[None], layers=True)
        np.testing.assert_array_equal(explanation.relevance[i], one.relevance[0])
        np.testing.assert_array_equal(explanation.output[i], one.output[0])
        assert explanation.target[i] == one.target[0]
        for balance, other in zip(explanation.conservation, one.conservation, strict=True):
            assert balance.incoming[i] == other.incoming[0] and balance.lost[i] == other.lost[0]
        for name, relevance in one.layers.items():
            np.testing.assert_array_equal(explanation.layers[name][i], relevance[0])


def test_explain_of_lists_of_steps():
    samples = [normal(i, n, 3) for i, n in enumerate(LENGTHS)]
    analyzer = lrpfast.Analyzer(steps(), "epsilon", precision="float64", device="cpu")
    explanation = analyzer.explain(samples, [0] * 6)
    assert [y.shape for y in explanation.output] == [(n, 4) for n in LENGTHS]
    figures = explanation.conservation[0].steps
    assert figures.incoming.shape == (6, 5)
    assert (np.isnan(figures.incoming).sum(1) == [5 - n for n in LENGTHS]).all()
    starts = [normal(i, n, 4) for i, n in enumerate(LENGTHS)]
    for i, relevance in enumerate(analyzer.analyze(samples, starts)):
        np.testing.assert_array_equal(relevance, analyzer.analyze(samples[i][None], starts[i][None])[0])


def test_errors_and_warnings_name_the_sample():
    analyzer = lrpfast.Analyzer(tokens(), "cp_lrp", target=0, device="cpu")
    wrong = [x.copy() for x in SAMPLES]
    wrong[4][2, 3] = np.nan
    for call in (analyzer.analyze, analyzer.explain, tokens().predict):
        with pytest.raises(lrpfast.InputError, match=r"x\[4, 2, 3\] is nan"):
            call(wrong)
    silent = [x.copy() for x in SAMPLES]
    silent[3][:] = 0
    zero = lrpfast.from_layers([L.Dense(normal(0, 8, 8)), L.GlobalMaxPool()], input_shape=(None, 8))
    with pytest.warns(lrpfast.VanishingWarning, match="1 of 6 explanations is zero.*of sample 3"):
        lrpfast.Analyzer(zero, "epsilon", target=0, device="cpu").analyze(silent)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analyzer.analyze(SAMPLES)


def test_lists_that_do_not_fit():
    analyzer = lrpfast.Analyzer(tokens(), "cp_lrp", target=0, device="cpu")
    cases = [
        ([normal(0, 5, 8), normal(0, 3, 7)], lrpfast.ShapeError, "8"),
        ([normal(0, 2, 5, 8), normal(0, 1, 3, 8)], lrpfast.ShapeError, r"each is one sample.*sample 0.*\(2, 5, 8\)"),
        ([normal(0, 5, 8), None], lrpfast.InputError, "sample 1"),
    ]
    for x, error, text in cases:
        with pytest.raises(error, match=text):
            analyzer.analyze(x)
    with pytest.raises(lrpfast.ShapeError, match="2 entries.*6 samples"):
        analyzer.analyze(SAMPLES, [0, 1])
    with pytest.raises(lrpfast.InputError, match="out is for samples of one shape"):
        analyzer.analyze(SAMPLES, out=np.empty(3))
    with pytest.raises(lrpfast.InputError, match="differ in shape"):
        analyzer.fixed(SAMPLES)
    fixed = lrpfast.Analyzer(tokens().with_input_shape((5, 8)), "cp_lrp", target=0, device="cpu")
    with pytest.raises(lrpfast.ShapeError, match="sample 1 .*no mask.*dynamic_shapes"):
        fixed.analyze(SAMPLES)
    masked = lrpfast.Analyzer(ids_and_mask(4), "cp_lrp", target=0, device="cpu")
    with pytest.raises(lrpfast.ShapeError, match="'ids'.*sample 0 has shape .5,. and is longer"):
        masked.analyze(sentences())
    with pytest.raises(lrpfast.ShapeError, match="ids: 6, mask: 5"):
        masked.analyze([sentences()[0], sentences()[1][:5]])


def test_conditions_on_samples_of_different_lengths():
    analyzer = lrpfast.Analyzer(tokens(), "cp_lrp", target=0, device="cpu")
    conditions = [{"dense_3": 1}, {"dense_3": {0, 2}, "dense_2": 3}]
    one, several = (analyzer.analyze(SAMPLES, conditions=c) for c in (conditions[0], conditions))
    for x, single, both in zip(SAMPLES, one, several, strict=True):
        np.testing.assert_array_equal(both[0], single)
        assert single.shape == x.shape and np.abs(both).max(axis=(1, 2)).min() > 0
        for i, condition in enumerate(conditions):
            np.testing.assert_allclose(both[i], analyzer.analyze(x[None], conditions=condition)[0], atol=1e-6)


def test_padding_that_gets_relevance_is_an_error():
    """A model that takes a mean over all tokens, masked or not."""
    graph = lrpfast.Graph()
    ids, mask = graph.input((5,), name="ids"), graph.input((5,), name="mask", kind="truth")
    hidden = block(graph, graph.add(L.Embedding(normal(9, 11, 8)), ids), (mask,))
    pooled = graph.add(L.Flatten(), graph.add(L.GlobalAveragePool(), hidden))
    model = graph.model(graph.add(L.Dense(normal(7, 8, 3)), pooled))
    with pytest.raises(lrpfast.InputError, match="sample 1 .*padding gets relevance"):
        lrpfast.Analyzer(model, "cp_lrp", target=0, device="cpu").analyze(sentences())


def test_tensors_stay_tensors():
    torch = pytest.importorskip("torch")
    analyzer = lrpfast.Analyzer(tokens(), "cp_lrp", target=0, device="cpu")
    samples = [torch.tensor(x, requires_grad=True) for x in SAMPLES]
    relevance = analyzer.analyze(samples)
    assert all(isinstance(r, torch.Tensor) for r in relevance)
    for a, b in zip(relevance, analyzer.analyze(SAMPLES), strict=True):
        np.testing.assert_array_equal(a.numpy(), b)
