"""Keras models: .h5 files, .keras archives, live models."""

from .config import KERAS_PACKAGES
from .custom import check_custom_objects
from .model import from_keras, read_archive, read_h5

__all__ = ["KERAS_PACKAGES", "check_custom_objects", "from_keras", "read_archive", "read_h5"]
