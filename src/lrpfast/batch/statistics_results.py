"""The results of statistics, from their sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .moment_tree import Blocks
from .scatter import scatter
from .sign_test import false_discovery, sign_test
from .sketch import Sketch
from .statistics_arguments import check_quantiles

#: The rate of false discoveries up to which a sign is significant.
SIGNIFICANT = 0.05


def significance(p_value: np.ndarray, level: float = SIGNIFICANT) -> np.ndarray:
    """Where an adjusted probability is at most ``level``; not where it is NaN."""
    return np.asarray(p_value <= level)


class StatisticsResults:
    """What `Statistics` has of results; it counts."""

    shape: tuple[int, ...]
    groups: tuple[Any, ...]
    _blocks: Blocks
    _samples: np.ndarray
    _zero: np.ndarray
    _signs: np.ndarray
    _extremes: np.ndarray
    _sketch: Sketch | None
    _moments: np.ndarray | None
    _mask: np.ndarray | None

    @property
    def count(self) -> np.ndarray:
        """Samples of each group, shape (groups,)."""
        return self._samples.copy()

    @property
    def zero(self) -> np.ndarray:
        """Samples of each group whose map is zero everywhere, shape (groups,); with ``skip_zero`` counted only here."""
        return self._zero.copy()

    @property
    def valid(self) -> np.ndarray:
        """Values that are not NaN, int64, shape (groups, *shape)."""
        return self._shaped(self._result()[:, 2].astype(np.int64))

    @property
    def mean(self) -> np.ndarray:
        """ΣR/n, shape (groups, *shape), float64; NaN where no value is valid, as in all results below."""
        moments = self._result()
        return self._where_valid(moments[:, 0] + moments[:, 3])

    @property
    def std(self) -> np.ndarray:
        """√(Σ(R − mean)²/n), shape (groups, *shape)."""
        moments = self._result()
        return self._where_valid(np.sqrt(moments[:, 1] / np.maximum(moments[:, 2], 1)))

    @property
    def positive(self) -> np.ndarray:
        """The share of valid values above zero, shape (groups, *shape)."""
        return self._where_valid(self._signs[:, 0] / np.maximum(self._result()[:, 2], 1))

    @property
    def negative(self) -> np.ndarray:
        """The share of valid values below zero, shape (groups, *shape)."""
        return self._where_valid(self._signs[:, 1] / np.maximum(self._result()[:, 2], 1))

    @property
    def minimum(self) -> np.ndarray:
        """The smallest value, shape (groups, *shape)."""
        return self._where_valid(self._extremes[:, 0] + 0.0)  # -0.0 or 0.0, whichever came first, becomes 0.0

    @property
    def maximum(self) -> np.ndarray:
        """The largest value, shape (groups, *shape)."""
        return self._where_valid(self._extremes[:, 1] + 0.0)

    @property
    def agreement(self) -> np.ndarray:
        """The share of valid values that have the more frequent sign, shape (groups, *shape)."""
        return self._where_valid(self._signs.max(1) / np.maximum(self._result()[:, 2], 1))

    def p_value(self, *, adjust: bool = True) -> np.ndarray:
        """The probability of signs as unequal as these, or more, if both were equally likely: a two-sided sign test.

        Values that are 0 count for neither sign. Samples count as independent: consecutive days of weather are not, and
        their probabilities are too small.

        Parameters
        ----------
        adjust : bool
            Adjust for the number of features of each group by the false discovery rate (Benjamini and Hochberg 1995).

        Returns
        -------
        array, shape (groups, *shape), float64

        Examples
        --------
        >>> statistics = lrpfast.Statistics((2,))
        >>> statistics.update(0, np.tile([[1.0, -1.0], [1.0, 1.0]], (5, 1)))
        >>> statistics.p_value(adjust=False), statistics.p_value()
        (array([[0.00195312, 1.        ]]), array([[0.00390625, 1.        ]]))
        """
        positive, negative = self._signs[:, 0], self._signs[:, 1]
        p = sign_test(np.maximum(positive, negative), positive + negative)
        valid = self._result()[:, 2] > 0
        if adjust:
            for own, has_values in zip(p, valid, strict=True):
                own[has_values] = false_discovery(own[has_values])
        return self._where_valid(p)

    def significant(self, level: float = SIGNIFICANT) -> np.ndarray:
        """Where one sign is the more frequent at a false discovery rate of ``level``, bool, shape (groups, *shape)."""
        if not 0 < level < 1:
            raise InputError(f"level must be between 0 and 1, not {level!r}")
        return significance(self.p_value(), level)

    def quantile(self, q: float | Sequence[float]) -> np.ndarray:
        """Quantiles of the values of each group and feature, from the sketch.

        The value of rank ⌊q·(n − 1)⌋, as ``np.quantile(…, method="lower")``, to within 1/33 (3.03 %) of itself. A
        value below 2⁻¹⁵ of the largest |R| of its group and feature may count as 0.

        Parameters
        ----------
        q : float or sequence of float
            Between 0 and 1; a single number counts as a sequence of one.

        Returns
        -------
        array, shape (len(q), groups, *shape), float64

        Raises
        ------
        InputError
            Without ``quantiles=True``, or for a q outside 0 to 1.

        Examples
        --------
        >>> statistics = lrpfast.Statistics((1,), quantiles=True)
        >>> statistics.update(0, np.arange(101.0).reshape(-1, 1))
        >>> abs(statistics.quantile(0.5) - 50) < 1.6
        array([[[ True]]])
        """
        shares = check_quantiles("q", q)
        if self._sketch is None:
            raise InputError(
                f"quantiles were not asked for: stream(…, quantiles={tuple(shares.tolist())}) "
                "or Statistics(…, quantiles=True) keeps what they need"
            )
        self._result()  # refuses gaps, as all results do
        each = [self._sketch.quantile(g, shares) for g in range(len(self.groups))]
        return self._on_grid(np.stack(each, 1).reshape(len(shares), len(self.groups), *self.shape))

    # Help

    @property
    def map_shape(self) -> tuple[int, ...]:
        """The shape of a map of results: on the grid, where there is a mask."""
        return self.shape if self._mask is None else (*self.shape[:-1], *self._mask.shape)

    def _result(self) -> np.ndarray:
        """The moments of all blocks, shape (groups, 4, features)."""
        if self._moments is None:
            moments = np.zeros((len(self.groups), 4, self._blocks.features))
            self._blocks.write_moments(moments)
            for group, own in zip(self.groups, moments, strict=True):
                if not np.isfinite(own).all():
                    feature = int(np.argwhere(~np.isfinite(own))[0, 1])
                    raise InputError(
                        f"the values of feature {feature} in group {group} are too large to square in float64"
                    )
            self._moments = moments
        return self._moments

    def _where_valid(self, values: np.ndarray) -> np.ndarray:
        return self._shaped(np.where(self._result()[:, 2] > 0, values, np.nan))

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        return self._on_grid(values.reshape(len(self.groups), *self.shape))

    def _on_grid(self, values: np.ndarray) -> np.ndarray:
        if self._mask is None:
            return values
        return scatter(values, self._mask, np.nan if values.dtype.kind == "f" else 0)
