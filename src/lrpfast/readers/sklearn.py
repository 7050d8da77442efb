"""Fitted scikit-learn estimators that are networks: multilayer perceptrons, linear and logistic regression."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError, UnsupportedLayerError
from ..model.builder import from_layers
from ..model.graph import Model
from ..model.layers import Dense

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
    """The Model of a fitted scikit-learn estimator, which predicts its probabilities or values.

    Parameters
    ----------
    model : MLPClassifier, MLPRegressor, LinearRegression or LogisticRegression
        Fitted. A classifier of two classes has one output, the probability of ``classes_[1]``.

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
    accepted = f"from_sklearn takes a fitted {', '.join(_READERS)}"
    if isinstance(model, type):
        raise InputError(f"{accepted}; got the class {model.__name__} itself")
    own = [base.__name__ for base in type(model).__mro__ if base.__module__.split(".")[0] == "sklearn"]
    if not own:
        raise InputError(f"{accepted}; got {type(model).__name__}")
    name = next((base for base in own if base in _READERS), None)
    if name is None:
        remedy = ""
        if "Pipeline" in own:
            remedy = ". Give it pipeline[-1], and explain inputs that pipeline[:-1].transform has prepared"
        raise UnsupportedLayerError(f"{accepted}; got {type(model).__name__}{remedy}")
    fitted = "coefs_" if name.startswith("MLP") else "coef_"
    if not hasattr(model, fitted):
        raise InputError(f"{type(model).__name__} is not fitted (it has no {fitted}); call fit first")
    return from_layers(_READERS[name](model), name=type(model).__name__)


def _perceptron(model: Any) -> list[Dense]:
    last = len(model.coefs_) - 1
    layers = []
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


def _linear(model: Any) -> list[Dense]:
    return [Dense(*_coefficients(model))]


def _logistic(model: Any) -> list[Dense]:
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


_READERS = {
    "MLPClassifier": _perceptron,
    "MLPRegressor": _perceptron,
    "LinearRegression": _linear,
    "LogisticRegression": _logistic,
}
