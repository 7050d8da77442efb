"""The command line: files in, files out, and one clear line for everything that can be wrong."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast import cli, plot
from lrpfast.cli import arguments as command_line

DATA = Path(__file__).parent / "data"
MODEL = DATA / "mlp_relu.h5"
LIMITED = os.name == "posix" and hasattr(os, "geteuid") and os.geteuid() != 0


@pytest.fixture
def x():
    return np.load(DATA / "mlp_relu.npz")["x"]


@pytest.fixture
def files(tmp_path, x):
    """(inputs, output) in an otherwise empty folder."""
    np.save(tmp_path / "x.npy", x)
    return tmp_path / "x.npy", tmp_path / "r.npy"


def run(*arguments):
    return cli.main([str(a) for a in arguments])


def explain(files, *options, model=MODEL):
    """The relevances that the command writes."""
    assert run("explain", model, files[0], "-o", files[1], "--force", *options) == 0
    return np.load(files[1], allow_pickle=False)


def refuse(capfd, *arguments):
    """The one line that a wrong command prints."""
    assert run(*arguments) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lrpfast: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def command(*arguments, **keywords):
    return subprocess.Popen(
        [sys.executable, "-m", "lrpfast", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # ignored where the tests run in a shell's background
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) if os.name == "posix" else None,
        **keywords,
    )


def leftovers(files):
    return sorted(p.name for p in files[0].parent.iterdir() if p != files[0])


# What it computes is what the library computes


def test_explain(files, x, capsys):
    got = explain(files)
    expected = lrpfast.Analyzer(lrpfast.load(MODEL), "epsilon").analyze(x)
    assert got.dtype == expected.dtype and got.tobytes() == expected.tobytes()
    printed = capsys.readouterr()
    assert printed.err == ""  # no progress bar where there is no terminal
    assert f"{len(x)} samples explained in" in printed.out
    assert "explanations a second" in printed.out and str(files[1]) in printed.out
    assert leftovers(files) == ["r.npy"]


RULES = [
    (["--rule", "zero"], lrpfast.rules.Zero(), None),
    (["--epsilon", "0.25"], lrpfast.rules.Epsilon(0.25), None),
    (["--rule", "epsilon", "--epsilon", "1e-3", "--bias", "ignore"], lrpfast.rules.Epsilon(1e-3, bias="ignore"), None),
    (["--rule", "gamma", "--gamma", "0.5"], lrpfast.rules.Gamma(0.5), None),
    (["--rule", "alpha_beta", "--alpha", "3", "--beta", "2"], lrpfast.rules.AlphaBeta(3, 2), None),
    (
        ["--rule", "alpha_beta_x", "--alpha", "1,0", "--beta", "-0,-1"],
        lrpfast.rules.AlphaBetaX((1, 0), (0, -1)),
        None,
    ),
    (["--rule", "z_box", "--low", "-1.5", "--high", "2"], lrpfast.rules.ZBox(-1.5, 2), None),
    (["--rule", "z_plus", "--input-layer-rule", "flat"], lrpfast.rules.ZPlus(), lrpfast.rules.Flat()),
    (["--rule", "z_plus", "--input-layer-rule", "-4,4"], lrpfast.rules.ZPlus(), lrpfast.rules.ZBox(-4, 4)),
    (
        ["--input-layer-rule", "z_box", "--low", "-1e0", "--high", "1"],
        lrpfast.rules.Epsilon(),
        lrpfast.rules.ZBox(-1, 1),
    ),
]


def as_typed(value):
    """A test's name: the options as they are typed."""
    return " ".join(value) if isinstance(value, list) else ""


@pytest.mark.parametrize(("options", "rule", "first"), RULES, ids=as_typed)
def test_rules_and_their_parameters(options, rule, first, files, x):
    expected = lrpfast.Analyzer(lrpfast.load(MODEL), lrpfast.composites.Uniform(rule, first)).analyze(x)
    assert explain(files, *options).tobytes() == expected.tobytes()


INNVESTIGATE = [
    (["--rule", "lrp.z"], "lrp.z", {}),
    (["--rule", "lrp.z_IB"], "lrp.z_IB", {}),
    (["--rule", "lrp.epsilon", "--epsilon", "0.5", "--bias", "false"], "lrp.epsilon", {"epsilon": 0.5, "bias": False}),
    (["--rule", "lrp.epsilon", "--bias", "True"], "lrp.epsilon", {"bias": True}),
    (["--rule", "lrp.alpha_beta", "--alpha", "3"], "lrp.alpha_beta", {"alpha": 3.0}),
    (
        ["--rule", "lrp.alpha_1_beta_0_IB", "--input-layer-rule", "Bounded"],
        "lrp.alpha_1_beta_0_IB",
        {"input_layer_rule": "Bounded"},
    ),
    (
        ["--rule", "lrp.alpha_1_beta_0", "--input-layer-rule", "-4,4.5"],
        "lrp.alpha_1_beta_0",
        {"input_layer_rule": (-4.0, 4.5)},
    ),
    (
        ["--rule", "lrp.z", "--input-layer-rule", "Bounded", "--low", "-4", "--high", "5"],
        "lrp.z",
        {"input_layer_rule": (-4.0, 5.0)},
    ),
    (["--rule", "deep_taylor"], "deep_taylor", {}),
    (
        ["--rule", "deep_taylor.bounded", "--low", "-4", "--high", "4"],
        "deep_taylor.bounded",
        {"low": -4.0, "high": 4.0},
    ),
    (
        ["--rule", "lrp.z", "--until-layer-idx", "1", "--until-layer-rule", "Flat"],
        "lrp.z",
        {"until_layer_idx": 1, "until_layer_rule": "Flat"},
    ),
    (
        ["--rule", "lrp.sequential_preset_b_flat_until_idx", "--until-layer-idx", "2"],
        "lrp.sequential_preset_b_flat_until_idx",
        {"until_layer_idx": 2},
    ),
]


@pytest.mark.parametrize(("options", "name", "keywords"), INNVESTIGATE, ids=as_typed)
def test_innvestigate_names(options, name, keywords, files, x):
    expected = lrpfast.create_analyzer(name, lrpfast.load(MODEL), **keywords).analyze(x)
    assert explain(files, *options).tobytes() == expected.tobytes()


def test_bounds_from_a_file(files, x):
    np.save(files[0].parent / "low.npy", x.min(0))
    np.save(files[0].parent / "high.npy", x.max(0))
    options = ["--low", files[0].parent / "low.npy", "--high", files[0].parent / "high.npy"]
    rule = lrpfast.composites.Uniform(lrpfast.rules.Epsilon(), lrpfast.rules.ZBox(x.min(0), x.max(0)))
    expected = lrpfast.Analyzer(lrpfast.load(MODEL), rule).analyze(x)
    assert explain(files, "--input-layer-rule", "z_box", *options).tobytes() == expected.tobytes()


@pytest.mark.parametrize("rule", ["epsilon", "lrp.z"])
@pytest.mark.parametrize(("text", "target"), [("max", "max"), ("all", "all"), ("3", 3), ("4,0", (4, 0))])
def test_targets(text, target, rule, files, x):
    analyzer = lrpfast.Analyzer(lrpfast.load(MODEL), lrpfast.rules.Epsilon(), target=target)
    if rule == "lrp.z":
        rule_of = lrpfast.rules.Zero(stabilizer=lrpfast.rules.Stabilizer(1e-7, "zero"))
        analyzer = lrpfast.Analyzer(lrpfast.load(MODEL), rule_of, target=target)
    assert explain(files, "--rule", rule, "--target", text).tobytes() == analyzer.analyze(x).tobytes()


@pytest.mark.parametrize("kind", ["one each", "two each", "relevance"])
def test_targets_from_a_file(kind, files, x, monkeypatch):
    monkeypatch.setattr("lrpfast.batch.chunks.CHUNK_BYTES", 200)  # targets go along with their chunks
    rng = np.random.default_rng(0)
    n = len(x)
    target = {
        "one each": rng.integers(5, size=n),
        "two each": rng.integers(5, size=(n, 2)),
        "relevance": rng.normal(size=(n, 5)),
    }[kind]
    np.save(files[0].parent / "t.npy", target)
    expected = lrpfast.Analyzer(lrpfast.load(MODEL), "epsilon").analyze(x, target)
    got = explain(files, "--target", files[0].parent / "t.npy")
    assert got.shape == expected.shape and got.tobytes() == expected.tobytes()


def test_a_hidden_layer(files, x):
    model = lrpfast.load(MODEL)
    expected = lrpfast.Analyzer(model, "epsilon", start="dense_1", target=7).analyze(x)
    for start in ("dense_1", "2"):
        assert explain(files, "--start", start, "--target", "7").tobytes() == expected.tobytes()


def test_a_reference_value(files, x):
    model, reference = lrpfast.load(MODEL), np.arange(5.0)
    np.save(files[0].parent / "y.npy", reference)
    for text, value in (("-0.5", -0.5), ("0,1,2,3,4", reference), (files[0].parent / "y.npy", reference)):
        expected = lrpfast.Analyzer(model, "epsilon", y_ref=value).analyze(x)
        assert explain(files, "--y-ref", text).tobytes() == expected.tobytes()


def test_other_names_of_options(files, labels, x):
    expected = explain(files)
    assert run("explain", MODEL, files[0], "-o", files[1], "--overwrite", "--batch-size", "auto") == 0
    assert np.load(files[1]).tobytes() == expected.tobytes()
    maps = files[0].parent / "m.npz"
    for option in ("--correct-only", "--correct"):
        assert run("explain", MODEL, files[0], "--statistics", maps, "--force", option, labels) == 0
        assert np.load(maps)["count"] < len(x)


@pytest.mark.parametrize("precision", ["float32", "float64", "tf32"])
def test_precision_threads_and_memory(precision, files, x):
    expected = lrpfast.Analyzer(lrpfast.load(MODEL), "epsilon", precision=precision, device="cpu").analyze(x)
    options = ["--precision", precision, "--threads", "1", "--memory", "1M", "--device", "cpu", "--input-range", "-9,9"]
    got = explain(files, *options)
    assert got.dtype == expected.dtype and got.tobytes() == expected.tobytes()


def test_masked_features(files, x, capsys):
    x = x.copy()
    x[3, 4] = np.nan
    np.save(files[0], x)
    expected = lrpfast.Analyzer(lrpfast.load(MODEL), "epsilon", mask_nan=True).analyze(x)
    got = explain(files, "--mask-nan", "--normalize", "maxabs")
    assert (np.isnan(got) == np.isnan(x)).all()
    np.testing.assert_allclose(got, expected / np.nanmax(np.abs(expected), 1)[:, None], rtol=1e-6)


@pytest.mark.parametrize("name", ["mlp_relu.h5", "mlp_relu.keras", "mlp_relu.k3.keras"])
def test_every_model_format(name, files, x):
    assert explain(files, model=DATA / name).tobytes() == explain(files).tobytes()


def test_a_model_of_its_own_format(files, tmp_path):
    expected = explain(files)
    lrpfast.load(MODEL).save(tmp_path / "m.npz")
    assert explain(files, model=tmp_path / "m.npz").tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int16, ">f4", bool], ids=str)
def test_real_inputs_of_any_dtype(dtype, files, x):
    x = (x * 8).astype(dtype)
    np.save(files[0], np.asfortranarray(x))
    expected = lrpfast.Analyzer(lrpfast.load(MODEL), "epsilon").analyze(x)
    assert explain(files).tobytes() == expected.tobytes()


def test_few_samples(files, x, capfd):
    np.save(files[0], x[:1])
    assert explain(files).shape == (1, 12)
    assert "1 sample explained" in capfd.readouterr().out
    np.save(files[0], x[:0])
    message = refuse(capfd, "explain", MODEL, files[0], "-o", files[1], "--force")
    assert "x.npy: holds no samples, its shape is (0, 12)" in message


@pytest.mark.parametrize("limit", ["CHUNK_BYTES", "CHUNK_FLOPS"])
def test_chunks_change_nothing(limit, files, monkeypatch):
    expected = explain(files)
    for size in (1, 10_000):
        if limit == "CHUNK_BYTES":
            monkeypatch.setattr("lrpfast.batch.chunks.CHUNK_BYTES", size)
        else:
            monkeypatch.setitem(lrpfast.batch.chunks.CHUNK_FLOPS, "cpu", size)
        assert explain(files).tobytes() == expected.tobytes()


def test_quiet(files, capsys):
    explain(files, "--quiet")
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal(files, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    explain(files)
    assert "samples" in capsys.readouterr().err
    explain(files, "--quiet")
    assert capsys.readouterr().err == ""


# Normalizing


@pytest.mark.parametrize("how", ["maxabs", "sum"])
def test_normalize(how, files, x, capsys):
    x = x.copy()
    x[2] = 0  # the z rule gives relevance 0 for it
    np.save(files[0], x)
    plain = explain(files, "--target", "2").astype(np.float64)
    capsys.readouterr()
    got = explain(files, "--target", "2", "--normalize", how)
    scale = np.abs(plain).max(1) if how == "maxabs" else plain.sum(1)
    scale[2] = 1
    np.testing.assert_allclose(got, plain / scale[:, None], rtol=1e-5, atol=1e-7)
    what = "largest |R|" if how == "maxabs" else "sum"
    assert f"not normalized, because the {what} is 0: 1 of {len(x)} explanations" in capsys.readouterr().out


# Whole data sets: what the options stand for; tests/test_stream.py has the rest


@pytest.fixture
def labels(files, x):
    np.save(files[0].parent / "labels.npy", np.arange(len(x)) % 3)
    return files[0].parent / "labels.npy"


def test_statistics(files, labels, x, tmp_path, capsys):
    maps = tmp_path / "maps.npz"
    options = ["--statistics", maps, "--group-by", labels, "--quantiles", "0.5", "--normalize", "l1"]
    assert run("explain", MODEL, files[0], *options) == 0
    group = np.arange(len(x)) % 3
    counts = ", ".join(f"{n} in group {g}" for g, n in enumerate(np.bincount(group)))
    assert f"{maps}, statistics of {counts}\n" in capsys.readouterr().out
    relevance = lrpfast.Analyzer(lrpfast.load(MODEL), "epsilon").analyze(x).astype(np.float64)
    relevance /= np.abs(relevance).sum(1, keepdims=True)
    made = np.load(maps)
    for g in range(3):
        np.testing.assert_allclose(made["mean"][g], relevance[group == g].mean(0), rtol=1e-5, atol=1e-8)
    assert made["quantile"].shape == (1, 3, 12)
    assert leftovers(files) == ["labels.npy", "maps.npz"]


def test_statistics_of_right_predictions(files, labels, x, tmp_path):
    predicted = lrpfast.load(MODEL).predict(x).argmax(1)
    options = ["--statistics", tmp_path / "m.npz", "--group-by", "prediction", "--correct-only", labels]
    assert run("explain", MODEL, files[0], *options, "--quiet") == 0
    right = predicted == np.arange(len(x)) % 3
    assert (np.load(tmp_path / "m.npz")["count"] == np.bincount(predicted[right], minlength=5)).all()


@pytest.mark.parametrize("how", ["minmax", "1sigma", "3sigma"])
def test_bounds_from_the_inputs(how, files, x, capsys):
    x = x.astype(np.float64)
    k = {"minmax": None, "1sigma": 1, "3sigma": 3}[how]
    low, high = (x.min(0), x.max(0)) if k is None else (x.mean(0) - k * x.std(0), x.mean(0) + k * x.std(0))
    rule = lrpfast.composites.Uniform(lrpfast.rules.Epsilon(), first=lrpfast.rules.ZBox(low, high))
    expected = lrpfast.Analyzer(lrpfast.load(MODEL), rule).analyze(x)
    outside = int(((x < low) | (x > high)).sum())
    got = explain(files, "--input-layer-rule", "z_box", "--low", how, "--high", how)
    told = f"lrpfast: warning: {outside} of {x.size} input values lie outside the bounds of z_box"
    assert (told in capsys.readouterr().err) == (outside > 0)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_a_grid_with_a_mask(files, x, tmp_path, capsys):
    mask = np.zeros((4, 5), bool)
    mask.flat[3:15] = True
    grid = np.full((len(x), 4, 5), np.nan, np.float32)
    grid[:, mask] = x
    expected = explain(files)
    np.save(files[0], grid)
    np.save(tmp_path / "mask.npy", mask)
    capsys.readouterr()
    got = explain(files, "--mask", tmp_path / "mask.npy")
    assert f"float32 {grid.shape}" in capsys.readouterr().out
    assert (got[:, mask] == expected).all() and np.isnan(got[:, ~mask]).all()


def test_wrong_options_of_data_sets(files, labels, tmp_path, capfd):
    def told(*options):
        return refuse(capfd, "explain", MODEL, files[0], *options)

    assert "say what to make: -o OUT" in told()
    assert "pass --statistics FILE" in told("-o", files[1], "--group-by", labels)
    assert "statistics are written to .nc" in told("--statistics", tmp_path / "s.txt")
    assert "group_by must hold whole numbers" in told("--statistics", tmp_path / "s.npz", "--group-by", files[0])
    assert "--quantiles" in told("--statistics", tmp_path / "s.npz", "--quantiles", "a")
    assert "between 0 and 1" in told("--statistics", tmp_path / "s.npz", "--quantiles", "50")
    assert "True and False" in told("-o", files[1], "--mask", labels)
    for option, allowed in (("--batch-size", "auto or a whole number of at least 1"), ("--threads", "at least 1")):
        for wrong in ("0", "-2", "many"):
            message = told("-o", files[1], option, wrong)
            assert f"argument {option}: '{wrong}' is not" in message and allowed in message
    assert "epsilon has no bounds" in told("-o", files[1], "--low", "minmax")
    assert "two files" in told("-o", tmp_path / "a.h5", "--statistics", tmp_path / "a.h5")
    assert leftovers(files) == ["labels.npy"]


def test_a_folder_in_the_place_of_a_file(files, monkeypatch, capfd):
    """Also the one that the output lies in: it is not the output that is wrong."""
    monkeypatch.chdir(files[0].parent)
    assert "error: .: is a folder" in refuse(capfd, "explain", MODEL, ".", "-o", "q.npy")
    assert "error: .: a directory, not a model file" in refuse(capfd, "explain", ".", files[0], "-o", "q.npy")
    assert "error: .: is a folder" in refuse(capfd, "explain", MODEL, files[0], "-o", "q.npy", "--mask", ".")


def test_a_grid_without_its_mask(files, x, tmp_path, capfd):
    np.save(tmp_path / "grid.npy", x.reshape(len(x), 2, -1))
    assert "--mask says which" in refuse(capfd, "explain", MODEL, tmp_path / "grid.npy", "-o", tmp_path / "q.npy")


# Pictures


@pytest.fixture
def drawn(monkeypatch):
    """The arguments and the figure of every picture that is written."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    calls = []
    heatmap = plot.heatmap

    def spy(relevance, input=None, **keywords):
        figure = heatmap(relevance, input, **keywords)
        calls.append((np.array(relevance), input, keywords, figure))
        return figure

    monkeypatch.setattr(plot, "heatmap", spy)
    return calls


@pytest.mark.parametrize(
    ("name", "head"), [("r.png", b"\x89PNG"), ("r.PDF", b"%PDF"), ("r.svg", b"<?xml")], ids=lambda v: str(v)
)
def test_plot(name, head, files, drawn, capsys):
    path = files[0].parent / name
    got = explain(files, "--rule", "gamma", "--target", "2", "--plot", path, "--plot-limit", "3")
    assert path.read_bytes().startswith(head)
    assert f"; {path}\n" in capsys.readouterr().out
    relevance, beneath, _, figure = drawn[-1]
    np.testing.assert_array_equal(relevance, got[:3])
    assert beneath is None and len(figure.axes) == 3
    assert figure.get_suptitle() == f"gamma, target 2: first 3 of {len(got)} samples"
    assert leftovers(files) == sorted([name, "r.npy"])


def test_plot_options(files, x, drawn):
    np.save(files[0].parent / "mask.npy", np.arange(20).reshape(4, 5) < 12)
    options = ["--plot-mask", files[0].parent / "mask.npy", "--plot-origin", "lower", "--plot-input"]
    options += ["--plot-scale", "shared", "--plot-percentile", "90", "--plot-kind", "image", "--normalize", "maxabs"]
    explain(files, *options, "--plot", files[0].parent / "r.png")
    _, beneath, keywords, figure = drawn[-1]
    np.testing.assert_array_equal(beneath, x)
    assert keywords["scale"] == "shared" and keywords["percentile"] == 90 and keywords["origin"] == "lower"
    assert figure.axes[0].images[-1].get_array().shape == (4, 5)
    assert figure.get_suptitle().startswith("epsilon, target max, divided by the largest |R|")
    explain(files, "--plot", files[0].parent / "r.png", "--plot-shape", "3,4", "--start", "dense_1")
    assert drawn[-1][3].axes[0].images[-1].get_array().shape == (3, 4)
    assert ", from layer dense_1" in drawn[-1][3].get_suptitle()


def test_a_grid_is_drawn_as_images(files, x, drawn):
    """What --mask puts back on a grid without channels looks like a sequence, but is none."""
    mask = np.arange(20).reshape(4, 5) < 12
    grid = np.zeros((len(x), 4, 5), x.dtype)
    grid[:, mask] = x
    np.save(files[0], grid)
    np.save(files[0].parent / "mask.npy", mask)
    np.save(files[0].parent / "t.npy", np.tile([[1, 3]], (len(x), 1)))
    options = ["--mask", files[0].parent / "mask.npy", "--plot", files[0].parent / "r.png", "--plot-limit", "2"]
    got = explain(files, *options, "--plot-origin", "lower")
    image = drawn[-1][3].axes[0].images[-1]
    np.testing.assert_array_equal(np.ma.filled(image.get_array(), np.nan), got[0])
    assert image.origin == "lower"
    got = explain(files, *options, "--plot-kind", "auto", "--target", files[0].parent / "t.npy")
    np.testing.assert_array_equal(np.ma.filled(drawn[-1][3].axes[1].images[-1].get_array(), np.nan), got[0, 1])
    explain(files, *options, "--plot-kind", "sequence")
    assert drawn[-1][3].axes[0].images[-1].get_array().shape == (5, 4)


def test_rules_are_decided_and_inputs_opened_once(files, monkeypatch):
    """Also where the balance is printed, which reads the inputs again."""
    from lrpfast.batch import sources
    from lrpfast.rules.composites import Composite

    calls = []
    assign, opened = Composite.assign, sources._open_path
    monkeypatch.setattr(Composite, "assign", lambda self, model: (calls.append("assign"), assign(self, model))[1])
    monkeypatch.setattr(sources, "_open_path", lambda path: (calls.append("open"), opened(path))[1])
    explain(files, "--balance", "--quiet")
    assert sorted(calls) == ["assign", "open"]


def test_a_plot_names_the_outputs_explained(files, x, drawn):
    path, mask = files[0].parent / "r.png", np.arange(20).reshape(4, 5) < 12
    model = lrpfast.load(MODEL)
    expected = [f"sample {i}: output {j}" for i, j in enumerate(model.predict(x[:3]).argmax(1))]
    options = ["--plot", path, "--plot-limit", "3"]
    explain(files, *options)
    assert drawn[-1][2]["labels"] == expected
    explain(files, *options, "--start", "dense_1")
    hidden = model.until("dense_1").predict(x[:3]).argmax(1)
    assert drawn[-1][2]["labels"] == [f"sample {i}: neuron {j}" for i, j in enumerate(hidden)]
    explain(files, *options, "--target", "1")
    assert drawn[-1][2]["labels"] is None
    grid = np.zeros((len(x), 4, 5), x.dtype)
    grid[:, mask] = x
    np.save(files[0], grid)
    np.save(files[0].parent / "mask.npy", mask)
    explain(files, *options, "--mask", files[0].parent / "mask.npy")
    assert drawn[-1][2]["labels"] == expected
    one = lrpfast.from_layers([lrpfast.layers.Dense(np.ones((12, 1)))])
    one.save(files[0].parent / "one.npz")
    np.save(files[0], x)
    explain(files, *options, model=files[0].parent / "one.npz")
    assert drawn[-1][2]["labels"] is None


def test_plot_of_several_targets(files, x, drawn):
    np.save(files[0].parent / "t.npy", np.tile([[1, 3, 0]], (len(x), 1)))
    got = explain(
        files, "--target", files[0].parent / "t.npy", "--plot", files[0].parent / "r.png", "--plot-limit", "2"
    )
    relevance, _, keywords, figure = drawn[-1]
    np.testing.assert_array_equal(relevance, got[:2].reshape(6, -1))
    assert keywords["rows"] == ["sample 0", "sample 1"] and len(keywords["columns"]) == 3
    assert figure.get_suptitle() == f"epsilon, target t.npy: first 2 of {len(x)} samples"


@pytest.mark.parametrize("name", ["torch_cnn.onnx", "torch_cnn.pt2", "torch_conv1d.onnx", "torch_conv1d.pt2"])
def test_plot_of_channels_first(name, files, drawn):
    """As the same relevance with its channels last, pixel by pixel."""
    if name.endswith("onnx"):
        pytest.importorskip("onnx")
    path = files[0].parent / "r.png"
    np.save(files[0], np.load((DATA / name).with_suffix(".npz"))["x"][:2])
    got = explain(files, "--rule", "epsilon", "--plot", path, model=DATA / name)
    expected = plot.heatmap(
        np.moveaxis(got, 1, -1), title="epsilon, target max", channels_first=False, labels=drawn[-1][2]["labels"]
    )
    plot.save(expected, path.with_name("expected.png"))
    assert path.read_bytes() == path.with_name("expected.png").read_bytes()
    explain(files, "--plot", path, "--plot-channels", "last", model=DATA / name)
    assert drawn[-1][2]["channels_first"] is False


def test_plot_of_folded_features_does_not_ask_the_model(tmp_path, drawn):
    graph = lrpfast.layers
    kernel = np.ones((1, 1, 1, 2))
    model = lrpfast.from_layers([graph.Permute((1, 2, 0)), graph.Conv(kernel), graph.Flatten()], input_shape=(1, 4, 6))
    model.save(tmp_path / "m.npz")
    np.save(tmp_path / "x.npy", np.ones((2, 1, 4, 6)))
    files = tmp_path / "x.npy", tmp_path / "r.npy"
    explain(files, "--plot", tmp_path / "r.png", "--plot-shape", "4,6,1", model=tmp_path / "m.npz")
    assert drawn[-1][3].axes[0].images[-1].get_array().shape == (4, 6)


PLOT_ERRORS = [
    (["--plot", "r.gif"], "a picture's name ends in .png, .pdf, .svg"),
    (["--plot", "r"], "a picture's name ends in"),
    (["--plot", "no/r.png"], "there is no folder"),
    (["--plot-limit", "3"], "--plot-limit goes with --plot FILE"),
    (["--plot", "r.png", "--plot-limit", "0"], "--plot-limit must be a whole number of at least 1"),
    (["--plot", "r.png", "--plot-limit", "101"], "--plot-limit is 101 samples, but a picture has 100 panels at most"),
    (["--plot", "r.png", "--plot-shape", "3,5"], "of shape (samples, 12) cannot be given the shape (samples, 3, 5)"),
    (["--plot", "r.png", "--plot-shape", "3,a"], "'3,a' is not a shape"),
    (["--plot", "r.png", "--plot-channels", "first"], "--plot-channels is for images and sequences"),
    (["--plot", "r.png", "--plot-shape", "2,3,2"], "say --plot-channels first or --plot-channels last"),
    (["--plot", "r.png", "--plot-kind", "image"], "--plot-shape HEIGHT,WIDTH folds flat ones"),
    (["--plot", "r.png", "--plot-percentile", "101"], "--plot-percentile must be"),
    (["--plot", "r.png", "--plot-mask", "grid.npy", "--plot-shape", "4,3"], "--plot-mask and --plot-shape differ"),
    (["--plot", "r.png", "--plot-mask", "grid.npy", "--plot-kind", "vector"], "--plot-mask is for images"),
    (["--plot", "r.png", "--plot-mask", "line.npy"], "--plot-mask must be a boolean grid"),
    (["--plot", "r.png", "--plot-origin", "lower"], "--plot-origin is for images"),
    (["--plot", "r.png", "--plot-mask", "x.npy"], "a mask holds True and False"),
]


@pytest.mark.parametrize(("options", "message"), PLOT_ERRORS, ids=as_typed)
def test_wrong_plots(options, message, files, capfd, monkeypatch):
    """They are told before the work begins."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    monkeypatch.chdir(files[0].parent)
    made = {"grid.npy": np.ones((3, 4), bool), "line.npy": np.ones(12, bool)}
    for name, mask in made.items():
        np.save(name, mask)
    monkeypatch.setattr("lrpfast.batch.stream.Run", lambda *arguments: pytest.fail("began to write"))
    assert message in refuse(capfd, "explain", MODEL, files[0], "-o", files[1], *options)
    assert leftovers(files) == sorted(made)


def test_the_plot_may_not_be_an_input(files, tmp_path, capfd):
    inputs = tmp_path / "x.png"
    files[0].rename(inputs)
    message = refuse(capfd, "explain", MODEL, inputs, "-o", files[1], "--plot", inputs)
    assert "is both the plot and the inputs" in message


def test_plot_without_matplotlib(files, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = refuse(capfd, "explain", MODEL, files[0], "-o", files[1], "--plot", files[0].parent / "r.png")
    assert "pip install matplotlib" in line and leftovers(files) == []
    explain(files)


# One line and exit code 2 for what is wrong


def test_missing_files(files, capfd):
    assert "no such file" in refuse(capfd, "explain", "missing.h5", files[0], "-o", files[1])
    assert "missing.npy" in refuse(capfd, "explain", MODEL, "missing.npy", "-o", files[1])
    assert "no such file" in refuse(capfd, "inspect", "missing.h5")
    assert "missing.npy" in refuse(capfd, "explain", MODEL, files[0], "-o", files[1], "--target", "missing.npy")
    assert leftovers(files) == []


def test_wrong_model_files(files, tmp_path, capfd):
    text, short, wrong, empty = (tmp_path / f"{n}.h5" for n in ("text", "short", "wrong", "empty"))
    text.write_text("epoch,loss\n1,0.5\n")
    short.write_bytes(MODEL.read_bytes()[:5000])
    wrong.write_bytes(bytes(range(256)) * 8)
    empty.touch()
    assert "a text file" in refuse(capfd, "explain", text, files[0], "-o", files[1])
    for path in (short, wrong, empty, tmp_path, files[0]):
        assert str(path) in refuse(capfd, "explain", path, files[0], "-o", files[1])
        assert str(path) in refuse(capfd, "inspect", path)


RULE_ERRORS = [
    (["--rule", "epsilo"], "unknown rule 'epsilo', did you mean 'epsilon'?"),
    (["--rule", "lrp.alpha1"], "unknown rule"),
    (["--rule", "pass"], "'pass' is no rule for a layer with weights"),
    (["--epsilon", "0"], "epsilon must be above zero"),
    (["--epsilon", "-1e-3"], "epsilon must be above zero"),
    (["--epsilon", "nan"], "epsilon must be finite"),
    (["--epsilon", "small"], "'small' is not a number"),
    (["--rule", "alpha_beta", "--alpha", "2", "--beta", "0"], "alpha - beta must be 1"),
    (["--rule", "lrp.alpha_beta", "--alpha", "2", "--beta", "0"], "alpha - beta must be 1"),
    (["--rule", "lrp.alpha_beta"], "needs alpha, beta or both"),
    (["--rule", "zero", "--epsilon", "1"], "zero has no parameter 'epsilon'"),
    (["--rule", "lrp.z", "--gamma", "1"], "lrp.z has no keyword 'gamma'"),
    (["--rule", "lrp.z", "--epsilon", "1"], "lrp.z has no keyword 'epsilon'"),
    (["--rule", "gamma", "--gamma", "-1"], "gamma must be 0 or above"),
    (["--bias", "sometimes"], "is not a convention of this rule"),
    (["--rule", "lrp.epsilon", "--bias", "absorb"], "is true or false"),
    (["--rule", "z_box"], "z_box needs low"),
    (["--rule", "z_box", "--low", "1", "--high", "0"], "low must not be above high"),
    (["--rule", "z_box", "--low", "a", "--high", "0"], "--low is a number, an .npy file, or one of minmax"),
    (["--low", "0", "--high", "1"], "--low and --high go with z_box"),
    (["--rule", "epsilon_gamma_box", "--low", "-4", "--high", "4"], "no layer of this model gets from them"),
    (
        ["--rule", "epsilon_gamma_box", "--low", "-4", "--high", "4", "--input-layer-rule", "-5,5"],
        "no layer of this model gets from them",
    ),
    (["--rule", "lrp.z", "--y-ref", "1"], "--y-ref goes with lrpfast's own rules"),
    (["--y-ref", "a"], "--y-ref is a number, one for each output"),
    (["--y-ref", "1,2"], "--y-ref must be one number or one per output (5)"),
    (["--rule", "Epsilon"], "did you mean 'epsilon'?"),
    (["--input-layer-rule", "flatt"], "unknown rule 'flatt'"),
    (["--input-layer-rule", "0,1,2"], "a rule's name or LOW,HIGH"),
    (["--rule", "lrp.z", "--input-layer-rule", "flat"], "input_layer_rule must be one of"),
    (["--rule", "deep_taylor", "--input-layer-rule", "Flat"], "has no keyword 'input_layer_rule'"),
    (["--rule", "deep_taylor.bounded"], "needs low and high"),
    (["--rule", "lrp"], "lrp takes a list of rules"),
    (["--until-layer-idx", "1"], "--until-layer-idx goes with iNNvestigate's names"),
    (["--rule", "lrp.z", "--start", "dense"], "--start goes with lrpfast's own rules"),
    (["--start", "dens"], "no layer is named 'dens'"),
    (["--device", "gpu:99"], "device 'gpu:99'"),
]


@pytest.mark.parametrize(("options", "message"), RULE_ERRORS, ids=as_typed)
def test_wrong_rules(options, message, files, capfd):
    assert message in refuse(capfd, "explain", MODEL, files[0], "-o", files[1], *options)
    assert message in refuse(capfd, "inspect", MODEL, *options)
    assert leftovers(files) == []


RUN_ERRORS = [
    (["--target", "5"], "target 5 is out of range: the model has outputs 0 to 4"),
    (["--target", "-1"], "target -1 is out of range"),
    (["--target", "1,9"], "target 9 is out of range"),
    (["--target", "1,1"], "difference with itself"),
    (["--target", "best"], "--target is max, all, an index"),
    (["--threads", "0"], "'0' is not a whole number of at least 1"),
    (["--threads", "two"], "'two' is not a whole number"),
    (["--memory", "0"], "memory must be a number of bytes"),
    (["--memory", "10"], "too little"),
    (["--memory", "much"], "'much' is not a number of bytes"),
    (["--input-range", "1,0"], "input_range needs low <= high"),
    (["--input-range", "0,0.001"], "outside the declared input_range"),
    (["--input-range", "0"], "'0' is not a pair"),
    (["--precision", "float16"], "invalid choice: 'float16'"),
    (["--normalize", "l2"], "'l2' is not one of maxabs"),
    (["--unknown"], "--unknown"),
]


@pytest.mark.parametrize(("options", "message"), RUN_ERRORS, ids=as_typed)
def test_wrong_options(options, message, files, capfd):
    assert message in refuse(capfd, "explain", MODEL, files[0], "-o", files[1], *options)
    assert leftovers(files) == []


def _with(x, place, value):
    x = x.copy()
    x[place] = value
    return x


WRONG_INPUTS = {
    "width": (lambda x: x[:, :5], "inputs must have shape (samples, 12), not ("),
    "one sample": (lambda x: x[0], "for one sample add a first axis of length 1"),
    "rank": (lambda x: x[:, :, None].repeat(2, 2), "inputs must have shape (samples, 12)"),
    "scalar": (lambda x: np.float32(3), "holds a single number; samples lie along the first axis"),
    "nan": (
        lambda x: _with(x, (2, 4), np.nan),
        "x[2, 4] is nan: inputs must be finite; masked features need --mask",
    ),
    "infinity": (lambda x: _with(x, (3, 1), -np.inf), "x[3, 1] is -inf"),
    "complex": (lambda x: x.astype(np.complex64), "holds complex64, which are no real numbers"),
    "strings": (lambda x: x.astype(str), "which are no real numbers"),
    "dates": (lambda x: x.astype("M8[s]"), "holds datetime64[s], which are no real numbers"),
    "objects": (lambda x: x.astype(object), "holds Python objects (a pickle, never opened)"),
    "records": (lambda x: np.zeros(3, [("a", "f4")]), "which are no real numbers"),
    "beyond float32": (lambda x: np.float64(x) * 1e300, "--precision float64"),
}


@pytest.mark.parametrize("kind", WRONG_INPUTS)
@pytest.mark.parametrize("chunk", [1 << 26, 200], ids=["whole", "chunked"])
def test_wrong_inputs(kind, chunk, files, x, capfd, monkeypatch):
    monkeypatch.setattr("lrpfast.batch.chunks.CHUNK_BYTES", chunk)
    make, message = WRONG_INPUTS[kind]
    np.save(files[0], make(x))
    assert message in refuse(capfd, "explain", MODEL, files[0], "-o", files[1])
    assert leftovers(files) == []


WRONG_FILES = {
    "empty": (lambda b: b"", "an empty file"),
    "text": (lambda b: b"1,2,3\n", "not an .npy, .npz, HDF5, NetCDF or Zarr file"),
    "archive": (lambda b: b"PK\x03\x04" + b, "damaged or truncated zip archive"),
    "HDF5": (lambda b: MODEL.read_bytes(), "holds 6 datasets of numbers; name"),
    "pickle": (lambda b: b"\x80\x04" + b, "a Python pickle"),
    "truncated": (lambda b: b[:-7], "truncated"),
    "only the magic": (lambda b: b[:6], "x.npy"),
    "half a header": (lambda b: b[:40], "x.npy"),
    "a table of text": (lambda b: b"1,2,3\n4,5,6\n", "not an .npy, .npz, HDF5, NetCDF or Zarr file"),
    "damaged header": (lambda b: b[:10] + b"?" * 60 + b[70:], "damaged .npy file"),
}


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_wrong_input_files(kind, files, capfd):
    make, message = WRONG_FILES[kind]
    files[0].write_bytes(make(files[0].read_bytes()))
    assert message in refuse(capfd, "explain", MODEL, files[0], "-o", files[1])
    assert leftovers(files) == []


WRONG_TARGETS = {
    "too few": (lambda n: np.zeros(n - 1, int), "samples, but the targets have shape"),
    "one": (lambda n: np.array(1), "samples, but the targets have shape"),
    "out of range at the end": (lambda n: np.r_[np.zeros(n - 1, int), 5], "target 5 is out of range"),
    "another width": (lambda n: np.zeros((n, 4)), "a starting relevance must have the output's shape"),
    "nan at the end": (lambda n: _with(np.zeros((n, 5)), (n - 1, 2), np.nan), "not finite at"),
    "strings": (lambda n: np.full(n, "a"), "target must be"),
}


@pytest.mark.parametrize("kind", WRONG_TARGETS)
def test_wrong_target_files(kind, files, x, capfd, monkeypatch):
    """They are told before the work begins, whichever sample they concern."""
    monkeypatch.setattr("lrpfast.batch.stream.Run", lambda *arguments: pytest.fail("began to write"))
    make, message = WRONG_TARGETS[kind]
    np.save(files[0].parent / "t.npy", make(len(x)))
    assert message in refuse(capfd, "explain", MODEL, files[0], "-o", files[1], "--target", files[0].parent / "t.npy")


def test_the_output_may_not_be_an_input(files, tmp_path, capfd):
    before = files[0].read_bytes()
    (tmp_path / "link.npy").symlink_to(files[0])
    for same in (files[0], tmp_path / "." / "x.npy", tmp_path / "link.npy"):
        message = refuse(capfd, "explain", MODEL, files[0], "-o", same, "--force")
        assert "is both the output and the inputs" in message
    low = tmp_path / "low.npy"
    np.save(low, np.zeros(3))
    message = refuse(capfd, "explain", MODEL, files[0], "-o", low, "--rule", "z_box", "--low", low, "--high", "1")
    assert "is both the output and the low" in message
    assert files[0].read_bytes() == before


def test_an_output_may_lie_in_a_folder_called_as_a_target_is(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "max").mkdir()
    assert run("explain", MODEL, files[0], "-o", "max/r.npy", "--target", "max", "--quiet") == 0


def test_wrong_outputs(files, tmp_path, capfd):
    assert "there is no folder" in refuse(capfd, "explain", MODEL, files[0], "-o", tmp_path / "no" / "r.npy")
    (tmp_path / "folder.npy").mkdir()
    assert "is a folder" in refuse(capfd, "explain", MODEL, files[0], "-o", tmp_path / "folder.npy")
    assert "tells its format" in refuse(capfd, "explain", MODEL, files[0], "-o", os.devnull)
    assert "tells its format" in refuse(capfd, "explain", MODEL, files[0], "-o", tmp_path / "r.npz")
    assert os.path.exists(os.devnull) and not os.path.isfile(os.devnull)
    assert leftovers(files) == ["folder.npy"]


@pytest.mark.skipif(not LIMITED, reason="root may write everywhere")
def test_an_output_folder_that_is_not_writeable(files, tmp_path, capfd):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    assert "not writeable" in refuse(capfd, "explain", MODEL, files[0], "-o", folder / "r.npy")


def test_command_lines(capfd):
    assert "COMMAND" in refuse(capfd)
    assert "invalid choice: 'explian'" in refuse(capfd, "explian")
    assert "required: INPUTS; see lrpfast explain --help" in refuse(capfd, "explain", MODEL)
    assert "say what to make: -o OUT" in refuse(capfd, "explain", MODEL, "x.npy")
    assert "-o OUT or --statistics FILE keeps" in refuse(capfd, "explain", MODEL, "x.npy", "--plot", "r.png")
    assert "expected one argument" in refuse(capfd, "explain", MODEL, "x.npy", "-o")


# Output appears whole or not at all


@pytest.fixture
def earlier(files):
    """An output of an earlier run."""
    files[1].write_bytes(b"earlier")
    return files


def test_output_is_replaced_only_by_force(earlier, capfd):
    os.chmod(earlier[1], 0o640)
    assert "is there already; pass --force" in refuse(capfd, "explain", MODEL, earlier[0], "-o", earlier[1])
    assert earlier[1].read_bytes() == b"earlier"
    assert explain(earlier).shape[1] == 12
    assert leftovers(earlier) == ["r.npy"]
    assert os.stat(earlier[1]).st_mode & 0o777 == 0o640


def test_a_linked_output_is_replaced_behind_the_link(earlier, tmp_path):
    (tmp_path / "link.npy").symlink_to("r.npy")
    explain((earlier[0], tmp_path / "link.npy"))
    assert (tmp_path / "link.npy").is_symlink()
    assert np.load(earlier[1]).shape[1] == 12


def test_new_output_has_the_usual_permissions(files, tmp_path):
    (tmp_path / "usual").touch()
    explain(files)
    assert os.stat(files[1]).st_mode == os.stat(tmp_path / "usual").st_mode


def test_an_error_half_way_leaves_the_earlier_output(earlier, x, capfd, monkeypatch):
    monkeypatch.setattr("lrpfast.batch.chunks.CHUNK_BYTES", 200)
    np.save(earlier[0], _with(x, (len(x) - 1, 2), np.inf))
    assert f"x[{len(x) - 1}, 2] is inf" in refuse(capfd, "explain", MODEL, earlier[0], "-o", earlier[1], "--force")
    assert leftovers(earlier) == ["r.npy"] and earlier[1].read_bytes() == b"earlier"


def test_a_disk_without_the_room_is_told_first(earlier, capfd, monkeypatch):
    import shutil

    usage = shutil.disk_usage(earlier[0])._replace(free=200)
    monkeypatch.setattr("lrpfast.output.shutil.disk_usage", lambda path: usage)
    assert "but the disk has 200 free" in refuse(capfd, "explain", MODEL, earlier[0], "-o", earlier[1], "--force")
    assert leftovers(earlier) == ["r.npy"] and earlier[1].read_bytes() == b"earlier"


def test_ctrl_c_while_the_commands_modules_are_read(monkeypatch):
    class Interrupts:
        def find_spec(self, name, path=None, target=None):
            if name == "lrpfast.cli.arguments":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "lrpfast.cli.arguments")
    monkeypatch.setattr(sys, "meta_path", [Interrupts(), *sys.meta_path])
    assert run("info") == 130


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_signals(number, earlier, x):
    """A real run, stopped while it writes: it says how to go on, and the earlier output is as it was."""
    samples = 50_000_000  # seconds of work; a sparse file takes no room
    header = {"descr": "<f4", "fortran_order": False, "shape": (samples, 12)}
    with open(earlier[0], "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + samples * 12 * 4)
    process = command("explain", MODEL, earlier[0], "-o", earlier[1], "--threads", "1", "--force")
    part = earlier[1].with_name(".r.npy.lrpfast-part")
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_blocks > 200_000) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert out == "" and err == "lrpfast: stopped; what is done is kept: the same command goes on from there\n"
    assert part.exists() and earlier[1].read_bytes() == b"earlier"


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_reader_that_goes_away():
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run([sys.executable, "-m", "lrpfast", "rules"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert process.stderr == b"" and process.returncode == 141


# The other commands


@pytest.mark.parametrize(
    "sub", [[], ["demo"], ["explain"], ["references"], ["inspect"], ["rules"], ["info"]], ids=" ".join
)
def test_help(sub, capsys):
    assert run(*sub, "--help") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("usage: lrpfast") and printed.err == ""
    assert max(map(len, printed.out.splitlines())) <= 120


def test_the_examples_in_the_help_are_right(files, x, tmp_path, monkeypatch):
    """Every command that --help shows can be run as it stands."""
    pytest.importorskip("matplotlib", reason="one of them draws")
    netcdf = pytest.importorskip("netCDF4", reason="some read and write NetCDF")
    import re
    import shlex

    monkeypatch.chdir(tmp_path)
    x = x.clip(0, 1)
    np.save("x.npy", x)
    np.save("classes.npy", np.zeros(len(x), int))
    for name in ("mlp_relu.h5", "mlp_relu.keras"):
        (tmp_path / name.replace("mlp_relu", "model")).write_bytes((DATA / name).read_bytes())
    for seed in (1, 2):
        (tmp_path / f"seed_{seed}.h5").write_bytes((DATA / "mlp_relu.h5").read_bytes())
    grid, ocean = (1, x.shape[1] + 1), np.arange(x.shape[1] + 1) > 0
    days = {"sst.nc": (1982, 12), "sst_1982.nc": (1982, 1), "sst_1983.nc": (1983, 1)}
    for name, (year, month) in {**days, "ocean.nc": (0, 0)}.items():
        with netcdf.Dataset(name, "w") as file:
            for dim, size in (("lat", 1), ("lon", grid[1])):
                file.createDimension(dim, size)
            if not year:
                file.createVariable("ocean", "i1", ("lat", "lon"))[:] = ocean
                continue
            file.createDimension("time", 5)
            time = file.createVariable("time", "f8", ("time",))
            time.units, time[:] = f"days since {year}-{month:02d}-01", np.arange(5) + 0.5
            sst = np.full((5, *grid), np.nan, np.float32)
            sst[..., ocean] = x[:5, None]
            file.createVariable("sst", "f4", ("time", "lat", "lon"))[:] = sst
    nodes = [(lrpfast.layers.Input((2,), name="image"), ()), (lrpfast.layers.Input((2,), name="age"), ())]
    lrpfast.Model([*nodes, (lrpfast.layers.Add(), (0, 1))]).save("two.npz")
    for name in ("x1.npy", "x2.npy"):
        np.save(name, np.ones((3, 2)))
    commands = command_line.references.TEXT, command_line.graph.TEXT
    examples = command_line.EXPLAIN_EXAMPLES, command_line.INSPECT_EXAMPLES, *commands
    text = "\n".join((command_line.ABOUT, *examples))
    shown = re.findall(r"^  (lrpfast .+?)(?:   .*)?$", text, re.MULTILINE)
    assert len(shown) > 10
    for line in shown:
        for made in (*tmp_path.glob("r.*"), *tmp_path.glob("maps.*"), *tmp_path.glob("relevance.*")):
            made.unlink()  # an output that is there is not replaced
        assert run(*shlex.split(line)[1:]) == 0, line


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"lrpfast {lrpfast.__version__}\n"


def test_inspect(capsys):
    assert run("inspect", MODEL, "--rule", "lrp.alpha_1_beta_0_IB", "--input-layer-rule", "Bounded") == 0
    printed = capsys.readouterr().out
    model = lrpfast.load(MODEL)
    analyzer = lrpfast.create_analyzer("lrp.alpha_1_beta_0_IB", model, input_layer_rule="Bounded")
    assert model.summary() in printed
    assert str(analyzer.plan()) in printed
    rows = [line.split() for line in printed.split("rules under")[1].split("plan (")[0].splitlines()[1:-2]]
    assert rows[0] == ["#", "layer", "type", "rule", "activation"]
    assert [row[:3] for row in rows[1:]] == [
        [str(i), node.name, type(node.layer).__name__] for i, node in enumerate(model.nodes)
    ]
    assert rows[1][3:] == ["pass"] and rows[2][3] == "z_box(low=-1," and rows[-1][-2:] == ["left", "out"]
    assert "the final softmax or sigmoid is left out" in printed


def test_inspect_a_hidden_layer(capsys):
    assert run("inspect", MODEL, "--start", "dense_1") == 0
    printed = capsys.readouterr().out
    assert "left out" not in printed and "dense_2" not in printed.split("rules under")[1]


@pytest.mark.parametrize("name", lrpfast.composites.COMPOSITES)
def test_composites(name, files, capsys):
    """By name: what inspect shows is what assign gives, and explain follows it."""
    x = np.load(DATA / "cnn.npz")["x"]
    np.save(files[0], x)
    bounds = {"low": -4.0, "high": 4.0} if name == "epsilon_gamma_box" else {}
    options = [text for key, value in bounds.items() for text in (f"--{key}", value)]
    composite = lrpfast.composites.from_name(name, **bounds)
    model = lrpfast.load(DATA / "cnn.h5")
    expected = lrpfast.Analyzer(model, composite).analyze(x)
    assert explain(files, "--rule", name, *options, model=DATA / "cnn.h5").tobytes() == expected.tobytes()
    capsys.readouterr()
    assert run("inspect", DATA / "cnn.h5", "--rule", name, *options) == 0
    printed = capsys.readouterr().out.split("rules under")[1].split("plan (")[0]
    rules = composite.assign(model).rules
    for i, node in enumerate(model.nodes):
        shown = next(line.split() for line in printed.splitlines() if line.split()[:2] == [str(i), node.name])
        assert shown[3].startswith(rules[i].name if i in rules else "pass")


def test_a_composite_with_another_first_rule(files, x):
    flat = lrpfast.composites.EpsilonPlusFlat()
    expected = lrpfast.Analyzer(lrpfast.load(MODEL), flat).analyze(x)
    got = explain(files, "--rule", "epsilon_plus", "--input-layer-rule", "flat")
    assert got.tobytes() == expected.tobytes()
    box = lrpfast.composites.Uniform(lrpfast.rules.Epsilon(), lrpfast.rules.ZBox(-4, 4))
    expected = lrpfast.Analyzer(lrpfast.load(MODEL), box).analyze(x)
    assert explain(files, "--rule", "epsilon_plus_flat", "--input-layer-rule", "-4,4").tobytes() == expected.tobytes()


def test_rules_shows_every_rule_and_name(capsys):
    assert run("rules") == 0
    printed = capsys.readouterr().out
    for name, rule in lrpfast.rules.RULES.items():
        assert f"  {name.ljust(13)} {rule.equation}\n" in printed
    for name in (*lrpfast.rules.innvestigate.ANALYZERS, *lrpfast.composites.COMPOSITES):
        assert f"  {name}" in printed
    assert "epsilon 1e-06\n" in printed and "bias absorb (or ignore, distribute, repeat)\n" in printed
    assert "low required, high required" in printed
    assert max(map(len, printed.splitlines())) <= 110


def test_info(capsys):
    assert run("info") == 0
    printed = capsys.readouterr().out
    assert lrpfast.__version__ in printed and np.__version__ in printed
    assert "cpu        instruction set:" in printed and "instruction set:" in printed


def test_info_when_the_instruction_set_is_not_there(capfd, monkeypatch):
    monkeypatch.setenv("LRPFAST_ISA", "z80")
    assert "LRPFAST_ISA='z80'" in refuse(capfd, "info")


def test_a_terminal_without_unicode():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    process = subprocess.run([sys.executable, "-m", "lrpfast", "inspect", MODEL], capture_output=True, env=environment)
    assert process.returncode == 0 and process.stderr == b""
    assert b"dense 12?32" in process.stdout


# Models that leave sizes open, or have several inputs or outputs


def test_open_sizes(tmp_path, capfd):
    layers = lrpfast.layers
    conv, head = layers.Conv(np.ones((3, 3, 1, 2)), activation="relu"), layers.Dense(np.eye(2), activation="softmax")
    model = lrpfast.from_layers([conv, layers.GlobalAveragePool(), head], input_shape=(None, None, 1))
    model.save(tmp_path / "m.npz")
    for side in (4, 7):
        x = np.random.default_rng(side).random((3, side, side, 1), np.float32)
        np.save(tmp_path / "x.npy", x)
        assert run("explain", tmp_path / "m.npz", tmp_path / "x.npy", "-o", tmp_path / f"r{side}.npy") == 0
        got = np.load(tmp_path / f"r{side}.npy")
        np.testing.assert_array_equal(got, lrpfast.Analyzer(model, "epsilon").analyze(x))
    capfd.readouterr()
    assert run("inspect", tmp_path / "m.npz", "--rule", "epsilon_plus") == 0
    shown = capfd.readouterr().out
    assert "sizes open" in shown and "z_plus" in shown and "left out" in shown


def test_several_inputs_and_outputs(tmp_path, capfd):
    graph = lrpfast.Graph()
    a, b = graph.input((3,), "a"), graph.input((3,), "b")
    graph.model(graph.add(lrpfast.layers.Add(), a, b)).save(tmp_path / "two.npz")
    graph = lrpfast.Graph()
    a = graph.input((3,), "a")
    p, q = (graph.add(lrpfast.layers.Dense(k * np.eye(3), name=n), a) for k, n in ((1, "p"), (2, "q")))
    graph.model(p, q).save(tmp_path / "outs.npz")
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    rest = (tmp_path / "x.npy", "-o", tmp_path / "r.npy")
    assert "2 inputs" in refuse(capfd, "explain", tmp_path / "two.npz", *rest)
    assert "start='p'" in refuse(capfd, "explain", tmp_path / "outs.npz", *rest)
    assert run("explain", tmp_path / "outs.npz", *rest, "--start", "q") == 0
    np.testing.assert_allclose(np.load(tmp_path / "r.npy"), [[2, 0, 0]] * 2, rtol=1e-6)
