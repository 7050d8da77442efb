"""What zennit 0.5.1 and captum 0.9 were asked for in the records (tests/data/torch_*.npz), in our terms."""

import json
from dataclasses import replace

import numpy as np

import lrpfast
from lrpfast.model.canonize import canonize
from lrpfast.model.graph import Model


def rules(key):
    """What zennit and captum call a rule, in ours: one rule for all layers, or (first, rest)."""
    peer, name, keywords = key.split("|")
    keywords = json.loads(keywords)
    r = lrpfast.rules
    epsilon = r.Epsilon(1e-6)
    if peer == "captum":
        return {
            "epsilon": lambda: r.Epsilon(**keywords),
            "gamma": lambda: r.Gamma(**keywords, generalized=False, scale_bias=False, stabilizer=1e-9),
            "alpha1_beta0": lambda: r.ZPlus(split_input=False, bias="full", stabilizer=1e-9),
        }[name]()
    if name.startswith("composite:"):  # on dense networks these differ in the first layer alone
        if name == "composite:excitation_backprop":
            return r.ZPlus()
        return (r.Flat(), epsilon) if name.endswith("_flat") else epsilon
    rule = {
        "epsilon": r.Epsilon,
        "zplus": r.ZPlus,
        "alpha_beta": r.AlphaBeta,
        "gamma": r.Gamma,
        "wsquare": lambda: r.WSquare(bias="absorb"),
        "flat": r.Flat,
        "zbox": r.ZBox,
    }[name.split(":")[1]](**keywords)
    return (rule, epsilon) if name.startswith("first:") else rule


def composite(key):
    """zennit's and captum's explanations as composites."""
    peer, name, keywords = key.split("|")
    composites, made = lrpfast.composites, rules(key)
    if peer == "captum":
        return composites.Captum(made)
    if name.startswith("composite:"):
        return composites.from_name(name.removeprefix("composite:"), **json.loads(keywords))
    return composites.Uniform(made[1], first=made[0]) if isinstance(made, tuple) else composites.Uniform(made)


def as_zennit_merges(model):
    """zennit's MergeBatchNorm leaves (x - 0) / sqrt(1 + eps) in the batch norm's place: eps is not taken out."""
    nodes = []
    for node, folded in zip(model.nodes, canonize(model).nodes, strict=True):
        layer = folded.layer
        if isinstance(node.layer, lrpfast.layers.BatchNorm):
            zeros, ones = np.zeros(len(node.layer.mean)), np.ones(len(node.layer.mean))
            layer = replace(node.layer, mean=zeros, variance=ones, gamma=None, beta=None)
        nodes.append((layer, node.inputs))
    return Model(nodes, model.name)


def beside_merged(made, key):
    """A composite for a model in which zennit's remains of batch norms stand: they hand relevance on."""
    # what is left of the batch norm has no rule in excitation backprop, and so its gradient
    left = lrpfast.rules.Gradient() if "excitation" in key else lrpfast.rules.Pass()
    return replace(lrpfast.composites.ByType({lrpfast.layers.BatchNorm: left}) | made, canonize=False)
