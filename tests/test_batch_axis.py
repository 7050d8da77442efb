"""The batch anywhere in a file's tensors: moved, joined with other axes, split from them, and first again."""

import math

import numpy as np
import pytest

import lrpfast
from lrpfast.readers.batch_axis import BATCH, FIRST, BatchAxis, of_axes, reshaped

onnx = pytest.importorskip("onnx")

from test_readers_onnx_operators import check, graph, i64  # noqa: E402


def numbers(*shape):
    return np.random.default_rng(math.prod(shape)).normal(size=shape)


#: Moves of x of shape (N, 4, 6), what is computed where they led, and what puts the batch first again. "perm": axes;
#: "to": sizes, -1 where the batch is.
TURN = [("perm", (1, 0, 2))]
MOVES = {
    "tokens first": [*TURN, ("dense", 6), *TURN],
    "batch last": [("perm", (1, 2, 0)), ("left", 6), ("perm", (2, 0, 1))],
    "batch joined with tokens": [("to", (-1, 6)), ("dense", 6), ("to", (-1, 4, 5))],
    "tokens joined with the batch": [*TURN, ("to", (-1, 6)), ("dense", 6), ("softmax", -1), ("to", (4, -1, 5)), *TURN],
    "heads": [
        *[("to", (-1, 4, 2, 3)), ("perm", (0, 2, 1, 3)), ("to", (-1, 4, 3)), ("norm", -1), ("softmax", 1)],
        *[("to", (-1, 2, 4, 3)), ("perm", (0, 2, 1, 3)), ("to", (-1, 24))],
    ],
    "heads of tokens first": [*TURN, ("to", (4, -1, 3)), *TURN, ("softmax", 1), *TURN, ("to", (4, -1, 6)), *TURN],
    "qkv": [("to", (-1, 4, 3, 1, 2)), ("perm", (2, 0, 3, 1, 4)), ("pick", 1), ("softmax", -1)],
    "a new first axis": [("new", 0), ("add", (1, 1, 4, 6)), ("dense", 6), ("drop", 0)],
    "windows": [
        *[("to", (-1, 2, 2, 3, 2)), ("perm", (0, 1, 3, 2, 4)), ("to", (-1, 2, 2)), ("softmax", -1), ("to", (-1, 24))],
    ],
    "between two axes": [
        *[*TURN, ("to", (2, -1, 6)), ("add", (1, 6)), ("softmax", 2), ("slice", 2), ("to", (4, -1, 4)), *TURN],
    ],
    "a mean over tokens": [*TURN, ("mean", 0), ("dense", 6)],
    "one token": [*TURN, ("pick", 1), ("dense", 6)],
    "all in one": [*TURN, ("to", (-1,)), ("scale", ()), ("to", (4, -1, 6)), *TURN],
    "sums of two": [("perm", (2, 0, 1)), ("twice", ()), ("softmax", 0), *TURN],
    "joined with itself": [*TURN, ("cat", 2), ("dense", 12), *TURN],
}


def nodes_of(moves):
    """ONNX nodes, and the constants that they take."""
    nodes, constants, at = [], {}, "x"
    for i, (kind, value) in enumerate(moves):
        out, c = f"t{i}", f"c{i}"
        attributes, inputs = {}, [at, c]
        if kind == "perm":
            op, inputs, attributes = "Transpose", [at], {"perm": value}
        elif kind == "to":
            op, constants[c] = "Reshape", i64(*value)
        elif kind == "dense":
            op, constants[c] = "MatMul", numbers(value, 5)
        elif kind == "left":
            op, inputs, constants[c] = "MatMul", [c, at], numbers(5, value)
        elif kind == "softmax":
            op, inputs, attributes = "Softmax", [at], {"axis": value}
        elif kind == "norm":
            op, attributes, constants[c] = "LayerNormalization", {"axis": value}, numbers(3)
        elif kind == "pick":
            op, constants[c] = "Gather", np.array(value)
        elif kind in ("new", "drop"):
            op, constants[c] = "Unsqueeze" if kind == "new" else "Squeeze", i64(value)
        elif kind in ("add", "scale"):
            op, constants[c] = "Add" if kind == "add" else "Mul", numbers(*value)
        elif kind == "slice":
            op, inputs = "Slice", [at, f"a{i}", f"b{i}", c]
            constants |= {f"a{i}": i64(1), f"b{i}": i64(5), c: i64(value)}
        elif kind == "mean":
            op, attributes, constants[c] = "ReduceMean", {"keepdims": 0}, i64(value)
        elif kind == "twice":
            op, inputs = "Add", [at, at]
        else:
            op, inputs, attributes = "Concat", [at, at], {"axis": value}
        nodes.append((op, inputs, [out], attributes))
        at = out
    return nodes, constants, at


@pytest.mark.parametrize("case", MOVES)
def test_moves(case):
    nodes, constants, at = nodes_of(MOVES[case])
    check([*nodes, ("Identity", [at], ["y"], {})], (4, 6), constants)


@pytest.mark.parametrize("seed", range(12))
def test_random_moves_and_back(seed):
    """Axes permuted, joined and split at random, something computed on the last one, and all of it undone."""
    rng = np.random.default_rng(seed)
    axes, moves, undo = [(BATCH,), (2,), (3,), (2,)], [], []

    def sizes(of):
        return tuple(-1 if BATCH in axis else math.prod(axis) for axis in of)

    for _ in range(6):
        before = list(axes)
        if rng.random() < 0.5:
            order = rng.permutation(len(axes)).tolist()
            axes = [axes[i] for i in order]
            moves.append(("perm", order))
            undo.append(("perm", np.argsort(order).tolist()))
        elif len(axes) > 2 and rng.random() < 0.6:
            i = int(rng.integers(len(axes) - 1))
            axes = [*axes[:i], axes[i] + axes[i + 1], *axes[i + 2 :]]
            moves.append(("to", sizes(axes)))
            undo.append(("to", sizes(before)))
        else:
            axes = [part for axis in axes for part in ([axis] if BATCH in axis else [(n,) for n in axis])]
            moves.append(("to", sizes(axes)))
            undo.append(("to", sizes(before)))
    inner = [("softmax", -1)] if BATCH not in axes[-1] else [("scale", ())]
    nodes, constants, at = nodes_of([*moves, *inner, *undo[::-1]])
    check([*nodes, ("Identity", [at], ["y"], {})], (2, 3, 2), constants)


@pytest.mark.parametrize(
    "moves, word",
    [
        ([("perm", (1, 0, 2)), ("softmax", 1)], "batch"),
        ([("to", (-1, 6)), ("softmax", 0)], "joined"),
        ([("perm", (1, 2, 0)), ("dense", 6)], "batch"),
        ([("to", (2, -1, 6)), ("softmax", -1)], "joins samples"),
        ([("perm", (1, 0, 2)), ("mean", 1)], "batch"),
        ([("perm", (1, 0, 2)), ("cat", 1)], "batch"),
        ([("to", (-1, 6))], "is part of axis 0 of 2"),
    ],
)
def test_what_cuts_or_mixes_samples_is_named(moves, word):
    nodes, constants, at = nodes_of(moves)
    with pytest.raises((lrpfast.UnsupportedLayerError, lrpfast.ModelFormatError), match=word):
        lrpfast.from_onnx(graph([*nodes, ("Identity", [at], ["y"], {})], (4, 6), constants))


def test_an_output_whose_batch_is_elsewhere_has_it_first():
    """(steps, batch, letters), as networks that read text return it."""
    nodes, constants, at = nodes_of([("softmax", -1), ("perm", (1, 0, 2))])
    proto = graph([*nodes, ("Identity", [at], ["y"], {})], (4, 6), constants)
    with pytest.warns(UserWarning, match=r"'y' has the batch on axis 1; lrpfast returns it first: \(samples, 4, 6\)"):
        model = lrpfast.from_onnx(proto)
    x = numbers(3, 4, 6)
    expected = onnx.reference.ReferenceEvaluator(proto).run(None, {"x": x})[0]
    np.testing.assert_allclose(model.predict(x, precision="float64"), expected.transpose(1, 0, 2), atol=1e-12)


def test_two_tensors_whose_batch_axes_do_not_meet():
    nodes = [("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]}), ("Add", ["x", "t"], ["y"], {})]
    with pytest.raises(lrpfast.UnsupportedLayerError, match=r"\(batch, 4, 4\), \(4, batch, 4\).*do not meet"):
        lrpfast.from_onnx(graph(nodes, (4, 4)))


def test_shapes_computed_from_the_batch():
    """Shape, Gather, Mul, Concat and Reshape, as exporters write view(batch * heads, tokens, size)."""
    nodes = [
        ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]}),
        ("Shape", ["t"], ["s"], {}),
        ("Gather", ["s", "one"], ["n"], {"axis": 0}),
        ("Mul", ["n", "two"], ["m"], {}),
        ("Concat", ["four", "m", "three"], ["target"], {"axis": 0}),
        ("Reshape", ["t", "target"], ["h"], {}),
        ("Transpose", ["h"], ["g"], {"perm": [1, 0, 2]}),
        ("Softmax", ["g"], ["a"], {"axis": -1}),
        ("Concat", ["n", "two", "four", "three"], ["back"], {"axis": 0}),
        ("Reshape", ["a", "back"], ["y"], {}),
    ]
    check(nodes, (4, 6), {"one": i64(1), "two": i64(2), "three": i64(3), "four": i64(4)})


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_batch_moves_as_an_open_one(batch):
    nodes, constants, at = nodes_of(MOVES["heads of tokens first"])
    constants["c1"], constants["c5"] = i64(4, 2 * batch, 3), i64(4, batch, 6)
    proto = graph([*nodes, ("Identity", [at], ["y"], {})], (4, 6), constants, batch=batch)
    x = numbers(batch, 4, 6)
    expected = onnx.reference.ReferenceEvaluator(proto).run(None, {"x": x})[0]
    np.testing.assert_allclose(lrpfast.from_onnx(proto).predict(x, precision="float64"), expected, atol=1e-12)


def test_the_axes_of_a_file():
    moved = BatchAxis(at=2, outer=True, inner=True)
    assert moved.axes(4) == ((0,), (1, BATCH, 2), (3,))
    assert moved.sizes((2, 3, 4, 5), 7) == (2, 84, 5) and moved.sizes((2, 3, 4, 5), None) == (2, None, 5)
    assert of_axes([(1, BATCH, 2), (3,), (0,)]) == (BatchAxis(1, True, True), [1, 2, 3, 0])
    assert reshaped(FIRST, (6, 5), ((14, 15), (22, 15)), (7, 11)) == (BatchAxis(0, False, True), (2, 15))
    assert reshaped(moved, (2, 3, 4, 5), ((6, 28, 5), (6, 44, 5)), (7, 11)) == (BatchAxis(1, False, True), (6, 4, 5))
    assert reshaped(FIRST, (6, 5), ((2, 105), (2, 165)), (7, 11)) is None
