"""from_sklearn predicts what the estimator predicts, or refuses."""

from __future__ import annotations

import numpy as np
import pytest

from forward import forward
from lrpfast.errors import InputError, UnsupportedLayerError
from lrpfast.readers import from_sklearn

pytest.importorskip("sklearn")
from sklearn import decomposition, linear_model, neural_network, pipeline, preprocessing, svm, tree  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402

pytestmark = pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning")

RANDOM = np.random.RandomState(0)
X = RANDOM.normal(size=(60, 5))
CLASSES = np.argmax(X[:, :3] + 0.3 * RANDOM.normal(size=(60, 3)), axis=1)
VALUES = X @ RANDOM.normal(size=(5, 2))


def close(estimator, expected):
    read = from_sklearn(estimator)
    y = forward(read, X)
    np.testing.assert_allclose(y, np.asarray(expected).reshape(y.shape), rtol=1e-9, atol=1e-12)
    assert read.name == type(estimator).__name__
    assert read.input_shape == (5,)
    return read


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
def test_perceptron_classifiers(activation):
    def fit(y):
        return neural_network.MLPClassifier((6, 4), activation=activation, max_iter=20, random_state=0).fit(X, y)

    several = fit(CLASSES)
    read = close(several, several.predict_proba(X))
    assert [x.describe() for x in read.layers[1:]] == [
        *(2 * [{"logistic": "sigmoid", "identity": "linear"}.get(activation, activation)]),
        "softmax",
    ]
    two = fit(CLASSES == 1)
    read = close(two, two.predict_proba(X)[:, 1])
    assert (read.output_shape, read.layers[-1].describe()) == ((1,), "sigmoid")
    labels = fit(np.stack([CLASSES == 1, X[:, 0] > 0, CLASSES > 0], axis=1).astype(int))
    close(labels, labels.predict_proba(X))


def test_perceptron_regressors():
    one = neural_network.MLPRegressor(hidden_layer_sizes=(6,), max_iter=20, random_state=0).fit(X, VALUES[:, 0])
    close(one, one.predict(X))
    two = neural_network.MLPRegressor(hidden_layer_sizes=(), activation="tanh", max_iter=20, random_state=0).fit(
        X, VALUES
    )
    close(two, two.predict(X))


def test_poisson_regressor():
    estimator = neural_network.MLPRegressor(hidden_layer_sizes=(6,), max_iter=20, random_state=0)
    if "loss" not in estimator.get_params():
        pytest.skip("this scikit-learn has no Poisson loss")
    estimator.set_params(loss="poisson").fit(X, np.exp(VALUES[:, 0] / 4))
    assert close(estimator, estimator.predict(X)).layers[-1].describe() == "exponential"


def test_float32_stays_float32():
    fitted = neural_network.MLPClassifier((6,), max_iter=5).fit(X.astype("float32"), CLASSES)
    assert from_sklearn(fitted).layers[1].kernel.dtype == fitted.coefs_[0].dtype
    assert from_sklearn(linear_model.LinearRegression().fit(X, VALUES)).layers[1].kernel.dtype == np.float64


@pytest.mark.parametrize("intercept", [True, False])
def test_linear_regression(intercept):
    for y in (VALUES[:, 0], VALUES[:, :1], VALUES):
        fitted = linear_model.LinearRegression(fit_intercept=intercept).fit(X, y + 3)
        read = close(fitted, fitted.predict(X))
        assert (read.layers[1].bias is not None) == intercept


@pytest.mark.parametrize("intercept", [True, False])
def test_logistic_regression(intercept):
    two = linear_model.LogisticRegression(fit_intercept=intercept).fit(X, CLASSES == 1)
    close(two, two.predict_proba(X)[:, 1])
    several = linear_model.LogisticRegression(fit_intercept=intercept).fit(X, CLASSES)
    close(several, several.predict_proba(X))
    close(several.sparsify(), several.predict_proba(X))
    liblinear = linear_model.LogisticRegression(solver="liblinear", fit_intercept=intercept).fit(X, CLASSES == 1)
    close(liblinear, liblinear.predict_proba(X)[:, 1])


def fake_logistic(classes, **parameters):
    """A LogisticRegression as scikit-learn before 1.8 left it, with its parameter multi_class."""

    class LogisticRegression:
        coef_ = np.ones((1 if classes == 2 else classes, 5))
        intercept_ = np.zeros(1 if classes == 2 else classes)
        classes_ = np.arange(classes)
        fit_intercept = True

        def get_params(self):
            return {"solver": "lbfgs", **parameters}

    LogisticRegression.__module__ = "sklearn.linear_model._logistic"
    return LogisticRegression()


@pytest.mark.parametrize(
    "parameters",
    [{"multi_class": "ovr"}, {"multi_class": "warn"}, {"multi_class": "auto", "solver": "liblinear"},
     {"multi_class": "deprecated", "solver": "liblinear"}],
)  # fmt: skip
def test_one_vs_rest_is_refused(parameters):
    """Its probabilities are sigmoids divided by their sum, neither sigmoid nor softmax."""
    with pytest.raises(UnsupportedLayerError, match="3 classes is one-vs-rest.*multinomial"):
        from_sklearn(fake_logistic(3, **parameters))
    assert from_sklearn(fake_logistic(2, **parameters)).layers[1].describe() == "sigmoid"


def test_multinomial_of_older_versions():
    for parameters in ({}, {"multi_class": "auto"}, {"multi_class": "multinomial"}, {"multi_class": "deprecated"}):
        assert from_sklearn(fake_logistic(3, **parameters)).layers[1].describe() == "softmax"
    two = from_sklearn(fake_logistic(2, multi_class="multinomial"))
    z = X.sum(axis=1)
    softmax = np.exp(z) / (np.exp(z) + np.exp(-z))  # what scikit-learn computed: softmax over (-z, z)
    np.testing.assert_allclose(forward(two, X)[:, 0], softmax)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_real_one_vs_rest_is_refused_where_this_version_has_it():
    estimator = linear_model.LogisticRegression()
    if "multi_class" not in estimator.get_params():
        pytest.skip("this scikit-learn has no multi_class")
    fitted = estimator.set_params(multi_class="ovr").fit(X, CLASSES)
    with pytest.raises(UnsupportedLayerError):
        from_sklearn(fitted)


@pytest.mark.parametrize(
    "estimator",
    [neural_network.MLPClassifier(), neural_network.MLPRegressor(), linear_model.LinearRegression(),
     linear_model.LogisticRegression()],
)  # fmt: skip
def test_unfitted(estimator):
    with pytest.raises(InputError, match=f"{type(estimator).__name__} is not fitted"):
        from_sklearn(estimator)
    with pytest.raises(InputError, match="class .* itself"):
        from_sklearn(type(estimator))


def test_what_is_no_network():
    with pytest.raises(UnsupportedLayerError, match="MLPClassifier.*got DecisionTreeClassifier"):
        from_sklearn(tree.DecisionTreeClassifier().fit(X, CLASSES))
    chain = pipeline.make_pipeline(preprocessing.PolynomialFeatures(), linear_model.Ridge()).fit(X, VALUES)
    with pytest.raises(UnsupportedLayerError, match=r"got PolynomialFeatures.*StandardScaler.*pipeline\[-1\]"):
        from_sklearn(chain)
    clipped = pipeline.make_pipeline(preprocessing.MinMaxScaler(clip=True), linear_model.Ridge()).fit(X, VALUES)
    with pytest.raises(UnsupportedLayerError, match="clip"):
        from_sklearn(clipped)
    with pytest.raises(InputError, match="StandardScaler is not fitted"):
        from_sklearn(pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.Ridge()))
    for wrong in (None, "model.pkl", X, type("MLPClassifier", (), {"coefs_": []})()):
        with pytest.raises(InputError, match=f"got {type(wrong).__name__}"):
            from_sklearn(wrong)


def test_a_subclass_of_ones_own():
    class Mine(linear_model.LinearRegression):
        pass

    fitted = Mine().fit(X, VALUES)
    close(fitted, fitted.predict(X))


@pytest.mark.parametrize(
    "estimator",
    [linear_model.Ridge(), linear_model.Lasso(0.01), linear_model.ElasticNet(0.01), linear_model.SGDRegressor(),
     svm.LinearSVR(), linear_model.Ridge(fit_intercept=False)],
)  # fmt: skip
def test_linear_regressors(estimator):
    fitted = estimator.fit(X, VALUES[:, 0] + 3)
    close(fitted, fitted.predict(X))
    if type(estimator) in (linear_model.Ridge, linear_model.Lasso, linear_model.ElasticNet):
        several = estimator.fit(X, VALUES)
        close(several, several.predict(X))


@pytest.mark.parametrize(
    "estimator",
    [linear_model.SGDClassifier(), svm.LinearSVC(), linear_model.Perceptron(), linear_model.RidgeClassifier(),
     svm.LinearSVC(fit_intercept=False)],
)  # fmt: skip
def test_linear_classifiers(estimator):
    for y in (CLASSES, CLASSES == 1):
        fitted = estimator.fit(X, y)
        close(fitted, fitted.decision_function(X))


TRANSFORMERS = {
    "StandardScaler": preprocessing.StandardScaler(),
    "StandardScaler without mean": preprocessing.StandardScaler(with_mean=False),
    "StandardScaler without scale": preprocessing.StandardScaler(with_std=False),
    "MinMaxScaler": preprocessing.MinMaxScaler((-1, 2)),
    "MaxAbsScaler": preprocessing.MaxAbsScaler(),
    "RobustScaler": preprocessing.RobustScaler(),
    "RobustScaler without center": preprocessing.RobustScaler(with_centering=False),
    "PCA": decomposition.PCA(3),
    "PCA, whitened": decomposition.PCA(3, whiten=True),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_pipelines(name):
    shifted = 3 * X + np.arange(5)
    chain = pipeline.make_pipeline(TRANSFORMERS[name], "passthrough", linear_model.LogisticRegression())
    chain.fit(shifted, CLASSES)
    read = from_sklearn(chain)
    np.testing.assert_allclose(
        read.predict(shifted, precision="float64"), chain.predict_proba(shifted), rtol=1e-9, atol=1e-12
    )
    assert (read.name, read.input_shape) == ("LogisticRegression", (5,))


def test_a_pipeline_of_several_steps():
    steps = [preprocessing.StandardScaler(), decomposition.PCA(4), preprocessing.MinMaxScaler()]
    network = neural_network.MLPRegressor(hidden_layer_sizes=(6,), max_iter=20, random_state=0)
    chain = pipeline.make_pipeline(*steps, network).fit(X, VALUES)
    np.testing.assert_allclose(
        from_sklearn(chain).predict(X, precision="float64"), chain.predict(X), rtol=1e-9, atol=1e-12
    )
