"""Sinks: what is written can be read by each format's own library, and a resumed file equals an undisturbed one."""

import json
import os
import re
import stat
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from lrpfast.batch.map_writer import write_maps
from lrpfast.batch.masks import Gridded, Masked, scatter
from lrpfast.batch.metadata import ArrayMetadata, Coord, for_relevance, from_xarray, to_xarray
from lrpfast.batch.sinks import open_sink
from lrpfast.batch.sinks.zarr import ZarrSink
from lrpfast.batch.sources import open_source
from lrpfast.errors import InputError, MissingPackageError, ShapeError

netCDF4 = pytest.importorskip("netCDF4", reason="netCDF4 is not installed; lrpfast[test] brings it")
xarray = pytest.importorskip("xarray", reason="xarray is not installed; lrpfast[test] brings it")
zarr = pytest.importorskip("zarr", reason="zarr is not installed; lrpfast[test] brings it")

R = np.random.default_rng(3).standard_normal((50, 4, 6)).astype(np.float32)
ROWS = 8
ATTRIBUTES = {"rule": "epsilon", "epsilon": "1e-06", "model": "a" * 40}
LABELS = ArrayMetadata(
    ("time", "lat", "lon"),
    {
        "time": Coord(("time",), np.arange(50) * 1.5, {"units": "days since 2001-01-01", "calendar": "noleap"}),
        "lat": Coord(("lat",), np.linspace(-3, 3, 4), {"units": "degrees_north"}),
        "area": Coord(("lat", "lon"), np.arange(24.0).reshape(4, 6), {"units": "km2"}),
        "basin": Coord(("lat",), np.array(["a", "bb", "", "ö"]), {}),
        "level": Coord((), np.array(3, ">i4"), {"positive": "down"}),
    },
    {"units": "K", "source": "made", "flags": {"a": 1}, "valid_range": [0, 300]},
    "sst",
)
OUTPUTS = ["r.npy", "r.h5", "r.hdf5:deep/er", "r.nc", "r.nc4:mine", "r.zarr", "r.zarr:mine"]
FILES = [name for name in OUTPUTS if "zarr" not in name]


@pytest.fixture(params=OUTPUTS)
def out(request, tmp_path):
    return str(tmp_path / request.param)


def path_of(out):
    return re.sub(r":[a-z/]+$", "", out)


def content(path):
    """Every byte of a file, or of the files in a folder."""
    if os.path.isfile(path):
        with open(path, "rb") as file:
            return file.read()
    return {name: content(os.path.join(path, name)) for name in sorted(os.listdir(path))}


def fill(sink, first=0, stop=50, r=R, rows=ROWS):
    for at in range(first, stop, rows):
        sink.write(at, r[at : min(stop, at + rows)])
        sink.flush()


def whole(out, labels=LABELS, r=R, shape=None, rows=ROWS):
    with open_sink(out) as sink:
        sink.check(shape or r.shape, r.dtype)
        sink.begin(shape or r.shape, r.dtype, ATTRIBUTES, labels, rows=rows)
        fill(sink, 0, len(r), r, rows)
        sink.finish()
    return content(path_of(out))


def read(out):
    with open_source(path_of(out)) as source:
        return source.read(0, source.shape[0])


def test_rows_come_out_as_they_went_in(out, tmp_path):
    with open_sink(out) as sink:
        assert (sink.path, sink.resumable) == (path_of(out), True)
        sink.check(R.shape, R.dtype)
        assert os.listdir(tmp_path) == []
        sink.begin(R.shape, R.dtype, ATTRIBUTES, LABELS, rows=ROWS)
        fill(sink)
        name = os.path.basename(path_of(out))
        assert sink.partial == str(tmp_path / f".{name}.lrpfast-part")
        assert os.listdir(tmp_path) == [f".{name}.lrpfast-part"]
        sink.finish()
        assert os.listdir(tmp_path) == [name]
    np.testing.assert_array_equal(read(out), R)


@pytest.mark.parametrize("labels", [LABELS, None], ids=["labels", "no labels"])
def test_each_library_reads_its_format(labels, out):
    whole(out, labels)
    path, name = path_of(out), out.rpartition(":")[2] if ":" in out else "relevance"
    if path.endswith(".npy"):
        np.testing.assert_array_equal(np.load(path), R)
        return
    if path.endswith((".h5", ".hdf5")):
        with h5py.File(path) as file:
            assert {key: file.attrs[key] for key in ATTRIBUTES} == ATTRIBUTES
            found, attrs = file[name][...], dict(file[name].attrs)
            if labels:
                assert [dim.label for dim in file[name].dims] == ["time", "lat", "lon"]
                assert file[name].dims[1][0].name == "/lat"
                assert file["basin"].asstr()[...].tolist() == ["a", "bb", "", "ö"]
                assert file["time"].attrs["units"] == "days since 2001-01-01"
        np.testing.assert_array_equal(found, R)
    else:
        how = {"decode_cf": True} if ".nc" in path else {"engine": "zarr"}
        with xarray.open_dataset(path, **how) as data:
            found = data[name].load()
            assert {key: data.attrs[key] for key in ATTRIBUTES} == ATTRIBUTES
        attrs = found.attrs
        np.testing.assert_array_equal(found.values, R)
        if labels:
            assert found.dims == ("time", "lat", "lon")
            assert set(found.coords) == set(labels.coords)
            assert found.time.values[1].isoformat() == "2001-01-02T12:00:00"
            assert found.lat.attrs["units"] == "degrees_north"
            assert found.basin.values.tolist() == ["a", "bb", "", "ö"]
            assert int(found.level) == 3
        else:
            assert found.dims == ("sample", "dim_1", "dim_2")
    assert {key: attrs[key] for key in ATTRIBUTES} == ATTRIBUTES
    assert (attrs["units"], attrs["long_name"]) == ("1", "relevance (LRP)")
    if labels:
        assert (attrs["source"], attrs["flags"]) == ("made", "{'a': 1}")
        assert "valid_range" not in attrs


def test_netcdf_as_its_own_library_sees_it(tmp_path):
    whole(str(tmp_path / "r.nc"))
    with netCDF4.Dataset(tmp_path / "r.nc") as file:
        found = file["relevance"]
        assert file.Conventions == "CF-1.8"
        assert np.isnan(found._FillValue)
        assert found.chunking() == "contiguous"
        assert found.coordinates == "area basin level"
        np.testing.assert_array_equal(found[...], R)


def test_several_targets_have_an_axis(tmp_path):
    r = np.stack([R, -R], 1)
    for out in ("r.nc", "r.zarr"):
        whole(str(tmp_path / out), r=r)
        with open_source(tmp_path / out) as source:
            assert source.labels.dims == ("time", "target", "lat", "lon")
            np.testing.assert_array_equal(source.read(0, 50), r)
    with pytest.raises(InputError, match=r"does not fit the dimensions time, lat, lon"):
        for_relevance(LABELS, (50, 24))
    with pytest.raises(InputError, match="coordinate lat has 4 values along lat, the relevance 5"):
        for_relevance(LABELS, (50, 5, 6))


# Kill and resume


@pytest.mark.parametrize("done", [8, 24, 48])
@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_resumed_file_equals_an_undisturbed_one(out, done, written):
    """The first run wrote ``written`` chunks more than the journal knows of."""
    undisturbed = whole(out)
    sink = open_sink(out)
    sink.begin(R.shape, R.dtype, ATTRIBUTES, LABELS, rows=ROWS)
    fill(sink, 0, min(50, done + written * ROWS))
    sink.close()
    assert content(path_of(out)) == undisturbed  # what was there stays until the new one is whole
    sink = open_sink(out)
    sink.check(R.shape, R.dtype)
    sink.begin(R.shape, R.dtype, ATTRIBUTES, LABELS, done, ROWS)
    fill(sink, done)
    sink.finish()
    assert content(path_of(out)) == undisturbed


def test_done_need_not_be_at_a_chunk(tmp_path):
    out = str(tmp_path / "r.zarr")
    undisturbed = whole(out)
    sink = open_sink(out)
    sink.begin(R.shape, R.dtype, ATTRIBUTES, LABELS, rows=ROWS)
    fill(sink, 0, 21, rows=5)
    sink.close()
    sink = open_sink(out)
    sink.begin(R.shape, R.dtype, ATTRIBUTES, LABELS, 20, ROWS)
    fill(sink, 20, rows=7)
    sink.finish()
    assert content(out) == undisturbed


_KILLED = """
import os, sys, time
import numpy as np
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from test_sinks import ATTRIBUTES, LABELS, R, ROWS, open_sink
sink = open_sink(sys.argv[2])
sink.begin(R.shape, R.dtype, ATTRIBUTES, LABELS, rows=ROWS)
print("begun", flush=True)
while True:
    for at in range(0, 40, ROWS):
        sink.write(at, R[at : at + ROWS])
"""


@pytest.mark.parametrize("name", ["r.npy", "r.h5", "r.nc", "r.zarr"])
def test_a_killed_process_leaves_what_can_be_resumed(name, tmp_path):
    out = str(tmp_path / name)
    undisturbed = whole(out)
    process = subprocess.Popen([sys.executable, "-c", _KILLED, __file__, out], stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == b"begun\n"
        time.sleep(0.05)
        process.kill()
    sink = open_sink(out)
    done = 8 if name != "r.zarr" or os.path.exists(f"{sink.partial}/relevance/0.0.0") else 0
    sink.begin(R.shape, R.dtype, ATTRIBUTES, LABELS, done, ROWS)
    fill(sink, done)
    sink.finish()
    assert content(out) == undisturbed


def test_files_do_not_depend_on_when_they_are_made(out):
    first = whole(out)
    time.sleep(1.1)  # HDF5's times are in seconds
    assert whole(out) == first


def test_a_wrong_partial_file_is_told(out):
    sink = open_sink(out)
    with pytest.raises(InputError, match="there is no partial output"):
        sink.begin(R.shape, R.dtype, ATTRIBUTES, LABELS, 8, ROWS)
    sink.begin(R.shape, R.dtype, ATTRIBUTES, LABELS, rows=ROWS)
    fill(sink, 0, 16)
    sink.close()
    for shape, dtype in (((60, 4, 6), np.float32), ((50, 4, 5), np.float32), (R.shape, np.float64)):
        with pytest.raises(InputError, match="lrpfast-part: holds float32 of shape|lrpfast-part: holds <f4 of shape"):
            open_sink(out).begin(shape, np.dtype(dtype), ATTRIBUTES, None, 8, ROWS)
    if os.path.isfile(sink.partial):
        os.truncate(sink.partial, os.path.getsize(sink.partial) // 2)
    else:
        os.unlink(f"{sink.partial}/{sink.name.rpartition(':')[2]}/.zarray")
    with pytest.raises(InputError, match="lrpfast-part"):
        open_sink(out).begin(R.shape, R.dtype, ATTRIBUTES, LABELS, 8, ROWS)
    sink.discard()
    assert not os.path.exists(sink.partial)


# Errors


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_full_disk_keeps_what_is_done(out):
    """A limit on the size of files stands for the full disk: the same error of the same calls."""
    r = np.random.default_rng(0).standard_normal((50, 64, 64)).astype(np.float32)
    code = """
import resource, signal, sys
import numpy as np
from lrpfast.batch.sinks import open_sink
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
r = np.random.default_rng(0).standard_normal((50, 64, 64)).astype(np.float32)
sink = open_sink(sys.argv[1])
sink.begin(r.shape, r.dtype, {}, None, rows=20)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
sink.write(0, r[:20])
sink.flush()
print("flushed")
sink.write(20, r[20:40])
"""
    if "zarr" in out:
        code = code.replace("rows=20", "rows=40")
    ran = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True)
    assert ran.returncode == 1
    if "zarr" in out:  # a chunk file is written at once
        assert ran.stdout == ""
    else:
        assert ran.stdout == "flushed\n"
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("OSError: [Errno 27]") and repr(path_of(out)) in last
    assert not os.path.exists(path_of(out))
    sink = open_sink(out)
    done = 0 if "zarr" in out else 20
    sink.begin(r.shape, r.dtype, {}, None, done, rows=40)
    fill(sink, done, 50, r)
    sink.finish()
    np.testing.assert_array_equal(read(out), r)


def test_what_cannot_be_written_is_told_before_any_work(out, tmp_path):
    sink = open_sink(out)
    with pytest.raises(InputError, match="needs .* bytes, but the disk has"):
        sink.check((1 << 50, 4, 6), R.dtype)
    with pytest.raises(InputError, match="there is no folder"):
        open_sink(out.replace("r.", "nowhere/r.")).check(R.shape, R.dtype)
    os.mkdir(path_of(out))
    (tmp_path / os.path.basename(path_of(out)) / "theirs").write_text("precious")
    with pytest.raises(InputError, match="is a folder"):
        sink.check(R.shape, R.dtype)
    if os.name == "posix" and os.geteuid():
        os.chmod(tmp_path, 0o500)
        with pytest.raises(InputError, match="not writeable"):
            open_sink(out.replace("r.", "s.")).check(R.shape, R.dtype)
        os.chmod(tmp_path, 0o700)


def test_a_zarr_store_takes_the_place_of_one_only(tmp_path):
    (tmp_path / "r.zarr").write_text("a file")
    with pytest.raises(InputError, match="is a file; a Zarr store is a folder"):
        open_sink(tmp_path / "r.zarr").check(R.shape, R.dtype)
    with pytest.raises(InputError, match="at the top"):
        open_sink(tmp_path / "r.zarr:a/b").check(R.shape, R.dtype)
    (tmp_path / "r.zarr").unlink()
    whole(str(tmp_path / "r.zarr"))
    whole(str(tmp_path / "r.zarr"), r=-R)
    np.testing.assert_array_equal(read(str(tmp_path / "r.zarr")), -R)
    assert os.listdir(tmp_path) == ["r.zarr"]


def test_links_and_permissions(tmp_path):
    for name in ("r.npy", "r.h5", "r.nc"):
        target = tmp_path / f"real-{name}"
        target.write_text("old")
        target.chmod(0o640)
        link = tmp_path / name
        link.symlink_to(target)
        whole(str(link))
        assert link.is_symlink()
        assert os.name != "posix" or stat.S_IMODE(target.stat().st_mode) == 0o640
        np.testing.assert_array_equal(read(str(link)), R)


def test_names_that_clash_are_told(tmp_path):
    for out in ("r.h5:lat", "r.nc:lat", "r.nc:lon", "r.zarr:lat", "r.h5:lat/inside"):
        sink = open_sink(str(tmp_path / out))
        with pytest.raises(InputError, match="give the output another name"):
            sink.begin(R.shape, R.dtype, ATTRIBUTES, LABELS)
        sink.discard()
    assert os.listdir(tmp_path) == []


def test_wrong_outputs():
    for out in ("r.txt", "r", "r.npy:x", "r.npz", "r.zarr.zip"):
        with pytest.raises(InputError, match=r"tells its format: \.npy"):
            open_sink(out)
    with pytest.raises(InputError, match="int"):
        open_sink(3)
    assert open_sink("a:b.npy").path == "a:b.npy"
    assert open_sink("C:\\there\\r.H5:x").path == "C:\\there\\r.H5"
    with pytest.raises(InputError, match="NetCDF has no type for float16"):
        open_sink("r.nc").check(R.shape, np.dtype(np.float16))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "netCDF4", None)
    with pytest.raises(
        MissingPackageError, match=r"needs netCDF4: pip install netCDF4 \(lrpfast's extra 'netcdf': pip"
    ):
        open_sink(tmp_path / "r.nc").check(R.shape, R.dtype)
    monkeypatch.setitem(sys.modules, "zarr", None)
    whole(str(tmp_path / "r.zarr"))  # is written without it


def test_rows_that_do_not_fit(out):
    sink = open_sink(out)
    sink.begin(R.shape, R.dtype, ATTRIBUTES, LABELS, rows=ROWS)
    for first, rows in ((48, R[:3]), (0, R[:3, :2])):
        with pytest.raises(ShapeError, match="do not fit"):
            sink.write(first, rows)
    sink.discard()


# Sizes and types


@pytest.mark.parametrize("r", [R[:0], R[:1], R.astype(">f8"), R.astype(np.float64)[:, ::-1], R[:, 0, 0].copy()])
def test_other_sizes_and_types(out, r):
    whole(out, None, r)
    got = read(out)
    assert got.shape == r.shape
    np.testing.assert_array_equal(got, r)


@pytest.mark.parametrize("rows", [7, 8, 50, 90])
def test_a_number_of_samples_that_is_not_known_before(out, rows):
    sink = open_sink(out)
    shape = (None, 4, 6)
    if "npy" not in out and "zarr" not in out:
        with pytest.raises(InputError, match=r"needs the number of samples .* \.npy or \.zarr"):
            sink.check(shape, R.dtype)
        return
    assert whole(out, None, shape=shape, rows=rows) == whole(out, None, rows=rows)
    np.testing.assert_array_equal(read(out), R)


def test_rows_that_a_killed_run_wrote_beyond_the_end_are_cut(tmp_path):
    for name in ("r.npy", "r.zarr"):
        out = str(tmp_path / name)
        undisturbed = whole(out, None, R[:20], (None, 4, 6))
        sink = open_sink(out)
        sink.begin((None, 4, 6), R.dtype, ATTRIBUTES, None, rows=ROWS)
        fill(sink)
        sink.close()
        sink = open_sink(out)
        sink.begin((None, 4, 6), R.dtype, ATTRIBUTES, None, 16, ROWS)
        padded = np.concatenate([R[:20], R[:0]])
        fill(sink, 16, 20, padded)
        sink.finish()
        if isinstance(sink, ZarrSink):  # the rest of the last chunk is no part of the array
            np.testing.assert_array_equal(read(out), R[:20])
            assert content(out).keys() == undisturbed.keys()
        else:
            assert content(out) == undisturbed


def test_a_function_gets_every_row():
    got = []
    with open_sink(lambda first, rows: got.append((first, rows))) as sink:
        assert (sink.path, sink.partial, sink.resumable) == (None, None, False)
        sink.check(R.shape, R.dtype)
        sink.begin(R.shape, R.dtype, ATTRIBUTES, LABELS, rows=ROWS)
        fill(sink)
        sink.finish()
    assert [first for first, _ in got] == list(range(0, 50, 8))
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in got]), R)
    with pytest.raises(InputError, match="cannot be resumed"):
        sink.begin(R.shape, R.dtype, ATTRIBUTES, None, 8)


# Grids


def test_features_are_put_back_on_the_grid(tmp_path):
    mask = np.zeros((4, 6), bool)
    mask[1, 2:5] = mask[3, 0] = True
    grid = np.where(mask, R, np.float32(np.nan))
    np.testing.assert_array_equal(scatter(R[:, mask], mask), grid)
    np.testing.assert_array_equal(scatter(R[0, mask], mask, 0), np.where(mask, R[0], 0))
    with pytest.raises(ShapeError, match=r"shape \(50, 3\), where the mask has 4 features"):
        scatter(R[:, mask][:, :3], mask)
    array = xarray.DataArray(R, dims=LABELS.dims, name="sst")
    source = Masked(open_source(array), mask)
    for name in ("r.nc", "r.npy", "r.zarr"):
        with Gridded(open_sink(tmp_path / name), source.mask) as sink:
            sink.check(source.shape, R.dtype)
            sink.begin(source.shape, R.dtype, ATTRIBUTES, source.labels, rows=ROWS)
            fill(sink, r=source.read(0, 50))
            sink.finish()
        np.testing.assert_array_equal(read(str(tmp_path / name)), grid)
    with open_source(tmp_path / "r.nc") as written:
        assert written.labels.dims == ("time", "lat", "lon")
    got = []
    sink = Gridded(open_sink(lambda first, rows: got.append(rows)), mask)
    both = np.stack([R[:, mask], -R[:, mask]], 1)
    sink.begin(both.shape, R.dtype, {})
    fill(sink, r=both)
    np.testing.assert_array_equal(np.concatenate(got), np.stack([grid, -grid], 1))


# xarray and maps


def test_to_xarray_keeps_names_coordinates_and_attributes():
    time = xarray.date_range("2001-01-01", periods=50)
    coords = {"time": time, "lat": np.arange(4.0), "area": (("lat", "lon"), np.ones((4, 6)), {"units": "km2"})}
    array = xarray.DataArray(R, coords, ("time", "lat", "lon"), "sst", {"units": "K", "source": "made"})
    made = to_xarray(-R, from_xarray(array), ATTRIBUTES)
    xarray.testing.assert_equal(made, -array)
    assert made.name == "relevance"
    own = {"long_name": "relevance (LRP)", "units": "1", "source": "made"}
    assert made.attrs == {**own, **ATTRIBUTES}
    assert made.area.attrs == {"units": "km2"}
    assert to_xarray(np.stack([R, R], 1), from_xarray(array), {}).dims == ("time", "target", "lat", "lon")
    assert to_xarray(R, None, {}).dims == ("sample", "dim_1", "dim_2")


@pytest.mark.parametrize("calendar", ["standard", "noleap"])
def test_dates_of_xarray_come_back(calendar, out):
    time = xarray.date_range("2001-01-01", periods=50, calendar=calendar, use_cftime=calendar != "standard")
    array = xarray.DataArray(R, {"time": time}, ("time", "lat", "lon"))
    whole(out, from_xarray(array))
    if ".nc" in out or "zarr" in out:
        how = {} if ".nc" in out else {"engine": "zarr"}
        with xarray.open_dataset(path_of(out), **how) as data:
            assert (data.time == array.time).all()


def test_values_that_no_file_stores(tmp_path):
    what = Coord(("lat",), np.array([{}, "a", 1, None], object), {})
    labels = ArrayMetadata(("time", "lat", "lon"), {"what": what})
    with pytest.raises(InputError, match="coordinate what"):
        open_sink(tmp_path / "r.nc").begin(R.shape, R.dtype, {}, labels)


@pytest.mark.parametrize("name", ["m.nc", "m.h5", "m.npz", "m.zarr"])
def test_maps(name, tmp_path):
    path = tmp_path / name
    grid = {key: LABELS.coords[key] for key in ("lat", "area")}
    arrays = {
        "mean": (("class", "lat", "lon"), R[:2].astype(np.float64)),
        "count": (("class",), np.array([3, 4])),
        "positive": (("lat", "lon"), R[0] > 0),
    }
    coords = {**grid, "class": Coord(("class",), np.array(["cold", "warm"]), {})}
    write_maps(path, arrays, coords, ATTRIBUTES)
    assert os.listdir(tmp_path) == [name]
    first = content(path)
    for key, (_, values) in arrays.items():
        with open_source(f"{path}:{key}") as source:
            np.testing.assert_array_equal(source.read(0, len(values)), values)
    if name in ("m.nc", "m.zarr"):
        with xarray.open_dataset(path, **({} if name == "m.nc" else {"engine": "zarr"})) as data:
            assert data["mean"].dims == ("class", "lat", "lon")
            assert data["class"].values.tolist() == ["cold", "warm"]
            assert {key: data.attrs[key] for key in ATTRIBUTES} == ATTRIBUTES
            assert set(data["mean"].coords) == {"lat", "area", "class"}
    elif name == "m.npz":
        with np.load(path) as data:
            notes = json.loads(str(data["metadata"]))
        assert notes["dims"]["mean"] == ["class", "lat", "lon"]
        assert notes["attributes"] == ATTRIBUTES
    time.sleep(0.01)
    write_maps(path, arrays, coords, ATTRIBUTES)
    assert content(path) == first
    with pytest.raises(InputError, match="another name|same name"):
        write_maps(path, {"lat": (("lat",), np.zeros(4))}, coords, {})
    with pytest.raises(InputError, match=r"has shape \(4,\), but the dimensions"):
        write_maps(path, {"x": (("lat", "lon"), np.zeros(4))}, {}, {})
    assert content(path) == first
    assert os.listdir(tmp_path) == [name]


def test_maps_elsewhere(tmp_path):
    with pytest.raises(InputError, match=r"maps are written to \.nc"):
        write_maps(tmp_path / "m.txt", {}, {}, {})
    with pytest.raises(InputError, match="there is no folder"):
        write_maps(tmp_path / "no" / "m.nc", {}, {}, {})
