"""How far lrpfast may be off the oracle: one table, and the reason for its numbers.

A fixed number cannot do: under one rule a result is good to 1e-7, under another, where a denominator nearly
vanishes, the same program with the same care is off by 1e-3. So the oracle computes the case again with errors put
in: each elementwise result off by ±u, each sum off by u times the root of its squared partial sums (the standard
deviation of adding the terms in order; blocks only make it smaller), u being the precision's unit roundoff. The
largest change over a few such runs, per sample, is the size of error that arithmetic alone explains; a correct
program is a few times below or above it, a wrong formula a thousand times.

TF32 rounds operands to 10 bits, yet is compared as closely as float32: the oracle rounds the same operands. Where an
operand lies so close to the middle of two TF32 numbers that float32's error decides which way it goes, the runs with
errors decide it by chance too, and so allow for it.
"""

import numpy as np

import oracle

#: precision: (unit roundoff, TF32 operands, the oracle's own share of the error)
UNITS = {
    "float32": (2.0**-24, False, 1.0),
    "float64": (2.0**-53, False, 2.0),  # the oracle computes in float64 too, so it is off as much
    "tf32": (2.0**-24, True, 1.0),
    "3xtf32": (2.0**-24, False, 1.0),
}

#: Runs with errors put in, and how far off a result may be, as a multiple of the largest change seen in them: their
#: signs are random, so the largest of four is rarely below one standard deviation, and a result is rarely off by three.
RUNS = 4
SAFETY = 3.0

#: Under TF32 a result jumps where an operand crosses the middle of two numbers. So the errors themselves are taken
#: three times as large, in more runs, and the largest change may be doubled, as several operands may jump.
TF32_RUNS = 8
TF32_SAFETY = 2.0

#: Writing the result rounds it once, casting a parameter (epsilon, gamma, alpha) once more.
FLOOR = 2.0

#: Errors are put in at this size and scaled where the response is linear, which is everywhere but under TF32.
PROBE = 2.0**-40

#: The recorded explanations (tests/test_reference.py): relative to the sample's largest relevance, at least this, and
#: four times the largest change of the float64 oracle over eight runs with x, W and b off by one float32 ulp.
RECORD_FLOOR = 1e-5
RECORD_RUNS = 8
RECORD_SAFETY = 4.0
RECORD_SIZE = 2.0**-23


class Expected:
    """What ``compute(arithmetic)`` gives, and how far each sample may be off it, for every precision.

    together: whether it computes all runs at once, as the oracle's own functions do: with `oracle.Arithmetic`'s
    ``runs`` it gives them along an axis in front.
    """

    def __init__(self, compute, together=True):
        self.compute, self.together = compute, together
        self.known = {}

    def _runs(self, tf32, size, runs):
        """What the runs with errors give, an array for each."""
        if not self.together:
            return [self.compute(oracle.Arithmetic(size, np.random.default_rng(run), tf32)) for run in range(runs)]
        found = self.compute(oracle.Arithmetic(size, np.random.default_rng(0), tf32, runs))
        assert len(found) == runs, f"no axis of {runs} runs in front of {found.shape}: say together=False"
        return found

    def _with_errors(self, tf32, size, runs):
        """The exact values, the largest change and the largest value in each sample, as arrays that broadcast."""
        if tf32 not in self.known:
            exact = self.compute(oracle.Arithmetic(tf32=tf32))
            axes = tuple(range(1, exact.ndim))
            change = np.zeros([len(exact)] + [1] * len(axes))
            for other in self._runs(tf32, size, runs) if exact.size else ():
                assert other.shape == exact.shape
                change = np.maximum(change, np.abs(other - exact).max(axes, keepdims=True))
            largest = np.abs(exact).max(axes, keepdims=True) if exact.size else 0
            self.known[tf32] = exact, change, largest
        return self.known[tf32]

    def within(self, precision):
        """The exact values and how far off each may be."""
        u, tf32, share = UNITS[precision]
        if tf32:
            exact, change, largest = self._with_errors(tf32, SAFETY * u, TF32_RUNS)
            return exact, TF32_SAFETY * change + FLOOR * u * largest
        exact, change, largest = self._with_errors(tf32, PROBE, RUNS)
        return exact, share * u * (SAFETY * change / PROBE + FLOOR * largest)

    def check(self, actual, precision="float32", what="", dtype=None):
        """``actual`` is right, as well as the precision allows; its dtype is the precision's unless said otherwise."""
        exact, allowed = self.within(precision)
        assert actual.shape == exact.shape, f"{what}: shape {actual.shape}, expected {exact.shape}"
        dtype = dtype or (np.float64 if precision == "float64" else np.float32)
        assert actual.dtype == dtype, f"{what}: {actual.dtype}, expected {np.dtype(dtype)}"
        assert np.isfinite(actual).all(), f"{what}: not finite"
        excess = np.abs(actual - exact) - allowed
        if (excess > 0).any():
            at = np.unravel_index(np.argmax(excess), excess.shape)
            limit = np.broadcast_to(allowed, exact.shape)[at]
            raise AssertionError(
                f"{what} ({precision}): {actual[at]!r} at {tuple(map(int, at))}, the oracle says {exact[at]!r} "
                f"and allows ±{limit:.1e}; {int((excess > 0).sum())} of {excess.size} values are further off"
            )


def record_allows(layers, rules, x, target, exact):
    """How far a recorded explanation may be off the oracle, per sample."""
    rng = np.random.default_rng(0)
    largest = np.abs(exact).max(1, keepdims=True)
    change = np.zeros_like(largest)
    for _ in range(RECORD_RUNS):
        other_layers, other_x = oracle.perturbed(layers, x, RECORD_SIZE, rng)
        other = oracle.explain(other_layers, rules, other_x, target)
        change = np.maximum(change, np.abs(other - exact).max(1, keepdims=True))
    return np.maximum(RECORD_FLOOR * largest, RECORD_SAFETY * change)
