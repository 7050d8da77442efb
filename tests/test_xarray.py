"""xarray in, xarray out: labelled arrays with the coordinates of the input, and with axes as the caller has them."""

import importlib.util

import numpy as np
import pytest

import lrpfast
from lrpfast.errors import InputError, ShapeError

xarray = pytest.importorskip("xarray", reason="these are about xarray")
pytest.importorskip("cftime", reason="times of a calendar without leap days need cftime")

HAS_DASK = importlib.util.find_spec("dask") is not None
RNG = np.random.default_rng(11)
LAT, LON = np.arange(50.0, -51, -20), np.arange(-175.0, 180, 30)
LAND = RNG.random((len(LAT), len(LON))) < 0.3
DAYS = 24


def network(shape, seed=1):
    rng = np.random.default_rng(seed)
    flat = [lrpfast.layers.Flatten()] if len(shape) > 1 else []
    size = int(np.prod(shape))
    return lrpfast.from_layers(
        [
            *flat,
            lrpfast.layers.Dense(rng.normal(size=(size, 5)) / 4, activation="relu"),
            lrpfast.layers.Dense(rng.normal(size=(5, 2)), activation="softmax"),
        ],
        input_shape=shape,
    )


POINTS = int((~LAND).sum())
ANALYZER = lrpfast.Analyzer(network((POINTS,)), "epsilon")


@pytest.fixture
def sst():
    """Daily maps with an axis of depth, from 180° west and from north to south."""
    values = RNG.normal(size=(DAYS, 1, *LAND.shape)).astype(np.float32)
    values[..., LAND] = np.nan
    time = xarray.date_range("1983-02-20", periods=DAYS, calendar="noleap", use_cftime=True)
    coords = {
        "time": time,
        "zlev": [0.0],
        "lat": ("lat", LAT, {"units": "degrees_north"}),
        "lon": ("lon", LON, {"units": "degrees_east"}),
        "phase": ("time", np.where(np.arange(DAYS) % 3, "neutral", "warm")),
    }
    return xarray.DataArray(values, coords, ("time", "zlev", "lat", "lon"), "sst", {"units": "degC", "source": "made"})


@pytest.fixture
def ocean():
    """A mask of the other convention of longitudes, from south to north."""
    east = LON % 360
    mask = xarray.DataArray(~LAND, {"lat": LAT, "lon": east}, ("lat", "lon"))
    return mask.sortby("lat").sortby("lon")


def expected(sst, analyzer=ANALYZER):
    relevance = np.full((DAYS, *LAND.shape), np.nan, np.float32)
    relevance[:, ~LAND] = analyzer.analyze(sst.values[:, 0][:, ~LAND])
    return relevance


def mapped(analyzer, x, **options):
    """`map` of an array in memory and, where Dask is installed, of the same in chunks: the same, labelled alike."""
    result = analyzer.map(x, **options)
    if HAS_DASK:
        lazy = analyzer.map(x.chunk({x.dims[0]: 7}), **options)
        assert lazy.chunks is not None
        xarray.testing.assert_identical(lazy.compute(), result)
    return result


@pytest.mark.filterwarnings("ignore:.*lies otherwise:UserWarning")
def test_relevance_has_the_axes_and_coordinates_of_the_input(sst, ocean):
    """Axes of length 1 stay, which the model does not have; so arithmetic with the input needs no thought."""
    relevance = mapped(ANALYZER, sst, mask=ocean)
    assert relevance.dims == sst.dims and relevance.name == "relevance" and set(relevance.coords) == set(sst.coords)
    for name in sst.coords:
        np.testing.assert_array_equal(relevance[name].values, sst[name].values)
        assert (relevance[name].dims, relevance[name].attrs) == (sst[name].dims, sst[name].attrs)
    np.testing.assert_array_equal(relevance.values[:, 0], expected(sst))
    assert (relevance.attrs["units"], relevance.attrs["source"]) == ("1", "made")
    assert "epsilon" in relevance.attrs["rules"]
    contribution = relevance / sst  # aligned by coordinates
    assert contribution.shape == sst.shape
    march = relevance.sel(time="1983-03").mean("time")
    np.testing.assert_allclose(march.values[0], expected(sst)[9:].mean(0), rtol=1e-5, atol=1e-7)
    for x in (sst.squeeze(drop=True), sst[:, 0]):
        result = mapped(ANALYZER, x, mask=ocean)
        assert result.dims == ("time", "lat", "lon") and set(result.coords) == set(x.coords)
        np.testing.assert_array_equal(result.values, expected(sst))


def test_a_network_of_whole_maps_has_an_axis_of_channels_that_the_maps_lack(sst):
    analyzer = lrpfast.Analyzer(network((*LAND.shape, 1)), "z_plus")
    x = sst.squeeze("zlev", drop=True).fillna(0)
    relevance = mapped(analyzer, x)
    assert relevance.dims == x.dims
    np.testing.assert_array_equal(relevance.values, analyzer.analyze(x.values[..., None])[..., 0])


def test_stacked_points_come_back_on_their_grid(sst):
    points = sst[:, 0].stack(point=("lat", "lon"))[:, ~LAND.ravel()]
    relevance = mapped(ANALYZER, points)
    assert relevance.dims == ("time", "point")
    grid = relevance.unstack("point").reindex(lat=LAT, lon=LON).transpose("time", "lat", "lon")
    np.testing.assert_array_equal(grid.values, expected(sst))


@pytest.mark.filterwarnings("ignore:.*lies otherwise:UserWarning")
def test_lags_and_targets(sst, ocean):
    """A network of (lag, points), with windows that xarray makes; a target of each day as an xarray array."""
    analyzer = lrpfast.Analyzer(network((3, POINTS)), "epsilon")
    lags = sst[:, 0].rolling(time=3).construct("lag").isel(time=slice(2, None)).transpose("time", "lag", "lat", "lon")
    target = xarray.DataArray(np.arange(DAYS - 2) % 2, {"time": lags.time}, ("time",))
    relevance = mapped(analyzer, lags, mask=ocean, target=target)
    assert relevance.dims == lags.dims
    np.testing.assert_array_equal(
        relevance.values[..., ~LAND], analyzer.analyze(lags.values[..., ~LAND], target=target.values)
    )


@pytest.mark.filterwarnings("ignore:.*lies otherwise:UserWarning")
def test_conditions_are_an_axis(sst, ocean):
    conditions = [{"dense": 1}, {"dense": {0, 3}}]
    made = mapped(ANALYZER, sst, mask=ocean, conditions=conditions)
    assert made.dims == ("time", "condition", "zlev", "lat", "lon")
    assert made.attrs["conditions"] == "dense=1 | dense=0,3"
    relevance = ANALYZER.analyze(sst.values[:, 0][:, ~LAND], conditions=conditions)
    np.testing.assert_array_equal(made.values[:, :, 0][..., ~LAND], relevance)
    one = mapped(ANALYZER, sst, mask=ocean, conditions=conditions[1])
    np.testing.assert_array_equal(one.values, made.values[:, 1])


@pytest.mark.parametrize("grouping", ["season", "phase", "pandas", "coordinate"])
def test_statistics_are_a_data_set_with_named_groups(grouping, sst, ocean):
    """The groups' axis is called as the labels are; seasons are in the order of the year."""
    group_by, name, groups = {
        "season": (lambda: sst.time.dt.season, "season", ["DJF", "MAM"]),
        "phase": (lambda: sst.phase, "phase", ["neutral", "warm"]),
        "pandas": (lambda: sst.phase.to_pandas().rename("state"), "state", ["neutral", "warm"]),
        "coordinate": (lambda: "time.month", "month", [2, 3]),
    }[grouping]
    options = {"statistics": True, "mask": ocean, "progress": False}
    done = ANALYZER.stream(sst, group_by=group_by(), **options)
    maps = done.to_xarray()
    assert maps["mean"].dims == (name, "lat", "lon") and maps[name].values.tolist() == groups
    labels = np.asarray(sst.time.dt.month if grouping == "coordinate" else group_by())
    for group in groups:
        mean = expected(sst)[labels == group].mean(0, dtype=np.float64)
        np.testing.assert_allclose(maps["mean"].sel({name: group}), mean, rtol=1e-12)
    assert maps["mean"].attrs["cell_methods"] == "time: mean" and set(maps.coords) == {name, "lat", "lon"}


@pytest.mark.filterwarnings("ignore:.*lies otherwise:UserWarning")
def test_xarray_selects_and_draws(sst, ocean, tmp_path):
    """A window by select= is that by sel; relevance goes to NetCDF and into a picture by xarray's own methods."""
    window = {"time": slice("1983-03-01", "1983-03-05")}
    relevance = ANALYZER.map(sst.sel(window), mask=ocean)
    pytest.importorskip("netCDF4")
    ANALYZER.stream(sst, tmp_path / "window.nc", select=window, mask=ocean, progress=False)
    with xarray.open_dataset(tmp_path / "window.nc") as file:
        np.testing.assert_array_equal(file["relevance"].values, relevance.values[:, 0])
        assert [str(day) for day in file["time"].values] == [str(day) for day in relevance["time"].values]
    relevance.to_netcdf(tmp_path / "again.nc")
    with xarray.open_dataarray(tmp_path / "again.nc", decode_times=False) as again:
        np.testing.assert_array_equal(again.values, relevance.values)
    pytest.importorskip("matplotlib")
    figure = lrpfast.plot.heatmap(relevance.squeeze(drop=True)[:2])
    assert [ax.get_title() for ax in figure.axes[:2]] == ["1983-03-01 00:00:00", "1983-03-02 00:00:00"]


def test_wrong_arrays(sst, ocean):
    with pytest.raises(InputError, match=r"first axis, and that is 'lat'; .*transpose\('time', \.\.\.\)"):
        ANALYZER.map(sst[:, 0].transpose("lat", "lon", "time"), mask=ocean)
    with pytest.raises(InputError, match="a Dataset|an xarray.Dataset holds"):
        ANALYZER.stream(sst.to_dataset().assign(other=sst), statistics=True, progress=False)
    with pytest.raises(ShapeError, match="mask= says which"):
        ANALYZER.map(sst)
