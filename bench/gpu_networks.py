"""Several layers against the float64 oracle: what a layer's kernel does for the next, networks, recurrent layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import cases
import lrpfast
import oracle_conditions
import oracle_layers
import test_graphs
import test_layers
import test_recurrent
import test_recurrent_gradients
from gpu_lines import Options, Step
from gpu_tally import DISTINCT, PRECISIONS, Tally, again, expected_again, tallied
from oracle_layers import Layer
from tolerances import Expected

W = cases.Weights(12)

# Chains: what a layer's kernel does for the layer below.


@dataclass(frozen=True)
class Chain:
    """A network, its inputs, made of a few different samples, and what it gives by the oracle."""

    name: str
    net: oracle_layers.Net
    shape: tuple[int, ...]
    count: int

    @property
    def x(self) -> np.ndarray:
        return again(cases.values(self.shape, DISTINCT), self.count)

    def expected(self, rule: Any) -> Expected:
        x = cases.values(self.shape, DISTINCT)
        return expected_again(lambda ar: self.net.explain(self.net.rules(rule), x, "max", ar), self.count)

    def analyzer(self, rule: Any, precision: str, device: str, **more: Any) -> lrpfast.Analyzer:
        model, composite = cases.graph(self.net), test_graphs.unfolded(rule)
        return lrpfast.Analyzer(model, composite, precision=precision, device=device, **more)


def chains(options: Options) -> list[Chain]:
    """A dense and a convolutional network, of a few samples more than tiles have rows."""
    relu: Any = {"activation": "relu"}
    a, b, c = (66, 70, 20) if options.small else (200, 150, 70)
    dense = [W.dense(a, b, **relu), W.dense(b, c, **relu), W.dense(c, 5)]
    size, width = (6, 8) if options.small else (8, 18)
    pooled = (size - 2) // 2
    images = [
        W.conv((3, 3), 3, width, padding="same", **relu),
        W.conv((3, 3), width, 9, **relu),
        Layer("MaxPool", {"size": (2, 2)}),
        Layer("Flatten"),
        W.dense(pooled * pooled * 9, 6),
    ]
    return [
        Chain("mlp", oracle_layers.chain((a,), *dense), (a,), 40 if options.small else 300),
        Chain("cnn", oracle_layers.chain((size, size, 3), *images), (size, size, 3), 5 if options.small else 33),
    ]


def chained_layers(options: Options) -> Iterator[Step]:
    for chain in chains(options):

        def work(tallies: dict[str, Tally], chain: Chain = chain) -> None:
            rules = [rule for rule in cases.KINDS if rule[0] not in ("z_box", "flat", "w_square")]
            for rule in options.few(rules, 2):
                expected = chain.expected(rule)
                for precision, tally in tallies.items():

                    def explain(precision: str = precision, rule: Any = rule) -> np.ndarray:
                        found = chain.analyzer(rule, precision, options.device).analyze(chain.x)
                        return found.reshape(chain.count, -1)

                    tally.compare(expected, cases.case_id(rule), explain)

        yield tallied(f"chain {chain.name}, batch {chain.count}", work)


# Networks and activations.


def networks(options: Options) -> Iterator[Step]:
    for name, net in test_graphs.NETS.items():

        def work(tallies: dict[str, Tally], net: Any = net, name: str = name) -> None:
            x = test_graphs.inputs(net)
            target = 0 if len(net.outputs) == 1 else {f"n{net.outputs[0]}": 0}
            for rule in options.few(test_graphs.RULES, 2):
                expected = Expected(lambda ar, rule=rule: net.explain(net.rules(rule), x, 0, ar))
                for precision in PRECISIONS[:2]:

                    def explain(precision: str = precision, rule: Any = rule) -> np.ndarray:
                        analyzer = lrpfast.Analyzer(
                            cases.graph(net), test_graphs.unfolded(rule), precision=precision, device=options.device
                        )
                        return cases.flat(analyzer.analyze(x, target), 3)

                    tallies[precision].compare(expected, cases.case_id(rule), explain)

        yield tallied(f"network {name}", work)


def activations(options: Options, tallies: dict[str, Tally]) -> None:
    """Each as a layer before a dense one, under the rules that it takes."""
    x = cases.values((4, 3), count=4)
    eye = {"kernel": np.eye(3, dtype=np.float32)}
    r = cases.values((4, 3), count=4, seed=9)
    start = list(np.float64(r).reshape(4, -1))
    for function, parameters in test_layers.ACTIVATIONS:
        own_x = np.abs(x) + np.float32(0.25) if function == "log" else x
        layer = Layer("Activation", {"function": function, "parameters": parameters})
        net = oracle_layers.chain((4, 3), layer, Layer("Dense", eye))
        names = {"softmax": ("taylor", "pass", "gradient"), "linear": ("pass",)}.get(function, ("pass", "gradient"))
        for name in names:
            own = (name, {})
            expected = Expected(
                lambda ar, net=net, own=own, x=own_x: net.explain(
                    [None, own, ("zero", {})], x, start, ar, activations={1: own}
                )
            )
            for precision in PRECISIONS[:2]:

                def explain(precision: str = precision, net: Any = net, own: Any = own, x: Any = own_x) -> np.ndarray:
                    composite = cases.composite({}, ("zero", {}), activations=own)
                    analyzer = lrpfast.Analyzer(cases.graph(net), composite, precision=precision, device=options.device)
                    return cases.flat(analyzer.analyze(x, r), 4)

                tallies[precision].compare(expected, f"{function} {parameters or ''}, {name}", explain)


def conditions(options: Options, tallies: dict[str, Tally]) -> None:
    """Relevance through some neurons of a hidden layer alone, in both ways of counting the rest."""
    net = oracle_layers.chain((7,), W.dense(7, 6, activation="relu"), W.dense(6, 5, activation="relu"), W.dense(5, 3))
    x, rule = cases.values((7,), count=5), ("epsilon", {"epsilon": 0.1})
    chosen = {1: np.arange(6) % 3 > 0}
    for parallel in (False, True):
        expected = Expected(lambda ar, p=parallel: oracle_conditions.explain(net, net.rules(rule), x, 1, chosen, p, ar))
        for precision in PRECISIONS[:2]:

            def explain(precision: str = precision, parallel: bool = parallel) -> np.ndarray:
                analyzer = lrpfast.Analyzer(
                    cases.graph(net), test_graphs.unfolded(rule), precision=precision, device=options.device
                )
                condition = {net.names[1]: chosen[1]}
                return cases.flat(analyzer.analyze(x, 1, conditions=condition, parallel=parallel), 5)

            tallies[precision].compare(expected, f"conditions, parallel={parallel}", explain)


# Recurrent layers.


@dataclass
class Figures:
    """Exact values, with the tolerances of recurrent layers: parts of each sample's largest."""

    exact: np.ndarray

    def within(self, precision: str) -> tuple[np.ndarray, np.ndarray]:
        """The exact values and how far off each may be."""
        part = 1e-10 if precision == "float64" else 2e-5
        return self.exact, part * np.abs(self.exact).max(1, keepdims=True) + 1e-300

    def check(self, actual: np.ndarray, precision: str, what: str) -> None:
        exact, allowed = self.within(precision)
        assert actual.shape == exact.shape, f"{what}: shape {actual.shape}, expected {exact.shape}"
        off = np.abs(actual - exact)
        assert (off <= allowed).all(), f"{what}: off by {off.max():.1e} where {allowed.max():.1e} is allowed"


def recurrent(options: Options, tallies: dict[str, Tally]) -> None:
    """Every cell under every product, with masks and states; and biases that a dense layer shares out."""
    for cell in test_recurrent.CELLS:
        for product, bias in zip(test_recurrent.PRODUCTS, test_recurrent.BIASES, strict=True):
            case = test_recurrent.Case(cell, units=35, return_sequences=True, takes_mask=True, takes_state=True)
            rule = {"epsilon": 0.1, "product": product, "bias": bias}
            expected = Figures(cases.flat(case.explained(rule)[0], len(case.x)))
            for precision in PRECISIONS[:2]:

                def explain(precision: str = precision, case: Any = case, rule: Any = rule) -> np.ndarray:
                    return cases.flat(case.actual(rule, precision, device=options.device), len(case.x))

                tallies[precision].compare(expected, f"{cell}, {product}, {bias}", explain)  # type: ignore[arg-type]
        derivative = Figures(cases.flat(test_recurrent_gradients.expected(case), len(case.x)))
        for precision in PRECISIONS[:2]:

            def derive(precision: str = precision, case: Any = case) -> np.ndarray:
                found = test_recurrent_gradients.actual(case, precision, device=options.device)
                return cases.flat(found, len(case.x))

            tallies[precision].compare(derivative, f"{cell}, derivative", derive)  # type: ignore[arg-type]
    graph = lrpfast.Graph()
    model = graph.model(graph.add(lrpfast.layers.StepMask(-1.0), graph.input((3, 2))))
    x = np.array([[[-1.0, -1.0], [-1.0, 2.0], [0.0, 0.0]]])
    layer = lrpfast.layers.Dense(np.float32([[1, 2], [-2, 0.5], [0.25, 1]]), np.float32([0.5, -1]))
    values, r = cases.values((5, 3), count=2), cases.values((5, 2), count=2, seed=9)
    z = np.float64(values) @ layer.kernel + layer.bias
    s = r / (z + np.where(z >= 0, 0.1, -0.1))
    kept = ((layer.bias + np.where(z >= 0, 0.1, -0.1)) * s).sum(-1, keepdims=True)
    shared = Figures((values * (s @ layer.kernel.T) + kept / 3).reshape(2, -1))
    rule = lrpfast.rules.Recurrent(0.1, bias="share")
    for precision in PRECISIONS[:2]:
        tally, settings = tallies[precision], {"precision": precision, "device": options.device}
        tally.compare(Figures(np.array([[0.0, 1.0, 1.0]])), "steps masked", lambda s=settings: model.predict(x, **s))  # type: ignore[arg-type]
        tally.compare(
            shared,  # type: ignore[arg-type]
            "shared biases",
            lambda s=settings: cases.flat(lrpfast.redistribute(rule, layer, values, r, **s), 2),
        )
