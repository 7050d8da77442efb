"""Several files as one source, selections by coordinates, groups from coordinates."""

import pickle
from pathlib import Path

import numpy as np
import pytest

import lrpfast
import lrpfast.cli
from lrpfast.batch import open_source
from lrpfast.batch.masks import Masked
from lrpfast.batch.sources import reopened
from lrpfast.batch.sources.fit import fitted

netCDF4 = pytest.importorskip("netCDF4")

DAYS = {1981: 365, 1982: 365, 1983: 365}
LAT, LON = np.array([-40.0, 0.0, 40.0]), np.array([0.0, 90.0, 180.0, 270.0])
GRID = np.arange(12, dtype=np.float32).reshape(3, 4)


def write(path, first, values, units, *, lat=LAT, lon=LON, calendar="standard", depth=False, extra=None):
    """A file of daily maps (time, [zlev,] lat, lon), with times from day ``first`` of the units."""
    with netCDF4.Dataset(path, "w") as file:
        columns = {"time": first + np.arange(len(values)), "lat": lat, "lon": lon}
        if depth:
            columns["zlev"] = np.zeros(1)
        for name, column in columns.items():
            file.createDimension(name, len(column))
            file.createVariable(name, "f8", (name,))[:] = column
        file["time"].setncatts({"units": units, "calendar": calendar})
        file["lat"].units, file["lon"].units = "degrees_north", "degrees_east"
        dims = ("time", "zlev", "lat", "lon") if depth else ("time", "lat", "lon")
        variable = file.createVariable("sst", "f4", dims, fill_value=np.float32(-999))
        variable[:] = np.ma.masked_invalid(values.reshape([len(column) for column in map(columns.get, dims)]))
        for name, labels in (extra or {}).items():
            kind = str if np.asarray(labels).dtype.kind == "U" else np.asarray(labels).dtype
            file.createVariable(name, kind, ("time",))[:] = np.asarray(labels, object if kind is str else None)
    return f"{path}:sst"


def days(count, first=0):
    """Maps whose values say which day and which point they are."""
    return (np.arange(first, first + count)[:, None, None] * 100 + GRID).astype(np.float32)


@pytest.fixture
def years(tmp_path):
    """A file a year, each with its own reference of time, and what they hold."""
    first = 0
    for year, count in DAYS.items():
        write(tmp_path / f"sst_{year}.nc", 0, days(count, first), f"days since {year}-01-01")
        first += count
    return str(tmp_path / "sst_*.nc:sst"), days(first)


def dense(features, outputs=2, seed=0):
    rng = np.random.default_rng(seed)
    return lrpfast.from_layers([lrpfast.layers.Dense(rng.normal(size=(features, outputs)).astype(np.float32))])


# Several files


def test_files_are_one_source_in_the_order_of_time(years):
    pattern, whole = years
    with open_source(pattern) as source:
        assert source.shape == whole.shape
        np.testing.assert_array_equal(source.read(360, 740), whole[360:740])
        np.testing.assert_array_equal(source.read(0, len(whole)), whole)
        time = source.labels.coords["time"]
        np.testing.assert_array_equal(time.values, np.arange(len(whole)))
        assert time.attrs["units"] == "days since 1981-01-01"


def test_names_decide_nothing_where_there_is_time(tmp_path):
    write(tmp_path / "a.nc", 3, days(2, 3), "days since 2000-01-01")
    write(tmp_path / "b.nc", 0, days(3), "days since 2000-01-01")
    with open_source(str(tmp_path / "?.nc")) as source:
        np.testing.assert_array_equal(source.read(0, 5), days(5))
    with pytest.raises(lrpfast.InputError, match=r"a\.nc:sst: stands before .*b\.nc:sst, .*pattern in quotes"):
        open_source([tmp_path / "a.nc", tmp_path / "b.nc"])
    with open_source([tmp_path / "b.nc", tmp_path / "a.nc"]) as source:
        assert source.shape == (5, 3, 4)


def test_arrays_without_coordinates_are_in_the_order_of_their_numbers(tmp_path):
    for i in (10, 9, 1):
        np.save(tmp_path / f"x_{i}.npy", np.full((i, 2), i, np.float32))
    with open_source(str(tmp_path / "x_*.npy")) as source:
        assert source.read(0, 20)[:, 0].tolist() == [1.0] + [9.0] * 9 + [10.0] * 10
        assert source.read(20, 99).shape == (0, 2)


def test_a_file_that_lies_otherwise_is_turned(tmp_path):
    x = days(4)
    write(tmp_path / "a.nc", 0, x[:2], "days since 2000-01-01")
    flipped = np.roll(x[2:, ::-1], 2, axis=2)
    write(tmp_path / "b.nc", 2, flipped, "days since 2000-01-01", lat=LAT[::-1], lon=[-180.0, -90.0, 0.0, 90.0])
    with open_source(str(tmp_path / "*.nc:sst")) as source:
        np.testing.assert_array_equal(source.read(0, 4), x)
        np.testing.assert_array_equal(source.labels.coords["lat"].values, LAT)


def test_files_that_do_not_follow_one_another(tmp_path):
    units = "days since 2000-01-01"
    write(tmp_path / "a.nc", 0, days(3), units)
    b = tmp_path / "b.nc"
    for error, arguments in (
        ("begins before that of .*a.nc:sst ends", {"first": 2}),
        ("lies on another grid", {"first": 3, "lat": LAT + 1}),
        ("its calendar is noleap", {"first": 3, "calendar": "noleap"}),
    ):
        write(b, values=days(3), units=units, **arguments)
        with pytest.raises(lrpfast.InputError, match=error):
            open_source(str(tmp_path / "*.nc"))
    write(b, 3, days(3)[:, :2], units, lat=LAT[:2])
    with pytest.raises(lrpfast.ShapeError, match=r"samples have shape \(2, 4\), those of .*a.nc:sst \(3, 4\)"):
        open_source(str(tmp_path / "*.nc"))
    with pytest.raises(lrpfast.InputNotFoundError, match="no file matches"):
        open_source(str(tmp_path / "c*.nc:sst"))


def test_a_run_over_files_goes_on(years, tmp_path):
    pattern, whole = years
    analyzer = lrpfast.Analyzer(dense(12), "epsilon")
    mask = np.ones((3, 4), bool)
    calls = []

    def stop(count):
        calls.append(count)
        if len(calls) == 3:
            raise KeyboardInterrupt

    options = {"mask": mask, "batch_size": 200}
    with pytest.raises(KeyboardInterrupt):
        analyzer.stream(pattern, tmp_path / "r.nc", progress=stop, **options)
    done = analyzer.stream(pattern, tmp_path / "r.nc", progress=False, **options)
    assert done.resumed >= 400
    with open_source(f"{tmp_path / 'r.nc'}") as source:
        expected = analyzer.analyze(whole.reshape(len(whole), -1)).reshape(whole.shape)
        np.testing.assert_array_equal(source.read(0, len(whole)), expected)
    with pytest.raises(lrpfast.InputError, match="is both the sink and the source"):
        analyzer.stream(pattern, tmp_path / "sst_1982.nc", progress=False, overwrite=True, **options)


def test_a_file_that_changes_on_the_way(years, tmp_path):
    pattern, _ = years
    with open_source(pattern) as source:
        write(tmp_path / "sst_1983.nc", 0, days(365), "days since 1983-01-01")
        source.read(0, 3)
        with pytest.raises(lrpfast.InputError, match="sst_1983.nc:sst: the file was changed"):
            source.read(800, 801)
        with pytest.raises(lrpfast.InputError, match="changed or replaced"):
            source.unchanged()


def test_many_files_are_not_all_open(tmp_path):
    for i in range(20):
        np.save(tmp_path / f"{i}.npy", np.full((1, 2), i))
    with open_source(str(tmp_path / "*.npy")) as source:
        assert source.read(0, 20)[:, 0].tolist() == list(range(20))
        assert len(source._open) <= 4


# Selections


def test_a_window_of_time(years):
    pattern, whole = years
    for select, rows in (
        ({"time": slice("1982", "1982")}, slice(365, 730)),
        ({"time": slice("1982-02", None)}, slice(396, None)),
        ({"time": (None, "1981-01-05")}, slice(0, 5)),
        ({"time": "1981-12-31"}, slice(364, 365)),
        ("time=1981-12-31:1982-01-01", slice(364, 366)),
        ("time=1981-12-31T00:00:1982-01-01T00:00", slice(364, 366)),
    ):
        with open_source(pattern, select=select) as source:
            np.testing.assert_array_equal(source.read(0, source.shape[0]), whole[rows], err_msg=str(select))
            assert len(source.labels.coords["time"].values) == source.shape[0]


def test_stream_and_ensembles_select_and_fill(years, tmp_path):
    name, maps = years
    select = {"time": slice("1982-02-01", "1982-03"), "lat": (-10, 50)}
    model = lrpfast.from_layers([lrpfast.layers.Flatten(), *dense(8).layers[1:]], input_shape=(2, 4))
    expected = lrpfast.Analyzer(model, "epsilon").analyze(maps[365 + 31 : 365 + 90, 1:])
    analyzer = lrpfast.Analyzer(model, "epsilon")
    done = analyzer.stream(
        name, tmp_path / "r.npy", select=select, statistics=True, group_by="time.month", progress=False
    )
    assert (done.samples, list(done.statistics.groups)) == (59, [2, 3])
    np.testing.assert_array_equal(np.load(tmp_path / "r.npy"), expected)
    assert done.record["select"] == "time=1982-02-01:1982-03 lat=-10:50"
    over = lrpfast.Ensemble({"a": model, "b": model}, "epsilon")
    both = over.stream(name, select=select, group_by=np.arange(1095) % 2, progress=False)
    assert both.count.tolist() == [[30, 29]] * 2 or both.count.tolist() == [[29, 30]] * 2
    np.testing.assert_allclose(both.count[0] @ both.mean.reshape(2, -1), expected.reshape(59, -1).sum(0), rtol=1e-5)
    flat = [lrpfast.layers.Flatten(), *(lrpfast.layers.Dense(np.ones((n, 2), np.float32)) for n in (8, 2))]
    hidden = lrpfast.Analyzer(lrpfast.from_layers(flat, input_shape=(2, 4)), "epsilon")
    found = hidden.references(name, "dense", k=3, select=select, progress=False)
    assert 0 <= found.indices.min() <= found.indices.max() < 59
    holes = maps[:3].copy()
    holes[:, 0, 0] = np.nan
    xarray = pytest.importorskip("xarray")
    array = xarray.DataArray(holes, dims=("time", "lat", "lon"), coords={"lat": LAT, "lon": LON})
    region = {"lat": (-50, 10)}
    analyzer.stream(array, tmp_path / "f.npy", select=region, fill_nan=0, progress=False)
    np.testing.assert_array_equal(np.load(tmp_path / "f.npy"), analyzer.analyze(np.nan_to_num(holes[:, :2])))
    with pytest.raises(lrpfast.InputError, match="no coordinates, by which select="):
        analyzer.stream(maps, tmp_path / "n.npy", select=region, progress=False)
    with pytest.raises(lrpfast.InputError, match="fill_nan must be a finite number"):
        analyzer.stream(maps[:, 1:], tmp_path / "n.npy", fill_nan="0", progress=False)


@pytest.mark.parametrize("kind", ["pattern", "list", "npy"])
def test_labels_and_targets_in_a_file_a_year(kind, tmp_path):
    """Of the selected samples those of the whole data set are taken; a list of texts is a text for each sample."""
    wet = np.arange(30) % 3 % 2
    for i, first in enumerate((0, 12)):
        rows = slice(first, (12, 30)[i])
        own = {"wet": wet[rows], "phase": np.where(wet[rows], "warm", "cold")}
        write(tmp_path / f"sst_{i}.nc", first, days(30)[rows], "days since 1982-01-01", extra=own)
        np.save(tmp_path / f"wet_{i}.npy", wet[rows])
        np.save(tmp_path / f"phase_{i}.npy", own["phase"])

    def files(name):
        listed = [f"{tmp_path}/{name}_{i}.npy" if kind == "npy" else f"{tmp_path}/sst_{i}.nc:{name}" for i in (0, 1)]
        return f"{tmp_path}/sst_*.nc:{name}" if kind == "pattern" else listed

    analyzer = lrpfast.Analyzer(dense(12), "epsilon")
    data, rows = f"{tmp_path}/sst_*.nc:sst", slice(8, 20)
    select = {"time": slice("1982-01-09", "1982-01-20")}
    expected = analyzer.analyze(days(30).reshape(30, 12)[rows], wet[rows])
    options = {"select": select, "mask": np.ones((3, 4), bool), "progress": False, "statistics": True}
    done = analyzer.stream(data, tmp_path / "r.npy", target=files("wet"), group_by=files("phase"), **options)
    np.testing.assert_array_equal(np.load(tmp_path / "r.npy").reshape(12, 12), expected)
    assert done.statistics.groups == ("cold", "warm") and done.statistics.count.tolist() == [8, 4]
    assert done.statistics.group_name == ("group" if kind == "npy" else "phase")
    right = analyzer.stream(data, correct=files("wet"), **options)
    assert (
        right.statistics.count.sum()
        == (analyzer.model.predict(days(30).reshape(30, 12))[rows].argmax(1) == wet[rows]).sum()
    )
    if kind != "pattern":
        with pytest.raises(lrpfast.ShapeError, match="not \\(12,\\)" if kind == "npy" else "one for each sample"):
            analyzer.stream(data, group_by=files("wet")[:1], **{**options, "select": None})
        with pytest.raises(lrpfast.InputError, match="is both the sink and the (source|target)"):
            analyzer.stream(data, files("wet")[1].split(":")[0], target=files("wet"), overwrite=True, **options)
    if kind == "npy":
        np.save(tmp_path / "two.npy", np.zeros((3, 2), int))
        for other in ("two", "phase_1"):
            with pytest.raises(lrpfast.ShapeError, match="must hold alike values"):
                analyzer.stream(data, target=[files("wet")[0], f"{tmp_path}/{other}.npy"], **options)
    listed = analyzer.stream(days(2), group_by=["a.nc", "b.nc"], **{**options, "select": None})
    assert listed.statistics.groups == ("a.nc", "b.nc")
    pytest.importorskip("matplotlib")
    keep = {"select": select, "mask": options["mask"], "samples": 4, "progress": False}
    page = lrpfast.report(analyzer, data, tmp_path / "r.html", labels=files("wet"), target=files("wet"), **keep)
    assert "12 samples" in Path(page).read_text(encoding="utf-8")


def test_seasons_and_months(years):
    pattern, whole = years
    with open_source(pattern, select={"time.month": [1, 2]}) as source:
        rows = np.r_[0:59, 365:424, 730:789]
        np.testing.assert_array_equal(source.read(0, source.shape[0]), whole[rows])
        np.testing.assert_array_equal(source.read(50, 70), whole[rows[50:70]])
    with open_source(pattern, select=["time.season=DJF", "time.year=1982"]) as source:
        assert source.shape[0] == 31 + 28 + 31


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "all_leap", "julian"])
def test_calendars(calendar, tmp_path):
    path = write(tmp_path / "x.nc", 0, days(800), "days since 2000-01-01", calendar=calendar)
    february = {"noleap": 28, "360_day": 30, "all_leap": 29, "julian": 29}[calendar]
    with open_source(path, select="time=2000-02:2000-02") as source:
        assert source.shape[0] == february
    if calendar != "360_day":
        with pytest.raises(lrpfast.InputError, match=f"there is no 2000-02-30 in the calendar {calendar}"):
            open_source(path, select="time=2000-02-30:2000-03")


def test_regions(tmp_path):
    path = write(tmp_path / "x.nc", 0, days(3), "days since 2000-01-01", depth=True)
    for select, part in (
        ({"lat": slice(-10, 60)}, np.s_[:, :, 1:]),
        ({"lat": slice(60, -10)}, np.s_[:, :, 1:]),
        ({"latitude": [40]}, np.s_[:, :, 2:]),
        ({"lon": slice(80, 200)}, np.s_[:, :, :, 1:3]),
        ({"lon": slice(-100, 100)}, np.s_[:, :, :, [3, 0, 1]]),  # from west to east
        ({"lon": slice(-180, 180)}, np.s_[:]),
        ({"lon": slice(-100, -80), "lat": 0, "zlev": 0}, np.s_[:, :, 1:2, 3:]),
    ):
        with open_source(path, select=select) as source:
            np.testing.assert_array_equal(source.read(0, 3), days(3)[:, None][part], err_msg=str(select))
            assert tuple(len(source.labels.coords[dim].values) for dim in source.labels.dims) == source.shape


@pytest.mark.parametrize(
    ("select", "error"),
    [
        ("depth=0:1", "has no coordinate 'depth'; it has: time, lat, lon"),
        ("lat=50:60", "nothing lies in lat=50:60: lat is -40.0 … 40.0"),
        ("lon=91:92", "nothing lies in lon=91:92"),
        ("time=1990:1991", r"nothing lies in time=1990:1991: time is 1981-01-01 00:00:00 … 1983-12-31"),
        ("time=yesterday:", "time is a time: 'yesterday' is none"),
        ("time.week=1", "the parts of a time are season, month"),
        ("lat.season=DJF", "the coordinate lat is no time"),
        ("lat=a:b", "lat holds numbers, and 'a' is none"),
        ("lat", "select takes NAME=LOW:HIGH"),
        (3, "select must map coordinates"),
        ({"lat": slice(0, 1, 2)}, "lat has a step"),
    ],
)
def test_selections_that_select_nothing(select, error, years):
    with pytest.raises(lrpfast.InputError, match=error):
        open_source(years[0], select=select)
    with pytest.raises(lrpfast.InputError, match="ndarray: has no coordinates"):
        open_source(np.ones((2, 2)), select={"time": 1})


def test_xarray_in_memory_is_selected_likewise(years):
    xarray = pytest.importorskip("xarray")
    pattern, whole = years
    time = np.arange("1981-01-01", "1984-01-01", dtype="datetime64[D]").astype("datetime64[ns]")
    array = xarray.DataArray(whole, {"time": time, "lat": LAT, "lon": LON}, ("time", "lat", "lon"))
    for select in ("time=1982-03:1982-04", "time.season=SON", "lon=-100:100"):
        with open_source(pattern, select=select) as files, open_source(array, select=select) as memory:
            np.testing.assert_array_equal(files.read(0, files.shape[0]), memory.read(0, memory.shape[0]))


# Fitting the model


def test_axes_of_length_one_are_those_of_the_model(tmp_path):
    x = days(5)
    path = write(tmp_path / "x.nc", 0, x, "days since 2000-01-01", depth=True)
    kernel = np.random.default_rng(1).normal(size=(2, 2, 1, 3)).astype(np.float32)
    layers = [lrpfast.layers.Conv(kernel), lrpfast.layers.GlobalMaxPool()]
    network = lrpfast.Analyzer(lrpfast.from_layers(layers, input_shape=(3, 4, 1)), "epsilon")
    expected = network.analyze(x[..., None])
    done = network.stream(path, tmp_path / "r.nc", progress=False)
    assert done.shape == (5, 3, 4, 1)
    with open_source(tmp_path / "r.nc") as source:
        np.testing.assert_array_equal(source.read(0, 5), expected)
        assert source.labels.dims == ("time", "lat", "lon", "channel")
    flat = lrpfast.Analyzer(dense(12), "epsilon")
    mask = np.ones((1, 3, 4), bool)
    flat.stream(path, tmp_path / "flat.nc", mask=mask, progress=False)
    with open_source(tmp_path / "flat.nc") as source:
        assert source.labels.dims == ("time", "lat", "lon")
        np.testing.assert_array_equal(source.read(0, 5), flat.analyze(x.reshape(5, 12)).reshape(x.shape))


def test_lags_before_a_mask(tmp_path):
    rng = np.random.default_rng(2)
    x, mask = rng.normal(size=(6, 2, 3, 4)).astype(np.float32), GRID % 3 != 0
    layers = [lrpfast.layers.Flatten(), lrpfast.layers.Dense(rng.normal(size=(2 * mask.sum(), 2)).astype(np.float32))]
    analyzer = lrpfast.Analyzer(lrpfast.from_layers(layers, input_shape=(2, int(mask.sum()))), "epsilon")
    done = analyzer.stream(x, tmp_path / "r.npy", mask=mask, statistics=tmp_path / "s.nc", progress=False)
    relevance = np.load(tmp_path / "r.npy")
    assert done.shape == relevance.shape == x.shape
    np.testing.assert_array_equal(relevance[:, :, mask], analyzer.analyze(x[:, :, mask]))
    assert np.isnan(relevance[:, :, ~mask]).all()
    with open_source(f"{tmp_path / 's.nc'}:mean") as source:
        np.testing.assert_allclose(source.read(0, 1)[0], relevance.mean(0, dtype=np.float64), rtol=1e-6)


def test_missing_values_are_filled_on_request(tmp_path):
    x = days(4)
    x[1, 2, 3] = np.nan
    path = write(tmp_path / "x.nc", 0, x, "days since 2000-01-01")
    analyzer, mask = lrpfast.Analyzer(dense(12), "epsilon"), np.ones((3, 4), bool)
    with pytest.raises(lrpfast.InputError, match="is nan"):
        analyzer.stream(path, statistics=True, mask=mask, progress=False)
    with open_source(path, fill_nan=7.0) as source:
        assert source.read(1, 2)[0, 2, 3] == 7.0
        analyzer.stream(source, tmp_path / "r.nc", mask=mask, progress=False)
    with netCDF4.Dataset(tmp_path / "r.nc") as file:
        assert "7.0" in {str(file.getncattr(n)) for n in file.ncattrs()} | {
            str(file["relevance"].getncattr(n)) for n in file["relevance"].ncattrs()
        }
    with pytest.raises(lrpfast.InputError, match="fill_nan must be a finite number"):
        open_source(path, fill_nan=np.nan)


# Groups and targets


def test_groups_of_seasons_in_their_order(years):
    pattern, whole = years
    analyzer, mask = lrpfast.Analyzer(dense(12), "epsilon"), np.ones((3, 4), bool)
    result = analyzer.stream(pattern, statistics=True, group_by="time.season", mask=mask, progress=False)
    assert result.statistics.groups == ("DJF", "MAM", "JJA", "SON")
    assert result.statistics.count.tolist() == [270, 276, 276, 273]
    assert result.record["group_by"].startswith("time.season: ")
    january = analyzer.stream(pattern, statistics=True, group_by="time.month", mask=mask, progress=False).statistics
    assert january.groups == tuple(range(1, 13))
    rows = np.r_[0:31, 365:396, 730:761]
    expected = analyzer.analyze(whole[rows].reshape(len(rows), -1)).mean(0, dtype=np.float64)
    np.testing.assert_allclose(january.mean[0].reshape(-1), expected, rtol=1e-6)


def test_labels_and_targets_from_variables(tmp_path):
    x, texts, classes = (
        days(6),
        np.array(["era5", "cera", "era5", "era5", "cera", "cera"]),
        np.array([0, 1, 1, 0, 1, 0]),
    )
    extra = {"model": texts, "label": classes.astype("i4")}
    path = write(tmp_path / "x.nc", 0, x, "days since 2000-01-01", extra=extra).removesuffix(":sst")
    analyzer, mask = lrpfast.Analyzer(dense(12), "epsilon"), np.ones((3, 4), bool)
    options = {"statistics": True, "mask": mask, "progress": False}
    done = analyzer.stream(f"{path}:sst", group_by=f"{path}:model", target=f"{path}:label", **options)
    assert done.statistics.groups == ("cera", "era5")
    expected = analyzer.analyze(x.reshape(6, 12), target=classes)
    np.testing.assert_allclose(
        done.statistics.mean[0].reshape(-1), expected[texts == "cera"].mean(0, dtype=np.float64), rtol=1e-6
    )
    with open_source(f"{path}:sst", select="time=2000-01-02:2000-01-04") as source:  # labels of the same days
        part = analyzer.stream(source, group_by=f"{path}:model", target=classes, **options)
    assert part.statistics.count.tolist() == [1, 2]
    np.testing.assert_allclose(part.statistics.mean[0].reshape(-1), expected[1], rtol=1e-6)


@pytest.mark.parametrize("kind", ["NETCDF4", "NETCDF3_CLASSIC"])
def test_texts_and_targets_from_several_files(kind, tmp_path):
    """In the order of the time, as the data, whatever the files are called."""
    names = np.array(["winter", "spring", "spring", "winter", "autumn", "spring"])
    classes = np.array([0, 1, 1, 0, 1, 0], "i4")
    for name, part in (("b", slice(0, 2)), ("a", slice(2, 6))):
        write(
            tmp_path / f"sst_{name}.nc",
            part.start,
            days(6)[part],
            "days since 2000-01-01",
            extra={"label": classes[part]},
        )
        with netCDF4.Dataset(tmp_path / f"sst_{name}.nc", "a") as file:
            texts = file.createVariable("season_name", str, ("time",))
            texts[:] = names[part].astype(object)
        with netCDF4.Dataset(tmp_path / f"t_{name}.nc", "w", format=kind) as file:  # of characters
            file.createDimension("time", part.stop - part.start)
            file.createDimension("length", 6)
            file.createVariable("time", "f8", ("time",))[:] = np.arange(part.start, part.stop)
            file["time"].units = "days since 2000-01-01"
            file.createVariable("season_name", "S1", ("time", "length"))[:] = netCDF4.stringtochar(
                names[part].astype("S6")
            )
    data, analyzer = f"{tmp_path}/sst_*.nc", lrpfast.Analyzer(dense(12), "epsilon")
    options = {"statistics": True, "mask": np.ones((3, 4), bool), "progress": False}
    expected = analyzer.analyze(days(6).reshape(6, 12), target=classes)
    for labels in (f"{data}:season_name", f"{tmp_path}/t_*.nc:season_name"):
        done = analyzer.stream(f"{data}:sst", group_by=labels, target=f"{data}:label", **options)
        assert list(done.statistics.groups) == ["autumn", "spring", "winter"]
        assert done.statistics.count.tolist() == [1, 3, 2]
        of_spring = expected[names == "spring"].mean(0, dtype=np.float64)
        np.testing.assert_allclose(done.statistics.mean[1].reshape(-1), of_spring, rtol=1e-6)
    out = tmp_path / "seasons.nc"
    command = ["explain", "--models", str(tmp_path / "net_*.npz"), f"{data}:sst", "--statistics", str(out)]
    for seed in (0, 1):
        dense(12, seed=seed).save(tmp_path / f"net_{seed}.npz")
    np.save(tmp_path / "mask.npy", options["mask"])
    command += ["--mask", str(tmp_path / "mask.npy"), "--group-by", f"{data}:season_name", "--target", f"{data}:label"]
    assert lrpfast.cli.main(command) == 0
    for path in (out, tmp_path / "seasons_net_1.nc"):
        with netCDF4.Dataset(path) as file:
            assert file["mean"].dimensions == ("season_name", "lat", "lon")
            assert file["season_name"][:].tolist() == ["autumn", "spring", "winter"]


def test_labels_of_pandas_and_xarray():
    pandas, xarray = pytest.importorskip("pandas"), pytest.importorskip("xarray")
    analyzer, texts = lrpfast.Analyzer(dense(2), "epsilon"), ["b", "a", "b"]
    x = np.ones((3, 2), np.float32)
    for group_by in (pandas.Index(texts), pandas.Series(texts), pandas.Categorical(texts), xarray.DataArray(texts)):
        done = analyzer.stream(x, statistics=True, group_by=group_by, progress=False)
        assert (done.statistics.groups, done.statistics.count.tolist()) == (("a", "b"), [1, 2])
    with pytest.raises(lrpfast.InputError, match="sample 1 has no label"):
        analyzer.stream(x, statistics=True, group_by=pandas.Series(["a", None, "b"], dtype=object), progress=False)
    with pytest.raises(lrpfast.InputError, match=r"group_by holds dates; time\.month"):
        analyzer.stream(x, statistics=True, group_by=np.zeros(3, "datetime64[D]"), progress=False)


def test_groups_that_are_none(years, monkeypatch):
    pattern, _ = years
    analyzer, mask = lrpfast.Analyzer(dense(12), "epsilon"), np.ones((3, 4), bool)
    for group_by, error in (
        ("time", r"time is a time; time\.season, time\.month or time\.year"),
        ("lat", "the coordinate lat lies along lat, not along the samples"),
        ("model", "has no coordinate 'model'; .*group_by is 'prediction', labels or their file, or a coordinate"),
    ):
        with pytest.raises(lrpfast.InputError, match=error):
            analyzer.stream(pattern, statistics=True, group_by=group_by, mask=mask, progress=False)
    monkeypatch.setattr("lrpfast.batch.groups._FREE_BYTES", 10_000)
    with pytest.raises(lrpfast.InputError, match=r"statistics of 1,095 groups, .*memory=1_000_000_000"):
        analyzer.stream(pattern, statistics=True, group_by=np.arange(1095), mask=mask, progress=False)
    roomy = lrpfast.Analyzer(dense(12), "epsilon", memory=1_000_000_000)
    roomy.stream(pattern, statistics=True, group_by=np.arange(1095), mask=mask, progress=False)


def test_a_regression_predicts_no_class():
    x = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]
    layers = [lrpfast.layers.Dense(np.ones((1, 1), np.float32))]
    for options in ({"group_by": "prediction"}, {"correct": [0] * 8}):
        with pytest.raises(lrpfast.InputError, match="no final sigmoid: a regression predicts no class"):
            lrpfast.Analyzer(lrpfast.from_layers(layers), "zero").stream(x, statistics=True, progress=False, **options)
    model = lrpfast.from_layers([lrpfast.layers.Dense(np.ones((1, 1), np.float32), activation="sigmoid")])
    for analyzer in (lrpfast.Analyzer(model, "zero"), lrpfast.create_analyzer("lrp.z", model)):
        done = analyzer.stream(x, statistics=True, group_by="prediction", progress=False)
        assert done.statistics.count.tolist() == [4, 4]


def test_another_process_opens_the_same_data(years, tmp_path, monkeypatch):
    pattern, whole = years
    mask = np.ones((3, 4), bool)
    select = {"time.month": [1], "lat": (0, 40)}
    with open_source(pattern, select=select, fill_nan=0.0) as source:
        recipe = pickle.loads(pickle.dumps(fitted(source, (2, 4, 1)).recipe))
    monkeypatch.chdir(tmp_path.parent)
    with reopened(recipe) as source:
        np.testing.assert_array_equal(source.read(31, 33), whole[365:367, 1:, :, None])
    plain = open_source(f"{tmp_path}/sst_1982.nc:sst")
    with Masked(plain, mask) as source, reopened(source.recipe) as grid:
        np.testing.assert_array_equal(grid.read(0, 2), whole[365:367])
    assert open_source(whole).recipe is None


def test_what_was_selected_is_part_of_what_a_run_goes_on_with(years, tmp_path):
    pattern, _ = years
    analyzer, mask = lrpfast.Analyzer(dense(12), "epsilon"), np.ones((3, 4), bool)

    def stop(count):
        raise KeyboardInterrupt

    for select, error in (("time=1981:1982", KeyboardInterrupt), ("time=1982:1983", lrpfast.InputError)):
        with open_source(pattern, select=select) as source, pytest.raises(error):
            analyzer.stream(source, tmp_path / "r.npy", mask=mask, batch_size=100, progress=stop)
    with open_source(pattern, select="time=1981:1982") as source:
        done = analyzer.stream(source, tmp_path / "r.npy", mask=mask, batch_size=100, progress=False)
    assert (done.samples, done.record["select"]) == (730, "time=1981:1982")


def test_the_command_lists_some_of_many_groups(tmp_path, capsys):
    dense(12).save(tmp_path / "m.npz")
    np.save(tmp_path / "x.npy", np.ones((40, 12), np.float32))
    np.save(tmp_path / "labels.npy", np.arange(40) // 2)
    command = ["explain", str(tmp_path / "m.npz"), str(tmp_path / "x.npy"), "--statistics", str(tmp_path / "s.npz")]
    assert lrpfast.cli.main([*command, "--group-by", str(tmp_path / "labels.npy")]) == 0
    assert "2 in group 10, 2 in group 11 and 8 more groups" in capsys.readouterr().out
