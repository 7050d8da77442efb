"""The examples that the ONNX standard has for its operators: what is read predicts what the standard says."""

import contextlib
import re
import warnings

import numpy as np
import pytest

import lrpfast

onnx = pytest.importorskip("onnx")
loader = pytest.importorskip("onnx.backend.test.loader")

#: Where a size is rounded down, lrpfast and ONNX Runtime go by the size that comes (test_size_one_onnx.py).
ROUNDED = {f"test_resize_downsample_scales_{mode}_align_corners" for mode in ("linear", "cubic")}


def examples():
    """(name, model, x, outputs): the first input is the model's, all others are constants of it."""
    for case in loader.load_model_tests(kind="node"):
        if case.model is None or not case.data_sets:
            continue
        inputs, outputs = case.data_sets[0]
        inputs = list(inputs)
        x = inputs[0] if inputs else None
        if case.name in ROUNDED:
            continue
        if not isinstance(x, np.ndarray) or x.dtype not in (np.float32, np.float64) or x.ndim < 2 or 0 in x.shape:
            continue
        if not all(isinstance(a, np.ndarray) for a in (*inputs, *outputs)):
            continue
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        for value, array in zip(list(model.graph.input)[1:], inputs[1:], strict=False):
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        yield case.name, model, x, list(outputs)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the examples overflow on purpose
def test_the_standards_examples():
    read = []
    for name, proto, x, wanted in examples():
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model = lrpfast.from_onnx(proto)
        except lrpfast.UnsupportedLayerError:  # no example of the standard is a damaged file
            continue
        moved = [
            m[1] for item in caught if (m := re.search(r"output .* has the batch on axis (\d+)", str(item.message)))
        ]
        got = model.predict(x, precision="float64")
        wanted = [a for a in wanted if a.dtype.kind == "f"]  # indices and labels are left out
        if moved:  # an example of one output, whose first axis is another than the input's
            wanted = [np.moveaxis(wanted[0], int(moved[0]), 0)]
        for a, b in zip(got if isinstance(got, list) else [got], wanted, strict=True):
            assert a.shape == b.shape, name
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=name)
        read.append(name)
    assert len(read) > 150


def test_no_example_is_called_damaged():
    """With all their inputs as they are, most are models that lrpfast refuses by name."""
    for case in loader.load_model_tests(kind="node"):
        if case.model is not None:
            with contextlib.suppress(lrpfast.UnsupportedLayerError):
                lrpfast.from_onnx(case.model)
