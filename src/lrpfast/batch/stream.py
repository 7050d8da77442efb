"""Explains an array of any length a chunk at a time, from memory-mapped inputs into a file."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.analyzer import Analyzer
from ..engine.inputs import as_batch, as_start
from ..errors import InputError, SampleError, ShapeError
from ..output import check_target, replacing
from .files import release
from .normalize import normalize_rows

#: A chunk's inputs and relevances in memory, and its work: together they keep memory
#: small, the progress bar moving, and Ctrl-C heard within a fraction of a second.
CHUNK_BYTES = 64 << 20
CHUNK_FLOPS = 10_000_000_000


@dataclass(frozen=True)
class Written:
    """What `explain_file` did: the array it wrote, how long it took, and how many were not normalized."""

    shape: tuple[int, ...]
    dtype: np.dtype
    explanations: int
    seconds: float
    left: int


def explain_file(
    analyzer: Analyzer,
    x: np.ndarray,
    output: str | os.PathLike,
    *,
    target: Any = None,
    normalize: str | None = None,
    progress: Callable[[int], object] = lambda samples: None,
) -> Written:
    """Write the relevance of every sample of ``x`` to an .npy file.

    The file appears when it is whole; see `output.replacing`. Memory does not grow
    with the number of samples.

    Parameters
    ----------
    analyzer : Analyzer
    x : array, shape (samples, *input_shape)
        Best memory-mapped; see `files.open_array`.
    output : path
    target : optional
        As in `Analyzer.analyze`, but no callable.
    normalize : {"maxabs", "sum", "max", "l1"}, optional
        Divide each explanation, as `normalize.normalize_rows` does.
    progress : callable, optional
        Called with the number of samples of each chunk that is done.

    Returns
    -------
    Written
    """
    begin = time.perf_counter()
    if isinstance(analyzer.input_shape, list):
        raise InputError(
            f"the model has {len(analyzer.input_shape)} inputs, a file holds one; use Analyzer.analyze with a list"
        )
    analyzer = analyzer.fixed(x)
    samples, shape = len(as_batch(x, analyzer.input_shape)), x.shape[1:]  # type: ignore[arg-type]
    whole = isinstance(target, np.ndarray)
    if whole:
        _check_targets(analyzer, target, samples)
    # an empty batch has every other property of the result: its dtype, and an axis for several targets
    made = _analyze(analyzer, x[:0], target[:0] if whole else target)
    result = (samples, *made.shape[1:])
    axes = made.ndim - 1 - len(shape)
    per_sample = math.prod(shape) * (made.itemsize * (1 + math.prod(result[1 : 1 + axes])) + x.itemsize)
    rows = max(1, min(samples, CHUNK_BYTES // max(1, per_sample), CHUNK_FLOPS // max(1, analyzer.plan().flops)))
    check_target(output, math.prod(result) * made.itemsize)
    buffer = np.empty((rows, *result[1:]), made.dtype)
    left = 0
    with replacing(output) as file:
        header = {"descr": np.lib.format.dtype_to_descr(made.dtype), "fortran_order": False, "shape": result}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, samples, rows):
            part = slice(first, min(samples, first + rows))
            out = buffer[: part.stop - first]
            try:
                _analyze(analyzer, x[part], target[part] if whole else target, out)
            except SampleError as error:
                raise error.moved(first) from None
            if normalize is not None:
                left += normalize_rows(out.reshape(-1, math.prod(shape)), normalize)
            file.write(out.data)
            release(x)
            progress(len(out))
    explanations = samples * math.prod(result[1 : 1 + axes])
    return Written(result, made.dtype, explanations, time.perf_counter() - begin, left)


def _analyze(analyzer: Analyzer, x: np.ndarray, target: Any, out: np.ndarray | None = None) -> np.ndarray:
    # the base class's: iNNvestigate's analyzers take fewer kinds of targets when called as iNNvestigate's are
    return Analyzer.analyze(analyzer, x, target, out)


def _check_targets(analyzer: Analyzer, target: np.ndarray, samples: int) -> None:
    """Tell of a wrong target before the work begins, not when its sample's turn comes."""
    if target.ndim == 0 or len(target) != samples:
        raise ShapeError(f"there are {samples} samples, but the targets have shape {target.shape}")
    as_start(target, samples, analyzer.output_shape, np.dtype(np.float64), lambda: np.empty(0))
