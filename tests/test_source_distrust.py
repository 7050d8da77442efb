"""Data files that nobody vouches for: no code of theirs is run, and no link leads out of them."""

import json
import os
import pickle
import shutil
import struct
import sys
import zipfile
import zlib

import h5py
import numpy as np
import pytest

from lrpfast.batch.sources import hdf5, open_source
from lrpfast.batch.sources.zarr_store import CODECS, check_store
from lrpfast.errors import InputError

X = np.arange(12, dtype="<f4").reshape(3, 4)
PICKLE2 = {"id": "pickle"}
PICKLE3 = {"name": "numcodecs.pickle", "configuration": {}}
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


class Evil:
    """What a pickle would run."""

    def __reduce__(self):
        return exec, ("import sys; sys._lrpfast_was_run = True",)


def array2(compressor=None, filters=None, dtype="<f4", shape=X.shape):
    fixed = {"zarr_format": 2, "order": "C", "fill_value": None, "dtype": dtype}
    return {**fixed, "shape": shape, "chunks": shape, "compressor": compressor, "filters": filters}


def array3(codecs, shape=X.shape):
    grid = {"name": "regular", "configuration": {"chunk_shape": shape}}
    keys = {"name": "default", "configuration": {"separator": "/"}}
    fixed = {"zarr_format": 3, "node_type": "array", "data_type": "float32", "fill_value": 0, "attributes": {}}
    return {**fixed, "shape": shape, "chunk_grid": grid, "chunk_key_encoding": keys, "codecs": codecs}


def group3(**members):
    inside = {"consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": members}}
    return {"zarr_format": 3, "node_type": "group", "attributes": {}, **(inside if members else {})}


def shards(inner, index=(BYTES,)):
    how = {"chunk_shape": X.shape, "codecs": inner, "index_codecs": list(index), "index_location": "end"}
    return [{"name": "sharding_indexed", "configuration": how}]


GROUP2 = {".zgroup": {"zarr_format": 2}}
DIMS = {"_ARRAY_DIMENSIONS": ["time", "p"]}


def coordinate(**how):
    described = {"p/.zarray": array2(shape=[4], **how), "p/.zattrs": {"_ARRAY_DIMENSIONS": ["p"]}}
    return {**GROUP2, "v/.zarray": array2(), "v/.zattrs": DIMS, **described}


#: Stores whose metadata name a codec that unpickles, wherever it can stand.
EVIL = {
    "compressor": {**GROUP2, "v/.zarray": array2(PICKLE2)},
    "filter": {**GROUP2, "v/.zarray": array2(None, [PICKLE2])},
    "second filter": {**GROUP2, "v/.zarray": array2(None, [{"id": "delta", "dtype": "<f4"}, PICKLE2])},
    "one array": {".zarray": array2(PICKLE2)},
    "a coordinate's compressor": coordinate(compressor=PICKLE2),
    "a coordinate's filter": coordinate(filters=[PICKLE2]),
    "a coordinate of objects": coordinate(filters=[PICKLE2], dtype="|O"),
    "deep inside": {**GROUP2, "a/.zgroup": {"zarr_format": 2}, "a/b/v/.zarray": array2(PICKLE2), "v/.zarray": array2()},
    "consolidated": {
        **GROUP2,
        "v/.zarray": array2(),
        ".zmetadata": {"zarr_consolidated_format": 1, "metadata": {**GROUP2, "v/.zarray": array2(PICKLE2)}},
    },
    "wrapped": {**GROUP2, "v/.zarray": array2({"id": "n5_wrapper", "compressor_config": PICKLE2})},
    "without a name": {**GROUP2, "v/.zarray": array2({"name": "pickle"})},
    "3": {"zarr.json": group3(), "v/zarr.json": array3([PICKLE3])},
    "3, by its short name": {"zarr.json": group3(), "v/zarr.json": array3([BYTES, "pickle"])},
    "3, in shards": {"zarr.json": group3(), "v/zarr.json": array3(shards([PICKLE3]))},
    "3, in shards of shards": {"zarr.json": group3(), "v/zarr.json": array3(shards(shards([BYTES, PICKLE3])))},
    "3, in the index of shards": {"zarr.json": group3(), "v/zarr.json": array3(shards([BYTES], [PICKLE3]))},
    "3, consolidated": {"zarr.json": group3(v=array3([PICKLE3])), "v/zarr.json": array3([BYTES])},
    "3, consolidated, called .zattrs": {"zarr.json": group3(**{"a/.zattrs": array3([PICKLE3])})},
}


def write(folder, files):
    for name, content in files.items():
        place = os.path.join(folder, name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            file.write(content if isinstance(content, bytes) else json.dumps(content).encode())


def packed(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for here, _, names in os.walk(folder):
            for name in names:
                place = os.path.join(here, name)
                archive.write(place, os.path.relpath(place, folder))
    return path


@pytest.fixture
def store(tmp_path):
    pytest.importorskip("zarr", reason="zarr is not installed; lrpfast[test] brings it")
    write(tmp_path / "good.zarr", {**GROUP2, "v/.zarray": array2(), "v/.zattrs": DIMS, "v/0.0": X.tobytes()})
    with open_source(f"{tmp_path}/good.zarr:v") as source:
        np.testing.assert_array_equal(source.read(0, 3), X)
    return tmp_path / "good.zarr"


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("where", EVIL)
def test_a_zarr_store_runs_no_code(where, archive, store, tmp_path):
    path = str(tmp_path / "evil.zarr")
    evil = pickle.dumps(Evil())
    write(path, {**EVIL[where], "v/0.0": evil, "v/c/0/0": evil, "p/0": evil, "0.0": evil})
    if archive:
        path = packed(path, str(tmp_path / "evil.zip"))
    for name in (path, f"{path}:v"):
        with pytest.raises(InputError, match="names the codec .* could run code; write the array with"):
            open_source(name)
    assert not hasattr(sys, "_lrpfast_was_run")


def test_what_zarr_writes_is_allowed():
    """Every codec that the installed packages know, but for those that are no data alone."""
    registry = pytest.importorskip("numcodecs.registry", reason="numcodecs is not installed; lrpfast[test] brings it")
    assert set(registry.codec_registry) - CODECS <= {"pickle", "n5_wrapper", "json", "msgpack"}
    assert not {"pickle", "numcodecs.pickle", "n5_wrapper", ""} & CODECS


def test_notes_that_look_like_codecs_are_notes(store):
    """Attributes are anything."""
    write(store, {"v/.zattrs": {**DIMS, "filters": [PICKLE2], "compressor": PICKLE2, "codecs": ["pickle"]}})
    several = {"v/.zattrs": {"compressor": PICKLE2}, "v/.zarray": array2(), **GROUP2}
    write(store, {".zmetadata": {"zarr_consolidated_format": 1, "metadata": several}})
    with open_source(f"{store}:v") as source:
        np.testing.assert_array_equal(source.read(0, 3), X)


@pytest.mark.parametrize("what", ["chunk", "metadata", "array", "group", "later"])
def test_no_link_in_a_store_is_followed(what, store, tmp_path):
    shutil.copytree(store, tmp_path / "other")
    place = {"chunk": "v/0.0", "metadata": "v/.zarray", "array": "v", "group": "g", "later": "v/0.0"}[what]
    source = open_source(f"{store}:v")
    first = source.fingerprint
    assert first is not None
    if what in ("chunk", "metadata", "later"):
        os.unlink(store / place)
        os.symlink(tmp_path / "other" / place, store / place)
    else:
        shutil.rmtree(store / place, ignore_errors=True)
        os.symlink(tmp_path / "other" / ("v" if what == "array" else ""), store / place, target_is_directory=True)
    with pytest.raises((InputError, OSError), match="link to another place|cannot be read|of no use"):
        source.unchanged() if what == "later" else open_source(f"{store}:v")
    source.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_in_a_store_is_not_waited_for(store):
    os.unlink(store / "v" / "0.0")
    os.mkfifo(store / "v" / "0.0")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        open_source(f"{store}:v")


@pytest.mark.parametrize("name", ["../other/v", "/other/v", "a//v", "a/./v", "..\\v"])
def test_members_outside_of_a_store(name, store, tmp_path):
    shutil.copytree(store, tmp_path / "other")
    write(tmp_path / "3.zarr", {"zarr.json": group3(**{name: array3([BYTES])})})
    with pytest.raises(InputError, match="lies outside it"):
        open_source(tmp_path / "3.zarr")
    write(store, {".zmetadata": {"metadata": {**GROUP2, f"{name}/.zarray": array2()}}})
    with pytest.raises(InputError, match="lies outside it"):
        open_source(store)


def test_damaged_metadata_and_doubled_members(store, tmp_path):
    path = packed(store, str(tmp_path / "x.zip"))
    assert check_store(path) == 4
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("v/.zarray", json.dumps(array2(PICKLE2)))
    with pytest.raises(InputError, match=r"v/\.zarray twice"):
        open_source(path)
    for content in (b"{", b"\xff\xfe{\0}\0", b"[" * 100_000):
        write(store, {"v/.zarray": content})
        with pytest.raises(InputError, match=r"v/\.zarray is no JSON"):
            open_source(store)


def test_a_folder_of_another_format_is_not_opened_as_one(store, tmp_path):
    """The package zarr would take what is called .n5 for an N5 store, whose metadata have other names."""
    path = tmp_path / "x.n5"
    shutil.copytree(store, path)
    write(path, {"v/attributes.json": {"dataType": "float32", "compression": {"type": "pickle"}}})
    with open_source(f"{path}:v") as source:
        np.testing.assert_array_equal(source.read(0, 3), X)


# HDF5 and NetCDF


def test_a_filter_that_may_run_code(tmp_path, monkeypatch):
    path = str(tmp_path / "x.h5")
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=X, chunks=(1, 4), compression="gzip", shuffle=True, fletcher32=True)
        file.create_dataset("lzf", data=X, chunks=(1, 4), compression="lzf")
    for name in ("x", "lzf"):
        with open_source(f"{path}:{name}") as source:
            np.testing.assert_array_equal(source.read(0, 3), X)
    monkeypatch.setattr(hdf5, "FILTERS", hdf5.FILTERS - {1})
    with pytest.raises(InputError, match=r"filter 1 \(deflate\), which is not known .* could run code; h5repack"):
        open_source(f"{path}:x")


@pytest.mark.parametrize("bytes_of", [64, 3 * 4096 * 4 - 4, 3 * 4096 * 4 + 4, 1 << 26])
@pytest.mark.parametrize("form", ["HDF5", "NetCDF"])
def test_chunks_of_another_size(form, bytes_of, tmp_path):
    """libhdf5 reads behind the end of a short one, which kills the process, and makes room for any long one."""
    path, size = str(tmp_path / "x"), (3, 4096)
    if form.startswith("NetCDF"):
        netcdf = pytest.importorskip("netCDF4", reason="netCDF4 is not installed; lrpfast[test] brings it")
        with netcdf.Dataset(path, "w") as file:
            for dim, n in zip(("time", "p"), size, strict=True):
                file.createDimension(dim, n)
            file.createVariable("v", "f4", ("time", "p"), zlib=True, chunksizes=size)[:] = 1
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("v", size, "f4", chunks=size, compression="gzip")[:] = 1
    with open_source(f"{path}:v") as source:
        assert (source.read(0, 3) == 1).all()
    with h5py.File(path, "a") as file:
        file["v"].id.write_direct_chunk((0, 0), zlib.compress(bytes(bytes_of), 1))
    with pytest.raises(InputError, match="does not unpack to 49,152 bytes"), open_source(f"{path}:v") as source:
        source.read(1, 2)


def test_a_chunk_that_is_deflated_twice(tmp_path):
    path = str(tmp_path / "x.h5")
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((3, 4))
    plan.set_deflate(1)
    plan.set_deflate(1)
    with h5py.File(path, "w") as file:
        h5py.h5d.create(file.id, b"v", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((3, 4)), plan)
        file["v"].id.write_direct_chunk((0, 0), zlib.compress(zlib.compress(bytes(1 << 26), 1)))
    with pytest.raises(InputError, match=r"packed twice by one filter \(\[1, 1\]\); h5repack"):
        open_source(path)


def test_one_long_text_many_times_in_hdf5(tmp_path):
    """An attribute of a small file whose elements are all the same string of the heap."""
    path, length, count = tmp_path / "x.h5", 300_000, 1000
    with h5py.File(path, "w", libver="earliest") as file:
        file["v"] = X
        texts = ["Q" * length, *(f"x{i}" for i in range(count))]
        file["v"].attrs.create("coordinates", texts, dtype=h5py.string_dtype())
    data = bytearray(path.read_bytes())
    first = data.index(struct.pack("<I", length))
    for i in range(1, count + 1):  # each a length, an address and an index of 16 bytes
        data[first + 16 * i : first + 16 * i + 16] = data[first : first + 16]
    path.write_bytes(data)
    with pytest.raises(InputError, match="attribute 'coordinates' of /v: unpacks to .* bytes"):
        open_source(str(path))


def test_an_attribute_of_another_type_counts_for_nothing(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["v"] = X
        file["v"].attrs["scale_factor"] = np.zeros(2, [("a", "f4"), ("b", "f4")])
        file["v"].attrs["coordinates"] = file["v"].ref
    with pytest.raises(InputError, match="scale_factor is None"):
        open_source(str(tmp_path / "x.h5"))


def external_link(file, folder):
    file["k"] = h5py.ExternalLink(str(folder / "secret.h5"), "s")


def soft_link(file, folder):
    file["k"] = h5py.SoftLink("/v")


def external_storage(file, folder):
    file.create_dataset("k", (4,), "f8", external=[(str(folder / "raw.bin"), 0, 32)])


def virtual(file, folder):
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "s", (4,))
    file.create_virtual_dataset("k", layout)


def circle(file, folder):
    file.create_group("g")
    file["g/up"] = file["/"]


def twice(file, folder):
    file.create_group("g/h")
    file["i"] = file["g/h"]


@pytest.mark.parametrize("where", [external_link, soft_link, external_storage, virtual, circle, twice])
def test_a_netcdf_file_leads_nowhere_else(where, tmp_path):
    """The library follows every link, and goes round in circles for ever."""
    netcdf = pytest.importorskip("netCDF4", reason="netCDF4 is not installed; lrpfast[test] brings it")
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["s"] = np.arange(4.0)
    np.arange(4.0).tofile(tmp_path / "raw.bin")
    path = str(tmp_path / "x.nc")
    with netcdf.Dataset(path, "w") as file:
        file.createDimension("time", 3)
        file.createDimension("p", 4)
        file.createVariable("v", "f4", ("time", "p"))[:] = X
    with open_source(path) as source:
        np.testing.assert_array_equal(source.read(0, 3), X)
    with h5py.File(path, "a") as file:
        where(file, tmp_path)
    with pytest.raises(InputError, match="links are not followed|keeps its data in other files|in two places"):
        open_source(f"{path}:v")


def test_numpy_unpickles_nothing(tmp_path):
    np.save(tmp_path / "x.npy", np.array([Evil()], object), allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=np.array([Evil()], object))
    np.savez_compressed(tmp_path / "packed.npz", x=np.array([Evil()], object))
    for name in ("x.npy", "x.npz", "packed.npz"):
        with pytest.raises(InputError, match="never opened"):
            open_source(tmp_path / name)
    assert not hasattr(sys, "_lrpfast_was_run")
