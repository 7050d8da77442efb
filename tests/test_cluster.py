"""Dask: lazy maps of Dask and xarray arrays, and files explained by workers; the same numbers as one process."""

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import lrpfast
import seeds

dask = pytest.importorskip("dask", reason="these are about Dask: pip install 'dask[array]' distributed")
da = pytest.importorskip("dask.array", reason="these are about Dask: pip install 'dask[array]' distributed")

FEATURES, SAMPLES = 40, 3_000
RNG = seeds.generator(3)
MODEL = lrpfast.from_layers(
    [
        lrpfast.layers.Dense(RNG.normal(size=(FEATURES, 16)) / 6, 0.1 * RNG.normal(size=16), activation="relu"),
        lrpfast.layers.Dense(RNG.normal(size=(16, 3)) / 4, 0.1 * RNG.normal(size=3)),
    ]
)
X = RNG.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
LABELS = RNG.integers(0, 3, SAMPLES)
ANALYZER = lrpfast.Analyzer(MODEL, "epsilon")
RELEVANCE = ANALYZER.analyze(X)


# Lazy maps


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
@pytest.mark.parametrize("chunks", [(700, 40), (1_000, 13), (3_000, -1), ((1, 2_999), 40)])
def test_map(chunks, scheduler):
    lazy = ANALYZER.map(da.from_array(X, chunks))
    assert lazy.shape == RELEVANCE.shape and lazy.dtype == RELEVANCE.dtype and lazy.numblocks[1] == 1
    assert lazy.chunks[0] == da.from_array(X, chunks).chunks[0]
    assert (lazy.compute(scheduler=scheduler) == RELEVANCE).all()
    assert (lazy[2_000:2_003].compute(scheduler=scheduler) == RELEVANCE[2_000:2_003]).all()


TARGETS = [2, (0, 1), "all", LABELS, da.from_array(LABELS, 500), np.stack([LABELS, 2 - LABELS], 1)]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: type(t).__name__)
def test_targets(target):
    lazy = ANALYZER.map(da.from_array(X, (700, 40)), target)
    expected = ANALYZER.analyze(X, np.asarray(target) if hasattr(target, "shape") else target)
    assert lazy.shape == expected.shape
    assert (lazy.compute(scheduler="threads") == expected).all()


CONDITIONS = [{"dense": 3}, {"dense": {0, 2}, "dense_1": slice(1, 3)}]


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("conditions", [CONDITIONS[1], CONDITIONS], ids=["one", "several"])
def test_conditions(conditions, parallel):
    options = {"conditions": conditions, "parallel": parallel}
    lazy = ANALYZER.map(da.from_array(X, (700, 40)), LABELS, **options)
    expected = ANALYZER.analyze(X, LABELS, **options)
    assert lazy.shape == expected.shape
    assert (lazy.compute(scheduler="threads") == expected).all()
    assert (ANALYZER.map(X, LABELS, **options) == expected).all()


def test_map_of_what_is_no_array():
    with pytest.raises(lrpfast.InputError, match="Analyzer.stream takes paths"):
        ANALYZER.map("x.npy")
    with pytest.raises(lrpfast.ShapeError, match="must have shape"):
        ANALYZER.map(1.5)


def test_no_work_before_it_is_asked_for():
    def fail(block):
        raise AssertionError("computed")

    lazy = ANALYZER.map(da.map_blocks(fail, da.zeros((SAMPLES, FEATURES), chunks=(500, 40)), dtype=np.float32))
    assert lazy.shape == (SAMPLES, FEATURES)


def test_other_arrays_are_explained_at_once():
    assert (ANALYZER.map(X) == RELEVANCE).all()


def test_wrong_arrays():
    with pytest.raises(lrpfast.ShapeError, match="must have shape"):
        ANALYZER.map(da.zeros((10, 41), chunks=5))
    for options, message in (
        ({"conditions": 3}, "conditions must map layers"),
        ({"conditions": {"dens": 1}}, "unknown layer 'dens'"),
        ({"conditions": {"dense": 1}, "target": np.zeros((10, 2), int)}, "one target per sample"),
        ({"parallel": True}, "parallel goes with conditions"),
        ({"conditions": {"dense": 1}, "parallel": 1}, "parallel must be True or False"),
    ):
        with pytest.raises(lrpfast.InputError, match=message):
            ANALYZER.map(da.zeros((10, 40), chunks=5), **options)
    with pytest.raises(lrpfast.ShapeError, match="10 samples, but the targets have shape"):
        ANALYZER.map(da.zeros((10, 40), chunks=5), LABELS)
    unknown = da.from_array(X, (700, 40))
    with pytest.raises(lrpfast.InputError, match="chunks of unknown size"):
        ANALYZER.map(unknown[da.from_array(LABELS, 700) > 0])


@pytest.mark.parametrize("lazy", [False, True])
def test_xarray(lazy):
    xarray = pytest.importorskip("xarray", reason="this is about xarray")
    mask = np.zeros((5, 10), bool)
    mask.flat[RNG.permutation(50)[:FEATURES]] = True
    grid = np.full((SAMPLES, 5, 10), np.nan, np.float32)
    grid[:, mask] = X
    maps = xarray.DataArray(
        da.from_array(grid, (600, 5, 5)) if lazy else grid,
        {"time": np.arange(SAMPLES), "lat": np.linspace(-60, 60, 5), "season": ("time", LABELS)},
        ("time", "lat", "lon"),
        "sst",
        {"institute": "ours", "units": "K"},
    )
    made = ANALYZER.map(maps, mask=mask)
    assert lazy == (made.chunks is not None)
    assert made.dims == maps.dims and made.name == "relevance" and set(made.coords) == {"time", "lat", "season"}
    assert made.attrs["institute"] == "ours" and made.attrs["units"] == "1"
    assert made.attrs["model_digest"] == MODEL.digest() and "epsilon" in made.attrs["rules"]
    values = made.values
    assert (values[:, mask] == RELEVANCE).all() and np.isnan(values[:, ~mask]).all()


# A cluster's workers


@contextlib.contextmanager
def two_workers():
    """A client of two workers, which is not Dask's default client: lrpfast must not need one."""
    distributed = pytest.importorskip("distributed", reason="this needs Dask's distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": "127.0.0.1:0"}
    with (
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client():
    with two_workers() as client:
        yield client


@pytest.fixture
def x(tmp_path):
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "x.npy"


def leftovers(folder):
    return sorted(p.name for p in Path(folder).iterdir() if "lrpfast" in p.name)


def test_a_lazy_map_on_workers(client):
    assert (client.compute(ANALYZER.map(da.from_array(X, (500, 40)))).result() == RELEVANCE).all()


@pytest.mark.parametrize("sink", ["r.npy", "r.h5:r", "r.nc", "r.zarr", None])
def test_files(sink, client, x, tmp_path):
    for kind, package in ((".nc", "netCDF4"), (".zarr", "zarr")):
        if kind in str(sink):
            pytest.importorskip(package, reason=f"{kind} files need {package}")
    whole, made = (None if sink is None else tmp_path / name / sink for name in ("whole", "made"))
    (tmp_path / "whole").mkdir(), (tmp_path / "made").mkdir()
    how = {"group_by": LABELS, "quantiles": [0.5], "normalize": "maxabs", "batch_size": 256}
    ANALYZER.stream(x, whole, statistics=tmp_path / "whole" / "m.npz", **how)
    done = ANALYZER.stream(x, made, statistics=tmp_path / "made" / "m.npz", cluster=client, **how)
    assert done.samples == SAMPLES
    for file in sorted(p for p in (tmp_path / "whole").rglob("*") if p.is_file()):
        assert (tmp_path / "made" / file.relative_to(tmp_path / "whole")).read_bytes() == file.read_bytes(), file
    assert leftovers(tmp_path / "made") == []


class Stop(Exception):
    pass


def test_a_stopped_run_goes_on(client, x, tmp_path):
    whole = ANALYZER.stream(x, tmp_path / "w.npy", statistics=tmp_path / "w.npz")

    def stop(samples, seen=[]):  # noqa: B006
        seen.append(samples)
        if len(seen) == 3:
            raise Stop

    with pytest.raises(Stop):
        ANALYZER.stream(
            x, tmp_path / "r.npy", statistics=tmp_path / "m.npz", cluster=client, batch_size=64, progress=stop
        )
    assert leftovers(tmp_path)
    done = ANALYZER.stream(x, tmp_path / "r.npy", statistics=tmp_path / "m.npz", cluster=client, batch_size=64)
    assert 0 < done.resumed < SAMPLES and leftovers(tmp_path) == []
    assert (tmp_path / "r.npy").read_bytes() == (tmp_path / "w.npy").read_bytes()
    assert (tmp_path / "m.npz").read_bytes() == (tmp_path / "w.npz").read_bytes()
    assert whole.statistics.mean.tobytes() == done.statistics.mean.tobytes()


def test_a_worker_is_killed(x, tmp_path):
    whole = ANALYZER.stream(x, tmp_path / "w.npy", statistics=tmp_path / "w.npz", group_by=LABELS)
    with two_workers() as client:
        pids = list(client.run(os.getpid).values())
        killed = threading.Event()

        def kill(samples):
            if not killed.is_set():
                os.kill(pids[0], signal.SIGKILL)
                killed.set()
                time.sleep(0.2)

        done = ANALYZER.stream(
            x,
            tmp_path / "r.npy",
            statistics=tmp_path / "m.npz",
            group_by=LABELS,
            cluster=client,
            batch_size=64,
            progress=kill,
        )
        assert killed.is_set()
    assert (tmp_path / "r.npy").read_bytes() == (tmp_path / "w.npy").read_bytes()
    assert (tmp_path / "m.npz").read_bytes() == (tmp_path / "w.npz").read_bytes()
    assert whole.statistics.std.tobytes() == done.statistics.std.tobytes()


def test_hidden_layers_and_references(client, x, tmp_path):
    options = {"layers": ["dense", "dense_1"], "reduce": "sum", "activations": True, "group_by": LABELS, "target": 1}
    for where, own in (("w", {}), ("r", {"cluster": client})):
        ANALYZER.stream(x, tmp_path / f"{where}.npz", statistics=tmp_path / f"{where}_s.npz", **options, **own)
        ANALYZER.stream(x, tmp_path / f"{where}.h5", layers="dense", target=LABELS, batch_size=500, **own)
    assert (tmp_path / "w.h5").read_bytes() == (tmp_path / "r.h5").read_bytes()
    for name in ("", "_s"):
        with np.load(tmp_path / f"w{name}.npz") as whole, np.load(tmp_path / f"r{name}.npz") as parts:
            assert whole.files == parts.files
            assert all(whole[key].tobytes() == parts[key].tobytes() for key in whole.files)
    for by in ("relevance", "activation"):
        whole = ANALYZER.references(x, "dense", 5, by=by, group_by=LABELS, progress=False)
        parts = ANALYZER.references(x, "dense", 5, by=by, group_by=LABELS, progress=False, cluster=client)
        for key in ("indices", "values", "positions"):
            np.testing.assert_array_equal(getattr(parts, key), getattr(whole, key))


def test_a_wrong_sample_is_named(client, x, tmp_path):
    wrong = X.copy()
    wrong[2_500, 7] = np.inf
    np.save(x, wrong)
    with pytest.raises(lrpfast.SampleError, match=r"x\[2500, 7\] is inf"):
        ANALYZER.stream(x, tmp_path / "r.npy", cluster=client)
    assert leftovers(tmp_path) == []


def test_what_workers_cannot_reach(client, x, tmp_path):
    with pytest.raises(lrpfast.InputError, match="the source must be a file that all workers reach, not ndarray"):
        ANALYZER.stream(X, tmp_path / "r.npy", cluster=client)


@pytest.mark.parametrize("cluster", ["foo", "local:x", "local:", "tcp://127.0.0.1", "", "host:8786/x", 4])
def test_what_is_no_cluster(cluster, x, tmp_path):
    pytest.importorskip("distributed", reason="this needs Dask's distributed")
    with pytest.raises(lrpfast.InputError, match="cluster must be 'local:N' .* not "):
        ANALYZER.stream(x, tmp_path / "r.npy", cluster=cluster)
    assert not (tmp_path / "r.npy").exists() and leftovers(tmp_path) == []


@pytest.mark.parametrize("cluster", ["127.0.0.1:1", "tcp://127.0.0.1:1", "tcp://127.0.0.1:99999", "nothing://a:1"])
def test_a_scheduler_that_does_not_answer(cluster, x, tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="this needs Dask's distributed")
    monkeypatch.setattr("lrpfast.batch.cluster.SECONDS_TO_CONNECT", 1)
    with pytest.raises(lrpfast.InputError, match=f"'{cluster}': no scheduler answers there"):
        ANALYZER.stream(x, tmp_path / "r.npy", cluster=cluster)
    assert leftovers(tmp_path) == []


@pytest.fixture
def address(client):
    """The address of a scheduler, in a process without a default client."""
    distributed = pytest.importorskip("distributed", reason="this needs Dask's distributed")
    with pytest.raises(ValueError, match="No clients found"):
        distributed.default_client()
    return client.scheduler.address


def test_an_address(address, x, tmp_path):
    done = ANALYZER.stream(x, tmp_path / "r.npy", statistics=tmp_path / "m.npz", cluster=address)
    assert (np.load(tmp_path / "r.npy") == RELEVANCE).all() and done.samples == SAMPLES
    whole = ANALYZER.stream(x, statistics=tmp_path / "w.npz")
    assert whole.statistics.mean.tobytes() == done.statistics.mean.tobytes()


@pytest.mark.parametrize("where", ["local:2", "address", "host and port"])
def test_on_the_command_line(where, x, tmp_path, capsys, address):
    from lrpfast import cli

    MODEL.save(tmp_path / "m.npz")
    cluster = {"local:2": where, "address": address, "host and port": address.removeprefix("tcp://")}[where]
    arguments = [tmp_path / "m.npz", x, "-o", tmp_path / "r.npy", "--cluster", cluster]
    assert cli.main(["explain", *map(str, arguments)]) == 0
    assert (np.load(tmp_path / "r.npy") == RELEVANCE).all()
    assert "3,000 samples explained" in capsys.readouterr().out


def test_a_schedulers_file(address, x, tmp_path):
    """The scheduler may write it after lrpfast has begun, and not at once as a whole."""
    file = tmp_path / "scheduler.json"
    text = json.dumps({"type": "Scheduler", "address": address})

    def write():
        for end in (0, 20, None):
            time.sleep(0.3)
            file.write_text(text[:end])

    thread = threading.Thread(target=write)
    thread.start()
    ANALYZER.stream(x, tmp_path / "r.npy", cluster=file)
    thread.join()
    assert (np.load(tmp_path / "r.npy") == RELEVANCE).all()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("s.json", None, "no scheduler has written its address there .*No such file"),
        ("s.json", "{}", "no scheduler has written its address there"),
        ("s.json", '{"address": "tcp://127.0.0.1:1"}', "no scheduler answers there"),
        ("no/such/s.json", None, "there is no such folder"),
    ],
)
def test_a_file_without_a_scheduler(file, text, message, x, tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="this needs Dask's distributed")
    for name in ("SECONDS_TO_CONNECT", "SECONDS_TO_START"):
        monkeypatch.setattr(f"lrpfast.batch.cluster.{name}", 0.5)
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(lrpfast.InputError, match=message):
        ANALYZER.stream(x, tmp_path / "r.npy", cluster=str(tmp_path / file))
    assert not (tmp_path / "r.npy").exists() and leftovers(tmp_path) == []


def test_a_scheduler_without_workers(x, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="this needs Dask's distributed")
    monkeypatch.setattr("lrpfast.batch.cluster.SECONDS_TO_START", 0.5)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        pytest.raises(lrpfast.InputError, match=r"no worker came to tcp://127\.0\.0\.1:\d+ in 0\.5 s"),
    ):
        ANALYZER.stream(x, tmp_path / "r.npy", cluster=client)
    assert not (tmp_path / "r.npy").exists() and leftovers(tmp_path) == []


def listening(pids):
    """The addresses, as /proc writes them, at which processes accept connections."""
    sockets = set()
    for file in [file for pid in pids for file in Path(f"/proc/{pid}/fd").iterdir()]:
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            sockets.add(os.readlink(file))
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return {line[1].partition(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets}


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc to see who listens")
def test_a_local_cluster_listens_to_this_machine_alone():
    pytest.importorskip("distributed", reason="this needs Dask's distributed")
    from lrpfast.batch.cluster import connected

    with connected("local:1") as client:
        assert listening([os.getpid(), *client.run(os.getpid).values()]) == {"0100007F"}
