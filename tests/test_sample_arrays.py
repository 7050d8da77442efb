"""What outputs hold beside the relevance, and how they are compressed: the same in every format, after every stop."""

import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

import lrpfast
import seeds
from lrpfast import InputError
from lrpfast.batch.compression import COMPRESSIONS
from tolerances import UNITS

RNG = seeds.generator(31)
SAMPLES = 60
X = RNG.normal(size=(SAMPLES, 6)).astype(np.float32)
DENSE = lrpfast.layers.Dense(RNG.normal(size=(6, 4)), RNG.normal(size=4))
MODEL = lrpfast.from_layers([DENSE, lrpfast.layers.Activation("softmax")])
ANALYZER = lrpfast.Analyzer(MODEL, "epsilon")
LOGITS = X.astype(np.float64) @ DENSE.kernel + DENSE.bias
LABELS = np.arange(SAMPLES) % 4
OUTPUTS = ["r.nc", "r.h5", "r.zarr"]
NAMES = ["relevance", "prediction", "explained_output", "target", "relevance_share"]


def stored(path):
    """The arrays of an output by name."""
    path = str(path)
    if path.endswith(".zarr"):
        xarray = pytest.importorskip("xarray")
        pytest.importorskip("zarr")
        return {name: array.values for name, array in xarray.open_zarr(path).variables.items()}
    with h5py.File(path) as file:
        return {name: array[()] for name, array in file.items() if not array.attrs.get("CLASS")}


def needs(name):
    for kind, package in ((".nc", "netCDF4"), (".zarr", "zarr")):
        if kind in name:
            pytest.importorskip(package, reason=f"{kind} files need {package}")


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("normalize", [None, "maxabs"])
def test_every_sample_has_its_prediction_target_and_share(output, normalize, tmp_path):
    needs(output)
    ANALYZER.stream(X, tmp_path / output, batch_size=7, normalize=normalize, progress=False)
    result = stored(tmp_path / output)
    explanation = ANALYZER.explain(X)
    np.testing.assert_array_equal(result["prediction"], explanation.output)
    np.testing.assert_array_equal(result["target"], LOGITS.argmax(1))
    # a sum of seven terms in float32, which may cancel
    sizes = np.abs(X) @ np.abs(DENSE.kernel) + np.abs(DENSE.bias)
    bound = 7 * UNITS["float32"][0] * sizes[np.arange(SAMPLES), LOGITS.argmax(1)]
    assert (np.abs(result["explained_output"] - LOGITS.max(1)) <= bound).all()
    share = explanation.relevance.sum(1, dtype=np.float64) / explanation.output.max(1)
    np.testing.assert_allclose(result["relevance_share"], share, rtol=1e-6)


@pytest.mark.parametrize(
    ("target", "explained", "index"),
    [
        (2, LOGITS[:, 2], np.full(SAMPLES, 2)),
        ((0, 3), LOGITS[:, 0] - LOGITS[:, 3], np.tile([0, 3], (SAMPLES, 1))),
        ("all", LOGITS.sum(1), None),
        (LABELS, LOGITS[np.arange(SAMPLES), LABELS], LABELS),
        (np.stack([LABELS, 3 - LABELS], 1), np.stack([LOGITS[range(SAMPLES), t] for t in (LABELS, 3 - LABELS)], 1), 2),
        (np.ones((SAMPLES, 4)) / 2, np.full(SAMPLES, 2.0), None),
        (lambda output: np.eye(4)[output.argmin(1)] * output, LOGITS.min(1), None),
    ],
    ids=["index", "pair", "all", "labels", "several", "relevance", "callable"],
)
def test_targets(target, explained, index, tmp_path):
    ANALYZER.stream(X, tmp_path / "r.h5", target=target, batch_size=11, progress=False)
    result = stored(tmp_path / "r.h5")
    np.testing.assert_allclose(result["explained_output"], explained, rtol=2e-5, atol=1e-5)
    if index is None:
        assert not {"target", "target_index"} & set(result)
    elif isinstance(index, int):
        np.testing.assert_array_equal(result["target_index"], target)
    else:
        np.testing.assert_array_equal(result["target"], index)


def test_a_share_of_what_is_not_there_is_no_number(tmp_path):
    """An explained output of 0 has no share; masked features do not count."""
    model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0], [2.0]]))])
    x = np.array([[1.0, 1.0], [0.0, 0.0], [np.nan, 3.0]])
    lrpfast.Analyzer(model, "zero", mask_nan=True).stream(x, tmp_path / "r.h5", progress=False)
    result = stored(tmp_path / "r.h5")
    np.testing.assert_allclose(result["relevance_share"], [1.0, np.nan, 1.0])
    np.testing.assert_allclose(result["explained_output"], [3.0, 0.0, 6.0])


def test_bounds_are_values(tmp_path):
    pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    import xarray

    mask = np.array([[True, True, False], [True, True, True], [False, False, True]])
    high = np.arange(6.0) + 3
    composite = lrpfast.composites.Uniform(lrpfast.rules.Epsilon(), lrpfast.rules.ZBox(-4, high))
    grid = np.zeros((SAMPLES, 3, 3), np.float32)
    grid[:, mask] = X
    data = xarray.DataArray(grid, dims=("time", "lat", "lon"), coords={"lat": [1.0, 2, 3]}, name="sst")
    lrpfast.Analyzer(MODEL, composite).stream(data, tmp_path / "r.nc", mask=mask, progress=False)
    with xarray.open_dataset(tmp_path / "r.nc") as result:
        assert result["low"].shape == () and float(result["low"]) == -4
        assert result["high"].dims == ("lat", "lon")
        np.testing.assert_array_equal(result["high"].values[mask], high)
        assert np.isnan(result["high"].values[~mask]).all()
        assert result["relevance"].dims == ("time", "lat", "lon") and result["prediction"].dims == ("time", "output")
        assert result["relevance"].attrs["ancillary_variables"].split() == [*NAMES[1:], "low", "high"]
        assert result.attrs["Conventions"].startswith("CF-") and "history" not in result["relevance"].attrs
        assert result.attrs["history"].startswith(f"lrpfast {lrpfast.__version__}:")
        for name in (*NAMES, "low"):
            assert result[name].attrs["long_name"]


def test_names_that_the_input_has_get_a_prefix(tmp_path):
    pytest.importorskip("xarray")
    import xarray

    data = xarray.DataArray(X, dims=("target", "x"), coords={"prediction": ("target", LABELS)})
    ANALYZER.stream(data, tmp_path / "r.h5:group/gamma", progress=False)
    with h5py.File(tmp_path / "r.h5") as file:
        assert {"gamma", "gamma_prediction", "gamma_target", "gamma_relevance_share"} <= set(file["group"])
    ANALYZER.stream(data, tmp_path / "s.h5", progress=False)
    assert {"lrp_target", "lrp_prediction"} <= set(stored(tmp_path / "s.h5"))
    with lrpfast.batch.open_source(tmp_path / "s.h5") as source:  # the relevance, without its name
        np.testing.assert_array_equal(source.read(0, SAMPLES), ANALYZER.analyze(X))


@pytest.mark.parametrize("output", ["r.nc", "r.h5", "r.npz", "r.zarr"])
def test_several_inputs(output, tmp_path):
    needs(output)
    kernel = RNG.normal(size=(4, 2))
    graph = lrpfast.Graph()
    both = graph.add(lrpfast.layers.Concat(0), graph.input((3,), "a"), graph.input((1,), "b"))
    model = graph.model(graph.add(lrpfast.layers.Dense(kernel), both))
    x = {"a": X[:, :3], "b": X[:, 3:4]}
    lrpfast.Analyzer(model, "epsilon").stream(x, tmp_path / output, batch_size=7, progress=False)
    result = dict(np.load(tmp_path / output)) if output.endswith("npz") else stored(tmp_path / output)
    y = X[:, :4] @ kernel
    np.testing.assert_allclose(result["explained_output"], y.max(1), rtol=1e-5)
    np.testing.assert_allclose(result["a"].sum(1) + result["b"].sum(1), y.max(1), rtol=1e-3)
    np.testing.assert_array_equal(result["target"], y.argmax(1))


# Compression, and runs that were stopped


class Stop(Exception):
    pass


def stop_after(samples):
    seen = []

    def progress(count):
        seen.append(count)
        if sum(seen) >= samples:
            raise Stop

    return progress


@pytest.mark.parametrize("compression", ["zlib", "blosc"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_compressed_outputs_hold_the_same(output, compression, tmp_path):
    needs(output)
    if compression == "blosc" and "zarr" not in output:
        pytest.importorskip("hdf5plugin")
    x = np.tile(X, (40, 1))
    ANALYZER.stream(x, tmp_path / "plain.h5", batch_size=1000, progress=False)
    ANALYZER.stream(x, tmp_path / output, batch_size=1000, compression=compression, progress=False)
    plain, packed = stored(tmp_path / "plain.h5"), stored(tmp_path / output)
    for name in NAMES:
        np.testing.assert_array_equal(packed[name], plain[name])
    if output == "r.h5":
        with h5py.File(tmp_path / output) as file:
            plan = file["relevance"].id.get_create_plist()
            filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
            assert filters == ([h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE] if compression == "zlib" else [32001])
            assert file["relevance"].id.get_storage_size() < x.nbytes / 2
    assert not [name for name in os.listdir(tmp_path) if "lrpfast" in name]


@pytest.mark.parametrize("compression", ["none", "zlib", "blosc"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_stopped_run_goes_on(output, compression, tmp_path):
    needs(output)
    if compression == "blosc" and "zarr" not in output:
        pytest.importorskip("hdf5plugin")
    options = {"batch_size": 7, "compression": compression}
    ANALYZER.stream(X, tmp_path / f"whole_{output}", progress=False, **options)
    with pytest.raises(Stop):
        ANALYZER.stream(X, tmp_path / output, progress=stop_after(20), **options)
    assert ANALYZER.stream(X, tmp_path / output, progress=False, **options).resumed > 0
    whole, result = stored(tmp_path / f"whole_{output}"), stored(tmp_path / output)
    for name in NAMES:
        np.testing.assert_array_equal(result[name], whole[name])


@pytest.mark.parametrize("step", ["os.replace", "replace_file", "os.unlink"])
@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("output, compression", [("r.nc", "zlib"), ("r.h5", "zlib"), ("r.nc", "blosc")])
def test_a_kill_while_the_compressed_file_gets_its_name(output, compression, earlier, step, tmp_path, monkeypatch):
    """At each step of the end the same run goes on, and the result is the same."""
    needs(output)
    if compression == "blosc":
        pytest.importorskip("hdf5plugin")
    from lrpfast.batch.sinks import base

    path = tmp_path / output
    options = {"batch_size": 7, "compression": compression, "overwrite": earlier, "progress": False}
    if earlier:
        ANALYZER.stream(X[::-1].copy(), path, **options)
    files = [tmp_path / f".{output}.lrpfast-{suffix}" for suffix in ("packed", "raw")]
    state = {"on": True}

    def interrupted(function):
        def call(*arguments):
            at_end = any(file.exists() for file in files) and str(arguments[0]).endswith(("part", "packed", "raw"))
            if state["on"] and at_end:
                raise KeyboardInterrupt
            return function(*arguments)

        return call

    target, name = (base, step) if "." not in step else (base.os, step.split(".")[1])
    monkeypatch.setattr(target, name, interrupted(getattr(target, name)))
    with pytest.raises(KeyboardInterrupt):
        ANALYZER.stream(X, path, **options)
    state["on"] = False
    done = ANALYZER.stream(X, path, **options)
    assert done.resumed == SAMPLES
    np.testing.assert_array_equal(stored(path)["relevance"], ANALYZER.analyze(X))
    assert not [name for name in os.listdir(tmp_path) if "lrpfast" in name]


def test_blosc_beside_the_filters_of_netcdf4(tmp_path):
    """Its plug-ins are linked to another HDF5 library than h5py's, and crash h5py, which finds them by a variable."""
    pytest.importorskip("hdf5plugin")
    pytest.importorskip("netCDF4")
    code = (
        "import netCDF4, sys, numpy as np, lrpfast\n"
        "model = lrpfast.from_layers([lrpfast.layers.Dense(np.ones((6, 1)))])\n"
        "for name in ('r.h5', 'r.nc'):\n"
        "    lrpfast.Analyzer(model, 'zero').stream(np.ones((40, 6)), name, compression='blosc', progress=False)\n"
        "    with lrpfast.batch.open_source(f'{name}:relevance') as source:\n"
        "        assert (source.read(0, 40) == 1).all()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    code = "import netCDF4, lrpfast\nassert (lrpfast.batch.open_source('r.h5:relevance').read(0, 40) == 1).all()"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize("output", ["r.nc", "r.h5"])
def test_blosc_needs_hdf5plugin(output, tmp_path, monkeypatch):
    """Before any work, for relevances and for statistics; so does reading."""
    needs(output)
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    for options in ({"sink": tmp_path / output}, {"statistics": tmp_path / output}):
        with pytest.raises(lrpfast.MissingPackageError, match="compression='blosc' .* needs hdf5plugin: pip install"):
            ANALYZER.stream(X, compression="blosc", progress=False, **options)
    assert not os.listdir(tmp_path)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", X.shape, chunks=X.shape, compression="gzip")
    monkeypatch.setattr("h5py.h5z.filter_avail", lambda number: False)
    with pytest.raises(lrpfast.MissingPackageError, match=r"x\.h5:x: the filter 1 \(deflate\) needs hdf5plugin"):
        ANALYZER.stream(tmp_path / "x.h5", statistics=True, progress=False)


def test_files_of_statistics_are_compressed_unless_told_otherwise(tmp_path):
    sizes = {}
    for compression in set(COMPRESSIONS) - {"blosc"}:
        path = tmp_path / f"{compression}.h5"
        done = ANALYZER.stream(np.zeros((4, 6)), statistics=path, compression=compression, progress=False)
        assert done.zero_maps == 4
        with h5py.File(path) as file:
            sizes[compression] = file["mean"].compression
    assert sizes == {"auto": "gzip", "zlib": "gzip", "none": None}
    with pytest.raises(InputError, match="compression must be one of"):
        ANALYZER.stream(X, statistics=True, compression="gzip")
    with pytest.raises(InputError, match="is not compressed"):
        ANALYZER.stream(X, tmp_path / "r.npy", compression="zlib")


def test_a_damaged_compressed_chunk_is_explained_again(tmp_path):
    pytest.importorskip("zarr")
    options = {"batch_size": 7, "compression": "zlib"}
    with pytest.raises(Stop):
        ANALYZER.stream(X, tmp_path / "r.zarr", progress=stop_after(20), **options)
    chunk = tmp_path / ".r.zarr.lrpfast-part" / "relevance" / "0.0"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with pytest.warns(UserWarning, match="explained again"):
        ANALYZER.stream(X, tmp_path / "r.zarr", progress=False, **options)
    np.testing.assert_array_equal(stored(tmp_path / "r.zarr")["relevance"], ANALYZER.analyze(X))
    shutil.rmtree(tmp_path / "r.zarr")


# A second rule beside the first


@pytest.mark.parametrize("compression", ["none", "zlib"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_second_variable_is_added_to_the_file(output, compression, tmp_path):
    """What was there stays, byte for byte; a run that is stopped meanwhile leaves the first file as it was."""
    needs(output)
    xarray = pytest.importorskip("xarray")
    data = xarray.DataArray(X, {"time": np.arange(SAMPLES), "word": ("x", list("abcdef"))}, ("time", "x"))
    options = {"batch_size": 7, "compression": compression}
    path = tmp_path / output
    ANALYZER.stream(data, path, progress=False, **options)
    before = stored(path)
    other = lrpfast.Analyzer(MODEL, "z_plus", target=1)
    with pytest.raises(Stop):
        other.stream(data, f"{path}:plus", progress=stop_after(20), **options)
    assert set(stored(path)) == set(before)
    assert other.stream(data, f"{path}:plus", progress=False, **options).resumed > 0
    result = stored(path)
    for name, values in before.items():
        np.testing.assert_array_equal(result[name], values)
    np.testing.assert_array_equal(result["plus"], other.analyze(X))
    assert (result["plus_target"] == 1).all() and "plus_prediction" in result
    opened = xarray.open_zarr(path) if output.endswith("zarr") else None
    if output.endswith("nc"):
        opened = xarray.open_dataset(path)
    if opened is not None:
        with opened:
            assert opened["plus"].dims == ("time", "x") and list(opened["plus"]["word"].values) == list("abcdef")
            assert opened.attrs["history"].count("lrpfast") == 2
    with pytest.raises(InputError, match="overwrite=True|holds more than"):
        other.stream(data, f"{path}:plus", progress=False, **options)
    with pytest.raises(InputError, match="another coordinate 'time'"):
        other.stream(data.assign_coords(time=np.arange(SAMPLES) + 1), f"{path}:third", progress=False, **options)
    assert not [name for name in os.listdir(tmp_path) if "lrpfast" in name]


@pytest.mark.parametrize("output", ["r.nc", "r.h5", "r.zarr"])
def test_a_second_variable_on_the_grid_of_a_mask(output, tmp_path):
    needs(output)
    mask = np.array([[True, False, True, True], [True, True, False, True]])
    x = np.full((SAMPLES, 2, 4), np.nan, np.float32)
    x[:, mask] = X
    ANALYZER.stream(x, tmp_path / output, mask=mask, progress=False)
    before = stored(tmp_path / output)
    other = lrpfast.Analyzer(MODEL, "z_plus")
    other.stream(x, f"{tmp_path / output}:plus", mask=mask, overwrite=True, progress=False)
    result = stored(tmp_path / output)
    for name, values in before.items():
        np.testing.assert_array_equal(result[name], values)
    np.testing.assert_array_equal(result["plus"][:, mask], other.analyze(X))


def test_an_error_names_what_replacing_removes(tmp_path):
    ANALYZER.stream(X, tmp_path / "r.h5", progress=False)
    with pytest.raises(InputError, match="replace it, which removes explained_output, prediction, relevance, rel"):
        ANALYZER.stream(X, tmp_path / "r.h5", progress=False)
    with pytest.raises(InputError, match="holds more than 'relevance' .* lost: other"):
        with h5py.File(tmp_path / "r.h5", "a") as file:
            file["other"] = np.zeros(3)
        ANALYZER.stream(X, tmp_path / "r.h5", overwrite=True, progress=False)
