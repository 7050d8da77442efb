"""Writes keras_attention_VERSION.h5.gz, its inputs and predictions, with the Keras run: 3, or tf_keras as 2.

python make_keras_attention.py 3 FOLDER
"""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np

V3 = sys.argv[1] == "3"
if V3:
    import keras
else:
    import tf_keras as keras

L = keras.layers


def model():
    x, z = keras.Input((5, 8), name="x"), keras.Input((7, 6), name="z")
    seen = keras.Input((5, 7), dtype="bool", name="seen")
    ids, image = keras.Input((5,), name="ids"), keras.Input((3, 4, 6), name="image")

    def words(name):
        """A masked value of its own for each layer: Keras takes the mask from a value that one has used."""
        return L.Embedding(9, 8, mask_zero=True, name=f"{name}_words")(ids)

    outputs = [
        L.MultiHeadAttention(2, 3, value_dim=5, output_shape=7, name="cross")(x, z, attention_mask=seen),
        L.MultiHeadAttention(2, 3, use_bias=False, name="keys")(x, z, key=z, use_causal_mask=True),
        L.MultiHeadAttention(2, 3, name="all_axes")(image, image),
        L.MultiHeadAttention(2, 3, attention_axes=(2,), name="one_axis")(image, image),
        L.MultiHeadAttention(2, 3, name="masked")(x, words("masked")),
        L.MultiHeadAttention(2, 3, name="masked_causal")(x, words("masked_causal"), use_causal_mask=True),
        L.Attention(use_scale=True, name="luong")([x, words("luong")]),
        L.Attention(name="luong_causal")([x, x, x], use_causal_mask=True),
        L.Attention(score_mode="concat", use_scale=True, name="concat")([x, x]),
        L.AdditiveAttention(name="additive")([x, words("additive")], use_causal_mask=True),
        L.GlobalAveragePooling1D(name="mean")(words("mean")),
    ]
    if V3:
        outputs += [
            L.GroupQueryAttention(4, 4, 2, name="shared")(x, words("shared")),
            L.MultiHeadAttention(2, 3, sliding_window=2, use_gate=True, name="gated")(x, x),
        ]
    return keras.Model([x, z, seen, ids, image], outputs)


def main():
    rng = np.random.default_rng(7)
    net = model()
    for layer in net.layers:
        layer.set_weights([rng.normal(size=w.shape).astype(w.dtype) * 0.5 for w in layer.get_weights()])
    seen = rng.random((3, 5, 7)) < 0.6
    seen[..., 0] = True
    ids = np.array([[1, 5, 3, 8, 2], [4, 2, 7, 0, 0], [6, 0, 0, 0, 0]])
    inputs = [rng.normal(size=(3, 5, 8)), rng.normal(size=(3, 7, 6)), seen, ids, rng.normal(size=(3, 3, 4, 6))]
    outputs = net.predict([i.astype("float32") if i.dtype == float else i for i in inputs], verbose=0)
    stem = os.path.join(sys.argv[2], f"attention_keras_{sys.argv[1]}")
    net.save(stem + ".keras")
    net.save(stem + ".h5")
    record = {f"x{i}": a for i, a in enumerate(inputs)} | {f"y{i}": np.asarray(a) for i, a in enumerate(outputs)}
    np.savez_compressed(stem + ".npz", **record)


main()
