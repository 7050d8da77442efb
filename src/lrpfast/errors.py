"""Every exception and warning that lrpfast raises, under one base class.

Each also derives from the built-in class that a caller would expect, so that
``except ValueError`` keeps working in code that does not know lrpfast.
"""


class LrpfastError(Exception):
    """Base class of every error that lrpfast raises on purpose."""


class ModelFormatError(LrpfastError, ValueError):
    """A model file or object cannot be read as what it claims to be."""


class ModelNotFoundError(ModelFormatError, FileNotFoundError):
    """There is no model file at the path that was given."""


class UnsupportedLayerError(LrpfastError, NotImplementedError):
    """A layer that lrpfast has no forward pass or no rule for; names it."""


class ShapeError(LrpfastError, ValueError):
    """Shapes of a layer's arrays, of layers in a chain, or of inputs disagree."""


class RuleError(LrpfastError, ValueError):
    """A rule, composite or analyzer name, or one of its parameters, is wrong."""


class DeviceError(LrpfastError, RuntimeError):
    """The device asked for is not there, or a thread count is wrong."""


class InputError(LrpfastError, ValueError):
    """Inputs, targets or options do not suit the model, or a value is not finite."""


class AmplificationWarning(UserWarning):
    """A layer's relevance grew so much that its signs and sizes mean little."""
