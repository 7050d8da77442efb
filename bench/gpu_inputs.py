"""What inputs and targets can be, against the float64 oracle: types, ways of starting, masks, wrong inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

import cases
import lrpfast
import oracle
from gpu_lines import Options, Report
from gpu_tally import PRECISIONS, Tally, real
from lrpfast.kernels.cuda import modules
from tolerances import Expected

#: What the cast kernels take, of NumPy's types.
TYPES = (
    *("float16", "float32", "float64", "int8", "uint8", "int16"),
    *("uint16", "int32", "uint32", "int64", "uint64", "bool"),
)


def analyzed(options: Options, layers: Any, rule: Any, x: Any, precision: str, target: Any = "max", **more: Any) -> Any:
    analyzer = lrpfast.Analyzer(
        cases.model(layers), cases.rule(rule), precision=precision, device=options.device, target=target, **more
    )
    return analyzer.analyze(x)


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
