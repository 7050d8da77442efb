"""The tiles of `tile.cu`, in one table for the compiler and for the choice among them."""

from __future__ import annotations

from typing import NamedTuple


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
        The rows and columns of sums in a thread's registers; on tensor cores the number of warps that share the rows.
    stages : int
        The number of steps of K in shared memory.
    shared : int
        The bytes of shared memory of a launch, for the stages.
    sums : int
        One or two.
    blocks : int
        The number of blocks that should fit on a multiprocessor.
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

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return f"{self.name}_{self.sums}"

    def source(self) -> str:
        """The kernel's line for `tile.cu`."""
        macro = "TILE" if len(self.per_thread) == 2 else "FRAGMENTS"
        numbers = (self.rows, self.columns, self.depth, *self.per_thread, self.stages, self.shared)
        return f"{macro}({self.name}, {', '.join(map(str, numbers))}, {self.sums}, {self.blocks})"


#: The tiles by a module's kind (`modules.KINDS`).
TILES = {
    "tensor": (
        Tile("wide", 128, 128, 16, (2,), 4, 75776, 1, 2),
        Tile("wide", 128, 64, 16, (2,), 4, 75776, 2, 2),
        Tile("middle", 128, 64, 16, (4,), 4, 59392, 1, 2),
        Tile("middle", 128, 32, 16, (4,), 4, 59392, 2, 2),
        Tile("narrow", 128, 16, 16, (8,), 4, 47104, 1, 2),
        Tile("narrow", 128, 16, 16, (8,), 4, 51200, 2, 2),
        Tile("few", 32, 64, 16, (2,), 4, 28672, 1, 2),
        Tile("few", 32, 64, 16, (2,), 4, 45056, 2, 2),
    ),
    "3xtf32": (
        Tile("wide", 128, 128, 16, (2,), 4, 75776, 1, 1),
        Tile("wide", 128, 64, 16, (2,), 4, 75776, 2, 1),
        Tile("middle", 128, 64, 16, (4,), 4, 59392, 1, 2),
        Tile("middle", 128, 32, 16, (4,), 4, 59392, 2, 2),
        Tile("narrow", 128, 16, 16, (8,), 4, 47104, 1, 2),
        Tile("narrow", 128, 16, 16, (8,), 4, 51200, 2, 2),
        Tile("few", 32, 64, 16, (2,), 4, 28672, 1, 2),
        Tile("few", 32, 64, 16, (2,), 4, 45056, 2, 2),
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
    ),
}
_BY_KERNEL = {(kind, tile.kernel): tile for kind, tiles in TILES.items() for tile in tiles}


def tile(kind: str, kernel: str) -> Tile:
    """The tile of a kernel, as "wide_2" for a wide tile of two sums."""
    return _BY_KERNEL[kind, kernel]
