"""Data sets of models with several inputs: a source and an output for each."""

import json

import h5py
import numpy as np
import pytest

import lrpfast
from lrpfast import layers as L
from lrpfast.batch import unfinished
from lrpfast.batch.journal import Journal
from lrpfast.batch.sinks.npy import NpySink
from lrpfast.cli import main

RNG = np.random.default_rng
SAMPLES = 50


def two_inputs():
    """An image-like input and a vector, joined."""
    w = RNG(0).normal(size=(10, 6)), RNG(1).normal(size=(6, 3))
    nodes = [
        (L.Input((3, 2), name="a"), ()),
        (L.Input((4,), name="b"), ()),
        (L.Flatten(), (0,)),
        (L.Concat(0), (2, 1)),
        (L.Dense(w[0], np.ones(6), activation="relu"), (3,)),
        (L.Dense(w[1]), (4,)),
    ]
    return lrpfast.Model(nodes)


@pytest.fixture
def data():
    return {"a": RNG(2).normal(size=(SAMPLES, 3, 2)), "b": RNG(3).normal(size=(SAMPLES, 4)).astype("float32")}


@pytest.fixture
def analyzer():
    return lrpfast.Analyzer(two_inputs(), "epsilon", target=0)


def stored(path):
    if str(path).endswith(".npz"):
        with np.load(path) as file:  # which also verifies the archive's checksums
            assert file.files[:2] == ["a", "b"]
            return dict(file)
    if str(path).endswith(".npy"):
        return {name: np.load(path.with_name(f"{path.stem}_{name}.npy")) for name in ("a", "b")}
    if str(path).endswith(".zarr"):
        sources = (lrpfast.batch.open_source(f"{path}:{name}") for name in ("a", "b"))
        return {name: source.read(0, SAMPLES) for name, source in zip("ab", sources, strict=True)}
    with h5py.File(path) as file:
        return {name: file[name][...] for name in ("a", "b")}


def need(out):
    """Skip where a format's library is missing."""
    if out.endswith("nc"):
        pytest.importorskip("netCDF4")
    if out.endswith("zarr"):
        pytest.importorskip("zarr")


def check(path, analyzer, data, target=None):
    expected = analyzer.analyze([data["a"], data["b"]], target)
    result = stored(path)
    for name, own in zip("ab", expected, strict=True):
        np.testing.assert_array_equal(result[name], own)


def sources(data, folder):
    """Every way of giving two inputs."""
    import xarray

    np.savez(folder / "x.npz", **data)
    for name, values in data.items():
        np.save(folder / f"{name}.npy", values)
    with h5py.File(folder / "x.h5", "w") as file:
        for name, values in data.items():
            file[f"group/{name}"] = values
    dataset = xarray.Dataset({"a": (("n", "y", "x"), data["a"]), "b": (("n", "k"), data["b"])})
    return {
        "npz": folder / "x.npz",
        "a group": f"{folder / 'x.h5'}:group",
        "arrays": data,
        "a list": [data["a"], folder / "b.npy"],
        "paths": {"b": folder / "b.npy", "a": str(folder / "a.npy")},
        "a dataset": dataset,
        "iterators": {"a": iter([data["a"][:20], data["a"][20:]]), "b": data["b"]},
    }


@pytest.mark.parametrize("out", ["r.h5", "r.nc", "r.npz", "r.npy", "r.zarr"])
def test_sources_of_every_kind(tmp_path, analyzer, data, out):
    pytest.importorskip("xarray")
    need(out)
    for kind, source in sources(data, tmp_path).items():
        if kind == "iterators":
            parts = []
            analyzer.stream(source, lambda first, rows, parts=parts: parts.append(rows), progress=False)
            for name, own in zip("ab", analyzer.analyze([data["a"], data["b"]]), strict=True):
                np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), own)
            continue
        done = analyzer.stream(source, tmp_path / out, progress=False, batch_size=7, overwrite=True)
        assert done.samples == SAMPLES and done.shape == [(SAMPLES, 3, 2), (SAMPLES, 4)], kind
        check(tmp_path / out, analyzer, data)


def test_several_targets_and_normalization(tmp_path, analyzer, data):
    """Each explanation is divided by one number, over all inputs."""
    targets = np.tile([0, 2], (SAMPLES, 1))
    analyzer.stream(data, tmp_path / "r.h5", target=targets, normalize="maxabs", progress=False, batch_size=9)
    a, b = analyzer.analyze([data["a"], data["b"]], targets)
    largest = np.maximum(np.abs(a).max((2, 3)), np.abs(b).max(2))
    largest[largest == 0] = 1
    result = stored(tmp_path / "r.h5")
    np.testing.assert_allclose(result["a"], a / largest[..., None, None], rtol=1e-6)
    np.testing.assert_allclose(result["b"], b / largest[..., None], rtol=1e-6)


class Stop(Exception):
    pass


def stop(_):
    raise Stop


@pytest.mark.parametrize("out", ["r.h5", "r.nc", "r.npz", "r.npy", "r.zarr"])
def test_a_run_that_was_stopped_goes_on(tmp_path, analyzer, data, out):
    need(out)
    np.savez(tmp_path / "x.npz", **data)
    whole = tmp_path / f"whole_{out}"
    analyzer.stream(tmp_path / "x.npz", whole, batch_size=5, progress=False, statistics=tmp_path / "s.npz")

    with pytest.raises(Stop):
        analyzer.stream(tmp_path / "x.npz", tmp_path / out, batch_size=5, progress=stop, statistics=tmp_path / "t.npz")
    assert unfinished(tmp_path / out) and not (tmp_path / out).exists()
    done = analyzer.stream(
        tmp_path / "x.npz", tmp_path / out, batch_size=5, progress=False, statistics=tmp_path / "t.npz"
    )
    assert 0 < done.resumed < SAMPLES
    check(tmp_path / out, analyzer, data)
    for one, other in zip(stored(whole).values(), stored(tmp_path / out).values(), strict=True):
        np.testing.assert_array_equal(one, other)
    with np.load(tmp_path / "s.npz") as s, np.load(tmp_path / "t.npz") as t:
        for name in s.files:
            np.testing.assert_array_equal(s[name], t[name])


@pytest.mark.parametrize("out", ["r.h5", "r.npz", "r.npy", "r.zarr"])
def test_a_run_that_was_killed_in_its_last_moment(tmp_path, analyzer, data, out, monkeypatch):
    """The output has its name, the journal is still there: the run sees that it is its own."""
    np.savez(tmp_path / "x.npz", **data)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "remove", lambda self: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            analyzer.stream(tmp_path / "x.npz", tmp_path / out, batch_size=5, progress=False)
    assert unfinished(tmp_path / out)
    check(tmp_path / out, analyzer, data)
    done = analyzer.stream(tmp_path / "x.npz", tmp_path / out, batch_size=5, progress=False)
    assert done.resumed == SAMPLES and not unfinished(tmp_path / out)
    check(tmp_path / out, analyzer, data)


@pytest.mark.parametrize("changed", [False, True])
def test_a_run_that_was_killed_between_two_of_its_files(tmp_path, analyzer, data, monkeypatch, changed):
    """One file has its name, the other has not yet: the next run finishes it, unless somebody changed the first."""
    np.savez(tmp_path / "x.npz", **data)
    finish = NpySink.finish
    with monkeypatch.context() as patch:
        patch.setattr(NpySink, "finish", lambda self: finish(self) if self.path.endswith("a.npy") else stop(self))
        with pytest.raises(Stop):
            analyzer.stream(tmp_path / "x.npz", tmp_path / "r.npy", batch_size=5, progress=False)
    assert (tmp_path / "r_a.npy").exists() and not (tmp_path / "r_b.npy").exists()
    if changed:
        np.save(tmp_path / "r_a.npy", np.zeros_like(np.load(tmp_path / "r_a.npy")))
        with pytest.raises(lrpfast.InputError, match="was put there, or changed"):
            analyzer.stream(tmp_path / "x.npz", tmp_path / "r.npy", batch_size=5, progress=False)
        assert not np.load(tmp_path / "r_a.npy").any()
        return
    done = analyzer.stream(tmp_path / "x.npz", tmp_path / "r.npy", batch_size=5, progress=False)
    assert done.resumed == SAMPLES and not unfinished(tmp_path / "r.npy")
    check(tmp_path / "r.npy", analyzer, data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r_a.npy", "r_b.npy", "x.npz"]


@pytest.mark.parametrize("out", ["r.npy", "r.zarr"])
def test_iterators_into_files(tmp_path, analyzer, data, out):
    """The number of samples is known only at the end."""
    need(out)
    source = {"a": iter([data["a"][:20], data["a"][20:]]), "b": data["b"]}
    analyzer.stream(source, tmp_path / out, progress=False, batch_size=7)
    check(tmp_path / out, analyzer, data)


def test_a_zarr_store_has_the_inputs_coordinates(tmp_path, analyzer, data):
    xarray, _ = pytest.importorskip("xarray"), pytest.importorskip("zarr")
    time = np.arange(SAMPLES)
    a = xarray.DataArray(data["a"], dims=("time", "lat", "x"), coords={"time": time, "lat": [1.0, 2.0, 3.0]})
    b = xarray.DataArray(data["b"], dims=("time", "lat"), coords={"time": time, "lat": [1.0, 2.0, 3.0, 4.0]})
    targets = np.tile([0, 2], (SAMPLES, 1))
    analyzer.stream({"a": a, "b": b}, tmp_path / "r.zarr", target=targets, progress=False, batch_size=7)
    expected = analyzer.analyze([data["a"], data["b"]], targets)
    with xarray.open_zarr(tmp_path / "r.zarr") as result:
        assert result["a"].dims[0] == "time" and result["b"].dims[2] == "b_lat"
        assert result["b_lat"].values.tolist() == [1, 2, 3, 4] and "model_digest" in result["a"].attrs
        for name, own in zip("ab", expected, strict=True):
            np.testing.assert_array_equal(result[name].values, own)


def test_files_that_are_there_already(tmp_path, analyzer, data):
    """One of the files is enough; names that are no files' names are an error."""
    np.save(tmp_path / "r_b.npy", data["b"])
    with pytest.raises(lrpfast.InputError, match=r"r_b\.npy: is there already; pass overwrite=True"):
        analyzer.stream(data, tmp_path / "r.npy", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["r_b.npy"]
    with pytest.raises(lrpfast.InputError, match=r"r_b\.npy: is both the sink of 'b' and the input 'b'"):
        analyzer.stream({**data, "b": tmp_path / "r_b.npy"}, tmp_path / "r.npy", progress=False, overwrite=True)
    analyzer.stream(data, tmp_path / "r.npy", progress=False, overwrite=True)
    check(tmp_path / "r.npy", analyzer, data)


def test_another_input_is_another_run(tmp_path, analyzer, data):
    np.savez(tmp_path / "x.npz", **data)
    np.savez(tmp_path / "y.npz", a=data["a"] + 1, b=data["b"])

    with pytest.raises(Stop):
        analyzer.stream(tmp_path / "x.npz", tmp_path / "r.h5", batch_size=5, progress=stop)
    with pytest.raises(lrpfast.InputError, match="unfinished run of other settings"):
        analyzer.stream(tmp_path / "y.npz", tmp_path / "r.h5", batch_size=5, progress=False)


def test_statistics_of_each_input(tmp_path, analyzer, data):
    labels = np.arange(SAMPLES) % 2
    relevance = analyzer.analyze([data["a"], data["b"]])
    options = {"group_by": labels, "quantiles": (0.5,), "progress": False}
    done = analyzer.stream(data, statistics=tmp_path / "s.npz", **options)
    with np.load(tmp_path / "s.npz") as file:
        for name, own in zip("ab", relevance, strict=True):
            for group in (0, 1):
                np.testing.assert_allclose(file[f"mean_{name}"][group], own[labels == group].mean(0), atol=1e-6)
        assert file["count"].tolist() == [25, 25] and file["quantile_a"].shape == (1, 2, 3, 2)
        dims = json.loads(str(file["metadata"]))["dims"]["mean_b"]
    assert dims[0] == "group" and len(dims) == 2
    assert list(done.statistics) == ["a", "b"] and done.statistics["a"].shape == (3, 2)
    for name, own in zip("ab", relevance, strict=True):
        alone = lrpfast.Statistics(own.shape[1:], groups=2, quantiles=True)
        alone.update(0, own, labels)
        for key, value in alone.to_dict(q=0.5).items():
            assert np.array_equal(done.statistics[name].to_dict(q=0.5)[key][1], value[1], equal_nan=True), key


def test_statistics_of_each_input_and_target(analyzer, data):
    targets = np.tile([0, 2], (SAMPLES, 1))
    done = analyzer.stream(data, statistics=True, target=targets, progress=False)
    for name, own in zip("ab", analyzer.analyze([data["a"], data["b"]], targets), strict=True):
        np.testing.assert_allclose(done.statistics[name].mean[0], own.mean(0, dtype=np.float64), atol=1e-12)


def test_coordinates_go_with_their_inputs(tmp_path, analyzer, data):
    """What has one name and is the same is shared; what has one name and differs gets its input's."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    time = np.arange(SAMPLES)
    a = xarray.DataArray(data["a"], dims=("time", "lat", "x"), coords={"time": time, "lat": [1.0, 2.0, 3.0]}, name="a")
    b = xarray.DataArray(data["b"], dims=("time", "lat"), coords={"time": time, "lat": [1.0, 2.0, 3.0, 4.0]}, name="b")
    analyzer.stream({"a": a, "b": b}, tmp_path / "r.nc", progress=False, statistics=tmp_path / "s.nc")
    with xarray.open_dataset(tmp_path / "r.nc") as result:
        assert result["a"].dims == ("time", "lat", "x") and result["b"].dims == ("time", "b_lat")
        assert result["b_lat"].values.tolist() == [1, 2, 3, 4] and result["time"].values.tolist() == time.tolist()
    with xarray.open_dataset(tmp_path / "s.nc") as result:
        assert result["mean_a"].dims == ("group", "lat", "x") and result["mean_b"].dims == ("group", "b_lat")


def test_bounds_are_those_of_their_input(data):
    nodes = [(L.Input((2,), name="a"), ()), (L.Input((2,), name="b"), ())]
    nodes += [(L.Dense(np.ones((2, 2))), (0,)), (L.Dense(np.ones((2, 2))), (1,)), (L.Add(), (2, 3))]
    analyzer = lrpfast.Analyzer(lrpfast.Model(nodes), lrpfast.rules.ZBox(-1.0, 1.0), target=0)
    x = {"a": np.array([[0.0, 2.0], [0.5, 0.5]]), "b": np.array([[3.0, 3.0], [0.0, 0.0]])}
    with pytest.warns(lrpfast.BoundsWarning):
        done = analyzer.stream(x, lambda first, rows: None, progress=False)
    assert done.out_of_bounds == 3


def cases(data, folder):
    short = {**data, "b": data["b"][:9]}
    np.savez(folder / "one.npz", a=data["a"])
    np.save(folder / "a.npy", data["a"])
    return {
        "lengths": (short, {}, ["as many samples", "a has 50", "b has 9"]),
        "a name that is missing": ({"a": data["a"]}, {}, ["'a', 'b'"]),
        "another name": ({**data, "c": data["b"]}, {}, ["'c'"]),
        "one array": (data["a"], {}, ["2 inputs", "'a', 'b'"]),
        "a file of one": (folder / "one.npz", {}, ["'b'", "2 inputs"]),
        "a file of one array": (folder / "a.npy", {}, ["NAME=FILE"]),
        "a shape": ({"a": data["b"], "b": data["a"]}, {}, ["'a'", "(samples, 3, 2)"]),
        "a mask": (data, {"mask": np.ones((3, 2), bool)}, ["mask=", "one input"]),
        "a cluster": (data, {"cluster": "local:2"}, ["one input"]),
        "a name in the output": (data, {"sink": f"{folder / 'r.h5'}:x"}, ["inputs' names"]),
        "an input as output": (folder / "x.h5", {"sink": folder / "x.h5"}, ["overwritten"]),
    }


def test_what_is_wrong_is_named(tmp_path, analyzer, data):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.update(data)
    for case, (source, options, words) in cases(data, tmp_path).items():
        sink = options.pop("sink", tmp_path / "out.h5")
        with pytest.raises(lrpfast.LrpfastError) as caught:
            analyzer.stream(source, sink, progress=False, **options)
        for word in words:
            assert word in str(caught.value), (case, str(caught.value))
        assert not (tmp_path / "out.h5").exists(), case


def test_outputs_that_hold_more_are_left(tmp_path, analyzer, data):
    for extra in (False, True):
        analyzer.stream(data, tmp_path / "r.h5", progress=False, overwrite=True)
        with pytest.raises(lrpfast.InputError, match="overwrite=True"):
            analyzer.stream(data, tmp_path / "r.h5", progress=False)
        if extra:
            with h5py.File(tmp_path / "r.h5", "a") as file:
                file["mine"] = [1]
            with pytest.raises(lrpfast.InputError, match="mine"):
                analyzer.stream(data, tmp_path / "r.h5", progress=False, overwrite=True)


def test_a_mapping_of_one_input(tmp_path):
    model = lrpfast.Model([(L.Input((2,), name="only"), ()), (L.Dense(np.eye(2)), (0,))])
    lrpfast.Analyzer(model, "zero").stream({"only": np.ones((3, 2))}, tmp_path / "r.npy", progress=False)
    assert np.load(tmp_path / "r.npy").shape == (3, 2)


def test_the_command(tmp_path, analyzer, data, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    two_inputs().save("m.npz")
    np.savez("x.npz", **data)
    for name, values in data.items():
        np.save(f"x_{name}.npy", values)
    for number, inputs in enumerate(
        (["a=x_a.npy", "b=x_b.npy"], ["b=x_b.npy", "a=x_a.npy"], ["x_a.npy", "x_b.npy"], ["x.npz"])
    ):
        assert main(["explain", "m.npz", *inputs, "-o", f"r{number}.h5", "--target", "0", "--balance"]) == 0
        check(tmp_path / f"r{number}.h5", analyzer, data)
        report = capsys.readouterr().out
        assert "float32 (50, 3, 2) and (50, 4)" in report and "dense" in report
    assert main(["explain", "m.npz", "x.npz", "-o", "r.npy", "--target", "0", "--statistics", "s.npz"]) == 0
    assert "wrote r_a.npy and r_b.npy, float32 (50, 3, 2) and (50, 4); s.npz, statistics" in capsys.readouterr().out
    check(tmp_path / "r.npy", analyzer, data)
    for inputs, words in (
        (["a=x_a.npy", "x_b.npy"], "all NAME=SOURCE"),
        (["a=x_a.npy", "a=x_b.npy"], "two sources"),
        (["a=x_a.npy"], "'a', 'b'"),
        (["x_a.npy"], "NAME=FILE"),
        (["x.npz", "--plot", "r.png"], "one input"),
        (["x.npz", "--rule", "z_box", "--low", "minmax", "--high", "minmax"], "one input"),
    ):
        assert main(["explain", "m.npz", *inputs, "-o", "out.h5"]) == 2
        assert words in capsys.readouterr().err


def test_names_that_no_file_can_have(tmp_path):
    nodes = [(L.Input((2,), name="a:0"), ()), (L.Input((2,), name="b"), ()), (L.Add(), (0, 1))]
    analyzer = lrpfast.Analyzer(lrpfast.Model(nodes), "epsilon", target=0)
    x = [np.ones((3, 2)), np.ones((3, 2))]
    for out in ("r.npy", "r.zarr"):
        with pytest.raises(lrpfast.InputError, match="'a:0'"):
            analyzer.stream(x, tmp_path / out, progress=False)
    analyzer.stream(x, tmp_path / "r.h5", progress=False)
