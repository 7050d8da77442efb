"""Data sets of models with several inputs: a source and an output for each."""

import json

import h5py
import numpy as np
import pytest

import lrpfast
from lrpfast import layers as L
from lrpfast.batch import unfinished
from lrpfast.batch.journal import Journal
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
    with h5py.File(path) as file:
        return {name: file[name][...] for name in ("a", "b")}


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


@pytest.mark.parametrize("out", ["r.h5", "r.nc", "r.npz"])
def test_sources_of_every_kind(tmp_path, analyzer, data, out):
    pytest.importorskip("xarray")
    if out.endswith("nc"):
        pytest.importorskip("netCDF4")
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


@pytest.mark.parametrize("out", ["r.h5", "r.nc", "r.npz"])
def test_a_run_that_was_stopped_goes_on(tmp_path, analyzer, data, out):
    if out.endswith("nc"):
        pytest.importorskip("netCDF4")
    np.savez(tmp_path / "x.npz", **data)
    whole = tmp_path / f"whole_{out}"
    analyzer.stream(tmp_path / "x.npz", whole, batch_size=5, progress=False, statistics=tmp_path / "s.npz")

    def stop(count):
        raise Stop

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


@pytest.mark.parametrize("out", ["r.h5", "r.npz"])
def test_a_run_that_was_killed_in_its_last_moment(tmp_path, analyzer, data, out, monkeypatch):
    """The output has its name, the journal is still there: the run sees that it is its own."""
    np.savez(tmp_path / "x.npz", **data)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "remove", lambda self: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            analyzer.stream(tmp_path / "x.npz", tmp_path / out, batch_size=5, progress=False)
    assert (tmp_path / out).exists() and unfinished(tmp_path / out)
    done = analyzer.stream(tmp_path / "x.npz", tmp_path / out, batch_size=5, progress=False)
    assert done.resumed == SAMPLES and not unfinished(tmp_path / out)
    check(tmp_path / out, analyzer, data)


def test_another_input_is_another_run(tmp_path, analyzer, data):
    np.savez(tmp_path / "x.npz", **data)
    np.savez(tmp_path / "y.npz", a=data["a"] + 1, b=data["b"])

    def stop(count):
        raise Stop

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
    assert done.statistics.mean.shape == (2, 10)


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
        "an output for one": (data, {"sink": folder / "r.npy"}, ["one array", "a, b", ".npz"]),
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
