"""Writes keras_ops_VERSION_MODEL.{h5.gz,keras}, and inputs and predictions in keras_ops.npz, with the Keras run: all
models, or those that are named.

    KERAS_BACKEND=tensorflow python make_keras_ops.py [ops images wrappers nested]   (Keras 3)
    TF_USE_LEGACY_KERAS=1 python make_keras_ops.py      (Keras 2: tf_keras)

Operations between layers, preprocessing, normalization and wrappers: each has an output of its own.
"""

import gzip
import os
import sys
from pathlib import Path

import numpy as np

V3 = not os.environ.get("TF_USE_LEGACY_KERAS")
if V3:
    import keras
    from keras import ops
else:
    import tensorflow as tf
    import tf_keras as keras

from make_keras_layers import packed, predictions, weights_for  # noqa: E402

HERE = Path(__file__).parent
L = keras.layers


def ops_3():
    x = keras.Input((4, 6), name="x")
    d = L.Dense(6, name="d")(x)
    p = L.Dense(6, activation="softplus", name="p")(x)
    row = np.arange(1.0, 7.0, dtype="float32")
    low, high = ops.split(d, [2], axis=-1)
    return keras.Model(x, [
        x + d, x * 2, 2 - x, x - d, x - 0.5, -d, d / 2, d / p, 1 / p, d * d, d * row, d + row[:4, None], ops.abs(d),
        ops.power(p, 1.5), p**2, ops.sqrt(p), ops.rsqrt(p), ops.square(d), ops.reciprocal(p), ops.exp(d),
        ops.maximum(d, 0.25), ops.minimum(d, x), ops.maximum(d, row), ops.clip(d, -0.5, 0.5), ops.cast(d, "float32"),
        d[:, -1], d[:, None], d[..., 1:3], d[:, ::2, ::-1], d[:, 1, 2:], ops.take(d, np.array([2, 0]), axis=1),
        ops.relu(d), ops.relu6(d * 9), ops.leaky_relu(d), ops.elu(d, 0.5), ops.selu(d), ops.gelu(d), ops.silu(d),
        ops.gelu(d, approximate=False), ops.tanh(d), ops.sigmoid(d), ops.hard_sigmoid(d), ops.softplus(d),
        ops.softsign(d), ops.log_sigmoid(d), ops.softmax(d), ops.softmax(d, axis=1), ops.log_softmax(d),
        ops.normalize(d, axis=-1), ops.mean(d, axis=-1, keepdims=True), ops.mean(d, axis=(1, 2)), ops.sum(d, axis=1),
        ops.max(d, axis=-1), ops.min(d, axis=(1,), keepdims=True), ops.amax(d, axis=1),
        ops.matmul(d, ops.transpose(x, (0, 2, 1))), ops.matmul(d, np.outer(row, [1.0, -1.0]).astype("float32")),
        ops.matmul(np.outer([1.0, 2.0], row[:4]).astype("float32"), d),
        ops.concatenate([d, x, p], axis=-1), ops.concatenate([d, x], axis=1), ops.stack([d, x], axis=1),
        ops.stack([d, x], axis=-1), low, high, ops.split(x, 2, axis=1)[1], ops.unstack(d, axis=1)[2],
        ops.reshape(d, (-1, 24)), ops.reshape(d, (-1, 2, 12)), ops.expand_dims(d, 1), ops.expand_dims(d, -1),
        ops.squeeze(ops.expand_dims(d, -1), -1), ops.transpose(d, (0, 2, 1)), ops.swapaxes(d, 1, 2),
        ops.moveaxis(d, -1, 1), ops.flip(d, axis=-1), ops.repeat(d, 2, axis=1), ops.tile(d, (1, 2, 1)),
        ops.pad(d, ((0, 0), (1, 0), (0, 2))), ops.pad(d, ((0, 0), (1, 1), (0, 0)), constant_values=1.5),
    ], name="ops")  # fmt: skip


def ops_2():
    x = keras.Input((4, 6), name="x")
    d = L.Dense(6, name="d")(x)
    p = L.Dense(6, activation="softplus", name="p")(x)
    row = np.arange(1.0, 7.0, dtype="float32")
    low, high = tf.split(d, [2, 4], axis=-1)
    K = keras.backend
    return keras.Model(x, [
        x + d, x * 2, 2 - x, x - d, x - 0.5, -d, d / 2, d / p, 1 / p, d * d, row * d, d + row[:4, None], tf.abs(d),
        tf.pow(p, 1.5), p**2, tf.sqrt(p), tf.math.rsqrt(p), tf.square(d), tf.math.reciprocal(p), tf.exp(d),
        tf.maximum(d, 0.25), tf.minimum(d, x), tf.clip_by_value(d, -0.5, 0.5), tf.cast(d, "float32"), tf.add(d, x),
        tf.math.add_n([d, x, p]), tf.identity(d), tf.stop_gradient(d), tf.nn.bias_add(d, row), tf.multiply(d, 3.0),
        d[:, -1], d[:, tf.newaxis], d[:, :, 1:3], d[:, ::2, ::-1], d[:, 1, 2:], tf.gather(d, [2, 0], axis=1),
        tf.nn.relu(d), tf.nn.relu6(d * 9), tf.nn.leaky_relu(d), tf.nn.leaky_relu(d, 0.1), tf.nn.elu(d), tf.nn.selu(d),
        tf.nn.gelu(d), tf.nn.gelu(d, approximate=True), tf.nn.silu(d), tf.tanh(d), tf.sigmoid(d), tf.nn.softplus(d),
        keras.activations.relu(d), keras.activations.swish(d), keras.activations.hard_sigmoid(d),
        tf.nn.softmax(d), tf.nn.softmax(d, axis=1), tf.nn.log_softmax(d), tf.math.l2_normalize(d, axis=-1),
        tf.reduce_mean(d, axis=-1, keepdims=True), tf.reduce_mean(d, axis=[1, 2]), tf.reduce_sum(d, axis=1),
        tf.reduce_max(d, axis=-1), tf.reduce_min(d, axis=1), K.mean(d, axis=1), K.sum(d, axis=-1, keepdims=True),
        tf.matmul(d, x, transpose_b=True), tf.matmul(d, np.outer(row, [1.0, -1.0]).astype("float32")),
        tf.concat([d, x, p], -1), K.concatenate([d, x], axis=1), tf.stack([d, x], axis=1), tf.stack([d, x], axis=-1),
        low, high, tf.split(x, 2, axis=1)[1], tf.reshape(d, (-1, 24)), tf.reshape(d, [-1, 2, 12]),
        tf.expand_dims(d, 1), tf.squeeze(tf.expand_dims(d, -1), -1), tf.transpose(d, (0, 2, 1)), tf.tile(d, [1, 2, 1]),
        tf.pad(d, [[0, 0], [1, 0], [0, 2]]), tf.reverse(d, [2]), K.permute_dimensions(d, (0, 2, 1)),
    ], name="ops")  # fmt: skip


def images():
    """Preprocessing and normalization of images."""
    x = keras.Input((6, 5, 4), name="x")
    adapted = L.Normalization(axis=-1, name="adapted")
    by_row = L.Normalization(axis=(1, 3), name="by_row")
    whole = L.Normalization(axis=None, name="whole")
    random = np.random.RandomState(3)
    for layer in (adapted, by_row, whole):
        layer.adapt(random.normal(1, 2, (20, 6, 5, 4)).astype("float32"))
    return keras.Model(x, [
        adapted(x), by_row(x), whole(x),
        L.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[1.0, 4.0, 0.0, 2.0])(x),
        L.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[1.0, 4.0, 9.0, 2.0], invert=True)(x),
        L.Normalization(axis=None, mean=1.0, variance=4.0)(x),
        L.Rescaling(1 / 255)(x), L.Rescaling(2.0, offset=-1.0)(x),
        L.Rescaling([1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 0.0, -1.0])(x),
        L.Resizing(12, 10)(x), L.Resizing(4, 7)(x), L.Resizing(3, 9, interpolation="nearest")(x),
        L.Resizing(12, 5, interpolation="nearest")(x), L.CenterCrop(3, 4)(x), L.RandomCrop(6, 5)(x),
        L.RandomFlip()(x), L.RandomRotation(0.2)(x), L.RandomZoom(0.2)(x), L.RandomTranslation(0.2, 0.2)(x),
        L.RandomContrast(0.2)(x), L.RandomBrightness(0.2)(x),
        L.UnitNormalization()(x), L.UnitNormalization(axis=(1, 2))(x),
        L.GroupNormalization(2)(x), L.GroupNormalization(-1, epsilon=1e-2, center=False)(x),
        L.GroupNormalization(2, axis=2 - 1, scale=False)(x),
    ], name="images")  # fmt: skip


def wrappers():
    """One layer for each time step, and dense layers by a sum over named axes."""
    x, frames = keras.Input((5, 4), name="x"), keras.Input((3, 6, 5, 2), name="frames")
    step = keras.Input((4,), name="step")
    hidden = L.Dense(3, activation="tanh", name="hidden")(step)
    inner = keras.Model(step, L.Concatenate(name="both")([L.Dense(4, name="open")(hidden), step]), name="inner")
    conv = L.Conv2D(3, 3, activation="relu", name="c")
    cnn = keras.Sequential([keras.Input((6, 5, 2)), conv, L.MaxPooling2D(2), L.Flatten(), L.Dense(2)])
    masked = L.Masking()(x)
    return keras.Model([x, frames], [
        L.TimeDistributed(L.Dense(3, activation="relu"))(x), L.TimeDistributed(inner)(x),
        L.TimeDistributed(L.LayerNormalization())(x), L.TimeDistributed(L.BatchNormalization())(x),
        L.TimeDistributed(L.RepeatVector(2))(x), L.TimeDistributed(L.Reshape((2, 2)))(x),
        L.TimeDistributed(L.Dropout(0.5))(masked), L.TimeDistributed(L.Activation("softmax"))(x),
        L.TimeDistributed(L.Conv1D(3, 2, padding="causal"))(L.Reshape((2, 5, 2))(L.Flatten()(x))),
        L.TimeDistributed(L.Conv2D(3, (2, 3), strides=2, padding="same"))(frames), L.TimeDistributed(cnn)(frames),
        L.TimeDistributed(L.DepthwiseConv2D(2))(frames), L.TimeDistributed(L.SeparableConv2D(3, 2))(frames),
        L.TimeDistributed(L.Conv2DTranspose(2, 2, strides=2))(frames),
        L.TimeDistributed(L.GlobalMaxPooling2D())(frames),
        L.TimeDistributed(L.GlobalAveragePooling2D())(frames), L.TimeDistributed(L.AveragePooling2D(2))(frames),
        L.TimeDistributed(L.ZeroPadding2D(1))(frames), L.TimeDistributed(L.Cropping2D(1))(frames),
        L.TimeDistributed(L.UpSampling2D(2))(frames), L.TimeDistributed(L.Permute((3, 1, 2)))(frames),
        L.TimeDistributed(L.Rescaling(0.5))(frames), L.TimeDistributed(L.Resizing(3, 4))(frames),
        L.SpectralNormalization(L.Dense(3))(x), L.SpectralNormalization(L.Conv1D(3, 2))(x),
        L.EinsumDense("abc,cd->abd", output_shape=(None, 3), bias_axes="d", activation="relu")(x),
        L.EinsumDense("...x,xy->...y", output_shape=6)(x),
        L.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3), bias_axes="de")(x),
        L.EinsumDense("abc,bd->adc", output_shape=(3, 4), bias_axes="d")(x),
        L.EinsumDense("abc,bcd->ad", output_shape=3, bias_axes="d")(x),
        L.EinsumDense("abc,cde->aebd", output_shape=(2, None, 3), bias_axes="ed")(x),
    ], name="wrappers")  # fmt: skip


def nested():
    """Wrappers in wrappers, and what has no axis left for the time steps: volumes, sequences, attention."""
    T = L.TimeDistributed
    x, volumes = keras.Input((2, 3, 4), name="x"), keras.Input((2, 3, 4, 3, 2), name="volumes")
    words, frames = keras.Input((2, 3), name="words"), keras.Input((2, 2, 4, 3, 1), name="frames")
    word = keras.Input((3,), name="word")
    sentence = keras.Model(word, L.Dense(2)(L.LSTM(3)(L.Embedding(5, 3, mask_zero=True)(word))), name="sentence")
    step = keras.Input((3, 4), name="step")
    attended = L.Add()([L.MultiHeadAttention(2, 2, name="attention")(step, step), step])
    reader = keras.Model(step, L.GlobalAveragePooling1D()(attended), name="reader")
    cnn = keras.Sequential([keras.Input((4, 3, 1)), L.Conv2D(2, 2, activation="relu"), L.Flatten(), L.Dense(2)])
    return keras.Model([x, volumes, words, frames], [
        T(L.Conv3D(2, 2, strides=(1, 2, 1), padding="same", activation="relu"))(volumes),
        T(L.Conv3DTranspose(2, 2))(volumes), T(L.MaxPooling3D((1, 2, 1)))(volumes),
        T(L.AveragePooling3D(2))(volumes), T(L.GlobalMaxPooling3D())(volumes), T(L.UpSampling3D((1, 2, 1)))(volumes),
        T(L.ZeroPadding3D((0, 1, 0)))(volumes), T(L.Cropping3D((1, 1, 1)))(volumes),
        T(T(L.Dense(3, activation="relu")))(x), T(T(cnn))(frames), T(T(L.MaxPooling2D(2)))(frames),
        T(L.SpectralNormalization(L.Dense(3)))(x), T(L.LSTM(2, return_sequences=True))(x), T(L.GRU(2))(x),
        T(L.Bidirectional(L.SimpleRNN(2)))(x), T(T(L.BatchNormalization()))(x), L.GRU(2)(T(sentence)(words)),
        T(reader)(x),
    ], name="nested")  # fmt: skip


def main():
    makers = [ops_3 if V3 else ops_2, images, wrappers, nested]
    makers = [make for make in makers if make.__name__.partition("_")[0] in sys.argv[1:] or not sys.argv[1:]]
    recorded = HERE / "keras_ops.npz"
    record = dict(np.load(recorded)) if recorded.exists() else {}
    for make in makers:
        model, random = make(), np.random.RandomState(5)
        xs = [random.normal(0, 1, (1, *x.shape[1:])).astype("float32") for x in model.inputs]
        if make is nested:
            xs[2] = np.array([[[1, 4, 0], [2, 0, 0]]], "float32")
        if make is wrappers:
            xs[0][0, 2] = 0
        old = model.get_weights()
        counted = [i for i, w in enumerate(model.weights) if "count" in w.name or w.dtype in ("int64", "int32")]
        new = weights_for(model, random)
        kept = [i for i, w in enumerate(old) if i in counted or (make is images and w.ndim == 0)]
        model.set_weights([old[i] if i in kept else w for i, w in enumerate(new)])
        for layer in model.layers:
            if isinstance(layer, L.Normalization):
                layer.finalize_state()
        stem = f"{keras.__version__}_{make.__name__.partition('_')[0]}"
        ys = predictions(model, xs)
        path = HERE / f"keras_ops_{stem}.keras"
        model.save(path)
        packed(path)
        if not (V3 and make is images):  # whose adapted layers Keras 3.15 does not write to HDF5
            path = path.with_suffix(".h5")
            model.save(path)
            path.with_suffix(".h5.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
            path.unlink()
        record |= {f"{stem}_x{i}": x for i, x in enumerate(xs)} | {f"{stem}_y{i}": y for i, y in enumerate(ys)}
    np.savez_compressed(recorded, **record)


if __name__ == "__main__":
    sys.exit(main())
