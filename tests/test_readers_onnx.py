"""ONNX files against the figures that zennit and captum printed for the models that they came from."""

import json
from pathlib import Path

import numpy as np
import pytest

import lrpfast

pytest.importorskip("onnx")

DATA = Path(__file__).parent / "data"
CASES = ("mlp", "cnn", "conv1d", "cnn_bn", "resnet")
#: the exporter folded batch norm into these in float32; zennit leaves 1 / sqrt(1 + 1e-5) of each in its place
FOLDED = ("cnn_bn", "resnet")
RECORDS = {name: np.load(DATA / f"torch_{name}.npz") for name in CASES}


def composite(key):
    """zennit's and captum's explanations as composites."""
    peer, name, keywords = key.split("|")
    keywords = json.loads(keywords)
    c, r = lrpfast.composites, lrpfast.rules
    if peer == "captum":
        return c.Captum(
            {
                "epsilon": lambda: r.Epsilon(**keywords),
                "gamma": lambda: r.Gamma(**keywords, generalized=False, scale_bias=False, stabilizer=1e-9),
                "alpha1_beta0": lambda: r.ZPlus(split_input=False, bias="full", stabilizer=1e-9),
            }[name]()
        )
    kind, name = name.split(":")
    if kind == "composite":
        return c.from_name(name, **keywords)
    rule = {
        "epsilon": r.Epsilon,
        "zplus": r.ZPlus,
        "alpha_beta": r.AlphaBeta,
        "gamma": r.Gamma,
        "wsquare": lambda: r.WSquare(bias="absorb"),
        "flat": r.Flat,
        "zbox": r.ZBox,
    }[name](**keywords)
    return c.Uniform(r.Epsilon(1e-6), first=rule) if kind == "first" else c.Uniform(rule)


@pytest.mark.parametrize("name", CASES)
def test_predictions(name):
    record, model = RECORDS[name], lrpfast.load(DATA / f"torch_{name}.onnx")
    assert model.input_shape == record["x"].shape[1:] and model.output_shape == record["y"].shape[1:]
    y = model.predict(record["x"], precision="float64")
    np.testing.assert_allclose(y, record["y"], rtol=0, atol=1e-6 if name in FOLDED else 1e-9)


@pytest.mark.parametrize("name, key", [(name, key) for name in CASES for key in RECORDS[name].files if "|" in key])
def test_recorded_explanations(name, key):
    record, model = RECORDS[name], lrpfast.load(DATA / f"torch_{name}.onnx")
    got = lrpfast.Analyzer(model, composite(key), target=0, precision="float64").analyze(record["x"])
    largest = np.abs(record[key]).max(tuple(range(1, got.ndim)), keepdims=True)
    off = (np.abs(got - record[key]) / largest).max()
    assert off <= (1e-5 if name in FOLDED else 1e-8)


def test_paths_bytes_and_messages_are_the_same_model():
    import onnx

    path = DATA / "torch_cnn.onnx"
    x = RECORDS["cnn"]["x"]
    models = [lrpfast.load(path), *(lrpfast.from_onnx(m) for m in (path, path.read_bytes(), onnx.load(path)))]
    results = [model.predict(x).tobytes() for model in models]
    assert len(set(results)) == 1
