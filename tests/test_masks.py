"""Masks with coordinates lie on the data's grid, however theirs runs; a mask that does not fit is refused."""

import warnings

import numpy as np
import pytest

import lrpfast
import seeds
from lrpfast.batch.masks import Masked, open_mask
from lrpfast.batch.sources import open_source
from lrpfast.errors import InputError, ShapeError

xarray = pytest.importorskip("xarray", reason="xarray is not installed; lrpfast[test] brings it")

RNG = seeds.generator(3)
LAT, LON = np.linspace(-75.0, 75.0, 6), np.arange(-180.0, 180.0, 45.0)
X = RNG.normal(size=(7, len(LAT), len(LON)))
DATA = xarray.DataArray(X, {"time": np.arange(7), "lat": LAT, "lon": LON}, ("time", "lat", "lon"), "sst")
OCEAN = xarray.DataArray(
    RNG.random((len(LAT), len(LON))) < 0.5,
    {"lat": ("lat", LAT, {"units": "degrees_north"}), "lon": ("lon", LON, {"units": "degrees_east"})},
    ("lat", "lon"),
    "ocean",
)
CIRCLE = OCEAN.assign_coords(lon=("lon", LON % 360, {"units": "degrees_east"})).sortby("lon")

#: The same points, laid out otherwise.
SAME = {
    "as it is": OCEAN,
    "longitudes from 0 to 360": CIRCLE,
    "latitudes from north to south": OCEAN[::-1],
    "transposed": OCEAN.T,
    "all of it": CIRCLE[::-1].T,
    "other names": CIRCLE[::-1].T.rename(lat="latitude", lon="longitude"),
    "transposed, without coordinates": xarray.DataArray(OCEAN.values.T, dims=("lon", "lat")),
    "single precision": CIRCLE.assign_coords(lat=LAT.astype("f4"), lon=CIRCLE.lon.astype("f4") + np.float32(1e-6)),
    "a larger grid": CIRCLE.pad(lat=1, constant_values=False).assign_coords(lat=[-80.0, *LAT, 80.0]),
    "no coordinates": OCEAN.values,
    "coordinates of one axis": OCEAN[::-1].drop_vars("lon"),
}


@pytest.mark.filterwarnings("ignore:.*was aligned by its coordinates")
@pytest.mark.parametrize("how", SAME)
def test_a_mask_is_aligned_with_the_data(how, tmp_path):
    mask = SAME[how]
    np.testing.assert_array_equal(open_mask(mask, open_source(DATA)), OCEAN.values)
    if not isinstance(mask, np.ndarray):
        path = tmp_path / "mask.nc"
        mask.astype("i1").to_netcdf(path)
        np.testing.assert_array_equal(open_mask(path, open_source(DATA)), OCEAN.values)
    with Masked(open_source(DATA), mask) as source:
        np.testing.assert_array_equal(source.read(0, 7), X[:, OCEAN.values])


@pytest.mark.filterwarnings("ignore:.*was aligned by its coordinates")
def test_every_call_aligns_the_mask(tmp_path):
    points = int(OCEAN.sum())
    weights = RNG.normal(size=(points, 1))
    analyzer = lrpfast.Analyzer(lrpfast.from_layers([lrpfast.layers.Dense(weights)]), "zero", target=0)
    wanted = np.full(X.shape, np.nan, np.float32)
    wanted[:, OCEAN.values] = analyzer.analyze(X[:, OCEAN.values])
    mapped = analyzer.map(DATA, mask=CIRCLE[::-1])
    np.testing.assert_array_equal(mapped, wanted)
    np.testing.assert_array_equal(mapped.lon, LON)
    np.testing.assert_array_equal(analyzer.map(DATA.chunk(time=3), mask=CIRCLE), wanted)
    DATA.to_netcdf(tmp_path / "x.nc")
    CIRCLE.T.astype("i1").to_netcdf(tmp_path / "mask.nc")
    analyzer.stream(str(tmp_path / "x.nc"), str(tmp_path / "r.npy"), mask=str(tmp_path / "mask.nc"))
    np.testing.assert_array_equal(np.load(tmp_path / "r.npy"), wanted)
    low, _ = lrpfast.data_bounds(DATA, mask=CIRCLE)
    np.testing.assert_array_equal(low, X[:, OCEAN.values].min(axis=0))
    with pytest.raises(ShapeError, match=r"mask= says which: .*the data's coordinates in any order"):
        analyzer.stream(DATA, statistics=True)


def test_a_changed_order_of_features_is_told():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_mask(OCEAN, open_source(DATA))
        open_mask(OCEAN.values, open_source(DATA))
    with pytest.warns(UserWarning, match="ocean: .*in the order of the data's grid"):
        open_mask(OCEAN.T, open_source(DATA))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda mask: mask.assign_coords(lat=LAT + 1.5), r"grid: it has lat -73.5 … 76.5 \(6\), the data's -75"),
        (lambda mask: mask.assign_coords(lon=LON + 22.5), r"8 of the data's points along lon .* at lon = -180"),
        (lambda mask: mask[1:], r"1 of the data's points along lat .*reindex_like"),
        (lambda mask: mask.pad(lat=1, constant_values=True).assign_coords(lat=[-80.0, *LAT, 80.0]), "at 16 points"),
        (lambda mask: mask.pad(lon=(0, 1)).astype(bool).assign_coords(lon=[*LON, 180.0]), "a place along lon twice"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(change, match):
    with pytest.raises(InputError, match=match):
        open_mask(change(OCEAN), open_source(DATA))


def test_without_coordinates_the_shape_has_to_fit():
    with pytest.raises(ShapeError, match=r"shape \(6, 8\), the mask \(8, 6\)"):
        Masked(open_source(DATA), OCEAN.values.T)
    np.testing.assert_array_equal(open_mask(CIRCLE, open_source(X)), CIRCLE.values)


def test_stacked_points_and_curved_grids():
    stacked, mask = DATA.stack(point=("lat", "lon")), OCEAN.stack(point=("lat", "lon"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = open_mask(mask[::-1], open_source(stacked))
    np.testing.assert_array_equal(made, mask.values)
    lat, lon = np.meshgrid(LAT, LON, indexing="ij")
    curved = xarray.DataArray(X, {"lat": (("y", "x"), lat), "lon": (("y", "x"), lon)}, ("time", "y", "x"))
    same = xarray.DataArray(OCEAN.values, {"lat": (("y", "x"), lat), "lon": (("y", "x"), lon % 360)}, ("y", "x"))
    np.testing.assert_array_equal(open_mask(same, open_source(curved)), OCEAN.values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(open_mask(same.T, open_source(curved)), OCEAN.values)
    with pytest.raises(InputError, match="the mask's lat is not the data's"):
        open_mask(same[::-1], open_source(curved))
