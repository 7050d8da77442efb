from collections.abc import Mapping, MutableMapping
from typing import Any, Self, final

import numpy as np

from .interface import Start
from .memory_plan import Layout
from .passes import Passes
from .program import Program

LAZY_BYTES: int
PRODUCTS_FROM: dict[str, int]
SPARSE_FROM: dict[str, int]
NEARLY_ALL: int
SHORTEST_RUN: int
CODES: dict[str, dict[str, int]]
KERNELS: dict[str, object]
PACKED: MutableMapping[tuple[object, ...], PackedWeights]

@final
class PackedWeights:
    @property
    def array(self) -> np.ndarray: ...
    @property
    def tile_bytes(self) -> int: ...

@final
class Workspace:
    def __new__(cls, nbytes: int) -> Self: ...
    @property
    def nbytes(self) -> int: ...

@final
class Executable:
    def __init__(self, program: Program, isa: int, layout: Layout, cache: int) -> None: ...
    def scratch_bytes(self) -> int: ...
    def sample_bytes(self) -> int: ...
    def packed_size(self) -> tuple[int, int, int]: ...
    def run(
        self,
        x: np.ndarray,
        out: np.ndarray,
        samples: int,
        micro_batch: int,
        threads: int,
        cooperative: bool,
        mode: str = "max",
        targets: np.ndarray | None = None,
        target_step: int = 0,
        targets_count: int = 1,
        start: np.ndarray | None = None,
        keep: Mapping[int, np.ndarray] | None = None,
        window: tuple[int, int] | None = None,
        notes: list[object] | None = None,
        exact: bool = False,
        passes: Passes | None = None,
    ) -> tuple[str, int] | None: ...

@final
class SmallRun:
    def __init__(self, executable: Executable, row: tuple[int, ...], most: int, start: Start, judges: bool) -> None: ...
    def run(self, x: object, out: object, notes: list[Any]) -> np.ndarray | None: ...

def instruction_sets() -> list[str]: ...
