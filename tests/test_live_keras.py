"""Live models of Keras wherever a Model is taken, where Keras and TensorFlow are installed.

`test_readers_keras.py` has tests with a stand-in that has Keras's interface, and those run everywhere.
"""

import os

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
pytest.importorskip("tensorflow", reason="these need TensorFlow: pip install tensorflow")
keras = pytest.importorskip("keras", reason="these need Keras: pip install keras")

import tensorflow as tf  # noqa: E402

import lrpfast  # noqa: E402
from lrpfast.errors import LrpfastError, ModelFormatError, UnsupportedLayerError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::lrpfast.errors.RelevanceWarning")
RNG = np.random.default_rng(5)


def ocean_points():
    """The network of a climate scientist: points of the ocean in degrees Celsius, a normalization, two classes."""
    x = RNG.normal(15, 3, size=(9, 40)).astype(np.float32)
    normalization = keras.layers.Normalization()
    normalization.adapt(RNG.normal(15, 3, size=(64, 40)).astype(np.float32))
    layers = [
        keras.layers.Dense(8, activation="relu"),
        keras.layers.Dropout(0.1),
        keras.layers.Dense(8, activation="relu"),
        keras.layers.Dense(2, activation="softmax"),
    ]
    return keras.Sequential([keras.Input((40,)), normalization, *layers]), x


def maps():
    """A functional model with branches and a batch norm that was trained."""
    entry = keras.Input((12, 9, 1))
    h = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(entry)
    h = keras.layers.Activation("relu")(keras.layers.BatchNormalization()(h))
    h = keras.layers.Add()([keras.layers.Conv2D(4, 1)(h), h])
    h = keras.layers.Flatten()(keras.layers.MaxPooling2D()(h))
    model = keras.Model(entry, keras.layers.Dense(3, activation="softmax")(h))
    model.compile("adam", "sparse_categorical_crossentropy")
    x = RNG.normal(size=(16, 12, 9, 1)).astype(np.float32)
    model.fit(x, np.arange(16) % 3, epochs=2, verbose=0)
    return model, x


def series():
    """A recurrent network and a regression."""
    layers = [
        keras.Input((7, 3)),
        keras.layers.LSTM(5, return_sequences=True),
        keras.layers.GRU(4),
        keras.layers.Dense(1),
    ]
    return keras.Sequential(layers), RNG.normal(size=(6, 7, 3)).astype(np.float32)


def tf_keras():
    """As notebooks write it: tf.keras."""
    layers = [tf.keras.layers.Dense(6, activation="relu"), tf.keras.layers.Dense(2, activation="softmax")]
    return tf.keras.Sequential([tf.keras.Input((10,)), *layers]), RNG.normal(size=(5, 10)).astype(np.float32)


@pytest.mark.parametrize("make", [ocean_points, maps, series, tf_keras])
def test_every_door_takes_a_live_model(make, tmp_path):
    """The same bits as the saved file, by create_analyzer, model_wo_softmax, Analyzer and load."""
    keras.utils.set_random_seed(3)
    live, x = make()
    live.save(tmp_path / "model.keras")
    from_file = lrpfast.load(tmp_path / "model.keras")
    np.testing.assert_allclose(lrpfast.from_keras(live).predict(x), live.predict(x, verbose=0), rtol=1e-4, atol=1e-5)
    expected = lrpfast.create_analyzer("lrp.epsilon", from_file).analyze(x)
    for model in (live, lrpfast.model_wo_softmax(live), lrpfast.from_keras(live)):
        assert lrpfast.create_analyzer("lrp.epsilon", model).analyze(x).tobytes() == expected.tobytes()
    rule = "epsilon" if "lstm" in live.layers[0].name else "z_plus"  # which no recurrent layer takes
    one, two = (lrpfast.Analyzer(model, rule).analyze(x) for model in (live, from_file))
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("make", [ocean_points, maps, tf_keras])
def test_gradients_are_tensorflow_s(make):
    """An independent path: TensorFlow differentiates the live model, without its softmax."""
    keras.utils.set_random_seed(3)
    live, x = make()
    model = lrpfast.create_analyzer("gradient", live, neuron_selection_mode="index")
    last = live.layers[-1]
    activation, last.activation = last.activation, keras.activations.linear
    entry = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(entry)
        output = live(entry, training=False)[:, 0]
    expected = tape.gradient(output, entry).numpy()
    last.activation = activation
    np.testing.assert_allclose(model.analyze(x, 0), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_a_model_is_read_once_and_copied(tmp_path):
    """Training goes on in Keras; an analyzer keeps the weights that it was made with."""
    live, x = ocean_points()
    analyzer = lrpfast.Analyzer(live, "epsilon")
    before = analyzer.analyze(x)
    live.layers[1].set_weights([2 * weights for weights in live.layers[1].get_weights()])
    assert analyzer.analyze(x).tobytes() == before.tobytes()
    assert lrpfast.Analyzer(live, "epsilon").analyze(x).tobytes() != before.tobytes()


def test_an_ensemble_of_live_models(tmp_path):
    live, x = ocean_points()
    members = [live, keras.models.clone_model(live)]
    done = lrpfast.Ensemble({"trained": members[0], "other": members[1]}, "epsilon").stream(
        x, statistics=tmp_path / "maps.npz", progress=False
    )
    each = [lrpfast.Analyzer(member, "epsilon").analyze(x).mean(0, dtype=np.float64) for member in members]
    np.testing.assert_allclose(done.mean[0], np.mean(each, 0), rtol=1e-6, atol=1e-9)
    assert done.members == ("trained", "other")


def test_live_models_that_cannot_be_read():
    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    mine = Mine()
    mine(np.zeros((1, 4), np.float32))
    with pytest.raises(UnsupportedLayerError, match="Mine|call"):
        lrpfast.Analyzer(mine, "epsilon")
    with pytest.raises(ModelFormatError, match="no weights yet"):
        lrpfast.create_analyzer("lrp.epsilon", keras.Sequential([keras.layers.Dense(2)]))
    custom = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2), keras.layers.Dense(2)])
    with pytest.raises(LrpfastError, match="custom_objects"):
        lrpfast.model_wo_softmax(custom)
