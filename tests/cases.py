"""Every rule with every bias convention and its other parameters, for lrpfast and for the oracle alike."""

import numpy as np

import lrpfast
import oracle
import oracle_layers

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
    ("zero", {"stabilizer": (0.25, "unsigned")}),
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
    for key in ("stabilizer", "scores", "sums"):
        if key in parameters:
            parameters[key] = lrpfast.rules.Stabilizer(*parameters[key])
    return getattr(lrpfast.rules, CLASSES[name])(**parameters)


as_rule = rule


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


# Any layer, and graphs of them: from the oracle's records.

#: rules that have no bias to speak of, or none of groups
CLASSES |= {
    "attn": "AttnLRP",
    "cp": "CP",
    "norm": "Norm",
    "pass": "Pass",
    "gradient": "Gradient",
    "split": "Split",
    "taylor": "Taylor",
    "detached": "Detached",
}

#: one or two of each kind that a planner tells apart: with and without bias, with and without the factor x
KINDS = [
    ("zero", {"stabilizer": (1e-7, "zero")}),
    ("epsilon", {"epsilon": 0.1}),
    ("epsilon", {"epsilon": 0.1, "bias": "distribute"}),
    ("zero", {"bias": "repeat"}),
    ("gamma", {}),
    ("gamma", {"generalized": False, "bias": "ignore"}),
    ("alpha_beta", {}),
    ("z_plus", {"bias": "full"}),
    ("w_square", {}),
    ("flat", {}),
    ("z_box", {"low": -3.0, "high": 4.0}),
]


def layer(made, name=None):
    """An oracle layer as lrpfast's."""
    parameters = dict(made.parameters)
    if not isinstance(parameters.get("activation"), (str, type(None))):
        parameters["activation"] = lrpfast.layers.Activation(*parameters["activation"])
    return getattr(lrpfast.layers, made.kind)(**parameters, name=name)


def graph(net):
    """An oracle net as lrpfast's model, its nodes named n0, n1, …"""
    built = lrpfast.Graph()
    made, places = {}, []
    for i, (own, inputs) in enumerate(net.nodes):
        if own.kind == "Input":
            places.append(built.input(own.parameters["shape"], f"n{i}"))
            continue
        if id(own) not in made:
            made[id(own)] = layer(own, f"n{i}")
        places.append(built.add(made[id(own)], *(places[j] for j in inputs)))
    return built.model(*(places[i] for i in net.outputs))


def composite(names, rule, activations=None):
    """Rules by the names of layers, and another for the other layers with weights and batch norms.

    activations: of activation functions within layers.
    """
    composites = lrpfast.composites
    made = composites.Uniform(as_rule(rule))
    if activations is not None:
        made = composites.ByType({lrpfast.layers.Activation: as_rule(activations)}) | made
    if names:
        made = composites.ByName({name: as_rule(own) for name, own in names.items()}) | made
    return made


def values(shape, count=2, seed=0, nonnegative=False):
    """Float32 values within ±3; the second sample has zeros here and there."""
    rng = np.random.default_rng((seed, count, *shape))
    x = np.clip(rng.normal(size=(count, *shape)), -3, 3).astype(np.float32)
    x[1:2][rng.random(x[1:2].shape) < 0.5] = 0
    return np.maximum(x, 0) if nonnegative else x


def flat(relevance, count):
    """What analyze gives, one array or a list, side by side: (samples, features of all inputs)."""
    arrays = relevance if isinstance(relevance, list) else [relevance]
    return np.concatenate([a.reshape(count, -1) for a in arrays], 1)


class Weights:
    """Random float32 arrays for layers: kernels of both signs that keep values near one, biases of both signs."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)

    def kernel(self, *shape):
        return (self.rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)

    def bias(self, *shape):
        return (0.3 * self.rng.normal(size=shape)).astype(np.float32)

    def dense(self, n, m, **more):
        return oracle_layers.Layer("Dense", {"kernel": self.kernel(n, m), "bias": self.bias(m), **more})

    def conv(self, size, n, m, **more):
        """size: taps along each axis; n and m: channels in, of a group, and out."""
        return oracle_layers.Layer("Conv", {"kernel": self.kernel(*size, n, m), "bias": self.bias(m), **more})

    def conv_transpose(self, size, n, m, **more):
        """m: channels out, of a group"""
        bias = self.bias(m * more.get("groups", 1))
        return oracle_layers.Layer("ConvTranspose", {"kernel": self.kernel(*size, m, n), "bias": bias, **more})

    def depthwise(self, size, n, multiplier=1, **more):
        kernel = self.kernel(*size, n, multiplier) * np.float32(np.sqrt(n))
        return oracle_layers.Layer("DepthwiseConv", {"kernel": kernel, "bias": self.bias(n * multiplier), **more})

    def batch_norm(self, n, **more):
        facts = {
            "mean": self.bias(n),
            "variance": (0.5 + self.rng.random(n)).astype(np.float32),
            "gamma": (1 + self.bias(n)).astype(np.float32),
            "beta": self.bias(n),
        }
        return oracle_layers.Layer("BatchNorm", {**facts, **more})
