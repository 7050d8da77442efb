"""What differs from system to system. Where Windows has a call of its own, both branches run here, on any system."""

import importlib
import ntpath
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import lrpfast
import seeds
from lrpfast.batch import journal, open_source, path_conflicts
from lrpfast.batch.sinks import named
from lrpfast.batch.sources import paths

ROOT = Path(__file__).parents[1]
FEATURES, SAMPLES = 12, 300
RNG = seeds.generator(11)
MODEL = lrpfast.from_layers([lrpfast.layers.Dense(RNG.normal(size=(FEATURES, 3)))])
ANALYZER = lrpfast.Analyzer(MODEL, "epsilon")
X = RNG.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
RELEVANCE = ANALYZER.analyze(X)


@pytest.fixture
def x(tmp_path):
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "x.npy"


@pytest.fixture
def windows(monkeypatch):
    """Make the package take Windows' branches."""
    for name in ("output", "batch.journal", "batch.positional_io"):
        module = importlib.import_module(f"lrpfast.{name}")
        monkeypatch.setattr(module, "sys", SimpleNamespace(platform="win32", modules=sys.modules))
    if sys.platform == "win32":
        return
    import fcntl

    def locking(descriptor, mode, nbytes):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PermissionError(13, "Permission denied") from error  # Windows' way to say it

    monkeypatch.setattr(journal, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2), raising=False)


def read(path):
    with open_source(path) as source:
        return np.array(source.read(0, len(X)))


# Indices have 64 bits


@pytest.mark.skipif(not (ROOT / "src").exists(), reason="needs the source")
def test_no_index_is_a_long():
    """Which has 32 bits on Windows: C's indices are ptrdiff_t, Cython's Py_ssize_t."""
    folder = ROOT / "src" / "lrpfast"
    made = {path.with_suffix(".c") for path in folder.rglob("*.pyx")}
    files = [p for end in ("pyx", "pxd", "pxi", "c", "h") for p in folder.rglob(f"*.{end}") if p not in made]
    assert len(files) > 8
    for path in files:
        comment = r"/\*.*?\*/|//[^\n]*" if path.suffix in (".c", ".h") else r'""".*?"""|#[^\n]*'
        code = re.sub(comment, "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.search(r"\blong\b", code), path


# Files


@pytest.mark.parametrize("name", ["r.npy", "r.h5", "r.zarr"])
@pytest.mark.parametrize("branch", ["as it is", "windows"])
def test_a_run_is_stopped_and_goes_on(name, branch, x, tmp_path, request):
    if name == "r.zarr":
        pytest.importorskip("zarr")
    if branch == "windows":
        request.getfixturevalue("windows")

    def stop(samples):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ANALYZER.stream(x, tmp_path / name, batch_size=50, progress=stop)
    assert ANALYZER.stream(x, tmp_path / name, batch_size=50).resumed >= 50
    np.testing.assert_array_equal(read(tmp_path / name), RELEVANCE)
    ANALYZER.stream(-X, tmp_path / name, batch_size=50, overwrite=True)
    np.testing.assert_array_equal(read(tmp_path / name), ANALYZER.analyze(-X))
    assert sorted(os.listdir(tmp_path)) == sorted(["x.npy", name])


@pytest.mark.parametrize("branch", ["as it is", "windows"])
def test_rows_of_an_iterator(branch, tmp_path, request):
    """Of which the number is written at the end, into bytes that no system may translate."""
    if branch == "windows":
        request.getfixturevalue("windows")
    ANALYZER.stream(iter(np.array_split(X, 7)), tmp_path / "r.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "r.npy"), RELEVANCE)


# The lock


@pytest.mark.parametrize("branch", ["as it is", "windows"])
def test_an_output_is_one_runs(branch, x, tmp_path, request):
    if branch == "windows":
        request.getfixturevalue("windows")
    refused = []

    def again(samples):
        with pytest.raises(lrpfast.InputError, match="r.npy: another run writes it now"):
            ANALYZER.stream(X, tmp_path / "r.npy", overwrite=True)
        refused.append(samples)

    ANALYZER.stream(x, tmp_path / "r.npy", batch_size=100, progress=again)
    assert refused == [100, 100, 100]
    ANALYZER.stream(x, tmp_path / "r.npy", overwrite=True)
    np.testing.assert_array_equal(np.load(tmp_path / "r.npy"), RELEVANCE)
    assert sorted(os.listdir(tmp_path)) == ["r.npy", "x.npy"]


HOLD = """
import sys, time, lrpfast
def hold(samples):
    print("holds", flush=True)
    time.sleep(600)
lrpfast.Analyzer(lrpfast.load(sys.argv[1]), "epsilon").stream(*sys.argv[2:], batch_size=100, progress=hold)
"""


def test_the_lock_ends_with_its_process(x, tmp_path):
    MODEL.save(tmp_path / "m.npz")
    command = [sys.executable, "-c", HOLD, tmp_path / "m.npz", x, tmp_path / "r.npy"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "holds\n"
            with pytest.raises(lrpfast.InputError, match="another run writes it now"):
                ANALYZER.stream(x, tmp_path / "r.npy", batch_size=100)
        finally:
            process.kill()
    ANALYZER.stream(x, tmp_path / "r.npy", batch_size=100, resume=False)
    np.testing.assert_array_equal(np.load(tmp_path / "r.npy"), RELEVANCE)
    assert sorted(os.listdir(tmp_path)) == ["m.npz", "r.npy", "x.npy"]


# Names


def test_drives(monkeypatch):
    there = {"C", "C:\\a\\x.h5", "x.h5"}
    path = SimpleNamespace(lexists=there.__contains__, splitdrive=ntpath.splitdrive)
    monkeypatch.setattr(paths, "os", SimpleNamespace(path=path))
    assert paths.split("C:\\a\\x.h5:g/y") == ("C:\\a\\x.h5", "g/y")
    assert paths.split("C:\\a\\x.h5") == ("C:\\a\\x.h5", None)
    assert paths.split("x.h5:y") == ("x.h5", "y")
    assert paths.split("C:\\b\\x.h5:y") == ("C:\\b\\x.h5:y", None)  # not there; C is another file
    assert named("C:\\a\\r.h5:g/y") == ("C:\\a\\r.h5", "h5", "g/y")
    assert named("C:\\a\\r.npy") == ("C:\\a\\r.npy", "npy", None)


def test_what_is_named_in_a_file_is_no_path(monkeypatch):
    monkeypatch.setattr(paths, "os", SimpleNamespace(path=ntpath))
    assert paths.absolute("C:\\a/b\\x.h5", "g/y") == "C:\\a\\b\\x.h5:g/y"
    assert paths.absolute("C:\\a/x.npy", None) == "C:\\a\\x.npy"


def test_outputs_on_two_drives(monkeypatch):
    monkeypatch.setattr(path_conflicts, "os", SimpleNamespace(path=ntpath))
    assert not path_conflicts._overlap("C:\\a\\r.npy", "D:\\a\\x.npy")
    assert not path_conflicts._overlap("C:\\a\\r.npy", "C:\\a\\x.npy")
    assert path_conflicts._overlap("C:\\a\\x.zarr\\r", "c:\\A\\X.zarr")


@pytest.mark.parametrize("end", sorted({os.sep, os.altsep or os.sep}))
def test_a_slash_at_a_folders_end(end, x, tmp_path):
    pytest.importorskip("zarr")
    ANALYZER.stream(x, f"{tmp_path / 'r.zarr'}{end}", statistics=f"{tmp_path / 's.zarr'}{end}")
    np.testing.assert_array_equal(read(tmp_path / "r.zarr"), RELEVANCE)
    assert sorted(os.listdir(tmp_path)) == ["r.zarr", "s.zarr", "x.npy"]
