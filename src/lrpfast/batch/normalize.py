"""What is done to explanations before they are written and counted: a part of them, and division by a number each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from . import _moments
from .parallel import ThreadedRange

#: The normalizations, and the names of their divisors.
NORMALIZATIONS = {"maxabs": "largest |R|", "sum": "sum", "max": "largest R", "l1": "sum of |R|"}
#: The parts of relevance, and what they are.
PARTS = {"positive": "max(R, 0)", "negative": "min(R, 0)", "abs": "|R|"}


def check_normalization(name: object) -> tuple[str, ...]:
    """The normalizations of an option: a name, several in a row, or None; InputError for anything else."""
    names = (name,) if isinstance(name, str) else () if name is None else name
    known = isinstance(names, (list, tuple)) and all(isinstance(n, str) and n in NORMALIZATIONS for n in names)
    if not known or (name is not None and not names):
        raise InputError(
            f"normalize must be one of {', '.join(NORMALIZATIONS)}, or several in a row, as ('sum', 'max'), "
            f"not {name!r}"
        )
    return tuple(names)  # type: ignore[arg-type]


def check_part(name: object) -> None:
    """Raise InputError unless this is the name of a part, or None."""
    if name is not None and (not isinstance(name, str) or name not in PARTS):
        raise InputError(f"part must be None or one of {', '.join(PARTS)}, not {name!r}")


@dataclass(frozen=True)
class Preparation:
    """What becomes of each explanation: a part of it, divided by a number, perhaps by another one after that.

    Attributes
    ----------
    part : {"positive", "negative", "abs"} or None
    normalizations : tuple of str
        In their order.
    """

    part: str | None = None
    normalizations: tuple[str, ...] = ()

    @classmethod
    def of(cls, part: Any, normalize: Any) -> Preparation:
        """The options ``part`` and ``normalize``; InputError for invalid ones."""
        check_part(part)
        return cls(part, check_normalization(normalize))

    @property
    def changes(self) -> bool:
        """Whether anything is done."""
        return self.part is not None or bool(self.normalizations)

    @property
    def record(self) -> dict[str, str]:
        """The options as attributes of files."""
        part = {} if self.part is None else {"part": self.part}
        return {**part, "normalize": ", ".join(self.normalizations)} if self.normalizations else part

    def select(self, relevance: np.ndarray) -> None:
        """Keep the part of relevance, in place."""
        if self.part == "abs":
            np.abs(relevance, out=relevance)
        elif self.part is not None:
            (np.maximum if self.part == "positive" else np.minimum)(relevance, 0, out=relevance)

    def normalize(self, relevance: np.ndarray, *, threads: int | None = None) -> int:
        """`normalize_rows`, if anything is normalized."""
        return normalize_rows(relevance, self.normalizations, threads=threads) if self.normalizations else 0


def normalize_rows(relevance: np.ndarray, normalize: str | Sequence[str], *, threads: int | None = None) -> int:
    """Divide every row by max|R|, ΣR, max R or Σ|R|, in place; masked features (NaN) do not count.

    Parameters
    ----------
    relevance : array, shape (rows, features), float32 or float64
        C-contiguous. Sums are float64; results do not depend on the threads.
    normalize : {"maxabs", "sum", "max", "l1"}, or several of them
        Several are applied one after the other.
    threads : int, optional

    Returns
    -------
    int
        The number of rows that a normalization left unchanged, because the divisor is zero, or so near to zero that
        the result overflows; under "max" also rows without positive relevance.

    Raises
    ------
    InputError
        For any other ``normalize``.
    """
    codes = [_moments.NORMALIZERS[name] for name in check_normalization(normalize)]
    if relevance.size == 0:
        return len(relevance)

    def one(first: int, last: int) -> int:
        if len(codes) == 1:
            return _moments.divide(relevance, codes[0], first, last)
        # row by row: one that several normalizations leave unchanged counts once
        return sum(any([_moments.divide(relevance, code, i, i + 1) for code in codes]) for i in range(first, last))

    with ThreadedRange(len(relevance), 1, relevance.size, threads) as shares:
        return shares.run([one])
