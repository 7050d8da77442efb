"""Packed weights: programs that have the same weights share them, whatever the size of the input."""

import gc
import weakref

import numpy as np
import pytest

import lrpfast
from lrpfast import layers as L
from lrpfast.kernels import _cpu


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def transformer(kernel_dtype=np.float32, width=16):
    """One block and a pooled head, of any length."""
    graph = lrpfast.Graph()
    x = graph.input((None, width))

    def dense(seed, source, columns, activation=None):
        kernel = normal(seed, width, columns).astype(kernel_dtype)
        return graph.add(L.Dense(kernel, normal(seed + 50, columns), activation), source)

    attended = graph.add(L.Attention(2), *(dense(seed, x, width) for seed in range(3)))
    total = graph.add(L.Add(), x, dense(3, attended, width))
    pooled = graph.add(L.GlobalAveragePool(), dense(4, total, width, "relu"))
    return graph.model(dense(5, graph.add(L.Flatten(), pooled), 4, "softmax"))


def images():
    """A convolutional network of any size, with a batch normalization that is folded."""
    norm = L.BatchNorm(normal(0, 6), np.abs(normal(1, 6)), normal(2, 6), normal(3, 6))
    parts = [L.Conv(normal(4, 3, 3, 5, 6), padding="same"), norm, L.Activation("relu"), L.GlobalAveragePool()]
    return lrpfast.from_layers([*parts, L.Flatten(), L.Dense(normal(5, 6, 3))], input_shape=(None, None, 5))


def packed():
    """All packed weights that are alive."""
    gc.collect()
    return {id(part): part.array.nbytes for part in _cpu.PACKED.values()}


CASES = [
    (lambda: transformer(), "attn_lrp", [(5, 16), (7, 16), (1, 16), (9, 16)]),
    (lambda: transformer(np.float64), "gamma", [(5, 16), (7, 16), (9, 16)]),
    (images, "epsilon", [(9, 8, 5), (7, 6, 5), (12, 3, 5)]),
    (images, "alpha_beta", [(9, 8, 5), (7, 6, 5)]),
]


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("build, rule, shapes", CASES)
def test_packed_weights_do_not_grow_with_sizes(build, rule, shapes, precision):
    analyzer = lrpfast.Analyzer(build(), rule, target=0, precision=precision, device="cpu")
    before = set(packed())
    samples = [normal(9, 2, *shape) for shape in shapes]
    first = [analyzer.analyze(samples[0])]
    shared = {k: v for k, v in packed().items() if k not in before}
    assert shared
    first += [analyzer.analyze(x) for x in samples[1:]]
    assert {k: v for k, v in packed().items() if k not in before} == shared
    for x, relevance in zip(samples, first, strict=True):  # as an analyzer of its own has it
        alone = lrpfast.Analyzer(build().with_input_shape(x.shape[1:]), rule, target=0, precision=precision)
        np.testing.assert_array_equal(relevance, alone.analyze(x))


def test_all_programs_of_an_analyzer_share_weights():
    analyzer = lrpfast.Analyzer(transformer(), "epsilon", device="cpu")
    before, x = set(packed()), normal(9, 3, 5, 16)
    analyzer.analyze(x)
    count = len(set(packed()) - before)
    analyzer.explain(x, layers=True)
    analyzer.analyze(x, target=lambda y: y)
    assert len(set(packed()) - before) == count


def test_packed_weights_go_with_the_last_program():
    model = transformer()
    kernel = weakref.ref(model.layers[1].kernel)
    first, second = (lrpfast.Analyzer(model, rule, device="cpu") for rule in ("epsilon", "gamma"))
    x = normal(9, 2, 5, 16)
    before = len(packed())
    for analyzer in (first, second):
        analyzer.analyze(x)
    assert len(packed()) > before
    del analyzer, first
    some = len(packed())
    assert some > before
    del second, model
    assert len(packed()) == before and kernel() is None


def test_weights_kept_as_they_are_are_shared(monkeypatch):
    monkeypatch.setattr(_cpu, "LAZY_BYTES", 0)
    analyzer = lrpfast.Analyzer(transformer(np.float64, 32), "gamma", target=0, device="cpu")
    before = set(packed())
    for length in (4, 6, 8):
        analyzer.analyze(normal(length, 2, length, 32))
        if length == 4:
            count = len(set(packed()) - before)
    assert len(set(packed()) - before) == count > 0


def test_a_rules_new_part_is_another_part():
    """Whoever defines a part of weights again, as in a notebook, gets the new one."""
    model, x = lrpfast.from_layers([L.Dense(normal(0, 20, 20))]), normal(1, 2, 20)
    from lrpfast.rules import WEIGHT_PARTS

    part = WEIGHT_PARTS["w^2"]
    first = lrpfast.Analyzer(model, "w_square", target=0, device="cpu")
    before = first.analyze(x)
    try:
        WEIGHT_PARTS["w^2"] = lambda w, gamma: np.abs(w)
        after = lrpfast.Analyzer(model, "w_square", target=0, device="cpu").analyze(x)
    finally:
        WEIGHT_PARTS["w^2"] = part
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("build, rule, shapes", [CASES[0], CASES[1], CASES[2]])
def test_weights_are_on_a_gpu_once(build, rule, shapes, standin):
    from lrpfast.kernels.cuda import device_arrays

    model = build()
    analyzer = lrpfast.Analyzer(model, rule, target=0, device="gpu")
    alone = lrpfast.Analyzer(model, rule, target=0, device="cpu")
    counts = []
    for shape in shapes:
        x = normal(9, 2, *shape)
        np.testing.assert_allclose(analyzer.analyze(x), alone.analyze(x), rtol=2e-4, atol=2e-5)
        gc.collect()
        counts.append(len(device_arrays.WEIGHTS))
    assert counts[0] > 0 and len(set(counts)) == 1
    analyzer.analyze(x, target=lambda y: y)  # with a program for the outputs
    assert len(device_arrays.WEIGHTS) == counts[0]
    del analyzer
    gc.collect()
    assert len(device_arrays.WEIGHTS) == 0
