"""Writes keras_traps_VERSION_{sequential,functional}.{h5,keras} and their outputs, with the Keras that runs it.

    python make_keras_traps.py                       (Keras 2: TensorFlow's)
    KERAS_BACKEND=jax python make_keras_traps.py     (Keras 3)

The same weights in every version; see README.md for what the traps are.
"""

from pathlib import Path

import keras
import numpy as np
from keras import layers as L

HERE = Path(__file__).parent
V3 = keras.__version__.startswith("3")


def sequential():
    """Many Dense of one shape with names in no order, so that a mix-up of weights would fit and go unseen."""
    return keras.Sequential(
        [
            L.Dense(5, activation="relu", name="zeta", **({} if V3 else {"input_shape": (5,)})),
            L.Dense(5, name="dense_1", use_bias=False),
            L.LeakyReLU(name="leak"),
            L.Dropout(0.5),
            L.Dense(5, activation="hard_sigmoid", name="alpha"),
            L.PReLU(name="slopes"),
            L.Dense(5, activation=L.LeakyReLU(), name="dense"),
            L.Dense(3, activation="softmax", name="dense_2"),
        ],
        name="named",
    )


def functional():
    x = keras.Input((2, 3), name="entry")
    y = L.Flatten(name="flat")(x)
    y = L.Dense(6, activation="swish", name="b")(y)
    nested = keras.Sequential(
        [keras.Input((6,)), L.Dense(6, name="a"), L.ELU(alpha=0.5), L.Dense(6, name="c")], name="inner"
    )
    y = nested(y)
    y = L.Reshape((3, -1), name="folded")(y)
    y = L.PReLU(shared_axes=[1], name="shared")(y)
    y = L.Dense(4, activation="gelu", name="dense_7")(y)
    return keras.Model(x, L.Softmax(name="last")(y), name="functional_traps")


stem = f"keras_traps_{keras.__version__}"
recorded = HERE / "keras_traps.npz"
record = dict(np.load(recorded)) if recorded.exists() else {}
for make, shape in ((sequential, (5,)), (functional, (2, 3))):
    model = make()
    random = np.random.RandomState(7)
    x = random.uniform(-2, 2, (4, *shape)).astype("float32")
    model(x[:1])
    model.set_weights([random.normal(0, 0.7, w.shape).astype("float32") for w in model.get_weights()])
    # 2.13 matters for its .keras naming alone; 3.0 cannot save a nested model as .h5
    for suffix in ("keras",) if keras.__version__.startswith(("2.13", "3.0")) else ("h5", "keras"):
        model.save(HERE / f"{stem}_{make.__name__}.{suffix}")
    record[f"x_{make.__name__}"] = x
    record[f"{keras.__version__}_{make.__name__}"] = np.asarray(model.predict(x, verbose=0))
np.savez(recorded, **record)
