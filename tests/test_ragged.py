"""Streams of samples of different lengths: HDF5 rows of variable length and contiguous ragged arrays of NetCDF."""

import os
import warnings

import numpy as np
import pytest

import lrpfast
from lrpfast import layers as L
from lrpfast.batch import ragged as R
from lrpfast.cli import main

h5py = pytest.importorskip("h5py")

LENGTHS = (5, 3, 0, 9, 4, 1, 20, 33)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def model(channels=4):
    """Attention on sequences of 4 channels, or of words."""
    graph = lrpfast.Graph()
    x = graph.input((None, 4) if channels else (None,))
    rows = x if channels else graph.add(L.Embedding(normal(9, 30, 4)), x)
    q, k, v = (graph.add(L.Dense(normal(seed, 4, 4)), rows) for seed in range(3))
    first = graph.add(L.Flatten(), graph.add(L.Take(([0],)), graph.add(L.Attention(2), q, k, v)))
    return graph.model(graph.add(L.Dense(normal(5, 4, 3)), first))


def samples(channels=4):
    if not channels:
        return [np.random.default_rng(i).integers(0, 30, n) for i, n in enumerate(LENGTHS)]
    return [normal(i, n, 4).astype(np.float32) for i, n in enumerate(LENGTHS)]


def write_vlen(path, arrays, name="x"):
    with h5py.File(path, "w") as file:
        kind = h5py.vlen_dtype(arrays[0].dtype)
        rows = file.create_dataset(name, (len(arrays),), kind)
        for i, array in enumerate(arrays):
            rows[i] = array.ravel()
    return f"{path}:{name}"


def write_contiguous(path, arrays, **attributes):
    netcdf = pytest.importorskip("netCDF4")
    with netcdf.Dataset(path, "w", format=attributes.pop("format", "NETCDF4")) as file:
        file.createDimension("trajectory", len(arrays))
        file.createDimension("obs", sum(map(len, arrays)))
        rest = []
        for axis, n in enumerate(arrays[0].shape[1:]):
            file.createDimension(f"channel{axis}", n)
            rest.append(f"channel{axis}")
        counts = file.createVariable("rowSize", np.int32, ("trajectory",))
        counts.sample_dimension = "obs"
        counts[:] = [len(a) for a in arrays]
        values = file.createVariable("speed", arrays[0].dtype, ("obs", *rest))
        values.setncatts(attributes)
        values.set_auto_maskandscale(False)
        values[:] = np.concatenate(arrays)
    return f"{path}:speed"


def write(form, path, arrays):
    return write_vlen(path, arrays) if form == "h5" else write_contiguous(path, arrays)


def read(path, name="relevance"):
    """The relevance of every sample, the sums, and the attributes, by the formats' own libraries."""
    if str(path).endswith(".h5"):
        with h5py.File(path) as file:
            shape = tuple(file[name].attrs["row_shape"])
            rows = [np.asarray(row).reshape(-1, *shape) for row in file[name]]
            return rows, file[f"{name}_sum"][:], dict(file.attrs)
    netcdf = pytest.importorskip("netCDF4")
    with netcdf.Dataset(path) as file:
        (counts,) = (v for v in file.variables.values() if hasattr(v, "sample_dimension"))
        assert file[name].dimensions[0] == counts.sample_dimension
        ends = np.cumsum(counts[:])[:-1]
        return np.split(np.asarray(file[name][:]), ends), np.asarray(file[f"{name}_sum"][:]), vars(file)


def check(analyzer, arrays, path, target, name="relevance"):
    rows, sums, attributes = read(path, name)
    assert len(rows) == len(arrays) and attributes["precision"] == analyzer.precision
    for i, (array, row) in enumerate(zip(arrays, rows, strict=True)):
        assert row.shape == array.shape
        if len(array):
            expected = analyzer.analyze(array[None], target[i : i + 1] if isinstance(target, np.ndarray) else target)
            np.testing.assert_array_equal(row, expected[0])
        assert sums[i] == pytest.approx(row.sum(dtype=np.float64), abs=1e-12)


@pytest.mark.parametrize("channels", [4, 0])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("out", ["h5", "nc"])
@pytest.mark.parametrize("form", ["h5", "nc"])
def test_from_file_to_file(form, out, precision, channels, tmp_path):
    if "nc" in (form, out):
        pytest.importorskip("netCDF4")
    arrays = samples(channels)
    source = write(form, tmp_path / f"in.{form}", arrays)
    analyzer = lrpfast.Analyzer(model(channels), "attn_lrp", precision=precision, target=1, device="cpu")
    done = analyzer.stream(source, tmp_path / f"out.{out}", progress=False)
    assert (done.samples, done.shape, done.resumed) == (len(arrays), (len(arrays), None, *arrays[0].shape[1:]), 0)
    check(analyzer, arrays, tmp_path / f"out.{out}", None)
    assert sorted(os.listdir(tmp_path)) == sorted({f"in.{form}", f"out.{out}"})
    with pytest.raises(lrpfast.InputError, match="is there already"):
        analyzer.stream(source, tmp_path / f"out.{out}", progress=False)
    analyzer.stream(source, tmp_path / f"out.{out}", progress=False, overwrite=True, batch_size=3, compression="zlib")
    check(analyzer, arrays, tmp_path / f"out.{out}", None)


def test_targets_for_each_sample_and_names(tmp_path):
    arrays, targets = samples(), np.arange(len(LENGTHS)) % 3
    source = write_vlen(tmp_path / "in.h5", arrays)
    np.save(tmp_path / "t.npy", targets)
    analyzer = lrpfast.Analyzer(model(), "cp_lrp", target=1, device="cpu")
    for target in (targets, tmp_path / "t.npy"):
        analyzer.stream(source, tmp_path / "o.h5:maps", target=target, overwrite=True, progress=False)
        check(analyzer, arrays, tmp_path / "o.h5", targets, "maps")
    with pytest.raises(lrpfast.ShapeError, match="8 samples"):
        analyzer.stream(source, tmp_path / "p.h5", target=targets[:3], progress=False)
    with pytest.raises(lrpfast.InputError, match="target is one for all samples"):
        analyzer.stream(source, tmp_path / "p.h5", target={"dense_3": np.zeros((8, 2), int)}, progress=False)


def test_a_function_gets_every_chunk(tmp_path):
    arrays, chunks = samples(), []
    analyzer = lrpfast.Analyzer(model(), "attn_lrp", target=1, device="cpu")
    source = write_vlen(tmp_path / "in.h5", arrays)
    analyzer.stream(source, lambda first, rows: chunks.append((first, rows)), batch_size=3, progress=False)
    assert [first for first, _ in chunks] == [0, 3, 6]
    for i, row in enumerate(row for _, rows in chunks for row in rows):
        assert row.shape == arrays[i].shape
        np.testing.assert_array_equal(row, analyzer.analyze(arrays[i][None])[0] if len(arrays[i]) else row)


def test_parts_and_normalization(tmp_path):
    arrays = samples()
    analyzer = lrpfast.Analyzer(model(), "attn_lrp", target=1, device="cpu")
    source = write_vlen(tmp_path / "in.h5", arrays)
    analyzer.stream(source, tmp_path / "o.h5", part="abs", normalize="maxabs", progress=False)
    for array, row in zip(arrays, read(tmp_path / "o.h5")[0], strict=True):
        if len(array):
            whole = np.abs(analyzer.analyze(array[None])[0])
            np.testing.assert_allclose(row, whole / whole.max(), rtol=1e-6)


class Stop(Exception):
    """A run that ends in the middle."""


@pytest.mark.parametrize("out", ["h5", "nc"])
def test_an_interrupted_run_goes_on(out, tmp_path, monkeypatch):
    if out == "nc":
        pytest.importorskip("netCDF4")
    arrays = samples()
    source = write_vlen(tmp_path / "in.h5", arrays)
    analyzer = lrpfast.Analyzer(model(), "attn_lrp", target=1, device="cpu")
    path = tmp_path / f"o.{out}"

    def stop_after(count):
        def progress(_):
            nonlocal count
            count -= 1
            if not count:
                raise Stop

        return progress

    with pytest.raises(Stop):
        analyzer.stream(source, path, batch_size=3, progress=stop_after(2))
    assert not path.exists() and lrpfast.batch.unfinished(path)
    with pytest.raises(lrpfast.InputError, match="other settings"):
        lrpfast.Analyzer(model(), "cp_lrp", target=1, device="cpu").stream(source, path, progress=False)
    part = next(tmp_path.glob(".*-part"))
    with open(part, "ab") as file:  # killed while it wrote
        file.write(b"half a value")
    done = analyzer.stream(source, path, batch_size=3, progress=False)
    assert done.resumed == 6
    check(analyzer, arrays, path, None)
    assert sorted(os.listdir(tmp_path)) == sorted(["in.h5", f"o.{out}"])
    # what waits was changed, or is gone
    for change in (lambda p: p.write_bytes(b"\1" + p.read_bytes()[1:]), os.unlink):
        path.unlink(missing_ok=True)
        with pytest.raises(Stop):
            analyzer.stream(source, path, batch_size=3, progress=stop_after(2), resume=False)
        change(part)
        with pytest.raises(lrpfast.InputError, match="resume=False"):
            analyzer.stream(source, path, batch_size=3, progress=False)
    analyzer.stream(source, path, progress=False, resume=False)
    check(analyzer, arrays, path, None)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"statistics": True}, "statistics= .*'relevance_sum' in the output"),
        ({"layers": "dense"}, "layers= "),
        ({"conditions": {"dense": 1}}, "conditions= "),
        ({"mask": np.ones(3, bool)}, "mask= "),
        ({"cluster": "local:1"}, "cluster= "),
        ({"select": {"time": 3}}, "select= "),
        ({"fill_nan": 0.0}, "fill_nan="),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_for_samples_of_one_shape(options, text, tmp_path):
    source = write_vlen(tmp_path / "in.h5", samples())
    analyzer = lrpfast.Analyzer(model(), "attn_lrp", target=1, device="cpu")
    with pytest.raises(lrpfast.InputError, match=text):
        analyzer.stream(source, tmp_path / "o.h5", progress=False, **options)
    assert os.listdir(tmp_path) == ["in.h5"]


def test_outputs_of_other_forms(tmp_path):
    source = write_vlen(tmp_path / "in.h5", samples())
    analyzer = lrpfast.Analyzer(model(), "attn_lrp", target=1, device="cpu")
    for sink, text in (("o.npy", "rows of variable length"), ("o.zarr", "rows of variable length"), (3, "int")):
        with pytest.raises(lrpfast.InputError, match=text):
            analyzer.stream(source, sink if sink == 3 else tmp_path / sink, progress=False)
    with pytest.raises(lrpfast.InputError, match="nothing to do"):
        analyzer.stream(source, progress=False)
    with pytest.raises(lrpfast.InputError, match="both the sink and the source"):
        analyzer.stream(source, tmp_path / "in.h5", progress=False)


def test_a_wrong_sample_is_named(tmp_path):
    arrays = samples()
    arrays[6][4, 2] = np.nan
    source = write_vlen(tmp_path / "in.h5", arrays)
    analyzer = lrpfast.Analyzer(model(), "attn_lrp", target=1, device="cpu")
    with pytest.raises(lrpfast.InputError, match=r"x\[6, 4, 2\] is nan"):
        analyzer.stream(source, tmp_path / "o.h5", progress=False)
    assert os.listdir(tmp_path) == ["in.h5"]
    with h5py.File(tmp_path / "in.h5", "a") as file:
        file["x"][3] = np.ones(5, np.float32)
    with pytest.raises(lrpfast.ShapeError, match="sample 3 has 5 values"):
        analyzer.stream(source, tmp_path / "p.h5", progress=False)


def test_contiguous_files_that_do_not_add_up(tmp_path):
    netcdf = pytest.importorskip("netCDF4")
    arrays = samples()
    source = write_contiguous(tmp_path / "in.nc", arrays)
    analyzer = lrpfast.Analyzer(model(), "attn_lrp", target=1, device="cpu")
    wide = write_contiguous(tmp_path / "wide.nc", [normal(i, n, 5) for i, n in enumerate(LENGTHS)])
    with pytest.raises(lrpfast.ShapeError, match=r"positions have shape \(5,\), the model takes \(4,\)"):
        analyzer.stream(wide, tmp_path / "o.nc", progress=False)
    with netcdf.Dataset(tmp_path / "in.nc", "a") as file:
        file["rowSize"][2] = 7
    with pytest.raises(lrpfast.InputError, match="rowSize must have the number of positions.*75 in all, not 82"):
        analyzer.stream(source, tmp_path / "o.nc", progress=False)


def test_packed_values_and_classic_files(tmp_path):
    pytest.importorskip("netCDF4")
    stored = [np.round(a * 100).astype(np.int16) for a in samples()]
    analyzer = lrpfast.Analyzer(model(), "attn_lrp", target=1, precision="float64", device="cpu")
    path = tmp_path / "in.nc"
    write_contiguous(path, stored, format="NETCDF3_CLASSIC", scale_factor=0.01, add_offset=1.0)
    analyzer.stream(path, tmp_path / "o.nc", progress=False)  # the only variable of that form
    with lrpfast.batch.open_source(f"{path}:speed") as positions:
        decoded = np.split(positions.read(0, sum(LENGTHS)), np.cumsum(LENGTHS)[:-1])
    np.testing.assert_allclose(decoded[7], stored[7] * 0.01 + 1.0, rtol=1e-6)
    check(analyzer, decoded, tmp_path / "o.nc", None)


def test_a_packed_dataset_of_rows_is_refused(tmp_path):
    source = write_vlen(tmp_path / "in.h5", samples())
    with h5py.File(tmp_path / "in.h5", "a") as file:
        file["x"].attrs["scale_factor"] = 0.1
    with pytest.raises(lrpfast.InputError, match="has scale_factor"):
        lrpfast.Analyzer(model(), "attn_lrp", target=1).stream(source, tmp_path / "o.h5", progress=False)


def test_chunks_hold_some_thousands_of_positions(tmp_path, monkeypatch):
    monkeypatch.setattr(R, "POSITIONS", 20)
    source, chunks = write_vlen(tmp_path / "in.h5", samples()), []
    analyzer = lrpfast.Analyzer(model(), "attn_lrp", target=1, device="cpu")
    monkeypatch.setattr("lrpfast.batch.sources.ragged._MOST_ROWS", 2)
    monkeypatch.setattr("lrpfast.batch.sources.ragged.FREE_BYTES", 1)  # one row at a time
    analyzer.stream(source, lambda first, rows: chunks.append(sum(map(len, rows))), progress=False)
    assert chunks == [21, 25, 33] or all(c >= 20 for c in chunks[:-1])


def test_without_a_name_and_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arrays = samples()
    write_vlen("in.h5", arrays)
    model().save("m.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["explain", "m.npz", "in.h5", "-o", "o.h5", "--rule", "attn_lrp", "--target", "1"]) == 0
    assert "8 samples explained" in capsys.readouterr().out
    check(lrpfast.Analyzer(model(), "attn_lrp", target=1), arrays, "o.h5", None)
    for options, text in (
        (["--balance"], "differ in length"),
        (["--condition", "dense=1"], "--condition is for samples of one shape"),
        (["--statistics", "s.npz"], "--statistics is for samples of one shape"),
        (["--select", "time=3"], "--select and --fill-nan are for samples of one shape"),
    ):
        assert main(["explain", "m.npz", "in.h5", "-o", "p.h5", *options]) == 2
        assert text in capsys.readouterr().err
