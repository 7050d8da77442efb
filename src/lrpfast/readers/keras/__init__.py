"""Keras models: .h5 files, .keras archives, live models."""

from .model import from_keras, read_archive, read_h5

__all__ = ["from_keras", "read_archive", "read_h5"]
