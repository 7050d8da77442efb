"""How many samples are read, explained and written at once."""

from __future__ import annotations

#: A chunk's inputs and relevances in memory, and its work: together they keep memory
#: small, the progress bar moving, and Ctrl-C heard within a fraction of a second.
CHUNK_BYTES = 64 << 20
CHUNK_FLOPS = 10_000_000_000


def rows_of(sample_bytes: int, sample_flops: int = 0, samples: int | None = None) -> int:
    """Samples of a chunk, at least one."""
    most = min(CHUNK_BYTES // max(1, sample_bytes), CHUNK_FLOPS // max(1, sample_flops))
    return max(1, most if samples is None else min(most, samples))
