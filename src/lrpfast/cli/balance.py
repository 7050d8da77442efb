"""``lrpfast explain … --balance``: the balance of relevance, layer by layer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..analyzer import Analyzer
from ..batch import Source, open_mask
from ..batch.inputs import SeveralSource
from ..errors import InputError, RelevanceWarning

#: The largest number of samples in the table, at equal distances from the first to the last.
MOST_SAMPLES = 256
#: … and the approximate largest number of their bytes.
MOST_BYTES = 64 << 20


def balance_of(analyzer: Analyzer, inputs: Source, target: Any, mask: str | None) -> Callable[[], str]:
    """The function that returns the text of ``--balance``; its errors are raised here, before the work begins."""
    samples = inputs.shape[0]
    if samples is None:
        raise InputError("--balance needs inputs that can be read again")
    if isinstance(target, np.ndarray) and target.dtype.kind in "iu" and target.ndim > 1:
        raise InputError("--balance takes one target for each sample; give one column of the targets")
    count = min(samples, MOST_SAMPLES, max(1, MOST_BYTES // (4 * max(1, math.prod(inputs.shape[1:])))))

    def text() -> str:
        positions = np.arange(count) * samples // count
        x: Any = np.concatenate([inputs.read(i, i + 1) for i in positions.tolist()])
        if mask is not None:
            x = x[..., open_mask(mask, inputs)]
        if isinstance(inputs, SeveralSource):
            x = inputs.rows.split(x)
        targets = target[positions] if isinstance(target, np.ndarray) else target
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RelevanceWarning)  # the run has warned for all samples
            conservation = analyzer.explain(x, target=targets).conservation
        of = "" if count == samples else f"{count:,} of {samples:,} samples, from the first to the last:\n"
        return f"{of}{conservation}"

    return text
