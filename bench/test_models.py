"""How fast are whole networks explained, beside the peers, a forward pass and input × gradient? The targets table."""

from __future__ import annotations

from functools import partial

import pytest

from cases import BESIDE, CASES, PEERS, beside, opened
from timing import calibrated


class WorkerClock:
    """A clock for pytest-benchmark that shows the seconds a timer reported: the peer's own, without the talk to it."""

    def __init__(self) -> None:
        self.elapsed = 0.0

    def __call__(self) -> float:
        return self.elapsed

    def run(self, timer, number) -> None:
        self.elapsed += timer(number)


CLOCK = WorkerClock()

#: Slow tools have few rounds, the report's too.
ROUNDS = 5


@pytest.mark.parametrize("tool", ["lrpfast", *PEERS, *BESIDE])
@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.benchmark(group=case.title, timer=CLOCK),
                                               id=case.key) for case in CASES])  # fmt: skip
def test_model(benchmark, case, tool, small):
    """One call for all samples; a peer's relevances are compared first."""
    if tool not in ("lrpfast", *BESIDE, *case.target.ratios):
        pytest.skip(f"{tool} has no such rule or network, or other conventions for it")
    if tool in BESIDE and not beside(case, tool, small):
        pytest.skip(f"{tool} has nothing to do with {case.rule}, or would compile for too long")
    with opened(case, small, (tool,)) as it:
        if tool in it.missing:
            pytest.skip(it.missing[tool])
        timer = next(timed.timer for timed in it.timed if timed.tool == tool)
        benchmark.extra_info["difference"] = it.agreement.get(tool)
        number = 1 if small else calibrated(timer)[1]
        benchmark.pedantic(partial(CLOCK.run, timer, number), rounds=1 if small else ROUNDS)
