"""The networks that come with the package onnx, without their weights, against ONNX Runtime."""

from pathlib import Path

import numpy as np
import pytest

import lrpfast

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
NAMES = ("densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet")
LARGE = ("bvlc_alexnet", "vgg19", "zfnet512")


def image():
    return np.random.default_rng(0).uniform(0, 1, (1, 3, 224, 224)).astype(np.float32)


def computed(model, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    source = model if isinstance(model, str) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("name", (*NAMES, *LARGE))
def test_as_they_are(name):
    path, x = str(LIGHT / f"light_{name}.onnx"), image()
    model = lrpfast.load(path, memory=4 << 30)  # weights of nothing: up to 548 MiB from a few kilobytes
    wanted = computed(path, x)
    got = model.predict(x)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def with_weights(name):
    """The network with random weights in the place of its constant ones, and without its softmax, which hides them."""
    proto = onnx.load(LIGHT / f"light_{name}.onnx")
    rng = np.random.default_rng(1)
    shapes = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    kept = []
    for node in proto.graph.node:
        if node.op_type == "ConstantOfShape":
            shape = tuple(shapes[node.input[0]])
            scale = 1 / np.sqrt(max(np.prod(shape[1:]), 1))
            values = rng.normal(0, scale, shape) if len(shape) > 1 else rng.uniform(0.5, 1.5, shape)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), node.output[0]))
        elif node.op_type == "Softmax":
            proto.graph.output[0].name = node.input[0]
        else:
            kept.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    unused = {name for name in shapes if not any(name in node.input for node in kept)}
    for field in (proto.graph.initializer, proto.graph.input):
        left = [item for item in field if item.name not in unused]
        del field[:]
        field.extend(left)
    return proto


@pytest.mark.parametrize("name", NAMES)
def test_with_random_weights(name):
    proto, x = with_weights(name), image()
    wanted = computed(proto, x)
    model = lrpfast.from_onnx(proto)
    got = model.predict(x)
    assert np.abs(got - wanted).max() < 1e-5 * wanted.std()
