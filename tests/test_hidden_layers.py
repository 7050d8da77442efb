"""Relevance and activations of hidden layers in whole-data runs, beside `explain(layers=True)`; parts of relevance."""

from pathlib import Path

import h5py
import numpy as np
import pytest

import lrpfast
from lrpfast import InputError
from lrpfast.batch.normalize import Preparation, normalize_rows
from lrpfast.cli import main
from lrpfast.layers import Activation, Add, Attention, Concat, Conv, Crop, Dense, Flatten, GlobalAveragePool, Input

DATA = Path(__file__).parent / "data"
SAMPLES = 37
pytestmark = pytest.mark.filterwarnings("ignore::lrpfast.errors.RelevanceWarning")


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def model(rng):
    """A network with a branch, whose ReLU is a layer of its own."""
    graph = lrpfast.Graph()
    x = graph.input((5, 4, 2), name="image")
    a = graph.add(Conv(rng.normal(size=(3, 3, 2, 3)), rng.normal(size=3), padding="same", name="a"), x)
    r = graph.add(Activation("relu", name="r"), a)
    b = graph.add(Conv(rng.normal(size=(3, 3, 3, 3)), padding="same", activation="relu", name="b"), r)
    c = graph.add(Add(name="c"), r, b)
    p = graph.add(GlobalAveragePool(name="p"), c)
    return graph.model(graph.add(Dense(rng.normal(size=(3, 4)), name="d"), p))


@pytest.fixture
def x(rng):
    return rng.normal(size=(SAMPLES, 5, 4, 2)).astype("float32")


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("rule", ["epsilon", "epsilon_plus_flat", "epsilon_alpha2_beta1", "gamma"])
def test_relevance_is_that_of_explain(model, x, rule, precision):
    """Bit for bit, alone or together, with the input's and without; activations are what `predict` computes."""
    core = lrpfast.Analyzer(model, rule, precision=precision)._core
    explanation = lrpfast.Analyzer(model, rule, precision=precision).explain(x, 2, layers=True)
    names = list(explanation.layers)
    for layers in [*([name] for name in names), names, ["c", "a"]]:
        for whole in (False, True):
            out = np.empty(x.shape, precision) if whole else None
            output = np.empty((SAMPLES, 4), precision)
            for part, relevance, activations in core.hidden(x, 2, layers, out=out, output=output):
                assert list(relevance) == list(activations) == layers
                for name in layers:
                    np.testing.assert_array_equal(relevance[name], explanation.layers[name][part])
                    expected = x if name == "image" else model.until(name).predict(x, precision=precision)
                    np.testing.assert_allclose(activations[name], expected[part], rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(output, explanation.output)
            if whole:
                np.testing.assert_array_equal(out, explanation.relevance)


def test_what_no_layer_needs_is_not_computed(model):
    """Below the layers asked for there is no backward pass."""
    programs = lrpfast.Analyzer(model, "epsilon")._core._programs
    values = dict(zip([node.name for node in model.nodes], programs._plan.values, strict=True))
    lengths = [len(programs.storing([values[name]], whole=False)[0].program.backward) for name in ("d", "p", "c", "a")]
    assert lengths == sorted(lengths) and lengths[0] < lengths[1] < lengths[3]


def expected_arrays(model, x, reduce, activations=False):
    layers = lrpfast.Analyzer(model, "epsilon").explain(x, 1, layers=True).layers
    values = {name: layers[name] for name in ("image", "c", "d")}
    if activations:
        values |= {
            f"{name}_activation": x if name == "image" else model.until(name).predict(x) for name in ("image", "c", "d")
        }

    def reduced(name, array):
        if name.startswith("image") or reduce is None:
            return array
        axes = tuple(range(1, array.ndim - (reduce == "channels")))
        return array.sum(axes, dtype=np.float64)

    return {name: reduced(name, array) for name, array in values.items()}


#: What a file holds of each sample beside the layers.
BESIDE = {"prediction", "explained_output", "target", "relevance_share"}


def arrays_of(path):
    with np.load(path) if path.suffix == ".npz" else h5py.File(path) as file:
        return {name: file[name][...] for name in file if "CLASS" not in getattr(file[name], "attrs", ())}


@pytest.mark.parametrize("reduce", [None, "channels", "sum"])
@pytest.mark.parametrize("out", ["r.h5", "r.nc", "r.npz"])
def test_files_and_statistics(tmp_path, model, x, out, reduce):
    if out.endswith("nc"):
        pytest.importorskip("netCDF4")
    analyzer = lrpfast.Analyzer(model, "epsilon", target=1)
    options = {"layers": ["c", "image", "d"], "reduce": reduce, "activations": True, "progress": False}
    path, statistics = tmp_path / out, tmp_path / "s.npz"
    done = analyzer.stream(x, path, **options, statistics=statistics, batch_size=5, group_by=np.arange(SAMPLES) % 2)
    expected = expected_arrays(model, x, reduce, True)
    stored = arrays_of(path)
    assert set(stored) == {*expected, *BESIDE}
    assert done.record["layers"] == "c, image, d" and sorted(done.shape) == sorted(a.shape for a in expected.values())
    with np.load(statistics) as maps:
        for name, array in expected.items():
            np.testing.assert_allclose(stored[name], array, rtol=1e-5, atol=1e-5)
            mean = np.stack([stored[name][i::2].mean(0, dtype=np.float64) for i in (0, 1)])
            np.testing.assert_allclose(maps[f"mean_{name}"], mean, rtol=1e-6, atol=1e-9)
    whole = tmp_path / f"whole_{out}"  # any batch size, and threads
    threaded = lrpfast.Analyzer(model, "epsilon", target=1, threads=2)
    threaded.stream(x, whole, **options)
    for name, array in arrays_of(whole).items():
        np.testing.assert_array_equal(array, stored[name])


@pytest.mark.parametrize("out", ["r.npy", "r.h5", "r.zarr"])
def test_a_single_layer_is_a_single_array(tmp_path, model, x, out):
    if out.endswith("zarr"):
        pytest.importorskip("zarr")
    analyzer = lrpfast.Analyzer(model, "epsilon", target=1)
    done = analyzer.stream(x, tmp_path / out, layers="c", reduce="channels", progress=False, statistics=True)
    assert done.shape == (SAMPLES, 3) and done.statistics.shape == (3,)
    name = str(tmp_path / out) + ("" if out.endswith("npy") else ":c")
    with lrpfast.batch.open_source(name) as source:
        np.testing.assert_allclose(
            source.read(0, SAMPLES), expected_arrays(model, x, "channels")["c"], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    ("out", "layers"),
    [
        *((out, ["c", "image"]) for out in ("r.h5", "r.nc", "r.zarr", "r.npz")),
        *((out, "c") for out in ("r.h5", "r.nc", "r.zarr")),  # an .npz file is for several arrays
    ],
)
def test_files_hold_what_is_explained(tmp_path, model, x, out, layers):
    """The prediction, the explained output, the target and the input's share, however layers are reduced."""
    if out.endswith(("nc", "zarr")):
        pytest.importorskip({"c": "netCDF4", "r": "zarr"}[out[-1]])
    one = layers == "c"
    target = np.arange(SAMPLES) % 4
    analyzer = lrpfast.Analyzer(model, "epsilon", y_ref=0.25)
    options = {"reduce": "sum", "normalize": "l1", "part": "abs", "batch_size": 5, "progress": False}
    analyzer.stream(x, tmp_path / out, target=target, layers=layers, **options)
    explanation = analyzer.explain(x, target)
    explained = explanation.output[np.arange(SAMPLES), target].astype(np.float64)
    expected = {
        "prediction": explanation.output,
        "explained_output": explained,
        "target": target,
        "relevance_share": explanation.relevance.sum((1, 2, 3), dtype=np.float64) / explained,
    }
    if out.endswith("zarr"):
        file = pytest.importorskip("xarray").open_zarr(tmp_path / out)
        stored = {name: array.values for name, array in file.variables.items()}
        assert set(file["c"].attrs["ancillary_variables"].split()) <= set(stored)
    else:
        stored = arrays_of(tmp_path / out)
    assert set(stored) - {"c", "image"} == {f"c_{name}" if one else name for name in BESIDE}
    for name, values in expected.items():
        array = stored[f"c_{name}" if one else name]
        if name in ("prediction", "target"):
            np.testing.assert_array_equal(array, values)
        np.testing.assert_allclose(array, values, rtol=1e-6)


@pytest.mark.parametrize("shape", [(15,), (5, 3)], ids=["vector", "grid"])
@pytest.mark.parametrize("layers", [["h", "output"], ["output", "h"], "output"], ids=str)
def test_a_layer_called_output(tmp_path, rng, layers, shape):
    """Neither an array nor a dimension has the name of another."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    last = [Dense(rng.normal(size=(5, 15)), name="z"), lrpfast.layers.Reshape(shape, name="output")]
    model = lrpfast.from_layers([Dense(rng.normal(size=(4, 5)), activation="relu", name="h"), *last])
    x = rng.normal(size=(6, 4)).astype("float32")
    analyzer = lrpfast.Analyzer(model, "epsilon", target=1)
    analyzer.stream(x, tmp_path / "r.nc", layers=layers, progress=False)
    prefix = "output_" if layers == "output" else ""
    with xarray.open_dataset(tmp_path / "r.nc") as file:
        np.testing.assert_array_equal(file[f"{prefix}prediction"], model.predict(x))
        np.testing.assert_array_equal(file["output"], analyzer.explain(x, layers=True).layers["output"])
        assert set(file.sizes.values()) <= {6, 5, *shape}


def test_a_file_of_one_layer_in_a_group_needs_no_name(tmp_path, rng):
    model = lrpfast.from_layers([Dense(rng.normal(size=(4, 5)), name="block/h"), Dense(rng.normal(size=(5, 2)))])
    x = rng.normal(size=(6, 4)).astype("float32")
    lrpfast.Analyzer(model, "epsilon", target=1).stream(x, tmp_path / "r.h5", layers=["block/h"], progress=False)
    with lrpfast.batch.open_source(tmp_path / "r.h5") as source:
        assert source.shape == (6, 5)


class Stop(Exception):
    pass


@pytest.mark.parametrize("out", ["r.h5", "r.npz"])
def test_a_run_that_was_stopped_goes_on(tmp_path, model, x, out):
    np.save(tmp_path / "x.npy", x)
    analyzer = lrpfast.Analyzer(model, "epsilon", target=1)
    options = {"layers": ["c", "d"], "reduce": "channels", "batch_size": 4, "normalize": "l1"}
    analyzer.stream(
        tmp_path / "x.npy", tmp_path / f"whole_{out}", progress=False, statistics=tmp_path / "s.npz", **options
    )

    def stop(count):
        raise Stop

    with pytest.raises(Stop):
        analyzer.stream(tmp_path / "x.npy", tmp_path / out, progress=stop, statistics=tmp_path / "t.npz", **options)
    with pytest.raises(InputError, match="other settings"):
        analyzer.stream(
            tmp_path / "x.npy",
            tmp_path / out,
            progress=False,
            statistics=tmp_path / "t.npz",
            **{**options, "reduce": "sum"},
        )
    done = analyzer.stream(tmp_path / "x.npy", tmp_path / out, progress=False, statistics=tmp_path / "t.npz", **options)
    assert 0 < done.resumed < SAMPLES
    whole = arrays_of(tmp_path / f"whole_{out}")
    for name, array in arrays_of(tmp_path / out).items():
        np.testing.assert_array_equal(array, whole[name])
    with np.load(tmp_path / "s.npz") as s, np.load(tmp_path / "t.npz") as t:
        for name in s.files:
            np.testing.assert_array_equal(s[name], t[name])


def test_several_inputs_and_a_function(rng):
    nodes = [
        (Input((3, 2), name="a"), ()),
        (Input((4,), name="b"), ()),
        (Flatten(name="f"), (0,)),
        (Concat(0, name="j"), (2, 1)),
        (Dense(rng.normal(size=(10, 6)), np.ones(6), activation="relu", name="h"), (3,)),
        (Dense(rng.normal(size=(6, 3)), name="o"), (4,)),
    ]
    analyzer = lrpfast.Analyzer(lrpfast.Model(nodes), "epsilon", target=0)
    x = {"a": rng.normal(size=(9, 3, 2)), "b": rng.normal(size=(9, 4))}
    rows = []
    analyzer.stream(x, lambda first, part: rows.append(part), layers=["b", "f", "h"], progress=False, batch_size=2)
    layers = analyzer.explain(list(x.values()), layers=True).layers
    for name in ("b", "f", "h"):
        np.testing.assert_array_equal(np.concatenate([part[name] for part in rows]), layers[name])


def test_a_mask_and_coordinates(tmp_path, rng):
    """The relevance of the input lies on the grid, hidden layers have the samples' coordinates."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    mask = np.array([[True, False, True], [False, True, True]])
    model = lrpfast.from_layers(
        [Dense(rng.normal(size=(4, 5)), activation="relu", name="h"), Dense(rng.normal(size=(5, 2)), name="o")]
    )
    data = xarray.DataArray(
        rng.normal(size=(6, 2, 3)),
        {"time": np.arange(6), "lat": [10.0, 20.0], "lon": [1.0, 2.0, 3.0]},
        ("time", "lat", "lon"),
    )
    analyzer = lrpfast.Analyzer(model, "epsilon", target=1)
    name = model.nodes[0].name
    analyzer.stream(
        data, tmp_path / "r.nc", layers=[name, "h"], mask=mask, progress=False, statistics=tmp_path / "s.nc"
    )
    layers = analyzer.explain(data.values[:, mask], layers=True).layers
    with xarray.open_dataset(tmp_path / "r.nc") as file, xarray.open_dataset(tmp_path / "s.nc") as maps:
        assert file[name].dims == ("time", "lat", "lon") and file["h"].dims == ("time", "h_channel")
        assert maps[f"mean_{name}"].dims == ("group", "lat", "lon")
        np.testing.assert_array_equal(file["time"], np.arange(6))
        np.testing.assert_array_equal(file["h"], layers["h"])
        np.testing.assert_array_equal(file[name].values[:, mask], layers[name])
        assert np.isnan(file[name].values[:, ~mask]).all()


def test_errors(tmp_path, model, x):
    analyzer = lrpfast.Analyzer(model, "epsilon", target=1)
    for options, text in [
        ({"layers": ["cc"]}, "unknown layer 'cc', did you mean 'c'"),
        ({"layers": []}, "list of different ones"),
        ({"layers": ["c", "c"]}, "list of different ones"),
        ({"layers": ["c"], "reduce": "mean"}, "reduce must be"),
        ({"reduce": "sum"}, "go with layers="),
        ({"layers": ["c"], "target": np.tile([0, 1], (SAMPLES, 1))}, "one target per sample"),
        ({"part": "plus"}, "part must be"),
        ({"normalize": ("sum", "l2")}, "several in a row"),
        ({"normalize": ()}, "several in a row"),
    ]:
        with pytest.raises(InputError, match=text):
            analyzer.stream(x, tmp_path / "r.h5", progress=False, **options)
    with pytest.raises(InputError, match="the arrays have the layers' names"):
        analyzer.stream(x, f"{tmp_path}/r.h5:c", layers=["c", "d"], progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["positive", "negative", "abs"])
def test_parts_and_two_normalizations(model, x, part, tmp_path):
    analyzer = lrpfast.Analyzer(model, "epsilon", target=1, precision="float64")
    relevance = analyzer.analyze(x)
    function = {"positive": lambda r: np.maximum(r, 0), "negative": lambda r: np.minimum(r, 0), "abs": np.abs}[part]
    expected = function(relevance)
    expected = expected / expected.sum((1, 2, 3), keepdims=True)
    expected = expected / expected.max((1, 2, 3), keepdims=True)
    done = analyzer.stream(
        x, tmp_path / "r.npy", part=part, normalize=("sum", "max"), statistics=True, progress=False, batch_size=9
    )
    np.testing.assert_allclose(np.load(tmp_path / "r.npy"), expected, rtol=1e-12)
    np.testing.assert_allclose(done.statistics.mean[0], expected.mean(0), rtol=1e-12)
    assert done.record["part"] == part and done.record["normalize"] == "sum, max" and done.not_normalized == 0


def test_rows_that_no_normalization_changes_count_once():
    rows = np.array([[0.0, 0.0], [1.0, -1.0], [1.0, 3.0], [-1.0, -2.0]])
    assert normalize_rows(rows, ("sum", "max")) == 2  # zeros; and 1 - 1, whose largest is 1
    np.testing.assert_allclose(rows, [[0, 0], [1, -1], [1 / 3, 1], [0.5, 1]])
    masked = np.array([[-1.0, np.nan, 2.0]])
    Preparation("positive").select(masked)
    np.testing.assert_array_equal(masked, [[0.0, np.nan, 2.0]])


def test_the_command(tmp_path, capsys):
    model, samples = DATA / "digits_cnn.h5", np.load(DATA / "digits_cnn.npz")["x"][:20]
    np.save(tmp_path / "x.npy", samples)
    arguments = ["explain", str(model), str(tmp_path / "x.npy"), "--target", "3"]
    layers = lrpfast.Analyzer(lrpfast.load(model), "epsilon", target=3).explain(samples, layers=True).layers
    main([*arguments, "-o", str(tmp_path / "r.h5"), "--layers", "conv2d,conv2d_1", "--reduce", "channels"])
    with h5py.File(tmp_path / "r.h5") as file:
        for name in ("conv2d", "conv2d_1"):
            np.testing.assert_allclose(file[name], layers[name].sum((1, 2)), rtol=1e-4, atol=1e-5)
    main([*arguments, "-o", str(tmp_path / "r.npy"), "--layers", "conv2d", "--part", "abs", "--normalize", "sum,max"])
    assert np.load(tmp_path / "r.npy").max((1, 2, 3)).tolist() == [1.0] * 20
    assert "wrote" in capsys.readouterr().out
    assert main([*arguments, "-o", str(tmp_path / "s.npy"), "--layers", "conv"]) != 0
    assert "did you mean" in capsys.readouterr().err
    assert main([*arguments, "-o", str(tmp_path / "s.npy"), "--normalize", "sum,l2"]) != 0
    assert "several in a row" in capsys.readouterr().err


def test_rows_that_no_relevance_reaches(rng):
    """A class token's rows alone are computed in an explanation; activations have all rows, relevance zeros there."""
    graph = lrpfast.Graph()
    x = graph.input((6, 5), name="x")
    a = graph.add(Dense(rng.normal(size=(5, 5)), activation="relu", name="a"), x)
    m = graph.add(Attention(1, name="m"), a, a, a)
    s = graph.add(Add(name="s"), m, a)
    h = graph.add(Dense(rng.normal(size=(5, 4)), rng.normal(size=4), activation="relu", name="h"), s)
    first = graph.add(Crop(((0, 5),), name="first"), h)
    model = graph.model(graph.add(Dense(rng.normal(size=(4, 3)), name="o"), graph.add(Flatten(name="f"), first)))
    analyzer = lrpfast.Analyzer(model, "epsilon", precision="float64")
    assert any(rows is not None for _, rows in analyzer._core.plan.nodes)
    x = rng.normal(size=(7, 6, 5))
    layers = analyzer.explain(x, 1, layers=True).layers
    names = list(layers)
    for whole in (False, True):
        out = np.empty(x.shape) if whole else None
        for _, relevance, activations in analyzer._core.hidden(x, 1, names, out=out):
            for name in names:
                np.testing.assert_array_equal(relevance[name], layers[name])
                expected = x if name == "x" else model.until(name).predict(x, precision="float64")
                np.testing.assert_allclose(activations[name], expected, rtol=1e-12, atol=1e-12)
    found = analyzer.references(x, "h", 3, by="activation", of="max", progress=False)
    values = model.until("h").predict(x, precision="float64")
    np.testing.assert_allclose(found.values, np.sort(values.max(1), 0)[::-1][:3].T, rtol=1e-12)
    found = analyzer.references(x, "h", 3, target=1, progress=False)
    np.testing.assert_array_equal(found.values, np.sort(layers["h"].sum(1), 0)[::-1][:3].T)
    targets = np.tile([0, 1], (7, 1))
    both = analyzer._core.relevance_of(x, targets, "h")
    np.testing.assert_array_equal(both[:, 1], layers["h"])
    whole = analyzer.analyze(x, 1)
    parts = analyzer.analyze(x, 1, conditions=[{"h": i} for i in range(4)])
    np.testing.assert_allclose(parts.sum(1), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("out", ["r.npy", "r.zarr"])
def test_a_file_or_an_array_for_each_layer(tmp_path, model, x, out):
    if out.endswith("zarr"):
        pytest.importorskip("zarr")
    analyzer = lrpfast.Analyzer(model, "epsilon", target=1)
    done = analyzer.stream(x, tmp_path / out, layers=["c", "d"], reduce="channels", progress=False, statistics=True)
    for name, array in expected_arrays(model, x, "channels").items():
        if name != "image":
            source = tmp_path / f"r_{name}.npy" if out.endswith("npy") else f"{tmp_path / out}:{name}"
            with lrpfast.batch.open_source(source) as stored:
                np.testing.assert_allclose(stored.read(0, SAMPLES), array, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(done.statistics[name].mean[0], array.mean(0), rtol=1e-4, atol=1e-5)


def test_gradients_of_hidden_layers(model, x):
    """Gradients are those of `explain`; averages of them exist at the input alone."""
    analyzer = lrpfast.Analyzer(model, "gradient", target=1, precision="float64")
    rows = []
    analyzer.stream(x, lambda first, part: rows.append(part), layers="c", progress=False)
    np.testing.assert_array_equal(np.concatenate(rows), analyzer.explain(x, layers=True).layers["c"])
    average = lrpfast.Analyzer(model, "smoothgrad", target=1)
    for call in (
        lambda: average.stream(x, statistics=True, layers="c", progress=False),
        lambda: average.references(x, "c", 2, progress=False),
        lambda: average.analyze(x, conditions={"c": 1}),
        lambda: average.attribution_graph(x[:1], "d", 0),
    ):
        with pytest.raises(InputError, match="averages gradients at the input"):
            call()
