"""Inputs of ONNX files: whole numbers that become one-hot codes, batches on other axes, settings made constants."""

import warnings

import numpy as np
import pytest

import lrpfast

onnx = pytest.importorskip("onnx")
from onnx import numpy_helper, parser  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

import seeds  # noqa: E402

RNG = seeds.generator(7)


def parsed(text, **constants):
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["": 20]> {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items())
    return proto


CODES = {
    "equal": "e = Equal(u, codes) h = Cast <to = 1> (e)",
    "codes first": "e = Equal(codes, u) h = Cast <to = 1> (e)",
    "expanded": "t = Expand(u, sizes) e = Equal(t, codes) h = Cast <to = 1> (e)",
    "one hot": "h = OneHot(x, depth, values)",
    "one hot, axis 1": "g = OneHot <axis = 1> (x, depth, values) h = Transpose <perm = [0, 2, 1]> (g)",
}


@pytest.mark.parametrize("case", CODES)
def test_one_hot_codes_are_rows_of_a_table(case):
    """As magika's bytes: the table's rows are looked up, and each number gets its code's relevance."""
    w = RNG.normal(size=(4, 3)).astype(np.float32)
    constants = {"w": w, "codes": np.arange(4, dtype=np.int32).reshape(1, 1, 4), "sizes": np.array([1, 5, 1])}
    constants |= {"depth": np.array(4), "values": np.array([0.0, 1.0], np.float32), "last": np.array([2])}
    proto = parsed(
        f"g (int32[N, 5] x) => (float[N, 5, 3] y) {{ u = Unsqueeze(x, last) {CODES[case]} y = MatMul(h, w) }}",
        **constants,
    )
    x = np.array([[0, 1, 2, 3, 3], [1, 1, 0, 2, 0]], np.int32)
    (expected,) = ReferenceEvaluator(proto).run(None, {"x": x})
    model = lrpfast.from_onnx(proto)
    np.testing.assert_allclose(model.predict(x), expected, rtol=1e-6)
    relevance = lrpfast.Analyzer(model, "zero", target=lambda y: y).analyze(x)
    np.testing.assert_allclose(relevance, w[x].sum(-1), rtol=1e-5)
    with pytest.raises(lrpfast.InputError, match="an embedding of 4 entries takes whole numbers from 0 to 3"):
        model.predict(np.array([[4, 0, 0, 0, 0]], np.int32))


def test_codes_of_other_numbers():
    """Codes need not be 0, 1, 2, …; a comparison with constants on several axes is no code."""
    codes = np.array([5, 2, 7], np.int32)
    text = "g (int32[N, 2, 1] x) => (float[N, 2, 3] y) { e = Equal(x, codes) y = Cast <to = 1> (e) }"
    model = lrpfast.from_onnx(parsed(text, codes=codes))
    x = np.array([[[2], [0]]])
    assert model.predict(x).tolist() == [[[0, 1, 0], [0, 0, 0]]]
    with pytest.raises(lrpfast.UnsupportedLayerError, match="compares whole numbers with several constants"):
        lrpfast.from_onnx(parsed(text, codes=np.arange(6, dtype=np.int32).reshape(2, 3)))
    with pytest.raises(lrpfast.UnsupportedLayerError, match="one-hot codes of what the model computes"):
        lrpfast.from_onnx(
            parsed(
                "g (float[N, 2] x) => (float[N, 2, 3] y) { r = Relu(x) y = OneHot(r, depth, values) }",
                depth=np.array(3),
                values=np.array([0.0, 1.0], np.float32),
            )
        )


STATES = {
    "named": ("float[B, 3] x, float[2, B, 3] s", [(3,), (2, 3)]),
    "unnamed": ("float[?, 3] x, float[2, ?, 3] s", [(3,), (2, 3)]),
    "fixed": ("float[1, 3] x, float[2, 1, 3] s", [(3,), (2, 3)]),
    "last": ("float[B, 3] x, float[2, 3, B] s", [(3,), (2, 3)]),
}


@pytest.mark.parametrize("case", STATES)
def test_states_whose_batch_is_another_axis(case):
    """As recurrent networks are exported; arrays have the samples first, and a warning says so."""
    inputs, shapes = STATES[case]
    move = [2, 0, 1] if case == "last" else [1, 0, 2]
    back = np.argsort(move).tolist()
    text = f"""g ({inputs}) => (float y, float t) {{ f = Transpose <perm = {move}> (s) a = Gather <axis = 1> (f, one)
        y = Add(x, a) r = Tanh(s) t = Identity(r) }}"""
    proto = parsed(text, one=np.array(1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = lrpfast.from_onnx(proto)
    texts = [f"the {a} has the batch on axis {move[0]}; lrpfast {b} it first: (samples, 2, 3)"
             for a, b in (("input 's'", "takes"), ("output 't'", "returns"))]  # fmt: skip
    assert [str(item.message) for item in caught] == texts
    assert model.input_shape == shapes and model.output_shape == [(3,), (2, 3)]
    n = 1 if case == "fixed" else 4
    x, s = RNG.normal(size=(n, 3)).astype("f"), RNG.normal(size=(n, 2, 3)).astype("f")
    y, t = ReferenceEvaluator(proto).run(None, {"x": x, "s": s.transpose(back)})
    own = model.predict([x, s])
    np.testing.assert_allclose(own[0], y, rtol=1e-5)
    np.testing.assert_allclose(own[1], t.transpose(move), rtol=1e-5)


def test_a_setting_becomes_a_constant_that_chooses():
    """As the message about it says."""
    text = """g (float[N, 3] x, int64 sr) => (float[N, 3] y) <int64 limit = {16000}> { c = Equal(sr, limit)
        y = If (c) <then_branch = a () => (float[N, 3] u) { u = Tanh(x) },
                    else_branch = b () => (float[N, 3] v) { v = Floor(x) }> }"""
    proto = parsed(text)
    with pytest.raises(lrpfast.UnsupportedLayerError, match=r"'sr': has 0 axes.*initializer\.append"):
        lrpfast.from_onnx(proto)
    proto.graph.initializer.append(numpy_helper.from_array(np.int64(16000), "sr"))
    x = RNG.normal(size=(2, 3))
    np.testing.assert_allclose(lrpfast.from_onnx(proto).predict(x), np.tanh(x), rtol=1e-6)


def test_what_no_file_without_training_can_cure_is_named_with_its_cure():
    text = """g (float[N, 3] x) => (float[N, 3] y) { y = com.microsoft.MatMulNBits <K = 3, N = 3> (x, w) }"""
    proto = parsed(text, w=np.eye(3, dtype=np.uint8))
    with pytest.raises(lrpfast.UnsupportedLayerError, match="Load the float model that was quantized"):
        lrpfast.from_onnx(proto)
    weights = {k: np.zeros((1, n, 2), np.float32) for k, n in (("w", 8), ("r", 8))}
    text = "g (float[N, 1, 2] x) => (float[N, 1, 1, 2] y) { y = LSTM <hidden_size = 2> (x, w, r) }"
    with pytest.raises(
        lrpfast.UnsupportedLayerError, match="LSTM.*goes through the samples as if they were time steps"
    ):
        lrpfast.from_onnx(parsed(text, **weights))


#: How files write exp(x - max x) / Σ exp(x - max x) over the last of (N, 4, 5): the largest value, and the sum.
WRITTEN = {
    "kept axes": ("m = ReduceMax(x, last)", "s = ReduceSum(e, last)"),
    "JAX": (
        "a = ReduceMax <keepdims = 0> (x, last) b = Max(low, a) c = Reshape(b, one) m = Expand(c, one)",
        "t = ReduceSum <keepdims = 0> (e, last) u = Reshape(t, one) s = Expand(u, whole)",
    ),
    "unsqueezed": (
        "a = ReduceMax <keepdims = 0> (x, last) m = Unsqueeze(a, last)",
        "t = ReduceSum <keepdims = 0> (e, last) s = Unsqueeze(t, last)",
    ),
    "no largest": ("", "s = ReduceSum(e, last)"),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_a_softmax_that_is_written_out(case):
    """One layer, with its rule: the difference from the largest value, which is 0, has no relevance to share."""
    first, second = WRITTEN[case]
    centred = "d = Sub(x, m)" if first else "d = Identity(x)"
    text = f"""g (float[N, 4, 5] x) => (float[N, 4, 5] y) {{
        size = Shape(x) n = Gather(size, zero) one = Concat <axis = 0> (n, four, unit)
        whole = Concat <axis = 0> (n, four, five) {first} {centred} e = Exp(d) {second} y = Div(e, s) }}"""
    constants = {"last": np.array([2]), "zero": np.array([0]), "four": np.array([4]), "five": np.array([5])}
    proto = parsed(text, **constants, unit=np.array([1]), low=np.float32(-np.inf))
    x = RNG.normal(size=(3, 4, 5)).astype(np.float32)
    (expected,) = ReferenceEvaluator(proto).run(None, {"x": x})
    model = lrpfast.from_onnx(proto)
    np.testing.assert_allclose(model.predict(x), expected, rtol=1e-6)
    assert [type(layer).__name__ for layer in model.layers if type(layer).__name__ != "Identity"] == [
        "Input",
        "Activation",
    ]


def test_exponentials_divided_by_other_sums_are_no_softmax():
    for axes, exponential in (([1], "e"), ([2], "f")):
        text = f"""g (float[N, 4, 5] x) => (float[N, 4, 5] y) {{ m = ReduceMax(x, last) d = Sub(x, m) e = Exp(d)
            f = Tanh(e) s = ReduceSum({exponential}, axes) y = Div(e, s) }}"""
        proto = parsed(text, last=np.array([2]), axes=np.array(axes))
        x = RNG.normal(size=(3, 4, 5)).astype(np.float32)
        (expected,) = ReferenceEvaluator(proto).run(None, {"x": x})
        np.testing.assert_allclose(lrpfast.from_onnx(proto).predict(x), expected, rtol=1e-5)


def test_a_file_whose_nodes_fit_one_sample():
    """As exporters write the 1 of their example into a file that leaves the batch's size open."""
    w = RNG.normal(size=(4, 3)).astype(np.float32)
    text = """g (float[N, 4] x) => (float[N, 3] y)
        { a = Reshape(x, rows) b = Transpose <perm = [1, 0, 2]> (a) c = Relu(b)
        d = Reshape(c, flat) y = MatMul(d, w) }"""
    proto = parsed(text, rows=np.array([2, 1, 2]), flat=np.array([1, 4]), w=w)
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    expected = np.concatenate([ReferenceEvaluator(proto).run(None, {"x": x[i : i + 1]})[0] for i in range(3)])
    with pytest.warns(UserWarning, match="computes one sample at a time"):
        model = lrpfast.from_onnx(proto)
    np.testing.assert_allclose(model.predict(x), expected, rtol=1e-5, atol=1e-6)
    first = parsed("g (float[N, 4] x) => (float[N, 4] y) { y = Slice(x, a, b, a) }", a=np.array([0]), b=np.array([1]))
    with pytest.raises(lrpfast.UnsupportedLayerError, match="batch"):  # which takes the first sample on purpose
        lrpfast.from_onnx(first)


@pytest.mark.parametrize("filled", [True, False])
def test_a_mask_filled_with_zeros_of_its_own_shape(filled):
    """masked_fill of zeros_like(mask), moved before it is added to the scores."""
    zero = "s = Shape(n) z = Expand(zero, s)" if filled else "z = Identity(zero)"
    text = f"""g (float[N, 5] x, bool[N, 5] mask) => (float[N, 1, 5] y)
        {{ n = Not(mask) {zero} m = Where(n, hidden, z) r = Reshape(m, shape) u = Unsqueeze(x, axis)
        t = Add(u, r) y = Softmax <axis = -1> (t) }}"""
    constants = {"zero": np.float32(0), "hidden": np.float32(-np.inf), "shape": np.array([0, 1, 5]), "axis": [1]}
    proto = parsed(text, **constants)
    x, mask = RNG.normal(size=(3, 5)).astype(np.float32), RNG.random((3, 5)) < 0.6
    mask[:, 0] = True
    (expected,) = ReferenceEvaluator(proto).run(None, {"x": x, "mask": mask})
    np.testing.assert_allclose(lrpfast.from_onnx(proto).predict([x, mask]), expected, rtol=1e-5)


def test_a_larger_constant_beside_a_mask():
    """What is chosen has the shape of both: the constant's is larger than the mask's."""
    text = """g (float[N, 2, 5] x, bool[N, 1, 5] mask) => (float[N, 2, 5] y)
        { m = Where(mask, ones, half) y = Mul(x, m) }"""
    proto = parsed(text, ones=np.ones((1, 2, 5), np.float32), half=np.float32(0.5))
    x, mask = RNG.normal(size=(3, 2, 5)).astype(np.float32), RNG.random((3, 1, 5)) < 0.6
    (expected,) = ReferenceEvaluator(proto).run(None, {"x": x, "mask": mask})
    np.testing.assert_allclose(lrpfast.from_onnx(proto).predict([x, mask]), expected, rtol=1e-6)
