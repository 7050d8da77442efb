"""The layers a model is made of, for `lrpfast.from_layers`."""

from .model.layers import Activation, Dense, Flatten, Identity, Input, Layer, Reshape

__all__ = ["Activation", "Dense", "Flatten", "Identity", "Input", "Layer", "Reshape"]
