"""Writes keras_layers_VERSION_MODEL.{h5,keras}, and inputs and predictions in keras_layers.npz, with the Keras run.

    python make_keras_layers.py                          (Keras 2: TensorFlow's)
    KERAS_BACKEND=tensorflow python make_keras_layers.py (Keras 3)

Each model has many layers side by side on one input, each with an output of its own, so that a fault names itself.
"""

import os
import sys
import zipfile
from pathlib import Path

if os.environ.get("TF_USE_LEGACY_KERAS"):
    import tf_keras as keras
else:
    import keras
import numpy as np

L = keras.layers

HERE = Path(__file__).parent
V3 = keras.__version__.startswith("3")


def beside(shape, layers, name):
    """One model with each layer (or chain of layers) on the same input."""
    x = keras.Input(shape, name="entry")
    outputs = []
    for chain in layers:
        y = x
        for layer in chain if isinstance(chain, list) else [chain]:
            y = layer(y)
        outputs.append(y)
    return keras.Model(x, outputs, name=name)


def layers_1d():
    return beside(
        (7, 4),
        [
            L.Conv1D(3, 3, padding="causal", dilation_rate=2, activation="relu"),
            L.Conv1D(4, 2, strides=2, padding="same", groups=2, use_bias=False),
            L.Conv1DTranspose(3, 3, strides=2, padding="same", output_padding=0),
            L.Conv1DTranspose(2, 4, strides=3),
            L.DepthwiseConv1D(3, strides=2, padding="same", depth_multiplier=2, activation="softmax"),
            L.SeparableConv1D(3, 3, padding="same" if V3 else "causal", depth_multiplier=2, activation="tanh"),
            L.MaxPooling1D(3, strides=2, padding="same"),
            L.AveragePooling1D(3, strides=2, padding="same"),
            L.GlobalMaxPooling1D(keepdims=True),
            L.GlobalAveragePooling1D(),
            [L.ZeroPadding1D((2, 1)), L.Cropping1D((0, 3)), L.UpSampling1D(2)],
            [L.GlobalAveragePooling1D(), L.RepeatVector(3), L.Permute((2, 1)), L.SpatialDropout1D(0.5)],
            L.Softmax(axis=1),
            L.BatchNormalization(scale=False),
            L.BatchNormalization(axis=1, center=False),
            L.LayerNormalization(axis=-1, center=False),
            L.LayerNormalization(axis=[1, 2], epsilon=1e-2),
            *([L.RMSNormalization(axis=-1)] if V3 else []),
        ],
        "layers_1d",
    )


def layers_2d():
    return beside(
        (6, 5, 4),
        [
            L.Conv2D(4, (3, 2), strides=(2, 1), padding="same", groups=2, activation="relu"),
            L.Conv2D(2, 2, dilation_rate=(2, 1)),
            L.Conv2DTranspose(3, 3, strides=2, padding="same", output_padding=1),
            L.Conv2DTranspose(2, (2, 3), strides=(1, 2), activation="sigmoid"),
            *([] if V3 else [L.Conv2DTranspose(2, 2, dilation_rate=2)]),
            L.DepthwiseConv2D((2, 3), padding="same", depth_multiplier=2),
            L.SeparableConv2D(3, 3, strides=2, padding="same", use_bias=False),
            L.MaxPooling2D(),
            L.AveragePooling2D((3, 2), strides=(2, 2), padding="same"),
            L.GlobalMaxPooling2D(),
            L.GlobalAveragePooling2D(keepdims=True),
            [L.ZeroPadding2D(((1, 0), (2, 1))), L.Cropping2D(((2, 1), (0, 1)))],
            L.UpSampling2D((2, 3)),
            L.UpSampling2D((2, 3), interpolation="bilinear"),
            [L.BatchNormalization(), L.ReLU(max_value=6.0), L.Permute((3, 1, 2)), L.Flatten(), L.Dense(3)],
            L.BatchNormalization(axis=2),
            L.PReLU(shared_axes=[1, 2]),
        ],
        "layers_2d",
    )


def layers_3d():
    return beside(
        (4, 3, 4, 2),
        [
            L.Conv3D(2, (2, 3, 1), strides=(2, 1, 1), padding="same", activation="relu"),
            L.Conv3DTranspose(2, 2, strides=2, output_padding=1),
            L.MaxPooling3D((2, 1, 2)),
            L.AveragePooling3D(2, strides=1, padding="same"),
            L.GlobalMaxPooling3D(),
            L.GlobalAveragePooling3D(),
            [L.ZeroPadding3D(((1, 0), (0, 1), (1, 1))), L.Cropping3D(((1, 1), (0, 0), (1, 0)))],
            L.UpSampling3D((2, 1, 2)),
        ],
        "layers_3d",
    )


def first(form="channels_first"):
    """Channels first; with "channels_last" its twin, as TensorFlow does not run all of these on a CPU."""
    f, axis = {"data_format": form}, 1 if form == "channels_first" else -1
    x1, x2, x3 = (
        keras.Input((2, *n) if axis == 1 else (*n, 2), name=f"entry_{len(n)}") for n in ((6,), (6, 5), (4, 3, 3))
    )
    y = L.Conv2D(3, 3, padding="same", activation="relu", name="c1", **f)(x2)
    y = L.BatchNormalization(axis=axis, name="bn")(y)
    y = L.MaxPooling2D(2, name="mp", **f)(y)
    z = L.AveragePooling2D(2, strides=1, padding="same", name="ap", **f)(y)
    y = L.Concatenate(axis=axis, name="both")([y, z])
    y = L.SeparableConv2D(3, 2, padding="same", name="sep", **f)(y)
    return keras.Model(
        [x1, x2, x3],
        [
            L.Flatten(name="flat", **f)(y),
            L.GlobalAveragePooling2D(name="gap", **f)(y),
            L.MaxPooling1D(2, name="m1", **f)(L.Conv1D(3, 2, name="c1d", **f)(x1)),
            L.Conv3D(2, 2, name="c3d", **f)(x3),
            L.AveragePooling3D(2, name="a3", **f)(x3),
        ],
        name="first",
    )


def first_runs():
    """Channels first, as far as TensorFlow runs it on a CPU."""
    f = {"data_format": "channels_first"}
    local = [
        *(L.LocallyConnected2D(3, (2, 3), strides=2, implementation=i, **f) for i in (1, 2, 3)),
        *(L.LocallyConnected2D(2, (3, 2), padding="same", implementation=i, **f) for i in (2, 3)),
    ] if not V3 else []  # fmt: skip
    return beside(
        (2, 5, 6),
        [
            L.DepthwiseConv2D(2, activation="softmax", **f),
            *([] if V3 else [L.Conv2DTranspose(3, 2, strides=2, activation="relu", **f)]),
            L.GlobalMaxPooling2D(keepdims=True, **f),
            L.GlobalAveragePooling2D(**f),
            L.Flatten(**f),
            [L.ZeroPadding2D(((1, 0), (2, 1)), **f), L.Cropping2D(((0, 2), (1, 1)), **f), L.UpSampling2D((2, 1), **f)],
            [L.BatchNormalization(axis=1), L.SpatialDropout2D(0.5, **f)],
            L.Softmax(axis=1),
            *local,
        ],
        "first_runs",
    )


def local():
    """Locally connected layers, which Keras 3 has no more."""
    two = [
        L.LocallyConnected2D(2, (2, 3), strides=(2, 1), padding=p, implementation=i, activation="relu", use_bias=i != 2)
        for p, i in (("valid", 1), ("valid", 2), ("same", 2), ("valid", 3), ("same", 3))
    ]
    one = [
        [L.Reshape((10, 3)), L.LocallyConnected1D(2, 4, strides=3, padding=p, implementation=i)]
        for p, i in (("valid", 1), ("same", 2), ("same", 3))
    ]
    return beside((5, 6, 1), two + one, "local")


def merge():
    """Several inputs and outputs, a shared layer, shared models in models, and every merging layer."""
    inner_in = keras.Input((4,), name="inner_in")
    twice = L.Dense(4, activation="tanh", name="twice")
    t = twice(inner_in)
    inner = keras.Model(inner_in, [L.Dense(4, name="head")(twice(t)), L.Dense(2, name="side")(t)], name="inner")
    chain = keras.Sequential(
        [keras.Input((4,)), L.Dense(4, name="one"), L.ReLU(), L.Dense(4, name="two")], name="chain"
    )
    deep_in = keras.Input((4,), name="deep_in")
    deep = keras.Model(deep_in, L.Add(name="skip")([chain(deep_in), deep_in]), name="deep")
    stack = keras.Sequential([keras.Input((4,)), deep, L.Dense(4, name="top")], name="stack")
    pair = [keras.Input((4,), name="left"), keras.Input((2,), name="right")]
    pairing = keras.Model(pair, L.Concatenate(name="joined")(pair[::-1]), name="pairing")

    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    twice(b), inner(b)  # calls that are no part of the model
    (p, q), (r, s) = inner(a), inner(b)
    shared = L.Dense(4, name="shared")
    u, v = shared(p), shared(r)
    w = stack(L.Subtract(name="subtract")([u, v]))
    w2 = stack(u)
    merged = [
        kind(name=kind.__name__.lower())([u, v, w])
        for kind in (L.Add, L.Multiply, L.Average, L.Maximum, L.Minimum)
    ]  # fmt: skip
    many = L.Concatenate(axis=1, name="concatenate")([*merged, q, s])
    grid, row = L.Reshape((2, 2), name="grid")(v), L.Reshape((1, 2), name="row")(q)
    wide = L.Concatenate(axis=-2, name="rows")([grid, row])
    return keras.Model(
        [b, a],  # not in the order of their use
        [
            L.Dense(3, activation="softmax", name="out")(many),
            L.Dot(axes=(2, -1), name="dot")([wide, grid]),
            L.Dot(axes=1, normalize=True, name="cosine")([w, w2]),
            L.Add(name="stretched")([wide, q]),
            pairing([w2, q]),
            p,
        ],
        name="merge",
    )


def text():
    """Attention by dot products over embedded words."""
    ids = keras.Input((6,), name="ids")
    x = L.Embedding(11, 4, name="words")(ids)
    masked = L.Embedding(11, 4, mask_zero=True, name="masked")(ids)  # a mask that nothing uses
    x = L.Add(name="sum")([x, L.Dropout(0.1)(masked)])
    x = L.LayerNormalization(axis=[-1], name="norm")(x)
    query = L.Dense(3, name="query")(x)
    key = L.Dense(3, name="key")(x)
    scores = L.Dot(axes=(2, 2), name="scores")([query, key])
    weights = L.Activation("softmax", name="weights")(scores)
    seen = L.Dot(axes=(2, 1), name="seen")([weights, x])
    seen = L.Activation("gelu", name="gelu")(seen)
    flat = L.Flatten(name="flat")(seen)
    return keras.Model(ids, L.Dense(3, activation="softmax", name="out")(flat), name="text")


def weights_for(model, random):
    """Small weights; variances stay above zero."""
    values = []
    for weight in model.weights:
        value = random.normal(0, 0.5, weight.shape)
        values.append((np.abs(value) + 0.5 if "variance" in weight.name else value).astype("float32"))
    return values


def predictions(model, xs):
    ys = model.predict(xs if len(xs) > 1 else xs[0], verbose=0)
    return ys if isinstance(ys, list) else [ys]


def packed(path):
    """A .keras archive with its members compressed, which Keras leaves as they are."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)


def main():
    recorded = HERE / "keras_layers.npz"
    record = dict(np.load(recorded)) if recorded.exists() else {}
    makers = [layers_1d, layers_2d, layers_3d, first, first_runs, merge, text] + ([] if V3 else [local])
    for make in makers:
        model, random = make(), np.random.RandomState(5)
        xs = [random.normal(0, 1, (2, *x.shape[1:])).astype("float32") for x in model.inputs]
        if make is text:
            xs = [np.array([[0, 1, 2, 0, 4, 10], [5, 5, 0, 7, 9, 3]], "float32")]
        model.set_weights(weights_for(model, random))
        if make is first:
            twin = make("channels_last")
            twin.set_weights(model.get_weights())
            ys = predictions(twin, [np.moveaxis(x, 1, -1) for x in xs])
            ys = [np.moveaxis(y, -1, 1) if y.ndim > 2 else y for y in ys]
        else:
            ys = predictions(model, xs)
        stem = f"{keras.__version__}_{make.__name__}"
        for suffix in ("h5", "keras") if make in (layers_1d, merge, text, local) else ("keras",):
            path = HERE / f"keras_layers_{stem}.{suffix}"
            model.save(path)
            if suffix == "keras":
                packed(path)
        record |= {f"{stem}_x{i}": x for i, x in enumerate(xs)} | {f"{stem}_y{i}": y for i, y in enumerate(ys)}
    np.savez_compressed(recorded, **record)


if __name__ == "__main__":
    sys.exit(main())
