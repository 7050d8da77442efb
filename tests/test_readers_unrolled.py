"""Recurrent layers that an ONNX graph writes out step by step, as exporters unroll them: one layer again."""

import numpy as np
import pytest

import lrpfast
from lrpfast import layers
from lrpfast.rules import Recurrent

onnx = pytest.importorskip("onnx")
STEPS, FEATURES, UNITS = 5, 2, 3
GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}


class Graph:
    """Nodes and constants of a graph; every method returns the name of a value."""

    def __init__(self):
        self.nodes, self.constants = [], {}

    def add(self, op, *inputs, count=1, **attributes):
        names = [f"v{len(self.nodes)}_{i}" for i in range(count)]
        inputs = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        self.nodes.append(onnx.helper.make_node(op, inputs, names, **attributes))
        return names[0] if count == 1 else names

    def constant(self, value):
        array = np.asarray(value)
        name = f"c{len(self.constants)}"
        self.constants[name] = array.astype("float32") if array.dtype.kind == "f" else array.astype("int64")
        return name

    def model(self, outputs, features=FEATURES):
        info, numbers = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
        stored = [onnx.numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        ends = [info(name, numbers, None) for name in outputs]
        graph = onnx.helper.make_graph(self.nodes, "g", [info("x", numbers, ["n", STEPS, features])], ends, stored)
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def weights_of(kind, two=False):
    rng = np.random.default_rng(8)
    columns = GATES[kind] * UNITS
    shapes = [(FEATURES, columns), (UNITS, columns), (columns,), *([(columns,)] if two else [])]
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


def step(g, kind, ours, theirs, h, c):
    """The states after one step, of x W and h U with their biases."""
    if kind == "SimpleRNN":
        return g.add("Tanh", g.add("Add", ours, theirs)), c
    if kind == "LSTM":
        parts = g.add("Split", g.add("Add", ours, theirs), count=4, axis=-1)
        i, f, o = (g.add("Sigmoid", parts[n]) for n in (0, 1, 3))
        c = g.add("Add", g.add("Mul", f, c), g.add("Mul", i, g.add("Tanh", parts[2])))
        return g.add("Mul", o, g.add("Tanh", c)), c
    (z, r, n), (hz, hr, hn) = (g.add("Split", value, count=3, axis=-1) for value in (ours, theirs))
    z, r = g.add("Sigmoid", g.add("Add", z, hz)), g.add("Sigmoid", g.add("Add", r, hr))
    n = g.add("Tanh", g.add("Add", n, g.add("Mul", r, hn)))
    return g.add("Add", g.add("Mul", z, h), g.add("Mul", g.add("Sub", 1.0, z), n)), c


def unrolled(kind, weights, backwards=False, by_gemm=False, before=None):
    """A graph and the values of all its steps: the rows are products of the whole sequence, or each a Gemm."""
    g = Graph()
    kernel, recurrent, bias, *second = weights
    x = "x" if before is None else g.add(before, "x")
    batch = g.add("Slice", g.add("Shape", "x"), [0], [1])
    h = c = g.add("Expand", 0.0, g.add("Concat", batch, [UNITS], axis=0))
    whole = "" if by_gemm else g.add("Add", g.add("MatMul", g.add("Transpose", x, perm=[1, 0, 2]), kernel), bias)
    rows = []
    for t in range(STEPS)[:: -1 if backwards else 1]:
        if by_gemm:
            ours = g.add("Gemm", g.add("Gather", x, t, axis=1), kernel.T.copy(), bias, transB=1)
            theirs = g.add("Gemm", h, recurrent.T.copy(), *second, transB=1)
        else:
            ours = g.add("Squeeze", g.add("Slice", whole, [t], [t + 1], [0]), [0])
            theirs = g.add("MatMul", h, recurrent)
            theirs = g.add("Add", theirs, second[0]) if second else theirs
        h, c = step(g, kind, ours, theirs, h, c)
        rows.append(h)
    return g, rows[:: -1 if backwards else 1], c


def layer_of(kind, weights, backwards=False):
    kernel, recurrent, bias, *second = (a.astype(float) for a in weights)
    if kind == "GRU":
        bias = np.stack([bias, *second]) if second else np.stack([bias, np.zeros_like(bias)])
    elif second:
        bias = bias + second[0]
    return getattr(layers, kind)(kernel, recurrent, bias, return_sequences=True, go_backwards=backwards)


def relevance_of(model, x, target):
    return lrpfast.Analyzer(model, Recurrent(0.1), precision="float64").analyze(x, target)


@pytest.mark.parametrize("by_gemm", [False, True], ids=["whole", "rows"])
@pytest.mark.parametrize("backwards", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("kind", GATES)
def test_unrolled_steps_are_one_layer(kind, backwards, by_gemm):
    weights = weights_of(kind, two=by_gemm)
    g, rows, _ = unrolled(kind, weights, backwards, by_gemm)
    sequence = g.add("Concat", *(g.add("Unsqueeze", row, [1]) for row in rows), axis=1)
    model = lrpfast.from_onnx(g.model([sequence]))
    expected = lrpfast.from_layers([layer_of(kind, weights, backwards)], input_shape=(STEPS, FEATURES))
    assert [type(layer).__name__ for layer in model.layers] == ["Input", kind]
    x = np.random.default_rng(9).normal(size=(4, STEPS, FEATURES))
    outputs = [model.predict(x, precision="float64") for model in (model, expected)]
    np.testing.assert_allclose(*outputs, atol=1e-12)
    relevance = np.random.default_rng(1).normal(size=outputs[0].shape)
    np.testing.assert_allclose(*(relevance_of(m, x, relevance) for m in (model, expected)), atol=1e-12)


@pytest.mark.parametrize("before", [None, "Relu"])
def test_single_steps_and_cells_of_an_unrolled_layer(before):
    """Of an LSTM the last h and c, and the h of a step between, are used; the sequence may be computed."""
    weights = weights_of("LSTM")
    g, rows, c = unrolled("LSTM", weights, before=before)
    model = lrpfast.from_onnx(g.model([rows[-1], c, rows[2]]))
    assert [type(layer).__name__ for layer in model.layers].count("LSTM") == 1
    assert not any(isinstance(layer, layers.Dense) for layer in model.layers)
    x = np.random.default_rng(9).normal(size=(4, STEPS, FEATURES))
    last, cell, middle = model.predict(x, precision="float64")
    expected = lrpfast.from_layers([layer_of("LSTM", weights)], input_shape=(STEPS, FEATURES))
    sequence = expected.predict(x if before is None else np.maximum(x, 0), precision="float64")
    np.testing.assert_allclose(last, sequence[:, -1], atol=1e-12)
    np.testing.assert_allclose(middle, sequence[:, 2], atol=1e-12)
    assert cell.shape == (4, UNITS)


@pytest.mark.parametrize("axis", [1, 2])
def test_steps_on_a_later_axis(axis):
    """As exporters read the columns of an image: (channels, steps) or (channels, steps, rows)."""
    shape = (2, STEPS) if axis == 2 else (1, STEPS, 2)
    weights, g = weights_of("LSTM"), Graph()
    image = g.add("Reshape", "x", [0, *shape])
    h = c = g.add("Expand", 0.0, g.add("Concat", g.add("Slice", g.add("Shape", "x"), [0], [1]), [UNITS], axis=0))
    kernel, recurrent, bias = weights
    for t in range(STEPS):
        row = g.add("Reshape", g.add("Gather", image, t, axis=2), [0, FEATURES])
        ours = g.add("Gemm", row, kernel.T.copy(), bias, transB=1)
        h, c = step(g, "LSTM", ours, g.add("Gemm", h, recurrent.T.copy(), transB=1), h, c)
    model = lrpfast.from_onnx(g.model([h]))
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("LSTM") == 1 and "Dense" not in kinds
    x = np.random.default_rng(9).normal(size=(4, STEPS, FEATURES))
    sequence = np.moveaxis(x.reshape(4, *shape), 2, 1).reshape(4, STEPS, FEATURES)
    expected = lrpfast.from_layers([layer_of("LSTM", weights)], input_shape=(STEPS, FEATURES))
    last = expected.predict(sequence, precision="float64")[:, -1]
    np.testing.assert_allclose(model.predict(x, precision="float64"), last, atol=1e-12)


def test_layers_above_each_other():
    """The second layer takes the first one's sequence."""
    g, rows, _ = unrolled("SimpleRNN", weights_of("SimpleRNN"))
    sequence = g.add("Concat", *(g.add("Unsqueeze", row, [0]) for row in rows), axis=0)
    kernel, recurrent = (np.random.default_rng(i).normal(size=(UNITS, UNITS)).astype("float32") for i in (2, 3))
    product, h = g.add("MatMul", sequence, kernel), None
    for t in range(STEPS):
        row = g.add("Squeeze", g.add("Slice", product, [t], [t + 1], [0]), [0])
        h = g.add("Tanh", row if h is None else g.add("Add", row, g.add("MatMul", h, recurrent)))
    model = lrpfast.from_onnx(g.model([h]))
    assert [type(layer).__name__ for layer in model.layers] == ["Input", "SimpleRNN", "SimpleRNN"]
    first = layer_of("SimpleRNN", weights_of("SimpleRNN"))
    expected = lrpfast.from_layers([first, layers.SimpleRNN(kernel, recurrent)], input_shape=(STEPS, FEATURES))
    x = np.random.default_rng(9).normal(size=(4, STEPS, FEATURES))
    np.testing.assert_allclose(relevance_of(model, x, 0), relevance_of(expected, x, 0), atol=1e-12)


@pytest.mark.parametrize("gate", ["Sigmoid", "Tanh"])
def test_a_cell_that_is_no_layer_is_warned_of(gate):
    """h + gate(x W + h U) is none of the cells that lrpfast has."""
    g, h = Graph(), None
    kernel, recurrent, bias = weights_of("SimpleRNN")
    for t in range(STEPS):
        ours = g.add("Gemm", g.add("Gather", "x", t, axis=1), kernel, bias)
        h = (
            g.add(gate, ours)
            if h is None
            else g.add("Add", h, g.add(gate, g.add("Add", ours, g.add("MatMul", h, recurrent))))
        )
    with pytest.warns(
        lrpfast.errors.ApproximationWarning, match="is applied 4 times.*a recurrent cell that is written"
    ):
        lrpfast.from_onnx(g.model([h]))


def test_shared_weights_without_gates_are_no_cell(recwarn):
    """Of one layer that is applied to each step, and of one that is applied to its own output through a ReLU."""
    g, kernel = Graph(), np.eye(UNITS, dtype="float32") + 0.5
    x = g.add("Gemm", g.add("Gather", "x", 0, axis=1), weights_of("SimpleRNN")[0])
    for _ in range(3):
        x = g.add("Relu", g.add("MatMul", x, kernel))
    lrpfast.from_onnx(g.model([x]))
    assert not recwarn.list
