"""Dimensions that xarray stacked of others: a MultiIndex in memory, its levels in files, and back."""

import numpy as np
import pytest

import lrpfast
import seeds
from lrpfast.batch.sources import open_source

xarray = pytest.importorskip("xarray", reason="xarray is not installed; lrpfast[test] brings it")
pytest.importorskip("netCDF4", reason="netCDF4 is not installed; lrpfast[test] brings it")
pytest.importorskip("zarr", reason="zarr is not installed; lrpfast[test] brings it")

RNG = seeds.generator(5)
W = RNG.normal(size=(12, 2))
COORDS = {
    "time": np.arange(7),
    "lat": ("lat", [30.0, 20.0, 10.0], {"units": "degrees_north"}),
    "lon": [0.0, 90.0, 180.0, 270.0],
}
MAPS = xarray.DataArray(RNG.normal(size=(7, 3, 4)), COORDS, ("time", "lat", "lon"), "sst")
FLAT = MAPS.stack(point=("lat", "lon"))


def analyzer(weights=W):
    return lrpfast.Analyzer(lrpfast.from_layers([lrpfast.layers.Dense(weights)]), "zero", target=0)


@pytest.mark.parametrize("lazy", [False, True])
def test_map_keeps_the_index(lazy):
    made = analyzer().map(FLAT.chunk(time=3) if lazy else FLAT)
    assert made.indexes["point"].equals(FLAT.indexes["point"])
    grid = made.unstack("point")
    assert (grid.dims, grid.lat.values.tolist()) == (("time", "lat", "lon"), [30, 20, 10])
    np.testing.assert_allclose(grid, MAPS * W[:, 0].reshape(3, 4), rtol=1e-5)
    assert made.lat.attrs == {"units": "degrees_north"}
    ocean = FLAT.isel(point=[1, 2, 5, 11])
    made = analyzer(W[[1, 2, 5, 11]]).map(ocean)
    assert made.indexes["point"].equals(ocean.indexes["point"])
    several = analyzer().map(FLAT, np.tile([0, 1], (7, 1)))
    assert several.dims == ("time", "target", "point")
    assert several.indexes["point"].equals(FLAT.indexes["point"])


@pytest.mark.filterwarnings("ignore::UserWarning")  # xarray's of Zarr's formats
@pytest.mark.parametrize("ending", ["nc", "zarr"])
@pytest.mark.parametrize("samples", [False, True])
def test_files_have_the_levels(samples, ending, tmp_path):
    """As coordinates that xarray makes the index of, and that are stacked again where the file is an input."""
    given, dim = (FLAT, "point") if not samples else (FLAT.stack(run=("time",)).T, "run")
    path, again = str(tmp_path / f"r.{ending}"), str(tmp_path / f"again.{ending}")
    analyzer().stream(given, path)
    analyzer().stream(f"{path}:relevance" if ending == "zarr" else path, again)
    for place, values in ((path, FLAT * W[:, 0]), (again, FLAT * W[:, 0] ** 2)):
        with open_source(f"{place}:relevance" if ending == "zarr" else place) as source:
            assert source.labels.stacked[dim] == tuple(given.indexes[dim].names)
            assert "multi_index" not in source.labels.coords["lat"].attrs
        opened = xarray.open_zarr(place) if ending == "zarr" else xarray.open_dataset(place)
        with opened:
            levels = list(given.indexes[dim].names)
            assert opened[levels[0]].attrs["multi_index"] == f"level 0 of {dim}"
            made = opened["relevance"].set_index(point=["lat", "lon"]).unstack("point")
            made = made.rename(run="time") if samples else made
            np.testing.assert_allclose(made.sel(lat=MAPS.lat), values.unstack("point"), rtol=1e-4)


@pytest.mark.parametrize("ending", ["nc", "h5", "npz", "zarr"])
def test_statistics_have_the_levels(ending, tmp_path):
    path = str(tmp_path / f"s.{ending}")
    done = analyzer().stream(FLAT, statistics=path)
    if ending == "nc":
        with xarray.open_dataset(path) as made:
            mean = made["mean"].set_index(point=["lat", "lon"]).unstack("point").sel(group="all", lat=MAPS.lat)
            np.testing.assert_array_equal(mean, done.statistics.mean.reshape(3, 4))
