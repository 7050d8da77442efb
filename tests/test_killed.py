"""References, hidden layers and statistics survive SIGKILL: the same call goes on, and gives what one run gives."""

import contextlib
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast import output
from lrpfast.batch import run, unfinished

MODEL = Path(__file__).parent / "data" / "digits_cnn.h5"
SAMPLES, ROWS = 23, 4
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore::lrpfast.errors.RelevanceWarning"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def analyzer():
    return lrpfast.Analyzer(lrpfast.load(MODEL), "z_plus", threads=1, device="cpu")


@pytest.fixture
def x(tmp_path):
    values = np.load(MODEL.with_suffix(".npz"))["x"][:SAMPLES]
    np.save(tmp_path / "x.npy", values)
    np.save(tmp_path / "classes.npy", np.arange(SAMPLES) % 3)
    return tmp_path / "x.npy"


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def killed(call, moment):
    """Make a call in a process that is killed after some chunks, or while a complete file gets its name."""
    chunks = []

    def progress(_):
        chunks.append(1)
        if len(chunks) == moment:
            die()

    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            run.SECONDS_BETWEEN_NOTES = run.TIMES_A_NOTE = 0  # progress is recorded after every chunk
            if moment == "naming":
                output.replace_file = os.replace = os.rename = die
            call(progress)
        os._exit(7)  # not killed
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def arrays(path):
    """The arrays of a file, by name."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    if path.suffix == ".npy":
        return {"": np.load(path)}
    h5py = pytest.importorskip("h5py")
    with h5py.File(path) as file:
        return {name: file[name][...] for name in file if isinstance(file[name], h5py.Dataset)}


def assert_resumes(call, folder, names, moment):
    """What a call writes after it was killed is what it writes at once: bit by bit."""
    whole = [folder / f"whole_{name}" for name in names]
    call(whole, False)
    paths = [folder / name for name in names]
    killed(lambda progress: call(paths, progress), moment)
    assert not all(path.exists() for path in paths)
    counts = []
    call(paths, counts.append)
    if moment != "naming":
        assert sum(counts) == SAMPLES - moment * ROWS
    for path, expected in zip(paths, whole, strict=True):
        got, wanted = arrays(path), arrays(expected)
        assert got.keys() == wanted.keys() and got
        for name, array in wanted.items():
            np.testing.assert_array_equal(got[name], array, err_msg=name)
        assert not unfinished(str(path))


MOMENTS = [1, 3, "naming"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name, options", [("r.npz", {"by": "activation"}), ("r.h5", {"of": "max"})])
def test_references(tmp_path, analyzer, x, name, options, moment):
    def call(paths, progress):
        labels = tmp_path / "classes.npy"
        options_of_all = {"k": 3, "batch_size": ROWS, "group_by": labels, **options}
        analyzer.references(x, "conv2d_1", out=paths[0], progress=progress, **options_of_all)

    assert_resumes(call, tmp_path, [name], moment)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name, reduce", [("r.npz", "channels"), ("r.h5", None)])
def test_hidden_layers_with_statistics(tmp_path, analyzer, x, name, reduce, moment):
    def call(paths, progress):
        options = {"layers": ["conv2d_1", "dense"], "reduce": reduce, "activations": True, "batch_size": ROWS}
        analyzer.stream(x, paths[0], statistics=paths[1], progress=progress, **options)

    assert_resumes(call, tmp_path, [name, "s.npz"], moment)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("names", [["s.npz"], ["s.h5"], ["r.npy", "s.npz"]])
def test_statistics(tmp_path, analyzer, x, names, moment):
    def call(paths, progress):
        options = {"batch_size": ROWS, "group_by": tmp_path / "classes.npy", "quantiles": 0.5, "normalize": "maxabs"}
        analyzer.stream(x, paths[0] if paths[1:] else None, statistics=paths[-1], progress=progress, **options)

    assert_resumes(call, tmp_path, names, moment)
