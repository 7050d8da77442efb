"""What transformers' files compute of constants, of masks and of positions, against the package onnx's evaluator."""

import numpy as np
import pytest

import lrpfast

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from test_readers_onnx_operators import check, graph  # noqa: E402

RNG = np.random.default_rng(0)
TABLE, IMAGE = RNG.normal(size=(1, 3, 4, 5)), (3, 8, 10)

#: of the constant "c": the nodes that compute "d" of it, which is added to the input
CONSTANTS = {
    "Resize": [("Resize", ["c", "", "", "sizes"], {"mode": "linear"})],
    "Resize by a scale": [("Resize", ["c", "", "scales"], {"mode": "cubic", "cubic_coeff_a": -0.75})],
    "Conv": [("Conv", ["c", "w", "b"], {"pads": [1, 1, 1, 1], "strides": [4, 4]}), ("GlobalAveragePool", ["e"], {})],
    "AveragePool": [("AveragePool", ["c"], {"kernel_shape": [4, 5]})],
    "MaxPool": [("MaxPool", ["c"], {"kernel_shape": [4, 5]})],
    "LayerNormalization": [("LayerNormalization", ["c", "gamma", "beta"], {"axis": 3}), ("GlobalMaxPool", ["e"], {})],
    "LayerNormalization of two axes": [
        ("LayerNormalization", ["c", "gammas"], {"axis": -2}),
        ("GlobalMaxPool", ["e"], {}),
    ],
    "InstanceNormalization": [("InstanceNormalization", ["c", "b", "b"], {}), ("GlobalMaxPool", ["e"], {})],
    "BatchNormalization": [("BatchNormalization", ["c", "b", "b", "b", "v"], {}), ("GlobalMaxPool", ["e"], {})],
    "Gelu": [("Gelu", ["c"], {}), ("GlobalMaxPool", ["e"], {})],
    "Elu": [("Elu", ["c"], {}), ("GlobalMaxPool", ["e"], {})],
}
ARRAYS = {
    **{"c": TABLE, "sizes": np.array([1, 3, 8, 10]), "scales": np.float32([1, 1, 2, 2])},
    **{"w": RNG.normal(size=(3, 3, 2, 2)), "b": RNG.normal(size=3), "v": np.full(3, 0.5)},
    **{"gamma": RNG.normal(size=5), "beta": RNG.normal(size=5), "gammas": RNG.normal(size=(4, 5))},
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_that_layers_compute(name):
    nodes, steps = [], CONSTANTS[name]
    for number, (op, inputs, attributes) in enumerate(steps):
        nodes.append((op, inputs, ["d" if number == len(steps) - 1 else "e"], attributes))
    used = {i for _, inputs, _ in steps for i in inputs}
    arrays = {key: array for key, array in ARRAYS.items() if key in used}
    tolerance = 1e-6 if name == "Gelu" else 1e-10  # the evaluator has a polynomial for erf
    check([*nodes, ("Add", ["x", "d"], ["y"], {})], IMAGE, arrays, tolerance=tolerance)


def test_constants_of_the_batchs_size():
    """A table that is repeated for every sample before it is normalized, and multiplied."""
    nodes = [
        ("Shape", ["x"], ["n"], {"start": 0, "end": 1}),
        ("Concat", ["n", "rest"], ["shape"], {"axis": 0}),
        ("Expand", ["t", "shape"], ["many"], {}),
        ("LayerNormalization", ["many", "gamma"], ["normed"], {}),
        ("MatMul", ["x", "normed"], ["y"], {}),
    ]
    arrays = {"t": RNG.normal(size=(1, 4, 5)), "rest": np.array([4, 5]), "gamma": RNG.normal(size=5)}
    check(nodes, (3, 4), arrays)


def test_products_with_several_matrices():
    several = RNG.normal(size=(2, 4, 5))
    check([("MatMul", ["x", "w"], ["y"], {})], (2, 3, 4), {"w": several})
    check([("MatMul", ["w", "x"], ["y"], {})], (2, 5, 3), {"w": several})
    check(
        [("MatMul", ["x", "w"], ["z"], {}), ("Add", ["z", "b"], ["y"], {})],
        (2, 3, 4),
        {"w": several, "b": ARRAYS["beta"]},
    )
    with pytest.raises(lrpfast.UnsupportedLayerError, match="constant of shape"):
        lrpfast.from_onnx(graph([("MatMul", ["x", "w"], ["y"], {})], (3, 4), {"w": several}))


def test_gather_elements_at_constant_places():
    index = RNG.integers(-5, 5, size=(1, 3, 6))
    nodes = [
        ("Shape", ["x"], ["n"], {"start": 0, "end": 1}),
        ("Concat", ["n", "rest"], ["shape"], {"axis": 0}),
        ("Expand", ["index", "shape"], ["many"], {}),
        ("GatherElements", ["x", "many"], ["y"], {"axis": 2}),
    ]
    check(nodes, (3, 5), {"index": index, "rest": np.array([3, 6])})
    for places, error in ((index + 9, lrpfast.ModelFormatError), (index[0], lrpfast.ModelFormatError)):
        wrong = [nodes[0], nodes[1], ("Expand", ["index", "shape"], ["many"], {}), nodes[3]]
        arrays = {"index": places, "rest": np.array([3, 6])}
        if places.ndim == 2:
            wrong, arrays = [("GatherElements", ["x", "index"], ["y"], {"axis": 1})], {"index": places}
        with pytest.raises(error, match="indices"):
            lrpfast.from_onnx(graph(wrong, (3, 5), arrays))


def test_masks_of_queries_and_keys_multiply():
    """DeBERTa's: mask · maskᵀ, cast to truths."""
    nodes = [
        helper.make_node("Unsqueeze", ["mask", "one"], ["keys"]),
        helper.make_node("Unsqueeze", ["mask", "two"], ["queries"]),
        helper.make_node("Mul", ["keys", "queries"], ["both"]),
        helper.make_node("Cast", ["both"], ["seen"], to=TensorProto.BOOL),
        helper.make_node("Gather", ["table", "ids"], ["v"]),
        helper.make_node("Transpose", ["v"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["v", "t"], ["s"]),
        helper.make_node("Where", ["seen", "s", "low"], ["hidden"]),
        helper.make_node("Softmax", ["hidden"], ["weights"]),
        helper.make_node("MatMul", ["weights", "v"], ["y"]),
    ]
    arrays = {"one": np.array([1]), "two": np.array([2]), "table": RNG.normal(size=(7, 4)), "low": np.array(-1e9)}
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["N", 3]) for n in ("ids", "mask")]
    end = helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)
    made = [numpy_helper.from_array(a, key) for key, a in arrays.items()]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", inputs, [end], made), opset_imports=[helper.make_opsetid("", 20)], ir_version=8
    )
    x = [np.array([[1, 2, 3], [4, 5, 6]]), np.array([[1, 1, 1], [1, 1, 0]])]
    (wanted,) = ReferenceEvaluator(proto).run(None, {"ids": x[0], "mask": x[1]})
    model = lrpfast.from_onnx(proto)
    got = model.predict(x, precision="float64")
    seen = x[1][:, :, None] != 0  # where a query is padding, the file has a mean over all keys, lrpfast nothing
    np.testing.assert_allclose(got * seen, wanted * seen, atol=1e-12)
    relevance = lrpfast.Analyzer(model, "attn_lrp", precision="float64", target=0).analyze(x)
    assert relevance[0][1, 2] == 0 and not relevance[1].any()


def test_a_constant_that_takes_minutes_is_refused():
    nodes = [
        ("Expand", ["c", "shape"], ["big"], {}),
        ("AveragePool", ["big"], ["d"], {"kernel_shape": [900, 900]}),
        ("GlobalAveragePool", ["d"], ["e"], {}),
        ("Add", ["x", "e"], ["y"], {}),
    ]
    arrays = {"c": np.float32([[[[1.0]]]]), "shape": np.array([1, 1, 1800, 1800])}
    with pytest.raises(lrpfast.LrpfastError, match="products|memory|tables"):
        lrpfast.from_onnx(graph(nodes, (1, 2, 2), arrays))
