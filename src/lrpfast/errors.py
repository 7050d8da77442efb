"""Every exception and warning that lrpfast raises, under one base class.

Each also derives from the built-in class that a caller would expect, so that
``except ValueError`` keeps working in code that does not know lrpfast.
"""

#: A longer message holds something that is no name, such as a damaged file's bytes.
MOST_CHARACTERS = 1200


class LrpfastError(Exception):
    """Base class of every error that lrpfast raises on purpose.

    Its text may be shown in a terminal as it is: control characters, which files can hold in the place of
    names, are written as escapes, and what is far too long is cut in its middle.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if not text.isprintable():
            text = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
        half = MOST_CHARACTERS // 2
        return text if len(text) <= MOST_CHARACTERS else f"{text[:half]} … {text[-half:]}"


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


class MissingPackageError(LrpfastError, ImportError):
    """A package that is installed only on request is needed; says which and how to get it."""


class InputError(LrpfastError, ValueError):
    """Inputs, targets or options do not suit the model, or a value is not finite."""


class SampleError(InputError):
    """A value of one sample is wrong; names the sample and, where there is one, the feature.

    Parameters
    ----------
    text : str
        The message, with ``{where}`` for the place.
    sample : int
        Index of the sample in the batch.
    feature : tuple of int
        Index of the value within the sample; empty where the whole sample is meant.
    """

    def __init__(self, text: str, sample: int, feature: tuple[int, ...] = ()) -> None:
        super().__init__(text, sample, feature)
        self.text, self.sample, self.feature = text, sample, feature

    def __str__(self) -> str:
        index = ", ".join(map(str, (self.sample, *self.feature)))
        return self.text.format(where=f"x[{index}]" if self.feature else f"sample {index}")

    def moved(self, by: int) -> "SampleError":
        """The same error for a batch that is part of a larger one, ``by`` samples from its begin."""
        return SampleError(self.text, self.sample + by, self.feature)


class BoundsWarning(UserWarning):
    """Inputs lie outside the bounds that a rule was given."""


class AmplificationWarning(UserWarning):
    """A layer's relevance grew so much that its signs and sizes mean little."""
