"""Streams that threads compress in pieces, and .npz archives of them: read back by zlib, zipfile and NumPy."""

import io
import zipfile
import zlib

import numpy as np
import pytest

import lrpfast
from lrpfast.batch import deflate
from lrpfast.batch.compression import LEVEL
from lrpfast.batch.deflate import PIECE_BYTES, npz_parts, zlib_stream

RNG = np.random.default_rng(12)


def arrays():
    noise = RNG.normal(size=(3, PIECE_BYTES // 16))
    holes = noise.copy()
    holes[:, ::3] = np.nan
    return {
        "noise": noise,
        "holes": holes.astype(np.float32),
        "shares": RNG.integers(0, 5, (5, PIECE_BYTES // 8 + 1)) / 4,
        "zeros": np.zeros((2, PIECE_BYTES), np.int8),
        "piece": RNG.integers(0, 9, PIECE_BYTES).astype(np.uint8),
        "fortran": np.asfortranarray(RNG.normal(size=(40, 30))),
        "none": np.empty((0, 7)),
        "one": np.array(3.5),
        "truth": np.array([True, False]),
        "text": np.array(["DJF", "märz", ""]),
        "bytes": np.array([b"a", b"bc"]),
        "größe": np.arange(3),
    }


@pytest.mark.parametrize("long", [False, True])
def test_archives(long, monkeypatch):
    if long:  # as if every size needed 64 bits
        monkeypatch.setattr(deflate, "_MOST", -1)
    expected = arrays()
    content = io.BytesIO(b"".join(npz_parts(expected)))
    with zipfile.ZipFile(content) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{name}.npy" for name in expected]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_DEFLATED}
        assert {info.extract_version for info in archive.infolist()} == {45 if long else 20}
    content.seek(0)
    with np.load(content, allow_pickle=False) as file:
        for name, values in expected.items():
            got = file[name]
            assert got.dtype == values.dtype and got.shape == values.shape
            np.testing.assert_array_equal(got, values)


@pytest.mark.parametrize("name", arrays())
def test_streams(name):
    values = arrays()[name]
    assert zlib.decompress(zlib_stream(values)) == np.ascontiguousarray(values).tobytes()


def test_bytes_do_not_depend_on_threads(monkeypatch):
    values = arrays()
    contents = set()
    for threads in (1, 2, 5):
        monkeypatch.setattr(deflate, "get_num_threads", lambda threads=threads: threads)
        contents.add(b"".join([*npz_parts(values), zlib_stream(values["noise"])]))
    assert len(contents) == 1


def test_about_as_small_as_one_stream():
    for name in ("noise", "holes", "shares", "zeros"):
        values = arrays()[name]
        assert len(zlib_stream(values)) < 1.1 * len(zlib.compress(values.tobytes(), LEVEL)) + 1_000


@pytest.mark.parametrize("kind", ["npz", "zarr"])
def test_statistics_of_many_groups(kind, tmp_path):
    if kind == "zarr":
        pytest.importorskip("zarr")
    model = lrpfast.from_layers([lrpfast.layers.Dense(RNG.normal(size=(2_000, 2)).astype(np.float32))])
    x, groups = RNG.normal(size=(300, 2_000)).astype(np.float32), np.arange(300) % 120
    analyzer = lrpfast.Analyzer(model, "epsilon")
    done = analyzer.stream(x, statistics=tmp_path / f"s.{kind}", group_by=groups, progress=False)
    for name in ("mean", "std", "count", "p_value"):
        with lrpfast.batch.open_source(f"{tmp_path}/s.{kind}:{name}") as source:
            expected = getattr(done.statistics, name)
            np.testing.assert_array_equal(source.read(0, 120), expected() if callable(expected) else expected)
