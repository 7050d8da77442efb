"""Writes keras_attention_decoder.{keras,h5.gz,npz}: Keras Hub's decoders and rotary positions (keras_hub 0.32).

python make_keras_decoder.py
"""

import gzip
from pathlib import Path

import keras
import numpy as np
from keras_hub.layers import RotaryEmbedding, TransformerDecoder
from make_keras_layers import packed

HERE = Path(__file__).parent
L = keras.layers


def model():
    ids, x = keras.Input((5,), name="ids"), keras.Input((5, 8), name="x")
    z, heads = keras.Input((4, 6), name="z"), keras.Input((5, 2, 4), name="h")
    words = L.Embedding(9, 8, mask_zero=True, name="words")(ids)
    return keras.Model([ids, x, z, heads], [
        TransformerDecoder(7, 2, name="gpt", normalize_first=True, activation="gelu")(x),
        TransformerDecoder(7, 2, name="crossed")(x, z),
        TransformerDecoder(7, 2, name="masked", layer_norm_epsilon=1e-3)(words),
        RotaryEmbedding(name="turned")(x),
        RotaryEmbedding(max_wavelength=500, scaling_factor=2.0, name="heads")(heads),
        RotaryEmbedding(sequence_axis=2, rope_type="dynamic", scaling_factor=2.0, name="inner")(heads),
    ])  # fmt: skip


def main():
    rng, net = np.random.default_rng(7), model()
    net.set_weights([rng.normal(size=w.shape).astype("float32") * 0.5 for w in net.get_weights()])
    ids = np.array([[1, 5, 3, 8, 2], [4, 2, 7, 0, 0], [6, 0, 0, 0, 0]], "float32")
    xs = [ids, *(rng.normal(size=(3, *s)).astype("float32") for s in ((5, 8), (4, 6), (5, 2, 4)))]
    ys = net.predict(xs, verbose=0)
    path = HERE / "keras_attention_decoder.keras"
    net.save(path)
    packed(path)
    net.save(path.with_suffix(".h5"))
    path.with_suffix(".h5.gz").write_bytes(gzip.compress(path.with_suffix(".h5").read_bytes(), mtime=0))
    path.with_suffix(".h5").unlink()
    record = {f"x{i}": x for i, x in enumerate(xs)} | {f"y{i}": np.asarray(y) for i, y in enumerate(ys)}
    np.savez_compressed(path.with_suffix(".npz"), **record)


if __name__ == "__main__":
    main()
