"""How much memory does one explanation take, beside the peers? And a file that is larger than memory?"""

from __future__ import annotations

import pytest

import memory
from cases import CASES

CASE = {case.key: case for case in CASES}


@pytest.mark.parametrize("tool", memory.TOOLS)
@pytest.mark.parametrize("key", [pytest.param(k, marks=pytest.mark.benchmark(group=f"memory: {CASE[k].title}"))
                                 for k in memory.SHOWN])  # fmt: skip
def test_memory(benchmark, key, tool, small):
    """The peak stands in extra_info; the time is that of the whole process."""
    found = benchmark.pedantic(memory.in_a_process, (CASE[key], tool, small))
    if isinstance(found, str):
        pytest.skip(found)
    assert found["peak"] >= found["before"] > 0
    benchmark.extra_info.update({name: f"{value / memory.MIB:.0f} MiB" for name, value in found.items()})


@pytest.mark.skipif(not memory.resident.AVAILABLE, reason="needs Linux's /proc/self/clear_refs")
@pytest.mark.benchmark(group="memory: from file to file")
def test_file_to_file(benchmark, small, tmp_path):
    found = benchmark.pedantic(memory.file_to_file, (50 if small else 20_000, str(tmp_path), small))
    assert list(tmp_path.iterdir()) == []
    benchmark.extra_info.update(found)
