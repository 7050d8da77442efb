"""Every ONNX operator that is read, against the package onnx's own evaluator, on small random graphs."""

import subprocess
import sys

import numpy as np
import pytest

import lrpfast

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

import seeds  # noqa: E402

RNG = seeds.generator(0)


def graph(nodes, shape, constants=None, opset=20, batch="N", outputs=("y",)):
    """A model of nodes (op, inputs, outputs, attributes) on a float64 input "x"."""
    made = [helper.make_node(op, list(i), list(o), **attributes) for op, i, o, attributes in nodes]
    x = helper.make_tensor_value_info("x", TensorProto.DOUBLE, [batch, *shape])
    ends = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in outputs]
    arrays = [numpy_helper.from_array(np.asarray(a), name) for name, a in (constants or {}).items()]
    whole = helper.make_graph(made, "g", [x], ends, arrays)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def runtime(proto, x):
    """What ONNX Runtime computes, in float32: for operators that the evaluator of onnx 1.23 gets wrong or lacks."""
    onnxruntime = pytest.importorskip("onnxruntime")
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.DOUBLE:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x.astype(np.float32)})


def check(nodes, shape, constants=None, opset=20, outputs=("y",), tolerance=1e-10, by=None):
    """lrpfast's prediction is the evaluator's; the model."""
    proto = graph(nodes, shape, constants, opset, outputs=outputs)
    x = RNG.normal(size=(3, *shape))
    wanted = ReferenceEvaluator(proto).run(None, {"x": x}) if by is None else by(proto, x)
    tolerance = tolerance if by is None else 1e-5
    model = lrpfast.from_onnx(proto)
    got = model.predict(x, precision="float64")
    for a, b in zip([got] if len(outputs) == 1 else got, wanted, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()))
    target = None if len(outputs) == 1 else {model.nodes[model.outputs[0]].name: 0}
    relevance = lrpfast.Analyzer(model, "epsilon", target=target or "max", precision="float64").analyze(x)
    assert np.isfinite(relevance).all()
    return model


def one(op, shape, *constants, opset=20, tolerance=1e-10, by=None, **attributes):
    """One node, its inputs after the first constants (None for one left out)."""
    names = ["" if c is None else f"c{i}" for i, c in enumerate(constants)]
    given = {f"c{i}": c for i, c in enumerate(constants) if c is not None}
    return check([(op, ["x", *names], ["y"], attributes)], shape, given, opset, tolerance=tolerance, by=by)


def w(*shape):
    return RNG.normal(size=shape)


def i64(*values):
    return np.array(values, np.int64)


CONVOLUTIONS = {
    "plain": ((3, 7, 8), (4, 3, 3, 3), {}),
    "1d": ((3, 9), (4, 3, 3), {"dilations": [2]}),
    "3d": ((2, 5, 6, 4), (3, 2, 2, 3, 2), {"strides": [2, 1, 1]}),
    "pads": ((3, 7, 8), (4, 3, 3, 2), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    "groups": ((4, 7, 8), (6, 2, 3, 3), {"group": 2}),
    "depthwise": ((4, 7, 8), (8, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    "same upper": ((3, 8, 7), (4, 3, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same lower": ((3, 8, 7), (4, 3, 4, 2), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "valid": ((3, 8, 7), (4, 3, 4, 2), {"auto_pad": "VALID", "kernel_shape": [4, 2]}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("bias", (True, False))
def test_convolutions(case, bias):
    shape, kernel, attributes = CONVOLUTIONS[case]
    one("Conv", shape, w(*kernel), *([w(kernel[0])] if bias else []), opset=11, **attributes)


TRANSPOSED = {
    "plain": ((3, 5, 4), (3, 2, 3, 3), {}),
    "1d": ((3, 5), (3, 2, 3), {"strides": [2], "pads": [1, 0]}),
    "strides": ((3, 5, 4), (3, 2, 3, 3), {"strides": [2, 3], "pads": [1, 1, 1, 1], "output_padding": [1, 2]}),
    "dilated": ((3, 5, 4), (3, 2, 3, 3), {"dilations": [2, 1]}),
    "groups": ((4, 5, 4), (4, 3, 3, 3), {"group": 2}),
    "output_shape": ((3, 5, 4), (3, 2, 3, 3), {"strides": [2, 2], "output_shape": [10, 8]}),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolutions(case):
    shape, kernel, attributes = TRANSPOSED[case]
    groups = attributes.get("group", 1)
    by = runtime if case in ("groups", "output_shape") else None
    one("ConvTranspose", shape, w(*kernel), w(kernel[1] * groups), opset=11, by=by, **attributes)


def test_gemm():
    one("Gemm", (5,), w(5, 4), w(4))
    one("Gemm", (5,), w(4, 5), w(1, 4), transB=1, alpha=0.5, beta=2.0)
    one("Gemm", (5,), w(5, 4))
    one("Gemm", (5,), w(5, 4), np.array(0.5))


def test_matmul():
    one("MatMul", (5,), w(5, 4))
    one("MatMul", (6, 5), w(5, 4))
    one("MatMul", (2, 6, 5), w(5, 4))
    one("MatMul", (6, 5), w(5))
    check([("MatMul", ["c", "x"], ["y"], {})], (6, 5), {"c": w(3, 6)})
    check([("MatMul", ["c", "x"], ["y"], {})], (2, 6, 5), {"c": w(3, 6)})


@pytest.mark.parametrize("shape", ((4,), (1, 4), (1, 1, 4), (6, 4), (6, 1), ()))
def test_matmul_and_a_bias(shape):
    model = check(
        [("MatMul", ["x", "w"], ["z"], {}), ("Add", ["b", "z"], ["y"], {})], (6, 5), {"w": w(5, 4), "b": w(*shape)}
    )
    if shape == (4,):
        assert [type(layer).__name__ for layer in model.layers] == ["Input", "Dense"]


@pytest.mark.parametrize("shape", ((4, 1, 1), (1, 4, 1, 1), (5,), (5, 5), ()))
def test_convolution_and_what_is_added(shape):
    model = check(
        [("Conv", ["x", "w"], ["z"], {}), ("Add", ["z", "b"], ["y"], {})],
        (3, 7, 7),
        {"w": w(4, 3, 3, 3), "b": w(*shape)},
    )
    kinds = [type(layer).__name__ for layer in model.layers]
    assert ("BatchNorm" in kinds) == (shape in ((5,), (5, 5)))


def test_attention_is_read_as_products():
    nodes = [
        ("MatMul", ["x", "q"], ["a"], {}),
        ("MatMul", ["x", "k"], ["b"], {}),
        ("Transpose", ["b"], ["t"], {"perm": [0, 2, 1]}),
        ("MatMul", ["a", "t"], ["s"], {}),
        ("Mul", ["s", "scale"], ["m"], {}),
        ("Softmax", ["m"], ["p"], {}),
        ("MatMul", ["p", "x"], ["y"], {}),
    ]
    check(nodes, (6, 5), {"q": w(5, 4), "k": w(5, 4), "scale": np.array(0.5)})


def test_products_of_two_tensors_and_what_is_added():
    nodes = [
        ("Transpose", ["x"], ["t"], {"perm": [0, 2, 1]}),
        ("MatMul", ["x", "t"], ["p"], {}),
        ("Add", ["p", "b"], ["a"], {}),
        ("Mul", ["a", "a"], ["y"], {}),
    ]
    check(nodes, (6, 5), {"b": w(6, 6)})


def test_a_softmax_over_channels_is_a_final_one():
    nodes = [("Conv", ["x", "w"], ["c"], {}), ("GlobalAveragePool", ["c"], ["g"], {})]
    for opset in (11, 13):
        proto = graph([*nodes, ("Softmax", ["g"], ["y"], {"axis": 1})], (3, 5, 5), {"w": w(4, 3, 2, 2)}, opset)
        model = lrpfast.from_onnx(proto)
        x = RNG.normal(size=(2, 3, 5, 5))
        y = model.predict(x, precision="float64")
        z = model.without_softmax().predict(x, precision="float64")
        np.testing.assert_allclose(np.exp(z) / np.exp(z).sum(1, keepdims=True), y, rtol=1e-10)


def test_batch_norm():
    arrays = [w(3), w(3), w(3), w(3) ** 2]
    one("BatchNormalization", (3, 5, 4), *arrays, epsilon=1e-2)
    one("BatchNormalization", (3,), *arrays)
    named = dict(zip("gbmv", arrays, strict=True))
    nodes = [
        ("BatchNormalization", ["x", *"gbmv"], ["n"], {}),
        ("Mul", ["n", "s"], ["z"], {}),
        ("Add", ["z", "t"], ["y"], {}),
    ]
    model = check(nodes, (3, 5, 4), {**named, "s": w(3, 1, 1), "t": w(3, 1, 1)})
    assert [type(layer).__name__ for layer in model.layers] == ["Input", "Permute", "BatchNorm", "Permute"]
    check(nodes, (3, 5, 4), {**named, "s": w(4), "t": w(5, 1)})


POOLS = [
    {"kernel_shape": [2, 2]},
    {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [2, 2], "dilations": [2, 3], "strides": [2, 1]},
    {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [1, 2, 2, 0]},
    {"kernel_shape": [3, 2], "dilations": [2, 3], "strides": [2, 3], "pads": [0, 1, 2, 1], "ceil_mode": 1},
]


@pytest.mark.parametrize("attributes", POOLS, ids=str)
@pytest.mark.parametrize("kind", ("MaxPool", "AveragePool", "counted"))
def test_pooling(attributes, kind):
    if kind == "counted":
        attributes = {**attributes, "count_include_pad": 1}
    wrong = attributes.get("auto_pad") == "SAME_LOWER" or {"dilations", "ceil_mode"} <= set(attributes)
    by = runtime if wrong else None
    one("MaxPool" if kind == "MaxPool" else "AveragePool", (3, 8, 9), opset=22, by=by, **attributes)


@pytest.mark.parametrize("op", ("MaxPool", "AveragePool"))
def test_pooling_with_dilation_and_same_padding(op):
    """SAME as pads: ONNX Runtime takes no account of dilation there, nor does the evaluator for means."""
    given = {"kernel_shape": [3, 2], "dilations": [2, 3], "strides": [2, 1]}
    x = RNG.normal(size=(2, 3, 8, 9))
    for same, pads in (("SAME_UPPER", [1, 1, 2, 2]), ("SAME_LOWER", [2, 2, 1, 1])):
        named, spelled = (
            lrpfast.from_onnx(graph([(op, ["x"], ["y"], {**given, **padding})], (3, 8, 9), opset=22)).predict(x)
            for padding in ({"auto_pad": same}, {"pads": pads})
        )
        assert named.shape == (2, 3, 4, 9)
        np.testing.assert_array_equal(named, spelled)
    one(op, (3, 8, 9), opset=22, pads=pads, **given)


def test_pooling_in_one_and_three_dimensions():
    one("MaxPool", (3, 8), kernel_shape=[2])
    one("AveragePool", (3, 8, 6, 4), kernel_shape=[2, 3, 2])
    one("MaxPool", (3, 8), kernel_shape=[3], dilations=[2], pads=[2, 1])
    one("MaxPool", (3, 8, 6, 4), kernel_shape=[2, 3, 2], dilations=[3, 2, 1], pads=[1, 0, 1, 0, 2, 0])
    one("AveragePool", (3, 8, 6, 4), kernel_shape=[2, 3, 2], dilations=[3, 2, 1], pads=[1, 0, 1, 0, 2, 0])


@pytest.mark.parametrize("op", ("GlobalAveragePool", "GlobalMaxPool"))
@pytest.mark.parametrize("shape", ((3, 6), (3, 5, 6), (3, 2, 5, 6)))
def test_global_pooling(op, shape):
    one(op, shape, by=runtime)


ACTIVATIONS = {
    "Relu": {}, "Sigmoid": {}, "Tanh": {}, "Softplus": {}, "Softsign": {}, "Exp": {}, "Abs": {}, "Neg": {}, "Mish": {},
    "HardSwish": {}, "Elu": {"alpha": 0.7}, "Selu": {}, "LeakyRelu": {"alpha": 0.25}, "HardSigmoid": {"alpha": 0.25},
    "Gelu": {"approximate": "tanh"}, "ThresholdedRelu": {"alpha": 0.5}, "Identity": {}, "Dropout": {},
    "Celu": {"alpha": 0.4}, "Shrink": {"lambd": 0.3, "bias": 0.3},
}  # fmt: skip


@pytest.mark.parametrize("op", ACTIVATIONS)
def test_activations(op):
    one(op, (3, 5, 4), tolerance=1e-6, **ACTIVATIONS[op])


def test_further_activations():
    one("Gelu", (7,), tolerance=1e-6)
    one("HardSigmoid", (7,), alpha=0.25, beta=0.75)
    one("ThresholdedRelu", (7,), alpha=-0.5)
    one("Shrink", (7,), lambd=0.25)
    one("PRelu", (3, 5, 4), w(3, 1, 1))
    one("PRelu", (3, 5, 4), w(4))
    one("PRelu", (3, 5, 4), np.array([0.3]))
    one("Selu", (4,), alpha=1.5, gamma=1.2, tolerance=1e-6)
    one("Pow", (4,), np.array(2.0))


@pytest.mark.parametrize("ends", ((0.0, 6.0), (-1.0, 1.0), (None, 0.5), (-0.5, None), (0.0, None), (None, None)))
def test_clip(ends):
    model = one("Clip", (3, 5, 4), *(None if e is None else np.array(e) for e in ends))
    functions = [layer.function for layer in model.layers if isinstance(layer, lrpfast.layers.Activation)]
    assert functions == ([] if ends == (None, None) else ["relu" if ends[0] == 0 else "clip"])


def test_limits():
    one("Max", (4,), np.array(0.0))
    one("Max", (4,), np.array(0.3))
    one("Min", (4,), np.array(0.3))
    for op in ("Max", "Min"):
        one(op, (3, 5, 4), w(3, 1, 1))
        one(op, (3, 5, 4), w(1, 3, 5, 4), w(4))


@pytest.mark.parametrize("op", ("Softmax", "LogSoftmax"))
def test_softmax(op):
    one(op, (4,))
    one(op, (3, 4), axis=1)
    one(op, (3, 4, 5), axis=1)
    one(op, (3, 4), axis=2, opset=11)
    one(op, (3, 4), opset=11, by=runtime)
    one(op, (3, 4, 5), axis=2, opset=11, by=runtime)
    one(op, (4, 1, 1), opset=9, by=runtime)
    one(op, (3, 4, 1), axis=-1)


def gelu_erf(half_last):
    return [
        ("Div", ["x", "root2"], ["a"], {}),
        ("Erf", ["a"], ["b"], {}),
        ("Add", ["b", "one"], ["c"], {}),
        *([("Mul", ["x", "c"], ["d"], {}), ("Mul", ["d", "half"], ["y"], {})] if half_last else
          [("Mul", ["half", "x"], ["d"], {}), ("Mul", ["d", "c"], ["y"], {})]),
    ]  # fmt: skip


PATTERNS = {
    "gelu": (gelu_erf(True), "gelu"),
    "gelu, half first": (gelu_erf(False), "gelu"),
    "tanh gelu": (
        [
            ("Pow", ["x", "three"], ["a"], {}),
            ("Mul", ["a", "c1"], ["b"], {}),
            ("Add", ["x", "b"], ["c"], {}),
            ("Mul", ["c", "c2"], ["d"], {}),
            ("Tanh", ["d"], ["e"], {}),
            ("Add", ["e", "one"], ["f"], {}),
            ("Mul", ["x", "half"], ["g"], {}),
            ("Mul", ["g", "f"], ["y"], {}),
        ],
        "gelu",
    ),
    "silu": ([("Sigmoid", ["x"], ["a"], {}), ("Mul", ["x", "a"], ["y"], {})], "silu"),
    "mish": ([("Softplus", ["x"], ["a"], {}), ("Tanh", ["a"], ["b"], {}), ("Mul", ["x", "b"], ["y"], {})], "mish"),
    "hard swish": (
        [
            ("Add", ["x", "three"], ["a"], {}),
            ("Clip", ["a", "zero", "six"], ["b"], {}),
            ("Mul", ["x", "b"], ["c"], {}),
            ("Div", ["c", "six"], ["y"], {}),
        ],
        "hard_silu",
    ),
    "log sigmoid": ([("Sigmoid", ["x"], ["a"], {}), ("Log", ["a"], ["y"], {})], "log_sigmoid"),
    "relu6": ([("Relu", ["x"], ["a"], {}), ("Min", ["a", "six"], ["y"], {})], "relu"),
    "softplus": ([("Exp", ["x"], ["a"], {}), ("Add", ["a", "one"], ["b"], {}), ("Log", ["b"], ["y"], {})], "softplus"),
    "quick gelu": (
        [("Mul", ["x", "quick"], ["a"], {}), ("Sigmoid", ["a"], ["b"], {}), ("Mul", ["x", "b"], ["y"], {})],
        "sigmoid",
    ),
}
NUMBERS = {
    **{"root2": np.sqrt(2.0), "one": 1.0, "half": 0.5, "three": 3.0, "six": 6.0, "zero": 0.0, "quick": 1.702},
    **{"c1": 0.044715, "c2": np.sqrt(2 / np.pi)},
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("shape", ((6,), (3, 5, 4)))
def test_functions_in_several_nodes(name, shape):
    nodes, function = PATTERNS[name]
    used = {i for _, inputs, _, _ in nodes for i in inputs}
    model = check(nodes, shape, {k: np.array(v) for k, v in NUMBERS.items() if k in used}, tolerance=1e-6)
    assert [la.function for la in model.layers if isinstance(la, lrpfast.layers.Activation)] == [function]


def test_functions_of_sums_of_functions():
    """Residual blocks: what a GELU is of goes back to the first block by sums and products alone."""
    blocks = 6
    nodes, x = [], "x"
    for i in range(blocks):
        nodes += [("MatMul", [x, "kernel"], [f"m{i}"], {}), ("Add", [x, f"m{i}"], [f"s{i}"], {})]
        rename = {"x": f"s{i}", "y": f"y{i}" if i < blocks - 1 else "y", **{k: f"{k}{i}" for k in "abcd"}}
        nodes += [(op, [rename.get(n, n) for n in ins], [rename[n] for n in outs], {})
                  for op, ins, outs, _ in gelu_erf(True)]  # fmt: skip
        x = f"y{i}"
    constants = {k: np.array(NUMBERS[k]) for k in ("root2", "one", "half")}
    model = check(nodes, (4,), {**constants, "kernel": w(4, 4)}, tolerance=1e-6)
    functions = [layer.function for layer in model.layers if isinstance(layer, lrpfast.layers.Activation)]
    assert functions == ["gelu"] * blocks


@pytest.mark.parametrize("with_parameters", (True, False))
@pytest.mark.parametrize("square", ("Pow", "Mul"))
def test_layer_norm_in_several_nodes(with_parameters, square):
    axes = {"axes": [-1]}
    nodes = [
        ("ReduceMean", ["x"], ["m"], axes),
        ("Sub", ["x", "m"], ["d"], {}),
        (square, ["d", "two" if square == "Pow" else "d"], ["q"], {}),
        ("ReduceMean", ["q"], ["v"], axes),
        ("Add", ["v", "eps"], ["e"], {}),
        ("Sqrt", ["e"], ["s"], {}),
        ("Div", ["d", "s"], ["n" if with_parameters else "y"], {}),
    ]
    constants = {"two": np.array(2.0), "eps": np.array(1e-5)}
    if square == "Mul":
        del constants["two"]
    if with_parameters:
        nodes += [("Mul", ["n", "g"], ["p"], {}), ("Add", ["p", "b"], ["y"], {})]
        constants |= {"g": w(5), "b": w(5)}
    model = check(nodes, (6, 5), constants, opset=13)
    assert [type(layer).__name__ for layer in model.layers] == ["Input", "LayerNorm"]


def test_normalizations():
    one("LayerNormalization", (6, 5), w(5), w(5), tolerance=1e-6)
    one("LayerNormalization", (6, 5), w(6, 5), axis=1, tolerance=1e-6)
    one("InstanceNormalization", (3, 5, 4), w(3), w(3), tolerance=1e-6)
    one("LRN", (6, 5, 4), size=3, alpha=0.1, beta=0.6, bias=1.5, by=runtime)
    one("LRN", (6, 5, 4), size=5, by=runtime)
    for size in (2, 4):  # the evaluator is wrong, and ONNX Runtime refuses it: the standard's formula

        def formula(proto, x, size=size):
            before, after = (size - 1) // 2, size // 2
            squares = [(x[:, max(0, c - before) : c + after + 1] ** 2).sum(1) for c in range(x.shape[1])]
            return [x / (1.5 + 0.7 / size * np.stack(squares, 1)) ** 0.6]

        one("LRN", (6, 5, 4), size=size, alpha=0.7, beta=0.6, bias=1.5, by=formula)


@pytest.mark.parametrize("op", ("Add", "Sub", "Mul", "Sum", "Mean", "Max", "Min"))
@pytest.mark.parametrize("shape", ((4,), (3, 5, 4)))
def test_two_tensors(op, shape):
    check([("Tanh", ["x"], ["t"], {}), (op, ["x", "t"], ["y"], {})], shape)


def test_quotients_roots_and_powers():
    positive = ("Exp", ["x"], ["e"], {})
    check([positive, ("Div", ["x", "e"], ["y"], {})], (3, 4))
    check([positive, ("Div", ["c", "e"], ["y"], {})], (3, 4), {"c": w(3, 1)})
    check([positive, ("Sqrt", ["e"], ["s"], {}), ("Reciprocal", ["s"], ["y"], {})], (3, 4))
    for exponent in (0.7, -0.5, 2.0):
        check([positive, ("Pow", ["e", "p"], ["y"], {})], (3, 4), {"p": np.array(exponent)})
    one("Pow", (3, 4), np.array(3.0))


HEAD = """<ir_version: 8, opset_import: ["": 17, "own": 1]>
    g (double[N, 3] x) => (double[N, 3] y) { h = own.f <al = 0.25> (x) y = own.f <al = 0.5> (h) }
    <domain: "own", opset_import: ["": VERSION, "own": 1]> """
ONCE = """f <al> (a) => (b) { r = LeakyRelu <alpha: float = @al> (a) b = Neg(r) }"""
TWICE = """f <al> (a) => (c) { b = own.once <al: float = @al> (a) c = own.once <al: float = @al> (b) }
    <domain: "own", opset_import: ["": 17]>""" + ONCE.replace("f ", "once ", 1)


@pytest.mark.parametrize("text, version, alphas", ((TWICE, 17, (0.25, 0.25, 0.5, 0.5)), (ONCE, 18, (0.25, 0.5))))
def test_functions_of_the_file(text, version, alphas):
    x = RNG.normal(size=(5, 3))
    wanted = x
    for alpha in alphas:
        wanted = -np.where(wanted > 0, wanted, alpha * wanted)
    proto = onnx.parser.parse_model(HEAD.replace("VERSION", str(version)) + text)
    np.testing.assert_allclose(lrpfast.from_onnx(proto).predict(x, precision="float64"), wanted, rtol=1e-7)
    # `import onnx` alone leaves out what puts functions in place
    code = "import sys, lrpfast; print(lrpfast.from_onnx(sys.stdin.buffer.read()).output_shape)"
    found = subprocess.run(
        [sys.executable, "-c", code], input=proto.SerializeToString(), capture_output=True, check=True
    )
    assert found.stdout.split() == [b"(3,)"]


def test_if_by_shapes():
    """As PyTorch writes squeeze(2): the axis goes if it is of size 1."""
    out = [helper.make_tensor_value_info("o", TensorProto.DOUBLE, None)]
    one_axis = numpy_helper.from_array(i64(2), "axis")
    squeeze = helper.make_graph([helper.make_node("Squeeze", ["x", "axis"], ["o"])], "then", [], out, [one_axis])
    twice = helper.make_graph([helper.make_node("Add", ["x", "x"], ["o"])], "else", [], out)
    nodes = [
        ("Shape", ["x"], ["s"], {}),
        ("Gather", ["s", "two"], ["n"], {"axis": 0}),
        ("Equal", ["n", "one"], ["c"], {}),
        ("If", ["c"], ["i"], {"then_branch": squeeze, "else_branch": twice}),
        ("Tanh", ["i"], ["y"], {}),
    ]
    for shape in ((3, 1, 4), (3, 2, 4)):
        check(nodes, shape, {"two": i64(2), "one": i64(1)})
    with pytest.raises(lrpfast.UnsupportedLayerError, match="If.*chooses"):
        lrpfast.from_onnx(graph([("If", ["x"], ["y"], nodes[3][3])], (3, 1, 4)))
    with pytest.raises(lrpfast.ModelFormatError, match="missing"):
        lrpfast.from_onnx(graph([("If", ["c"], ["y"], {})], (4,), {"c": np.array(True)}))


def test_one_number_for_each_sample():
    one("Gather", (7,), np.array(2, np.int64), axis=1)
    one("MatMul", (5,), w(5))
    one("ReduceMean", (5, 4), i64(1, 2), keepdims=0, opset=18)
    one("Squeeze", (1,), i64(1))
    nodes = [("ReduceMax", ["x", "a"], ["m"], {"keepdims": 0}), ("Tanh", ["m"], ["t"], {})]
    check(
        [*nodes, ("Unsqueeze", ["t", "i"], ["u"], {}), ("Mul", ["x", "u"], ["y"], {})], (4,), {"a": i64(1), "i": i64(1)}
    )


@pytest.mark.parametrize("op", ("Add", "Sub", "Mul", "Div"))
@pytest.mark.parametrize("shape", ((), (4,), (3, 1, 1), (1, 3, 1, 1), (3, 5, 4), (5, 1)))
def test_constants(op, shape):
    one(op, (3, 5, 4), w(*shape))
    if op != "Div":
        check([(op, ["c", "x"], ["y"], {})], (3, 5, 4), {"c": w(*shape)})


@pytest.mark.parametrize("op", ("Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum"))
@pytest.mark.parametrize(
    "shape, constant", (((1, 4), (3, 1)), ((1, 4), (1, 3, 1)), ((2, 1, 1), (1, 1, 3, 4)), ((3, 1), (4,)))
)
def test_an_input_is_stretched_to_a_constant(op, shape, constant):
    by = runtime if op == "Mean" else None
    check([(op, ["x", "c"], ["y"], {})], shape, {"c": w(*constant)}, by=by)
    if op in ("Add", "Sub", "Mul"):
        check([(op, ["c", "x"], ["y"], {})], shape, {"c": w(*constant)})


def test_constants_of_several_shapes_in_a_row():
    steps = [("Mul", ["x", "a"], ["p"], {}), ("Add", ["b", "p"], ["q"], {}), ("Sub", ["c", "q"], ["y"], {})]
    check(steps, (3, 4), {"a": w(3, 1), "b": w(4), "c": w(1, 3, 4)})
    check(steps, (1, 1), {"a": w(3, 1), "b": w(4), "c": w(2, 1, 1)[0]})
    check(steps, (3, 5, 4), {"a": w(3, 1, 1), "b": w(5, 4), "c": w()})


@pytest.mark.parametrize("op", ("Sub", "Div", "Add", "Mul", "Mean"))
def test_constants_made_of_a_shape(op):
    """As detectors make the places of their anchors."""
    places = [
        ("Relu", ["x"], ["h"], {}),
        ("Shape", ["h"], ["s"], {}),
        ("Gather", ["s", "one"], ["n"], {}),
        ("Range", ["one", "m", "one"], ["r"], {}),
        ("Add", ["n", "one"], ["m"], {}),
        ("Cast", ["r"], ["c"], {"to": TensorProto.DOUBLE}),
    ]
    nodes = [*places[:3], places[4], places[3], places[5]]
    check([*nodes, (op, ["h", "c"], ["y"], {})], (4,), {"one": np.array(1)})
    if op in ("Sub", "Add", "Mul"):
        check([*nodes, (op, ["c", "h"], ["y"], {})], (4,), {"one": np.array(1)})


def test_division_by_a_power_below_zero_is_no_normalization():
    nodes = [
        ("Mul", ["x", "x"], ["q"], {}),
        ("ReduceMean", ["q"], ["m"], {"axes": [-1]}),
        ("Add", ["m", "e"], ["a"], {}),
        ("Pow", ["a", "p"], ["r"], {}),
    ]
    for op, exponent, kinds in (("Div", -0.5, 0), ("Div", 0.5, 1), ("Mul", 0.5, 0), ("Mul", -0.5, 1)):
        constants = {"e": np.array(0.1), "p": np.array(exponent)}
        model = check([*nodes, (op, ["x", "r"], ["y"], {})], (3, 4), constants, opset=17)
        assert sum(isinstance(layer, lrpfast.layers.RMSNorm) for layer in model.layers) == kinds
        if op == "Mul":
            inverse = [*nodes, ("Reciprocal", ["r"], ["i"], {}), (op, ["x", "i"], ["y"], {})]
            model = check(inverse, (3, 4), constants, opset=17)
            assert sum(isinstance(layer, lrpfast.layers.RMSNorm) for layer in model.layers) == 1 - kinds


def test_squeeze_and_excitation():
    nodes = [
        ("Conv", ["x", "w"], ["c"], {}),
        ("GlobalAveragePool", ["c"], ["g"], {}),
        ("Conv", ["g", "v"], ["h"], {}),
        ("Sigmoid", ["h"], ["s"], {}),
        ("Mul", ["c", "s"], ["y"], {}),
    ]
    check(nodes, (3, 6, 5), {"w": w(4, 3, 3, 3), "v": w(4, 4, 1, 1)})


def test_concat_split_slice_gather():
    for axis in (1, 2, -1):
        check([("Tanh", ["x"], ["t"], {}), ("Concat", ["x", "t"], ["y"], {"axis": axis})], (4, 6, 5))
        check([("Split", ["x", "s"], ["y", "z"], {"axis": axis})], (4, 4, 4), {"s": i64(1, 3)}, outputs=("y", "z"))
        check([("Split", ["x"], ["y", "z"], {"axis": axis, "num_outputs": 2})], (4, 5, 5), outputs=("y", "z"))
        one("Slice", (4, 6, 5), i64(1), i64(3), i64(axis))
        one("Slice", (4, 6, 5), i64(-1), i64(-9), i64(axis), i64(-2))
        one("Slice", (4, 6, 5), i64(1), i64(9), i64(axis), i64(2))
        one("Gather", (4, 6, 5), i64(2, 0, 1, 1, -1), axis=axis)
        one("Gather", (4, 6, 5), np.array(2, np.int64), axis=axis)
    one("Gather", (7,), i64(2, 3), axis=1)


def test_constants_among_what_is_joined():
    """A transformer's class token: a constant, stretched over the batch."""
    nodes = [
        ("Shape", ["x"], ["s"], {"start": 0, "end": 1}),
        ("Concat", ["s", "rest"], ["t"], {"axis": 0}),
        ("Expand", ["token", "t"], ["e"], {}),
        ("Concat", ["e", "x", "e"], ["y"], {"axis": 1}),
    ]
    check(nodes, (6, 5), {"rest": i64(1, 5), "token": w(1, 1, 5)})
    check(nodes[:-1] + [("Concat", ["x", "e"], ["y"], {"axis": 1})], (6, 5), {"rest": i64(1, 5), "token": w(1, 1, 5)})


def test_pad():
    one("Pad", (3, 5, 4), i64(0, 0, 1, 2, 0, 0, 2, 0))
    one("Pad", (3, 5, 4), i64(0, 1, 1, 2, 0, 2, 2, 0))
    one("Pad", (3, 5, 4), i64(0, 0, -1, 2, 0, 0, 2, -1), by=runtime)
    one("Pad", (3, 5, 4), i64(0, 0, 1, 2, 0, 0, 2, 0), mode="reflect")
    one("Pad", (3, 5, 4), i64(1, 1), np.array(0.0), i64(3), opset=18)
    one("Pad", (3, 5, 4), i64(0, 0, 1, 2, 0, 0, 2, 0), np.array(-1.5))
    one("Pad", (3, 5, 4), i64(0, 1, 0, -1, 0, 0, 2, 0), np.array(2.0), by=runtime)
    one("Pad", (3, 5, 4), i64(0, 1, 1, 2, 0, 0, 2, 0), mode="edge")
    one("Pad", (3, 5, 4), i64(0, 0, 1, 2, 0, 0, 7, 0), mode="wrap", opset=19)
    one("Pad", (5,), i64(0, 1, 0, 2))


@pytest.mark.parametrize(
    "attributes, scales",
    [
        ({"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, (2, 3)),
        ({"mode": "nearest"}, (2, 2)),
        ({"mode": "nearest"}, (3, 1)),
        ({"mode": "nearest", "nearest_mode": "floor"}, (1.5, 2)),
        ({"mode": "nearest", "nearest_mode": "ceil"}, (2, 2)),
        ({"mode": "nearest"}, (0.5, 0.5)),
        ({"mode": "linear"}, (2, 2)),
        ({"mode": "linear"}, (3, 1)),
    ],
)
def test_resize(attributes, scales):
    one("Resize", (3, 4, 6), None, np.array([1, 1, *scales], np.float32), **attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"mode": "linear"},
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
        {"mode": "linear", "antialias": 1},
        {"mode": "cubic"},
        {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1},
        {"mode": "cubic", "coordinate_transformation_mode": "align_corners"},
        {"mode": "cubic", "antialias": 1},
    ],
)
def test_interpolation(attributes):
    """The evaluator keeps scales in float32; PyTorch's modules hold the same formulas to float64's rounding."""
    attributes = {**attributes, "tolerance": 1e-5}
    for sizes in ((5, 4), (9, 3), (1, 6), (2, 13)):
        one("Resize", (3, 4, 6), None, None, i64(*sizes), axes=[2, 3], **attributes)
    one("Resize", (2, 3, 4, 3, 5), None, None, i64(3, 7, 6, 2), axes=[2, 3, 4, 5], **attributes)
    one("Resize", (4, 6), None, None, i64(5, 3), axes=[1, 2], **attributes)  # no axis is the channels'


@pytest.mark.parametrize("scales", ((1, 1, 2, 2), (1, 1, 1.5, 3), (1, 1, 0.6, 1)))
def test_resize_as_tensorflow_places_pixels(scales):
    """As tf2onnx writes UpSampling2D, which ONNX has in version 11 alone."""
    attributes = {"nearest_mode": "floor", "coordinate_transformation_mode": "tf_half_pixel_for_nn"}
    given = (np.zeros(0, np.float32), np.array(scales, np.float32))
    one("Resize", (2, 3, 4), *given, opset=11, by=runtime, mode="nearest", **attributes)


def test_resize_by_sizes_and_upsample():
    nodes = [
        ("Shape", ["x"], ["s"], {"start": 0, "end": 2}),
        ("Concat", ["s", "t"], ["u"], {"axis": 0}),
        ("Resize", ["x", "", "", "u"], ["y"], {}),
    ]
    check(nodes, (3, 4, 6), {"t": i64(8, 12)})
    one("Upsample", (3, 4, 6), np.array([1, 1, 2, 2], np.float32), opset=9, mode="nearest")
    scales = np.array([1, 1, 1.3, 0.6], np.float32)
    one("Upsample", (3, 4, 6), np.array([1, 1, 1.3, 2], np.float32), opset=9, mode="linear", by=runtime)
    one("Resize", (3, 4, 6), None, scales, mode="linear", by=runtime)
    one("Resize", (3, 4, 6), None, scales, coordinate_transformation_mode="half_pixel_symmetric", by=runtime)
    one("Resize", (3, 4, 6), None, None, i64(7, 7), axes=[2, 3], keep_aspect_ratio_policy="not_larger")
    one("Resize", (3, 4, 6), None, None, i64(7, 7), axes=[2, 3], keep_aspect_ratio_policy="not_smaller")


@pytest.mark.parametrize("target", ((0, -1), (-1, 60), (0, 15, 4), (0, 4, 15), (0, 3, 1, 5, 4), (0, 20, 3), (0, 3, 20)))
def test_reshape(target):
    one("Reshape", (3, 5, 4), i64(*target))
    nodes = [("Conv", ["x", "w"], ["c"], {}), ("Relu", ["c"], ["r"], {}), ("Reshape", ["r", "s"], ["y"], {})]
    check(nodes, (2, 5, 4), {"w": w(3, 2, 1, 1), "s": i64(*target)})


def test_shape_arithmetic():
    nodes = [
        ("Shape", ["x"], ["s"], {}),
        ("Gather", ["s", "zero"], ["n"], {}),
        ("Unsqueeze", ["n", "at"], ["u"], {}),
        ("Concat", ["u", "rest"], ["t"], {"axis": 0}),
        ("Reshape", ["x", "t"], ["y"], {}),
    ]
    check(nodes, (3, 5, 4), {"zero": np.array(0, np.int64), "at": i64(0), "rest": i64(-1)})


def test_flatten_squeeze_unsqueeze_transpose():
    one("Flatten", (3, 5, 4))
    one("Squeeze", (3, 1, 4, 1), i64(2, -1))
    one("Unsqueeze", (3, 5), i64(-1, 1))
    one("Transpose", (3, 5, 4), perm=[0, 2, 3, 1])
    one("Squeeze", (3, 1, 4), opset=11, axes=[2])


def test_flatten_after_a_convolution_feeds_a_dense_layer_without_moving():
    nodes = [
        ("Conv", ["x", "w"], ["c"], {}),
        ("Flatten", ["c"], ["f"], {}),
        ("Relu", ["f"], ["r"], {}),
        ("Gemm", ["r", "v", "b"], ["y"], {}),
    ]
    model = check(nodes, (2, 5, 4), {"w": w(3, 2, 2, 2), "v": w(36, 4), "b": w(4)})
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["Input", "Permute", "Conv", "Activation", "Flatten", "Dense"]


def test_a_vision_transformers_patches():
    nodes = [
        ("Conv", ["x", "w"], ["c"], {"strides": [2, 2]}),
        ("Reshape", ["c", "s"], ["r"], {}),
        ("Transpose", ["r"], ["t"], {"perm": [0, 2, 1]}),
        ("Add", ["t", "p"], ["a"], {}),
        ("MatMul", ["a", "v"], ["m"], {}),
        ("ReduceMean", ["m", "one"], ["y"], {"keepdims": 0}),
    ]
    constants = {"w": w(5, 3, 2, 2), "s": i64(0, 5, -1), "p": w(1, 12, 5), "v": w(5, 4), "one": i64(1)}
    model = check(nodes, (3, 8, 6), constants)
    assert [type(layer).__name__ for layer in model.layers].count("Permute") == 1


def test_shuffle():
    nodes = [
        ("Conv", ["x", "w"], ["c"], {}),
        ("Reshape", ["c", "a"], ["r"], {}),
        ("Transpose", ["r"], ["t"], {"perm": [0, 2, 1, 3, 4]}),
        ("Reshape", ["t", "b"], ["s"], {}),
        ("Conv", ["s", "v"], ["y"], {}),
    ]
    constants = {"w": w(6, 2, 1, 1), "a": i64(0, 2, 3, 5, 4), "b": i64(0, 6, 5, 4), "v": w(3, 6, 2, 2)}
    check(nodes, (2, 5, 4), constants)


@pytest.mark.parametrize("op", ("ReduceMean", "ReduceSum", "ReduceMax"))
@pytest.mark.parametrize("axes", ((1,), (2, 3), (-1,), (1, 3), (1, 2, 3), (2,)))
@pytest.mark.parametrize("keepdims", (0, 1))
def test_reductions(op, axes, keepdims):
    if not (len(axes) == 3 and not keepdims):
        one(op, (3, 5, 4), i64(*axes), keepdims=keepdims)
        nodes = [("Conv", ["x", "w"], ["c"], {}), (op, ["c", "a"], ["y"], {"keepdims": keepdims})]
        check(nodes, (2, 5, 4), {"w": w(3, 2, 1, 1), "a": i64(*axes)})


def test_stack_then_sum_is_a_sum():
    for op, layer in (("ReduceSum", "Add"), ("ReduceMean", "Average"), ("ReduceMax", "Maximum")):
        nodes = [
            ("Tanh", ["x"], ["t"], {}),
            ("Unsqueeze", ["x", "a"], ["u"], {}),
            ("Unsqueeze", ["t", "a"], ["v"], {}),
            ("Concat", ["u", "v"], ["c"], {"axis": -1}),
            (op, ["c", "a"], ["y"], {"keepdims": 0}),
        ]
        model = check(nodes, (3, 5), {"a": i64(-1)})
        assert [type(la).__name__ for la in model.layers] == ["Input", "Activation", layer]


def test_expand_and_tile():
    one("Expand", (3, 1, 4), i64(1, 1, 5, 1))
    one("Expand", (1, 5), i64(1, 4, 5))
    one("Tile", (3, 1, 4), i64(1, 1, 5, 2))


def test_constants_are_folded():
    nodes = [
        ("Constant", [], ["c"], {"value": numpy_helper.from_array(w(4, 5))}),
        ("Transpose", ["c"], ["t"], {}),
        ("Mul", ["t", "s"], ["m"], {}),
        ("MatMul", ["x", "m"], ["z"], {}),
        ("ConstantOfShape", ["n"], ["o"], {"value": numpy_helper.from_array(np.array([0.5]))}),
        ("Cast", ["o"], ["b"], {"to": TensorProto.DOUBLE}),
        ("Add", ["z", "b"], ["y"], {}),
    ]
    model = check(nodes, (5,), {"s": np.array(2.0), "n": i64(4)})
    assert [type(layer).__name__ for layer in model.layers] == ["Input", "Dense"]


def test_a_fixed_batch_is_any_batch():
    proto = graph([("Reshape", ["x", "s"], ["y"], {})], (3, 4), {"s": i64(1, 12)}, batch=1)
    model = lrpfast.from_onnx(proto)
    x = RNG.normal(size=(5, 3, 4))
    np.testing.assert_array_equal(model.predict(x, precision="float64"), x.reshape(5, 12))
