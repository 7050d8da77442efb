from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Real = TypeVar("_Real", np.float32, np.float64)
_Item = TypeVar("_Item", np.uint32, np.uint64)

NORMALIZERS: dict[str, int]
COLUMNS: int
BUCKETS_PER_OCTAVE: int
NO_OCTAVE: int

def feed(
    x: NDArray[_Real],
    members: NDArray[np.int64],
    fresh: bool,
    part: NDArray[np.float64],
    signs: NDArray[np.int64],
    extremes: NDArray[np.float64],
    first: int,
    last: int,
) -> int: ...
def close(part: NDArray[np.float64], first: int, last: int) -> None: ...
def join(left: NDArray[np.float64], right: NDArray[np.float64], first: int, last: int) -> None: ...
def tally(
    x: NDArray[_Real],
    members: NDArray[np.int64],
    counts: NDArray[np.uint32],
    octaves: NDArray[np.int16],
    first: int,
    last: int,
) -> None: ...
def align(counts: NDArray[np.uint32], octaves: NDArray[np.int16], new_octaves: NDArray[np.int16]) -> None: ...
def locate(counts: NDArray[np.uint32], ranks: NDArray[np.int64], buckets: NDArray[np.int64]) -> None: ...
def divide(x: NDArray[_Real], normalizer: int, first: int, last: int) -> int: ...
def outside(x: NDArray[_Real], low: NDArray[np.float64], high: NDArray[np.float64], first: int, last: int) -> int: ...
def transpose(
    features: NDArray[_Item], order: NDArray[np.int64] | None, rows: NDArray[_Item], first: int, last: int
) -> None: ...
