"""The networks as lrpfast's models, and the rules of the benchmarks under each peer's conventions."""

from __future__ import annotations

from typing import Any

import lrpfast
from conventions import EPSILON, INNVESTIGATE
from lrpfast import composites, layers, rules
from networks import Network, Node


def _layer(node: Node) -> Any:
    p = node.parameters
    if node.kind == "dense":
        return layers.Dense(p["kernel"], p["bias"], "relu" if p["relu"] else None)
    if node.kind in ("conv", "depthwise"):
        make = layers.Conv if node.kind == "conv" else layers.DepthwiseConv
        pad = [(p["pad"], p["pad"])] * (p["kernel"].ndim - 2)
        return make(p["kernel"], p["bias"], p["stride"], pad, activation="relu" if p["relu"] else None)
    if node.kind == "batch_norm":
        return layers.BatchNorm(p["mean"], p["variance"], p["gamma"], p["beta"], p["epsilon"])
    if node.kind == "max_pool":
        size, stride, pad = p["size"], p["stride"], p["pad"]
        return layers.MaxPool((size, size), stride, [(pad, pad)] * 2)
    return {
        "relu": lambda: layers.Activation("relu"),
        "add": layers.Add,
        "flatten": layers.Flatten,
        "global_average_pool": layers.GlobalAveragePool,
    }[node.kind]()


def build(network: Network) -> lrpfast.Model:
    """The network as an lrpfast model."""
    graph = lrpfast.Graph()
    results = [graph.input(network.shape)]  # a node's result at its index + 1, so that −1 is the input
    for node in network.nodes:
        results.append(graph.add(_layer(node), *(results[i + 1] for i in node.inputs)))
    return graph.model(results[-1])


def zennit_composite(rule: str) -> Any:
    """A rule of the benchmarks as zennit has it."""
    return {
        "epsilon": lambda: composites.Uniform(rules.Epsilon(EPSILON)),
        "z_plus": lambda: composites.Uniform(rules.ZPlus()),
        "alpha2_beta1": lambda: composites.Uniform(rules.AlphaBeta(2, 1)),
        "epsilon_plus": lambda: composites.EpsilonPlus(EPSILON),
        "bounded": lambda: composites.Uniform(rules.ZPlus(bias="ignore"), first=rules.ZBox(-1, 1)),
    }[rule]()


def captum_composite(rule: str) -> Any:
    """A rule as captum has it; its α1β0 splits the weights, not the contributions, and keeps the bias whole."""
    z_plus = rules.ZPlus(split_input=False, bias="full", stabilizer=1e-9)
    return {
        "epsilon": lambda: composites.Captum(rules.Epsilon(EPSILON)),
        "z_plus": lambda: composites.Captum(z_plus),
        "epsilon_plus": lambda: (
            composites.ByType({(layers.Conv, layers.DepthwiseConv): z_plus, layers.Dense: rules.Epsilon(EPSILON)})
            | composites.Captum()
        ),
        "bounded": lambda: composites.Captum(rules.ZPlus(split_input=False, bias="ignore", stabilizer=1e-9)),
    }[rule]()


def analyzer(network: Network, rule: str, convention: str = "zennit", **options: Any) -> lrpfast.Analyzer:
    """lrpfast's analyzer of a network and a rule under a peer's conventions."""
    model = build(network)
    if convention == "innvestigate":
        name, keywords = INNVESTIGATE[rule]
        return lrpfast.create_analyzer(name, model, **keywords, **options)
    composite = zennit_composite(rule) if convention == "zennit" else captum_composite(rule)
    return lrpfast.Analyzer(model, composite, **options)
