"""Constants of a small .pt2 that ask for gigabytes or minutes: what they take is counted before it is computed."""

import tracemalloc

import numpy as np
import pytest

from lrpfast import budget
from lrpfast.errors import LrpfastError, ModelFormatError
from lrpfast.readers.torch.constants import FOLDS
from lrpfast.readers.torch.fold import fold_constants
from lrpfast.readers.torch.graph import build
from lrpfast.readers.torch.nodes import CONVERTERS
from lrpfast.readers.torch.records import Op, Ref, TorchProgram, Unknown
from lrpfast.readers.torch.result_size import result_bytes

LONG = np.ones(50_000, np.float32)
WHOLE = np.zeros(20_000, np.int64)

HOSTILE = {
    "outer": ("aten.outer", {"self": LONG, "vec2": LONG}),
    "einsum": ("aten.einsum", {"equation": "a,b->ab", "tensors": [LONG, LONG]}),
    "einsum without an arrow": ("aten.einsum", {"equation": "a,b", "tensors": [LONG, LONG]}),
    "einsum with an ellipsis": ("aten.einsum", {"equation": "...a,...b->...ab", "tensors": [LONG, LONG]}),
    "einsum of much work": ("aten.einsum", {"equation": "a,b,c->", "tensors": [LONG, LONG, LONG]}),
    "index": ("aten.index", {"self": np.ones((2, 50_000), np.float32), "indices": [WHOLE]}),
    "two indices": (
        "aten.index",
        {"self": np.ones((2, 2), np.float32), "indices": [WHOLE[:, None], WHOLE[None]]},
    ),
    "index_select": ("aten.index_select", {"self": np.ones((2, 50_000), np.float32), "dim": 0, "index": WHOLE}),
    "meshgrid": ("aten.meshgrid", {"tensors": [LONG, LONG]}),
    "where": ("aten.where", {"condition": LONG[:, None] > 0, "self": LONG[None], "other": np.ones(1, np.float32)}),
    "masked_fill": ("aten.masked_fill", {"self": np.ones(1), "mask": (LONG > 0)[:, None, None], "value": LONG[None]}),
    "narrow": ("aten.narrow", {"self": LONG, "dim": 0, "start": 0, "length": 1 << 40}),
    "matmul": ("aten.matmul", {"self": LONG[:, None], "other": LONG[None]}),
    "a sum of bytes": ("aten.add", {"self": np.ones((60_000, 1), np.uint8), "other": np.ones(60_000, np.uint8)}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_takes_too_much_is_refused_before_it_is_computed(case):
    name, arguments = HOSTILE[case]
    constants = {}

    def stored(value):
        if isinstance(value, list):
            return [stored(v) for v in value]
        if isinstance(value, np.ndarray):
            constants[f"c{len(constants)}"] = value
            return Ref(f"c{len(constants) - 1}")
        return value

    op = Op(f"{name}.default", "op", {key: stored(value) for key, value in arguments.items()}, ("op",))
    program = TorchProgram([op], [], ["op"], constants)
    tracemalloc.start()
    try:
        with budget.budgeted(1000):
            result = fold_constants(program)[0]["op"]
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert isinstance(result, Unknown) and isinstance(result.error, ModelFormatError), result
    assert "its result takes" in str(result.error) or "einsum" in str(result.error)


HONEST = {
    "outer": ("aten.outer", {"self": np.ones(7), "vec2": np.ones(5)}),
    "einsum": ("aten.einsum", {"equation": "ij, jk -> ik", "tensors": [np.ones((3, 4)), np.ones((4, 5))]}),
    "einsum, implicit": ("aten.einsum", {"equation": "ij,jk", "tensors": [np.ones((3, 4)), np.ones((4, 5))]}),
    "einsum, diagonal": ("aten.einsum", {"equation": "ii->i", "tensors": [np.ones((4, 4))]}),
    "index": ("aten.index", {"self": np.ones((3, 4, 5)), "indices": [None, np.array([0, 1, 1])]}),
    "index by truths": ("aten.index", {"self": np.ones((3, 4)), "indices": [np.eye(3, 4, dtype=bool)]}),
    "meshgrid": ("aten.meshgrid", {"tensors": [np.ones(3), np.ones(4)]}),
    "narrow": ("aten.narrow", {"self": np.ones((3, 4)), "dim": 1, "start": 1, "length": 2}),
    "matmul": ("aten.matmul", {"self": np.ones((2, 3, 4)), "other": np.ones((4, 5))}),
    "mean": ("aten.mean", {"self": np.ones((3, 4), np.uint8), "dim": [1]}),
    "unbind": ("aten.unbind", {"self": np.ones((3, 4))}),
}


@pytest.mark.parametrize("case", HONEST)
def test_the_count_is_an_upper_bound_that_is_not_far(case):
    name, arguments = HONEST[case]
    result = FOLDS[name](lambda key, default=None: arguments.get(key, default))
    size = sum(np.asarray(a).nbytes for a in (result if isinstance(result, (list, tuple)) else [result]))
    inputs = [a for v in arguments.values() for a in (v if isinstance(v, list) else [v]) if isinstance(a, np.ndarray)]
    counted = result_bytes(name, arguments)
    assert size <= counted <= 8 * (size + sum(a.nbytes for a in inputs)) + 1000


@pytest.mark.parametrize(
    "operator",
    [
        ("aten.upsample_bilinear2d", {"input": np.ones((1, 1, 2, 2), np.float32), "output_size": [60_000, 60_000]}),
        ("aten.upsample_nearest2d", {"input": np.ones((1, 1, 2, 2), np.float32), "output_size": [60_000, 60_000]}),
        ("aten.constant_pad_nd", {"self": np.ones((1, 2), np.float32), "pad": [1 << 33, 0]}),
        (
            "aten.avg_pool2d",
            {"input": np.ones((1, 1, 900, 900), np.float32), "kernel_size": [449, 449], "stride": [1, 1]},
        ),
    ],
    ids=lambda operator: operator[0],
)
def test_constants_by_layers_are_counted_too(operator):
    name, arguments = operator
    key = "input" if "input" in arguments else "self"
    ops = [
        Op(f"{name}.default", "big", {**arguments, key: Ref("c")}, ("big",)),
        Op("aten.sum.dim_IntList", "sum", {"self": Ref("big"), "dim": [-1]}, ("sum",)),
        Op("aten.add.Tensor", "y", {"self": Ref("x"), "other": Ref("sum")}, ("y",)),
    ]
    whole = TorchProgram(ops, ["x"], ["y"], {"c": arguments[key]}, {"x": (2, 1, 1, 1)})
    with budget.budgeted(1000), pytest.raises((LrpfastError, MemoryError)):
        build(whole, CONVERTERS)
