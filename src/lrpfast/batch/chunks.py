"""The number of samples that are read, explained and written together."""

from __future__ import annotations

#: A chunk's inputs and relevances in memory.
CHUNK_BYTES = 64 << 20
#: A chunk's work for each thread or GPU, some tenths of a second: the progress bar moves and Ctrl-C is heard, and
#: the wait of all for the last of them is short beside it.
CHUNK_FLOPS = {"cpu": 20_000_000_000, "gpu": 2_000_000_000_000}


def rows_of(sample_bytes: int, sample_flops: int = 0, samples: int | None = None, flops: int = 0) -> int:
    """The number of samples in a chunk with at most this much work; at least one."""
    most = CHUNK_BYTES // max(1, sample_bytes)
    if sample_flops:
        most = min(most, flops // sample_flops)
    return max(1, most if samples is None else min(most, samples))
