"""A layer alone against the float64 oracle: tests/test_layers' lists, dense layers and convolutions of many sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np

import cases
import lrpfast
import oracle
import oracle_layers
import test_layers
from gpu_lines import Options, Report, Step
from gpu_tally import DISTINCT, Tally, again, expected_again, real, tallied
from lrpfast.kernels.cuda import contractions, cudnn
from oracle_layers import Layer
from tolerances import Expected

#: Dense layers: inputs, outputs, samples. Edges of tiles, of quads and of steps of K; a split K; the wide tiles.
SIZES = [(1, 1, 1), (3, 2, 13), (17, 65, 2), (66, 17, 35), (37, 130, 34), (600, 5, 3), (129, 63, 129), (513, 260, 130)]
#: A rule whose layers have more than two sums, which take a kernel of their own.
MANY_SUMS = ("alpha_beta", {})
#: A rule that divides by one of two sums, by the sign of the output.
BY_SIGN = ("gamma", {})

#: One rule of each kind that the planner tells apart, without biases that inputs share.
LARGE_RULES = [
    ("epsilon", {"epsilon": 0.1}),
    ("alpha_beta", {}),
    ("z_plus", {"bias": "full"}),
    ("gamma", {}),
    ("flat", {}),
    ("z_box", {"low": -3.0, "high": 4.0}),
]

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
        problem = cudnn.HANDLES.problem()
        if problem is None:
            tallied(what, work)[1](report)
        else:
            report.skip(what, f"cuDNN cannot be used: {problem}")

    what = "convolutions, cuDNN wherever it can"
    yield what, step
