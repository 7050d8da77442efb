"""ONNX operators that choose by what the model computes, that take logarithms, and that cut or add up by constants."""

import numpy as np
import pytest

import lrpfast

onnx = pytest.importorskip("onnx")
from onnx import parser, reference  # noqa: E402

from test_readers_onnx_operators import check, graph, i64, one, runtime  # noqa: E402

TANH = ("Tanh", ["x"], ["t"], {})
LIMITS = {"c": np.array(0.2), "d": np.array(-0.2), "k": np.linspace(-1, 1, 6).reshape(2, 3)}


@pytest.mark.parametrize("op", ("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal"))
@pytest.mark.parametrize("operands", (["x", "c"], ["c", "x"], ["x", "k"], ["x", "t"]), ids=" ".join)
def test_where_by_a_comparison(op, operands):
    for branches in (["t", "x"], ["x", "k"], ["d", "t"]):
        nodes = [TANH, (op, operands, ["m"], {}), ("Where", ["m", *branches], ["y"], {})]
        check(nodes, (2, 3), {name: LIMITS[name] for name in {*operands, *branches} & {*LIMITS}})


@pytest.mark.parametrize("op", ("And", "Or", "Xor"))
def test_conditions_joined(op):
    mask = np.array([[True, False, True]])
    for second in ("n", "mask"):
        nodes = [
            *(TANH, ("Greater", ["x", "c"], ["m"], {}), ("Less", ["x", "d"], ["n"], {})),
            *((op, ["m", second], ["o"], {}), ("Not", ["o"], ["p"], {}), ("Where", ["p", "t", "x"], ["y"], {})),
        ]
        check(nodes, (2, 3), {"c": LIMITS["d"], "d": LIMITS["c"], "mask": mask})


def test_a_comparison_that_is_moved_or_cast():
    largest, limit = ("ReduceMax", ["x", "last"], ["r"], {"keepdims": 0}), ("Greater", ["r", "c"], ["m"], {})
    moved = ("Unsqueeze", ["m", "last"], ["u"], {})
    zero = np.array(0.0)
    check([largest, limit, moved, ("Where", ["u", "x", "z"], ["y"], {})], (2, 3), LIMITS | {"last": i64(2), "z": zero})
    nodes = [("Greater", ["x", "c"], ["m"], {}), ("Cast", ["m"], ["f"], {"to": 11}), ("Mul", ["f", "x"], ["y"], {})]
    check(nodes, (2, 3), LIMITS)


def test_all_relevance_goes_to_what_is_chosen():
    nodes = [TANH, ("Greater", ["x", "c"], ["m"], {}), ("Where", ["m", "t", "x"], ["y"], {})]
    model = lrpfast.from_onnx(graph(nodes, (4,), LIMITS))
    x = np.array([[-1.0, 0.1, 0.5, 2.0]])
    start = np.array([[1.0, 2.0, 3.0, 4.0]])
    analyzer = lrpfast.Analyzer(model, "epsilon", precision="float64")
    np.testing.assert_allclose(analyzer.analyze(x, start), start)
    assert [type(layer).__name__ for layer in model.layers].count("Where") == 1


@pytest.mark.parametrize(
    "nodes, words",
    [
        ([("Greater", ["x", "c"], ["y"], {})], ("output 'y'", "comparison")),
        (
            [("Greater", ["x", "c"], ["m"], {}), ("Cast", ["m"], ["f"], {"to": 11}), ("Add", ["f", "x"], ["y"], {})],
            ("(Add, 3 of 3)", "comparison", "step"),
        ),
        (
            [("Greater", ["x", "inf"], ["m"], {}), ("Where", ["m", "x", "c"], ["y"], {})],
            ("(Greater, 1 of 2)", "infinite"),
        ),
        (
            [("Greater", ["x", "c"], ["m"], {}), ("Where", ["m", "x", "inf"], ["y"], {})],
            ("(Where, 2 of 2)", "infinite"),
        ),
    ],
)
def test_comparisons_that_cannot_be_right(nodes, words):
    with pytest.raises(lrpfast.UnsupportedLayerError) as caught:
        lrpfast.from_onnx(graph(nodes, (4,), {"c": LIMITS["c"], "inf": np.array(np.inf)}))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("op", ("ReduceLogSum", "ReduceLogSumExp"))
@pytest.mark.parametrize("axes, keepdims", (((1,), 1), ((2,), 0), ((-1, 1), 0)))
def test_logarithms_of_sums(op, axes, keepdims):
    nodes = [("Abs", ["x"], ["a"], {}), (op, ["a", "axes"], ["y"], {"keepdims": keepdims})]
    check(nodes, (3, 4), {"axes": i64(*axes)})


LARGEST = ("ReduceMax", ["x", "axes"], ["m"], {})
LESS = [LARGEST, ("Sub", ["x", "m"], ["d"], {}), ("Exp", ["d"], ["e"], {})]
FINITE = [("Abs", ["m"], ["a"], {}), ("Equal", ["a", "inf"], ["i"], {}), ("Where", ["i", "zero", "m"], ["w"], {})]
WRITTEN_OUT = {
    "sum": [("Exp", ["x"], ["e"], {}), ("ReduceSum", ["e", "axes"], ["s"], {}), ("Log", ["s"], ["y"], {})],
    "ReduceLogSum": [("Exp", ["x"], ["e"], {}), ("ReduceLogSum", ["e", "axes"], ["y"], {"keepdims": 0})],
    "less the largest": [
        *(*LESS, ("ReduceSum", ["e", "axes"], ["s"], {}), ("Log", ["s"], ["l"], {}), ("Add", ["l", "m"], ["y"], {}))
    ],
    "squeezed": [
        *(*LESS, ("ReduceSum", ["e", "axes"], ["s"], {"keepdims": 0}), ("Log", ["s"], ["l"], {})),
        *(("Squeeze", ["m", "axes"], ["n"], {}), ("Add", ["n", "l"], ["y"], {})),
    ],
    "reshaped, finite": [
        *(LARGEST, *FINITE, ("Sub", ["x", "w"], ["d"], {}), ("Exp", ["d"], ["e"], {})),
        *(("ReduceSum", ["e", "axes"], ["s"], {"keepdims": 0}), ("Log", ["s"], ["l"], {}), ("Shape", ["l"], ["h"], {})),
        *(("Reshape", ["w", "h"], ["n"], {}), ("Add", ["l", "n"], ["y"], {})),
    ],
}
LOG_SOFTMAXES = {
    "ReduceLogSumExp": [("ReduceLogSumExp", ["x", "axes"], ["l"], {}), ("Sub", ["x", "l"], ["y"], {})],
    "sum": [*WRITTEN_OUT["sum"][:2], ("Log", ["s"], ["l"], {}), ("Sub", ["x", "l"], ["y"], {})],
    "unsqueezed": [
        *(("ReduceLogSumExp", ["x", "axes"], ["l"], {"keepdims": 0}), ("Unsqueeze", ["l", "axes"], ["u"], {})),
        ("Sub", ["x", "u"], ["y"], {}),
    ],
    "less the largest": [
        *(*LESS, ("Sub", ["x", "m"], ["d2"], {}), ("ReduceSum", ["e", "axes"], ["s"], {}), ("Log", ["s"], ["l"], {})),
        ("Sub", ["d2", "l"], ["y"], {}),
    ],
    "LogSoftmax": [("LogSoftmax", ["x"], ["y"], {"axis": 1})],
}
VALUES = {"axes": i64(1), "inf": np.array(np.inf), "zero": np.array(0.0)}


def used(nodes):
    return {name: VALUES[name] for name in VALUES if any(name in inputs for _, inputs, _, _ in nodes)}


@pytest.mark.parametrize("nodes", WRITTEN_OUT.values(), ids=WRITTEN_OUT)
def test_logarithms_of_sums_that_are_written_out(nodes):
    model = check(nodes, (5, 4), used(nodes))
    assert {type(layer).__name__ for layer in model.layers} <= {"Input", "Permute", "Reshape", "GlobalLogSumExp"}
    x = 1000 * np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    np.testing.assert_allclose(model.predict(x).ravel(), np.logaddexp.reduce(x.astype(float), 1).ravel(), rtol=1e-6)
    relevance = lrpfast.Analyzer(model, "epsilon", target="max").analyze(x)
    np.testing.assert_allclose(relevance.sum((1, 2)), model.predict(x).reshape(3, -1).max(1), rtol=1e-5)


@pytest.mark.parametrize("nodes", LOG_SOFTMAXES.values(), ids=LOG_SOFTMAXES)
def test_log_softmax_that_is_written_out(nodes):
    model = check(nodes, (5, 4), used(nodes))
    assert {type(layer).__name__ for layer in model.layers} <= {"Input", "Permute", "Activation"}
    x = 1000 * np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    wanted = x - np.logaddexp.reduce(x.astype(float), 1)[:, None]
    np.testing.assert_allclose(model.predict(x), wanted, rtol=1e-5, atol=1e-4)
    assert np.isfinite(lrpfast.Analyzer(model, "epsilon", target=0).analyze(x)).all()


@pytest.mark.parametrize(
    "nodes",
    [
        [*LESS, ("ReduceSum", ["e", "axes"], ["s"], {}), ("Log", ["s"], ["l"], {}), ("Add", ["l", "x"], ["y"], {})],
        [*WRITTEN_OUT["sum"][:2], ("Log", ["s"], ["l"], {}), ("Sub", ["l", "x"], ["y"], {})],
        [("Exp", ["x"], ["e"], {}), ("ReduceSum", ["e", "axes"], ["s"], {}), ("Sub", ["x", "s"], ["y"], {})],
        [("ReduceLogSumExp", ["x", "axes"], ["l"], {}), ("Tanh", ["x"], ["t"], {}), ("Sub", ["t", "l"], ["y"], {})],
    ],
)
def test_what_looks_like_a_log_softmax(nodes):
    check(nodes, (5, 4), used(nodes))


def fast_norm(mean, variance, count=4.0):
    """(x - E[x]) / √(E[x²] − E[x]²), scaled and shifted, over the last of (N, 3, 4)."""
    constants = {"n": np.array(1 / count), "zero": np.array(0.0), "epsilon": np.array(1e-3), "axes": i64(2)}
    constants |= {"g": np.linspace(0.5, 2, 4), "b": np.linspace(-1, 1, 4)}
    sums = [
        *(("ReduceSum", ["x", "axes"], ["s"], {"keepdims": int(not mean)}), ("Mul", ["s", "n"], ["m"], {})),
        *(("Mul", ["x", "x"], ["q"], {}), ("ReduceSum", ["q", "axes"], ["sq"], {"keepdims": int(not mean)})),
        *(("Mul", ["sq", "n"], ["mq"], {}), ("Mul", ["m", "m"], ["mm"], {}), ("Sub", ["mq", "mm"], ["v"], {})),
    ]
    limited = [("Max", ["zero", "v"], ["w"], {})] if variance == "limited" else [("Identity", ["v"], ["w"], {})]
    if mean:  # as jax2tf and tf2onnx write it: reshaped to axes of 1, and expanded to all
        constants |= {"one": i64(-1, 3, 1)}
        back = [("Reshape", ["m", "one"], ["m1"], {}), ("Expand", ["m1", "whole_n"], ["m2"], {})]
        back += [("Reshape", ["w", "one"], ["w2"], {}), ("Shape", ["x"], ["whole_n"], {})]
        back = [back[3], *back[:3]]
    else:
        back = [("Identity", ["m"], ["m2"], {}), ("Identity", ["w"], ["w2"], {})]
    end = [
        *(("Add", ["w2", "epsilon"], ["e"], {}), ("Sqrt", ["e"], ["r"], {}), ("Reciprocal", ["r"], ["i"], {})),
        *(("Mul", ["i", "g"], ["ig"], {}), ("Sub", ["x", "m2"], ["d"], {}), ("Mul", ["d", "ig"], ["y0"], {})),
        ("Add", ["y0", "b"], ["y"], {}),
    ]
    nodes = [*sums, *limited, *back, *end]
    return nodes, {name: a for name, a in constants.items() if any(name in inputs for _, inputs, _, _ in nodes)}


@pytest.mark.parametrize("mean", (False, True), ids=("axes that stay", "reshaped"))
@pytest.mark.parametrize("variance", ("limited", "as it is"))
def test_layer_norm_of_a_fast_variance(mean, variance):
    nodes, constants = fast_norm(mean, variance)
    model = check(nodes, (3, 4), constants)
    assert [type(layer).__name__ for layer in model.layers] == ["Input", "LayerNorm"]


def test_a_mean_that_is_none():
    nodes, constants = fast_norm(False, "limited", count=5.0)
    with pytest.raises(lrpfast.UnsupportedLayerError, match="divides a sum of .4. values by 5"):
        lrpfast.from_onnx(graph(nodes, (3, 4), constants))


def test_a_factor_that_is_limited():
    """As Swin V2 writes the scale of its scores."""
    nodes = [
        *(("Clip", ["s", "", "limit"], ["c"], {}), ("Exp", ["c"], ["e"], {}), ("Mul", ["x", "e"], ["y"], {})),
    ]
    check(nodes, (3, 2), {"s": np.array([[[1.0], [9.0], [-2.0]]]), "limit": np.array(4.6)})


def test_log():
    check([("Abs", ["x"], ["a"], {}), ("Log", ["a"], ["y"], {})], (3, 4))
    with pytest.raises(lrpfast.LrpfastError, match="sample 0.*logarithm"):
        lrpfast.Analyzer(lrpfast.from_onnx(graph([("Log", ["x"], ["y"], {})], (2,))), "epsilon").analyze([[1.0, -1.0]])


LP_POOLS = (
    {"pads": [1, 0, 2, 1], "strides": [2, 1]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"auto_pad": "SAME_LOWER"},
    {"ceil_mode": 1, "strides": [2, 3]},
    {"dilations": [2, 1]},
)


@pytest.mark.parametrize("p", (1, 2, 3))
def test_lp_pooling(p):
    for attributes in LP_POOLS:
        one("LpPool", (3, 7, 8), opset=22, by=runtime, kernel_shape=[3, 2], p=p, **attributes)
    one("GlobalLpPool", (3, 7, 8), opset=20, by=runtime, p=p)


@pytest.mark.parametrize("sizes, axes", (((5, 10), (2, 3)), ((4, 6), (-2, -1)), ((9,), (1,)), ((8, 3), (3, 2))))
def test_center_crop_pad(sizes, axes):
    one("CenterCropPad", (3, 7, 8), i64(*sizes), axes=list(axes))


def test_center_crop_pad_to_a_shape_that_begins_with_the_batch():
    nodes = [
        ("Shape", ["x"], ["s"], {"end": 2}),
        ("Concat", ["s", "k"], ["t"], {"axis": 0}),
        ("CenterCropPad", ["x", "t"], ["y"], {}),
    ]
    check(nodes, (3, 7, 8), {"k": i64(5, 10)})


@pytest.mark.parametrize("flag", (0, 1))
def test_triangles_sums_and_choices_along_axes(flag):
    for k in (-1, 0, 2):
        one("Trilu", (3, 4, 5), np.array(k, np.int64), upper=flag, by=runtime)
    for axis in (1, -1):
        one("CumSum", (3, 4), np.array(axis, np.int64), exclusive=flag, reverse=1 - flag, by=runtime)
        one("CumSum", (3, 4), np.array(axis, np.int64), exclusive=flag, reverse=flag, by=runtime)
    one("Compress", (3, 7), np.array([True, False, True]), axis=1)


@pytest.mark.parametrize(
    "equation, shape, constant",
    [
        ("nhij,hjk->nhik", (2, 3, 4), (2, 4, 5)),
        ("nhij,hij->nhi", (2, 3, 4), (2, 3, 4)),
        ("n...j,jk->n...k", (2, 3, 4), (4, 5)),
        ("...j,jk->...k", (2, 3, 4), (4, 5)),
        ("nbij,bj->nbi", (2, 3, 4), (2, 4)),
        ("nbij,b->nbij", (2, 3, 4), (2,)),
    ],
)
def test_einsum_with_shared_axes(equation, shape, constant):
    array = np.random.default_rng(3).normal(size=constant)
    check([("Einsum", ["x", "c"], ["y"], {"equation": equation})], shape, {"c": array})


@pytest.mark.parametrize(
    "equation, shape",
    [
        *(("nij,nij->ni", (5, 4)), ("nij,nij->n", (5, 4)), ("ni,ni->n", (5,)), ("ni,nj->nij", (5,))),
        *(("n...j,n...j->n...", (2, 3)), ("nij,nkl->njl", (3, 4)), ("nij,nil->nj", (3, 4))),
    ],
)
def test_einsum_of_two_tensors_that_share_axes(equation, shape):
    check([TANH, ("Einsum", ["x", "t"], ["y"], {"equation": equation})], shape)


@pytest.mark.parametrize("last", ("u = Tanh(x)", "u = MatMul(x, w)", "u = Identity(w)"))
def test_an_if_that_chooses_for_each_sample(last):
    """As openWakeWord asks a second model where the first is not sure: a file of one sample at a time."""
    text = f"""<ir_version: 8, opset_import: ["": 20]> g (float[N, 3] x) => (float[N, 3] y)
        <float[3, 1] v = {{1, -1, 2}}, float limit = {{0.2}}, float[3, 3] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9}}> {{
        s = MatMul(x, v) b = GreaterOrEqual(s, limit) c = Cast <to = 9> (b)
        y = If (c) <then_branch = t () => (float[N, 3] u) {{ {last} }}, else_branch = e () => (float[N, 3] z) {{
            z = Neg(x) }}> }}"""
    if "Identity" in last:
        text = text.replace("float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}", "float[1, 3] w = {1, 2, 3}")
    proto = parser.parse_model(text)
    x = np.random.default_rng(3).normal(size=(6, 3)).astype(np.float32)
    evaluator = reference.ReferenceEvaluator(proto)
    expected = np.concatenate([evaluator.run(None, {"x": x[i : i + 1]})[0] for i in range(6)])
    model = lrpfast.from_onnx(proto)
    np.testing.assert_allclose(model.predict(x), expected, rtol=1e-5, atol=1e-6)
    chosen = x @ [1.0, -1.0, 2.0] >= 0.2
    assert chosen.any() and not chosen.all()
    relevance = lrpfast.Analyzer(model, "zero", target=0).analyze(x)
    wanted = {"u = Tanh(x)": np.tanh(x[:, 0]), "u = Identity(w)": 0 * x[:, 0]}.get(last, x @ [1.0, 4.0, 7.0])
    np.testing.assert_allclose(relevance.sum(1), np.where(chosen, wanted, -x[:, 0]), rtol=1e-5, atol=1e-6)


def test_an_if_on_several_values_of_a_sample():
    text = """<ir_version: 8, opset_import: ["": 20]> g (float[N, 3] x) => (float[N, 3] y)
        <float limit = {0.2}> { c = Greater(x, limit)
        y = If (c) <then_branch = t () => (float[N, 3] u) { u = Tanh(x) }, else_branch = e () => (float[N, 3] z) {
            z = Neg(x) }> }"""
    with pytest.raises(lrpfast.UnsupportedLayerError, match="chooses by more than one value of a sample"):
        lrpfast.from_onnx(parser.parse_model(text))
