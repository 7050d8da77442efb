"""Where a model takes the channels of its inputs: what its layers say of it."""

from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast import layers as L

DATA = Path(__file__).parent / "data"
CONV = L.Conv(np.ones((1, 1, 2, 3)))
SCALE = L.BatchNorm(np.zeros(5), np.ones(5))  # on the last axis, whatever that is
PAD = L.ZeroPad(((0, 0), (1, 1)))  # on the middle axis of three, channels first: the rows

CHAINS = {
    "channels last": ([CONV], (4, 5, 2), False),
    "channels first": ([L.Permute((1, 2, 0)), CONV], (2, 4, 5), True),
    "scaled before": ([SCALE, L.Permute((1, 2, 0)), CONV], (2, 4, 5), True),
    "padded before": ([PAD, L.Permute((1, 2, 0)), CONV], (2, 4, 5), True),
    "moved twice": ([L.Permute((2, 0, 1)), L.Permute((1, 2, 0)), CONV], (4, 5, 2), False),
    "pooled first": ([L.Permute((1, 2, 0)), L.MaxPool((2, 2))], (2, 4, 5), True),
    "in the middle": ([L.Permute((0, 2, 1)), CONV], (4, 2, 5), None),
    "steps": ([L.Permute((1, 0)), L.Conv(np.ones((2, 3, 1)))], (3, 9), True),
    "dense": ([L.Flatten(), L.Dense(np.ones((40, 2)))], (2, 4, 5), None),
    "reshaped": ([L.Reshape((4, 5, 2)), CONV], (2, 4, 5), None),
    "vectors": ([L.Dense(np.eye(3))], 3, None),
}


@pytest.mark.parametrize("name", CHAINS)
def test_chains(name):
    layers, shape, expected = CHAINS[name]
    assert lrpfast.from_layers(layers, input_shape=shape).channels_first is expected


def test_several_inputs():
    graph = lrpfast.Graph()
    first, last = graph.input((2, 4, 5)), graph.input((4, 5, 2))
    end = graph.add(L.Add(), graph.add(CONV, graph.add(L.Permute((1, 2, 0)), first)), graph.add(CONV, last))
    assert graph.model(end).channels_first == [True, False]


@pytest.mark.parametrize("name", ["torch_cnn", "torch_cnn_bn", "torch_resnet", "torch_conv1d", "torch_mlp"])
@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_files_of_pytorch(name, ending):
    if ending == "onnx":
        pytest.importorskip("onnx")
    assert lrpfast.load(DATA / f"{name}.{ending}").channels_first is (None if name == "torch_mlp" else True)


@pytest.mark.parametrize("name", ["cnn.keras", "cnn_bn_avg.h5", "conv1d.k3.keras", "resnet_add.h5"])
def test_files_of_keras(name):
    assert lrpfast.load(DATA / name).channels_first is False


def test_files_of_keras_with_channels_first():
    assert lrpfast.load(DATA / "keras_layers_3.15.1_first_runs.keras").channels_first is True
