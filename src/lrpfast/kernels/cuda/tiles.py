"""The tiles that `tile.cu` makes kernels of: one table for the compiler and for the choice among them."""

from __future__ import annotations

from typing import NamedTuple


class Tile(NamedTuple):
    """A kernel of one or two sums of the same rows.

    Attributes
    ----------
    name : str
        What it is for; `Contraction._choose_tile` chooses by it.
    rows, columns : int
        What a block makes of each sum.
    depth : int
        One step of K.
    per_thread : tuple of int
        Rows and columns of sums in a thread's registers; on tensor cores the warps that share the rows.
    stages : int
        Steps of K in shared memory.
    shared : int
        Bytes of shared memory that a launch asks for: what the stages take there.
    sums : int
        One or two.
    blocks : int
        Blocks that a multiprocessor should have room for.
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


#: by what a module is compiled for (`modules.KINDS`)
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
_BY_KEY = {(kind, tile.name, tile.sums): tile for kind, tiles in TILES.items() for tile in tiles}


def tile(kind: str, name: str, sums: int) -> Tile:
    """The tile of a name for one or two sums."""
    return _BY_KEY[kind, name, sums]


def shared_memory(kind: str, kernel: str) -> int:
    """Bytes of shared memory that a launch of a tile's kernel asks for."""
    return next(tile.shared for tile in TILES[kind] if tile.kernel == kernel)
