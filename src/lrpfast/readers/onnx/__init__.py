"""ONNX models."""

from .model import from_onnx

__all__ = ["from_onnx"]
