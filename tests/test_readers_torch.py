"""PyTorch's exported programs in files, against what PyTorch, zennit and captum printed."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast.model.canonize import canonize
from lrpfast.model.graph import Model

DATA = Path(__file__).parent / "data"
CASES = ("mlp", "cnn", "conv1d", "cnn_bn", "resnet")
RECORDS = [(case, key) for case in CASES for key in np.load(DATA / f"torch_{case}.npz").files if "|" in key]


@functools.cache
def model(case):
    return lrpfast.load(DATA / f"torch_{case}.pt2")


@functools.cache
def record(case):
    return dict(np.load(DATA / f"torch_{case}.npz"))


def largest(relevance):
    """Of each sample, as an array that broadcasts."""
    return np.abs(relevance).max(tuple(range(1, relevance.ndim)), keepdims=True)


@pytest.mark.parametrize("case", CASES)
def test_predictions(case):
    got = model(case).predict(record(case)["x"], precision="float64")
    np.testing.assert_allclose(got, record(case)["y"], rtol=0, atol=1e-14)


def composite(key):
    """zennit's and captum's explanations as composites of lrpfast's."""
    peer, name, keywords = key.split("|")
    keywords = json.loads(keywords)
    r, c = lrpfast.rules, lrpfast.composites
    if peer == "captum":
        rule = {
            "epsilon": lambda: r.Epsilon(**keywords),
            "gamma": lambda: r.Gamma(**keywords, generalized=False, scale_bias=False, stabilizer=1e-9),
            "alpha1_beta0": lambda: r.ZPlus(split_input=False, bias="full", stabilizer=1e-9),
        }[name]()
        return c.Captum(rule)
    if name.startswith("composite:"):
        return c.from_name(name.removeprefix("composite:"), **keywords)
    rule = {
        "epsilon": r.Epsilon,
        "zplus": r.ZPlus,
        "alpha_beta": r.AlphaBeta,
        "gamma": r.Gamma,
        "wsquare": lambda: r.WSquare(bias="absorb"),
        "flat": r.Flat,
        "zbox": r.ZBox,
    }[name.split(":")[1]](**keywords)
    return c.Uniform(r.Epsilon(1e-6), first=rule) if name.startswith("first:") else c.Uniform(rule)


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


@pytest.mark.parametrize("case, key", RECORDS, ids=lambda v: v)
def test_zennit_and_captum(case, key):
    read, rule = model(case), composite(key)
    if key.startswith("zennit") and any(isinstance(layer, lrpfast.layers.BatchNorm) for layer in read.layers):
        # what is left of the batch norm has no rule in excitation backprop, and so its gradient
        left = lrpfast.rules.Gradient() if "excitation" in key else lrpfast.rules.Pass()
        rule = replace(lrpfast.composites.ByType({lrpfast.layers.BatchNorm: left}) | rule, canonize=False)
        read = as_zennit_merges(read)
    got = lrpfast.Analyzer(read, rule, target=0, precision="float64").analyze(record(case)["x"])
    off = np.abs(got - record(case)[key])
    assert (off <= 1e-11 * largest(record(case)[key])).all()
