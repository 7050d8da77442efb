"""The outcome of a stream shows its maps in notebooks, of statistics or, without them, of the file."""

import os
from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast.cli import main

pytest.importorskip("matplotlib")
MODEL = Path(__file__).parent / "data" / "digits_cnn.h5"


@pytest.mark.parametrize("out", ["r.npy", "r.h5", "r.nc", "r.zarr", "r.h5:own"])
def test_a_file_alone(tmp_path, out):
    for package, suffix in (("h5py", ".h5"), ("netCDF4", ".nc"), ("zarr", ".zarr")):
        if suffix in out:
            pytest.importorskip(package)
    x = np.load(MODEL.with_suffix(".npz"))["x"][:6]
    analyzer = lrpfast.Analyzer(lrpfast.load(MODEL), "z_plus")
    done = analyzer.stream(x, f"{tmp_path}/{out}", progress=False)
    shown = done._repr_html_()
    assert "<img" in shown and analyzer.explain(x[:4]).relevance.shape == done.first_maps().shape
    np.testing.assert_array_equal(done.first_maps(), analyzer.analyze(x)[:4])
    os.rename(tmp_path / out.partition(":")[0], tmp_path / "elsewhere")
    assert done._repr_html_() == shown[: shown.index("<img")]


def test_a_grid_and_no_samples(tmp_path):
    pytest.importorskip("netCDF4")
    mask = np.array([[True, False, True], [True, True, False]])
    model = lrpfast.from_layers([lrpfast.layers.Dense(np.ones((4, 2)))])
    x = np.where(mask, np.random.default_rng(1).normal(size=(3, 2, 3)), np.nan)
    done = lrpfast.Analyzer(model, "epsilon").stream(x, tmp_path / "r.nc", mask=mask, progress=False)
    assert done.first_maps().shape == (3, 2, 3) and "<img" in done._repr_html_()
    empty = lrpfast.Analyzer(model, "epsilon").stream(np.ones((0, 4)), tmp_path / "e.npy", progress=False)
    assert "<img" not in empty._repr_html_()


def test_each_of_several_layers(tmp_path):
    x = np.load(MODEL.with_suffix(".npz"))["x"][:6]
    analyzer = lrpfast.Analyzer(lrpfast.load(MODEL), "z_plus")
    done = analyzer.stream(x, layers=["dense", "conv2d"], statistics=True, progress=False)
    assert "<p>dense</p>" in done._repr_html_() and "<p>conv2d</p>" in done._repr_html_()


@pytest.mark.parametrize("command", [["report", "-o", "r.html"], ["evaluate"], ["doctor"]])
def test_commands_about_one_output(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    rng, graph = np.random.default_rng(2), lrpfast.Graph()
    x = graph.input((4,), name="x")
    hidden = graph.add(lrpfast.layers.Dense(rng.normal(size=(4, 3)), activation="relu", name="hidden"), x)
    sizes = {"a": 2, "b": 3}
    ends = [graph.add(lrpfast.layers.Dense(rng.normal(size=(3, n)), name=end), hidden) for end, n in sizes.items()]
    graph.model(*ends).save("two.npz")
    np.save("x.npy", rng.normal(size=(5, 4)))
    name, *options = command
    assert main([name, "two.npz", "x.npy", *options]) == 2
    assert "2: a, b; --start NAME chooses one" in capsys.readouterr().err
    assert main([name, "two.npz", "x.npy", *options, "--start", "b"]) == 0
    both = lrpfast.Graph()
    both.model(both.add(lrpfast.layers.Add(), both.input((4,), name="p"), both.input((4,), name="q"))).save(
        "inputs.npz"
    )
    assert main([name, "inputs.npz", "x.npy", *options, *(["--force"] if "-o" in options else [])]) == 2
    several = "The model has 2 inputs, 'p', 'q'" if name != "doctor" else "2: p, q; lrpfast explain"
    assert several in capsys.readouterr().err
