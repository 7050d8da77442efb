"""Every kernel against the float64 oracle, through the public API, with the tests' own cases and tolerances."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np

import cases
import lrpfast
import oracle
import oracle_conditions
import oracle_layers
import test_graphs
import test_layers
import test_recurrent
import test_recurrent_gradients
from gpu_lines import Options, Report, Step, is_lost, reason
from lrpfast.kernels.cuda import contractions, cudnn, modules, tiles
from oracle_layers import Layer
from tolerances import Expected

PRECISIONS = ("float32", "float64", "tf32", "3xtf32")
#: Failures of a line that the table shows; the JSON file has them all.
SHOWN = 3

#: Dense layers: inputs, outputs, samples. Edges of tiles, of quads and of steps of K; a split K; the wide tiles.
SIZES = [(1, 1, 1), (3, 2, 13), (17, 65, 2), (66, 17, 35), (37, 130, 34), (600, 5, 3), (129, 63, 129), (513, 260, 130)]
#: A rule whose layers have more than two sums, which take a kernel of their own.
MANY_SUMS = ("alpha_beta", {})
#: A rule that divides by one of two sums, by the sign of the output.
BY_SIGN = ("gamma", {})
#: Of so many different samples are large batches made, time and again, as the oracle is slow: every row is compared.
DISTINCT = 3

#: One rule of each kind that the planner tells apart, without biases that inputs share.
LARGE_RULES = [
    ("epsilon", {"epsilon": 0.1}),
    ("alpha_beta", {}),
    ("z_plus", {"bias": "full"}),
    ("gamma", {}),
    ("flat", {}),
    ("z_box", {"low": -3.0, "high": 4.0}),
]

#: Modules that are used only where a switch says so; gpu_experiments.py launches them.
UNUSED = ("trial_tile", "many_k")

#: What the cast kernels take, of NumPy's types.
TYPES = (
    *("float16", "float32", "float64", "int8", "uint8", "int16"),
    *("uint16", "int32", "uint32", "int64", "uint64", "bool"),
)

W = cases.Weights(11)
#: Larger convolutions, by the oracle of windows: (name, input shape, samples, layer).
BY_WINDOWS = [
    ("conv 2d 17x19x24 to 70", (17, 19, 24), 2, W.conv((3, 3), 24, 70, padding="same")),
    ("conv 2d 17x19x24 to 70, stride 2", (17, 19, 24), 5, W.conv((3, 3), 24, 70, padding="same", strides=2)),
    ("conv 1d 61x40 to 129, dilation 2", (61, 40), 6, W.conv((5,), 40, 129, padding="same", dilation=2)),
    ("conv 3d 5x4x6x7 to 33", (5, 4, 6, 7), 4, W.conv((2, 3, 2), 7, 33)),
    ("conv 2d 9x11x12 to 40 in 2 groups, stride 2", (9, 11, 12), 7, W.conv((3, 3), 6, 40, groups=2, strides=2)),
    ("conv 2d 5x7x19 to 38 in 19 groups", (5, 7, 19), 5, W.conv((3, 3), 1, 38, groups=19, padding="same")),
    ("depthwise 2d 5x7x37", (5, 7, 37), 7, W.depthwise((3, 3), 37, padding="same")),
    ("depthwise 2d 8x9x13, 3 to a channel, stride 2", (8, 9, 13), 7, W.depthwise((3, 3), 13, 3, strides=2)),
]
#: In their place where sizes are small: wide tiles, and several groups of a depthwise convolution.
SMALL_WINDOWS = [
    ("conv 2d 5x4x6 to 70", (5, 4, 6), 2, W.conv((3, 3), 6, 70, padding="same")),
    ("depthwise 2d 3x2x19", (3, 2, 19), 2, W.depthwise((3, 3), 19, padding="same")),
]
#: Transposed ones of odd sizes, by the oracle's matrices.
BY_MATRIX = [
    ("transposed 2d 5x6x24 to 5", (5, 6, 24), 7, W.conv_transpose((3, 2), 24, 5, strides=(2, 3))),
    ("transposed 1d 21x18 to 33, dilation 2", (21, 18), 5, W.conv_transpose((3,), 18, 33, dilation=2, padding=(2, 1))),
]


def real(precision: str) -> Any:
    return np.float64 if precision == "float64" else np.float32


def again(distinct: np.ndarray, count: int) -> np.ndarray:
    """A batch of ``count`` samples made of a few."""
    return distinct[np.arange(count) % len(distinct)]


def expected_again(compute: Callable[[Any], np.ndarray], count: int) -> Expected:
    """What is expected of `again`."""
    return Expected(lambda ar: again(compute(ar), count), together=False)


@dataclass
class Tally:
    """One line: the comparisons of some cases in one precision."""

    precision: str
    count: int = 0
    worst: float = 0.0  # of what the tolerance allows
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def compare(self, expected: Expected, what: str, compute: Callable[[], np.ndarray]) -> None:
        """Compute and compare; a failure is noted, and stops the step only where the device is lost by it."""
        begin = time.monotonic()
        self.count += 1
        try:
            got = compute()
            expected.check(got, self.precision, what)
            exact, allowed = expected.within(self.precision)
            off = np.abs(got - exact)
            if off.size:
                self.worst = max(self.worst, float((off / np.where(allowed > 0, allowed, 1)).max()))
        except Exception as error:
            self.failures.append(f"{what}: {reason(error)}" if what not in str(error) else reason(error))
            if is_lost():
                raise DeviceLost(self.failures[-1]) from error
        finally:
            self.seconds += time.monotonic() - begin

    def say(self, report: Report, what: str) -> None:
        """The line; says nothing where there was nothing to compare."""
        if not self.count:
            return
        if self.failures:
            result = f"{len(self.failures)} of {self.count} wrong: {'; '.join(self.failures[:SHOWN])}"
        else:
            result = f"{self.count} right, at most {self.worst:.2f} of the tolerance"
        status = "FAIL" if self.failures else "ok"
        facts = {"cases": self.count, "worst": self.worst, "failures": self.failures}
        report.line(f"{what}, {self.precision}", result, status, self.seconds, **facts)


class DeviceLost(Exception):
    """After this error the device takes no more work."""


def tallied(what: str, work: Callable[[dict[str, Tally]], None]) -> Step:
    """A step that fills a tally for each precision and says a line for each."""

    def step(report: Report) -> None:
        tallies = {p: Tally(p) for p in PRECISIONS}
        lost = None
        try:
            work(tallies)
        except DeviceLost as error:
            lost = error
        for tally in tallies.values():
            tally.say(report, what)
        if lost is not None:
            report.fail(f"{what}, the rest", f"not run: the device is lost after {lost}")

    return what, step


def redistribute(options: Options, rule: Any, layer: Any, x: list[np.ndarray], r: np.ndarray, precision: str) -> Any:
    """`lrpfast.redistribute` on the device, relevance of all inputs side by side."""
    arrays = [a if a.dtype.kind == "i" else a.astype(real(precision)) for a in x]
    given = arrays if len(arrays) > 1 else arrays[0]
    start = r.astype(real(precision))
    made = lrpfast.redistribute(cases.rule(rule), layer, given, start, device=options.device, precision=precision)
    return cases.flat(made, len(r))


# Small layers: the lists of tests/test_layers.


def one_layer(
    options: Options, tallies: dict[str, Tally], name: str, shapes: Sequence[tuple], layer: Layer, rule: Any, turn: int
) -> None:
    """A layer alone under a rule, with inputs of both signs; in one precision also where x ≥ 0 is known."""
    x = test_layers.inputs(layer, shapes)
    net = test_layers.alone(layer, shapes)
    r = cases.values(net.forward([a[0] for a in x]).shapes[-1], seed=9)
    expected = Expected(lambda ar: oracle_layers.redistribute(rule, layer, x, r, ar))
    made, what = cases.layer(layer), f"{name}, {cases.case_id(rule)}"
    for precision, tally in tallies.items():
        tally.compare(expected, what, lambda p=precision: redistribute(options, rule, made, x, r, p))
    if not layer.linear:
        return
    precision = list(tallies)[turn % len(tallies)]

    def above() -> np.ndarray:
        composite = cases.composite({net.names[-1]: rule}, ("epsilon", {}))
        analyzer = lrpfast.Analyzer(
            cases.graph(net), composite, precision=precision, input_range=(0, 3), device=options.device
        )
        arrays = [a[1:].astype(real(precision)) for a in x]
        got = analyzer.analyze(arrays if len(arrays) > 1 else arrays[0], r[1:].astype(real(precision)))
        return cases.flat(got, len(r) - 1)

    only = Expected(lambda ar: expected.compute(ar)[1:], together=False)
    tallies[precision].compare(only, f"{what}, x >= 0", above)


def kind_of(name: str, shape: tuple, layer: Layer) -> str:
    """The line that a geometry of tests/test_layers belongs to."""
    if layer.kind in ("ConvTranspose", "DepthwiseConv", "LocallyConnected"):
        return {"C": "transposed", "D": "depthwise", "L": "locally connected"}[layer.kind[0]]
    return f"conv {len(shape) - 1}d"


def small_layers(options: Options) -> Iterator[Step]:
    groups: dict[str, tuple[list, list]] = {}
    for name, shape, layer in options.few(test_layers.PLAIN, 13):
        rules = [*cases.PLAIN, *(cases.OTHER if (name, shape, layer) in test_layers.SOME_PLAIN else ())]
        rules = options.few(rules, 2)
        if layer.kind == "DepthwiseConv":
            rules.append(MANY_SUMS)
        groups[f"{name} {'x'.join(map(str, shape))}"] = [(name, [shape], layer)], rules
    rules = cases.KINDS[2::5] if options.small else cases.KINDS
    for entry in test_layers.GEOMETRIES:
        groups.setdefault(f"geometries, {kind_of(*entry)}", ([], rules))[0].append((entry[0], [entry[1]], entry[2]))
    for name, layers, rules in (
        ("sums and means", test_layers.SUMS, options.few(test_layers.SUM_RULES, 2)),
        ("routes", test_layers.ROUTES, options.few(test_layers.ROUTE_RULES, 2)),
        ("products", test_layers.PRODUCTS, options.few(test_layers.PRODUCT_RULES, 2)),
        ("normalizations", test_layers.NORMALIZATIONS, options.few(test_layers.NORMALIZATION_RULES, 3)),
        ("local response", test_layers.LOCAL_RESPONSE, [("pass", {})]),
        ("softmax over keys", test_layers.SOFTMAXES, options.few(test_layers.SOFTMAX_RULES, 2)),
        ("rotary positions", test_layers.ROTATIONS, options.few(test_layers.ROTATION_RULES, 2)),
        ("attention", test_layers.ATTENTIONS, options.few(test_layers.ATTENTION_RULES, 2)),
    ):
        groups[name] = layers, rules
    exact = (
        "routes",
        "products",
        "normalizations",
        "local response",
        "softmax over keys",
        "rotary positions",
        "attention",
    )

    for what, (layers, rules) in groups.items():

        def work(tallies: dict[str, Tally], what: str = what, layers: list = layers, rules: list = rules) -> None:
            some = {p: t for p, t in tallies.items() if "tf32" not in p or what not in exact}
            for turn, (name, shapes, layer) in enumerate(options.few(layers, 4)):
                for k, rule in enumerate(rules):
                    one_layer(options, some, name, shapes, layer, rule, turn + k)

        yield tallied(what, work)


# Dense layers of many sizes.


def dense(options: Options, tallies: dict[str, Tally], n: int, m: int, count: int, rule: Any) -> None:
    (layer,) = cases.network((n, m))
    distinct = min(DISTINCT, count)
    x = cases.inputs(distinct, n)
    r = np.random.default_rng(m).normal(size=(distinct, m)).astype(np.float32)
    expected = expected_again(lambda ar: oracle.redistribute(rule, layer, x, r, ar), count)
    made, what = lrpfast.layers.Dense(layer.w, layer.b), f"{n} to {m}, {count} samples, {cases.case_id(rule)}"
    for precision, tally in tallies.items():
        tally.compare(
            expected, what, lambda p=precision: redistribute(options, rule, made, [again(x, count)], again(r, count), p)
        )


def dense_layers(options: Options) -> Iterator[Step]:
    sizes = [s for s in SIZES if s[0] < 500] if options.small else SIZES
    rules = [*options.few(cases.CASES, 3), MANY_SUMS, BY_SIGN]
    for n, m, count in sizes:

        def work(tallies: dict[str, Tally], n: int = n, m: int = m, count: int = count) -> None:
            for rule in rules:
                dense(options, tallies, n, m, count, rule)

        yield tallied(f"dense {n} to {m}, batch {count}", work)

    def by_library(tallies: dict[str, Tally]) -> None:
        """cuBLAS from the smallest product on, which it is otherwise given large ones of only."""
        with mock.patch.object(contractions, "LIBRARY_FLOPS", 1):
            for rule in [*options.few(cases.CASES, 5), ("gamma", {"gamma": 0.0})]:  # by the last, parts of x
                dense(options, tallies, *((66, 37, 35) if options.small else (513, 260, 601)), rule)

    yield tallied("dense, cuBLAS wherever it can", by_library)


# Larger convolutions and the like.


def groups_of(layer: Layer) -> list[tuple[slice, slice, np.ndarray]]:
    """(input channels, output channels, kernel) of each group; of a depthwise convolution each channel is one."""
    kernel = np.float64(layer.parameters["kernel"])
    if layer.kind == "DepthwiseConv":
        channels, width = kernel.shape[-2:]
        return [
            (slice(c, c + 1), slice(c * width, (c + 1) * width), kernel[..., c : c + 1, :]) for c in range(channels)
        ]
    groups = layer.parameters.get("groups", 1)
    depth, width = kernel.shape[-2], kernel.shape[-1] // groups
    outs = [slice(g * width, (g + 1) * width) for g in range(groups)]
    return [(slice(g * depth, (g + 1) * depth), out, kernel[..., out]) for g, out in enumerate(outs)]


def by_windows(rule: Any, layer: Layer, x: np.ndarray, r: np.ndarray, ar: Any) -> np.ndarray:
    """`oracle_layers.redistribute` of a convolution, window by window: each is a dense layer for what it sees.

    The matrix of a whole convolution has as many entries as inputs times outputs. Not for rules by which the inputs
    share a bias: they see how many inputs other windows have.
    """
    name, parameters = rule
    own = {"strides": 1, "padding": "valid", "dilation": 1, **layer.parameters}
    size, bias = own["kernel"].shape[:-2], np.float64(own["bias"])
    windows, sizes = oracle_layers.all_windows(
        x.shape[1:-1], size if len(size) > 1 else size[0], own["strides"], own["dilation"], own["padding"]
    )
    result = np.zeros(x.shape)
    for sample, start, into in zip(np.float64(x), np.float64(r).reshape(len(x), *sizes, -1), result, strict=True):
        for q, taps in windows.items():
            for source, out, kernel in groups_of(layer):
                w = np.concatenate([kernel[tap] for tap in taps])
                seen = np.concatenate([sample[p][source] for p in taps.values()])
                every = np.ones(w.shape, bool)
                back = oracle.RULES[name](ar, oracle.Ledger(), seen, w, bias[out], start[q][out], every, **parameters)
                for p, part in zip(taps.values(), back.reshape(len(taps), -1), strict=True):
                    into[p][source] = ar.off(into[p][source] + part)
    return result.reshape(len(x), -1)


def larger(options: Options, tallies: dict[str, Tally], shape: tuple, count: int, layer: Layer, compute: Any) -> None:
    x = cases.values(shape, 1)
    made = cases.layer(layer)
    r = cases.values(lrpfast.from_layers([made], input_shape=shape).output_shape, 1, seed=9)
    for rule in options.few(LARGE_RULES, 3):
        expected = expected_again(lambda ar, rule=rule: compute(rule, layer, x, r, ar), count)
        for precision, tally in tallies.items():

            def work(precision: str = precision, rule: Any = rule) -> np.ndarray:
                return redistribute(options, rule, made, [again(x, count)], again(r, count), precision)

            tally.compare(expected, cases.case_id(rule), work)


def by_matrix(rule: Any, layer: Layer, x: np.ndarray, r: np.ndarray, ar: Any) -> np.ndarray:
    return oracle_layers.redistribute(rule, layer, [x], r, ar)


def larger_layers(options: Options) -> Iterator[Step]:
    lists = [(SMALL_WINDOWS if options.small else BY_WINDOWS, by_windows)]
    lists += [] if options.small else [(BY_MATRIX, by_matrix)]
    for entries, compute in lists:
        for name, shape, count, layer in entries:

            def work(
                tallies: dict[str, Tally], shape: Any = shape, count: int = count, layer: Any = layer,
                compute: Any = compute,
            ) -> None:  # fmt: skip
                larger(options, tallies, shape, count, layer, compute)

            yield tallied(f"{name}, batch {count}", work)


def by_cudnn(options: Options) -> Iterator[Step]:
    """Every convolution that cuDNN can compute, by it, however small."""

    def work(tallies: dict[str, Tally]) -> None:
        mine = {"CONVOLUTION": "cudnn", "LIBRARY_FLOPS": 1, "NARROW": 0}
        geometries = [g for g in test_layers.GEOMETRIES if g[2].kind in ("Conv", "ConvTranspose")]
        with mock.patch.multiple(contractions, **mine):
            for turn, (name, shape, layer) in enumerate(options.few(geometries, 4)):
                for rule in (("epsilon", {}), ("alpha_beta", {})):
                    one_layer(options, tallies, name, [shape], layer, rule, turn)
            for _, shape, count, layer in () if options.small else BY_WINDOWS:
                if layer.kind in ("Conv", "ConvTranspose"):
                    larger(options, tallies, shape, count, layer, by_windows)

    def step(report: Report) -> None:
        problem = cudnn.problem()
        if problem is None:
            tallied(what, work)[1](report)
        else:
            report.skip(what, f"cuDNN cannot be used: {problem}")

    what = "convolutions, cuDNN wherever it can"
    yield what, step


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


# Networks, activations, and what an input can be.


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


def analyzed(options: Options, layers: Any, rule: Any, x: Any, precision: str, target: Any = "max", **more: Any) -> Any:
    analyzer = lrpfast.Analyzer(
        cases.model(layers), cases.rule(rule), precision=precision, device=options.device, target=target, **more
    )
    return analyzer.analyze(x)


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


def inputs_of_every_type(options: Options, tallies: dict[str, Tally]) -> None:
    layers, rule = cases.network((7, 5, 2)), ("epsilon", {"epsilon": 0.1})
    for name in TYPES:
        x = (cases.inputs(9, 7) * 3).astype(name)
        exact = np.asarray(x, np.float64)
        expected = Expected(lambda ar, exact=exact: oracle.explain(layers, [rule] * 2, exact, ar=ar))
        for precision in PRECISIONS[:2]:
            tallies[precision].compare(expected, name, lambda p=precision, x=x: analyzed(options, layers, rule, x, p))


def casts(report: Report) -> None:
    """All cast kernels, launched here: NumPy has no bfloat16."""
    import cupy

    bits = np.arange(1 << 16, dtype=np.uint16)
    device = cupy.cuda.runtime.getDevice()
    wrong = []
    for kind in ("float32", "float64"):
        for name in (*TYPES[:-1], "bfloat16"):
            if name == kind:
                continue  # nothing casts a type to itself
            # every half, and as many bits of what is wider
            given = bits if name == "bfloat16" else np.resize(bits, 4 * bits.size).view(name)
            given = given if given.dtype.kind != "f" or name == "float16" else np.linspace(-9, 9, 999).astype(name)
            exact = (bits.astype(np.uint32) << 16).view(np.float32) if name == "bfloat16" else given
            made = cupy.empty(given.size, kind)
            kernel = modules.function(device, "input", kind, f"cast_{name}")
            kernel((9,), (modules.THREADS,), (cupy.asarray(given), made, np.int64(given.size)))
            got, want = made.get(), exact.astype(kind)
            # CuPy compiles with flush to zero: numbers below float32's smallest normal one may become 0
            tiny = (np.abs(want) < np.finfo(np.float32).tiny) & (got == 0)
            if not np.array_equal(np.where(tiny, 0, want), got, equal_nan=True):
                wrong.append(f"{name} to {kind}")
    report.check("casts, every type", not wrong, f"wrong: {', '.join(wrong)}" if wrong else "exact")


def targets(options: Options, tallies: dict[str, Tally]) -> None:
    """Every way of starting."""
    layers, rule, x = cases.network((7, 9, 4)), ("epsilon", {"epsilon": 0.1}), cases.inputs(5, 7)
    start = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)
    ways = (
        ("max", "max"), (2, 2), ([3, 0, 0, 1, 2], [3, 0, 0, 1, 2]), ((2, 0), (2, 0)), (start, list(np.float64(start))),
    )  # fmt: skip
    for target, theirs in ways:
        expected = Expected(lambda ar, theirs=theirs: oracle.explain(layers, [rule] * 2, x, theirs, ar))
        for precision, tally in tallies.items():
            what = f"target {'array' if isinstance(target, np.ndarray) else target}"
            tally.compare(
                expected, what, lambda p=precision, target=target: analyzed(options, layers, rule, x, p, target)
            )
    several = np.array([[0, 3], [1, 1], [2, 0], [3, 2], [0, 1]])

    def column(ar: Any) -> np.ndarray:
        each = [oracle.explain(layers, [rule] * 2, x, [int(t) for t in ts], ar) for ts in several.T]
        return np.stack(each, 1)

    expected = Expected(column, together=False)
    for precision, tally in tallies.items():
        tally.compare(
            expected, "two targets a sample", lambda p=precision: analyzed(options, layers, rule, x, p, several)
        )


def masks_and_ranges(options: Options, tallies: dict[str, Tally]) -> None:
    """Masked features, a range that the input keeps, and inputs that are wrong."""
    (layer,) = cases.network((8, 4), seed=5)
    layers = [layer]
    x = cases.inputs(6, 8, seed=5)
    x[0, 2] = x[2, :7] = x[3, ::2] = np.nan
    there = ~np.isnan(x)
    clean = np.where(there, x, np.float32(0))
    rule = ("epsilon", {"epsilon": 0.1})
    expected = Expected(lambda ar: oracle.explain(layers, [rule], clean, ar=ar))
    for precision, tally in tallies.items():

        def masked(precision: str = precision) -> np.ndarray:
            got = analyzed(options, layers, rule, x, precision, mask_nan=True)
            assert (np.isnan(got) == ~there).all(), "NaN where nothing is masked, or not where something is"
            return np.where(there, got, got.dtype.type(0))

        tally.compare(expected, "masked", masked)
        tally.compare(
            expected, "in range", lambda p=precision: analyzed(options, layers, rule, clean, p, input_range=(-4, 4))
        )
        for what, wrong, more in (
            ("x[4", np.where(np.arange(6)[:, None] == 4, np.inf, clean), {}),
            ("x[3", np.where(np.arange(6)[:, None] == 3, 5, clean), {"input_range": (-4, 4)}),
        ):

            def refused(precision: str = precision, what: str = what, wrong: Any = wrong, more: Any = more) -> Any:
                try:
                    analyzed(options, layers, rule, wrong, precision, **more)
                except lrpfast.InputError as error:
                    assert what in str(error), f"{what}, … is wrong, the error says: {error}"
                    return expected.within(precision)[0].astype(real(precision))
                raise AssertionError("inputs that are wrong are taken")

            tally.compare(expected, f"refused, {what}, …]", refused)


def steps(options: Options) -> Iterator[Step]:
    """All groups, the smallest first."""
    yield from small_layers(options)
    yield from dense_layers(options)
    yield from larger_layers(options)
    yield from by_cudnn(options)
    yield from chained_layers(options)
    yield from networks(options)
    yield "casts, every type", casts
    for what, work in (
        ("activations", activations),
        ("conditions", conditions),
        ("recurrent layers", recurrent),
        ("inputs of every type", inputs_of_every_type),
        ("targets", targets),
        ("masks, ranges, wrong inputs", masks_and_ranges),
    ):
        yield tallied(what, lambda tallies, work=work: work(options, tallies))


# Which kernels there are.


def every_kernel() -> set[tuple[str, str, str]]:
    """(module, kind, name) of all kernels, as the sources have them."""
    found = {
        ("tile", kind, tile.kernel)
        for kind, all_tiles in tiles.TILES.items()
        for tile in all_tiles
        if tile.module == "tile"
    }
    for module in modules.MODULES:
        if module in modules.TILE_MODULES or module in UNUSED:
            continue
        text = re.sub(r"//[^\n]*|\\\n", "", modules.source(module))
        text = re.sub(r"^#define.*$", "", text, flags=re.M)
        names = set(re.findall(r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(', text))
        for macro, prefix in (("LIGHT", "light_"), ("CAST", "cast_")):
            made = re.findall(rf"^{macro}\((\w+)(?:, [\w ]+)?\)", text, re.M)
            names |= {prefix + name for name in made}
        found |= {(module, kind, name) for kind in ("float32", "float64") for name in names if name != f"cast_{kind}"}
    return found
