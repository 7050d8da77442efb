"""Which layer gets which rule; and batch normalization folded away."""

import numpy as np
import pytest

import cases
import lrpfast
from lrpfast import composites, rules
from lrpfast import layers as L  # noqa: N812
from lrpfast.model.canonize import canonize

ONE = np.float32(0.5)


def network():
    return lrpfast.from_layers(
        [
            L.Dense(np.full((2, 3), ONE), name="embed"),
            L.Conv(np.full((3, 3, 3, 4), ONE), activation="relu", name="conv_a"),
            L.AveragePool((2, 2), name="pool"),
            L.DepthwiseConv(np.full((1, 1, 4, 1), ONE), name="conv_b"),
            L.BatchNorm(np.zeros(4), np.ones(4), name="norm"),
            L.Activation("relu", name="act"),
            L.GlobalMaxPool(name="global"),
            L.Dense(np.full((4, 2), ONE), name="head"),
        ],
        input_shape=(8, 8, 2),
    )


def assigned(composite, model=None):
    model = model or network()
    assignment = composite.assign(model)
    found = {model.nodes[i].name: rule.name for i, rule in assignment.rules.items()}
    return found, {model.nodes[i].name: rule.name for i, rule in assignment.activations.items()}


REST = {"pool": "norm", "act": "pass", "global": "pass"}
MAPS = {
    "epsilon_plus": {"embed": "epsilon", "conv_a": "z_plus", "conv_b": "z_plus", "head": "epsilon"},
    "epsilon_plus_flat": {"embed": "flat", "conv_a": "z_plus", "conv_b": "z_plus", "head": "epsilon"},
    "epsilon_alpha2_beta1": {"embed": "epsilon", "conv_a": "alpha_beta", "conv_b": "alpha_beta", "head": "epsilon"},
    "epsilon_alpha2_beta1_flat": {"embed": "flat", "conv_a": "alpha_beta", "conv_b": "alpha_beta", "head": "epsilon"},
    "gamma": dict.fromkeys(("embed", "conv_a", "conv_b", "norm", "head"), "gamma"),
}


@pytest.mark.parametrize("name", MAPS)
def test_named_composites(name):
    found, activations = assigned(composites.from_name(name))
    assert found == {"norm": "epsilon", **REST, **MAPS[name]}
    assert activations == {"conv_a": "pass"}
    lrpfast.Analyzer(network(), name).analyze(cases.values((8, 8, 2)))


def test_box_stands_on_the_first_convolution():
    found, _ = assigned(composites.EpsilonGammaBox(-1, 1))
    assert found["embed"] == "epsilon" and found["conv_a"] == "z_box" and found["conv_b"] == "gamma"


def test_excitation_backprop_takes_activations_by_their_gradient():
    found, activations = assigned(composites.ExcitationBackprop())
    assert found["act"] == activations["conv_a"] == "gradient"
    assert {found[n] for n in ("embed", "conv_a", "conv_b", "head")} == {"z_plus"} and found["pool"] == "norm"


def test_by_type_name_and_index():
    by_type = composites.ByType({L.Conv: "z_plus", (L.Dense, L.DepthwiseConv): rules.Epsilon(0.1)}, first="flat")
    found, _ = assigned(by_type | composites.Uniform("zero"))
    assert [found[n] for n in ("embed", "conv_a", "conv_b", "head")] == ["flat", "z_plus", "epsilon", "epsilon"]
    by_name = composites.ByName({"conv_*": "gamma", "pool": "gradient"})
    found, _ = assigned(by_name | by_type | composites.Uniform("zero"))
    assert [found[n] for n in ("embed", "conv_a", "conv_b", "pool")] == ["flat", "gamma", "gamma", "gradient"]
    by_index = composites.ByIndex({1: "w_square", -1: "zero"})
    found, _ = assigned(by_name | by_index | composites.Uniform("epsilon"))
    assert [found[n] for n in ("embed", "conv_a", "conv_b", "head")] == ["epsilon", "w_square", "gamma", "zero"]
    found, _ = assigned(composites.Uniform("epsilon", first="flat", last="zero"))
    assert (found["embed"], found["conv_a"], found["head"]) == ("flat", "epsilon", "zero")
    big = composites.when(lambda layer: layer.kernel.size > 50, "gamma")
    found, _ = assigned(big | composites.Uniform("epsilon"))
    assert (found["conv_a"], found["head"]) == ("gamma", "epsilon")


@pytest.mark.parametrize(
    "make, parts",
    [
        (lambda: composites.ByName({"missing_*": "zero"}).assign(network()), ["missing_*", "conv_a"]),
        (lambda: composites.ByName({"conv_*": "zero"}).assign(network()), ["embed", "no entry"]),
        (lambda: composites.ByIndex({9: "zero"}).assign(network()), ["9", "4"]),
        (lambda: composites.Uniform("detached").assign(network()), ["embed", "detached"]),
        (
            lambda: composites.ByType({L.MaxPool: "flat", L.GlobalMaxPool: "flat"}, default="zero").assign(network()),
            ["global", "flat"],
        ),
        (lambda: composites.ByType({"conv": "zero"}), ["'conv'"]),
        (lambda: composites.ByType({L.Conv: 3}), ["int"]),
        (lambda: composites.ByIndex({"a": "zero"}), ["'a'"]),
        (lambda: composites.when("conv", "zero"), ["'conv'"]),
        (lambda: composites.from_name("epsilon_pluss"), ["epsilon_pluss", "epsilon_plus"]),
    ],
)
def test_what_is_wrong_is_named(make, parts):
    with pytest.raises(lrpfast.RuleError) as caught:
        make()
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_innvestigates_presets():
    model = network()
    kinds = {}
    for name in ("lrp.sequential_preset_a", "lrp.sequential_preset_b_flat", "lrp.sequential_preset_b_flat_until_idx"):
        keywords = {"until_layer_idx": 2} if name.endswith("idx") else {}
        plan = lrpfast.create_analyzer(name, model, **keywords).plan()
        kinds[name] = {
            s.name: s.rule.name for s in plan.steps if s.name in ("embed", "conv_a", "conv_b", "head", "norm")
        }
    assert kinds["lrp.sequential_preset_a"] == {
        **{
            "embed": "epsilon",
            "conv_a": "alpha_beta",
            "conv_b": "alpha_beta",
            "norm": "alpha_beta_x",
            "head": "epsilon",
        }
    }
    assert kinds["lrp.sequential_preset_b_flat"]["embed"] == "flat"
    assert kinds["lrp.sequential_preset_b_flat_until_idx"]["conv_a"] == "flat"
    assert kinds["lrp.sequential_preset_b_flat_until_idx"]["conv_b"] == "alpha_beta"


# Canonization


def norm(n, seed=0):
    rng = np.random.default_rng(seed)
    return L.BatchNorm(rng.normal(size=n), 0.5 + rng.random(n), rng.normal(size=n), rng.normal(size=n))


def kernel(*shape):
    return np.random.default_rng(shape).normal(size=shape)


CHAINS = {
    "dense": ([L.Dense(kernel(3, 4), kernel(4)), norm(4)], (3,), 1),
    "dense without bias": ([L.Dense(kernel(3, 4)), L.Identity("Dropout"), norm(4), L.Activation("relu")], (3,), 1),
    "conv": ([L.Conv(kernel(3, 3, 4, 6), kernel(6), groups=2, padding="same"), norm(6)], (5, 5, 8), 1),
    "transposed": ([L.ConvTranspose(kernel(2, 2, 3, 4), strides=2, groups=2), norm(6)], (3, 3, 4), 1),
    "depthwise": ([L.DepthwiseConv(kernel(3, 2, 2), kernel(4)), norm(4)], (6, 2), 1),
    "local": ([L.LocallyConnected(kernel(4, 6, 3), kernel(4, 3), size=3), norm(3)], (6, 2), 1),
    "before a dense layer": ([norm(3), L.Dense(kernel(3, 2), kernel(2))], (3,), 1),
    "before a flattened one": ([norm(2), L.Flatten(), L.Dense(kernel(8, 2))], (4, 2), 0),
    "before a conv": ([norm(4), L.Conv(kernel(3, 2, 4), groups=2)], (6, 4), 1),
    "before a depthwise one": ([norm(2), L.DepthwiseConv(kernel(3, 2, 2))], (6, 2), 1),
    "before padding": ([norm(2), L.Conv(kernel(3, 2, 4), padding="same")], (6, 2), 0),
    "after an activation": ([L.Dense(kernel(3, 4), None, "relu"), norm(4)], (3,), 0),
    "between both": ([L.Dense(kernel(3, 4), None, "relu"), norm(4), L.Dense(kernel(4, 2))], (3,), 1),
}


@pytest.mark.parametrize("name", CHAINS)
def test_folding_changes_no_output(name):
    chain, shape, folded = CHAINS[name]
    model = lrpfast.from_layers(chain, input_shape=shape)
    made = canonize(model)
    x = np.random.default_rng(1).normal(size=(4, *shape))
    want = model.predict(x, precision="float64")
    np.testing.assert_allclose(made.predict(x, precision="float64"), want, rtol=1e-11, atol=1e-12)
    assert [n.name for n in made.nodes] == [n.name for n in model.nodes]
    left = sum(isinstance(layer, L.BatchNorm) for layer in made.layers)
    assert left == 1 - folded or name == "before a flattened one"


def test_what_others_use_is_left_alone():
    graph = lrpfast.Graph()
    x = graph.input((3,))
    y = graph.add(L.Dense(kernel(3, 3)), x)
    z = graph.add(norm(3), y)
    model = graph.model(graph.add(L.Add(), y, z))
    assert canonize(model) is model
