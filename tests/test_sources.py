"""Sources: every format gives the same rows, and says clearly what is wrong with a file."""

import itertools
import os
import shutil
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest

from lrpfast.batch.masks import Masked, open_mask
from lrpfast.batch.sources import open_array, open_source, split
from lrpfast.errors import InputError, MissingPackageError, ShapeError

netCDF4 = pytest.importorskip("netCDF4", reason="netCDF4 is not installed; lrpfast[test] brings it")
xarray = pytest.importorskip("xarray", reason="xarray is not installed; lrpfast[test] brings it")
zarr = pytest.importorskip("zarr", reason="zarr is not installed; lrpfast[test] brings it")
dask = pytest.importorskip("dask.array", reason="dask is not installed; lrpfast[test] brings it")

X = np.random.default_rng(7).standard_normal((50, 4, 6)).astype(np.float32)


def labelled(x=X):
    time = xarray.date_range("2001-01-01", periods=len(x), calendar="noleap", use_cftime=True)
    coords = {
        "time": time,
        "lat": ("lat", np.linspace(-3, 3, 4), {"units": "degrees_north"}),
        "lon": np.arange(6.0),
        "area": (("lat", "lon"), np.arange(24.0).reshape(4, 6)),
    }
    return xarray.DataArray(x, coords, ("time", "lat", "lon"), "sst", {"units": "K", "source": "made"})


def to_hdf5(path, name="group/x", **how):
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=X, **how)


def to_zip(path):
    store = zarr.storage.ZipStore(path, mode="w")
    zarr.open(store, mode="w", shape=X.shape, dtype="f4", chunks=(9, 4, 6))[:] = X
    store.close()


def to_zarr(path, version, **how):
    key = "zarr_format" if int(zarr.__version__.split(".")[0]) >= 3 else "zarr_version"
    labelled().chunk(time=7).to_zarr(path, **{key: version}, consolidated=version == 2, **how)


#: How each kind of file is written, and the rows that it stores together. The names tell nothing: contents do.
FILES = {
    "npy": (lambda p: save(p, X), 1),
    "npz": (lambda p: save(p, by=np.savez, x=X), 1),
    "npz, packed": (lambda p: save(p, by=np.savez_compressed, x=X), 1),
    "hdf5": (to_hdf5, 1),
    "hdf5, packed": (lambda p: to_hdf5(p, chunks=(10, 2, 3), compression="gzip"), 10),
    "netcdf 4": (lambda p: labelled().to_netcdf(p, format="NETCDF4"), 1),
    "netcdf 4, packed": (
        lambda p: labelled().to_netcdf(p, encoding={"sst": {"zlib": True, "chunksizes": (25, 4, 6)}}),
        25,
    ),
    "netcdf 3": (lambda p: labelled().to_netcdf(p, format="NETCDF3_CLASSIC"), 1),
    "netcdf 3, growing": (lambda p: labelled().to_netcdf(p, format="NETCDF3_64BIT", unlimited_dims=["time"]), 1),
    "zarr 2": (lambda p: to_zarr(p, 2), 7),
    "zarr 3": (lambda p: to_zarr(p, 3), 7),
    "zarr, zip": (to_zip, 9),
}
SINGLE = [kind for kind in FILES if kind not in ("zarr 2", "zarr 3")]


def save(path, *arrays, by=np.save, **named):
    with open(path, "wb") as file:  # a path would get an ending
        by(file, *arrays, **named)


@pytest.fixture(params=FILES)
def kind(request):
    if request.param == "zarr 3" and int(zarr.__version__.split(".")[0]) < 3:
        pytest.skip("zarr 2 does not read format 3")
    return request.param


def make(kind, path):
    FILES[kind][0](str(path))
    return str(path)


def rows_of(source, *cuts):
    cuts = (0, *cuts, source.shape[0])
    return np.concatenate([source.read(a, b) for a, b in itertools.pairwise(cuts)])


@pytest.mark.filterwarnings("ignore::UserWarning")  # zarr's and xarray's of formats
def test_every_file_gives_the_same_rows(kind, tmp_path):
    path = make(kind, tmp_path / "file.bin")
    with open_source(path) as source:
        assert (source.shape, source.dtype, source.step) == (X.shape, np.float32, FILES[kind][1])
        source.ahead(0, 20)
        np.testing.assert_array_equal(source.read(0, 20), X[:20])
        source.done(20)
        np.testing.assert_array_equal(source.read(20, 50), X[20:])
        np.testing.assert_array_equal(rows_of(source, 1, 17), X)  # rows that were given back can be read again
        assert source.read(3, 3).shape == (0, 4, 6)
        out = np.empty((25, 4, 6), np.float32)
        for first in (0, 20, 40):
            rows = source.read_into(first, min(50, first + 20), out)
            np.testing.assert_array_equal(rows, X[first : first + 20])
            assert np.shares_memory(rows, out)
        assert path in source.name
        first = source.fingerprint
    if kind.startswith(("netcdf", "zarr 2", "zarr 3")):
        assert source.labels.dims == ("time", "lat", "lon")
        assert set(source.labels.coords) == {"time", "lat", "lon", "area"}
        assert source.labels.coords["lat"].attrs["units"] == "degrees_north"
        assert source.labels.coords["time"].attrs["calendar"] == "noleap"
        assert source.labels.attrs["source"] == "made"
    else:
        assert source.labels is None
    with open_source(path) as source:
        assert source.fingerprint == first
    name = {"npz": "x", "hdf": "group/x", "net": "sst", "zar": "sst"}.get(kind[:3])
    if name and kind != "zarr, zip":
        with open_source(f"{path}:{name}") as source:
            np.testing.assert_array_equal(rows_of(source, 9), X)
        with pytest.raises(InputError, match="there is no .*nothing"):
            open_source(f"{path}:nothing")


@pytest.mark.parametrize("kind", SINGLE)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_cut_file_is_told(kind, share, tmp_path):
    path = make(kind, tmp_path / "file.bin")
    with open(path, "r+b") as file:
        file.truncate(int(os.path.getsize(path) * share))
    with pytest.raises(InputError, match="file.bin"):
        open_source(path)


@pytest.mark.parametrize("what", ["cut", "changed", "replaced", "gone"])
@pytest.mark.parametrize("kind", SINGLE)
def test_a_file_that_changes_meanwhile_is_told(kind, what, tmp_path):
    path = make(kind, tmp_path / "file.bin")
    with open_source(path) as source:
        source.read(0, 10)
        if what == "cut":
            os.truncate(path, 100)
        elif what == "changed":
            os.utime(path, ns=(1, 1))
        elif what == "replaced":
            shutil.copy2(path, tmp_path / "other")
            os.replace(tmp_path / "other", path)
        else:
            os.unlink(path)
        with pytest.raises((InputError, FileNotFoundError), match=r"file\.bin.*: rows 10 to 19 cannot be read"):
            source.read(10, 20)
        with pytest.raises((InputError, FileNotFoundError), match=r"file\.bin.*: rows 10 to 19 cannot be read"):
            source.read_into(10, 20, np.empty((10, 4, 6), np.float32))


def test_a_file_cut_at_the_moment_of_reading(tmp_path, monkeypatch):
    """After the check: a mapped page would kill the process."""
    path = make("npy", tmp_path / "x")
    with open_source(path) as source:
        check = type(source)._unchanged
        calls = []

        def checked(self, rows):
            check(self, rows)
            calls.append(rows)
            os.truncate(path, 1000)

        monkeypatch.setattr(type(source), "_unchanged", checked)
        with pytest.raises(InputError, match=r"rows 10 to 19 cannot be read: the file was cut"):
            source.read_into(10, 20, np.empty((10, 4, 6), np.float32))
        assert len(calls) == 1


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_vanished_or_damaged_zarr_store_is_told(tmp_path):
    path = make("zarr 2", tmp_path / "x.zarr")
    with open_source(path) as source:
        with open(tmp_path / "x.zarr" / "sst" / "1.0.0", "r+b") as file:
            file.write(b"\0" * 40)
        with pytest.raises(InputError, match="rows 7 to 13 cannot be read"):
            source.read(7, 14)
        before = source.fingerprint
        os.utime(tmp_path / "x.zarr" / "sst" / "0.0.0", ns=(1, 1))
        with open_source(path) as other:
            assert other.fingerprint != before
        shutil.rmtree(path)
        with pytest.raises(FileNotFoundError, match="rows 0 to 6 cannot be read"):
            source.read(0, 7)


def test_a_damaged_chunk_is_told(tmp_path):
    path = tmp_path / "x.h5"
    to_hdf5(path, chunks=(10, 4, 6), compression="gzip")
    with h5py.File(path) as file:
        offset = file["group/x"].id.get_chunk_info(2).byte_offset
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 50)
    with open_source(path) as source:
        source.read(0, 20)
        with pytest.raises(InputError, match="rows 20 to 29 cannot be read"):
            source.read(20, 30)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">f8", "f2", "i1", "u8", ">i4", "bool"])
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("form", ["npy", "npz", "hdf5", "memory"])
def test_types_and_orders(dtype, order, form, tmp_path):
    x = (X * 10).astype(dtype, order=order)
    path = str(tmp_path / "x")
    if form == "npy":
        save(path, x)
    elif form == "npz":
        save(path, by=np.savez, x=x)
    elif form == "hdf5":
        with h5py.File(path, "w") as file:
            file["x"] = x
    with open_source(x if form == "memory" else path) as source:
        assert source.dtype == x.dtype
        rows = rows_of(source, 13)
        assert rows.flags.aligned
        np.testing.assert_array_equal(rows, x)
        source.done(30)
        np.testing.assert_array_equal(source.read(20, 50), x[20:])
        np.testing.assert_array_equal(source.read_into(20, 50, np.empty((30, 4, 6), x.dtype)), x[20:])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["npy", "npz", "npz, packed", "hdf5", "netcdf 4", "netcdf 3", "zarr 2", "zarr, zip"])
def test_no_samples(kind, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "X", X[:0])
    monkeypatch.setitem(globals(), "labelled", lambda make=labelled: make(X))
    with open_source(make(kind, tmp_path / "file")) as source:
        assert source.shape == (0, 4, 6)
        assert source.read(0, 0).shape == (0, 4, 6)
        source.ahead(0, 0)
        source.done(0)
        assert source.fingerprint is not None


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["NETCDF4", "NETCDF3_64BIT", 2, 3])
def test_packed_and_missing_values(form, tmp_path):
    x = np.round(X.clip(-3, 3), 2)
    x[3, 1] = x[40, :, 2] = np.nan
    array, how = labelled(x), {"sst": {"dtype": "i2", "scale_factor": 0.01, "add_offset": 1.5, "_FillValue": -999}}
    path = str(tmp_path / "x")
    if isinstance(form, str):
        array.to_netcdf(path, format=form, encoding=how)
    elif form == 3 and int(zarr.__version__.split(".")[0]) < 3:
        pytest.skip("zarr 2 does not read format 3")
    else:
        array.to_zarr(path, encoding=how, consolidated=False, **({"zarr_format": 3} if form == 3 else {}))
    with open_source(path) as source:
        assert source.dtype == np.float32
        rows = rows_of(source, 11)
        np.testing.assert_allclose(rows, x, rtol=0, atol=2e-6)
        np.testing.assert_array_equal(np.isnan(rows), np.isnan(x))
        assert not {"scale_factor", "add_offset", "_FillValue"} & set(source.labels.attrs)


def test_integers_in_netcdf(tmp_path):
    path = str(tmp_path / "x.nc")
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("n", 5)
        file.createVariable("plain", "i4", ("n",))[:] = [1, 2, 3, 4, 5]
        file.createVariable("holes", "i4", ("n",), fill_value=-1)[:] = [1, -1, 3, 4, 5]
        file.createVariable("short", "i4", ("n",))[:2] = [1, 2]  # the rest is never written
    with open_source(f"{path}:plain") as source:
        assert source.dtype == np.int32
        assert source.read(0, 5).tolist() == [1, 2, 3, 4, 5]
    with open_source(f"{path}:holes") as source:
        np.testing.assert_array_equal(source.read(0, 5), np.array([1, np.nan, 3, 4, 5]))
    with open_source(f"{path}:short") as source, pytest.raises(InputError, match="never written"):
        source.read(0, 5)
    with pytest.raises(InputError, match=r"3 variables .* plain \(5,\), holes \(5,\), short \(5,\)"):
        open_source(path)


@pytest.mark.parametrize("attrs", [{}, {"missing_value": -5}, {"missing_value": [-5, 7]}, {"valid_range": [-2, 2]}])
@pytest.mark.parametrize("fill", [None, 3.0, np.nan])
@pytest.mark.parametrize("form", ["NETCDF4", "NETCDF3_CLASSIC"])
def test_missing_floats_are_what_netcdf4_masks(form, fill, attrs, tmp_path):
    path = str(tmp_path / "x.nc")
    usual = netCDF4.default_fillvals["f4"]
    values = np.array([1, 3, -5, 7, np.nan, usual, -0.0, 8], np.float32)
    with netCDF4.Dataset(path, "w", format=form) as file:
        file.createDimension("n", len(values))
        made = file.createVariable("x", "f4", ("n",), fill_value=fill)
        made.set_auto_maskandscale(False)
        made.setncatts({key: np.float32(value) for key, value in attrs.items()})
        made[:] = values
    with netCDF4.Dataset(path) as file, open_source(path) as source:
        np.testing.assert_array_equal(source.read(0, 8), np.ma.filled(file["x"][:], np.nan))


@pytest.mark.parametrize("fill, missing", [(-5, [False, True, False]), (1e20, [False] * 3), (-5.5, [False] * 3)])
def test_a_missing_value_that_the_integers_cannot_hold_is_no_value(fill, missing, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.array([0, -5, 7], np.int16)
        file["x"].attrs["missing_value"] = fill
    with open_source(f"{tmp_path}/x.h5:x") as source:
        assert np.isnan(source.read(0, 3)).tolist() == missing


def test_an_infinite_scale_is_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.zeros(3, np.int16)
        file["x"].attrs["scale_factor"] = np.inf
    with pytest.raises(InputError, match=r"x.h5.*scale_factor is inf"):
        open_source(f"{tmp_path}/x.h5:x")


def test_netcdf_made_by_the_library_in_groups(tmp_path):
    path = str(tmp_path / "x.nc")
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("n", 5)
        file.createVariable("n", "f8", ("n",))[:] = np.arange(5) * 2.0
        group = file.createGroup("deep")
        group.createVariable("x", "f4", ("n",))[:] = 1
        crs = group.createVariable("crs", "i4", ())
        crs.grid_mapping_name = "mercator"
        group["x"].grid_mapping = "crs"
        group["x"].coordinates = "n2"
        file.createVariable("n2", "f8", ("n",))[:] = 3
    for name in (path, f"{path}:deep/x"):
        with open_source(name) as source:
            assert source.name == f"{path}:deep/x"
            assert set(source.labels.coords) == {"n", "crs", "n2"}
            assert source.labels.coords["n"].values.tolist() == [0, 2, 4, 6, 8]
            assert source.labels.coords["crs"].attrs["grid_mapping_name"] == "mercator"


def test_a_colon_in_a_path(tmp_path):
    save(tmp_path / "a:b.npy", X)
    to_hdf5(tmp_path / "c:d.h5", "g/e")
    (tmp_path / "c").write_bytes(b"other")
    with open_source(tmp_path / "a:b.npy") as source:
        np.testing.assert_array_equal(rows_of(source), X)
    with open_source(f"{tmp_path / 'c:d.h5'}:g/e") as source:
        np.testing.assert_array_equal(rows_of(source), X)
    assert split(f"{tmp_path}/a:b.npy") == (f"{tmp_path}/a:b.npy", None)
    assert split("C:\\there\\x.npy") == ("C:\\there\\x.npy", None)
    with pytest.raises(FileNotFoundError, match="x.npy"):
        open_source("C:\\there\\x.npy")
    with pytest.raises(InputError, match="holds one array"):
        open_source(f"{tmp_path / 'a:b.npy'}:x")


def test_what_is_no_source(tmp_path):
    def wrong(content, match, name="file"):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content(path)
        with pytest.raises(InputError, match=match):
            open_source(path)

    wrong(b"", "an empty file")
    wrong(b"\x80\x04\x95", "pickle")
    wrong(b"hello, world", "not an .npy, .npz, HDF5, NetCDF or Zarr file")
    wrong(b"\x93NUMPY\x01\x00\x10\x00{'descr'", "damaged .npy")
    wrong(b"CDF\x01garbage", "NetCDF")
    wrong(b"PK\x03\x04garbage", "zip")
    wrong(lambda p: save(p, np.array([{}])), "Python objects")
    wrong(lambda p: save(p, np.array(["a"])), "no real numbers")
    wrong(lambda p: save(p, np.zeros(3, complex)), "no real numbers")
    wrong(lambda p: save(p, np.zeros(3, [("a", "f4")])), "no real numbers")
    wrong(lambda p: save(p, np.float32(1)), "single number")
    wrong(lambda p: save(p, by=np.savez, a=X, b=X), "2 arrays; name one as .*:NAME of: a, b")
    wrong(lambda p: zipfile.ZipFile(p, "w").writestr("a.txt", "a"), "neither NumPy's arrays nor a Zarr store")
    wrong(lambda p: h5py.File(p, "w").close(), "0 datasets")
    wrong(lambda p: p.mkdir(), "folder, and no Zarr store", "folder")
    with pytest.raises(InputError, match="regular file"):
        open_source(os.devnull)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a/x"], file["y"] = X, X
        file.create_dataset("unwritten", (5, 3), "f4")
        file["link"] = h5py.ExternalLink("other.h5", "x")
        file["words"] = ["a", "b"]
        layout = h5py.VirtualLayout((5, 3), "f4")
        layout[:] = h5py.VirtualSource("other.h5", "x", (5, 3))
        file.create_virtual_dataset("virtual", layout)
    for name, match in {
        "": r"4 datasets .* a/x \(50, 4, 6\)",
        ":a": "is a group, with x inside",
        ":unwritten": "never written",
        ":link": "is a link",
        ":words": "no real numbers",
        ":virtual": "other files",
    }.items():
        with pytest.raises(InputError, match=match):
            open_source(f"{tmp_path / 'x.h5'}{name}")
    things = (([1.0, 2.0], "asarray"), (3, "int"), ({}, "dict"), (np.float32(3), "single number"), (None, "None"))
    for x, match in things:
        with pytest.raises(InputError, match=match):
            open_source(x)
    with pytest.raises(InputError, match="Dataset holds several variables.*sst"):
        open_source(labelled().to_dataset())
    with pytest.raises(InputError, match="real numbers"):
        open_source(np.array(["a"]))


def test_more_data_declared_than_packed(tmp_path):
    path = tmp_path / "x.npz"
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 100)
    with pytest.raises(InputError, match="truncated"):
        open_source(path)


def test_arrays_in_memory():
    with open_source(X) as source:
        assert np.shares_memory(source.read(2, 9), X)
        same = source.fingerprint
    assert open_source(np.asfortranarray(X)).fingerprint == same
    changed = X.copy()
    changed[-1, -1, -1] += 1
    assert open_source(changed).fingerprint != same
    assert open_source(X.reshape(50, 24)).fingerprint != same
    assert open_source(X.view(np.int32)).fingerprint != same
    read_only = X[::-1]
    read_only.flags.writeable = False
    np.testing.assert_array_equal(rows_of(open_source(read_only), 5), X[::-1])


def test_what_can_be_made_an_array():
    class WithArray:
        def __array__(self, dtype=None, copy=None):
            return X

    class WithDLPack:
        def __dlpack__(self, **how):
            return X.copy().__dlpack__(**how)

        def __dlpack_device__(self):
            return X.__dlpack_device__()

    for x in (WithArray(), WithDLPack()):
        with open_source(x) as source:
            assert source.name == type(x).__name__
            np.testing.assert_array_equal(rows_of(source, 5), X)


def test_a_memory_mapped_array(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with open_source(np.load(tmp_path / "x.npy", mmap_mode="r")) as source:
        rows = source.read(0, 50)
        source.done(50)
        np.testing.assert_array_equal(rows, X)
        assert source.fingerprint == open_source(X).fingerprint


def test_iterators():
    def batches():
        buffer = np.empty((9, 4, 6), np.float32)
        for first in range(0, 50, 9):  # one buffer for all, which is written over
            part = buffer[: min(9, 50 - first)]
            part[:] = X[first : first + 9]
            yield part
            yield part[:0]

    with open_source(batches()) as source:
        assert (source.shape, source.dtype, source.fingerprint) == ((None, 4, 6), np.float32, None)
        np.testing.assert_array_equal(source.read(0, 20), X[:20])
        np.testing.assert_array_equal(source.read(20, 22), X[20:22])
        with pytest.raises(InputError, match="row 22 is next, not 0"):
            source.read(0, 20)
        np.testing.assert_array_equal(source.read(22, 60), X[22:])
        assert source.read(50, 60).shape == (0, 4, 6)


def test_wrong_batches():
    with pytest.raises(InputError, match="no batch at all"):
        open_source(iter([]))
    with pytest.raises(InputError, match="batch 0 is of type tuple"):
        open_source(iter([(X, X)]))
    for second, error, match in (
        (X[:, :2], ShapeError, "batch 1 has samples of shape"),
        (X.astype(float), InputError, "batch 1 has dtype float64"),
        (np.array(["a"]), InputError, "batch 1 must be real numbers"),
    ):
        with pytest.raises(error, match=match):
            open_source(iter([X[:5], second])).read(0, 9)

    def failing():
        yield X[:5]
        raise KeyError("theirs")

    with pytest.raises(KeyError, match="theirs"):
        open_source(failing()).read(0, 9)


def test_dask_and_xarray():
    lazy = dask.from_array(X, chunks=(11, 2, 6))
    array = labelled()
    for x, step, labels in ((lazy, 11, False), (array, 1, True), (array.chunk(time=8), 8, True)):
        with open_source(x) as source:
            assert (source.shape, source.dtype, source.step) == (X.shape, np.float32, step)
            np.testing.assert_array_equal(rows_of(source, 11, 30), X)
            assert source.fingerprint is not None
            if labels:
                assert (source.labels.dims, source.labels.name) == (("time", "lat", "lon"), "sst")
                assert list(source.labels.coords) == ["time", "lat", "lon", "area"]
    assert open_source(lazy).fingerprint == open_source(dask.from_array(X, chunks=(11, 2, 6))).fingerprint
    assert open_source(lazy).fingerprint != open_source(dask.from_array(X + 1, chunks=(11, 2, 6))).fingerprint

    def fails(block):
        raise OSError("disk on fire")

    with pytest.raises(InputError, match="rows 0 to 4 cannot be computed .*disk on fire"):
        open_source(lazy.map_blocks(fails, dtype=np.float32)).read(0, 5)
    with pytest.raises(InputError, match="compute_chunk_sizes"):
        open_source(lazy[lazy[:, 0, 0] > 0])


@pytest.mark.parametrize(("package", "kind"), [("netCDF4", "netcdf 3"), ("netCDF4", "netcdf 4"), ("zarr", "zarr, zip")])
def test_a_missing_package_is_named(package, kind, tmp_path, monkeypatch):
    path = make(kind, tmp_path / "file")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"needs {package}: pip install {package} \("):
        open_source(path)


def test_nothing_heavy_is_imported_for_an_npy_file(tmp_path):
    np.save(tmp_path / "x.npy", X)
    code = (
        "import sys, lrpfast.batch.sinks; from lrpfast.batch.sources import open_source\n"
        "open_source(sys.argv[1]).read(0, 5)\n"
        "assert not {'h5py', 'netCDF4', 'zarr', 'xarray', 'dask'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "x.npy"], check=True)


@pytest.mark.parametrize("order", "CF")
def test_a_file_that_is_cut_kills_no_process(order, tmp_path):
    """No page of a file is mapped to memory: the process would get SIGBUS where the file has none."""
    x = np.asarray(np.arange(40 * 5 * 600, dtype=">f4").reshape(40, 5, 600), order=order)
    np.save(tmp_path / "x.npy", x)
    code = (
        "import os, sys, lrpfast, numpy as np\n"
        "from lrpfast.batch.sources import open_source\n"
        "lrpfast.batch.sources.mapped._WINDOW = 8 * 12000  # bytes of 8 rows\n"
        "with open_source(sys.argv[1]) as source:\n"
        "    rows = source.read(3, 40)\n"
        "    type(source)._unchanged = lambda self, rows: None  # the file is cut after the check\n"
        "    os.truncate(sys.argv[1], 1000)\n"
        "    assert rows.sum() > 0\n"
        "    for read in (source.read, lambda a, b: source.read_into(a, b, np.empty((b - a, 5, 600), '>f4'))):\n"
        "        try:\n"
        "            read(20, 40).sum()\n"
        "        except lrpfast.InputError as error:\n"
        "            print(error)\n"
    )
    made = subprocess.run([sys.executable, "-c", code, tmp_path / "x.npy"], check=True, capture_output=True, text=True)
    assert made.stdout.count("rows 20 to 39 cannot be read (EOFError: the file ends there)") == 2


@pytest.mark.parametrize("array", [np.arange(6).reshape(2, 3), np.asfortranarray(np.eye(3)[:2]), np.array(["ü", ""])])
def test_labels_are_read_into_memory(array, tmp_path):
    """As targets are: the process would get SIGBUS where their file is cut."""
    np.save(tmp_path / "x.npy", array)
    labels = open_array(tmp_path / "x.npy")
    os.truncate(tmp_path / "x.npy", 100)
    np.testing.assert_array_equal(labels, array)
    assert labels.dtype == array.dtype and not isinstance(labels, np.memmap)
    with pytest.raises(InputError, match="x.npy: .*(truncated|damaged)"):
        open_array(tmp_path / "x.npy")


# Masks


def test_a_mask_picks_features(tmp_path):
    mask = np.zeros((4, 6), bool)
    mask[1, 2:5] = mask[3, 0] = True
    x = X.copy()
    x[:, ~mask] = np.nan
    with Masked(open_source(labelled(x)), mask) as source:
        assert (source.shape, source.labels.dims) == ((50, 4), ("time", "feature"))
        np.testing.assert_array_equal(rows_of(source, 12), X[:, mask])
        out = np.empty((30, 4), np.float32)
        for first in (0, 30):
            rows = source.read_into(first, min(50, first + 30), out)
            np.testing.assert_array_equal(rows, X[first : first + 30, mask])
        np.testing.assert_array_equal(source.labels.coords["lat"].values, [-1, -1, -1, 3])
        np.testing.assert_array_equal(source.labels.coords["lon"].values, [2, 3, 4, 0])
        np.testing.assert_array_equal(source.labels.coords["area"].values, [8, 9, 10, 18])
        assert source.labels.coords["time"].dims == ("time",)
        assert source.labels.grid.dims == ("time", "lat", "lon")
        source.ahead(0, 5)
        source.done(5)
    other = mask.copy()
    other[0, 0] = True
    prints = [Masked(open_source(X), m).fingerprint for m in (mask, mask, other)]
    assert prints[0] == prints[1] != prints[2]
    with Masked(open_source(iter([X])), mask) as source:
        assert (source.shape, source.fingerprint) == ((None, 4), None)
        np.testing.assert_array_equal(source.read(0, 99), X[:, mask])
    np.save(tmp_path / "mask.npy", mask.astype(np.int16))
    np.testing.assert_array_equal(open_mask(tmp_path / "mask.npy"), mask)
    with pytest.raises(ShapeError, match=r"shape \(4, 6\), the mask \(6, 4\)"):
        Masked(open_source(X), mask.T)
    for wrong, match in ((mask * 2, "True and False, or 0 and 1"), (mask & False, "no feature"), (X[0], "0 and 1")):
        with pytest.raises(InputError, match=match):
            open_mask(wrong)


@pytest.mark.parametrize("dtype", ["f4", ">f4", "f8", "i8", "i2", "?"])
@pytest.mark.parametrize("window", [1, 7, 1000])
@pytest.mark.parametrize("shape", [(23, 6), (23, 2, 3), (23, 2, 1, 3), (23, 1), (1, 5), (23, 0), (0, 4), (70, 43, 61)])
def test_an_array_in_fortran_order_is_read_by_windows_of_rows(shape, window, dtype, tmp_path, monkeypatch):
    x = np.asfortranarray(np.arange(np.prod(shape), dtype=np.float32).reshape(shape).astype(dtype))
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr("lrpfast.batch.sources.mapped._WINDOW", window * 24)
    monkeypatch.setattr("lrpfast.batch.sources.fortran._FEATURES", 4)
    monkeypatch.setattr("lrpfast.batch.parallel.LEAST", 1)  # several threads
    for of in (tmp_path / "x.npy", x):
        with open_source(of) as source:
            for first in [row for row in (0, 5, 3, 20) if row <= len(x)]:
                out = np.empty((4, *shape[1:]), source.dtype)
                np.testing.assert_array_equal(
                    source.read_into(first, min(first + 4, len(x)), out), x[first : first + 4]
                )
            np.testing.assert_array_equal(source.read(0, len(x)), x)


@pytest.mark.parametrize("kind", [np.uint32, np.uint64])
@pytest.mark.parametrize("samples", [1, 3, 4, 15, 16, 17, 33, 100])
@pytest.mark.parametrize("features", [1, 3, 4, 5, 23, 30, 1023, 1025, 2051])
def test_transposition(features, samples, kind):
    """All edges of its blocks and panels, in any range of features, with an order and without."""
    from lrpfast.batch._moments import transpose

    rng = np.random.default_rng(features)
    x = rng.integers(0, 2**31, size=(features, samples + 7)).astype(kind)[:, 2 : 2 + samples]
    for order in (None, rng.permutation(features)):
        rows = np.zeros((samples, features), kind)
        border = int(rng.integers(features + 1))
        transpose(x, order, rows, border, features)
        assert not rows[:, :border].any()
        transpose(x, order, rows, 0, border)
        np.testing.assert_array_equal(rows, (x if order is None else x[order]).T)
    for wrong in ((x, None, rows, 0, features + 1), (x, None, rows[:-1], 0, 1), (x[:, ::2], None, rows, 0, 1)):
        if wrong[0].shape[1] != samples or len(wrong[2]) != samples or wrong[4] > features:
            with pytest.raises(ValueError, match="samples of a feature|fewer features"):
                transpose(*wrong)
