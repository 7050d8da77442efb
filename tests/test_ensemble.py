"""Several models in one run: statistics over members, a file for each, and resuming at the member where it stopped."""

import numpy as np
import pytest

import lrpfast
from lrpfast import cli
from lrpfast.batch import open_source

RNG = np.random.default_rng(3)
X = RNG.normal(size=(40, 6)).astype(np.float32)
LABELS = np.arange(40) % 2
MASK = np.array([[True, False, True, True], [True, True, False, True]])


def network(seed):
    rng = np.random.default_rng(seed)
    kernels = [rng.normal(size=shape).astype(np.float32) for shape in ((6, 5), (5, 2))]
    layers = [lrpfast.layers.Dense(kernels[0], activation="relu"), lrpfast.layers.Dense(kernels[1])]
    return lrpfast.from_layers(layers, name=f"net_{seed}")


@pytest.fixture
def seeds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        network(seed).save(tmp_path / f"seed_{seed}.npz")
    grid = np.full((40, 2, 4), np.nan, np.float32)
    grid[:, MASK] = X
    np.save("x.npy", grid)
    np.save("mask.npy", MASK)
    np.save("labels.npy", LABELS)
    return tmp_path


def means(seed):
    relevance = lrpfast.Analyzer(network(seed), "epsilon").analyze(X).astype(np.float64)
    return np.stack([relevance[label == LABELS].mean(0) for label in (0, 1)])


def test_statistics_over_members():
    done = lrpfast.Ensemble([network(seed) for seed in range(3)], "epsilon").stream(X, group_by=LABELS, progress=False)
    each = np.stack([means(seed) for seed in range(3)])
    assert (done.members, done.groups) == (("net_0", "net_1", "net_2"), [0, 1])
    assert done.count.tolist() == [[20, 20]] * 3
    for name, expected in (
        ("mean", each.mean(0)),
        ("std", each.std(0)),
        ("minimum", each.min(0)),
        ("maximum", each.max(0)),
        ("positive", (each > 0).mean(0)),
        ("negative", (each < 0).mean(0)),
    ):
        np.testing.assert_allclose(getattr(done, name), expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(done.statistics["net_1"].mean, each[1], rtol=1e-12)
    assert "3 members, 40 samples, 2 groups" in repr(done)


CONDITIONS = [{"dense": 1}, {"dense": slice(2, 5)}]


@pytest.mark.parametrize("parallel", [False, True])
def test_conditions(parallel, seeds):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    options = {"conditions": CONDITIONS, "parallel": parallel}
    each = np.stack([lrpfast.Analyzer(network(seed), "epsilon").analyze(X, **options).mean(0) for seed in range(3)])
    data = xarray.DataArray(np.load("x.npy"), {"time": np.arange(40)}, ("time", "lat", "lon"))
    ensemble = lrpfast.Ensemble("seed_*.npz", "epsilon")
    done = ensemble.stream(data, "r.nc", statistics="m.nc", mask=MASK, progress=False, **options)
    np.testing.assert_allclose(done.mean[0][:, MASK], each.mean(0), rtol=1e-5, atol=1e-7)
    with xarray.open_dataset("m.nc") as maps, xarray.open_dataset("r_seed_2.nc") as member:
        assert maps["mean"].dims == ("group", "condition", "lat", "lon")
        assert member["relevance"].dims == ("time", "condition", "lat", "lon")
        assert maps.attrs["conditions"] == "dense=1 | dense=2:5"
    command = ["explain", "--models", "seed_*.npz", "x.npy", "--mask", "mask.npy", "--statistics", "cli.npz"]
    texts = ["--condition", "dense=1", "--condition", "dense=2:5"] + ["--parallel"] * parallel
    assert cli.main([*command, *texts, "--quiet"]) == 0
    np.testing.assert_array_equal(np.load("cli.npz")["mean"], done.mean)


def test_a_run_under_conditions_goes_on(seeds):
    """With the same conditions; a member that finished under others is explained anew, if it may be."""
    ensemble, seen = lrpfast.Ensemble("seed_*.npz", "epsilon"), []

    def stop(count):
        seen.append(count)
        if len(seen) == 2:
            raise KeyboardInterrupt

    options = {"statistics": "maps.npz", "mask": "mask.npy"}
    with pytest.raises(KeyboardInterrupt):
        ensemble.stream("x.npy", conditions=CONDITIONS, progress=stop, **options)
    with pytest.raises(lrpfast.InputError, match=r"maps_seed_0\.npz: is there already"):
        ensemble.stream("x.npy", conditions=CONDITIONS[::-1], progress=False, **options)
    done = ensemble.stream("x.npy", conditions=CONDITIONS, progress=False, **options)
    assert done.resumed == ("seed_0",)


def test_one_member_is_an_ensemble():
    done = lrpfast.Ensemble({"only": network(0)}, "epsilon").stream(X, progress=False)
    assert not done.std.any()
    np.testing.assert_allclose(done.mean[0], done.statistics["only"].mean[0], rtol=1e-15)


@pytest.mark.parametrize("kind", ["npz", "h5", "nc"])
def test_on_the_command_line(kind, seeds, capsys):
    if kind == "nc":
        pytest.importorskip("netCDF4")
    command = ["explain", "--models", "seed_*.npz", "x.npy", "--mask", "mask.npy", "--group-by", "labels.npy"]
    assert cli.main([*command, "--statistics", f"maps.{kind}", "-o", "r.npy"]) == 0
    assert "3 members explained 40 samples each" in capsys.readouterr().out
    each = np.stack([means(seed) for seed in range(3)])
    with open_source(f"maps.{kind}:mean") as source:
        maps = source.read(0, 2)
        np.testing.assert_allclose(maps[:, MASK], each.mean(0), rtol=1e-6)
        assert np.isnan(maps[:, ~MASK]).all()
    with open_source(f"maps_seed_2.{kind}:mean") as source:
        np.testing.assert_allclose(source.read(0, 2)[:, MASK], each[2], rtol=1e-6)
    assert np.load("r_seed_1.npy").shape == (40, 2, 4)
    assert not [path.name for path in seeds.iterdir() if path.name.startswith(".")]
    assert cli.main([*command, "--statistics", f"maps.{kind}"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert cli.main([*command, "--statistics", f"maps.{kind}", "--force"]) == 0


def test_a_run_goes_on_at_the_member(seeds):
    ensemble = lrpfast.Ensemble("seed_*.npz", "epsilon")
    options = {"statistics": "maps.npz", "mask": "mask.npy", "group_by": "labels.npy", "batch_size": 8}
    seen = []

    def stop(count):
        seen.append(count)
        if len(seen) == 8:  # in the second member
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensemble.stream("x.npy", progress=stop, **options)
    done = ensemble.stream("x.npy", progress=False, **options)
    assert done.resumed == ("seed_0",)
    whole = ensemble.stream("x.npy", progress=False, **{**options, "statistics": True})
    np.testing.assert_array_equal(done.mean, whole.mean)
    assert not [path.name for path in seeds.iterdir() if path.name.startswith(".")]


def test_a_member_of_other_settings_is_not_taken_for_finished(seeds):
    seen = []

    def stop(count):
        seen.append(count)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lrpfast.Ensemble("seed_*.npz", "epsilon").stream("x.npy", statistics="maps.npz", mask="mask.npy", progress=stop)
    other = lrpfast.Ensemble("seed_*.npz", "alpha_beta")
    with pytest.raises(lrpfast.InputError, match=r"maps_seed_0\.npz: is there already"):
        other.stream("x.npy", statistics="maps.npz", mask="mask.npy", progress=False)
    done = other.stream("x.npy", statistics="maps.npz", mask="mask.npy", progress=False, overwrite=True, resume=False)
    assert done.resumed == ()


def test_ensembles_that_are_none(seeds, capsys):
    for models, error in (
        ({}, "needs a model"),
        (3, "models must be a pattern"),
        ({"a/b": network(0)}, "cannot be part of a file's name"),
    ):
        with pytest.raises(lrpfast.InputError, match=error):
            lrpfast.Ensemble(models, "epsilon")
    ensemble = lrpfast.Ensemble([network(0), network(0)], "epsilon")
    assert ensemble.members == ("net_0_0", "net_0_1")
    with pytest.raises(lrpfast.InputError, match="an iterator is read once"):
        ensemble.stream(iter([X]), progress=False)
    with pytest.raises(lrpfast.InputError, match="a path, not a function"):
        ensemble.stream(X, lambda first, rows: None, progress=False)
    graph = lrpfast.Graph()
    two = graph.model(graph.add(lrpfast.layers.Add(), graph.input((6,), name="a"), graph.input((6,), name="b")))
    with pytest.raises(lrpfast.InputError, match="models of one input; these have 2"):
        lrpfast.Ensemble({"a": two}, "epsilon").stream([X, X], progress=False)
    other = lrpfast.from_layers([lrpfast.layers.Dense(np.ones((6, 3), np.float32))])
    with pytest.raises(lrpfast.ShapeError, match=r"the member 'b' has maps"):
        lrpfast.Ensemble({"a": network(0), "b": other}, "epsilon").stream(X, group_by="prediction", progress=False)
    for command, error in (
        (["x.npy"], "--models needs --statistics"),
        (["x.npy", "--statistics", "m.npz", "--balance"], "--balance is for one model"),
        (["x.npy", "--statistics", "m.npz", "--parallel"], "parallel goes with conditions"),
        (["x.npy", "--statistics", "m.npz", "--condition", "dens=1"], "did you mean 'dense'"),
        (["x.npy", "--statistics", "seed_1.npz"], "is both the statistics and the models"),
    ):
        assert cli.main(["explain", "--models", "seed_*.npz", *command]) == 2
        assert error in capsys.readouterr().err
    assert cli.main(["explain", "seed_0.npz"]) == 2
    assert "required: INPUTS" in capsys.readouterr().err


def test_a_warning_names_its_member():
    kernels = {"steady": [[1.0], [1.0]], "cancelling": [[1.0], [-1.0]]}
    models = {
        name: lrpfast.from_layers([lrpfast.layers.Dense(np.array(kernel, np.float32))])
        for name, kernel in kernels.items()
    }
    ensemble = lrpfast.Ensemble(models, lrpfast.rules.Epsilon(1e-9))
    with pytest.warns(lrpfast.AmplificationWarning, match="^cancelling: relevance grows") as warned:
        ensemble.stream(np.array([[1.0, 1.0 - 1e-5]], np.float32), progress=False)
    assert [warning.filename for warning in warned] == [__file__]
