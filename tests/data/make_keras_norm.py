"""iNNvestigate's figures for batch normalization (keras_norm.*), and where it goes wrong (printed).

Run with TensorFlow 2.14 and iNNvestigate 2.1.2: ``python make_keras_norm.py FOLDER``.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np

warnings.simplefilter("ignore")
import tensorflow as tf  # noqa: E402

tf.compat.v1.disable_eager_execution()
import innvestigate  # noqa: E402
from innvestigate.analyzer.relevance_based import relevance_rule as rrule  # noqa: E402
from tensorflow.keras import layers, models  # noqa: E402

NAMES = (
    *("lrp.z", "lrp.epsilon", "lrp.w_square", "lrp.flat", "lrp.alpha_2_beta_1", "lrp.alpha_2_beta_1_IB"),
    *("lrp.alpha_1_beta_0", "lrp.z_plus", "lrp.z_plus_fast", "lrp.sequential_preset_a", "lrp.sequential_preset_b_flat"),
)
CALLS = [(name, {}) for name in NAMES] + [
    ("lrp.epsilon", {"epsilon": 0.1}),
    ("lrp.z", {"input_layer_rule": "Flat"}),
    ("lrp.sequential_preset_a", {"bn_layer_rule": "Z"}),
    ("lrp.sequential_preset_a", {"bn_layer_fuse_mode": "two_linear"}),
    ("lrp.alpha_2_beta_1", {"bn_layer_fuse_mode": "two_linear"}),
    ("lrp.epsilon", {"epsilon": 0.1, "bn_layer_fuse_mode": "two_linear"}),
    ("lrp", {"rule": "Alpha2Beta1", "bn_layer_rule": "Z"}),
]


def network(rng):
    """Two branches with a batch normalization each, of mean 0 and variance 1, for which iNNvestigate is right."""
    x = layers.Input((7, 7, 2))
    a = layers.Activation("relu")(layers.BatchNormalization()(layers.Conv2D(4, 3)(x)))
    b = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="valid")(x))
    y = layers.Average()([a, b])
    y = layers.UpSampling2D(2, interpolation="bilinear")(layers.AveragePooling2D(2)(y))
    y = layers.Activation("relu")(layers.Conv2D(5, 2)(y))
    y = layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(y))
    model = models.Model(x, y)
    for layer in model.layers:
        weights = [rng.normal(0, 0.5, w.shape) for w in layer.get_weights()]
        if isinstance(layer, layers.BatchNormalization):
            weights[0] += 1.2
            n = len(weights[0])
            weights[2:] = [np.zeros(n), np.ones(n)]
        layer.set_weights(weights)
    return model


def main(folder):
    rng = np.random.default_rng(7)
    model = network(rng)
    model.save(folder / "keras_norm.h5")
    x = rng.normal(size=(4, 7, 7, 2)).astype(np.float32)
    record = {"x": x, "y": model.predict(x, verbose=0)}
    logits = innvestigate.model_wo_softmax(model)
    record["y_wo_softmax"] = logits.predict(x, verbose=0)
    for name, keywords in CALLS:
        record[f"{name}|{json.dumps(keywords, sort_keys=True)}"] = innvestigate.create_analyzer(
            name, logits, **keywords
        ).analyze(x)
    np.savez_compressed(folder / "keras_norm.npz", **record)
    errors()


def one(model, x, rule="Z", **keywords):
    x = [np.array([v], np.float32) for v in x] if isinstance(x, tuple) else np.array([x], np.float32)
    r = innvestigate.create_analyzer("lrp", model, rule=rule, **keywords).analyze(x)
    values = [v.ravel() for v in r.values()] if isinstance(r, dict) else [r.ravel()]
    y = model.predict(x, verbose=0).ravel()
    print("   y", y, "R", np.concatenate(values), "sum", np.concatenate(values).sum())


def errors():
    """The figures that docs/conventions.md quotes."""
    dense = lambda w, b=None, **k: layers.Dense(  # noqa: E731
        np.shape(w)[1], use_bias=b is not None, weights=[np.array(w)] + ([] if b is None else [np.array(b)]), **k
    )

    print("batch normalization: y = 2 (x - 1) / sqrt(4) + 0.5 = x - 0.5")
    stats = [np.array([v], np.float32) for v in (2, 0.5, 1, 4)]
    x = layers.Input((1,))
    norm = models.Model(x, layers.BatchNormalization(epsilon=1e-12, weights=stats)(dense([[1.0]])(x)))
    one(norm, [3.0], bn_layer_rule="Z")
    one(norm, [3.0], bn_layer_rule="Z", bn_layer_fuse_mode="two_linear")

    print("AlphaBetaX, alpha (1, 1), beta (0, 0); x = (1, -1), w = (2, -3)")
    x = layers.Input((2,))
    model = models.Model(x, dense([[2.0], [-3.0]])(x))
    one(model, [1.0, -1.0], rule=rrule.AlphaBetaX1001Rule)

    for what, layer in (("LeakyReLU", layers.LeakyReLU(0.5)), ("ELU", layers.ELU())):
        print(what, "layer; x = (1, 1), w = (1, -3): z = -2")
        model = models.Model(x, layer(dense([[1.0], [-3.0]])(x)))
        one(model, [1.0, 1.0])

    print("Subtract, Multiply of x W1 = 3 and x W2 = 1; x = (1, 1)")
    for cls in (layers.Subtract, layers.Multiply):
        one(models.Model(x, cls()([dense([[1.0], [2.0]])(x), dense([[0.5], [0.5]])(x)])), [1.0, 1.0])

    print("SeparableConv1D over 2 positions: depthwise (2, -1) and (1, -3), pointwise (1, -1); x = 1, alpha 1 beta 0")
    x = layers.Input((2, 2))
    weights = [np.array([[2.0, 1.0], [-1.0, -3.0]]).reshape(2, 2, 1), np.array([1.0, -1.0]).reshape(1, 2, 1)]
    model = models.Model(x, layers.Flatten()(layers.SeparableConv1D(1, 2, use_bias=False, weights=weights)(x)))
    one(model, [[1.0, 1.0], [1.0, 1.0]], rule="Alpha1Beta0IgnoreBias")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
