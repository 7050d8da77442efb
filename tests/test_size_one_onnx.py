"""ONNX nodes on samples with sizes of one: what is read of them predicts what ONNX Runtime does."""

import itertools

import numpy as np
import pytest

import lrpfast

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
import seeds
from test_readers_onnx_operators import check, graph, i64, runtime  # noqa: E402

RNG = seeds.generator(18)
SHAPES = [(1, 4, 5), (3, 1, 5), (3, 4, 1), (3, 1, 1), (1, 1, 1)]


def array(*shape):
    return RNG.normal(size=shape)


def node(op, *constants, **attributes):
    """A node whose first input is x."""
    names = ["" if c is None else f"c{i}" for i, c in enumerate(constants)]
    given = {f"c{i}": c for i, c in enumerate(constants) if c is not None}
    return [(op, ["x", *names], ["y"], attributes)], given


def weighted(c, h, w):
    for m in (1, 2):
        yield node("Conv", array(m, c, 2, 1), array(m), pads=[1, 0, 1, 1])
        yield node("ConvTranspose", array(c, m, 2, 1), array(m), strides=[2, 1])
        yield node("Conv", array(c * m, 1, 1, 1), array(c * m), group=c)
        for shape in ((w, m), (1, w, m), (1, 1, w, m)):
            yield node("MatMul", array(*shape))
        for bias in (1, m), (1,):
            nodes = [("Flatten", ["x"], ["f"], {}), ("Gemm", ["f", "w", "b"], ["y"], {"transB": 1})]
            yield nodes, {"w": array(m, c * h * w), "b": array(*bias)}
        for added in (1, m, 1, 1), (1,), (w,):
            nodes = [("Conv", ["x", "k"], ["z"], {}), ("Add", ["z", "a"], ["y"], {})]
            yield nodes, {"k": array(m, c, 1, 1), "a": array(*added)}


def elementwise(c, h, w):
    for shape in (1,), (c, 1, 1), (w,), (1, c, 1, 1), (h, 1):
        yield node("PRelu", array(*shape))
    yield node("BatchNormalization", array(c), array(c), array(c), np.abs(array(c)) + 0.5)
    yield node("LayerNormalization", array(w), array(w), axis=-1)
    yield node("LayerNormalization", array(h, w), array(1, w), axis=2)
    if h * w > 1:  # of one value it is the runtime's rounding, divided by the root of epsilon
        yield node("InstanceNormalization", array(c), array(c))
    for shape in (), (1,), (w,), (h, 1), (c, 1, 1), (1, c, 1, 1), (c, h, w), (1, c, h, 1), (1, 1, 1, w):
        yield node("Mul", array(*shape))
        yield [("Sub", ["a", "x"], ["y"], {})], {"a": array(*shape)}


def moves(c, h, w):
    for axes in (1,), (2,), (3,), (2, 3), (1, 2, 3):
        if all((c, h, w)[a - 1] == 1 for a in axes):
            yield node("Squeeze", i64(*axes))
        yield node("Unsqueeze", i64(*axes))
        yield node("ReduceMean", i64(*axes), keepdims=0)
        yield node("ReduceMax", i64(*axes), keepdims=1)
        yield [("Concat", ["x", "x"], ["y"], {"axis": axes[0]})], {}
        yield node("Gather", np.array(0), axis=axes[0])
        yield node("Softmax", axis=axes[0])
    for order in itertools.permutations((1, 2, 3)):
        turned = ("Transpose", ["x"], ["t"], {"perm": [0, *order]})
        nodes = [turned, ("Flatten", ["t"], ["f"], {}), ("Gemm", ["f", "w"], ["y"], {})]
        yield nodes, {"w": array(c * h * w, 2)}
        yield [turned, ("Reshape", ["t", "s"], ["y"], {})], {"s": i64(0, 1, -1)}
    yield node("AveragePool", kernel_shape=[2, 2], pads=[1, 1, 1, 1])
    yield node("MaxPool", kernel_shape=[1, 1])


@pytest.mark.parametrize("family", [weighted, elementwise, moves], ids=lambda family: family.__name__)
def test_nodes_on_sizes_of_one(family):
    for shape in SHAPES:
        for nodes, constants in family(*shape):
            check(nodes, shape, constants, 18, by=runtime)


PLACES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resizing_from_and_to_one(mode):
    """Also by scales whose sizes are rounded down.

    With aligned corners the standard's examples divide by the size before rounding, ONNX Runtime by the size after it:
    there the examples count (test_readers_onnx_nodes.py), and the runtime is not asked.
    """
    for where, n in itertools.product(PLACES, (1, 2, 5)):
        how = {"mode": mode, "coordinate_transformation_mode": where}
        for m in (1, 3):
            check(*with_shape(node("Resize", None, None, i64(3, m), axes=[2, 3], **how), n), by=runtime)
        for scale in (0.2, 0.5, 0.75, 2.5):
            # of sizes that are rounded down, ONNX Runtime aligns corners otherwise than the standard's own examples do
            if n * scale >= 1 and (where != "align_corners" or float(n * scale).is_integer()):
                scales = np.array([1, 1, 1, scale], np.float32)
                check(*with_shape(node("Resize", None, scales, **how), n), by=runtime)


def with_shape(made, n):
    nodes, constants = made
    return nodes, (1, 3, n), constants, 18


@pytest.mark.parametrize("left", [False, True])
def test_a_weight_that_puts_axes_before_the_batch_is_refused(left):
    """(3, 4) @ (1, 4, 2) is (1, 3, 2): the samples are no longer the first axis."""
    weight = array(1, 2, 4) if left else array(1, 4, 2)
    shape = (4, 2) if left else (4,)
    weight = weight[None] if left else weight
    inputs = ["w", "x"] if left else ["x", "w"]
    with pytest.raises(lrpfast.UnsupportedLayerError, match="before the batch's"):
        lrpfast.from_onnx(graph([("MatMul", inputs, ["y"], {})], shape, {"w": weight}))
