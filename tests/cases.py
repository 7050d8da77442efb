"""Every rule with every bias convention and its other parameters, for lrpfast and for the oracle alike."""

import numpy as np

import lrpfast
import oracle

FOUR = ("absorb", "ignore", "distribute", "repeat")
FIVE = ("absorb", "ignore", "full", "distribute", "repeat")

#: which conventions each rule takes; the others are errors
CONVENTIONS = {
    "zero": FOUR,
    "epsilon": FOUR,
    "gamma": FOUR,
    "alpha_beta": FIVE,
    "alpha_beta_x": FOUR,
    "z_plus": FIVE,
    "w_square": ("ignore", "absorb"),
    "flat": ("ignore",),
    "z_box": ("ignore",),
}

CLASSES = {
    "zero": "Zero",
    "epsilon": "Epsilon",
    "gamma": "Gamma",
    "alpha_beta": "AlphaBeta",
    "alpha_beta_x": "AlphaBetaX",
    "z_plus": "ZPlus",
    "w_square": "WSquare",
    "flat": "Flat",
    "z_box": "ZBox",
}

_BOX = {"low": -3.5, "high": 4.0}

#: one case per rule and convention under default parameters …
PLAIN = [
    (name, {"bias": bias, **(_BOX if name == "z_box" else {})}) for name in CONVENTIONS for bias in CONVENTIONS[name]
]

#: … and the other parameters, each with a convention or two
OTHER = [
    ("zero", {"stabilizer": (0.25, "sign")}),
    ("zero", {"stabilizer": (0.25, "zero"), "bias": "ignore"}),
    ("epsilon", {"epsilon": 0.5}),
    ("epsilon", {"epsilon": 0.1, "bias": "repeat"}),
    ("gamma", {"gamma": 0.0}),
    ("gamma", {"gamma": 1.7, "scale_bias": False}),
    ("gamma", {"generalized": False}),
    ("gamma", {"generalized": False, "scale_bias": False, "bias": "distribute"}),
    ("gamma", {"generalized": False, "bias": "ignore", "stabilizer": (1e-3, "sign")}),
    ("gamma", {"stabilizer": (1e-7, "zero"), "scale_bias": False, "bias": "repeat"}),
    ("alpha_beta", {"alpha": 3.0, "beta": 2.0, "bias": "full", "stabilizer": (1e-7, "zero")}),
    ("alpha_beta", {"alpha": 1.5, "beta": 0.5, "split_input": False}),
    ("alpha_beta", {"split_input": False, "bias": "distribute"}),
    ("alpha_beta", {"alpha": 1.0, "beta": 0.0, "bias": "full", "split_input": False}),
    ("alpha_beta_x", {"alpha": (1.0, 0.0), "beta": (0.0, -1.0)}),
    ("alpha_beta_x", {"alpha": (2.0, 0.3), "beta": (1.0, 0.0), "bias": "ignore", "stabilizer": (1e-7, "zero")}),
    ("z_plus", {"split_input": False, "bias": "ignore", "stabilizer": (1e-7, "zero")}),
    ("z_plus", {"split_input": False, "bias": "repeat"}),
    ("w_square", {"stabilizer": (0.5, "sign")}),
    ("flat", {"stabilizer": (1e-7, "zero")}),
    ("z_box", {"low": 0.0, "high": 4.0, "stabilizer": (1e-7, "zero")}),
    ("z_box", {"low": -4.0, "high": 0.0}),
]

CASES = PLAIN + OTHER


def case_id(case):
    name, parameters = case
    shown = [v if isinstance(v, str) else f"{k}={v}" for k, v in parameters.items()]
    return "-".join([name, *shown]).replace(" ", "")


def rule(case):
    """The case as lrpfast's rule."""
    name, parameters = case
    parameters = dict(parameters)
    if "stabilizer" in parameters:
        parameters["stabilizer"] = lrpfast.rules.Stabilizer(*parameters["stabilizer"])
    return getattr(lrpfast.rules, CLASSES[name])(**parameters)


def network(sizes, activation="relu", seed=0, parameters=None, last=None, scale=1.0):
    """Random oracle layers, float32, with biases of both signs; ``last`` is the output's activation."""
    rng = np.random.default_rng((seed, *sizes))
    layers = []
    for i, (n, m) in enumerate(zip(sizes, sizes[1:], strict=False)):
        w = (scale * rng.normal(size=(n, m)) / np.sqrt(n)).astype(np.float32)
        b = (0.3 * rng.normal(size=m)).astype(np.float32)
        final = i == len(sizes) - 2
        layers.append(oracle.Dense(w, b, last if final else activation, {} if final else (parameters or {})))
    return layers


def model(layers, **keywords):
    """The same layers as lrpfast's model."""
    make = lrpfast.layers
    built = []
    for n in layers:
        function = make.Activation(n.activation, n.parameters) if n.activation else None
        built.append(make.Dense(n.w, n.b, activation=function))
    return lrpfast.from_layers(built, **keywords)


def inputs(count, width, seed=0, nonnegative=False):
    """Float32 inputs within ±3; one sample is all zeros where there are several."""
    rng = np.random.default_rng((seed, count, width))
    x = np.clip(rng.normal(size=(count, width)), -3, 3).astype(np.float32)
    if count > 1:
        x[1] = 0
    return np.maximum(x, 0) if nonnegative else x
