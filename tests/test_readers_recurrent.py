"""Recurrent networks from every kind of file: predictions, and every relevance of the reference figures.

tests/data/recurrent/ holds models of Keras 2 and 3, of PyTorch and of ONNX with figures that a program computed in
float64 by the conventions of Arras et al., unit by unit; several files are of one model.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

import lrpfast
import oracle_recurrent
from lrpfast.rules import Recurrent
from test_readers_keras import entry, functional, layer, sequential, write_h5

DATA = Path(__file__).parent / "data" / "recurrent"
FILES = sorted(path.name.removesuffix(".gz") for path in DATA.glob("*.gz"))
STEPS, FEATURES, UNITS, SAMPLES = 5, 3, 4, 6
#: Of the largest value: what the figures and lrpfast agree to in each precision.
CLOSE = {"float64": 1e-10, "float32": 1e-5}


def unpacked(name, folder):
    """The file, as it was saved."""
    path = folder / name
    path.write_bytes(gzip.decompress((DATA / f"{name}.gz").read_bytes()))
    return path


def close(result, expected, precision):
    np.testing.assert_allclose(result, expected, rtol=0, atol=CLOSE[precision] * np.abs(expected).max())


@pytest.mark.parametrize("name", FILES)
def test_every_figure_comes_out_of_every_file(name, tmp_path):
    if not name.endswith(".pt2"):
        pytest.importorskip("onnx" if name.endswith(".onnx") else "h5py")
    model = lrpfast.load(unpacked(name, tmp_path))
    with np.load(DATA / f"{name.split('.')[0]}.npz") as record:
        x, y = record["x"], record["y"]
        for precision in CLOSE:
            close(model.predict(x, precision=precision), y, precision)
            for key in (key for key in record.files if key.startswith("lrp|")):
                settings, _, of = key.removeprefix("lrp|").partition("|")
                analyzer = lrpfast.Analyzer(model, Recurrent(**json.loads(settings)), precision=precision)
                if of == "vectors":
                    relevance = analyzer.explain(x, target=0, layers=True).layers["words"]
                else:
                    relevance = analyzer.analyze(x, target=0)
                close(relevance, record[key], precision)


# -- Keras layers of other versions ------------------------------------------------


def keras_layer(folder, kind, weights, keras="2.2.4", **config):
    """The layer that a Keras layer becomes, alone in a model."""
    pytest.importorskip("h5py")
    model = sequential(entry((None, STEPS, FEATURES)), layer(kind, "r", units=UNITS, **config))
    return lrpfast.load(write_h5(folder / "m.h5", model, {"r": weights}, keras)).layers[1:]


def recurrent_weights(gates, biases):
    rng = np.random.default_rng(5)
    shapes = ((FEATURES, gates * UNITS), (UNITS, gates * UNITS), biases)
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


@pytest.mark.parametrize("kind, gates", [("CuDNNLSTM", 4), ("CuDNNGRU", 3)])
def test_cudnn_weights_are_transposed_block_by_block(kind, gates, tmp_path):
    """CuDNN reads a block's (features, units) numbers as (units, features), and multiplies x from the other side."""
    kernel, recurrent, bias = recurrent_weights(gates, (2 * gates * UNITS,))
    (result,) = keras_layer(tmp_path, kind, [kernel, recurrent, bias])
    for gate in range(gates):
        block = slice(gate * UNITS, (gate + 1) * UNITS)
        whole = np.ascontiguousarray(kernel[:, block]).reshape(UNITS, FEATURES)
        assert np.array_equal(result.kernel[:, block], whole.T)
        assert np.array_equal(result.recurrent_kernel[:, block], recurrent[:, block].T)
    two = bias.reshape(2, -1)
    assert np.array_equal(result.bias, two if gates == 3 else two.astype(float).sum(0))
    assert result.gate_activation.function == "sigmoid"


def test_keras_1_stores_each_gate_by_itself(tmp_path):
    rng = np.random.default_rng(6)
    shapes = ((FEATURES, UNITS), (UNITS, UNITS), (UNITS,))
    gates = {gate: [rng.normal(size=shape).astype("float32") for shape in shapes] for gate in "icfo"}
    stored = [array for gate in "icfo" for array in gates[gate]]
    settings = {"output_dim": UNITS, "inner_activation": "hard_sigmoid", "activation": "tanh"}
    (result,) = keras_layer(tmp_path, "LSTM", stored, "1.2.2", **settings)
    for i, name in enumerate(("kernel", "recurrent_kernel", "bias")):
        expected = np.concatenate([gates[gate][i] for gate in "ifco"], -1)
        assert np.array_equal(getattr(result, name), expected)
    assert result.gate_activation.parameters["slope"] == 0.2


def test_a_stateful_layer_says_what_it_does(tmp_path):
    with pytest.warns(lrpfast.ApproximationWarning, match=r"'r' \(LSTM, 2 of 2\) is stateful.*begins every sample"):
        keras_layer(tmp_path, "LSTM", recurrent_weights(4, (4 * UNITS,)), stateful=True)


def test_a_mask_reaches_every_layer_that_keras_gives_it_to(tmp_path):
    pytest.importorskip("h5py")
    rnn = layer("LSTM", "inner", units=UNITS, return_sequences=True, time_major=False)
    both = layer("Bidirectional", "both", layer=rnn, merge_mode="sum")
    model = sequential(
        entry((None, STEPS, FEATURES)), layer("Masking", "m", mask_value=-9.0), both, layer("GRU", "g", units=2)
    )
    forward = recurrent_weights(4, (4 * UNITS,))
    weights = {"both": [*forward, *forward], "g": [np.ones((UNITS, 6)), np.ones((2, 6)), np.ones(6)]}
    result = lrpfast.load(write_h5(tmp_path / "m.h5", model, weights, "2.14.0"))
    nodes = {node.name: node for node in result.nodes}
    assert [nodes[name].layer.zero_masked for name in ("both/forward", "both/backward", "g")] == [True, True, False]
    assert {result.nodes[nodes[name].inputs[1]].name for name in ("both/forward", "both/backward", "g")} == {"m/mask"}


@pytest.mark.parametrize("kind, gates", [("LSTM", 4), ("GRU", 3), ("SimpleRNN", 1)])
@pytest.mark.parametrize("sequences", [False, True])
def test_states_of_masked_layers_begin_with_the_initial_ones(kind, gates, sequences, tmp_path):
    """Where all steps are masked, the output is 0 and the state is the initial one."""
    pytest.importorskip("h5py")
    count = 2 if kind == "LSTM" else 1
    begins = [f"s{i}" for i in range(count)]
    inputs = [entry((None, STEPS, FEATURES))]
    for name in begins:
        inputs.append({"class_name": "InputLayer", "config": {"name": name, "batch_input_shape": [None, UNITS]}})
    config = {"reset_after": False, "use_bias": True} if kind == "GRU" else {}
    gate = {} if kind == "SimpleRNN" else {"recurrent_activation": "sigmoid"}
    rnn = layer(kind, "r", units=UNITS, return_state=True, return_sequences=sequences, **config, **gate)
    mask = layer("Masking", "m", mask_value=-9.0) | {"inbound": ["entry"]}
    listed = [inputs[0], *(item | {"inbound": []} for item in inputs[1:]), mask, rnn | {"inbound": ["m", *begins]}]
    model = functional(*listed, inputs=("entry", *begins), outputs=["r"])
    model["config"]["output_layers"] = [["r", 0, i] for i in range(1 + count)]
    weights = recurrent_weights(gates, (gates * UNITS,))
    result = lrpfast.load(write_h5(tmp_path / "m.h5", model, {"r": weights}))
    rng = np.random.default_rng(3)
    x, states = rng.normal(size=(3, STEPS, FEATURES)), [rng.normal(size=(3, UNITS)) for _ in range(count)]
    x[0], x[1, 3:] = -9.0, -9.0
    output, h, *c = result.predict([x, *states], precision="float64")
    parameters = {"kernel": weights[0], "recurrent_kernel": weights[1], "bias": weights[2], "reset_after": False}
    for sample in range(1, 3):
        number = STEPS - 2 if sample == 1 else STEPS
        sequence, kept = oracle_recurrent.run(
            kind, parameters | {"return_sequences": True}, x[sample, :number], None, *(s[sample] for s in states)
        )
        np.testing.assert_allclose(h[sample], sequence[-1], atol=1e-13)
        for cell in c:
            np.testing.assert_allclose(cell[sample], kept[-1][1]["new_c"], atol=1e-13)
        np.testing.assert_allclose(
            output[sample][:number] if sequences else output[sample], sequence if sequences else sequence[-1]
        )
    assert not output[0].any()
    for first, final in zip(states, [h, *c], strict=True):
        np.testing.assert_array_equal(final[0], first[0])
    relevance = lrpfast.Analyzer(result.until("r/state"), Recurrent(0.1), precision="float64").analyze(
        [x, *states], np.ones((3, UNITS))
    )
    np.testing.assert_array_equal(relevance[1][0], np.ones(UNITS))
    assert not relevance[0][0].any() and relevance[0][1, :3].any() and not relevance[0][1, 3:].any()


def test_cells_that_are_not_read_are_named(tmp_path):
    cell = layer("ConvLSTMCell", "c", units=UNITS)
    with pytest.raises(lrpfast.UnsupportedLayerError, match="'r'.*cell of class ConvLSTMCell"):
        keras_layer(tmp_path, "RNN", [], cell=cell)


# -- ONNX operators, beside ONNX Runtime -----------------------------------------

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
FUNCTIONS = {"LSTM": ["HardSigmoid", "Relu", "Softsign"], "GRU": ["Sigmoid", "Relu"], "RNN": ["LeakyRelu"]}


def onnx_model(op, direction="forward", results=(0, 1), states=None, lengths=None, inputs=(), **attributes):
    """One recurrent operator, between transposes where its layout is 0; every result is an output."""
    onnx = pytest.importorskip("onnx")
    batch_first = attributes.get("layout", 0) == 1
    rng, ways = np.random.default_rng(3), 2 if direction == "bidirectional" else 1
    helper, array = onnx.helper, lambda *shape: (rng.normal(size=shape) * 0.6).astype("float32")
    constants = {"W": array(ways, GATES[op] * UNITS, FEATURES), "R": array(ways, GATES[op] * UNITS, UNITS)}
    constants["B"] = array(ways, 2 * GATES[op] * UNITS)
    float32 = onnx.TensorProto.FLOAT
    sources = [helper.make_tensor_value_info("x", float32, ["n", STEPS, FEATURES])]
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2])]
    if batch_first:
        nodes = []
    names = ["x" if batch_first else "t", "W", "R", "B", "", *inputs]
    if lengths is not None:
        constants["L"], names[4] = np.full(SAMPLES, lengths, np.int32), "L"
    if states == "constant":
        constants["h"] = np.repeat(array(ways, 1, UNITS), SAMPLES, 1)
        constants["h"] = np.swapaxes(constants["h"], 0, 1) if batch_first else constants["h"]
        names.append("h")
    if states == "input":
        sources.append(helper.make_tensor_value_info("s", float32, ["n", ways, UNITS]))
        nodes += [] if batch_first else [helper.make_node("Transpose", ["s"], ["st"], perm=[1, 0, 2])]
        names += ["s" if batch_first else "st"] * (2 if op == "LSTM" else 1)
    if "P" in inputs:
        constants["P"] = array(ways, 3 * UNITS)
    outputs = ["Y", "Yh", "Yc"][: 3 if op == "LSTM" else 2]
    kept = [name if i in results else "" for i, name in enumerate(outputs)]
    nodes.append(helper.make_node(op, names, kept, hidden_size=UNITS, direction=direction, **attributes))
    for name in filter(None, kept):
        order = [2, 0, 1, 3] if name == "Y" else [1, 0, 2]
        if batch_first:
            order = list(range(len(order)))
        nodes.append(helper.make_node("Transpose", [name], [f"out_{name}"], perm=order))
    ends = [helper.make_tensor_value_info(f"out_{name}", float32, None) for name in filter(None, kept)]
    stored = [onnx.numpy_helper.from_array(value, key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, "g", sources, ends, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_onnx_operators_are_those_of_onnx_runtime(op, direction):
    runtime = pytest.importorskip("onnxruntime")
    rng, ways = np.random.default_rng(4), 2 if direction == "bidirectional" else 1
    every = (0, 1, 2) if op == "LSTM" else (0, 1)
    cases = [
        {"results": (0,)},
        {"results": every, "states": "input"},
        {"results": every, "states": "constant"},
        {"results": (1,), "activations": FUNCTIONS[op] * ways},
        {"results": (0,), "lengths": 3},
        *([{"results": (0, 1), "linear_before_reset": 1}] if op == "GRU" else []),
    ]
    for settings in cases:
        proto = onnx_model(op, direction, **settings)
        feed = {"x": rng.normal(size=(SAMPLES, STEPS, FEATURES)).astype("float32")}
        if settings.get("states") == "input":
            feed["s"] = rng.normal(size=(SAMPLES, ways, UNITS)).astype("float32")
        expected = runtime.InferenceSession(proto.SerializeToString()).run(None, feed)
        values = list(feed.values())
        results = lrpfast.from_onnx(proto).predict(values if len(values) > 1 else values[0])
        for result, right in zip(results if isinstance(results, list) else [results], expected, strict=True):
            close(result, right, "float32")


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_onnx_layout_1_has_the_batch_first(op, direction):
    """ONNX Runtime does not run it: the same operator with layout 0 between transposes says what it computes."""
    pytest.importorskip("onnx")
    rng, ways = np.random.default_rng(4), 2 if direction == "bidirectional" else 1
    every = (0, 1, 2) if op == "LSTM" else (0, 1)
    x, states = rng.normal(size=(SAMPLES, STEPS, FEATURES)), rng.normal(size=(SAMPLES, ways, UNITS))
    for settings in (
        {"results": (0,)},
        {"results": (1,)},
        {"results": every, "states": "input"},
        {"results": every, "states": "constant"},
        {"results": every, "lengths": 3},
    ):
        inputs = [x, states] if settings.get("states") == "input" else x
        models = [lrpfast.from_onnx(onnx_model(op, direction, layout=layout, **settings)) for layout in (0, 1)]
        several = [model.predict(inputs, precision="float64") for model in models]
        zero, one = (result if isinstance(result, list) else [result] for result in several)
        assert [array.shape for array in one] == [array.shape for array in zero]
        for first, second in zip(zero, one, strict=True):
            np.testing.assert_array_equal(first, second)
        analyzers = [lrpfast.Analyzer(model, Recurrent(0.1), precision="float64") for model in models]
        if len(settings["results"]) == 1:
            relevance = np.random.default_rng(5).normal(size=one[0].shape)
            np.testing.assert_array_equal(*(analyzer.analyze(x, relevance) for analyzer in analyzers))


@pytest.mark.parametrize("op", GATES)
def test_onnx_layout_1_is_that_of_onnxs_own_reference(op):
    onnx = pytest.importorskip("onnx")
    reference = pytest.importorskip("onnx.reference")
    x = np.random.default_rng(4).normal(size=(SAMPLES, STEPS, FEATURES)).astype("float32")
    proto = onnx_model(op, results=(1,), layout=1)
    assert {a.name: a.i for a in proto.graph.node[0].attribute}["layout"] == 1 and onnx
    (expected,) = reference.ReferenceEvaluator(proto).run(None, {"x": x})
    close(lrpfast.from_onnx(proto).predict(x).reshape(-1), expected.reshape(-1), "float32")


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"op": "LSTM", "clip": 3.0}, "clip"),
        ({"op": "LSTM", "input_forget": 1}, "input_forget"),
        ({"op": "LSTM", "inputs": ("", "", "P")}, "peepholes"),
        ({"op": "GRU", "activations": ["Sigmoid", "Affine"]}, "'Affine'"),
    ],
)
def test_onnx_settings_are_refused_by_name(settings, words):
    with pytest.raises(lrpfast.UnsupportedLayerError, match=words):
        lrpfast.from_onnx(onnx_model(**settings))


# -- PyTorch modules --------------------------------------------------------------


def torch_module(forward, **modules):
    """A module of a function of it and its inputs."""
    nn = pytest.importorskip("torch").nn

    class Module(nn.Module):
        def forward(self, *inputs):
            return forward(self, *inputs)

    module = Module()
    for name, value in modules.items():
        setattr(module, name, value)
    return module.eval().double()


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_torch_modules_predict_what_pytorch_does(name):
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    x, last = torch.randn(SAMPLES, STEPS, FEATURES, dtype=torch.float64), -1

    def kind(*arguments, **settings):
        return getattr(torch.nn, name)(*arguments, batch_first=settings.pop("first", True), **settings)

    def hidden(result):
        return result[1][0] if name == "LSTM" else result[1]

    def steps(self, x):
        state = torch.zeros(x.shape[0], UNITS, dtype=x.dtype)
        pair = (state, state)
        for t in range(STEPS):
            pair = self.r(x[:, t], pair) if name == "LSTM" else (self.r(x[:, t], pair[0]), state)
        return pair[0]

    two = {"num_layers": 2, "bidirectional": True}
    cases = [
        torch_module(lambda self, x: self.r(x.transpose(0, 1))[0][last], r=kind(FEATURES, UNITS, first=False)),
        torch_module(lambda self, x: self.r(x)[0], r=kind(FEATURES, UNITS, dropout=0.3, **two)),
        torch_module(lambda self, x: torch.cat(list(hidden(self.r(x))[-2:]), 1), r=kind(FEATURES, UNITS, **two)),
        torch_module(lambda self, x: self.d(x, self.e(x)[1])[0], e=kind(FEATURES, UNITS), d=kind(FEATURES, UNITS)),
        torch_module(steps, r=getattr(torch.nn, f"{name}Cell")(FEATURES, UNITS)),
    ]
    for module in cases:
        expected = module(x).detach().numpy()
        close(lrpfast.from_torch(module, x).predict(x.numpy(), precision="float64"), expected, "float64")


@pytest.mark.parametrize("expanded", [False, True])
def test_torch_cells_that_are_written_by_hand_are_layers(expanded):
    """Steps in a Python loop, and a product of all steps by one matrix that is repeated for each, as bmm needs it."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(2)

    def steps(self, x):
        h = c = torch.zeros(x.shape[0], UNITS, dtype=x.dtype)
        kernel = self.w.weight.T.expand(STEPS, FEATURES, 4 * UNITS)
        rows = torch.bmm(x.transpose(0, 1), kernel) if expanded else [self.w(x[:, t]) for t in range(STEPS)]
        for t in range(STEPS):
            i, f, g, o = (rows[t] + self.u(h)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return h

    linear = torch.nn.Linear
    module = torch_module(steps, w=linear(FEATURES, 4 * UNITS, bias=not expanded), u=linear(UNITS, 4 * UNITS))
    x = torch.randn(SAMPLES, STEPS, FEATURES, dtype=torch.float64)
    model = lrpfast.from_torch(module, x)
    assert [type(layer).__name__ for layer in model.layers] == ["Input", "LSTM"]
    close(model.predict(x.numpy(), precision="float64"), module(x).detach().numpy(), "float64")


def test_torch_projections_are_refused_by_name():
    torch = pytest.importorskip("torch")
    module = torch_module(lambda self, x: self.r(x)[0], r=torch.nn.LSTM(3, 4, proj_size=2, batch_first=True))
    with pytest.raises(lrpfast.UnsupportedLayerError, match="proj_size"):
        lrpfast.from_torch(module, torch.randn(2, 5, 3, dtype=torch.float64))
