"""Plans of small models that ask for gigabytes, and what deep models cost: counted, never timed."""

import collections
import io
import json
import random
import tracemalloc

import h5py
import numpy as np
import pytest

import lrpfast
import seeds
from lrpfast import layers as L
from lrpfast.budget import Budget
from lrpfast.engine.operators import Taps
from lrpfast.kernels import memory_plan
from lrpfast.readers import channels_first, hdf5
from lrpfast.readers.keras import config
from test_budgets import archive_of, dense, planned, refused

# -- plans -----------------------------------------------------------------------


ONES = np.ones((2, 1, 1), "f4")
HUGE = {
    "transposed convolution": ([L.ConvTranspose(ONES, strides=1 << 27)], (4, 1)),
    "convolution": ([L.Conv(np.ones((3, 3, 1, 1), "f4"), padding="same")], (1 << 14, 1 << 14, 1)),
    "permutation": ([L.Permute((1, 0)), L.Flatten()], (1 << 14, 1 << 14)),
    "average over all": ([L.AveragePool(1 << 16, strides=1, padding="same")], (1 << 16, 1)),
    "maximum": ([L.MaxPool((512, 512, 512), strides=1, padding="same")], (512, 512, 512, 1)),
    "zeros around": ([L.ZeroPad((0, 1 << 27))], (4, 1)),
    "repeated": ([L.RepeatVector(1 << 27)], (4,)),
    "nearest": ([L.UpSample(1 << 27)], (4, 1)),
    "bilinear": ([L.UpSample((1 << 13, 1 << 13), "bilinear"), L.GlobalAveragePool()], (4, 4, 1)),
    "many together": ([L.Crop((1, 0)) for _ in range(80)], (1 << 20, 1)),
}


@pytest.mark.parametrize("kind", HUGE)
def test_plans_of_small_models_take_little(kind):
    make = planned(*HUGE[kind])
    refused(None, "Analyzer(model, rule, memory=", most=5e6, error=lrpfast.InputError, read=lambda _: make())


RNG = seeds.generator(0)
SIZED = {
    "Conv": ([L.Conv(np.ones((3, 3, 1, 1), "f4"), padding="same", strides=2)], (500, 500, 1)),
    "Conv1D": ([L.Conv(np.ones((5, 1, 1), "f4"))], (200_000, 1)),
    "ConvTranspose": ([L.ConvTranspose(np.ones((3, 1, 1), "f4"), strides=2)], (100_000, 1)),
    "AveragePool": ([L.AveragePool(500, strides=1, padding="same")], (1000, 1)),
    "AdaptiveAveragePool": ([L.AdaptiveAveragePool((700,))], (20_001, 1)),
    "GlobalAveragePool": ([L.GlobalAveragePool()], (600, 600, 1)),
    "GlobalMaxPool": ([L.GlobalMaxPool()], (600, 600, 1)),
    "MaxPool": ([L.MaxPool((2, 2))], (600, 600, 1)),
    "UpSample": ([L.UpSample((2, 2))], (300, 300, 1)),
    "bilinear": ([L.UpSample((2, 2), "bilinear")], (400, 400, 1)),
    "Interpolate": ([L.Interpolate((np.eye(300), None))], (300, 300, 1)),
    "Permute": ([L.Permute((1, 0))], (600, 600)),
    "RepeatVector": ([L.RepeatVector(1000)], (300,)),
    "ZeroPad": ([L.ZeroPad((200, 100_000))], (4, 1)),
    "ReflectPad": ([L.ReflectPad((200, 90_000))], (100_000, 1)),
    "Crop": ([L.Crop((200, 0))], (300_000, 1)),
    "Take": ([L.Take((RNG.integers(0, 1000, 300_000),))], (1000, 1)),
}


@pytest.mark.parametrize("kind", SIZED)
def test_tables_take_what_is_counted_for_them(kind, monkeypatch):
    """The count is no guess: what a plan takes is a few times it at most, for every layer that has tables."""
    counted = []
    monkeypatch.setattr(Budget, "take", lambda self, size, what: counted.append(size))
    make = planned(*SIZED[kind])
    planned([L.Dense(np.ones((2, 2)))], 2)()  # modules that are imported late
    tracemalloc.start()
    try:
        analyzer = make()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert analyzer.plan().steps
    assert peak < 4 * sum(counted) + 2e6, f"{peak:,} bytes, {sum(counted):,} were counted"


# -- time ------------------------------------------------------------------------


def deep_archive(path, count, named):
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        for i in range(count):
            variables = file.create_group(f"layers/dense{f'_{i}' if i else ''}/vars")
            variables["0"] = np.full((2, 2), i, "f4")
            if named:
                variables.attrs["name"] = f"d{count - 1 - i}"
    layers = [{"class_name": "InputLayer", "config": {"name": "i", "batch_shape": [None, 2]}}]
    layers += [dense(f"d{i}", 2) for i in range(count)]
    settings = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
    members = {"metadata.json": '{"keras_version": "3.5.0"}', "config.json": json.dumps(settings)}
    return archive_of(path, {**members, "model.weights.h5": weights.getvalue()})


@pytest.mark.parametrize("named", [True, False])
def test_deep_archives_are_read_layer_by_layer(tmp_path, named, monkeypatch):
    calls = collections.Counter()
    child = hdf5.child

    def counted(where, path):
        calls[at] += 1
        return child(where, path)

    monkeypatch.setattr(hdf5, "child", counted)
    for at in (20, 40):
        model = lrpfast.load(deep_archive(tmp_path / "m.keras", at, named))
        kept = [int(layer.kernel[0, 0]) for layer in model.layers[1:]]
        assert kept == (list(range(at))[::-1] if named else list(range(at)))
    assert calls[40] <= 2 * calls[20]


def test_a_layer_called_many_times_is_looked_at_once(tmp_path, monkeypatch):
    calls = collections.Counter()
    is_keras_3 = config._is_keras_3

    def counted(value):
        calls[at] += 1
        return is_keras_3(value)

    monkeypatch.setattr(config, "_is_keras_3", counted)
    for at in (20, 40):
        first = {"class_name": "InputLayer", "name": "i", "config": {"name": "i", "batch_input_shape": [None, 4]}}
        nodes = [[["a" if j else "i", max(j - 1, 0), 0, {}]] for j in range(at)]
        relu = {"class_name": "Activation", "name": "a", "config": {"name": "a", "activation": "relu"}}
        layers = [{**first, "inbound_nodes": []}, {**relu, "inbound_nodes": nodes}]
        ends = {"input_layers": [["i", 0, 0]], "output_layers": [["a", at - 1, 0]]}
        settings = {"class_name": "Functional", "config": {"name": "m", "layers": layers, **ends}}
        with h5py.File(tmp_path / "m.h5", "w") as file:
            file.attrs["model_config"] = json.dumps(settings)
            file.create_group("model_weights")
        assert len(lrpfast.load(tmp_path / "m.h5").nodes) == at + 1
    assert calls[40] <= 2 * calls[20]


def test_names_are_found_without_trying_all():
    class Counted(dict):
        tried = 0

        def __contains__(self, name):
            Counted.tried += 1
            return super().__contains__(name)

    builder = channels_first.Builder()
    builder._taken = Counted()
    builder.input("x", (4,))
    builder.scope = "split"
    names = [builder.nodes[builder.add(L.Identity(), 0)][0].name for _ in range(200)]
    assert len(set(names)) == 200 and names[:3] == ["split", "split_1", "split_2"] and names[-1] == "split_199"
    assert Counted.tried < 1000
    several = lrpfast.from_layers([L.Dense(np.ones((1, 1)), name="dense_1"), *(L.Dense(np.eye(1)) for _ in range(3))])
    assert [layer.name for layer in several.layers[1:]] == ["dense_1", "dense", "dense_2", "dense_3"]


def test_buffers_lie_at_the_first_place_that_is_free():
    """As looking at every buffer in turn finds it, with few gaps to look at."""
    rng = random.Random(0)
    gaps, live = memory_plan._Gaps(), []
    for _ in range(2000):
        if live and rng.random() < 0.5:
            gaps.release(*live.pop(rng.randrange(len(live))))
        size = rng.randint(1, 9)
        start = 0
        for taken, length in sorted(live):
            if taken - start >= size:
                break
            start = max(start, taken + length)
        assert gaps.allocate(size) == start
        live.append((start, size))
        assert gaps.starts == sorted(gaps.starts) and len(gaps.starts) <= len(live) + 1
    for item in live:
        gaps.release(*item)
    assert len(gaps.starts) == 1, "gaps side by side are one"


def test_taps_are_turned_round_as_by_loops():
    rng = np.random.default_rng(0)
    for _ in range(200):
        n, out, size = rng.integers(1, 12, 3)
        start, stride, dilation = rng.integers(-3, 4), rng.integers(1, 4), rng.integers(1, 3)
        index = np.arange(out)[:, None] * stride + np.arange(size) * dilation + start
        index = np.where((index >= 0) & (index < n), index, -1)
        factor = rng.random(index.shape)
        seen = [[(q, factor[q, t]) for q in range(out) for t in range(size) if index[q, t] == p] for p in range(n)]
        gathered = Taps(n, index, factor).gathered()
        for p, pairs in enumerate(seen):
            found = [(q, f) for q, f in zip(gathered.index[p], gathered.factor[p], strict=True) if q >= 0]
            assert found == pairs
        back = Taps(n, index).transposed().index
        assert all(back[p, t] == q for q in range(out) for t in range(size) if (p := index[q, t]) >= 0)
        assert (back >= 0).sum() == (index >= 0).sum()
        covered = np.zeros(out, int)
        for positions, taps in Taps(n, index).patterns():
            covered[positions] += 1
            assert all(set(np.flatnonzero(index[q] >= 0)) <= set(taps) for q in positions)
        assert (covered == 1).all()
