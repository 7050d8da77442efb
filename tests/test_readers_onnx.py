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
#: The exporter folded batch norms into the convolutions of these, in float32: the arrays' names, in order.
#: zennit leaves 1 / sqrt(1 + 1e-5) of each in its place.
FOLDED = {
    "cnn_bn": (("0", "1"), ("4", "5")),
    "resnet": (
        *(("0", None), ("2.a.0", "2.a.1"), ("2.a.3", "2.a.4")),
        *(("3.a.0", "3.a.1"), ("3.a.3", "3.a.4"), ("3.s.0", "3.s.1")),
    ),
}
RECORDS = {name: np.load(DATA / f"torch_{name}.npz") for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_predictions(name):
    record, model = RECORDS[name], lrpfast.load(DATA / f"torch_{name}.onnx")
    assert model.input_shape == record["x"].shape[1:] and model.output_shape == record["y"].shape[1:]
    y = model.predict(record["x"], precision="float64")
    np.testing.assert_allclose(y, record["y"], rtol=0, atol=1e-6 if name in FOLDED else 1e-9)


def as_zennit_leaves(model):
    """zennit's MergeBatchNorm leaves (x - 0) / sqrt(1 + eps) in the batch norm's place: eps is not taken out."""
    nodes, index = [], []
    for node in model.nodes:
        nodes.append((node.layer, tuple(index[j] for j in node.inputs)))
        if (
            isinstance(node.layer, lrpfast.layers.Conv) and node.name != "node_conv2d"
        ):  # resnet's first has no batch norm
            n = node.shape[-1]
            nodes.append((lrpfast.layers.BatchNorm(np.zeros(n), np.ones(n), epsilon=1e-5), (len(nodes) - 1,)))
        index.append(len(nodes) - 1)
    return Model(nodes, model.name)


def folded(name, dtype):
    """(kernel, bias) of each convolution with its batch norm in it, computed in the given precision."""
    arrays = np.load(DATA / f"torch_{name}.weights.npz")
    for convolution, norm in FOLDED[name]:
        kernel = arrays[f"{convolution}.weight"].astype(dtype)
        bias = arrays[f"{convolution}.bias"].astype(dtype) if f"{convolution}.bias" in arrays else dtype(0)
        if norm is not None:
            gamma, beta, mean, variance = (
                arrays[f"{norm}.{part}"].astype(dtype) for part in ("weight", "bias", "running_mean", "running_var")
            )
            scale = gamma / np.sqrt(variance + dtype(1e-5))
            kernel, bias = kernel * scale[:, None, None, None], (bias - mean) * scale + beta
        yield kernel.transpose(2, 3, 1, 0), bias


def with_arrays(model, arrays):
    """The model with other kernels and biases in its convolutions."""
    arrays, nodes = iter(arrays), []
    for node in model.nodes:
        layer = node.layer
        if isinstance(layer, lrpfast.layers.Conv):
            kernel, bias = next(arrays)
            layer = replace(layer, kernel=kernel, bias=bias)
        nodes.append((layer, node.inputs))
    return Model(nodes, model.name)


@pytest.mark.parametrize("name", FOLDED)
def test_the_exporter_rounded(name):
    """The file's arrays are those of float32, bit for bit: what it is off the records by is its own rounding."""
    model = lrpfast.load(DATA / f"torch_{name}.onnx")
    convolutions = [layer for layer in model.layers if isinstance(layer, lrpfast.layers.Conv)]
    for layer, (kernel, bias) in zip(convolutions, folded(name, np.float32), strict=True):
        assert np.array_equal(layer.kernel, kernel) and np.array_equal(layer.bias, bias)


def explained(model, rules, x):
    return lrpfast.Analyzer(model, rules, target=0, precision="float64").analyze(x)


@pytest.mark.parametrize("name, key", [(name, key) for name in CASES for key in RECORDS[name].files if "|" in key])
def test_recorded_explanations(name, key):
    record, model, rules = RECORDS[name], lrpfast.load(DATA / f"torch_{name}.onnx"), torch_peers.composite(key)
    if name in FOLDED and key.startswith(("captum|gamma", "captum|alpha")):
        pytest.skip("captum's rule speaks of the convolution alone, and the file holds it and its batch norm as one")
    if name in FOLDED and key.startswith("zennit"):
        rules, model = torch_peers.beside_merged(rules, key), as_zennit_leaves(model)
    x, wanted = record["x"], record[key]

    largest = np.abs(wanted).max(tuple(range(1, wanted.ndim)), keepdims=True)

    def off(model):
        return np.abs(explained(model, rules, x) - wanted) / np.maximum(largest, 1e-30)

    if name not in FOLDED:
        assert (off(model) <= 1e-8).all()
        return
    # the rounding does up to 5e-4 under w-square and flat, which take it to where denominators nearly vanish
    assert np.median(off(model)) < 1e-5
    # without it the figures are exact; captum gives the batch norm an epsilon of its own
    exact = with_arrays(model, folded(name, np.float64))
    assert (off(exact) <= (1e-5 if key.startswith("captum") else 1e-8)).all()


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
        rules = lrpfast.composites.EpsilonGammaBox(*bounds)
        results.append(lrpfast.Analyzer(model, rules, target=0, precision="float64").analyze(x))
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])
