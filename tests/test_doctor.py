"""`lrpfast doctor`: what is wrong with a model and its inputs is found by name before a long run, and nothing else."""

import numpy as np
import pytest

import lrpfast
from lrpfast import cli

RNG = np.random.default_rng(5)


def model_of(normalized, features=12, image=None):
    layers = []
    if image is not None:
        layers = [lrpfast.layers.Conv(RNG.normal(size=(2, 2, image[-1], 3)).astype(np.float32), activation="relu")]
        layers.append(lrpfast.layers.Flatten())
        features = (image[0] - 1) * (image[1] - 1) * 3
    elif normalized:
        layers.append(lrpfast.layers.BatchNorm(np.full(features, 15.0), np.full(features, 4.0), name="normalization"))
    layers.append(lrpfast.layers.Dense(RNG.normal(size=(features, 2)).astype(np.float32), activation="softmax"))
    return lrpfast.from_layers(layers, input_shape=image or (features,))


def examined(capsys, model, x, *options, code=0):
    """The findings by name: (level, text)."""
    model.save("model.npz")
    np.save("x.npy", x)
    assert cli.main(["doctor", "model.npz", "x.npy", *options]) == code
    out, err = capsys.readouterr()
    assert not err
    lines = [line.split(None, 2) for line in out.splitlines()[:-1]]
    return {name: (level, text) for level, name, text in lines}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lrpfast.cli.doctor.SECONDS", 0.0)


def test_all_is_well(capsys):
    x = RNG.normal(15, 2, size=(1000, 12)).astype(np.float32)
    found = examined(capsys, model_of(True), x)
    assert {level for name, (level, _) in found.items() if name != "relevance"} == {"ok"}, found
    assert list(found) == ["model", "samples", "NaN", "range", "prediction", "relevance", "cost"]
    assert "'normalization' was trained on mean 15, standard deviation 2" in found["range"][1]
    assert "48 KB of relevance" in found["cost"][1]


def test_kelvin_for_a_model_of_degrees_celsius(capsys):
    found = examined(capsys, model_of(True), RNG.normal(288.15, 2, size=(300, 12)).astype(np.float32))
    level, text = found["range"]
    assert level == "warning"
    assert "Kelvin and degrees Celsius" in text
    assert found["prediction"][0] == "warning"


def test_raw_values_for_a_model_that_does_not_normalize(capsys):
    found = examined(capsys, model_of(False), RNG.normal(288, 2, size=(300, 12)).astype(np.float32))
    assert found["range"][0] == "warning"
    assert "no normalization layer" in found["range"][1]


def test_missing_values(capsys):
    x = RNG.normal(size=(40, 12)).astype(np.float32)
    x[3, 5] = np.nan
    found = examined(capsys, model_of(False), x, code=1)
    assert found["NaN"][0] == "error"
    assert "1 of 40 samples" in found["NaN"][1]
    assert "feature (5,)" in found["NaN"][1]
    assert "--fill-nan" in found["NaN"][1]
    assert examined(capsys, model_of(False), x, "--mask-nan")["NaN"][0] == "ok"
    assert examined(capsys, model_of(False), x, "--fill-nan", "0")["NaN"][0] == "ok"
    x[3, 5] = np.inf
    assert examined(capsys, model_of(False), x, code=1)["infinity"][0] == "error"


def test_masks(capsys):
    land = np.zeros((4, 5), bool)
    land[1:3, :4] = True
    x = RNG.normal(size=(30, 4, 5)).astype(np.float32)
    x[:, land] = np.nan
    found = examined(capsys, model_of(False), x, code=1)
    assert found["shape"][0] == "error"
    assert "--mask FILE" in found["shape"][1]
    np.save("ocean.npy", ~land)
    found = examined(capsys, model_of(False), x, "--mask", "ocean.npy")
    assert found["mask"] == ("ok", "12 of 20 points; values there in all samples that were read")
    np.save("ocean.npy", np.roll(~land, 1, axis=0))
    found = examined(capsys, model_of(False), x, "--mask", "ocean.npy", code=1)
    assert "are NaN in all samples" in found["mask"][1]
    fewer = ~land
    fewer[0, 0] = False
    np.save("ocean.npy", fewer)
    found = examined(capsys, model_of(False, 11), x, "--mask", "ocean.npy")
    assert found["mask"] == ("warning", "leaves out 1 point with a value in all samples that were read")
    np.save("ocean.npy", np.ones((3, 5), bool))
    assert examined(capsys, model_of(False), x, "--mask", "ocean.npy", code=1)["mask"][0] == "error"


def test_axes_in_another_order(capsys):
    x = RNG.normal(size=(10, 3, 6, 7)).astype(np.float32)
    found = examined(capsys, model_of(False, image=(6, 7, 3)), x, code=1)
    assert found["axes"][0] == "error"
    assert "x.transpose(0, 2, 3, 1) fits" in found["axes"][1]


def test_constant_features_and_vanishing_relevance(capsys):
    x = RNG.normal(size=(10, 12)).astype(np.float32)
    x[:, 4] = 1
    model = lrpfast.from_layers([lrpfast.layers.Dense(np.ones((12, 1), np.float32) * 1e-6, np.ones(1, np.float32))])
    found = examined(capsys, model, x)
    assert found["constant"] == ("warning", "1 of 12 features are the same in all samples that were read")
    assert found["relevance"][0] == "warning"
    assert "reaches the input" in found["relevance"][1]


def test_a_sample_and_none(capsys):
    assert "cost" in examined(capsys, model_of(False), np.ones((1, 12), np.float32))
    assert examined(capsys, model_of(False), np.ones((0, 12), np.float32), code=1)["samples"][0] == "error"


def test_a_model_of_several_inputs(capsys):
    graph = lrpfast.Graph()
    graph.model(graph.add(lrpfast.layers.Add(), graph.input((2,), name="a"), graph.input((2,), name="b"))).save(
        "two.npz"
    )
    np.save("x.npy", np.ones((3, 2)))
    assert cli.main(["doctor", "two.npz", "a=x.npy", "b=x.npy"]) == 2
    assert "doctor is about one input" in capsys.readouterr().err
