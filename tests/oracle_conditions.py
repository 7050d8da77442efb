"""Relevance through chosen neurons of layers, path by path: each piece of relevance knows the layers it came through.

What comes to neurons of a layer that were not chosen goes no further. In the end, either what came through all layers
counts, or all that is left.
"""

import numpy as np

from oracle import EXACT
from oracle_layers import Ledger, hand_back, hand_back_activation


def backward(net, run, rules, start, chosen, parallel, ar=EXACT):
    """Relevance of the net's one input, flat. chosen: by node, which of its values were chosen, True or False."""
    at = net.outputs[0]
    received = [{} for _ in net.nodes]  # of each node: relevance by the layers that it came through
    received[at][frozenset()] = start
    for i in range(at, -1, -1):
        layer, inputs = net.nodes[i]
        if i in chosen:
            received[i] = {passed | {i}: r * np.ravel(chosen[i]) for passed, r in received[i].items()}
        if layer.kind == "Input":
            continue
        shapes, parts = [run.shapes[j] for j in inputs], [run.y[j] for j in inputs]
        for passed, r in received[i].items():
            if layer.activation[0] is not None:
                rule = rules[i] if layer.kind == "Activation" else ("pass", {})
                r = hand_back_activation(layer, rule, run.shapes[i], run.z[i], r, Ledger(), ar)
            if layer.kind not in ("Activation", "Identity"):
                r = hand_back(layer, rules[i], shapes, parts, run.z[i], r, Ledger(), ar)
            for j, piece in zip(inputs, np.split(r, np.cumsum([p.shape[-1] for p in parts])[:-1], -1), strict=True):
                received[j][passed] = received[j].get(passed, 0) + piece
    of_input = received[net.inputs[0]]
    counts = [r for passed, r in of_input.items() if parallel or passed == frozenset(chosen)]
    return sum(counts, np.zeros_like(run.y[net.inputs[0]]))


def explain(net, rules, x, target, chosen, parallel, ar=EXACT):
    """`backward` for every row of x: (samples, features)."""

    def compute(some, xs, ar):
        run = net.values(xs, ar)
        return backward(net, run, rules, net.start(run, target, net.outputs[0]), chosen, parallel, ar)

    return net._in_pieces(compute, x, ar)


def reaches(net, above, below):
    """Whether a path leads from a node down to another."""
    nodes = {above}
    for i in range(above, below, -1):
        if i in nodes:
            nodes |= set(net.nodes[i].inputs)
    return below in nodes
