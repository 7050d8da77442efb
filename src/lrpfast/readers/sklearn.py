"""Fitted scikit-learn estimators that are networks: multilayer perceptrons, linear models, and pipelines of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import InputError, UnsupportedLayerError
from ..model.builder import from_layers
from ..model.graph import Model
from ..model.layers import BatchNorm, Dense, Layer

#: scikit-learn's names for activation functions, in lrpfast's.
_ACTIVATIONS = {
    "identity": None,
    "logistic": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "softmax": "softmax",
    "exp": "exponential",  # MLPRegressor(loss="poisson")
}


def from_sklearn(model: Any) -> Model:
    """The Model of a fitted scikit-learn estimator, which predicts its probabilities, scores or values.

    Parameters
    ----------
    model : estimator or Pipeline
        Fitted: MLPClassifier, MLPRegressor, LinearRegression, Ridge, Lasso, ElasticNet, SGDRegressor, LinearSVR,
        LogisticRegression, SGDClassifier, LinearSVC, Perceptron or RidgeClassifier, or a Pipeline of
        StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler or PCA before one of these. MLPClassifier and
        LogisticRegression give ``predict_proba``, other classifiers ``decision_function``, regressors ``predict``.
        A classifier of two classes has one output, for ``classes_[1]``.

    Returns
    -------
    Model
        Holds copies of the coefficients.

    Raises
    ------
    InputError
        When it is no scikit-learn estimator, or not fitted.
    UnsupportedLayerError
        When it is an estimator that is no network, or a one-vs-rest classifier.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> regression = LinearRegression().fit(np.array([[0.0], [1.0]]), np.array([1.0, 3.0]))
    >>> lrpfast.from_sklearn(regression).predict(np.array([[2.0]]), precision="float64").round(6)
    array([[5.]])
    """
    if isinstance(model, type):
        raise InputError(f"{_ACCEPTED}; got the class {model.__name__} itself")
    if not _bases(model):
        raise InputError(f"{_ACCEPTED}; got {type(model).__name__}")
    if "Pipeline" not in _bases(model):
        return from_layers(_layers(model, _READERS, "coef_"), name=type(model).__name__)
    layers: list[Layer] = []
    steps = [step for _, step in model.steps if step is not None and not isinstance(step, str)]  # not "passthrough"
    if not steps:
        raise UnsupportedLayerError("the Pipeline has no estimator")
    for step in steps[:-1]:
        layers += _layers(step, _TRANSFORMERS, "n_features_in_")
    layers += _layers(steps[-1], _READERS, "coef_")
    return from_layers(layers, int(steps[0].n_features_in_), name=type(steps[-1]).__name__)


def _bases(model: Any) -> list[str]:
    """The classes of scikit-learn that an object is of."""
    return [base.__name__ for base in type(model).__mro__ if base.__module__.split(".")[0] == "sklearn"]


def _layers(model: Any, readers: Mapping[str, Callable[[Any], list[Layer]]], fitted: str) -> list[Layer]:
    """The layers of an estimator or of a transformer; ``fitted`` is an attribute that it has from fit on."""
    name = next((base for base in _bases(model) if base in readers), None)
    if name is None:
        remedy = ""
        if readers is _TRANSFORMERS:
            remedy = (
                f". In a Pipeline these come before the estimator: {', '.join(_TRANSFORMERS)}; otherwise give "
                "pipeline[-1], and explain inputs that pipeline[:-1].transform has prepared"
            )
        raise UnsupportedLayerError(f"{_ACCEPTED}; got {type(model).__name__}{remedy}")
    fitted = "coefs_" if name.startswith("MLP") else fitted
    if not hasattr(model, fitted):
        raise InputError(f"{type(model).__name__} is not fitted (it has no {fitted}); call fit first")
    return readers[name](model)


def _perceptron(model: Any) -> list[Layer]:
    last = len(model.coefs_) - 1
    layers: list[Layer] = []
    for i, (kernel, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        function = model.out_activation_ if i == last else model.activation
        if function not in _ACTIVATIONS:
            raise UnsupportedLayerError(
                f"layer {i + 1} of {last + 1} of {type(model).__name__} has the activation {function!r}; "
                f"these work: {', '.join(_ACTIVATIONS)}"
            )
        layers.append(Dense(kernel, bias, _ACTIVATIONS[function]))
    return layers


def _coefficients(model: Any) -> tuple[np.ndarray, np.ndarray | None]:
    coef = model.coef_
    if hasattr(coef, "toarray"):  # after LogisticRegression.sparsify()
        coef = coef.toarray()
    kernel = np.atleast_2d(np.asarray(coef)).T
    if not getattr(model, "fit_intercept", True):
        return kernel, None
    return kernel, np.broadcast_to(np.asarray(model.intercept_), kernel.shape[1:])


def _linear(model: Any) -> list[Layer]:
    return [Dense(*_coefficients(model))]


def _logistic(model: Any) -> list[Layer]:
    kernel, bias = _coefficients(model)
    classes = len(model.classes_)
    # Up to scikit-learn 1.7 a parameter chose between softmax and one-vs-rest; since then softmax is the only way.
    parameters = model.get_params()
    choice = parameters.get("multi_class", "multinomial" if classes > 2 else "auto")
    if classes > 2:
        one_vs_rest = choice in ("ovr", "warn") or (choice != "multinomial" and parameters["solver"] == "liblinear")
        if one_vs_rest:
            raise UnsupportedLayerError(
                f"{type(model).__name__} with {classes} classes is one-vs-rest here (multi_class={choice!r}, "
                f"solver={parameters['solver']!r}): its probabilities are normalised sigmoids, which is no layer that "
                "lrpfast has. Fit it with a multinomial loss (the default of current scikit-learn)"
            )
        return [Dense(kernel, bias, "softmax")]
    if choice == "multinomial":  # softmax over (-z, z), which is the sigmoid of 2 z
        kernel, bias = 2 * kernel, None if bias is None else 2 * bias
    return [Dense(kernel, bias, "sigmoid")]


# -- transformers -------------------------------------------------------------


def _scaling(scale: Any, shift: Any, count: int) -> list[Layer]:
    """x · scale + shift, feature by feature."""
    scale, shift = (np.broadcast_to(np.asarray(a, float), (count,)) for a in (scale, shift))
    return [BatchNorm(np.zeros(count), np.ones(count), scale, shift, 0.0)]


def _centred(model: Any, center: Any, scale: Any) -> list[Layer]:
    """(x - center) / scale; either may be None."""
    scale = 1.0 if scale is None else 1 / np.asarray(scale, float)
    return _scaling(scale, 0.0 if center is None else -np.asarray(center) * scale, model.n_features_in_)


def _standard(model: Any) -> list[Layer]:
    return _centred(model, model.mean_ if model.with_mean else None, model.scale_ if model.with_std else None)


def _min_max(model: Any) -> list[Layer]:
    if model.clip:
        raise UnsupportedLayerError("MinMaxScaler(clip=True) cuts its values off; lrpfast reads it without clip")
    return _scaling(model.scale_, model.min_, model.n_features_in_)


def _max_abs(model: Any) -> list[Layer]:
    if getattr(model, "clip", False):
        raise UnsupportedLayerError("MaxAbsScaler(clip=True) cuts its values off; lrpfast reads it without clip")
    return _centred(model, None, model.scale_)


def _robust(model: Any) -> list[Layer]:
    return _centred(
        model, model.center_ if model.with_centering else None, model.scale_ if model.with_scaling else None
    )


def _pca(model: Any) -> list[Layer]:
    kernel = model.components_.T
    if model.whiten:
        kernel = kernel / np.sqrt(np.maximum(model.explained_variance_, np.finfo(kernel.dtype).eps))
    return [Dense(kernel, None if model.mean_ is None else -model.mean_ @ kernel)]


_READERS: dict[str, Callable[[Any], list[Layer]]] = {
    "MLPClassifier": _perceptron,
    "MLPRegressor": _perceptron,
    "LogisticRegression": _logistic,
    **dict.fromkeys(
        ("LinearRegression", "Ridge", "Lasso", "ElasticNet", "SGDRegressor", "LinearSVR")
        + ("SGDClassifier", "LinearSVC", "Perceptron", "RidgeClassifier"),
        _linear,
    ),
}

_TRANSFORMERS: dict[str, Callable[[Any], list[Layer]]] = {
    "StandardScaler": _standard,
    "MinMaxScaler": _min_max,
    "MaxAbsScaler": _max_abs,
    "RobustScaler": _robust,
    "PCA": _pca,
}

_ACCEPTED = f"from_sklearn takes a fitted {', '.join(_READERS)}, or a Pipeline that ends in one"
