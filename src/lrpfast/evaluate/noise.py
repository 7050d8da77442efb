"""How much an explanation changes when its input changes a little."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ..analyzer import Analyzer
from ..engine.inputs import as_real
from ..errors import InputError, RelevanceWarning
from ..kernels.arrays import to_host


def sensitivity(
    analyzer: Analyzer, x: Any, *, radius: float, draws: int = 10, target: Any = None, seed: int = 0
) -> np.ndarray:
    """The largest relative change of relevance under small uniform noise.

    max_d ‖R(x + δ_d) − R(x)‖ / ‖R(x)‖, with δ_d uniform in [−radius, radius], for each feature on its own.

    Parameters
    ----------
    analyzer : Analyzer
    x : array, shape (samples, *input_shape)
    radius : float
        In the units of the input.
    draws : int
        How many inputs are drawn for each sample.
    target : optional
        As in `Analyzer.analyze`. "max" means each sample's largest output without noise.
    seed : int

    Returns
    -------
    float64 array, shape (samples,)
        Infinite where R(x) is zero and R(x + δ) is not.

    Raises
    ------
    InputError, ShapeError

    References
    ----------
    Yeh et al. (2019), "On the (in)fidelity and sensitivity of explanations", SENS_MAX; Quantus's ``MaxSensitivity``.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0], [1.0]]))])
    >>> analyzer = lrpfast.Analyzer(model, "epsilon")
    >>> bool(0 < lrpfast.evaluate.sensitivity(analyzer, np.ones((1, 2)), radius=0.1)[0] <= 0.1)
    True
    """
    if not isinstance(radius, (int, float, np.floating, np.integer)) or not 0 < float(radius) < np.inf:
        raise InputError(f"radius must be a number above 0, not {radius!r}")
    if isinstance(draws, bool) or not isinstance(draws, (int, np.integer)) or draws < 1:
        raise InputError(f"draws must be a whole number of at least 1, not {draws!r}")
    if isinstance(analyzer.input_shape, list) or isinstance(analyzer.output_shape, list):
        raise InputError("sensitivity evaluates models of one input and one output")
    values = to_host(as_real(x, "x")).astype(np.float64)
    target = analyzer.target if target is None else target
    if target is None or (isinstance(target, str) and target == "max"):
        target = (
            analyzer.explained_model.predict(values, precision=analyzer.precision).reshape(len(values), -1).argmax(1)
        )
    generator = np.random.default_rng(seed)
    whole = np.asarray(analyzer.analyze(values, target), np.float64).reshape(len(values), -1)
    size = np.linalg.norm(whole, axis=1)
    largest = np.zeros(len(values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RelevanceWarning)  # R(x) had its own
        for _ in range(int(draws)):
            noise = generator.uniform(-radius, radius, values.shape)
            changed = np.asarray(analyzer.analyze(values + noise, target), np.float64).reshape(len(values), -1)
            largest = np.maximum(largest, np.linalg.norm(changed - whole, axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(largest == 0, 0.0, largest / size)
