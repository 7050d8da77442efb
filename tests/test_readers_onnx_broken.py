"""ONNX files that are damaged, lie about sizes, or hold what lrpfast does not read: a message at once."""

import contextlib
import os
import re
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import lrpfast

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from lrpfast.readers.onnx.fold import FOLDED  # noqa: E402
from lrpfast.readers.onnx.model import known_operators  # noqa: E402

DATA = Path(__file__).parent / "data"
CNN = DATA / "torch_cnn.onnx"


def model_of(nodes, constants=(), shape=("N", 4), opset=20, inputs=None, outputs=("y",), domains=()):
    if inputs is None:
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    whole = helper.make_graph(nodes, "g", inputs, ends, list(constants))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(whole, opset_imports=imports, ir_version=8)


def node(op, inputs, outputs=("y",), **attributes):
    return helper.make_node(op, list(inputs), list(outputs), name=f"the_{op.lower()}", **attributes)


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def refused(source, kind=lrpfast.ModelFormatError, *words):
    """The message, which comes within a second and 50 MB."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(kind) as caught:
            lrpfast.load(source) if isinstance(source, (str, os.PathLike)) else lrpfast.from_onnx(source)
        assert time.perf_counter() - start < 1
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize("length", (3, 10, 100, 3000, 7000))
def test_truncated(tmp_path, length):
    path = tmp_path / "m.onnx"
    path.write_bytes(CNN.read_bytes()[:length])
    assert str(path) in refused(path)


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_are_no_crash(seed):
    data = bytearray(CNN.read_bytes())
    rng = np.random.default_rng(seed)
    for at in rng.integers(0, len(data), 8):
        data[at] = rng.integers(256)
    with contextlib.suppress(lrpfast.ModelFormatError, lrpfast.UnsupportedLayerError):
        lrpfast.from_onnx(bytes(data))


def test_what_is_no_model(tmp_path):
    refused(b"")
    refused(b"\x08\x0a")
    refused(onnx.ModelProto(ir_version=8))
    with pytest.raises(lrpfast.InputError):
        lrpfast.from_onnx(3)
    with pytest.raises(lrpfast.ModelNotFoundError):
        lrpfast.from_onnx(tmp_path / "none.onnx")


def test_cycles():
    nodes = [node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"])]
    refused(model_of(nodes), lrpfast.ModelFormatError, "feeds itself", "the_add")


def test_what_nothing_makes():
    refused(model_of([node("Relu", ["z"])]), lrpfast.ModelFormatError, "'z'", "the_relu", "1 of 1")
    refused(model_of([node("Relu", ["x"], ["z"])]), lrpfast.ModelFormatError, "'y'")
    refused(model_of([node("Relu", ["x"]), node("Tanh", ["x"])]), lrpfast.ModelFormatError, "'y'")


@pytest.mark.parametrize("dims", ((1 << 40, 1 << 40), (1 << 62, 4), (-4, 3), (4, 3)))
def test_sizes_that_are_not_there(dims):
    weight = constant("w", np.ones((4, 2), np.float32))
    del weight.dims[:]
    weight.dims.extend(dims)
    refused(model_of([node("MatMul", ["x", "w"])], [weight]), lrpfast.ModelFormatError, "'w'")
    listed = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, float_data=[1.0] * 8)
    refused(model_of([node("MatMul", ["x", "w"])], [listed]), lrpfast.ModelFormatError, "'w'")


def test_constants_made_up_of_nothing():
    shape = constant("s", np.array([1 << 20, 1 << 20], np.int64))
    nodes = [node("ConstantOfShape", ["s"], ["w"]), node("MatMul", ["x", "w"])]
    refused(model_of(nodes, [shape]), lrpfast.ModelFormatError, "the_constantofshape", "values")
    nodes = [node("Expand", ["o", "s"], ["w"]), node("MatMul", ["x", "w"])]
    refused(model_of(nodes, [shape, constant("o", np.float32(1))]), lrpfast.ModelFormatError, "the_expand")
    nodes = [node("Range", ["a", "b", "c"], ["w"]), node("Add", ["x", "w"])]
    ends = [constant(n, np.int64(v)) for n, v in (("a", 0), ("b", 1 << 50), ("c", 1))]
    refused(model_of(nodes, ends), lrpfast.ModelFormatError, "the_range")
    nodes = [node("Tile", ["o", "s"], ["w"]), node("Add", ["x", "w"])]
    refused(model_of(nodes, [shape, constant("o", np.ones((1, 1), np.float32))]), lrpfast.ModelFormatError, "the_tile")
    column, row = (constant(n, np.ones(s, np.float32)) for n, s in (("a", (1 << 17, 1)), ("b", (1, 1 << 17))))
    for op in ("MatMul", "Add"):
        refused(
            model_of([node(op, ["a", "b"], ["w"]), node("Mul", ["x", "w"])], [column, row]), lrpfast.ModelFormatError
        )


def test_many_constants_made_up_of_nothing():
    """Each is of a size that a network may have; all together they are not."""
    shape = constant("s", np.array([1 << 12, 1 << 12], np.int64))
    nodes = [node("ConstantOfShape", ["s"], ["w0"])]
    nodes += [node("Add", ["w0", f"w{i}"], [f"w{i + 1}"]) for i in range(100)]
    for i, item in enumerate(nodes):
        item.name = f"n{i}"
    proto = model_of([*nodes, node("MatMul", ["x", "w100"])], [shape])
    with pytest.raises(lrpfast.ModelFormatError, match="memory"):
        lrpfast.from_onnx(proto)


def test_wrong_element_types():
    weight = constant("w", np.array([[b"a"]], object))
    refused(model_of([node("MatMul", ["x", "w"])], [weight]), lrpfast.UnsupportedLayerError, "'w'")
    weight = constant("w", np.ones((4, 2), np.complex64))
    refused(model_of([node("MatMul", ["x", "w"])], [weight]), lrpfast.UnsupportedLayerError, "'w'")
    reshape = node("Reshape", ["x", "s"])
    refused(model_of([reshape], [constant("s", np.array([0.5, np.nan], np.float32))]))
    inputs = [helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)]
    refused(model_of([node("Relu", ["x"])], inputs=inputs), lrpfast.UnsupportedLayerError, "'x'")


def test_inputs_of_whole_numbers():
    inputs = [helper.make_tensor_value_info("x", TensorProto.INT64, ["N", 4])]
    half = constant("h", np.float32(0.5))
    refused(
        model_of([node("Mul", ["x", "h"])], [half], inputs=inputs), lrpfast.UnsupportedLayerError, "the_mul", "whole"
    )
    cast = node("Cast", ["x"], ["f"], to=TensorProto.FLOAT)
    assert lrpfast.from_onnx(model_of([cast, node("Mul", ["f", "h"])], [half], inputs=inputs)).output_shape == (4,)
    table = constant("t", np.arange(6, dtype=np.float32).reshape(3, 2))
    model = lrpfast.from_onnx(model_of([node("Gather", ["t", "x"])], [table], inputs=inputs))
    assert model.predict(np.array([[0, 1, 2, 1]])).tolist() == [[[0, 1], [2, 3], [4, 5], [2, 3]]]


def test_outputs_that_are_not_computed():
    pool = node("MaxPool", ["x"], ["p", "i"], kernel_shape=[2, 2])
    cast = node("Cast", ["i"], ["f"], to=TensorProto.FLOAT)
    proto = model_of([pool, cast, node("Add", ["p", "f"])], shape=("N", 3, 4, 4))
    refused(proto, lrpfast.UnsupportedLayerError, "'i'", "the_cast")


def test_values_that_are_not_finite():
    weight = constant("w", np.full((4, 2), np.nan, np.float32))
    refused(model_of([node("MatMul", ["x", "w"])], [weight]), lrpfast.ModelFormatError, "the_matmul", "not finite")


@pytest.mark.parametrize("shape", ((5, 2), (4,) * 5, (2, 4, 3)))
def test_weights_that_do_not_fit(shape):
    weight = constant("w", np.ones(shape, np.float32))
    error = (lrpfast.ModelFormatError, lrpfast.UnsupportedLayerError)
    refused(model_of([node("MatMul", ["x", "w"])], [weight]), error, "the_matmul")
    refused(model_of([node("Conv", ["x", "w"])], [weight], ("N", 3, 8, 8)), error, "the_conv")


def external(folder, location, length=None, offset=None, shape=(4, 2)):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("length", length), ("offset", offset)):
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    path = folder / "m.onnx"
    path.write_bytes(model_of([node("MatMul", ["x", "w"])], [tensor]).SerializeToString())
    return path


def test_external_data(tmp_path):
    folder = tmp_path / "model"
    (folder / "deeper").mkdir(parents=True)
    values = np.arange(8, dtype=np.float32)
    for place in (folder / "w.bin", folder / "deeper" / "w.bin", tmp_path / "out.bin"):
        place.write_bytes(b"\0" * 16 + values.tobytes())
    for location in ("w.bin", "deeper/w.bin"):
        model = lrpfast.load(external(folder, location, 32, 16))
        np.testing.assert_array_equal(model.layers[1].kernel, values.reshape(4, 2))
    refused(external(folder, "../out.bin", 32, 16), lrpfast.ModelFormatError, "out.bin", "folder")
    refused(external(folder, str(tmp_path / "out.bin"), 32, 16), lrpfast.ModelFormatError, "folder")
    refused(external(folder, str(folder / "w.bin"), 32, 16), lrpfast.ModelFormatError, "folder")
    (folder / "link.bin").symlink_to(tmp_path / "out.bin")
    refused(external(folder, "link.bin", 32, 16), lrpfast.ModelFormatError, "link.bin")
    refused(external(folder, "none.bin", 32, 16), lrpfast.ModelFormatError, "none.bin")
    refused(external(folder, "deeper", 32, 16), lrpfast.ModelFormatError)
    refused(external(folder, "", 32, 16), lrpfast.ModelFormatError)
    refused(external(folder, "w.bin", 32, 20), lrpfast.ModelFormatError, "bytes")
    refused(external(folder, "w.bin", 32, -8), lrpfast.ModelFormatError, "bytes")
    refused(external(folder, "w.bin", 16, 0), lrpfast.ModelFormatError, "bytes")
    refused(external(folder, "w.bin", "x", 0), lrpfast.ModelFormatError)
    refused(external(folder, "w.bin", None, None, (1 << 30, 1 << 30)), lrpfast.ModelFormatError, "bytes")
    refused(external(folder, "w.bin", 32, 16).read_bytes(), lrpfast.ModelFormatError, "path")


def test_an_operator_that_is_not_read_names_itself():
    message = refused(model_of([node("Relu", ["x"], ["z"]), node("Sin", ["z"])]), lrpfast.UnsupportedLayerError)
    assert "node 'the_sin' (Sin, 2 of 2)" in message and "Conv, " in message
    custom = node("FusedThing", ["x"], domain="com.example")
    refused(model_of([custom], domains=["com.example"]), lrpfast.UnsupportedLayerError, "com.example.FusedThing")


def test_an_attribute_that_is_not_understood():
    odd = node("Relu", ["x"], mode=3)
    refused(model_of([odd]), lrpfast.UnsupportedLayerError, "the_relu", "'mode'")


@pytest.mark.parametrize(
    "nodes, constants, word",
    [
        ([node("Transpose", ["x"], ["t"], perm=[1, 0]), node("Softmax", ["t"])], {}, "batch"),
        ([node("Concat", ["x", "x"], axis=0)], {}, "batch"),
        ([node("Reshape", ["x", "s"])], {"s": np.array([4, -1])}, "batch"),
        ([node("Softmax", ["x"], axis=0)], {}, "batch"),
        ([node("Pow", ["x", "e"])], {"e": np.arange(4.0)}, "powers"),
        ([node("Cast", ["x"], to=TensorProto.INT64)], {}, "int64"),
        ([node("Pad", ["x", "p"])], {"p": np.array([1, 0, 1, 0])}, "batch"),
        ([node("Pad", ["x", "p"], mode="mirror")], {"p": np.array([0, 1, 0, 1])}, "mirror"),
        ([node("Resize", ["x", "", "s"], mode="area")], {"s": np.array([1, 2], np.float32)}, "area"),
        ([node("Slice", ["x", "a", "b", "c"])], {"a": np.array([0]), "b": np.array([1]), "c": np.array([0])}, "batch"),
        ([node("Dropout", ["x"], ["y", "m"]), node("Relu", ["m"], ["z"])], {}, None),
    ],
    ids=lambda v: v[0].op_type if isinstance(v, list) else None,
)
def test_what_is_not_read(nodes, constants, word):
    proto = model_of(nodes, [constant(k, v) for k, v in constants.items()])
    if word is None:
        assert lrpfast.from_onnx(proto).output_shape == (4,)
    else:
        assert f"the_{nodes[-1].op_type.lower()}" in refused(proto, lrpfast.UnsupportedLayerError, word)


def test_loops_and_what_they_take_from_around_them():
    """Their bodies have inputs of their own, which nothing in the graph makes; the file is not broken."""
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x) => (float[N, 3] y)
        <int64 n = {2}, bool c = {1}> { s = Relu(x) BODY }"""
    loop = "y = Loop(n, c, x) <body = b (int64 i, bool d, float[N, 3] a) => (bool e, float[N, 3] o) { BODY }>"
    inner = "e = Identity(d) o = Mul(a, s)"
    scan = "y = Scan(s) <num_scan_inputs = 1, body = b (float[3] a) => (float[3] o) { o = Add(a, a) }>"
    ends = "e = Greater(a, s) o = Mul(a, s)"
    for body, op, why in (
        (loop.replace("BODY", ends), "Loop", "ends by what the model computes"),
        (loop.replace("n, c", "rounds, c").replace("BODY", inner), "Loop", "number of rounds"),
        (scan, "Scan", "is a loop"),
    ):
        proto = onnx.parser.parse_model(
            text.replace("BODY", body.replace("rounds", "k")).replace(
                "s = Relu(x)", "s = Relu(x) k0 = ReduceSum <keepdims = 0> (x) k = Cast <to = 7> (k0) c0 = Sum(k0)"
            )
        )
        refused(proto, lrpfast.UnsupportedLayerError, op, why)
    x = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]])
    proto = onnx.parser.parse_model(text.replace("BODY", loop.replace("BODY", inner)))
    onnx.checker.check_model(proto)
    np.testing.assert_allclose(lrpfast.from_onnx(proto).predict(x), x * np.maximum(x, 0) ** 2)


def test_an_operator_that_is_read_on_constants_alone_is_not_said_to_work():
    refused(model_of([node("Erf", ["x"])]), lrpfast.UnsupportedLayerError, "the_erf", "GELU")
    refused(model_of([node("Floor", ["x"])]), lrpfast.UnsupportedLayerError, "the_floor", "These work: Abs, Add,")
    assert "Floor" not in known_operators() and "LogSoftmax" in known_operators()


@pytest.mark.parametrize(
    "nodes, constants, shape, word",
    [
        ([node("Mul", ["x", "c"], ["m"]), node("Softmax", ["m"], axis=1)], {"c": np.ones((1, 1, 1), np.float32)},
         ("N", 3), "along the batch axis"),
        ([node("Relu", ["x"], ["r"]), node("Min", ["r", "c"])], {"c": np.ones((1, 1, 1), np.float32)}, ("N", 3),
         "3 axes"),
        ([node("Mul", ["x", "c"])], {"c": np.ones((5, 3), np.float32)}, ("N", 3), "constant of shape (5, 3)"),
        ([node("Mul", ["x", "c"])], {"c": np.ones(5, np.float32)}, ("N", 3, "H"), "fixed size"),
        ([node("ReduceMax", ["x", "c"], ["m"], keepdims=0), node("Add", ["x", "m"])],
         {"c": np.array([1])}, ("N", 3, 4), "batch axes"),
        ([node("Celu", ["x"], alpha=-1.0)], {}, ("N", 3), "alpha"),
        ([node("Shrink", ["x"], lambd=-1.0)], {}, ("N", 3), "lambd"),
    ],
)  # fmt: skip
def test_a_good_file_is_not_called_broken(nodes, constants, shape, word):
    proto = model_of(nodes, [constant(k, v) for k, v in constants.items()], shape)
    message = refused(proto, lrpfast.UnsupportedLayerError, "the_", f"({nodes[-1].op_type}, ", word)
    assert "*, " not in message


F32 = np.float32
DAMAGED = {
    "constants that do not meet": (
        [node("Mul", ["x", "a"], ["p"]), node("Add", ["p", "b"])], {"a": np.ones(2, F32), "b": np.ones(4, F32)},
        r"\(4,\) and \(2,\) do not fit each other",
    ),
    "an input too few": ([node("Relu", ["x"], ["r"]), node("Div", ["r"])], {}, "1 inputs"),
    "an input too many": ([node("Tanh", ["x", "x"])], {}, "2 inputs"),
    "an input left out": ([node("Sub", ["", "x"])], {}, "input 'A' is missing"),
    "an output too many": ([node("Tanh", ["x"], ["y", "z"])], {}, "2 outputs"),
    "axes that are no numbers": (
        [node("Unsqueeze", ["x", "a"])], {"a": np.array([np.nan])}, "axes is of float64, not of whole numbers",
    ),
    "a function of too few inputs": (
        [node("Exp", ["x"], ["e"]), node("Add", ["e"], ["f"]), node("Log", ["f"])], {}, "1 inputs",
    ),
    "an attribute of another type": ([node("LeakyRelu", ["x"], alpha="much")], {}, "'alpha' is 'much'.*a number"),
    "a number where several belong": ([node("Transpose", ["x"], perm=1)], {}, "'perm' is 1.*whole numbers"),
    "text where a number belongs": ([node("Softmax", ["x"], axis="last")], {}, "'axis' is 'last'.*a whole number"),
    "an attribute left out": ([node("Concat", ["x", "x"])], {}, "'axis' is missing"),
    "a shape of halves": ([node("Reshape", ["x", "s"])], {"s": np.array([0, 0.5])}, "shape is of float64"),
    "indices of halves": ([node("Gather", ["x", "i"], axis=1)], {"i": np.array([0.5])}, "indices is of float64"),
    "pads of halves": ([node("Pad", ["x", "p"])], {"p": np.zeros(4)}, "pads is of float64"),
    "a stack along no axis": (
        [node("Unsqueeze", ["x", "a"], ["u"]), node("Concat", ["u", "u"], ["c"], axis=1),
         node("ReduceSum", ["c", "b"], keepdims=0)],
        {"a": np.array([1]), "b": np.array([np.nan])}, "axes is of float64",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_nodes_that_the_standard_does_not_allow(name):
    nodes, constants, words = DAMAGED[name]
    message = refused(model_of(nodes, [constant(k, v) for k, v in constants.items()]), lrpfast.ModelFormatError, "the_")
    assert re.search(words, message), message


def test_every_operator_with_every_input_left_out_or_of_another_kind():
    """Nothing but an error of lrpfast comes of it, whatever an operator's own code relies on."""
    odd = {"n": np.array(np.nan), "e": np.zeros(0), "m": np.ones((2, 3)), "i": np.array([2**62]), "b": np.array(True)}
    for op in sorted({*known_operators(), *FOLDED} - {"If"}):
        for inputs in (
            [],
            ["x"],
            ["", "x"],
            *(["x", k] for k in odd),
            *([k, k] for k in odd),
            ["x", "x", "n"],
            ["m"] * 4,
        ):
            attributes = {"axis": 1} if op == "Concat" else {}
            nodes = [node("Relu", ["x"], ["r"]), node(op, inputs, ["z"], **attributes), node("Add", ["r", "z"])]
            proto = model_of(nodes, [constant(k, v) for k, v in odd.items()])
            with contextlib.suppress(lrpfast.ModelFormatError, lrpfast.UnsupportedLayerError):
                lrpfast.from_onnx(proto)


def test_inputs():
    two = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in "xz"]
    refused(model_of([node("Relu", ["x"])], inputs=two), lrpfast.UnsupportedLayerError, "'z'")
    model = lrpfast.from_onnx(model_of([node("Add", ["x", "z"])], inputs=two))
    assert [model.nodes[i].name for i in model.inputs] == ["x", "z"]
    bare = [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    refused(model_of([node("Relu", ["x"])], inputs=bare), lrpfast.UnsupportedLayerError, "no shape")
    flat = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])]
    refused(model_of([node("Relu", ["x"])], inputs=flat), lrpfast.UnsupportedLayerError, "batch")
    weight = constant("w", np.ones((4, 2), np.float32))  # as IR 3 writes it: an input too
    listed = [*two[:1], helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 2])]
    assert lrpfast.from_onnx(model_of([node("MatMul", ["x", "w"])], [weight], inputs=listed)).input_shape == (4,)


@pytest.mark.parametrize("opset", (6, 99))
def test_versions(opset):
    refused(model_of([node("Relu", ["x"])], opset=opset), lrpfast.UnsupportedLayerError, str(opset))


def test_open_sizes():
    model = lrpfast.from_onnx(
        model_of(
            [node("Conv", ["x", "w"], ["c"]), node("GlobalAveragePool", ["c"], ["g"]), node("Flatten", ["g"])],
            [constant("w", np.ones((2, 3, 3, 3), np.float32))],
            ("N", 3, "H", "W"),
        )
    )
    assert model.input_shape == (3, None, None) and model.output_shape == (2,)
    assert model.predict(np.ones((1, 3, 5, 6))).tolist() == [[27.0, 27.0]]


def test_the_package_onnx_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(lrpfast.MissingPackageError, match="pip install onnx"):
        lrpfast.load(CNN)


@pytest.mark.parametrize("name", ["digits_mlp.h5", "cnn.keras"])
def test_another_kind_of_file(name):
    with pytest.raises(lrpfast.ModelFormatError, match=f"{name}.*lrpfast.load"):
        lrpfast.from_onnx(DATA / name)
