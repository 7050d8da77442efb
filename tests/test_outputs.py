"""Outputs that harm nothing: names, what --force replaces, what survives a power cut, and parts that were damaged."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

import lrpfast
import seeds
from lrpfast.batch import open_sink, open_source, run
from lrpfast.batch.journal import MAGIC
from lrpfast.batch.map_writer import check_maps, write_maps
from lrpfast.batch.metadata import ArrayMetadata, Coord
from lrpfast.batch.sinks import base
from lrpfast.engine.exact import IndistinctError, exact
from lrpfast.rules import Epsilon, Gamma, ZBox

netCDF4 = pytest.importorskip("netCDF4", reason="netCDF4 is not installed; lrpfast[test] brings it")
xarray = pytest.importorskip("xarray", reason="xarray is not installed; lrpfast[test] brings it")
zarr = pytest.importorskip("zarr", reason="zarr is not installed; lrpfast[test] brings it")

FEATURES, SAMPLES, CHUNK = 12, 600, 50
RNG = seeds.generator(5)
MODEL = lrpfast.from_layers(
    [
        lrpfast.layers.Dense(RNG.normal(size=(FEATURES, 8)), np.full(8, 12.0), activation="relu"),
        lrpfast.layers.Dense(np.ones((8, 3))),
    ]
)
X = RNG.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
ANALYZER = lrpfast.Analyzer(MODEL, "epsilon", threads=1)
RELEVANCE = ANALYZER.analyze(X)
SINKS = ["r.npy", "r.h5", "r.nc", "r.zarr"]
STATISTICS = ["s.npz", "s.h5", "s.nc", "s.zarr"]


@pytest.fixture
def x(tmp_path):
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "x.npy"


def everything(path):
    """Every byte of a file, or of the files of a folder."""
    path = Path(path)
    if path.is_dir():
        return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
    return path.read_bytes()


def read(path):
    with open_source(path) as source:
        return np.array(source.read(0, source.shape[0]))


class Stop(Exception):
    """In place of a kill."""


def stopped(analyzer, source, sink, after=7, **options):
    """A run that ends after so many chunks, with all of them noted."""
    done = 0

    def tell(samples):
        nonlocal done
        done += samples
        if done >= after * CHUNK:
            raise Stop

    with pytest.raises(Stop):
        analyzer.stream(source, sink, batch_size=CHUNK, progress=tell, **options)


def partial(sink):
    (found,) = Path(sink).parent.glob(f".{Path(sink).name}.lrpfast-part")
    return found


# Names

NAMES = ["..", ".", "/", "", "a/b", "a\\b", "../../x", "/x", "a\0b", "a\nb", "\x1b[31m", "n" * 300, "\udcff", "ü" * 200]
OF_ZARR = [".zarray", ".zgroup", "zarr.json", ".hidden", "con", "NUL.txt", "a:b", "a?", "dot.", "space "]


@pytest.mark.parametrize("kind", ["npy", "h5", "nc", "zarr", "npz"])
@pytest.mark.parametrize("what", ["coordinate", "dimension", "attribute"])
def test_names_of_an_input_harm_nothing(kind, what, tmp_path):
    """Whatever they are: an output without them (npy), whole with them, or an error before anything is made."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    for name in (*NAMES, *OF_ZARR, "metadata", "file", "allow_pickle", "lat", "größe"):
        on = name if what == "dimension" else "p"
        coord = Coord((on,), np.arange(4), {name: 1} if what == "attribute" else {})
        labels = ArrayMetadata(("t", on), {name if what == "coordinate" else "c": coord})
        out = folder / f"r.{kind}"
        harmless = name in ("lat", "größe") or (kind == "npy")
        try:
            if kind == "npz":
                check_maps(str(out), ["mean"], [on], labels.coords)
                write_maps(out, {"mean": ((on,), np.zeros(4))}, labels.coords, {})
            else:
                with open_sink(out) as sink:
                    sink.check((2, 4), np.dtype(np.float32), labels)
                    sink.begin((2, 4), np.dtype(np.float32), {}, labels, rows=2)
                    sink.write(0, np.ones((2, 4), np.float32))
                    sink.finish()
        except lrpfast.InputError as error:
            assert not harmless and ("rename it" in str(error) or "names no" in str(error))
            assert list(folder.iterdir()) == []
        else:
            assert name not in NAMES or kind == "npy"
            assert [p.name for p in folder.iterdir()] == [out.name]
            if what == "coordinate" and kind != "npy":
                assert name not in OF_ZARR or kind != "zarr"
            shutil.rmtree(out) if out.is_dir() else out.unlink()
        assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"] and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_names_of_outputs_harm_nothing(x, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("2019.nc", "1999", "download.part"):
        (folder / name).write_text("precious")
    before = everything(folder)
    for kind in ("h5", "nc", "zarr"):
        for name in (*NAMES[:3], *NAMES[4:], *(OF_ZARR if kind == "zarr" else ())):
            if name == "a:b" or (kind == "h5" and name in ("a/b", "/x")):
                continue
            with pytest.raises(lrpfast.InputError, match="names no array|without '/'|tells its format"):
                ANALYZER.stream(x, f"{folder}/r.{kind}:{name}")
            assert everything(folder) == before


def test_a_coordinate_that_leads_out_of_the_store(tmp_path):
    """In a file, whose library does not let such a name in: written over another of its length."""
    evil = "../../evil"
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    with netCDF4.Dataset(folder / "x.nc", "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("time", SAMPLES)
        file.createDimension("p", FEATURES)
        values = file.createVariable("v", "f4", ("time", "p"))
        values[:] = X
        values.coordinates = "n" * len(evil)
        file.createVariable("n" * len(evil), "i4", ("p",))[:] = np.arange(FEATURES)
    data = (folder / "x.nc").read_bytes().replace(b"n" * len(evil), evil.encode())
    (folder / "x.nc").write_bytes(data)
    for options in ({"sink": folder / "r.zarr"}, {"statistics": folder / "s.zarr"}, {"sink": folder / "r.h5"}):
        with pytest.raises(lrpfast.InputError, match="evil.*cannot be written under this name"):
            ANALYZER.stream(f"{folder / 'x.nc'}:v", **options)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "x.nc"]


# What statistics and outputs cannot hold


@pytest.mark.parametrize("out", [*SINKS[1:], *STATISTICS])
def test_texts_with_gaps_are_written_and_mixtures_refused_at_once(out, tmp_path):
    coords = {"name": ("p", np.array(["a", None, float("nan"), *"d" * (FEATURES - 3)], object))}
    source = xarray.DataArray(X, coords, ("t", "p"))
    options = {"statistics": tmp_path / out} if out in STATISTICS else {"sink": tmp_path / out}
    ANALYZER.stream(source, **options)
    if out.endswith((".nc", ".zarr")):
        how = {"engine": "zarr"} if out.endswith("zarr") else {}
        with xarray.open_dataset(tmp_path / out, **how) as data:
            assert data.name.values.tolist()[:4] == ["a", "", "", "d"]
    refused = {"mixed": np.array(["a", 3, *"d" * (FEATURES - 2)], object), "nul": np.array(["a\0b"] * FEATURES)}
    for key, values in refused.items():
        progress = []
        options = {key: value.with_name(f"{key}{out}") for key, value in options.items()}
        with pytest.raises(lrpfast.InputError, match="the coordinate name"):
            ANALYZER.stream(source.assign_coords(name=("p", values)), progress=progress.append, **options)
        assert progress == [] and [p.name for p in tmp_path.iterdir()] == [out]


def test_an_input_with_a_name_that_statistics_have(tmp_path):
    for name, coords in (("group", {}), ("p", {"mean": ("p", np.arange(FEATURES))})):
        source = xarray.DataArray(X, coords, ("t", name))
        with pytest.raises(lrpfast.InputError, match="as statistics do; rename it"):
            ANALYZER.stream(source, statistics=tmp_path / "s.nc")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", [*SINKS[1:], *STATISTICS])
def test_a_dimension_without_coordinate(out, tmp_path):
    """Its name is one of those that are checked first."""
    options = {"statistics": tmp_path / out} if out in STATISTICS else {"sink": tmp_path / out}
    progress = []
    with pytest.raises(lrpfast.InputError, match="dimension 'a/b' cannot be written"):
        ANALYZER.stream(xarray.DataArray(X, dims=("t", "a/b")), progress=progress.append, **options)
    assert progress == [] and list(tmp_path.iterdir()) == []


# What is replaced


def earlier_file(path):
    """A file or store of somebody's own, with "theirs" and "first" in it."""
    arrays = {"theirs": np.arange(3), "first": np.arange(4.0)}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".zarr":
        group = zarr.open_group(path, mode="w")
        for key, values in arrays.items():
            group[key] = values
    else:
        kind = {".h5": "h5netcdf", ".nc": "netcdf4"}[path.suffix]
        if kind == "netcdf4":
            xarray.Dataset({key: (f"on_{key}", values) for key, values in arrays.items()}).to_netcdf(path, engine=kind)
            return
        with h5py.File(path, "w") as file:
            for key, values in arrays.items():
                file[key] = values


@pytest.mark.parametrize("name", ["o.h5", "o.nc", "o.zarr", "o.npz"])
def test_force_replaces_what_is_named(name, x, tmp_path):
    """Nothing else is lost: it is named, and nothing is done."""
    path = tmp_path / name
    earlier_file(path)
    before = everything(path)
    ways = [{"statistics": path}]
    if name != "o.npz":
        ways += [{"sink": f"{path}:first"}, {"sink": path}]  # an array that it has not would be added
    for options in ways:
        for overwrite in (False, True):
            with pytest.raises(lrpfast.InputError, match="holds more than .* would be lost: .*theirs") as caught:
                ANALYZER.stream(x, overwrite=overwrite, **options)
            lost = str(caught.value).partition("lost")[2].partition(";")[0]
            assert ("first" in lost) == (options.get("sink") != f"{path}:first")
    assert everything(path) == before and {p.name for p in tmp_path.iterdir()} == {name, "x.npy"}


@pytest.mark.parametrize("name", [*SINKS, *STATISTICS])
def test_force_replaces_an_earlier_output(name, tmp_path):
    """With its coordinates, which are its own, whatever the new one has."""
    coords = {"p": np.arange(FEATURES), "area": ("p", np.ones(FEATURES)), "name": ("p", list("abcdefghijkl"))}
    labelled = xarray.DataArray(X, coords, ("t", "p"))
    for source in (labelled, labelled, X, labelled):
        options = {"statistics": tmp_path / name} if name in STATISTICS else {"sink": tmp_path / name}
        more = {"quantiles": 0.5} if name in STATISTICS and source is X else {}
        ANALYZER.stream(source, overwrite=True, **options, **more)
    if name in SINKS:
        np.testing.assert_array_equal(read(tmp_path / name), RELEVANCE)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_file_that_cannot_be_listed_is_not_replaced(x, tmp_path):
    (tmp_path / "r.h5").write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    with pytest.raises(lrpfast.InputError, match="cannot be listed"):
        ANALYZER.stream(x, tmp_path / "r.h5", overwrite=True)
    (tmp_path / "r.zarr").mkdir()
    (tmp_path / "r.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
    (tmp_path / "r.zarr" / "notes.txt").write_text("precious")
    with pytest.raises(lrpfast.InputError, match=r"would be lost: notes\.txt"):
        ANALYZER.stream(x, tmp_path / "r.zarr", overwrite=True)


# Resume: settings that differ in the last digit


def pick(i):
    return lambda y: np.eye(y.shape[-1])[i] * y


class Chosen:
    """A target with a state of its own."""

    def __call__(self, y):
        return y


def bounded(high):
    return lrpfast.composites.Uniform(Epsilon(), ZBox(np.zeros(FEATURES), np.ones(FEATURES) * high))


class Twice(Epsilon):
    """A rule of the same name and parameters that does something else."""

    def groups(self):
        return super().groups() * 2


Twice.__qualname__ = Epsilon.__qualname__
Twice.__module__ = Epsilon.__module__


@pytest.mark.parametrize(
    "one, other",
    [
        ({"target": pick(0)}, {"target": pick(1)}),
        ({"rule": Gamma(0.25)}, {"rule": Gamma(0.25000004)}),
        ({"rule": ZBox(0.0, 10.0)}, {"rule": ZBox(0.0, 10.000004)}),
        ({"rule": lrpfast.rules.Zero(stabilizer=0.1)}, {"rule": lrpfast.rules.Zero(stabilizer=0.1000004)}),
        ({"rule": bounded(9)}, {"rule": bounded(9.000001)}),
        ({"rule": Epsilon()}, {"rule": Twice()}),
        ({"y_ref": 0.5}, {"y_ref": 0.5000004}),
        ({"target": np.zeros(SAMPLES, int)}, {"target": np.ones(SAMPLES, int)}),
    ],
    ids=["functions", "gamma", "box", "stabilizer", "bounds", "class of a rule", "reference", "targets"],
)
def test_settings_are_compared_exactly(one, other, x, tmp_path):
    def run(options):
        options = dict(options)
        analyzer = lrpfast.Analyzer(MODEL, options.pop("rule", "epsilon"), threads=1, y_ref=options.pop("y_ref", None))
        return analyzer, options

    analyzer, options = run(one)
    stopped(analyzer, x, tmp_path / "r.npy", **options)
    before = everything(tmp_path)
    changed, others = run(other)
    with pytest.raises(lrpfast.InputError, match="unfinished run of other settings") as caught:
        changed.stream(x, tmp_path / "r.npy", batch_size=CHUNK, **others)
    assert "exact:" not in str(caught.value) and everything(tmp_path) == before
    analyzer, options = run(one)
    assert analyzer.stream(x, tmp_path / "r.npy", batch_size=CHUNK, **options).resumed >= 7 * CHUNK
    analyzer.stream(x, tmp_path / "whole.npy", batch_size=CHUNK, **options)
    assert everything(tmp_path / "r.npy") == everything(tmp_path / "whole.npy")


def test_a_target_that_cannot_be_told_from_another(x, tmp_path):
    """Is not gone on with, neither from nor into."""
    stopped(ANALYZER, x, tmp_path / "r.npy")
    with pytest.raises(lrpfast.InputError, match="a Chosen, which nothing tells from another; pass resume=False"):
        ANALYZER.stream(x, tmp_path / "r.npy", target=Chosen())
    stopped(ANALYZER, x, tmp_path / "s.npy", target=Chosen())
    assert not list(tmp_path.glob(".s.npy*"))
    ANALYZER.stream(x, tmp_path / "r.npy", target=Chosen(), resume=False)
    assert not list(tmp_path.glob(".r.npy*"))


def test_an_iterator_beside_an_unfinished_run(x, tmp_path):
    stopped(ANALYZER, x, tmp_path / "r.npy")
    with pytest.raises(lrpfast.InputError, match="its input is read only once; pass resume=False"):
        ANALYZER.stream(iter([X]), tmp_path / "r.npy")


def test_digests_of_functions():
    def again(y):
        return again(y)

    assert exact(pick(0)) == exact(pick(0)) != exact(pick(1))
    assert exact(again) == exact(again)
    assert len({exact(v) for v in (1, 1.0, True, "1", b"1", None, np.float32(1), np.ones(1), [1], (1,), {1: 1})}) == 11
    assert exact(np.sum) != exact(np.exp) and exact({"a": 1, "b": 2}) == exact({"b": 2, "a": 1})
    for value in (Chosen(), np.zeros(3).take, object()):
        with pytest.raises(IndistinctError):
            exact(value)


def test_lazy_maps_of_two_functions_are_two():
    """Dask computes what has one name once."""
    dask = pytest.importorskip("dask", reason="dask is not installed; lrpfast[test] brings it")
    da = pytest.importorskip("dask.array", reason="dask is not installed; lrpfast[test] brings it")
    lazy = da.from_array(X, chunks=(100, -1))
    maps = dask.compute(*(ANALYZER.map(lazy, target) for target in (pick(0), pick(1))), scheduler="sync")
    for i, found in enumerate(maps):
        np.testing.assert_array_equal(found, ANALYZER.analyze(X, pick(i)))


# Resume: parts that were damaged


def edit(path):
    """Bytes of two chunks changed, in the middle of a file or in files."""
    if path.is_dir():
        os.truncate(path / "relevance" / "2.0", 40)
        os.unlink(path / "relevance" / "4.0")
        return
    at = path.read_bytes().index(np.ascontiguousarray(RELEVANCE[2 * CHUNK : 2 * CHUNK + 2]).tobytes())
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 40)
        file.seek(at + 2 * CHUNK * RELEVANCE[0].nbytes)
        file.write(bytes(40))


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("masked", [False, True])
def test_damaged_chunks_are_written_again(sink, masked, x, tmp_path, monkeypatch):
    if masked:
        monkeypatch.setattr(base, "LONG", 0)  # checksums in a thread of their own
    options = {"mask": np.ones(FEATURES, bool)} if masked else {}
    with_statistics = {"statistics": tmp_path / "s.npz", **options}
    ANALYZER.stream(x, tmp_path / f"w{sink}", batch_size=CHUNK, **{**with_statistics, "statistics": tmp_path / "w.npz"})
    stopped(ANALYZER, x, tmp_path / sink, **with_statistics)
    edit(partial(tmp_path / sink))
    with pytest.warns(UserWarning, match=f"{2 * CHUNK} samples are no longer as an unfinished run wrote them"):
        done = ANALYZER.stream(x, tmp_path / sink, batch_size=CHUNK, **with_statistics)
    assert done.resumed >= 7 * CHUNK
    assert everything(tmp_path / sink) == everything(tmp_path / f"w{sink}")
    assert everything(tmp_path / "s.npz") == everything(tmp_path / "w.npz")


@pytest.mark.parametrize("sink", ["r.h5", "r.nc", "r.zarr"])
def test_a_damaged_frame_is_told(sink, x, tmp_path):
    source = xarray.DataArray(X, {"p": np.arange(FEATURES) + 77_777}, ("t", "p"))
    stopped(ANALYZER, source, tmp_path / sink)
    part = partial(tmp_path / sink)
    part = part / "p" / "0" if part.is_dir() else part
    part.write_bytes(part.read_bytes().replace(np.int64(77_778).tobytes(), np.int64(77_770).tobytes()))
    with pytest.raises(lrpfast.InputError, match="was changed since an unfinished run wrote it; pass resume=False"):
        ANALYZER.stream(source, tmp_path / sink, batch_size=CHUNK)


def test_another_input_of_the_same_time(x, tmp_path):
    stopped(ANALYZER, x, tmp_path / "r.npy")
    state = os.stat(x)
    np.save(x, X[::-1].copy())
    os.utime(x, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(lrpfast.InputError, match="samples 0 to 49 had other relevances in the unfinished run"):
        ANALYZER.stream(x, tmp_path / "r.npy", batch_size=CHUNK)
    np.save(x, X)
    os.utime(x, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.warns(UserWarning, match="50 samples"):
        ANALYZER.stream(x, tmp_path / "r.npy", batch_size=CHUNK)
    assert (np.load(tmp_path / "r.npy") == RELEVANCE).all()


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("masked", [False, True])
def test_an_output_that_is_not_the_unfinished_run_s(sink, masked, x, tmp_path, monkeypatch):
    """A run killed after it has named its output takes it for its own only while it is."""
    options = {"mask": np.ones(FEATURES, bool)} if masked else {}
    with monkeypatch.context() as patch:
        patch.setattr(run.Journal, "remove", lambda _: (_ for _ in ()).throw(Stop()))
        with pytest.raises(Stop):
            ANALYZER.stream(x, tmp_path / sink, batch_size=CHUNK, **options)
    edited = tmp_path / sink / "relevance" / "3.0" if "zarr" in sink else tmp_path / sink
    whole = edited.read_bytes()
    at = whole.index(np.ascontiguousarray(RELEVANCE[3 * CHUNK]).tobytes())
    edited.write_bytes(whole[:at] + b"\xff" * 8 + whole[at + 8 :])
    with pytest.raises(lrpfast.InputError, match="was put there, or changed, after an unfinished run wrote it"):
        ANALYZER.stream(x, tmp_path / sink, batch_size=CHUNK, **options)
    edited.write_bytes(whole)
    assert ANALYZER.stream(x, tmp_path / sink, batch_size=CHUNK, **options).resumed == SAMPLES
    assert {p.name for p in tmp_path.iterdir()} == {sink, "x.npy"}


def test_one_bit_of_a_journal(x, tmp_path):
    """Every bit of its head, and some of the others: nothing but an error with the cure."""
    stopped(ANALYZER, x, tmp_path / "r.npy", statistics=tmp_path / "s.npz", quantiles=0.5)
    journal = tmp_path / ".r.npy.lrpfast-journal"
    whole = journal.read_bytes()
    bits = [*range(8 * (len(MAGIC) + 40)), *range(8 * (len(MAGIC) + 40), 8 * len(whole), 8 * len(whole) // 200 + 1)]
    for bit in bits:
        harmed = bytearray(whole)
        harmed[bit // 8] ^= 1 << bit % 8
        journal.write_bytes(harmed)
        with pytest.raises(lrpfast.InputError, match="damaged record|another lrpfast version") as caught:
            run.Journal(str(tmp_path / "r.npy"), {}).load()
        assert "resume=False" in str(caught.value)
    journal.write_bytes(whole)
    options = {"statistics": tmp_path / "s.npz", "quantiles": 0.5, "batch_size": CHUNK}
    assert ANALYZER.stream(x, tmp_path / "r.npy", **options).resumed


def test_a_file_system_without_locks(x, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="locks of POSIX")

    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match=r"r\.npy: this file system has no locks"):
        ANALYZER.stream(x, tmp_path / "r.npy")
    assert (np.load(tmp_path / "r.npy") == RELEVANCE).all() and len(list(tmp_path.iterdir())) == 2


# Power cuts


def state(path):
    found = os.stat(path)
    return found.st_ino, found.st_mtime_ns, found.st_size if not os.path.isdir(path) else 0


@pytest.mark.skipif(os.name != "posix", reason="Windows syncs no folders")
@pytest.mark.parametrize("out", [*SINKS, *STATISTICS])
def test_what_is_named_is_on_the_disk(out, x, tmp_path, monkeypatch):
    """Whatever takes its name was synced as it is, its folder after that, and only then its journal is removed."""
    synced, renamed, noted = {}, [], []
    real = {name: getattr(os, name, None) for name in ("fsync", "fdatasync", "replace", "rename", "unlink")}

    def sync(name):
        def call(descriptor):
            real[name](descriptor)
            synced[os.fstat(descriptor).st_ino] = os.fstat(descriptor).st_mtime_ns
            for place in [place for place in renamed if os.fstat(descriptor).st_ino == os.stat(place).st_ino]:
                renamed.remove(place)

        return call

    def check(path):
        for place in [Path(path), *Path(path).rglob("*")]:
            ino, changed, _ = state(place)
            assert synced.get(ino) == changed, f"{place} is not on the disk"

    def rename(name):
        def call(source, target):
            if str(target).endswith((out, "-journal")):
                check(source)
                if str(target).endswith("-journal"):
                    noted.append(target)
                    for part in tmp_path.glob(f".{out}.lrpfast-part"):
                        if not part.is_dir():
                            check(part)
                        else:
                            [check(place) for place in part.rglob("*") if not place.is_dir()]
                renamed.append(os.path.dirname(target))
            real[name](source, target)

        return call

    def unlink(path, **options):
        if str(path).endswith("-journal") and os.path.exists(path):
            assert renamed == [], "the journal goes before the output's name is on the disk"
        real["unlink"](path, **options)

    for name in ("fsync", "fdatasync"):
        if real[name] is not None:  # macOS has one of them
            monkeypatch.setattr(os, name, sync(name))
    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, rename(name))
    monkeypatch.setattr(os, "unlink", unlink)
    monkeypatch.setattr(run, "SECONDS_BETWEEN_NOTES", 0.0)
    monkeypatch.setattr(run, "TIMES_A_NOTE", 0)
    options = {"statistics": tmp_path / out} if out in STATISTICS else {"sink": tmp_path / out}
    ANALYZER.stream(x, batch_size=200, **options)
    assert len(noted) >= 3 and (tmp_path / out).exists() and renamed == []


@pytest.fixture
def cut(tmp_path):
    """A file system in a file, and a function that cuts its power: what is not on its disk is gone."""
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()

    def run(*command):
        return subprocess.run(command, capture_output=True, text=True).returncode

    if not shutil.which("mkfs.ext4") or os.name != "posix" or os.geteuid():
        pytest.skip("needs root and mkfs.ext4")
    with open(image, "wb") as file:
        file.truncate(32 << 20)
    options = "lazy_itable_init=0,lazy_journal_init=0"
    if run("mkfs.ext4", "-q", "-F", "-E", options, str(image)) or run("mount", "-o", "loop", str(image), str(disk)):
        pytest.skip("cannot mount a file system in a file here")
    run("sync", "-f", str(disk))

    def power_cut():
        copy = tmp_path / "copy"
        subprocess.run(["cp", "--sparse=always", image, copy], check=True)
        subprocess.run(["umount", disk], check=True)
        os.replace(copy, image)
        subprocess.run(["mount", "-o", "loop", image, disk], check=True)

    yield disk, power_cut
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("sink, statistics", list(zip(SINKS, STATISTICS, strict=True)))
def test_a_power_cut(sink, statistics, x, cut, tmp_path, monkeypatch):
    """On the way the same command goes on; a moment after the end all is there."""
    disk, power_cut = cut
    whole = tmp_path / "whole"
    whole.mkdir()
    ANALYZER.stream(x, whole / sink, statistics=whole / statistics, batch_size=CHUNK)
    monkeypatch.setattr(run, "SECONDS_BETWEEN_NOTES", 0.0)
    monkeypatch.setattr(run, "TIMES_A_NOTE", 0)
    stopped(ANALYZER, x, disk / sink, statistics=disk / statistics)
    power_cut()
    done = ANALYZER.stream(x, disk / sink, statistics=disk / statistics, batch_size=CHUNK)
    assert done.resumed >= 6 * CHUNK
    power_cut()
    for name in (sink, statistics):
        assert everything(disk / name) == everything(whole / name)


# The command


def command(*arguments, shell="", **environment):
    code = "import sys; from lrpfast.cli import main; sys.exit(main())"
    words = " ".join([f"'{sys.executable}'", "-c", f"'{code}'", *(f"'{argument}'" for argument in arguments), shell])
    return subprocess.run(["sh", "-c", words], capture_output=True, env={**os.environ, **environment})


@pytest.mark.skipif(os.name != "posix", reason="shells of POSIX")
@pytest.mark.parametrize("closed, out", [(">&-", "r.npy"), ("2>&-", "r.h5"), ("<&- >&- 2>&-", "r.nc")])
def test_no_standard_streams(closed, out, x, tmp_path):
    MODEL.save(tmp_path / "m.npz")
    ran = command("explain", tmp_path / "m.npz", x, "-o", tmp_path / out, shell=closed)
    assert ran.returncode == 0 and ran.stderr == b""
    np.testing.assert_array_equal(read(tmp_path / out), RELEVANCE)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are any bytes on Linux alone")
@pytest.mark.parametrize("kind", ["nc", "zarr"])
def test_names_and_locales_without_utf8(kind, x, tmp_path):
    MODEL.save(tmp_path / "m.npz")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    out = os.fsdecode(os.fsencode(tmp_path) + f"/\xfe ü.{kind}".encode("latin-1"))
    named = f"{out}:größe"
    ran = command("explain", tmp_path / "m.npz", x, "-o", named, **locale)
    assert (ran.returncode, ran.stderr) == (0, b""), ran.stderr
    np.testing.assert_array_equal(read(out), RELEVANCE)
    if kind == "nc":
        ran = command("explain", tmp_path / "m.npz", named, "-o", tmp_path / "again.h5", **locale)
        assert ran.returncode == 0, ran.stderr
        np.testing.assert_array_equal(read(tmp_path / "again.h5"), ANALYZER.analyze(RELEVANCE))
    else:
        assert command("inspect", tmp_path / "m.npz", **locale).returncode == 0


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.parametrize("out", [*SINKS[1:], *STATISTICS])
def test_a_limit_of_file_size(out, tmp_path):
    """Stands for a disk that fills while the libraries make the output: the disk's own words, and nothing stays."""
    import resource
    import signal

    np.save(tmp_path / "x.npy", X)
    wide = xarray.DataArray(X, {"name": ("p", ["n" * 2000] * FEATURES)}, ("t", "p"))
    options = {"statistics": tmp_path / out} if out in STATISTICS else {"sink": tmp_path / out}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
        with pytest.raises(OSError, match="File too large") as caught:
            ANALYZER.stream(wide, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert out in str(caught.value)
    if out not in STATISTICS:
        assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


def test_errors_before_the_first_sample_leave_nothing(x, tmp_path, monkeypatch):
    from lrpfast.batch.sinks import hdf5

    def fails(*_, **__):
        raise TypeError("no such thing")

    monkeypatch.setattr(hdf5, "write_hdf5", fails)
    with contextlib.suppress(lrpfast.InputError), warnings.catch_warnings():
        ANALYZER.stream(x, tmp_path / "r.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]
