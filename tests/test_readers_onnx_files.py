"""ONNX files as exporters write them: what they predict, their names, and every obstacle of a file at once."""

import contextlib
import warnings
from pathlib import Path

import numpy as np
import pytest

import lrpfast

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, parser  # noqa: E402

from test_readers_onnx_operators import check, graph, i64, runtime, w  # noqa: E402

DATA = Path(__file__).parent / "data"
FILES = ("groupnorm_opset21", "skl2onnx_mlp_classifier", "tf2onnx_embedding", "tf2onnx_upsample")


@pytest.mark.parametrize("name", FILES)
def test_files_of_exporters(name):
    model, figures = lrpfast.load(DATA / f"{name}.onnx"), np.load(DATA / f"{name}.onnx.npz")
    y = model.predict(figures["x"], precision="float64")
    np.testing.assert_allclose(y, figures["y"], rtol=0, atol=1e-6 * max(1, np.abs(figures["y"]).max()))
    assert np.isfinite(lrpfast.Analyzer(model, "epsilon", target=0).analyze(figures["x"])).all()


def test_a_quantized_file_is_what_it_approximates():
    """Limits count, also where the exporter left out a ReLU that they are; rounding does not, which a warning says."""
    with pytest.warns(lrpfast.ApproximationWarning, match="rounding"):
        model = lrpfast.load(DATA / "quantized_qdq.onnx")
    figures = np.load(DATA / "quantized_qdq.onnx.npz")
    y = model.predict(figures["x"])
    assert 0 < np.abs(y - figures["y"]).max() < 0.01 * np.abs(figures["y"]).max()
    assert any(layer.function == "relu" for layer in model.layers if isinstance(layer, lrpfast.layers.Activation))


def test_quantized_weights_are_constants():
    for axis, shape in ((1, (4,)), (0, (5,))):
        constants = {
            "q": np.arange(-10, 10, dtype=np.int8).reshape(5, 4),
            "s": np.linspace(0.1, 0.4, shape[0]).astype(np.float32),
            "z": np.arange(shape[0], dtype=np.int8),
        }
        nodes = [
            ("DequantizeLinear", ["q", "s", "z"], ["d"], {"axis": axis}),
            ("Cast", ["d"], ["w"], {"to": TensorProto.DOUBLE}),
            ("MatMul", ["x", "w"], ["y"], {}),
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check(nodes, (5,), constants, tolerance=1e-6)


def test_outputs_and_inputs_have_the_names_of_the_file():
    """Whatever the nodes are called, also where two outputs are one value."""
    nodes = [
        ("Relu", ["x"], ["inner"], {"name": "second"}),
        ("Gemm", ["inner", "w"], ["first"], {"name": "node_linear"}),
        ("Tanh", ["first"], ["second"], {"name": "first"}),
        ("Identity", ["second"], ["third"], {"name": "a"}),
    ]
    proto = graph(nodes, (4,), {"w": w(4, 3)}, outputs=("first", "second", "third"))
    model = lrpfast.from_onnx(proto)
    assert [model.nodes[i].name for i in model.outputs] == ["first", "second", "third"]
    assert [model.nodes[i].name for i in model.inputs] == ["x"]
    x = np.random.default_rng(1).normal(size=(2, 4))
    for name in ("first", "second", "third"):
        assert np.isfinite(lrpfast.Analyzer(model, "epsilon", target={name: 1}).analyze(x)).all()
        lrpfast.Analyzer(model, "epsilon", start=name).analyze(x)


def test_every_obstacle_is_named_at_once():
    """Grouped by reason; what a user knows by name comes first; shapes inside lrpfast are not shown."""
    nodes = [
        ("Softmax", ["x"], ["t"], {"axis": 0, "name": "turn"}),
        ("LSTM", ["x", "w", "r"], ["l"], {"hidden_size": 3, "name": "lstm"}),
        ("Floor", ["x"], ["f"], {"name": "down"}),
        ("Floor", ["x"], ["g"], {"name": "down_too"}),
        ("Erf", ["g"], ["e"], {"name": "erf"}),
        ("Squeeze", ["e", "axes"], ["y"], {"name": "end"}),
    ]
    constants = {"w": w(1, 12, 5), "r": w(1, 12, 3), "axes": i64(0)}
    with pytest.raises(lrpfast.UnsupportedLayerError) as caught:
        lrpfast.from_onnx(
            graph([*nodes, ("Sum", ["f", "l", "t", "y"], ["z"], {"name": "all"})], (4, 5), constants, outputs=("z",))
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "4 nodes are not read:" or lines[0] == "5 nodes are not read:"
    assert "LSTM" in lines[1] and "'lstm' (2 of 7)" in lines[1] and "as if they were time steps" in lines[1]
    assert any("'turn'" in line and "batch" in line for line in lines)
    assert any("2 nodes Floor 'down' (3 of 7), 'down_too' (4 of 7)" in line for line in lines) or any(
        "'down_too' (4 of 7)" in line for line in lines
    )
    assert any("'erf'" in line for line in lines)
    assert "7919" not in str(caught.value) and sum("These work" in line for line in lines) == 1


ROWS = {
    "tf2onnx": [("MatMul", ["f", "w"], ["g"], {}), ("Add", ["g", "b"], ["h"], {})],
    "gemm": [("Gemm", ["f", "w", "b"], ["h"], {})],
    "softmax": [("MatMul", ["f", "w"], ["g"], {}), ("Softmax", ["g"], ["h"], {"axis": 1})],
    "norm": [("MatMul", ["f", "w"], ["g"], {}), ("LayerNormalization", ["g", "b"], ["h"], {"axis": 1})],
    "two": [("Gemm", ["f", "w", "c"], ["g"], {}), ("Gelu", ["g"], ["k"], {}), ("Mul", ["c", "k"], ["h"], {})],
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_joined_with_the_batch(case):
    """Dense layers on three axes as tf2onnx writes them: Reshape, MatMul, Reshape."""
    nodes = [("Reshape", ["x", "into"], ["f"], {}), *ROWS[case], ("Reshape", ["h", "back"], ["y"], {})]
    constants = {"into": i64(-1, 4), "back": i64(-1, 5, 3), "w": w(4, 3), "b": w(3), "c": w(1, 3)}
    check(nodes, (5, 4), constants, by=runtime)


@pytest.mark.parametrize("node", (("Softmax", ["g"], {"axis": -2}), ("MatMul", ["g", "v"], {})))
def test_rows_are_not_taken_for_the_samples_axes(node):
    op, inputs, attributes = node
    nodes = [
        ("Reshape", ["x", "into"], ["f"], {}),
        ("MatMul", ["f", "w"], ["g"], {}),
        (op, inputs, ["h"], attributes),
        ("Reshape", ["h", "back"], ["y"], {}),
    ]
    constants = {"into": i64(-1, 4), "back": i64(-1, 5, 3), "w": w(4, 3), "v": w(1, 3, 3)}
    with pytest.raises(lrpfast.UnsupportedLayerError):
        lrpfast.from_onnx(graph(nodes, (5, 4), constants))


def test_rows_that_mix_samples_are_refused():
    for shape, added in ((i64(-1, 10), w(1)), (i64(-1, 4), w(5, 3))):
        nodes = [
            ("Reshape", ["x", "into"], ["f"], {}),
            ("MatMul", ["f", "w"], ["g"], {}),
            ("Add", ["g", "b"], ["h"], {}),
            ("ReduceMean", ["h", "axes"], ["y"], {}),
        ]
        constants = {"into": shape, "w": w(int(shape[1]), 3), "b": added, "axes": i64(1)}
        with pytest.raises((lrpfast.UnsupportedLayerError, lrpfast.ModelFormatError)):
            lrpfast.from_onnx(graph(nodes, (5, 4), constants))


@pytest.mark.parametrize("opset,size", ((18, 2), (21, 6)))
def test_group_normalization(opset, size):
    node = ("GroupNormalization", ["x", "s", "b"], ["y"], {"num_groups": 2, "epsilon": 1e-3})
    for shape in ((6, 5), (6, 4, 3)):
        check([node], shape, {"s": w(size), "b": w(size)}, opset, by=runtime, tolerance=1e-5)


@pytest.mark.parametrize("op", ("L1", "L2", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"))
@pytest.mark.parametrize("keepdims", (0, 1))
def test_reductions(op, keepdims):
    for axes in ((1,), (3,), (2, 3), (1, 3)):
        check([(f"Reduce{op}", ["x", "axes"], ["y"], {"keepdims": keepdims})], (3, 4, 5), {"axes": i64(*axes)}, 18)
    check([(f"Reduce{op}", ["x"], ["y"], {"noop_with_empty_axes": 1, "keepdims": keepdims})], (3, 4), {}, 18) if op in (
        "Max",
        "Mean",
        "Min",
        "Sum",
        "Prod",
    ) else None


@pytest.mark.parametrize("alpha", (1.0, 1.5, -0.5))
def test_swish(alpha):
    x = np.random.default_rng(2).normal(size=(3, 4))
    y = lrpfast.from_onnx(graph([("Swish", ["x"], ["y"], {"alpha": alpha})], (4,), opset=24)).predict(x)
    np.testing.assert_allclose(y, x / (1 + np.exp(-alpha * x)), rtol=1e-6)


CLASSIC = {
    "scaler": [("Scaler", {"offset": [1.0, 2.0, 3.0], "scale": [0.5, 2.0, -1.0]})],
    "one scale": [("Scaler", {"offset": [1.0], "scale": [0.5]})],
    "l1": [("Normalizer", {"norm": "L1"})],
    "l2": [("Normalizer", {"norm": "L2"})],
    "max": [("Normalizer", {"norm": "MAX"})],
    "regressor": [("LinearRegressor", {"coefficients": [1.0, -2.0, 0.5, 3.0, 1.0, 2.0], "intercepts": [0.1, 0.2],
                                       "targets": 2})],
}  # fmt: skip


@pytest.mark.parametrize("case", CLASSIC)
def test_operators_of_scikit_learn(case):
    ((op, attributes),) = CLASSIC[case]
    proto = scikit([helper.make_node(op, ["x"], ["y"], domain="ai.onnx.ml", **attributes)])
    against_runtime(proto, "y")


@pytest.mark.parametrize("after", ("NONE", "LOGISTIC", "SOFTMAX"))
@pytest.mark.parametrize("names", ("ints", "strings"))
def test_a_linear_classifier_without_its_label(after, names):
    labels = {"ints": [3, 5], "strings": ["no", "yes"]}[names]
    node = helper.make_node(
        "LinearClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml", post_transform=after,
        coefficients=[1.0, -2.0, 0.5, -1.0, 2.0, -0.5], intercepts=[0.1, -0.1], **{f"classlabels_{names}": labels},
    )  # fmt: skip
    last = helper.make_node("Normalizer", ["scores"], ["y"], domain="ai.onnx.ml", norm="L1")
    kind = TensorProto.INT64 if names == "ints" else TensorProto.STRING
    model = against_runtime(scikit([node, last], helper.make_tensor_value_info("label", kind, [None])), "y")
    assert model.output_shape == (2,) and model.nodes[model.outputs[0]].name == "y"
    zipped = helper.make_node("ZipMap", ["scores"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[3, 5])
    model = lrpfast.from_onnx(scikit([node, zipped], helper.make_tensor_value_info("label", kind, [None])))
    assert model.nodes[model.outputs[0]].name == "y"


@pytest.mark.parametrize("op", ("TreeEnsembleRegressor", "TreeEnsembleClassifier", "SVMRegressor"))
def test_models_without_layers(op):
    """Said as such, without a list of operators that would help nobody."""
    proto = scikit([helper.make_node(op, ["x"], ["y"], domain="ai.onnx.ml")])
    with pytest.raises(lrpfast.UnsupportedLayerError, match="decision trees|support vector machine") as caught:
        lrpfast.from_onnx(proto)
    assert "These work" not in str(caught.value)


def scikit(nodes, *outputs):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [*outputs, y]), opset_imports=imports, ir_version=8)


def against_runtime(proto, name):
    onnxruntime = pytest.importorskip("onnxruntime")
    x = np.random.default_rng(3).normal(size=(6, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run([name], {"x": x})
    model = lrpfast.from_onnx(proto)
    np.testing.assert_allclose(model.predict(x), y, rtol=1e-5, atol=1e-6)
    return model


def test_a_float_input_looks_up_rows_of_a_table():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 5] x) => (float[N, 5, 3] y)
        { i = Cast <to = 6> (x) y = Gather(w, i) }"""
    proto = parser.parse_model(text)
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(table, "w"))
    x = np.array([[0, 1, 2, 3, 1.0]])
    np.testing.assert_array_equal(lrpfast.from_onnx(proto).predict(x), table[x.astype(int)])
    with contextlib.suppress(lrpfast.InputError):  # what is no row of it is not cut to one
        assert not np.array_equal(lrpfast.from_onnx(proto).predict(x + 0.5), table[x.astype(int)])
        raise AssertionError
    proto.graph.node[0].op_type, proto.graph.node[0].input[0] = "Cast", "r"
    proto.graph.node.insert(0, helper.make_node("Relu", ["x"], ["r"]))
    with pytest.raises(lrpfast.UnsupportedLayerError, match="rounds it"):
        lrpfast.from_onnx(proto)


def test_a_loop_of_a_known_number_of_rounds_is_unrolled():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x) => (float[N, 3] y) <int64 n = {3}> {
        y = Loop(n, , x) <body = b (int64 i, bool d, float[N, 3] a) => (bool e, float[N, 3] o) {
            e = Identity(d) f = Cast <to = 1> (i) t = Tanh(a) o = Add(t, f) }> }"""
    proto = parser.parse_model(text)
    x = np.random.default_rng(4).normal(size=(2, 3))
    y = x
    for i in range(3):
        y = np.tanh(y) + i
    np.testing.assert_allclose(lrpfast.from_onnx(proto).predict(x), y, rtol=1e-5)


EINSUMS = {
    "dense": ("nij,jk->nik", (5, 4), (4, 3)),
    "left": ("kj,nij->nki", (5, 4), (3, 4)),
    "heads": ("nij,jhk->nihk", (5, 4), (4, 2, 3)),
    "two axes": ("nihk,hkj->nij", (5, 2, 3), (2, 3, 4)),
    "scale": ("nij,j->nji", (5, 4), (4,)),
    "sums": ("nij,jk->nk", (5, 4), (4, 3)),
}


@pytest.mark.parametrize("case", EINSUMS)
def test_einsum_with_a_constant(case):
    equation, shape, constant = EINSUMS[case]
    inputs = ["x", "c"] if equation.startswith("n") else ["c", "x"]
    check([("Einsum", inputs, ["y"], {"equation": equation})], shape, {"c": w(*constant)}, by=runtime)


@pytest.mark.parametrize("equation", ("nij,nkj->nik", "nij,nkj->nki", "nij,nij->nji", "nij,nij->nij"))
def test_einsum_of_two_tensors(equation):
    nodes = [("Tanh", ["x"], ["t"], {}), ("Einsum", ["x", "t"], ["y"], {"equation": equation})]
    check(nodes, (5, 4), by=runtime)


@pytest.mark.parametrize("equation", ("nij->nji", "nij->nj", "nij->n"))
def test_einsum_of_one_tensor(equation):
    check([("Einsum", ["x"], ["y"], {"equation": equation})], (5, 4), by=runtime)


def test_where_by_a_mask():
    mask = np.array([[True, False, True], [False, False, True]])
    for inputs in (["m", "x", "c"], ["m", "c", "x"], ["m", "x", "t"]):
        nodes = [("Tanh", ["x"], ["t"], {}), ("Greater", ["k", "l"], ["m"], {}), ("Where", inputs, ["y"], {})]
        constants = {"k": mask.astype(float), "l": np.array(0.5), "c": w(3)}
        check(nodes, (2, 3), constants)


def test_a_fixed_axis_is_cut_though_others_are_open():
    nodes = [
        ("Slice", ["x", "starts", "ends", "axes"], ["s"], {}),
        ("Split", ["x"], ["a", "b"], {"axis": 1, "num_outputs": 2}),
        ("Sum", ["s", "a", "b"], ["y"], {}),
    ]
    proto = graph(nodes, (4, None, None), {"starts": i64(1), "ends": i64(3), "axes": i64(1)})
    x = np.random.default_rng(5).normal(size=(2, 4, 3, 5))
    np.testing.assert_allclose(lrpfast.from_onnx(proto).predict(x), x[:, 1:3] + x[:, :2] + x[:, 2:], rtol=1e-6)


@pytest.mark.parametrize("p", (1, 2))
def test_lp_normalization(p):
    for axis in (1, -1):
        check([("LpNormalization", ["x"], ["y"], {"p": p, "axis": axis})], (3, 4), by=runtime)


def test_inputs_that_are_not_read_are_obstacles_beside_the_nodes():
    """A rate of no axes, batches of two sizes, and a layer inside an If that the rate decides."""
    onnx_parser = pytest.importorskip("onnx.parser")
    proto = onnx_parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18]> g (int64 sr, float[2, 3] state, float[N, 3] x) => (float[N, 3] y)
        <int64 limit = {16000}> {
            c = Equal (sr, limit)
            y = If (c) <then_branch = a () => (float[N, 3] u) { t = Det (x) u = Identity (t) },
                        else_branch = b () => (float[N, 3] v) { v = Floor (x) }>
        }"""
    )
    with pytest.raises(lrpfast.UnsupportedLayerError) as caught:
        lrpfast.from_onnx(proto)
    text = str(caught.value)
    assert text.splitlines()[0] == "4 nodes and inputs are not read:"
    assert "- input 'sr': has 0 axes" in text and "- inputs 'state', 'x': begin with axes of" in text
    assert "Export the model with the batch as the first axis of each" in text
    assert "- node Det 't' (1 of 2):" in text and "- node Floor 'v' (1 of 1):" in text


def test_a_group_names_its_reason_once():
    nodes = [
        ("Gather", ["x", "i"], ["a"], {"axis": 0, "name": "one"}),
        ("Gather", ["x", "i"], ["b"], {"axis": 0, "name": "two"}),
        ("Add", ["a", "b"], ["y"], {"name": "sum"}),
    ]
    with pytest.raises(lrpfast.UnsupportedLayerError) as caught:
        lrpfast.from_onnx(graph(nodes, (4, 5), {"i": i64(0)}))
    assert "- 2 nodes Gather 'one' (1 of 3), 'two' (2 of 3): works along the batch axis" in str(caught.value)
