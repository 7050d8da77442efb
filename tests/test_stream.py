"""Whole data sets: from any source into any sink, statistics on the way; and nothing is lost, whatever stops a run."""

import contextlib
import errno
import itertools
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import lrpfast
import seeds
from lrpfast.batch import open_source

FEATURES, SAMPLES = 40, 1_100
RNG = seeds.generator(7)


def make_model(outputs=3, seed=0):
    rng = np.random.default_rng(seed)
    layers = [
        lrpfast.layers.Dense(rng.normal(size=(FEATURES, 16)) / 6, 0.1 * rng.normal(size=16), activation="relu"),
        lrpfast.layers.Dense(rng.normal(size=(16, outputs)) / 4, 0.1 * rng.normal(size=outputs)),
    ]
    return lrpfast.from_layers(layers)


MODEL = make_model()
X = RNG.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
LABELS = RNG.integers(0, 3, SAMPLES)
ANALYZER = lrpfast.Analyzer(MODEL, "epsilon")
RELEVANCE = ANALYZER.analyze(X)


@pytest.fixture
def x(tmp_path):
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "x.npy"


def read(path):
    with open_source(path) as source:
        return np.array(source.read(0, source.shape[0]))


def leftovers(folder):
    """Files of unfinished runs."""
    return sorted(p.name for p in Path(folder).iterdir() if "lrpfast" in p.name)


def everything(path):
    """Every byte of a file, or of the files of a folder."""
    path = Path(path)
    if path.is_dir():
        return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
    return path.read_bytes()


class Stop(Exception):
    """Raised in place of a kill, where one in the process itself will do."""


def stopped_after(chunks):
    """A progress function that stops the run when so many chunks are done."""
    seen = itertools.count(1)

    def tell(samples):
        if next(seen) == chunks:
            raise Stop

    return tell


# Sources, sinks, options

SINKS = ["r.npy", "r.h5", "r.h5:maps/relevance", "r.nc", "r.nc:relevance", "r.zarr"]


def needs(name):
    """Skip where what a file's kind needs is not installed."""
    for kind, package in ((".nc", "netCDF4"), (".zarr", "zarr")):
        if kind in name:
            pytest.importorskip(package, reason=f"{kind} files need {package}")


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("batch_size", ["auto", 1, 300, 5_000])
def test_sinks(sink, batch_size, x, tmp_path):
    needs(sink)
    if batch_size == 1 and "zarr" in sink:
        pytest.skip("a thousand files of a sample each")
    done = ANALYZER.stream(x, tmp_path / sink, batch_size=batch_size)
    assert (read(tmp_path / sink) == RELEVANCE).all()
    assert (done.samples, done.shape, done.resumed, done.not_normalized) == (SAMPLES, RELEVANCE.shape, 0, 0)
    assert leftovers(tmp_path) == []


def test_sources_in_memory():
    got = []

    def sink(first, rows):
        assert first == sum(map(len, got))
        got.append(rows)

    for source in (X, (X[i : i + 77] for i in range(0, SAMPLES, 77)), X.astype(np.float64)):
        got.clear()
        ANALYZER.stream(source, sink, batch_size=100)
        assert (np.concatenate(got) == RELEVANCE).all()


def test_an_iterator_into_a_file(tmp_path):
    done = ANALYZER.stream((X[i : i + 77] for i in range(0, SAMPLES, 77)), tmp_path / "r.npy")
    assert done.samples == SAMPLES and (np.load(tmp_path / "r.npy") == RELEVANCE).all()
    with pytest.raises(lrpfast.InputError, match="iterator"):
        ANALYZER.stream(iter([X]), tmp_path / "s.npy", target=LABELS)


@pytest.mark.parametrize(
    "target", [1, (0, 2), "all", LABELS, np.stack([LABELS, 2 - LABELS], 1), RNG.random((SAMPLES, 3))]
)
def test_targets(target, x, tmp_path):
    ANALYZER.stream(x, tmp_path / "r.npy", target=target, batch_size=333)
    assert (np.load(tmp_path / "r.npy") == ANALYZER.analyze(X, target)).all()


@pytest.mark.parametrize("how", ["maxabs", "sum", "max", "l1"])
def test_normalize(how, x, tmp_path):
    silent = X.copy()
    silent[5] = 0  # no relevance under epsilon
    np.save(x, silent)
    model = lrpfast.from_layers([lrpfast.layers.Dense(np.float32(RNG.normal(size=(FEATURES, 2))))])
    analyzer = lrpfast.Analyzer(model, "epsilon")
    relevance = analyzer.analyze(silent).astype(np.float64)
    size = np.abs(relevance)
    scale = {"maxabs": size.max(1), "sum": relevance.sum(1), "max": relevance.max(1), "l1": size.sum(1)}[how]
    scale[5] = 1
    done = analyzer.stream(x, tmp_path / "r.npy", normalize=how, batch_size=250)
    assert done.not_normalized == 1
    np.testing.assert_allclose(np.load(tmp_path / "r.npy"), relevance / scale[:, None], rtol=3e-7, atol=0)


def test_a_convolutional_model_of_open_size(tmp_path):
    kernel = np.float32(RNG.normal(size=(3, 3, 1, 2)))
    graph = lrpfast.Graph()
    at = graph.input((None, None, 1))
    at = graph.add(lrpfast.layers.Conv(kernel, activation="relu"), at)
    model = graph.model(graph.add(lrpfast.layers.GlobalAveragePool(), at))
    images = RNG.random((20, 8, 9, 1)).astype(np.float32)
    analyzer = lrpfast.Analyzer(model, "z_plus")
    done = analyzer.stream(images, tmp_path / "r.npy", statistics=True)
    assert (np.load(tmp_path / "r.npy") == analyzer.analyze(images)).all()
    assert done.statistics.mean.shape == (1, 8, 9, 1)


# Statistics


def test_statistics(x):
    done = ANALYZER.stream(x, statistics=True, group_by=LABELS, batch_size=100, quantiles=[0.5])
    made = done.statistics
    for group in range(3):
        rows = RELEVANCE[group == LABELS].astype(np.float64)
        np.testing.assert_allclose(made.mean[group], rows.mean(0), rtol=1e-13, atol=1e-16)
        np.testing.assert_allclose(made.std[group], rows.std(0), rtol=1e-12)
        assert (made.positive[group] == (rows > 0).mean(0)).all()
        assert made.count[group] == len(rows)


@pytest.mark.parametrize("outputs", [1, 3])
def test_groups_by_prediction(outputs, x):
    model = make_model(outputs)
    if outputs == 1:  # without it, a single output is a regression's
        layers = [node.layer for node in model.nodes]
        model = lrpfast.from_layers([*layers[1:], lrpfast.layers.Activation("sigmoid")])
    analyzer = lrpfast.Analyzer(model, "epsilon")
    logits = analyzer.explain(X).output
    predicted = logits.argmax(1) if outputs > 1 else (logits[:, 0] > 0).astype(int)
    relevance = analyzer.analyze(X).astype(np.float64)
    truth = np.minimum(LABELS, max(1, outputs - 1))
    made = analyzer.stream(x, statistics=True, group_by="prediction", batch_size=99).statistics
    right = analyzer.stream(x, statistics=True, group_by=truth, correct=truth, batch_size=99).statistics
    for group in range(max(2, outputs)):
        np.testing.assert_allclose(made.mean[group], relevance[predicted == group].mean(0), rtol=1e-12, atol=1e-16)
        both = (predicted == group) & (truth == group)
        np.testing.assert_allclose(right.mean[group], relevance[both].mean(0), rtol=1e-12, atol=1e-16)


def test_the_repr_says_what_was_made(x, tmp_path):
    one = repr(ANALYZER.stream(x, statistics=True))
    both = repr(ANALYZER.stream(x, tmp_path / "r.npy", statistics=True))
    assert one.endswith(" s; amplified 2, statistics>")
    assert both.endswith("relevance (1100, 40) float32, amplified 2, statistics>")


def test_groups_by_names(x):
    names = np.array(["El Niño", "neutral", "La Niña"])[LABELS]
    made = ANALYZER.stream(x, statistics=True, group_by=names).statistics
    assert list(made.groups) == sorted({*names})
    assert made.count[list(made.groups).index("neutral")] == (LABELS == 1).sum()


@pytest.mark.parametrize("kind", [list, tuple, "file"])
@pytest.mark.parametrize(
    "labels",
    [LABELS, np.array(["El Niño", "neutral", "La Niña"])[LABELS], LABELS > 0, np.array([b"a", b"b", b"c"])[LABELS]],
)
def test_labels_may_be_lists_and_files(kind, labels, x, tmp_path):
    np.save(tmp_path / "labels.npy", labels)
    given = tmp_path / "labels.npy" if kind == "file" else kind(labels.tolist())
    made, wanted = (ANALYZER.stream(x, statistics=True, group_by=by).statistics for by in (given, labels))
    assert made.groups == wanted.groups and made.mean.tobytes() == wanted.mean.tobytes()


def test_true_classes_may_be_a_list(x):
    one, other = (ANALYZER.stream(x, statistics=True, correct=c).statistics for c in (LABELS, LABELS.tolist()))
    assert one.mean.tobytes() == other.mean.tobytes()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ([[0], [1, 2]], "rows of different lengths"),
        (["a", 1] * (SAMPLES // 2), "not some of both"),
        ([None] * SAMPLES, "whole numbers or texts"),
        ([0.5] * SAMPLES, "whole numbers or texts"),
        ([0, 1], r"have shape \(1100,\)"),
    ],
)
def test_wrong_lists_of_labels(wrong, told, x):
    with pytest.raises(lrpfast.LrpfastError, match=f"group_by must .*{told}"):
        ANALYZER.stream(x, statistics=True, group_by=wrong)
    with pytest.raises(lrpfast.LrpfastError, match=f"correct must .*{told}"):
        ANALYZER.stream(x, statistics=True, correct=wrong)


def test_label_files_are_not_unpickled(x, tmp_path):
    np.save(tmp_path / "labels.npy", np.array(["a"] * SAMPLES, object))
    with pytest.raises(lrpfast.InputError, match="pickle, never opened"):
        ANALYZER.stream(x, statistics=True, group_by=tmp_path / "labels.npy")


@pytest.mark.parametrize("ending", ["npz", "h5", "nc", "zarr"])
def test_files_of_statistics(ending, x, tmp_path):
    needs(f".{ending}")
    path = tmp_path / f"maps.{ending}"
    made = ANALYZER.stream(x, statistics=path, group_by=LABELS, quantiles=[0.1, 0.9]).statistics
    for key in ("mean", "std", "positive", "negative"):
        assert (read(f"{path}:{key}") == getattr(made, key)).all()
    assert (read(f"{path}:quantile") == made.quantile([0.1, 0.9])).all()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("masked", [False, True])
def test_variables_of_a_file_of_statistics(masked, x, tmp_path):
    """As docs/datasets.md has them."""
    mask = np.ones((4, 10), bool) if masked else None
    source = X.reshape(-1, 4, 10) if masked else x
    how = {"target": np.stack([LABELS, 2 - LABELS], 1), "group_by": LABELS, "quantiles": (0.1, 0.9), "mask": mask}
    ANALYZER.stream(source, statistics=tmp_path / "m.npz", **how)
    sample = (2, 4, 10) if masked else (2, FEATURES)
    with np.load(tmp_path / "m.npz") as made:
        got = {name: (made[name].shape, made[name].dtype.name) for name in made.files if name != "metadata"}
    maps = dict.fromkeys(["mean", "std", "minimum", "maximum", "positive", "negative"], ((3, *sample), "float64"))
    whole = {"group": ((3,), "int64"), "count": ((3,), "int64"), "valid": ((3, *sample), "int64")}
    signs = {"agreement": ((3, *sample), "float64"), "p_value": ((3, *sample), "float64")}
    signs |= {"significant": ((3, *sample), "int8"), "zero": ((3,), "int64")}
    assert got == {**whole, **maps, **signs, "q": ((2,), "float64"), "quantile": ((2, 3, *sample), "float64")}


def test_bits_do_not_depend_on_the_split(x):
    states = []
    for size in (1, 17, 256, 300, 5_000):
        made = ANALYZER.stream(x, statistics=True, group_by=LABELS, quantiles=[0.5], batch_size=size).statistics
        states.append([made.mean.tobytes(), made.std.tobytes(), made.quantile([0.5]).tobytes()])
    assert all(state == states[0] for state in states)


@pytest.mark.parametrize("wrong", [True, 1.5, "0.5", [[0.5]], [0.5, None], {0.5}, None, [0.1, [0.2]]])
def test_quantiles_are_numbers_between_0_and_1(wrong, x):
    with pytest.raises(lrpfast.InputError, match="quantiles must be numbers between 0 and 1, not"):
        ANALYZER.stream(x, statistics=True, quantiles=wrong)


def test_a_single_quantile(x):
    one, several = (ANALYZER.stream(x, statistics=True, quantiles=q).statistics for q in (0.5, (0.5,)))
    assert (one.quantile(0.5) == several.quantile([0.5])).all()
    assert (one.to_dict(q=0.5)["quantile"][1] == one.quantile(0.5)).all()


# Masks


def test_masks(tmp_path):
    mask = np.zeros((6, 10), bool)
    mask.flat[RNG.permutation(60)[:FEATURES]] = True
    grid = np.full((SAMPLES, 6, 10), np.nan, np.float32)
    grid[:, mask] = X
    np.save(tmp_path / "grid.npy", grid)
    np.save(tmp_path / "mask.npy", mask)
    for given in (mask, tmp_path / "mask.npy"):
        done = ANALYZER.stream(
            tmp_path / "grid.npy", tmp_path / "r.npy", mask=given, statistics=tmp_path / "m.npz", overwrite=True
        )
        made = np.load(tmp_path / "r.npy")
        assert made.shape == grid.shape == done.shape
        assert (made[:, mask] == RELEVANCE).all() and np.isnan(made[:, ~mask]).all()
        mean = np.load(tmp_path / "m.npz")["mean"]
        assert mean.shape == (1, 6, 10) and np.isnan(mean[0][~mask]).all()
        np.testing.assert_array_equal(mean, done.statistics.mean)
        np.testing.assert_allclose(mean[0][mask], RELEVANCE.mean(0, np.float64), rtol=1e-12)
        valid = np.load(tmp_path / "m.npz")["valid"]
        assert valid.dtype == np.int64 and (valid[0] == np.where(mask, SAMPLES, 0)).all()


def test_a_grid_without_its_mask(tmp_path):
    grid = np.zeros((3, 6, 10), np.float32)
    with pytest.raises(lrpfast.ShapeError, match=r"\(samples, 40\), not \(3, 6, 10\); .* mask= says which"):
        ANALYZER.stream(grid, statistics=True)
    with pytest.raises(lrpfast.ShapeError, match=r"not \(3, 6, 5\)$"):  # too few points for any mask
        ANALYZER.stream(grid[:, :, :5], statistics=True)
    for run in (lambda mask: ANALYZER.stream(grid, statistics=True, mask=mask), lambda m: ANALYZER.map(grid, mask=m)):
        with pytest.raises(lrpfast.ShapeError, match="the mask has 60 points, the model 40 features"):
            run(np.ones((6, 10), bool))


def test_masks_and_functions():
    mask = np.zeros(60, bool)
    mask[10 : 10 + FEATURES] = True
    grid = np.full((SAMPLES, 60), np.nan, np.float32)
    grid[:, mask] = X
    got = []
    ANALYZER.stream(grid, lambda first, rows: got.append(rows), mask=mask, batch_size=200)
    made = np.concatenate(got)
    assert (made[:, mask] == RELEVANCE).all() and np.isnan(made[:, ~mask]).all()


def test_nan_among_the_features_is_named(x, tmp_path):
    wrong = X.copy()
    wrong[700, 3] = np.nan
    np.save(x, wrong)
    with pytest.raises(lrpfast.SampleError, match=r"x\[700, 3\] is nan"):
        ANALYZER.stream(x, tmp_path / "r.npy", batch_size=100)
    assert leftovers(tmp_path) == [] and not (tmp_path / "r.npy").exists()
    analyzer = lrpfast.Analyzer(MODEL, "epsilon", mask_nan=True)
    made = analyzer.stream(x, tmp_path / "r.npy", statistics=True, batch_size=100).statistics
    assert np.isnan(np.load(tmp_path / "r.npy")[700, 3])
    assert made.valid[0, 3] == SAMPLES - 1 and np.isfinite(made.mean).all()


# Nothing is lost


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("after", [1, 5])
def test_a_stopped_run_goes_on(sink, after, x, tmp_path):
    needs(sink)
    whole, again = tmp_path / "whole", tmp_path / "again"
    whole.mkdir(), again.mkdir()
    how = {"batch_size": 100, "group_by": LABELS, "quantiles": [0.5]}
    ANALYZER.stream(x, whole / sink, statistics=whole / "m.npz", **how)
    with pytest.raises(Stop):
        ANALYZER.stream(x, again / sink, statistics=again / "m.npz", progress=stopped_after(after), **how)
    assert leftovers(again) and not (again / sink.split(":")[0]).exists()
    done = ANALYZER.stream(x, again / sink, statistics=again / "m.npz", **how)
    assert done.resumed >= 100 * after
    assert everything(again / sink.split(":")[0]) == everything(whole / sink.split(":")[0])
    assert everything(again / "m.npz") == everything(whole / "m.npz")
    assert leftovers(again) == []


@pytest.fixture
def unfinished(x, tmp_path):
    with pytest.raises(Stop):
        ANALYZER.stream(x, tmp_path / "r.npy", batch_size=100, progress=stopped_after(4))
    return tmp_path / "r.npy"


def test_changed_settings_are_told(unfinished, x):
    before = everything(unfinished.parent)
    for analyzer, options, told in (
        (lrpfast.Analyzer(MODEL, "gamma"), {}, "gamma"),
        (lrpfast.Analyzer(make_model(seed=1), "epsilon"), {}, "model_digest"),
        (lrpfast.Analyzer(MODEL, "epsilon", precision="tf32"), {}, "precision: float32, now tf32"),
        (ANALYZER, {"target": 1}, "target: max, now 1"),
        (ANALYZER, {"batch_size": 50}, "samples in a chunk: 100, now 50"),
        (ANALYZER, {"normalize": "sum"}, "normalize: not given, now sum"),
        (ANALYZER, {"statistics": True}, "statistics"),
    ):
        with pytest.raises(lrpfast.InputError, match="unfinished run of other settings") as caught:
            analyzer.stream(x, unfinished, **{"batch_size": 100, **options})
        assert told in str(caught.value) and "resume=False" in str(caught.value)
    assert everything(unfinished.parent) == before
    ANALYZER.stream(x, unfinished, batch_size=50, resume=False)
    assert (np.load(unfinished) == RELEVANCE).all() and leftovers(unfinished.parent) == []


def test_goes_on_with_other_threads(x, tmp_path, monkeypatch):
    """A chunk that is chosen by the number of threads stays what it was."""
    monkeypatch.setitem(lrpfast.batch.chunks.CHUNK_FLOPS, "cpu", 100 * ANALYZER.plan().flops)
    one, three = (lrpfast.Analyzer(MODEL, "epsilon", device="cpu", threads=n) for n in (1, 3))
    told = []
    one.stream(x, tmp_path / "one.npy", progress=told.append)
    three.stream(x, tmp_path / "three.npy", progress=told.append)
    assert told[0] == 100 and 300 in told
    with pytest.raises(Stop):
        one.stream(x, tmp_path / "r.npy", progress=stopped_after(2))
    done = three.stream(x, tmp_path / "r.npy")
    assert done.resumed >= 200
    assert everything(tmp_path / "r.npy") == everything(tmp_path / "one.npy") == everything(tmp_path / "three.npy")


def test_a_changed_input_is_told(unfinished, x):
    other, folder = x.with_name("z.npy"), x.parent / "folder"
    np.save(other, X)
    folder.mkdir()
    np.save(folder / "x.npy", X)
    os.utime(x, (1, 1))

    def told(source, **options):
        with pytest.raises(lrpfast.InputError, match="unfinished run of other settings") as caught:
            ANALYZER.stream(source, unfinished, batch_size=100, **options)
        return str(caught.value)

    assert "(x.npy has changed since: time)" in told(x)
    assert "(the input was x.npy, now it is z.npy)" in told(other)
    assert f"(the input was {x}, now it is {folder / 'x.npy'})" in told(folder / "x.npy")
    assert "(the input was x.npy, now it is an array)" in told(X)
    np.save(x, X[:-1])
    assert "(x.npy has changed since: size, time, shape)" in told(x)


def test_a_changed_array_or_mask_is_told(tmp_path):
    mask = np.arange(FEATURES + 1) > 0
    x = np.concatenate([X[:, :1], X], 1)
    with pytest.raises(Stop):
        ANALYZER.stream(x, tmp_path / "r.npy", mask=mask, batch_size=100, progress=stopped_after(4))
    for source, points, told in ((x, mask[::-1].copy(), "the mask is another"), (2 * x, mask, "the input holds other")):
        with pytest.raises(lrpfast.InputError, match=told):
            ANALYZER.stream(source, tmp_path / "r.npy", mask=points, batch_size=100)


@pytest.mark.parametrize("masked", [False, True])
def test_an_input_that_changes_at_the_end_is_told(masked, x, tmp_path):
    """No read sees it: a chunk that is gone from a Zarr store reads as fill values, a worker opens what it finds."""
    zarr = pytest.importorskip("zarr", reason="zarr is not installed; lrpfast[test] brings it")
    store = tmp_path / "x.zarr"
    zarr.open(str(store), mode="w", shape=X.shape, dtype="f4", chunks=(100, X.shape[1]))[:] = X
    chunk = max((p for p in store.rglob("*") if p.is_file() and p.suffix != ".json"), key=lambda p: p.stat().st_size)
    mask = np.ones(X.shape[1:], bool) if masked else None

    def harm_npy(done):
        if done == SAMPLES:
            os.utime(x, (1, 1))

    def harm_zarr(done):
        if done == SAMPLES:
            chunk.unlink()

    for source, harm, told in ((x, harm_npy, "changed or replaced"), (store, harm_zarr, "changed, added or removed")):
        with pytest.raises(lrpfast.InputError, match=told):
            ANALYZER.stream(source, tmp_path / "r.npy", mask=mask, progress=harm, resume=False)
        assert not (tmp_path / "r.npy").exists()


def test_a_store_is_replaced_after_a_kill_between_its_two_renames(x, tmp_path):
    pytest.importorskip("zarr", reason="zarr is not installed; lrpfast[test] brings it")
    place = tmp_path / "r.zarr"
    ANALYZER.stream(x, place, batch_size=100)
    whole = everything(place)
    (tmp_path / ".r.zarr.lrpfast-part-old" / "left").mkdir(parents=True)
    ANALYZER.stream(x, place, batch_size=100, overwrite=True)
    assert everything(place) == whole and leftovers(tmp_path) == []


def test_what_was_written_is_gone(unfinished, x):
    (part,) = (unfinished.parent / name for name in leftovers(unfinished.parent) if name.endswith("part"))
    part.unlink()
    with pytest.raises(lrpfast.InputError, match="what it had written is gone"):
        ANALYZER.stream(x, unfinished, batch_size=100)


def test_a_damaged_journal(unfinished, x):
    (journal,) = (unfinished.parent / name for name in leftovers(unfinished.parent) if name.endswith("journal"))
    journal.write_bytes(journal.read_bytes()[:100])
    with pytest.raises(lrpfast.InputError, match="damaged record of an unfinished run"):
        ANALYZER.stream(x, unfinished, batch_size=100)


def test_a_finished_output_is_kept(x, tmp_path):
    (tmp_path / "r.npy").write_bytes(b"earlier")
    with pytest.raises(lrpfast.InputError, match="is there already; pass overwrite=True"):
        ANALYZER.stream(x, tmp_path / "r.npy")
    assert (tmp_path / "r.npy").read_bytes() == b"earlier" and leftovers(tmp_path) == []
    with pytest.raises(Stop):
        ANALYZER.stream(x, tmp_path / "r.npy", overwrite=True, batch_size=100, progress=stopped_after(3))
    assert (tmp_path / "r.npy").read_bytes() == b"earlier"
    assert ANALYZER.stream(x, tmp_path / "r.npy", overwrite=True, batch_size=100).resumed >= 300
    assert (np.load(tmp_path / "r.npy") == RELEVANCE).all()


def test_files_that_are_not_there(x, tmp_path):
    sink, none = tmp_path / "r.npy", str(tmp_path / "none.npy")
    for function in (
        lambda: ANALYZER.stream(none, sink),
        lambda: ANALYZER.stream(Path(none), sink),
        lambda: ANALYZER.stream(x, sink, mask=none),
        lambda: ANALYZER.stream(x, statistics=True, correct=none),
        lambda: ANALYZER.stream(x, statistics=True, group_by=none),
        lambda: lrpfast.data_bounds(none),
    ):
        with pytest.raises(lrpfast.InputNotFoundError, match="there is no such file") as caught:
            function()
        error = pickle.loads(pickle.dumps(caught.value))
        assert isinstance(error, FileNotFoundError) and isinstance(error, lrpfast.InputError)
        assert (error.errno, error.filename, str(error)) == (errno.ENOENT, none, str(caught.value))
    with pytest.raises(lrpfast.InputNotFoundError, match="group_by is .prediction., labels or their file"):
        ANALYZER.stream(x, statistics=True, group_by="predictions")


def test_source_and_sink_swapped(x, tmp_path):
    for sink in (x, X):
        with pytest.raises(lrpfast.InputNotFoundError, match="the source comes first"):
            ANALYZER.stream(tmp_path / "r.npy", sink)
    with pytest.raises(lrpfast.InputError, match="samples cannot be read from a function"):
        ANALYZER.stream(lambda first, rows: None, x)


def test_a_table_of_text(tmp_path):
    np.savetxt(tmp_path / "x.csv", X, delimiter=",")
    with pytest.raises(lrpfast.InputError, match=r"np\.loadtxt"):
        ANALYZER.stream(tmp_path / "x.csv", tmp_path / "r.npy")


def test_an_input_is_never_replaced(x, tmp_path):
    """By whatever name an output leads to it."""
    import h5py

    (tmp_path / "symbolic.npy").symlink_to(x)
    (tmp_path / "hard.npy").hardlink_to(x)
    before = x.read_bytes()
    both = "is both the {} and the {}"
    for sink in (x, os.path.relpath(x), tmp_path / "symbolic.npy", tmp_path / "hard.npy"):
        for source in (x, np.load(x, mmap_mode="r")):
            with pytest.raises(lrpfast.InputError, match=both.format("sink", "source")):
                ANALYZER.stream(source, sink, overwrite=True)
    with pytest.raises(lrpfast.InputError, match=both.format("sink", "source")):
        ANALYZER.stream(tmp_path / "symbolic.npy", x, overwrite=True)
    np.savez(tmp_path / "both.npz", x=X, labels=LABELS)
    with pytest.raises(lrpfast.InputError, match=both.format("statistics", "source")):
        ANALYZER.stream(f"{tmp_path / 'both.npz'}:x", statistics=tmp_path / "both.npz", overwrite=True)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"], file["labels"], file["mask"] = X, LABELS, np.ones(FEATURES, bool)
    for name, options in {
        "source": {},
        "group_by": {"group_by": f"{tmp_path / 'x.h5'}:labels", "statistics": True},
        "correct": {"correct": f"{tmp_path / 'x.h5'}:labels", "statistics": True},
        "mask": {"mask": f"{tmp_path / 'x.h5'}:mask"},
    }.items():
        source = f"{tmp_path / 'x.h5'}:x" if name == "source" else x
        with pytest.raises(lrpfast.InputError, match=both.format("sink", name)):
            ANALYZER.stream(source, f"{tmp_path / 'x.h5'}:relevance", overwrite=True, **options)
    assert x.read_bytes() == before and leftovers(tmp_path) == []


def test_a_store_around_the_input_is_not_replaced(tmp_path):
    zarr = pytest.importorskip("zarr")
    zarr.open_group(tmp_path / "x.zarr", mode="w")["x"] = X
    for source in (tmp_path / "x.zarr", f"{tmp_path / 'x.zarr'}:x", tmp_path / "x.zarr" / "x"):
        with pytest.raises(lrpfast.InputError, match="is both the sink and the source"):
            ANALYZER.stream(source, tmp_path / "x.zarr", overwrite=True)
    assert (read(tmp_path / "x.zarr") == X).all()


def test_outputs_need_two_files(x, tmp_path):
    for sink, statistics in (("r.h5:maps", "r.h5"), ("r.zarr", "r.zarr/")):
        with pytest.raises(lrpfast.InputError, match="the sink and the statistics need two"):
            ANALYZER.stream(x, tmp_path / sink, statistics=f"{tmp_path}/{statistics}")


def test_a_run_killed_in_its_last_moments(x, tmp_path, monkeypatch):
    """After the last note: before the statistics' file, between it and the rename, and after the rename."""
    from lrpfast.batch import journal, run

    for at, name in ((run, "save_statistics"), (journal.Journal, "remove")):
        with monkeypatch.context() as patch:
            patch.setattr(at, name, lambda *arguments: (_ for _ in ()).throw(Stop()))
            with pytest.raises(Stop):
                ANALYZER.stream(x, tmp_path / f"{name}.npy", statistics=tmp_path / f"{name}.npz", batch_size=100)
        done = ANALYZER.stream(x, tmp_path / f"{name}.npy", statistics=tmp_path / f"{name}.npz", batch_size=100)
        assert done.resumed == SAMPLES
        assert (np.load(tmp_path / f"{name}.npy") == RELEVANCE).all()
        assert np.load(tmp_path / f"{name}.npz")["mean"].shape == (1, FEATURES)
        assert leftovers(tmp_path) == []


def test_a_full_disk(x, tmp_path, monkeypatch):
    """Where the disk is full after some rows; the next run goes on."""
    from lrpfast.batch.sinks import base

    real = base.write_at

    def write_at(file, rows, offset):
        if offset > RELEVANCE.nbytes // 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file, rows, offset)

    with monkeypatch.context() as patch:
        patch.setattr(base, "write_at", write_at)
        with pytest.raises(OSError, match="No space left on device; what is done is kept: .* from there: .*r.npy"):
            ANALYZER.stream(x, tmp_path / "r.npy", batch_size=50)
    assert not (tmp_path / "r.npy").exists()
    assert ANALYZER.stream(x, tmp_path / "r.npy", batch_size=50).resumed >= SAMPLES // 2 - 100
    assert (np.load(tmp_path / "r.npy") == RELEVANCE).all()


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_an_output_that_cannot_be_begun(x, tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (RELEVANCE.nbytes // 2, hard))
        with pytest.raises(OSError, match="r.npy"):
            ANALYZER.stream(x, tmp_path / "r.npy", batch_size=50)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert leftovers(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path):
    """Makes a small file system of its own, where this machine lets us."""
    disks = []

    def make(size):
        disk = tmp_path / f"disk{len(disks)}"
        disk.mkdir()
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True
        ).returncode:
            pytest.skip("cannot mount a file system here")
        disks.append(disk)
        return disk

    yield make
    for disk in disks:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("statistics", [False, True])
def test_a_disk_that_is_really_full(statistics, x, small_disk):
    """Full on the way, before the first note: what was written is noted in the room that was kept."""
    disk = small_disk("512k" if statistics else "256k")
    how = {"batch_size": 50, "group_by": LABELS if statistics else None}

    def run(**more):
        return ANALYZER.stream(x, disk / "r.npy", statistics=disk / "s.npz" if statistics else False, **how, **more)

    def fill(samples):  # another program takes the room
        if not (disk / "other").exists():
            with contextlib.suppress(OSError), open(disk / "other", "wb", buffering=0) as file:
                while file.write(b"x" * 4096):
                    pass

    with pytest.raises(OSError, match="No space left on device; what is done is kept"):
        run(progress=fill)
    (disk / "other").unlink()
    assert run().resumed >= 50
    assert (np.load(disk / "r.npy") == RELEVANCE).all() and leftovers(disk) == []


def test_statistics_on_a_full_disk(x, small_disk):
    """No output but the statistics: the disk is told of by their name, and the same run goes on."""
    disk = small_disk("1m")
    (disk / "other").write_bytes(b"x" * 1_020_000)
    groups = np.arange(SAMPLES) % 50
    with pytest.raises(OSError, match="No space left on device.*s.npz"):
        ANALYZER.stream(x, statistics=disk / "s.npz", group_by=groups)
    (disk / "other").unlink()
    ANALYZER.stream(x, statistics=disk / "s.npz", group_by=groups)
    assert np.load(disk / "s.npz")["mean"].shape == (50, FEATURES) and leftovers(disk) == []


@pytest.mark.parametrize("name", ["x.npy", "x.h5"])
def test_an_input_that_vanishes(name, tmp_path):
    """What is done stays, and the run goes on when the input is back."""
    path = tmp_path / name
    if name == "x.npy":
        np.save(path, X)
    else:
        import h5py

        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=X, chunks=(50, FEATURES))
    with pytest.raises((lrpfast.InputError, OSError), match="x.*cannot be read"):
        ANALYZER.stream(
            path, tmp_path / "r.npy", batch_size=50, progress=lambda _: path.exists() and path.rename(tmp_path / "y")
        )
    (tmp_path / "y").rename(path)
    assert ANALYZER.stream(path, tmp_path / "r.npy", batch_size=50).resumed >= 50
    assert (np.load(tmp_path / "r.npy") == RELEVANCE).all()


def test_an_input_that_is_cut(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=X, chunks=(50, FEATURES))
    with pytest.raises(lrpfast.InputError, match="the file was cut from"):
        ANALYZER.stream(
            tmp_path / "x.h5",
            tmp_path / "r.npy",
            batch_size=50,
            progress=lambda _: os.truncate(tmp_path / "x.h5", 9_000),
        )
    assert not (tmp_path / "r.npy").exists()


@pytest.mark.parametrize(
    ("old", "new"), [("left", "not_normalized"), ("outside", "out_of_bounds"), ("values", "input_values")]
)
def test_the_old_names_of_counts_still_work(old, new):
    """As docs/stability.md promises of what is deprecated."""
    result = ANALYZER.stream(X, statistics=True, normalize="maxabs", progress=False)
    with pytest.warns(FutureWarning, match=f"{old} is now Streamed.{new}.*0.3.0"):
        assert getattr(result, old) == getattr(result, new)


# Real processes

RUN = """
import signal, sys, numpy as np, lrpfast
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
model, x, out, maps, labels = sys.argv[1:]
analyzer = lrpfast.Analyzer(lrpfast.load(model), "epsilon", threads=1)
import lrpfast.batch.run as s
s.SECONDS_BETWEEN_NOTES = s.TIMES_A_NOTE = float(__import__("os").environ.get("PAUSE", "0"))
def slowly(samples, time=__import__("time")): time.sleep(0.002)
analyzer.stream(x, out, statistics=maps, group_by=labels, batch_size=20, progress=slowly)
"""


def start(folder, tmp_path, **how):
    arguments = [tmp_path / "m.npz", tmp_path / "x.npy", folder / "r.npy", folder / "maps.npz", tmp_path / "labels.npy"]
    return subprocess.Popen([sys.executable, "-c", RUN, *map(str, arguments)], stderr=subprocess.PIPE, text=True, **how)


@pytest.fixture
def job(x, tmp_path):
    MODEL.save(tmp_path / "m.npz")
    np.save(tmp_path / "labels.npy", LABELS)
    (tmp_path / "whole").mkdir()
    assert start(tmp_path / "whole", tmp_path).wait() == 0
    return tmp_path


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [getattr(signal, "SIGKILL", None), signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_killed_at_random_moments(number, job):
    """The same command, killed again and again, ends with the same bytes as an undisturbed run."""
    moments = int(os.environ.get("LRPFAST_TEST_KILLS", 5))
    choose = random.Random(int(number))
    folder = job / "killed"
    folder.mkdir()
    kills = 0
    while kills < moments:
        process = start(folder, job)
        until = time.monotonic() + 60
        if choose.random() < 0.8:  # mostly while it works, at times while it begins
            while not any(n.endswith("journal") for n in leftovers(folder)) and process.poll() is None:
                assert time.monotonic() < until
                time.sleep(0.001)
        time.sleep(choose.random() * 0.1)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        assert "lrpfast.errors" not in error, error
        kills += process.returncode != 0
        if not leftovers(folder):  # whole before the signal came
            for made in folder.iterdir():
                made.unlink()
    last = start(folder, job)
    _, error = last.communicate(timeout=60)
    assert last.returncode == 0, error
    assert everything(folder / "r.npy") == everything(job / "whole" / "r.npy")
    assert everything(folder / "maps.npz") == everything(job / "whole" / "maps.npz")
    assert leftovers(folder) == []


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_two_runs_into_one_output(job):
    folder = job / "two"
    folder.mkdir()
    first = start(folder, job)
    while not any(n.endswith("journal") for n in leftovers(folder)) and first.poll() is None:
        time.sleep(0.001)
    first.send_signal(signal.SIGSTOP)
    second = start(folder, job)
    _, error = second.communicate(timeout=60)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 1 and "another run writes it now" in error
    assert first.wait(60) == 0
    assert everything(folder / "r.npy") == everything(job / "whole" / "r.npy") and leftovers(folder) == []


def test_values_outside_of_bounds_are_counted_where_channels_come_first():
    layers = lrpfast.layers
    kernel = np.random.default_rng(3).normal(size=(3, 3, 2, 4))
    nodes = [layers.Permute((1, 2, 0)), layers.Conv(kernel), layers.Flatten(), layers.Dense(np.ones((48, 3)))]
    model = lrpfast.from_layers(nodes, (2, 5, 6))
    x = np.random.default_rng(4).uniform(size=(7, 2, 5, 6)).astype(np.float32)
    low, high = x.min(0), x.max(0)
    high[1, 4, 0] = x[:, 1, 4, 0].min()
    analyzer = lrpfast.Analyzer(model, lrpfast.composites.EpsilonGammaBox(low, high))
    with pytest.warns(lrpfast.BoundsWarning, match="^6 of 420 input values"):
        assert analyzer.stream(x, statistics=True).out_of_bounds == 6
