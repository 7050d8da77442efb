"""ONNX files against the figures that zennit and captum printed for the models that they came from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lrpfast
import torch_peers
from lrpfast.model.graph import Model

pytest.importorskip("onnx")

DATA = Path(__file__).parent / "data"
CASES = ("mlp", "cnn", "conv1d", "cnn_bn", "resnet")
#: the exporter folded batch norm into these in float32; zennit leaves 1 / sqrt(1 + 1e-5) of each in its place
FOLDED = ("cnn_bn", "resnet")
RECORDS = {name: np.load(DATA / f"torch_{name}.npz") for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_predictions(name):
    record, model = RECORDS[name], lrpfast.load(DATA / f"torch_{name}.onnx")
    assert model.input_shape == record["x"].shape[1:] and model.output_shape == record["y"].shape[1:]
    y = model.predict(record["x"], precision="float64")
    np.testing.assert_allclose(y, record["y"], rtol=0, atol=1e-6 if name in FOLDED else 1e-9)


def as_zennit_leaves(model):
    """zennit's MergeBatchNorm leaves (x - 0) / sqrt(1 + eps) in the batch norm's place: eps is not taken out."""
    nodes, place = [], []
    for node in model.nodes:
        nodes.append((node.layer, tuple(place[j] for j in node.inputs)))
        if (
            isinstance(node.layer, lrpfast.layers.Conv) and node.name != "node_conv2d"
        ):  # resnet's first has no batch norm
            n = node.shape[-1]
            nodes.append((lrpfast.layers.BatchNorm(np.zeros(n), np.ones(n), epsilon=1e-5), (len(nodes) - 1,)))
        place.append(len(nodes) - 1)
    return Model(nodes, model.name)


def rounded(model, rng):
    """The model with every weight of its convolutions off by half of float32's spacing, up or down."""
    nodes = []
    for node in model.nodes:
        layer = node.layer
        if isinstance(layer, lrpfast.layers.Conv):
            arrays = {f: getattr(layer, f).astype(float) for f in ("kernel", "bias")}
            layer = replace(layer, **{f: a * (1 + rng.choice([-1, 1], a.shape) * 2.0**-24) for f, a in arrays.items()})
        nodes.append((layer, node.inputs))
    return Model(nodes, model.name)


def explained(model, made, x):
    return lrpfast.Analyzer(model, made, target=0, precision="float64").analyze(x)


@pytest.mark.parametrize("name, key", [(name, key) for name in CASES for key in RECORDS[name].files if "|" in key])
def test_recorded_explanations(name, key):
    record, model, made = RECORDS[name], lrpfast.load(DATA / f"torch_{name}.onnx"), torch_peers.composite(key)
    if name in FOLDED and key.startswith(("captum|gamma", "captum|alpha")):
        pytest.skip("captum's rule speaks of the convolution alone, and the file holds it and its batch norm as one")
    if name in FOLDED and key.startswith("zennit"):
        made, model = torch_peers.beside_merged(made, key), as_zennit_leaves(model)
    x, wanted = record["x"], record[key]
    got = explained(model, made, x)

    def largest(a):
        return np.abs(a).max(tuple(range(1, a.ndim)))

    allowed = (1e-5 if name in FOLDED else 1e-8) * largest(wanted)
    if name in FOLDED:  # what the exporter's rounding may do where denominators nearly vanish
        rng = np.random.default_rng(0)
        changes = [largest(explained(rounded(model, rng), made, x) - got) for _ in range(8)]
        allowed = np.maximum(allowed, 8 * np.max(changes, 0))
        assert np.median(largest(got - wanted) / np.maximum(largest(wanted), 1e-30)) < 1e-5
    assert (largest(got - wanted) <= allowed).all()


def test_paths_bytes_and_messages_are_the_same_model():
    import onnx

    path = DATA / "torch_cnn.onnx"
    x = RECORDS["cnn"]["x"]
    models = [lrpfast.load(path), *(lrpfast.from_onnx(m) for m in (path, path.read_bytes(), onnx.load(path)))]
    results = [model.predict(x).tobytes() for model in models]
    assert len(set(results)) == 1


def test_bounds_are_the_inputs():
    """ZBox's bounds have the shape of the input: channels first, as the file says."""
    model, x = lrpfast.load(DATA / "torch_cnn.onnx"), RECORDS["cnn"]["x"]
    low, high = np.array([-4.0, -5.0, -6.0]), np.array([4.0, 5.0, 6.0])
    results = []
    for shape in ((3,), (3, 1, 1), (3, 14, 14)):
        bounds = [np.broadcast_to(b if shape == (3,) else b[:, None, None], shape) for b in (low, high)]
        made = lrpfast.composites.EpsilonGammaBox(*bounds)
        results.append(lrpfast.Analyzer(model, made, target=0, precision="float64").analyze(x))
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])
