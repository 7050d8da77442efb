"""Moments of a data set over blocks of samples, merged in a tree that depends on the samples' number alone.

Block b holds samples 256·b to 256·b + 255. A block's sums are fed sample by sample, in order. Two blocks 2k and 2k + 1
merge to a node of level 1, two such nodes to one of level 2, and so on; nodes without a sibling are merged from right
to left. So the number of samples alone determines every rounding.

Within a block, each feature keeps Σ(R − r) and Σ(R − r)², r being its first value there: as r is one of the block's
values, (mean − r)² is at most 256 times the variance, and no more than 8 bits of float64's 53 cancel, however large
the mean. Nodes merge by the formula of Chan, Golub and LeVeque (1979); their means stay apart as r and mean − r, as the
difference of two rounded means would lose the spread of data far from zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ..errors import InputError
from . import _moments

SIZE = 256

#: A group's numbers for every feature, four rows: sums (r, Σ(R − r)², valid, Σ(R − r)) while a block is being fed, then
#: moments (r, Σ(R − mean)², valid, mean − r).
Parts = dict[int, np.ndarray]
Step = Callable[[int, int], int | None]


@dataclass
class PartialBlock:
    """A block of which some samples are still missing."""

    samples: int = 0
    parts: Parts = field(default_factory=dict)


@dataclass
class Blocks:
    """The blocks that have been counted, and their moments."""

    features: int
    nodes: dict[tuple[int, int], Parts] = field(default_factory=dict)  # by level and index
    partial_blocks: dict[int, PartialBlock] = field(default_factory=dict)

    def cuts(self, first: int, samples: int) -> list[tuple[int, slice]]:
        """The blocks of the samples from ``first`` on, each with its slice of them; refuses samples out of order."""
        end, covered, cuts = first + samples, self.covered(), []
        for start in range(first - first % SIZE, end, SIZE):
            block, low = start // SIZE, max(start, first)
            done = self.partial_blocks[block].samples if block in self.partial_blocks else 0
            if any(begin <= low < until for begin, until in covered):
                raise InputError(f"sample {low} has been counted already")
            if low != start + done:
                raise InputError(
                    f"samples from {low} on came where sample {start + done} was expected: a range must begin at a "
                    f"multiple of {SIZE} or go on where another ended"
                )
            cuts.append((block, slice(low - first, min(start + SIZE, end) - first)))
        return cuts

    def add(self, block: int, samples: int, members: dict[int, np.ndarray]) -> Iterator[tuple[int, np.ndarray, bool]]:
        """Count ``samples`` more of a block; yields its groups with their sums, and whether these are new."""
        partial_block = self.partial_blocks.setdefault(block, PartialBlock())
        partial_block.samples += samples
        for group in members:
            fresh = group not in partial_block.parts
            if fresh:
                partial_block.parts[group] = np.empty((4, self.features))
            yield group, partial_block.parts[group], fresh

    def close(self, block: int) -> list[Step]:
        """Turn a block into a node of the tree; returns the steps to compute, in order."""
        parts = self.partial_blocks.pop(block).parts
        steps: list[Step] = [partial(_moments.close, part) for part in parts.values()]
        return steps + self.insert((0, block), parts)

    def close_full(self, block: int) -> list[Step]:
        """As `close`, if the block is complete."""
        return self.close(block) if self.partial_blocks[block].samples == SIZE else []

    def insert(self, key: tuple[int, int], parts: Parts) -> list[Step]:
        """Add a node to the tree, which then owns its arrays, and merge it with its siblings."""
        steps: list[Step] = []
        level, index = key
        while (level, index ^ 1) in self.nodes:
            other = self.nodes.pop((level, index ^ 1))
            left, right = (other, parts) if index % 2 else (parts, other)
            steps += _join(left, right)
            level, index, parts = level + 1, index // 2, left
        self.nodes[level, index] = parts
        return steps

    def covered(self) -> list[tuple[int, int]]:
        """The samples that have been counted, as ranges in order."""
        ranges = [(SIZE * (i << level), SIZE * ((i + 1) << level)) for level, i in self.nodes]
        ranges += [(SIZE * i, SIZE * i + block.samples) for i, block in self.partial_blocks.items()]
        result: list[tuple[int, int]] = []
        for begin, end in sorted(ranges):
            if result and result[-1][1] == begin:
                begin = result.pop()[0]
            result.append((begin, end))
        return result

    def disjoint(self, other: Blocks) -> None:
        """Raise InputError if the other has samples or partial blocks in common with this one."""
        mine, others = ([(a, -(-b // SIZE) * SIZE) for a, b in each.covered()] for each in (self, other))
        for a, b in mine:
            for c, d in others:
                if max(a, c) < min(b, d):
                    raise InputError(f"both have counted samples between {max(a, c)} and {min(b, d) - 1}")

    def merge(self, other: Blocks) -> list[Step]:
        """Add another's blocks, which must be `disjoint`; returns the steps to compute."""
        steps = []
        for key, parts in other.nodes.items():
            steps += self.insert(key, {group: part.copy() for group, part in parts.items()})
        for block, partial_block in other.partial_blocks.items():
            self.partial_blocks[block] = PartialBlock(
                partial_block.samples, {group: part.copy() for group, part in partial_block.parts.items()}
            )
        return steps

    def write_moments(self, out: np.ndarray) -> None:
        """Write the moments of all samples; refuses gaps.

        Parameters
        ----------
        out : float64 array, shape (groups, 4, features)
            Groups without a sample are left as they are. One after the other is computed, so that memory does not grow
            with their number.
        """
        covered = self.covered()
        if covered and (covered[0][0] > 0 or len(covered) > 1):
            end = 0 if covered[0][0] > 0 else covered[0][1]
            until = next(begin for begin, _ in covered if begin > end)
            raise InputError(f"samples {end} to {until - 1} are missing: they have not been counted")
        keys = [*self.nodes, *((0, block) for block in self.partial_blocks)]
        parts = [*self.nodes.values(), *(block.parts for block in self.partial_blocks.values())]
        joins = _joins(keys)
        for group in {group for each in parts for group in each}:
            moments = [each.get(group) for each in parts]
            own = set()  # those that may be written to: copies
            for i in range(len(self.nodes), len(parts)):
                if (sums := moments[i]) is not None:
                    moments[i] = closed = sums.copy()
                    own.add(i)
                    _moments.close(closed, 0, self.features)
            for i, j in joins:
                left, right = moments[i], moments[j]
                if left is None or right is None:
                    moments[i] = right if left is None else left
                    own |= {i} if left is None and j in own else set()
                    continue
                if i not in own:
                    moments[i] = left = left.copy()
                    own.add(i)
                _moments.join(left, right, 0, self.features)
            out[group] = moments[joins[-1][0] if joins else 0]

    def state(self) -> dict[str, np.ndarray]:
        """The state, as arrays."""

        def stacked(parts: list[Parts]) -> tuple[np.ndarray, np.ndarray]:
            keys = [(i, group) for i, each in enumerate(parts) for group in each]
            values = [each[group] for each in parts for group in each]
            return (
                np.array(keys, np.int64).reshape(-1, 2),
                np.array(values, np.float64).reshape(-1, 4, self.features),
            )

        nodes, block_parts = list(self.nodes.values()), [each.parts for each in self.partial_blocks.values()]
        block_samples = [(block, each.samples) for block, each in self.partial_blocks.items()]
        return {
            "nodes": np.array(list(self.nodes), np.int64).reshape(-1, 2),
            "begun": np.array(block_samples, np.int64).reshape(-1, 2),
            **dict(zip(("node_groups", "node_moments"), stacked(nodes), strict=True)),
            **dict(zip(("begun_groups", "begun_sums"), stacked(block_parts), strict=True)),
        }

    @classmethod
    def from_state(cls, features: int, state: dict[str, np.ndarray]) -> Blocks:
        """The object with this state."""
        nodes: list[Parts] = [{} for _ in state["nodes"]]
        partial_blocks = [PartialBlock(int(samples)) for _, samples in state["begun"]]
        for (i, group), part in zip(state["node_groups"], state["node_moments"], strict=True):
            nodes[i][int(group)] = part.copy()
        for (i, group), part in zip(state["begun_groups"], state["begun_sums"], strict=True):
            partial_blocks[i].parts[int(group)] = part.copy()
        return cls(
            features,
            {(int(level), int(i)): parts for (level, i), parts in zip(state["nodes"], nodes, strict=True)},
            {int(block): each for (block, _), each in zip(state["begun"], partial_blocks, strict=True)},
        )


def _joins(keys: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The pairs of nodes (indices in ``keys``) to join, the second to the first, until one is left.

    Siblings are joined first, and what is then left from right to left.
    """
    joins = []
    nodes: dict[tuple[int, int], int] = {}
    for i, (level, index) in enumerate(keys):
        while (level, index ^ 1) in nodes:
            other = nodes.pop((level, index ^ 1))
            left, right = (other, i) if index % 2 else (i, other)
            joins.append((left, right))
            level, index, i = level + 1, index // 2, left
        nodes[level, index] = i
    rest = [nodes[key] for key in sorted(nodes, key=lambda key: key[1] << key[0])]
    while len(rest) > 1:
        right = rest.pop()
        joins.append((rest[-1], right))
    return joins


def _join(left: Parts, right: Parts) -> list[Step]:
    """Add the right node to the left one, group by group; a group on one side only is moved."""
    steps: list[Step] = [partial(_moments.join, left[group], part) for group, part in right.items() if group in left]
    for group in right.keys() - left.keys():
        left[group] = right[group]
    return steps
