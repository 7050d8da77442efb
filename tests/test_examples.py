"""The examples run as they stand, and print what the notebook printed."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lrpfast

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SEED = json.loads((ROOT / "tests" / "data" / "seed.json").read_text())

if not (EXAMPLES / "trainer.py").exists():
    pytest.skip("the examples are not beside these tests", allow_module_level=True)


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


trainer = load("trainer")


def run(folder, *arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


# The notebook


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    done = run(folder, EXAMPLES / "understanding_lrp.py")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert list(folder.iterdir()) == []
    return done.stdout


def test_every_figure_agrees(notebook):
    agreeing, compared = map(int, re.search(r"(\d+) of (\d+) comparisons", notebook).groups())
    assert agreeing == compared == 5 + 3 + 3 + 1 + 13 + 11  # losses, weights, prediction, range, library, by hand
    assert "DIFFERS" not in notebook


def test_every_cell_is_there(notebook):
    cells = {int(n) for n in re.findall(r"^Cell (\d+):", notebook, re.MULTILINE)}
    assert cells == {2, 3, 4, 5, *range(6, 31)}


@pytest.mark.parametrize("at", range(len(SEED["library_cells_tf32"])))
def test_library_figures_are_printed_twice(notebook, at):
    cell = SEED["library_cells_tf32"][at]
    ours = re.findall(r" tf32 +(\S+) +(\S+) +(\S+)  same$", notebook, re.MULTILINE)
    figures = tuple(map(str, (*cell["relevance"][0], cell["R_minus_sum"])))
    assert figures in ours
    assert re.search(" notebook +" + " +".join(map(re.escape, figures)), notebook)


def test_the_manual_bounded_cell_and_what_it_should_be(notebook):
    right = SEED["manual_cells_float64"]["cells"][-1]["relevance"]
    (cell,) = re.findall(r"^Cell 20:.*?^$", notebook, re.MULTILINE | re.DOTALL)
    found = re.findall(r"float64 +(\S+) +(\S+)", cell)
    written, *meant = [[float(v) for v in row] for row in found]
    assert written == [pytest.approx(v, rel=1e-9) for v in SEED["manual_cells_float64"]["cells"][4]["relevance"]]
    for row in meant:  # right has eight digits
        assert row == [pytest.approx(v, rel=1e-7) for v in right]


def test_the_lines_fit(notebook):
    assert max(map(len, notebook.splitlines())) <= 100


def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    done = run(tmp_path, EXAMPLES / "understanding_lrp.py", "--plot", "notebook.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "notebook.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("path", ["notebook.bmp", "no/such/folder.png"])
def test_a_picture_that_cannot_be_written(path, tmp_path):
    pytest.importorskip("matplotlib")
    done = run(tmp_path, EXAMPLES / "understanding_lrp.py", "--plot", path)
    assert done.returncode == 2 and done.stdout == "" and "error: " in done.stderr.splitlines()[-1]


def test_a_picture_without_matplotlib(tmp_path):
    script = EXAMPLES / "understanding_lrp.py"
    code = f"""
import runpy, sys
sys.modules["matplotlib"] = None
sys.path.insert(0, {str(EXAMPLES)!r})
sys.argv = ["understanding_lrp.py", "--plot", "notebook.png"]
runpy.run_path({str(script)!r}, run_name="__main__")
"""
    done = run(tmp_path, "-c", code)
    assert done.returncode == 2 and "pip install matplotlib" in done.stderr.splitlines()[-1]


# The trainer


def ring(count, seed=0):
    """Points inside and outside a circle: no straight line parts them."""
    x = np.random.default_rng(seed).normal(size=(count, 2))
    return x, (np.hypot(*x.T) > 1.2).astype(int)


def accuracy(parameters, x, labels):
    *hidden, (kernel, bias) = parameters
    for k, b in hidden:
        x = np.maximum(x @ k + b, 0)
    return ((x @ kernel + bias).argmax(1) == labels).mean()


@pytest.mark.parametrize("l2", (0.0, 0.3))
def test_gradients_are_the_loss_s(l2):
    rng = np.random.default_rng(1)
    sizes = (3, 5, 4, 3)
    parameters = [(rng.normal(size=s), rng.normal(size=s[1])) for s in zip(sizes, sizes[1:], strict=False)]
    x, labels = rng.normal(size=(7, 3)), rng.integers(0, 3, 7)
    loss, gradients = trainer._gradients(parameters, x, labels, l2)
    assert loss == trainer._loss(parameters, x, labels, l2)
    for layer, slopes in zip(parameters, gradients, strict=True):
        for part, slope in zip(layer, slopes, strict=True):
            for at in np.ndindex(part.shape):
                kept, either = part[at], []
                for step in (1e-6, -1e-6):
                    part[at] = kept + step
                    either.append(trainer._loss(parameters, x, labels, l2))
                part[at] = kept
                assert slope[at] == pytest.approx((either[0] - either[1]) / 2e-6, abs=1e-8)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_hidden_layers_learn(dtype):
    (x, labels), held = ring(2000), ring(500, 1)
    x, held = x.astype(dtype), (held[0].astype(dtype), held[1])
    losses = []
    parameters = trainer.train(
        x, labels, held, (16, 8, 2), epochs=40, learning_rate=lambda e: 0.1, on_epoch=lambda *e: losses.append(e)
    )
    assert [(k.shape, b.shape) for k, b in parameters] == [((2, 16), (16,)), ((16, 8), (8,)), ((8, 2), (2,))]
    assert {part.dtype for layer in parameters for part in layer} == {np.dtype(dtype)}
    assert accuracy(parameters, *held) > 0.95
    assert [epoch for epoch, _, _ in losses] == [*range(1, 41)]
    assert trainer._loss(parameters, *held, 0.0) == min(held for _, _, held in losses)


def test_options():
    (x, labels), held = ring(500), ring(100, 1)
    free = trainer.train(x, labels, held, (8, 2), epochs=10)
    small = trainer.train(x, labels, held, (8, 2), epochs=10, l2=0.1)
    assert sum((k**2).sum() for k, _ in small) < 0.5 * sum((k**2).sum() for k, _ in free)
    assert any((b < 0).any() for _, b in free)
    bound = trainer.train(x, labels, held, (8, 2), epochs=10, nonnegative_bias=True)
    assert all((b >= 0).all() for _, b in bound)
    again = trainer.train(x, labels, held, (8, 2), epochs=10)
    assert all((a == b).all() for one, other in zip(free, again, strict=True) for a, b in zip(one, other, strict=True))
    rate = trainer.step_decay(0.01, drop=0.5, every=25)
    assert [rate(epoch) for epoch in (0, 23, 24, 99)] == [0.01, 0.01, 0.005, 0.01 / 16]


def test_wrong_use():
    (x, labels), held = ring(50), ring(10, 1)
    with pytest.raises(ValueError, match="^labels have to be integers from 0 to 1"):
        trainer.train(x, labels + 1, held, (2,))
    with pytest.raises(ValueError, match="^validation labels have to be integers from 0 to 1"):
        trainer.train(x, labels, (held[0], held[1].astype(float)), (2,))
    with pytest.raises(ValueError, match="no longer finite in epoch 1"):
        trainer.train(np.where(x > 9, x, np.nan), labels, held, (2,))


# The climate pipeline


def test_climate_maps(tmp_path):
    done = run(tmp_path, EXAMPLES / "climate_maps.py", "--days", "300", "--epochs", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("300 maps explained in") == 2
    assert len(re.findall(r"relevance and pattern correlate by 0\.\d\d", done.stdout)) == 2
    folder = tmp_path / "climate_maps"
    (mean_maps,) = (p for p in folder.glob("relevance_0.*") if p.suffix in (".nc", ".npz"))
    from lrpfast.batch import open_source

    with open_source(f"{mean_maps}:mean") as source:
        mean = source.read(0, 2)
    ocean = np.load(folder / "ocean.npy")
    assert np.isnan(mean[:, ~ocean]).all() and (np.abs(mean[:, ocean]) <= 1).all()
    if importlib.util.find_spec("matplotlib"):
        assert (folder / "relevance.png").read_bytes().startswith(b"\x89PNG")


# The streamflow LSTM


def test_streamflow_lstm(tmp_path):
    done = run(tmp_path, EXAMPLES / "streamflow_lstm.py", "--years", "6", "--steps", "30", "--days", "20")
    assert done.returncode == 0, done.stderr
    assert re.search(r"five days that carried most of it:\n( +\d+ days before: .*\n){5}", done.stdout)
    assert re.search(r"floods: precipitation \d+%, temperature \d+%, snow \d+%", done.stdout)
    folder = tmp_path / "streamflow_lstm"
    relevance, floods = np.load(folder / "relevance.npy"), np.load(folder / "floods.npy")
    assert relevance.shape == floods.shape == (len(floods), 20, 3)
    assert (relevance[floods == 0] == 0).all()  # a day without rain carries nothing
    if importlib.util.find_spec("matplotlib"):
        assert (folder / "flood.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / "by_lag.png").exists()


# Concepts


def test_concepts(tmp_path):
    done = run(tmp_path, EXAMPLES / "concepts.py", "--digit", "3")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert len(re.findall(r"  channel +\d+: +[\d.]+%, +[\d.]+%\n", done.stdout)) == 3
    assert len(re.findall(r"  channel +\d+:( \d){8}\n", done.stdout)) == 3
    assert "5 nodes, 4 edges" in done.stdout and not list(tmp_path.iterdir())
    if importlib.util.find_spec("matplotlib"):
        assert run(tmp_path, EXAMPLES / "concepts.py", "--plot", "channels.png").returncode == 0
        assert (tmp_path / "channels.png").read_bytes().startswith(b"\x89PNG")


# The transformers


def test_text_classifier(tmp_path):
    done = run(tmp_path, EXAMPLES / "text_classifier.py", "--steps", "60")
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"([\d.]+)% of 500 new reviews", done.stdout)[1]) > 70
    means = dict(re.findall(r"([\w() ]+) ([+-][\d.]+)[,\n]", done.stdout))
    assert {"good", "bad", "not (praise)", "not (blame)", "the"} <= {name.strip() for name in means}
    assert "not" in done.stdout and "good by" in done.stdout and "bad by" in done.stdout
    if importlib.util.find_spec("matplotlib"):
        assert (tmp_path / "text_classifier" / "reviews.png").read_bytes().startswith(b"\x89PNG")
    model = lrpfast.load(tmp_path / "text_classifier" / "reviews.npz")
    assert [layer.heads for layer in model.layers if isinstance(layer, lrpfast.layers.Attention)] == [2, 2]


def test_weather_attention(tmp_path):
    done = run(tmp_path, EXAMPLES / "weather_attention.py", "--steps", "3", "--samples", "12")
    assert done.returncode == 0, done.stderr
    assert re.search(r"skill of 12 new forecasts.*: -?\d+\.\d\d\n", done.stdout)
    assert re.search(
        r"wind from the west: the tracer moved \+[\d.]+ points, relevance lies [+-][\d.]+ off", done.stdout
    )
    model = lrpfast.load(tmp_path / "weather_attention" / "drift.npz")
    assert (model.input_shape, model.output_shape) == ((16, 32, 2), (16, 32, 1))
    if importlib.util.find_spec("matplotlib"):
        assert (tmp_path / "weather_attention" / "relevance.png").read_bytes().startswith(b"\x89PNG")


def test_gradients_of_variables_are_those_of_differences():
    """Each operation of tiny_autograd, by central differences."""
    tape = load("tiny_autograd")
    rng = np.random.default_rng(0)
    shapes = {"x": (2, 4, 3), "w": (3, 6), "bias": (6,), "gamma": (3,), "beta": (3,)}
    values = {name: rng.normal(size=shape) for name, shape in shapes.items()}

    def loss(arrays):
        v = {name: tape.Variable(array) for name, array in arrays.items()}
        y = v["x"].norm(v["gamma"], v["beta"]).roll((1,), (1,)) @ v["w"] + v["bias"]
        a = (y.reshape(2, 4, 2, 3).transpose(0, 2, 1, 3) * 0.5).softmax()
        y = (a @ v["x"].transpose(0, 2, 1).reshape(2, 1, 3, 4)).relu().rows(np.array([1, 0, 1]))
        return y, v

    y, v = loss(values)
    weight = rng.normal(size=y.value.shape)
    y.backward(weight)
    for name, array in values.items():
        for at in np.ndindex(array.shape):
            either = []
            for step in (1e-6, -1e-6):
                changed = array.copy()
                changed[at] += step
                either.append((loss({**values, name: changed})[0].value * weight).sum())
            assert v[name].gradient[at] == pytest.approx((either[0] - either[1]) / 2e-6, abs=1e-7)


# A climate scientist's day


def test_the_climate_scientists_day(tmp_path):
    netcdf = pytest.importorskip("netCDF4")
    script = EXAMPLES / "climate_day.py"
    done = run(tmp_path, script, "--step", "12", "--years", "2", "--seeds", "2", "--epochs", "3")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "climate_day"
    assert "730 maps of 11 × 30 points" in done.stdout
    assert "ok       range" in done.stdout
    assert "seasons DJF, MAM, JJA, SON" in done.stdout
    assert "90 maps of the winter of 1982" in done.stdout
    assert float(done.stdout.split("correlate by ")[1][:4]) > 0.7  # the networks look where the pattern is
    assert "zero everywhere" not in done.stderr and "grows more than" not in done.stderr
    with netcdf.Dataset(folder / "seasons.nc") as over, netcdf.Dataset(folder / "seasons_seed_1.nc") as one:
        assert over["mean"].shape == (4, 11, 30)
        assert over["count"][:].tolist() == [[180, 184, 184, 182]] * 2
        assert over["member"][:].tolist() == ["seed_0", "seed_1"]
        assert one["mean"].shape == (4, 11, 30)
    with netcdf.Dataset(folder / "winter.nc") as winter:
        assert winter["relevance"].shape == (90, 11, 30)
        assert winter["time"].units == "days since 1982-01-01"
        assert winter["time"][0] == 334
    if importlib.util.find_spec("matplotlib") is not None:
        assert (folder / "seasons.pdf").stat().st_size > 1000
