"""The tiles of `tile.cu`, in one table for the compiler and for the choice among them."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from ...errors import DeviceError

#: The tile for products that are wide and have many rows: "wide", which has been measured, or one of `TRIALS`, which
#: have not been. Set by LRPFAST_GPU_TILE.
CHOICE = os.environ.get("LRPFAST_GPU_TILE", "wide")
#: "lean" is as large as the wide one and asks less of shared memory; "large" has twice the rows, so that each value
#: from shared memory serves more products; "wgmma" multiplies by the instruction of that name, which only compute
#: capability 9.0 has.
TRIALS = ("lean", "large", "wgmma")
#: The number of large tiles for each processor from which on they are chosen; fewer would leave processors idle.
FILLED = 1.5
#: Bytes of shared memory that a kernel takes besides its tiles, at most.
TABLES_BYTES = 6 << 10


class Tile(NamedTuple):
    """A kernel of one or two sums of the same rows.

    Attributes
    ----------
    name : str
        The kind of sums, by which `Contraction._choose_tile` chooses.
    rows, columns : int
        The size of a block's part of each sum.
    depth : int
        The length of a step of K.
    per_thread : tuple of int
        The rows and columns of sums in a thread's registers; on tensor cores the number of warps that share the
        rows, or nothing where warpgroups multiply.
    stages : int
        The number of steps of K in shared memory.
    shared : int
        The bytes of shared memory of a launch, for the stages.
    sums : int
        One or two.
    blocks : int
        The number of blocks that should fit on a multiprocessor.
    module : str
        The module that the kernel is compiled in (`modules.MODULES`).
    """

    name: str
    rows: int
    columns: int
    depth: int
    per_thread: tuple[int, ...]
    stages: int
    shared: int
    sums: int
    blocks: int
    module: str = "tile"

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return f"{self.name}_{self.sums}"

    def source(self) -> str:
        """The kernel's line for `tile.cu`."""
        macro = ("WGMMAS", "FRAGMENTS", "TILE")[len(self.per_thread)]
        numbers = (self.rows, self.columns, self.depth, *self.per_thread, self.stages, self.shared)
        return f"{macro}({self.name}, {', '.join(map(str, numbers))}, {self.sums}, {self.blocks})"


#: The modules of the tiles that have not been measured: of all, and of those that are compiled for sm_90a alone.
TRIAL, WGMMA = "trial_tile", "wgmma_tile"
#: Those that TF32 and 3xTF32 have in common.
_FRAGMENTS = (
    Tile("middle", 128, 64, 16, (4,), 4, 59392, 1, 2),
    Tile("middle", 128, 32, 16, (4,), 4, 59392, 2, 2),
    Tile("narrow", 128, 16, 16, (8,), 4, 47104, 1, 2),
    Tile("narrow", 128, 16, 16, (8,), 4, 51200, 2, 2),
    Tile("few", 32, 64, 16, (2,), 4, 28672, 1, 2),
    Tile("few", 32, 64, 16, (2,), 4, 45056, 2, 2),
    Tile("large", 256, 128, 16, (4,), 4, 116736, 1, 1, TRIAL),
    Tile("large", 256, 64, 16, (4,), 4, 116736, 2, 1, TRIAL),
)
#: The tiles by a module's kind (`modules.KINDS`).
TILES = {
    "tensor": (
        Tile("wide", 128, 128, 16, (2,), 4, 75776, 1, 2),
        Tile("wide", 128, 64, 16, (2,), 4, 75776, 2, 2),
        *_FRAGMENTS,
        Tile("lean", 128, 128, 8, (2,), 6, 62976, 1, 2, TRIAL),
        Tile("lean", 128, 64, 8, (2,), 6, 62976, 2, 2, TRIAL),
        Tile("wgmma", 256, 128, 32, (), 4, 200704, 1, 1, WGMMA),
        Tile("wgmma", 256, 64, 32, (), 4, 200704, 2, 1, WGMMA),
    ),
    "3xtf32": (
        Tile("wide", 128, 128, 16, (2,), 4, 75776, 1, 1),
        Tile("wide", 128, 64, 16, (2,), 4, 75776, 2, 1),
        *_FRAGMENTS,
        Tile("wgmma", 128, 128, 32, (), 4, 200704, 1, 1, WGMMA),
        Tile("wgmma", 128, 64, 32, (), 4, 200704, 2, 1, WGMMA),
    ),
    "float64": (
        Tile("wide", 128, 64, 8, (8, 4), 3, 38400, 1, 1),
        Tile("wide", 64, 64, 8, (4, 8), 3, 38400, 2, 1),
        Tile("middle", 64, 32, 8, (4, 2), 4, 26624, 1, 2),
        Tile("middle", 64, 32, 8, (4, 4), 4, 34816, 2, 2),
        Tile("narrow", 128, 16, 8, (4, 2), 4, 38912, 1, 2),
        Tile("narrow", 128, 16, 8, (4, 4), 4, 43008, 2, 2),
        Tile("few", 32, 64, 8, (4, 2), 4, 26624, 1, 2),
        Tile("few", 32, 64, 8, (4, 4), 4, 43008, 2, 2),
    ),
    "float32": (
        Tile("wide", 128, 128, 16, (8, 8), 3, 50688, 1, 2),
        Tile("wide", 128, 64, 16, (8, 8), 3, 50688, 2, 2),
        Tile("middle", 128, 64, 16, (8, 4), 4, 51200, 1, 2),
        Tile("middle", 128, 32, 16, (8, 4), 4, 51200, 2, 2),
        Tile("narrow", 128, 16, 16, (4, 2), 4, 38912, 1, 2),
        Tile("narrow", 128, 16, 16, (4, 4), 4, 43008, 2, 2),
        Tile("few", 32, 64, 16, (4, 2), 4, 26624, 1, 2),
        Tile("few", 32, 64, 16, (4, 4), 4, 43008, 2, 2),
        Tile("lean", 128, 128, 8, (8, 8), 4, 33792, 1, 2, TRIAL),
        Tile("lean", 128, 64, 8, (8, 8), 4, 33792, 2, 2, TRIAL),
        Tile("large", 256, 128, 8, (16, 8), 4, 50176, 1, 1, TRIAL),
        Tile("large", 256, 64, 8, (16, 8), 4, 50176, 2, 1, TRIAL),
    ),
}
_BY_KERNEL = {(kind, tile.kernel): tile for kind, tiles in TILES.items() for tile in tiles}


def tile(kind: str, kernel: str) -> Tile:
    """The tile of a kernel, as "wide_2" for a wide tile of two sums."""
    return _BY_KERNEL[kind, kernel]


def trial_of(kind: str, sums: int, rows: int, columns: int, pieces: int, quads: bool, gpu: Any) -> Tile | None:
    """The trial that `CHOICE` names for so many sums, where it has one that fits the device and fills it, else None.

    Parameters
    ----------
    kind : str
        The module's kind.
    sums : int
        One or two.
    rows, columns : int
        The size of a region's part of each sum.
    pieces : int
        The number of regions times that of groups.
    quads : bool
        Whether all rows that are multiplied can be copied by 16 bytes: a trial's tiles for tensor cores need that.
    gpu : devices.Gpu
        Of compute capability 8.0 at least, or there is no trial.

    Raises
    ------
    DeviceError
        If LRPFAST_GPU_TILE names no tile.
    """
    if CHOICE not in ("wide", *TRIALS):
        raise DeviceError(f"LRPFAST_GPU_TILE={CHOICE!r} must be one of 'wide', {', '.join(map(repr, TRIALS))}")
    found = _BY_KERNEL.get((kind, f"{CHOICE}_{sums}"))
    if found is None or CHOICE == "wide" or not gpu.tensor_cores or found.shared + TABLES_BYTES > gpu.shared_memory:
        return None
    if kind in ("tensor", "3xtf32") and not quads:
        return None
    if found.module == WGMMA and gpu.capability != "90":
        return None
    blocks = -(-rows // found.rows) * -(-columns // found.columns) * pieces
    filled = rows >= found.rows and blocks >= FILLED * gpu.processors
    return found if CHOICE == "lean" or filled else None
