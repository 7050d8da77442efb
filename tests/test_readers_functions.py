"""Activation functions as files spell them, against formulas in float64: everywhere, not only near zero.

Values go from -10,000 to 10,000, and to the next number on both sides of every constant. A function that is not
exactly one of lrpfast's must be what the file says all the same, or be refused by name.
"""

import math

import numpy as np
import pytest

import lrpfast
from test_readers_keras import entry, layer, load, sequential, write_h5

_SIZES = np.concatenate([np.logspace(-6, 4, 61), np.linspace(0, 60, 121), [88.0, 90.0, 709.0, 711.0]])


def points(*constants):
    """Values of all sizes and signs, and those around each constant."""
    constants = np.array([0.0, *constants])
    around = [np.nextafter(constants, -np.inf), constants, np.nextafter(constants, np.inf)]
    near32 = [np.nextafter(constants.astype(np.float32), np.float32(end)).astype(float) for end in (-1e30, 1e30)]
    return np.concatenate([_SIZES, -_SIZES, *around, *near32])


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def normal(x):
    """The normal distribution's share below x."""
    return np.vectorize(math.erfc)(-x / math.sqrt(2)) / 2


def tanh_gelu(x):
    return x * sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def celu(x, alpha):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha))


def functions_of(model):
    return [la.function for la in model.layers if isinstance(la, lrpfast.layers.Activation)]


def agrees(model, x, wanted, tolerance=1e-12):
    got = model.predict(x[:, None], precision="float64").ravel()
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


# -- ONNX -------------------------------------------------------------------------


def onnx_proto(text, constants, dtype=np.float64, opset=17):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed; lrpfast[test] brings it")
    kind = {np.float64: "double", np.float32: "float"}[dtype]
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> g ({kind}[N, 1] x) => ({kind}[N, 1] y) {{ {text} }}'
    )
    arrays = [onnx.numpy_helper.from_array(np.array(v, dtype), name) for name, v in constants.items()]
    proto.graph.initializer.extend(arrays)
    return proto


#: name: (nodes, constants, formula, the activation functions of the model)
ONNX = {
    "Clip": ("y = Clip(x, a, b)", {"a": 0, "b": 255}, lambda x: np.clip(x, 0, 255), ["relu"]),
    "Clip of both signs": ("y = Clip(x, a, b)", {"a": -50, "b": 50}, lambda x: np.clip(x, -50, 50), ["clip"]),
    "Clip from above to below": ("y = Clip(x, a, b)", {"a": 3, "b": -2}, lambda x: 0 * x - 2, ["clip"]),
    "Min of Relu": ("r = Relu(x) y = Min(r, b)", {"b": 255}, lambda x: np.clip(x, 0, 255), ["relu"]),
    "relu6": ("r = Relu(x) y = Min(b, r)", {"b": 6}, lambda x: np.clip(x, 0, 6), ["relu"]),
    "Max of Min": ("m = Min(x, b) y = Max(m, a)", {"a": 0, "b": 255}, lambda x: np.clip(x, 0, 255), ["relu"]),
    "Clip of Relu": ("r = Relu(x) y = Clip(r, a, b)", {"a": 0, "b": 100}, lambda x: np.clip(x, 0, 100), ["relu"]),
    "Max of three": ("y = Max(a, x, b)", {"a": 1, "b": 41}, lambda x: np.maximum(x, 41), ["clip"]),
    "Max below a Min": ("m = Max(x, a) y = Min(m, b)", {"a": 7, "b": 3}, lambda x: 0 * x + 3, ["clip"]),
    "softplus with a ceiling": (
        "s = Softplus(x) y = Min(s, b)", {"b": 50}, lambda x: np.minimum(np.logaddexp(0, x), 50), ["softplus", "clip"],
    ),
    "SiLU with a ceiling": (
        "s = Sigmoid(x) p = Mul(x, s) y = Min(p, b)", {"b": 64}, lambda x: np.minimum(x * sigmoid(x), 64),
        ["silu", "clip"],
    ),
    "Relu and a small cube": (
        "p = Pow(x, c) q = Mul(p, k) r = Relu(x) y = Add(r, q)", {"c": 3, "k": 1e-12},
        lambda x: np.maximum(x, 0) + 1e-12 * x**3, ["power", "relu"],
    ),
    "nearly tanh": ("t = Tanh(x) y = Mul(t, k)", {"k": 1.000001}, lambda x: np.tanh(x) * 1.000001, ["tanh"]),
    "nearly sigmoid": ("s = Sigmoid(x) y = Add(s, k)", {"k": 1e-7}, lambda x: sigmoid(x) + 1e-7, ["sigmoid"]),
    "softplus": ("e = Exp(x) o = Add(e, b) y = Log(o)", {"b": 1}, lambda x: np.logaddexp(0, x), ["softplus"]),
    "stable softplus": (
        "r = Relu(x) a = Abs(x) m = Neg(a) e = Exp(m) o = Add(b, e) l = Log(o) y = Add(r, l)", {"b": 1},
        lambda x: np.logaddexp(0, x), ["softplus"],
    ),
    "log sigmoid": ("s = Sigmoid(x) y = Log(s)", {}, lambda x: -np.logaddexp(0, -x), ["log_sigmoid"]),
    "sigmoid": ("m = Neg(x) e = Exp(m) o = Add(e, b) y = Div(b, o)", {"b": 1}, sigmoid, ["sigmoid"]),
    "SiLU": ("m = Neg(x) e = Exp(m) o = Add(e, b) y = Div(x, o)", {"b": 1}, lambda x: x * sigmoid(x), ["silu"]),
    "mish": (
        "s = Softplus(x) t = Tanh(s) y = Mul(t, x)", {}, lambda x: x * np.tanh(np.logaddexp(0, x)), ["mish"],
    ),
    "GELU": (
        "d = Div(x, c) e = Erf(d) o = Add(e, b) m = Mul(x, o) y = Mul(m, h)", {"c": math.sqrt(2), "b": 1, "h": 0.5},
        lambda x: x * normal(x), ["gelu"],
    ),
    "GELU by tanh": (
        "p = Mul(x, x) q = Mul(p, x) r = Mul(q, c) s = Add(x, r) t = Mul(s, k) u = Tanh(t) v = Add(u, b) w = Mul(x, v) "
        "y = Mul(w, h)", {"c": 0.044715, "k": math.sqrt(2 / math.pi), "b": 1, "h": 0.5}, tanh_gelu, ["gelu"],
    ),
    "hard swish": (
        "s = Add(x, t) c = Clip(s, z, b) m = Mul(x, c) y = Div(m, b)", {"t": 3, "z": 0, "b": 6},
        lambda x: x * np.clip(x / 6 + 0.5, 0, 1), ["hard_silu"],
    ),
    "hard swish by a product": (
        "s = Add(x, t) c = Clip(s, z, b) m = Mul(x, c) y = Mul(m, k)", {"t": 3, "z": 0, "b": 6, "k": 1 / 6},
        lambda x: x * np.clip(x / 6 + 0.5, 0, 1), ["hard_silu"],
    ),
    "hard sigmoid": (
        "m = Mul(x, k) s = Add(m, h) y = Clip(s, z, b)", {"k": 1 / 6, "h": 0.5, "z": 0, "b": 1},
        lambda x: np.clip(x / 6 + 0.5, 0, 1), ["hard_sigmoid"],
    ),
    "softsign": ("a = Abs(x) o = Add(a, b) y = Div(x, o)", {"b": 1}, lambda x: x / (1 + np.abs(x)), ["softsign"]),
    "a ReLU by half its sum": (
        "a = Abs(x) s = Add(a, x) y = Mul(s, h)", {"h": 0.5}, lambda x: np.maximum(x, 0), ["relu"],
    ),
    "tanh by sigmoid": (
        "m = Mul(x, k) s = Sigmoid(m) p = Mul(s, k) y = Sub(p, b)", {"k": 2, "b": 1}, np.tanh, ["tanh"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ONNX)
def test_onnx_functions_are_right_for_every_value(name):
    nodes, constants, formula, functions = ONNX[name]
    model = lrpfast.from_onnx(onnx_proto(nodes, constants))
    assert functions_of(model) == functions
    x = points(*constants.values(), *(-c for c in constants.values()))
    agrees(model, x, formula(x))
    # as exporters round constants to float32
    rounded = lrpfast.from_onnx(onnx_proto(nodes, constants, np.float32))
    assert functions_of(rounded) == functions
    agrees(rounded, x, formula(x), 5e-7)


@pytest.mark.parametrize("name", [name for name, case in ONNX.items() if case[1]])
def test_an_onnx_function_with_another_constant_is_another_function(name):
    """Each constant changed, by little and by much: what the file computes comes out, or a refusal."""
    pytest.importorskip("onnx", reason="onnx is not installed; lrpfast[test] brings it")
    from onnx.reference import ReferenceEvaluator

    nodes, constants, _, _ = ONNX[name]
    right = 0
    for key in constants:
        for factor in (1 - 1e-6, 1 + 1e-6, 1.5, 7.0, -1.0):
            changed = {**constants, key: constants[key] * factor or 1e-6 * factor}
            proto = onnx_proto(nodes, changed)
            try:
                model = lrpfast.from_onnx(proto)
            except lrpfast.UnsupportedLayerError as error:
                assert any(word in str(error) for word in ("Erf", "Log"))
                continue
            x = points(*changed.values())
            with np.errstate(all="ignore"):
                wanted = ReferenceEvaluator(proto).run(None, {"x": x[:, None]})[0].ravel()
            fine = np.isfinite(wanted) & (np.abs(x) < 700)  # beyond, what is spelled with exp overflows
            np.testing.assert_allclose(
                model.predict(x[fine, None], precision="float64").ravel(), wanted[fine], rtol=1e-11, atol=1e-11,
                err_msg=f"{key} = {changed[key]}",
            )  # fmt: skip
            right += 1
    assert right or "Erf" in nodes or "Log" in nodes


def test_onnx_limits_of_limits():
    rng = np.random.default_rng(0)
    for _ in range(60):
        text, constants, name = "", {}, "x"
        x = wanted = points(*rng.normal(scale=300, size=3))
        for i in range(rng.integers(1, 5)):
            op, low, high = rng.choice(["Relu", "Clip", "Min", "Max"]), *rng.normal(scale=300, size=2)
            constants.update({f"l{i}": low, f"h{i}": high})
            given = {"Relu": "", "Clip": f", l{i}, h{i}", "Min": f", h{i}", "Max": f", l{i}"}[op]
            text += f" v{i} = {op}({name}{given})"
            name = f"v{i}"
            wanted = {
                "Relu": np.maximum(wanted, 0),
                "Clip": np.minimum(np.maximum(wanted, low), high),
                "Min": np.minimum(wanted, high),
                "Max": np.maximum(wanted, low),
            }[op]
        model = lrpfast.from_onnx(onnx_proto(f"{text} y = Identity({name})", constants))
        assert np.array_equal(model.predict(x[:, None], precision="float64").ravel(), wanted), text


def test_a_limit_is_one_number():
    proto = onnx_proto("y = Clip(x, a)", {"a": [1.0, 2.0]})
    with pytest.raises(lrpfast.ModelFormatError, match="Clip.*'?min.*not one number"):
        lrpfast.from_onnx(proto)


# -- PyTorch ----------------------------------------------------------------------

#: name: (module or function of torch, its arguments, formula, constants)
TORCH = {
    "Hardtanh": ("Hardtanh", (-300, 41), lambda x: np.clip(x, -300, 41), (-300, 41)),
    "Hardtanh from 0": ("Hardtanh", (0, 255), lambda x: np.clip(x, 0, 255), (255,)),
    "ReLU6": ("ReLU6", (), lambda x: np.clip(x, 0, 6), (6,)),
    "Threshold": ("Threshold", (41, 0), lambda x: np.where(x > 41, x, 0), (41,)),
    "Threshold below 0": ("Threshold", (-41, 0), lambda x: np.where(x > -41, x, 0), (-41,)),
    "Threshold to itself": ("Threshold", (0.3, 0.3), lambda x: np.maximum(x, 0.3), (0.3,)),
    "ELU": ("ELU", (0.3,), lambda x: np.where(x > 0, x, 0.3 * np.expm1(np.minimum(x, 0))), ()),
    "CELU": ("CELU", (50.0,), lambda x: celu(x, 50.0), ()),
    "SELU": ("SELU", (), lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * celu(x, 1)), ()),
    "LeakyReLU": ("LeakyReLU", (1e-3,), lambda x: np.where(x > 0, x, 1e-3 * x), ()),
    "LeakyReLU upwards": ("LeakyReLU", (-2.0,), lambda x: np.where(x > 0, x, -2 * x), ()),
    "GELU": ("GELU", (), lambda x: x * normal(x), ()),
    "GELU by tanh": ("GELU", ("tanh",), tanh_gelu, ()),
    "Softplus": ("Softplus", (1, 50), lambda x: np.logaddexp(0, x), (50,)),
    "Softplus with beta": ("Softplus", (0.02, 50), lambda x: np.logaddexp(0, 0.02 * x) / 0.02, (2500,)),
    "Hardshrink": ("Hardshrink", (41,), lambda x: np.where(np.abs(x) > 41, x, 0), (41, -41)),
    "Softshrink": ("Softshrink", (41,), lambda x: np.sign(x) * np.maximum(np.abs(x) - 41, 0), (41, -41)),
    "Hardsigmoid": ("Hardsigmoid", (), lambda x: np.clip(x / 6 + 0.5, 0, 1), (-3, 3)),
    "Hardswish": ("Hardswish", (), lambda x: x * np.clip(x / 6 + 0.5, 0, 1), (-3, 3)),
    "ELU of a scaled input": ("aten.elu", (0.5, 1.0, 2.0), lambda x: celu(x, 0.5), ()),
    "scaled ELU": ("aten.elu", (0.5, 3.0), lambda x: 3 * np.where(x > 0, x, 0.5 * celu(x, 1.0)), ()),
    "clamp": (lambda x: x.clamp(-41, 300), (), lambda x: np.clip(x, -41, 300), (-41, 300)),
    "clamp to nothing": (lambda x: x.clamp(5, 3), (), lambda x: 0 * x + 3, (5, 3)),
    "clamp_min": (lambda x: x.clamp_min(41), (), lambda x: np.maximum(x, 41), (41,)),
    "clamp_max": (lambda x: x.clamp_max(-41), (), lambda x: np.minimum(x, -41), (-41,)),
}


def torch_module(what, arguments):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra 'torch')")
    if what == "aten.elu":
        return torch_module(lambda x: torch.ops.aten.elu.default(x, *arguments), ())
    if isinstance(what, str):
        return getattr(torch.nn, what)(*arguments)

    class Module(torch.nn.Module):
        def forward(self, x):
            return what(x)

    return Module()


@pytest.mark.parametrize("name", TORCH)
def test_pytorch_functions_are_right_for_every_value(name):
    what, arguments, formula, constants = TORCH[name]
    module = torch_module(what, arguments)
    import torch

    x = points(*constants)
    agrees(lrpfast.from_torch(module, torch.ones(2, 1, dtype=torch.float64)), x, formula(x))


@pytest.mark.parametrize("name", ["SELU", "ELU", "GELU", "GELU by tanh"])
def test_decomposed_pytorch_functions(name):
    what, arguments, formula, constants = TORCH[name]
    module = torch_module(what, arguments)
    import torch

    dims = ({0: torch.export.Dim("batch", min=1, max=99999)},)
    program = torch.export.export(module, (torch.ones(3, 1, dtype=torch.float64),), dynamic_shapes=dims)
    x = points(*constants)
    wanted = module(torch.from_numpy(x)).numpy()
    agrees(lrpfast.from_torch(program.run_decompositions()), x, wanted)


def test_pytorch_functions_that_are_refused_say_what_works():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra 'torch')")
    nn = torch.nn
    refused = [
        (nn.Threshold(1.0, -2.0), "threshold 1.0 to -2.0"),
        (nn.Softplus(1, 10), "20 or more"),
        (nn.Hardshrink(-1.0), "at least 0"),
        (nn.CELU(-1.0), "above 0"),
        (torch_module("aten.elu", (0.5, 1.0, 3.0)), "celu"),
    ]
    for module, word in refused:
        with pytest.raises(lrpfast.UnsupportedLayerError, match=word):
            lrpfast.from_torch(module, torch.ones(2, 1))


# -- Keras ------------------------------------------------------------------------


def keras_relu(x, max_value, negative_slope, threshold):
    """As Keras's documentation says it, with the ceiling before all."""
    y = np.where(x > threshold, x, negative_slope * (x - threshold))
    return y if max_value is None else np.where(x > threshold, np.minimum(x, max_value), y)


@pytest.mark.parametrize("max_value", (None, 0.0, 6.0, 255.0))
@pytest.mark.parametrize("slope", (0.0, 0.3, 2.0))
@pytest.mark.parametrize("threshold", (0.0, 1.5, 41.0, 300.0))
def test_keras_relu_of_three_numbers(tmp_path, max_value, slope, threshold):
    config = {"max_value": max_value, "negative_slope": slope, "threshold": threshold}
    model = sequential(entry((None, 1)), layer("ReLU", "r", **config))
    x = points(threshold, max_value or 0.0)
    agrees(load(write_h5(tmp_path / "m.h5", model, {})), x, keras_relu(x, max_value, slope, threshold))


#: (version of Keras, name): formula, as Keras documents it
KERAS_NAMES = {
    (3, "relu"): lambda x: np.maximum(x, 0),
    (3, "relu6"): lambda x: np.clip(x, 0, 6),
    (3, "leaky_relu"): lambda x: np.where(x > 0, x, 0.2 * x),
    (3, "elu"): lambda x: celu(x, 1.0),
    (3, "celu"): lambda x: celu(x, 1.0),
    (3, "selu"): lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * celu(x, 1.0)),
    (3, "gelu"): lambda x: x * normal(x),
    (3, "silu"): lambda x: x * sigmoid(x),
    (2, "swish"): lambda x: x * sigmoid(x),
    (3, "hard_silu"): lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    (3, "hard_swish"): lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    (3, "mish"): lambda x: x * np.tanh(np.logaddexp(0, x)),
    (3, "sigmoid"): sigmoid,
    (3, "log_sigmoid"): lambda x: -np.logaddexp(0, -x),
    (2, "hard_sigmoid"): lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    (3, "hard_sigmoid"): lambda x: np.clip(x / 6 + 0.5, 0, 1),
    (3, "sparse_sigmoid"): lambda x: np.clip(0.5 * x + 0.5, 0, 1),
    (3, "softplus"): lambda x: np.logaddexp(0, x),
    (3, "softsign"): lambda x: x / (1 + np.abs(x)),
    (3, "tanh"): np.tanh,
    (3, "hard_tanh"): lambda x: np.clip(x, -1, 1),
    (3, "hard_shrink"): lambda x: np.where(np.abs(x) > 0.5, x, 0),
    (3, "soft_shrink"): lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
}


@pytest.mark.parametrize("major, name", KERAS_NAMES)
def test_keras_functions_by_name(tmp_path, major, name):
    model = sequential(entry((None, 1)), layer("Activation", "a", activation=name))
    x = points(*(sign * number for sign in (-1, 1) for number in (0.5, 1, 2.5, 3, 6)))
    agrees(load(write_h5(tmp_path / "m.h5", model, {}, f"{major}.0.0")), x, KERAS_NAMES[major, name](x))


#: name: (configuration, formula)
KERAS = {
    "LeakyReLU": ({"alpha": 0.03}, lambda x: np.where(x > 0, x, 0.03 * x)),
    "ELU": ({"alpha": 0.3}, lambda x: np.where(x > 0, x, 0.3 * np.expm1(np.minimum(x, 0)))),
    "ThresholdedReLU": ({"theta": 41.0}, lambda x: np.where(x > 41, x, 0)),
}


@pytest.mark.parametrize("name", KERAS)
def test_keras_functions_with_a_number(tmp_path, name):
    config, formula = KERAS[name]
    x = points(*config.values())
    agrees(
        load(write_h5(tmp_path / "m.h5", sequential(entry((None, 1)), layer(name, "r", **config)), {})), x, formula(x)
    )


@pytest.mark.parametrize("key", ("max_value", "negative_slope", "threshold"))
def test_keras_relu_allows_nothing_below_zero(tmp_path, key):
    model = sequential(entry((None, 1)), layer("ReLU", "r", **{key: -1.0}))
    with pytest.raises(lrpfast.ModelFormatError, match=f"layer 'r' .*{key} is -1.0"):
        load(write_h5(tmp_path / "m.h5", model, {}))
