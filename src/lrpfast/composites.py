"""Which layer gets which rule, for `lrpfast.Analyzer`."""

from .rules.composites import Composite, Entry, Uniform, when

__all__ = ["Composite", "Entry", "Uniform", "when"]
