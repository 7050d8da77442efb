"""`load(path, input_shape=…)`: sizes that a file leaves open; every message that speaks of them names the cure."""

import pickle
from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast import layers as L
from lrpfast.cli import main
from lrpfast.readers.torch.sizes import evaluated
from test_readers_keras import entry, layer, sequential, write_h5, write_keras

DATA = Path(__file__).parent / "data"
CURE = "--input-shape"


def random(seed=0):
    return np.random.default_rng(seed)


# -- Keras --------------------------------------------------------------------


def prelu(tmp_path):
    """A PReLU over an axis whose size the file leaves open, and its slopes."""
    slope = random().normal(size=(5, 4)).astype("float32")
    model = sequential(entry((None, None, 4)), layer("PReLU", "p", shared_axes=None))
    return write_h5(tmp_path / "m.h5", model, {"p": [slope]}), slope


def test_keras_sizes_that_are_open(tmp_path):
    path, slope = prelu(tmp_path)
    with pytest.raises(lrpfast.UnsupportedLayerError, match=CURE):
        lrpfast.load(path)
    x = random(1).normal(size=(3, 5, 4)).astype("float32")
    for shape in ((5, 4), (5, None), [5, 4], {"entry": (5, 4)}, [(5, 4)]):
        model = lrpfast.load(path, input_shape=shape)
        np.testing.assert_array_equal(model.predict(x), np.where(x > 0, x, slope * x))


def test_keras_archives_and_dense_layers_on_an_open_axis(tmp_path):
    kernel, bias = np.ones((4, 2), "float32"), np.zeros(2, "float32")
    model = sequential(entry((None, None)), layer("Dense", "d", units=2, activation="linear"))
    path = write_keras(tmp_path / "m.keras", model, {"dense": ("d", [kernel, bias])})
    assert lrpfast.load(path, input_shape=4).input_shape == (4,)
    with pytest.raises(lrpfast.ModelFormatError, match="4.*5"):
        lrpfast.load(path, input_shape=5)


def test_a_keras_model_that_does_not_say_its_input_shape(tmp_path):
    conv = layer("Conv1D", "c", filters=2, kernel_size=[3], activation="linear")
    weights = {"c": [np.ones((3, 1, 2), "float32"), np.zeros(2, "float32")]}
    path = write_h5(tmp_path / "m.h5", {"class_name": "Sequential", "config": {"name": "n", "layers": [conv]}}, weights)
    with pytest.raises(lrpfast.ModelFormatError, match=f"layer 'c'.*{CURE}"):
        lrpfast.load(path)
    assert lrpfast.load(path, input_shape=(8, 1)).output_shape == (6, 2)


# -- ONNX ---------------------------------------------------------------------


def onnx_model(text):
    return pytest.importorskip("onnx.parser").parse_model(f'<ir_version: 8, opset_import: ["": 18]> g {text}')


ONNX_OPEN = {
    "Slice": "(float[N, 3, H] x) => (y) <int64[1] a = {0}, int64[1] b = {-1}, int64[1] c = {2}> "
    "{ y = Slice (x, a, b, c) }",
    "Reshape": "(float[N, 2, H] x) => (y) <int64[3] s = {0, -1, 4}> { y = Reshape (x, s) }",
    "ReduceSum": "(float[N, 3, H] x) => (y) <int64[1] a = {2}> { y = ReduceSum (x, a) }",
    "Resize": '(float[N, 1, H, H] x) => (y) <float[4] s = {1, 1, 2, 2}> { y = Resize <mode = "linear"> (x, , s) }',
    "MaxPool": "(float[N, 1, H] x) => (y) { y = MaxPool <kernel_shape = [2], strides = [2], ceil_mode = 1> (x) }",
    "SAME_LOWER": '(float[N, 1, H, H] x) => (y) { y = MaxPool <kernel_shape = [2, 2], auto_pad = "SAME_LOWER"> (x) }',
    "Gather": "(float[N, 3, H] x) => (y) <int64[2] i = {0, -1}> { y = Gather <axis = 2> (x, i) }",
    "Mul": "(float[N, 3, H] x) => (y) <float[4] c = {1, 2, 3, 4}> { y = Mul (x, c) }",
    "LayerNormalization": "(float[N, 3, H] x) => (y) <float[4] c = {1, 2, 3, 4}> { y = LayerNormalization (x, c) }",
    "Expand": "(float[N, H] x) => (y) <float[1, 4] c = {1, 2, 3, 4}> "
    "{ s = Shape (x) b = Expand (c, s) y = Mul (x, b) }",
}


#: Those whose constants fit one size alone; the others are read anew for each size.
ONNX_OF_ONE_SIZE = ("Mul", "LayerNormalization", "Expand")


@pytest.mark.parametrize("case", ONNX_OPEN)
def test_onnx_sizes_that_are_open(case):
    proto = onnx_model(ONNX_OPEN[case])
    reference = pytest.importorskip("onnx.reference").ReferenceEvaluator(proto)
    dims = proto.graph.input[0].type.tensor_type.shape.dim[1:]
    model = None
    if case in ONNX_OF_ONE_SIZE:
        with pytest.raises(lrpfast.LrpfastError, match=CURE) as error:
            lrpfast.from_onnx(proto)
        assert "6007" not in str(error.value)  # which stands for an open size
    else:
        model = lrpfast.from_onnx(proto)
        assert model.is_open and model.input_shape == tuple(d.dim_value or None for d in dims)
    for n in (4,) if model is None else (4, 12):
        shape = tuple(d.dim_value or n for d in dims)
        fixed = lrpfast.from_onnx(proto, input_shape={"x": shape})
        assert fixed.input_shape == shape and not fixed.is_open
        x = random().normal(size=(2, *shape)).astype("float32")
        (expected,) = reference.run(None, {"x": x})
        for each in (fixed,) if model is None else (fixed, model, model.with_input_shape(shape)):
            np.testing.assert_allclose(each.predict(x), expected, rtol=1e-5, atol=1e-6)


def test_an_onnx_input_without_a_shape(tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx_model("(float x) => (float[N, 2] y) { y = Relu (x) }")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    with pytest.raises(lrpfast.UnsupportedLayerError, match=f"'x' has no shape.*{CURE}"):
        lrpfast.load(path)
    assert lrpfast.load(path, input_shape=2).predict([[-1.0, 2.0]]).tolist() == [[0.0, 2.0]]


# -- PyTorch ------------------------------------------------------------------


def test_a_pt2_with_open_sizes():
    """y = conv(x) flattened, times its height, plus 0, 1, 2, …: every size follows from the input's."""
    path = DATA / "torch_open_sizes.pt2"
    model, fixed = lrpfast.load(path), lrpfast.load(path, input_shape=(1, 8, 6))
    assert (model.input_shape, model.output_shape) == ((1, None, None), (None,))
    conv = next(item for item in fixed.layers if isinstance(item, L.Conv))
    for h, w in ((8, 6), (12, 4)):
        x = random().normal(size=(2, 1, h, w)).astype("float32")
        padded = np.pad(x[:, 0], ((0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
        maps = np.einsum("bhwij,ijo->bohw", windows, conv.kernel[:, :, 0]) + conv.bias[:, None, None]
        expected = maps.reshape(2, -1) * maps.shape[2] + np.arange(maps[0].size)
        for each in (model, fixed) if (h, w) == (8, 6) else (model, model.with_input_shape((1, h, w))):
            np.testing.assert_allclose(each.predict(x), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(lrpfast.InputError, match="100.*4 to 64"):
        lrpfast.load(path, input_shape=(1, 100, 6))
    with pytest.raises(lrpfast.InputError, match="100.*4 to 64"):
        model.predict(np.zeros((2, 1, 100, 6)))


def test_a_text_model_of_any_length(tmp_path):
    """It is read anew for each length; whatever is made of it, too."""
    path = DATA / "attention" / "bert_anylength.pt2"
    model = lrpfast.load(path)
    assert model.input_shape == [(None,), (None,)] and model.output_shape == (3,) and model.is_open
    fixed = lrpfast.load(path, input_shape={"x": (4,), "mask": (4,)})
    ids, mask = np.array([[3, 5, 2, 0], [1, 7, 2, 9]]), np.array([[1, 1, 1, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(model.predict([ids, mask]), fixed.predict([ids, mask]))
    analyzer = lrpfast.Analyzer(model, "attn_lrp", target=0)
    expected = lrpfast.Analyzer(fixed, "attn_lrp", target=0).analyze([ids, mask])[0]
    again = pickle.loads(pickle.dumps(analyzer))
    for each in (analyzer, again):
        np.testing.assert_array_equal(each.analyze([ids, mask])[0], expected)
    texts = [[ids[1], ids[1][:3]], [mask[1], mask[1][:3]]]
    assert [len(tokens) for tokens in analyzer.analyze(texts)[0]] == [4, 3]
    name = model.nodes[-2].name
    part, last = model.until(name), fixed.until(name)
    assert part.is_open
    np.testing.assert_array_equal(part.predict([ids, mask]), last.predict([ids, mask]))
    assert not (model.randomized(1).predict([ids, mask]) == model.predict([ids, mask])).any()
    assert model.without_softmax().is_open and repr(model)
    layers = zip(model.with_input_shape(4, 4).layers, model.with_input_shape(5, 5).layers, strict=True)
    assert all(a.kernel is b.kernel for a, b in layers if isinstance(a, L.Dense)), "weights exist once"
    with pytest.raises(lrpfast.InputError, match="with_input_shape"):
        model.save(tmp_path / "m.npz")
    model.with_input_shape(4, 4).save(tmp_path / "m.npz")
    for wrong, words in (((4,), "2 inputs, not 1"), (((4, 1), 4), r"\(None,\), not \(4, 1\)"), ((4, 5), "same size")):
        with pytest.raises(lrpfast.LrpfastError, match=words):
            model.with_input_shape(*wrong)


def test_the_cure_names_every_input():
    """Of several inputs whose sizes are open, as one call and as one command line."""
    sides = {
        "(float[N, 3, H] x, float[N, 3, H] z) => (y) <float[4] c = {1, 2, 3, 4}> { w = Add (x, z) y = Mul (w, c) }": (
            "input_shape={'x': (3, n), 'z': (3, n)}",
            "--input-shape x=3,n --input-shape z=3,n",
        ),
        "(float[N, 3, H] x) => (y) <float[4] c = {1, 2, 3, 4}> { y = Mul (x, c) }": (
            "input_shape=(3, n)",
            "--input-shape 3,n",
        ),
    }
    for text, cures in sides.items():
        with pytest.raises(lrpfast.UnsupportedLayerError) as caught:
            lrpfast.from_onnx(onnx_model(text))
        assert all(str(caught.value).count(cure) == 1 for cure in cures), caught.value


def test_an_exported_program_with_open_sizes():
    torch = pytest.importorskip("torch")
    sizes = {0: torch.export.Dim("n", min=1, max=99), 1: torch.export.Dim("w", min=2, max=64)}

    class Weighted(torch.nn.Module):
        def forward(self, x):
            return x * torch.arange(x.shape[1])

    program = torch.export.export(Weighted(), (torch.ones(2, 7),), dynamic_shapes=(sizes,))
    assert lrpfast.from_torch(program, input_shape=3).predict([[1.0, 1.0, 1.0]]).tolist() == [[0.0, 1.0, 2.0]]
    with pytest.raises(lrpfast.InputError, match="2 to 64"):
        lrpfast.from_torch(program, input_shape=65)
    with pytest.raises(lrpfast.InputError, match="example_inputs"):
        lrpfast.from_torch(Weighted(), torch.ones(2, 7), input_shape=3)


@pytest.mark.parametrize(
    "expression, size",
    [
        ("Symbol('s0', positive=True, integer=True)", 10),
        ("Add(FloorDiv(Add(Symbol('s0', integer=True), Integer(-1)), Integer(2)), Integer(1))", 5),
        ("Mul(Integer(2), Symbol('s1'))", None),
        ("Pow(Symbol('s0'), Integer(99999999))", None),
        ("FloorDiv(Symbol('s0'), Integer(0))", None),
        ("Mul(" * 3000 + "Integer(1)" + ")" * 3000, 1),
        ("Integer(1))", None),
        ("Integer(" + "9" * 10000 + ")", None),
        ("__import__('os').abort()", None),
        ("Integer('x')", None),
        ("", None),
    ],
)
def test_expressions_of_sizes(expression, size):
    assert evaluated(expression, {"s0": 10}) == size


# -- contradictions, names, the command ---------------------------------------


@pytest.mark.parametrize(
    "shape, words",
    [
        ((8, 8), ["2 axes", "(open, open, 1)"]),
        ((2, 8, 8, 1), ["4 axes", "batch axis"]),
        ((8, 8, 3), ["size 3", "axis 2", "1", "'x'"]),
        ({"y": (8, 8, 1)}, ["'y'", "'x'"]),
        ([(8, 8, 1), (8, 8, 1)], ["2 shapes", "'x'"]),
        ((8, 0, 1), ["positive"]),
        ("8,8,1", ["positive"]),
        ({"x": None}, ["positive"]),
    ],
)
def test_shapes_that_contradict_the_file(tmp_path, shape, words):
    path = tmp_path / "m.npz"
    conv = L.Conv(np.ones((3, 3, 1, 2)))
    lrpfast.from_layers([L.Input((None, None, 1), name="x"), conv]).save(path)
    with pytest.raises(lrpfast.InputError) as caught:
        lrpfast.load(path, input_shape=shape)
    assert not isinstance(caught.value, lrpfast.ModelFormatError)
    for word in words:
        assert word in str(caught.value)


def test_contradictions_name_the_file_in_every_reader(tmp_path):
    path, _ = prelu(tmp_path)
    files = [path, DATA / "torch_open_sizes.pt2", DATA / "torch_cnn.onnx", DATA / "cnn.keras"]
    for file in files[: None if pytest.importorskip("onnx") else 2]:
        with pytest.raises(lrpfast.InputError, match="input_shape") as caught:
            lrpfast.load(file, input_shape=(99, 99, 99))
        assert file.name in str(caught.value) and type(caught.value) is lrpfast.InputError


def two_inputs(path):
    a, b = L.Input((None,), name="a"), L.Input((2,), name="b")
    lrpfast.Model([(a, ()), (b, ()), (L.Concat(0), (0, 1))]).save(path)
    return path


def test_several_inputs(tmp_path):
    path = two_inputs(tmp_path / "m.npz")
    for shape in ({"a": 3}, {"a": (3,), "b": (None,)}, [(3,), (2,)]):
        assert lrpfast.load(path, input_shape=shape).output_shape == (5,)
    with pytest.raises(lrpfast.InputError, match="2 inputs.*'a'.*--input-shape a="):
        lrpfast.load(path, input_shape=3)


def test_the_command(tmp_path, capsys):
    path, slope = prelu(tmp_path)
    assert main(["inspect", str(path)]) != 0
    assert CURE in capsys.readouterr().err
    assert main(["inspect", str(path), "--input-shape", "5,4"]) == 0
    x = random().normal(size=(6, 5, 4)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    command = [
        "explain",
        str(path),
        str(tmp_path / "x.npy"),
        "-o",
        str(tmp_path / "r.npy"),
        "--quiet",
        "--target",
        "all",
    ]
    assert main([*command, "--input-shape", "5,4"]) == 0
    assert main(["inspect", str(two_inputs(tmp_path / "two.npz")), "--input-shape", "a=3", "--input-shape", "b=2"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(path), "--input-shape", "5,4", "--input-shape", "5,4"]) != 0
    assert "once for each input" in capsys.readouterr().err
    assert main(["inspect", str(path), "--input-shape", "5x4"]) != 0
    assert "3,224,224" in capsys.readouterr().err
