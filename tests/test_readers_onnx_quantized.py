"""Quantized ONNX files are read as what they approximate: near the float network, nearer than the file itself."""

import warnings

import numpy as np
import pytest

import lrpfast
import seeds

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

RNG = seeds.generator(0)
IMAGE = (2, 5, 6)


def proto(nodes, shape, constants, opset=19):
    """A model of nodes (op, inputs, outputs, attributes) on a float32 input "x"; "ms." is the domain com.microsoft."""
    made = []
    for op, inputs, outputs, attributes in nodes:
        domain = "com.microsoft" if op.startswith("ms.") else ""
        made.append(helper.make_node(op.removeprefix("ms."), inputs, outputs, domain=domain, **attributes))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    arrays = [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph(made, "g", [x], [y], arrays), opset_imports=opsets, ir_version=8)


def quantized(array, axis=None, dtype=np.uint8):
    """Whole numbers, scales and zero points of a weight: for all of it, or for each place of an axis."""
    rest = tuple(a for a in range(array.ndim) if a != axis) if axis is not None else None
    low, high = np.minimum(array.min(rest), 0), np.maximum(array.max(rest), 0)
    scale = ((high - low) / 255).astype(np.float32)
    info = np.iinfo(dtype)
    zero = np.rint(info.min - low / scale).astype(dtype)
    shape = [-1 if a == axis else 1 for a in range(array.ndim)] if axis is not None else ()
    values = np.rint(array / scale.reshape(shape)) + zero.reshape(shape).astype(int)
    return np.clip(values, info.min, info.max).astype(dtype), scale, zero


def near(model, x, expected):
    """The prediction is the file's up to a hundredth, but not up to float32's rounding; relevance is finite."""
    with pytest.warns(lrpfast.ApproximationWarning, match="rounding"):
        model = lrpfast.from_onnx(model)
    y = model.predict(x)
    assert y.shape == expected.shape
    assert 1e-6 * np.abs(expected).max() < np.abs(y - expected).max() < 0.03 * np.abs(expected).max()
    assert np.isfinite(lrpfast.Analyzer(model, "epsilon", target="max").analyze(x)).all()
    return model


def evaluated(model, x):
    """Each sample by itself: a dynamic scale is that of all samples."""
    return np.concatenate([ReferenceEvaluator(model).run(None, {"x": a[None]})[0] for a in x])


def by_runtime(model, x):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": a[None]})[0] for a in x])


def samples(*shape):
    return RNG.normal(size=(3, *shape)).astype(np.float32)


QUANTIZER = ("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], {})


def test_convolutions_of_whole_numbers():
    """The bias divided by the scales and rounded, as onnxruntime's older tools write it."""
    kernel, bias = RNG.normal(size=(3, 2, 3, 3)), RNG.normal(size=3).astype(np.float32)
    w, ws, wz = quantized(kernel)
    nodes = [
        QUANTIZER,
        ("Mul", ["s", "ws"], ["both"], {}),
        ("Div", ["b", "both"], ["divided"], {}),
        ("Floor", ["divided"], ["floor"], {}),
        ("Cast", ["floor"], ["whole"], {"to": TensorProto.INT32}),
        ("Reshape", ["whole", "column"], ["reshaped"], {}),
        ("ConvInteger", ["q", "w", "z", "wz"], ["c"], {"pads": [1, 1, 1, 1]}),
        ("Add", ["c", "reshaped"], ["sum"], {}),
        ("Cast", ["sum"], ["float"], {"to": TensorProto.FLOAT}),
        ("Mul", ["float", "both"], ["y"], {}),
    ]
    constants = {"w": w, "ws": ws, "wz": wz, "b": bias, "column": np.array([1, -1, 1, 1], np.int64)}
    model, x = proto(nodes, IMAGE, constants), samples(*IMAGE)
    near(model, x, evaluated(model, x))


@pytest.mark.parametrize("axis, dtype", ((None, np.uint8), (1, np.int8)))
def test_matrices_of_whole_numbers(axis, dtype):
    w, ws, wz = quantized(RNG.normal(size=(6, 4)), axis, dtype)
    nodes = [
        ("Tanh", ["x"], ["t"], {}),
        ("DynamicQuantizeLinear", ["t"], ["q", "s", "z"], {}),
        ("Reshape", ["q", "rows"], ["flat"], {}),
        ("MatMulInteger", ["flat", "w", "z", "wz"], ["m"], {}),
        ("Cast", ["m"], ["float"], {"to": TensorProto.FLOAT}),
        ("Mul", ["s", "ws"], ["both"], {}),
        ("Mul", ["float", "both"], ["scaled"], {}),
        ("Add", ["scaled", "b"], ["y"], {}),
    ]
    constants = {"w": w, "ws": ws, "wz": wz, "b": np.ones(4, np.float32), "rows": np.array([0, 6], np.int64)}
    model, x = proto(nodes, (2, 3), constants), samples(2, 3)
    near(model, x, by_runtime(model, x))


def test_attention_scores_of_two_quantized_tensors():
    """Powers of two scales cancel, too; dequantized, a tensor is what it was."""
    nodes = [
        QUANTIZER,
        ("Sigmoid", ["x"], ["g"], {}),
        ("DynamicQuantizeLinear", ["g"], ["q2", "s2", "z2"], {}),
        ("Transpose", ["q2"], ["turned"], {"perm": [0, 2, 1]}),
        ("MatMulInteger", ["q", "turned", "z", "z2"], ["m"], {}),
        ("Cast", ["m"], ["float"], {"to": TensorProto.FLOAT}),
        ("Mul", ["s2", "s"], ["both"], {}),
        ("Mul", ["both", "float"], ["scores"], {}),
        ("DequantizeLinear", ["q", "s", "z"], ["again"], {}),
        ("MatMul", ["scores", "again"], ["y"], {}),
    ]
    model, x = proto(nodes, (4, 3), {}), samples(4, 3)
    near(model, x, by_runtime(model, x))


def test_operators_that_quantize_inside():
    w, ws, wz = quantized(RNG.normal(size=(6, 4)))
    constants = {"w": w, "ws": ws, "wz": wz, "b": np.ones(4, np.float32)}
    model = proto([("ms.DynamicQuantizeMatMul", ["x", "w", "ws", "wz", "b"], ["y"], {})], (6,), constants)
    x = samples(6)
    near(model, x, by_runtime(model, x))
    to_float = ("ms.MatMulIntegerToFloat", ["q", "w", "s", "ws", "z", "wz", "b"], ["y"], {})
    model = proto([QUANTIZER, to_float], (6,), constants)
    near(model, x, by_runtime(model, x))


@pytest.mark.parametrize("per_unit", (False, True))
def test_an_lstm_with_quantized_weights(per_unit):
    units, features = 4, 3
    parts = {}
    for key, rows in (("w", features), ("r", units)):
        ways = [quantized(RNG.normal(size=(rows, 4 * units)), 1 if per_unit else None, np.int8) for _ in range(2)]
        for name, arrays in zip((key, f"{key}s", f"{key}z"), zip(*ways, strict=True), strict=True):
            parts[name] = np.stack(arrays)
        if per_unit:
            parts[f"{key}z"] = np.zeros_like(parts[f"{key}z"])  # ONNX Runtime has no others
    parts["b"] = RNG.normal(size=(2, 8 * units)).astype(np.float32)
    inputs = ["t", "w", "r", "b", "", "", "", "", "ws", "wz", "rs", "rz"]
    attributes = {"hidden_size": units, "direction": "bidirectional"}
    nodes = [
        ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]}),
        ("ms.DynamicQuantizeLSTM", inputs, ["all", "h", "c"], attributes),
        ("Transpose", ["h"], ["y"], {"perm": [1, 0, 2]}),
    ]
    model, x = proto(nodes, (5, features), parts), samples(5, features)
    near(model, x, by_runtime(model, x))


def test_operators_of_whole_numbers_with_constant_scales():
    """The limits of the whole numbers are a ReLU where the file has none: here those of the convolution."""
    w, ws, wz = quantized(RNG.normal(size=(4, 2, 3, 3)), 0, np.int8)
    v, vs, vz = quantized(RNG.normal(size=(4, 3)))
    constants = {"w": w, "ws": ws, "wz": np.zeros_like(wz), "v": v, "vs": vs, "vz": vz, "s": np.float32(0.03)}
    constants |= {"z": np.uint8(120), "cs": np.float32(0.05), "cz": np.uint8(0), "ms": np.float32(0.1)}
    constants |= {"mz": np.uint8(128), "bias": np.array([90, -300, 0, 40], np.int32)}
    nodes = [
        ("QuantizeLinear", ["x", "s", "z"], ["q"], {}),
        ("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "cs", "cz", "bias"], ["c"], {"strides": [2, 2]}),
        ("MaxPool", ["c"], ["p"], {"kernel_shape": [2, 2]}),
        ("Flatten", ["p"], ["f"], {}),
        ("QLinearMatMul", ["f", "cs", "cz", "v", "vs", "vz", "ms", "mz"], ["m"], {}),
        ("DequantizeLinear", ["m", "ms", "mz"], ["y"], {}),
    ]
    model, x = proto(nodes, IMAGE, constants), samples(*IMAGE)
    result = near(model, x, by_runtime(model, x))
    functions = [layer.function for layer in result.layers if isinstance(layer, lrpfast.layers.Activation)]
    assert functions.count("relu") == 1


MICROSOFT = {
    "QLinearAdd": (("q", "s", "z", "q", "s", "z"), {}),
    "QLinearMul": (("q", "s", "z", "k", "s", "z"), {}),
    "QLinearConcat": (None, {"axis": 1}),
    "QLinearSigmoid": (("q", "s", "z"), {}),
    "QLinearLeakyRelu": (("q", "s", "z"), {"alpha": 0.3}),
    "QLinearAveragePool": (("q", "s", "z"), {"kernel_shape": [2, 2]}),
    "QLinearGlobalAveragePool": (("q", "s", "z"), {"channels_last": 0}),
    "QLinearSoftmax": (("q", "s", "z"), {"axis": 1, "opset": 13}),
    "QGemm": (("f", "s", "z", "w", "ws", "wz", "bias"), {"transB": 1, "alpha": 0.5}),
}


@pytest.mark.parametrize("op", MICROSOFT)
def test_operators_of_onnxruntime(op):
    inputs, attributes = MICROSOFT[op]
    w, ws, wz = quantized(RNG.normal(size=(4, 60)), 0, np.int8)
    constants = {"s": np.float32(0.03), "z": np.uint8(120), "os": np.float32(0.05), "oz": np.uint8(100)}
    constants |= {"w": w, "ws": ws, "wz": np.zeros_like(wz), "bias": np.array([900, -300, 0, 4000], np.int32)}
    constants["k"] = RNG.integers(0, 255, (2, 1, 6), dtype=np.uint8)
    if op in ("QLinearSigmoid", "QLinearSoftmax"):
        constants |= {"os": np.float32(1 / 256), "oz": np.uint8(0)}
    if op == "QLinearGlobalAveragePool":
        constants["os"] = np.float32(0.01)
    if op == "QGemm":
        constants["os"] = np.float32(0.2)
    both = ("os", "oz", "q", "s", "z", "q", "s", "z") if inputs is None else (*inputs, "os", "oz")
    names = {name for name in both if name in constants} | {"s", "z", "os", "oz"}
    flat = [("Flatten", ["q"], ["f"], {})] if "f" in both else []
    nodes = [("QuantizeLinear", ["x", "s", "z"], ["q"], {}), *flat, (f"ms.{op}", list(both), ["r"], attributes)]
    nodes.append(("DequantizeLinear", ["r", "os", "oz"], ["y"], {}))
    model, x = proto(nodes, IMAGE, {name: constants[name] for name in sorted(names)}), samples(*IMAGE)
    near(model, x, by_runtime(model, x))


def test_padding_of_whole_numbers_is_what_it_stands_for():
    """Zeros that pad stand for (0 - zero point) · scale."""
    pads = np.array([0, 0, 1, 0, 0, 0, 0, 2], np.int64)
    nodes = [
        ("QuantizeLinear", ["x", "s", "z"], ["q"], {}),
        ("Pad", ["q", "pads"], ["p"], {}),
        ("DequantizeLinear", ["p", "s", "z"], ["y"], {}),
    ]
    model, x = proto(nodes, IMAGE, {"s": np.float32(0.03), "z": np.uint8(120), "pads": pads}), samples(*IMAGE)
    y = near(model, x, evaluated(model, x)).predict(x)
    np.testing.assert_allclose(y[:, :, 0], -3.6, rtol=1e-6)


@pytest.mark.parametrize(
    "nodes, words",
    [
        ([QUANTIZER, ("MatMulInteger", ["q", "w"], ["m"], {})], "another zero point"),
        ([QUANTIZER, ("MatMulInteger", ["q", "w", "z"], ["m"], {}), ("Relu", ["m"], ["r"], {})], "quantized numbers"),
        (
            [QUANTIZER, ("MatMulInteger", ["q", "w", "z"], ["m"], {}), ("Add", ["m", "s"], ["r"], {})],
            "different scales",
        ),
    ],
)
def test_whole_numbers_that_are_not_floats_again(nodes, words):
    end = [("Cast", [nodes[-1][2][0]], ["y"], {"to": TensorProto.FLOAT})]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(lrpfast.UnsupportedLayerError, match=words):
            lrpfast.from_onnx(proto([*nodes, *end], (3,), {"w": np.eye(3, dtype=np.uint8)}))
    with pytest.raises(lrpfast.UnsupportedLayerError, match="quantized numbers"):
        nodes = [QUANTIZER, ("MatMulInteger", ["q", "w", "z"], ["m"], {})]
        lrpfast.from_onnx(proto([*nodes, ("Cast", ["m"], ["y"], {"to": 1})], (3,), {"w": np.eye(3, dtype=np.uint8)}))
