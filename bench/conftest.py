"""Options that all benchmarks share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def small(request: pytest.FixtureRequest) -> bool:
    """Whether sizes shrink: nothing is timed (--benchmark-disable), or LRPFAST_BENCH_SMALL is set."""
    return bool(request.config.getoption("benchmark_disable") or os.environ.get("LRPFAST_BENCH_SMALL"))
