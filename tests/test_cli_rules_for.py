"""``--rule-for WHAT=RULE``: rules for some layers on the command line, as the composites of Python give them."""

import numpy as np
import pytest

import lrpfast
from lrpfast import cli, composites, layers, rules

RNG = np.random.default_rng(5)
X = RNG.normal(15, 1, size=(6, 5, 5, 2)).astype(np.float32)


def network():
    """A normalization of raw inputs, two convolutions, two dense layers."""
    random = RNG.normal
    return lrpfast.from_layers(
        [
            layers.BatchNorm(np.full(2, 15.0), np.full(2, 4.0), epsilon=0, name="normalization"),
            layers.Conv(random(size=(3, 3, 2, 4)) / 4, random(size=4) / 9, activation="relu", name="block1_conv"),
            layers.Conv(random(size=(3, 3, 4, 4)) / 6, activation="relu", name="block2_conv"),
            layers.Flatten(),
            layers.Dense(random(size=(4, 6)) / 2, random(size=6) / 9, activation="relu", name="dense"),
            layers.Dense(random(size=(6, 3)) / 2, name="last"),
        ],
        input_shape=(5, 5, 2),
    )


MODEL = network()


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MODEL.save("m.npz")
    np.save("x.npy", X)
    np.save("low.npy", np.full(2, 9.0))
    return tmp_path


def options_of(*texts):
    return [part for text in texts for part in ("--rule-for", text)]


def explained(*options):
    assert cli.main(["explain", "m.npz", "x.npy", "-o", "r.npy", "--force", "--quiet", *options]) == 0
    return np.load("r.npy")


PASS = composites.ByType({layers.BatchNorm: "pass"})


@pytest.mark.parametrize(
    "options, rule",
    [
        (options_of("BatchNorm=pass"), PASS | composites.Uniform("epsilon")),
        (
            ["--rule", "epsilon", "--epsilon", "0.1", *options_of("BatchNorm=pass")],
            composites.ByType({layers.BatchNorm: "pass", layers.Linear: rules.Epsilon(0.1)}),
        ),
        (
            ["--rule", "gamma", *options_of("normalization=pass")],
            composites.ByName({"normalization": "pass"}) | composites.Uniform("gamma"),
        ),
        (
            ["--rule", "epsilon_plus", *options_of("block*=gamma:gamma=0.5", "last=zero", "Activation=gradient")],
            composites.ByName({"block*": rules.Gamma(0.5)})
            | composites.ByIndex({-1: "zero"})
            | composites.ByType({layers.Activation: "gradient"})
            | composites.EpsilonPlus(),
        ),
        (
            options_of("1=z_plus", "-2=alpha_beta:alpha=2,beta=1,bias=ignore"),
            composites.ByIndex({1: "z_plus", -2: rules.AlphaBeta(2, 1, bias="ignore")}) | composites.Uniform("epsilon"),
        ),
        (
            options_of("first=z_box:low=low.npy,high=21"),
            composites.Uniform("epsilon", first=rules.ZBox(np.full(2, 9.0), 21)),
        ),
        (
            ["--low", "9", "--high", "21", *options_of("first=z_box")],
            composites.Uniform("epsilon", first=rules.ZBox(9, 21)),
        ),
        (
            ["--rule", "gamma", "--input-layer-rule", "flat", *options_of("Dense=zero")],
            composites.ByType({layers.Dense: "zero"}, first="flat") | composites.Uniform("gamma"),
        ),
    ],
    ids=["type", "uniform", "name", "several", "index", "file", "bounds", "first"],
)
def test_as_composites(options, rule, files):
    np.testing.assert_array_equal(explained(*options), lrpfast.Analyzer(MODEL, rule).analyze(X))


def test_relevance_of_anomalies(files):
    """By hand: what reaches the normalization is what its values get as inputs of the model without it."""
    rest = lrpfast.from_layers([node.layer for node in MODEL.nodes[2:]], input_shape=(5, 5, 2))
    expected = lrpfast.Analyzer(rest, "epsilon").analyze((X - 15) / 2)
    np.testing.assert_allclose(explained(*options_of("BatchNorm=pass")), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["lrp.z", "lrp.z_plus", "lrp.sequential_preset_a"])
def test_with_innvestigates_names(name, files):
    expected = lrpfast.create_analyzer(name, MODEL).with_rules(PASS).analyze(X)
    np.testing.assert_array_equal(explained("--rule", name, *options_of("BatchNorm=pass")), expected)
    assert not np.array_equal(expected, lrpfast.create_analyzer(name, MODEL).analyze(X))


def test_all_commands_that_take_a_rule(files, capsys):
    own = options_of("BatchNorm=pass", "first=flat")
    MODEL.save("seed_1.npz")
    MODEL.save("seed_2.npz")
    for command in (
        ["inspect", "m.npz"],
        ["doctor", "m.npz", "x.npy"],
        ["evaluate", "m.npz", "x.npy", "--rule", "epsilon,gamma", "--steps", "3"],
        ["report", "m.npz", "x.npy", "-o", "report.html", "--samples", "4"],
        ["references", "m.npz", "x.npy", "--layer", "dense", "-o", "refs.npz"],
        ["graph", "m.npz", "x.npy", "--layer", "dense", "--channel", "1"],
        ["explain", "--models", "seed_*.npz", "x.npy", "--statistics", "maps.npz"],
    ):
        if command[0] == "report":
            pytest.importorskip("matplotlib")
        assert cli.main([*command, *own]) == 0, command
        printed = capsys.readouterr().out
        if command[0] == "inspect":
            assert "rules under 'epsilon', BatchNorm=pass, first=flat" in printed
            rows = [line.split() for line in printed.splitlines()]
            assert ["1", "normalization", "BatchNorm", "pass"] in rows
            assert any(
                row[1:3] == ["block1_conv", "Conv"] and row[3].startswith("flat") for row in rows if len(row) > 3
            )
    relevance = lrpfast.Analyzer(MODEL, PASS | composites.Uniform("epsilon", first="flat")).analyze(X)
    np.testing.assert_allclose(np.load("maps.npz")["mean"][0], relevance.mean(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "options, message",
    [
        (options_of("BatchNorm"), "is WHAT=RULE"),
        (options_of("=pass"), "is WHAT=RULE"),
        (options_of("Conv="), "is WHAT=RULE"),
        (options_of("Conv=gamma:0.5"), "'0.5' is no KEY=VALUE"),
        (options_of("Conv=gamma:gama=0.5"), "gamma has no parameter 'gama'; it has gamma"),
        (options_of("Conv=gamma:gamma=much"), "gamma"),
        (options_of("Conv=gama"), "did you mean 'gamma'"),
        (options_of("Conv=epsilon_plus"), "unknown rule 'epsilon_plus'"),
        (options_of("Conv2D=flat"), "did you mean 'Conv'"),
        (options_of("block3_conv=pass"), "did you mean 'block2_conv'"),
        (
            options_of("block3*=zero"),
            "layers are normalization, block1_conv, block2_conv, dense, last, of the types Ba",
        ),
        (options_of("LSTM=epsilon"), "its layers are of the types BatchNorm, Conv, Dense, Flatten"),
        (options_of("projections=zero"), "no such layers"),
        (options_of("7=zero"), "there is no layer 7, the model has 4"),
        (options_of("Conv=pass"), "is no rule for a layer with weights"),
        (options_of("Conv=zero", "Conv=flat"), "names 'Conv' twice"),
        (options_of("first=z_box"), "low"),
        ([*options_of("first=flat"), "--input-layer-rule", "flat"], "choose one of them"),
        (["--low", "0", *options_of("Conv=flat")], "--low and --high go with z_box"),
        (["--rule", "gradient", *options_of("Conv=flat")], "no layer can have another rule"),
    ],
)
def test_wrong_options(options, message, files, capsys):
    assert cli.main(["explain", "m.npz", "x.npy", "-o", "r.npy", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("lrpfast: error: ") and error.count("\n") == 1, error


def test_with_rules_takes_a_composite():
    with pytest.raises(lrpfast.RuleError, match=r"takes a composite, as composites\.ByType"):
        lrpfast.create_analyzer("lrp.z", MODEL).with_rules("epsilon")
