"""A report of a model's explanations of a data set: one HTML file that needs nothing else."""

from .report import report

__all__ = ["report"]
