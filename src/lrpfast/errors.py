"""Every exception and warning that lrpfast raises, under one base class.

Each also derives from the built-in class that a caller would expect, so that
``except ValueError`` keeps working in code that does not know lrpfast.
"""

import errno
import os
from typing import Any

#: A longer message holds something that is no name, such as a damaged file's bytes.
MOST_CHARACTERS = 1200
#: One that lists all that is not read of a file.
MOST_OF_A_LIST = 12_000


class LrpfastError(Exception):
    """Base class of every error that lrpfast raises on purpose.

    Its text may be shown in a terminal as it is: control characters, which files can hold in the place of
    names, are written as escapes, and what is far too long is cut in its middle.

    Examples
    --------
    >>> try:
    ...     lrpfast.load("none.h5")
    ... except lrpfast.LrpfastError as error:
    ...     print(error)
    none.h5: there is no such file
    """

    _most = MOST_CHARACTERS

    def __str__(self) -> str:
        text = Exception.__str__(self)  # not OSError's, which has the number of the error in it
        if not text.isprintable():
            text = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
        half = self._most // 2
        return text if len(text) <= self._most else f"{text[:half]} … {text[-half:]}"


class ModelFormatError(LrpfastError, ValueError):
    """A model file or object cannot be read as what it claims to be.

    Examples
    --------
    >>> open("model.h5", "w").close()
    >>> lrpfast.load("model.h5")
    Traceback (most recent call last):
        ...
    lrpfast.errors.ModelFormatError: model.h5: the file is empty. ...
    """


class _NotFoundError(LrpfastError, FileNotFoundError):
    """There is nothing at a path: with ``errno``, ``strerror`` and ``filename`` as Python's own error has them.

    Parameters
    ----------
    path : str
    advice : str
        What may be done, for the message.
    """

    def __init__(self, path: str, advice: str = "") -> None:
        super().__init__(f"{path}: there is no such file" + (f"; {advice}" if advice else ""))
        self.errno, self.strerror, self.filename = errno.ENOENT, os.strerror(errno.ENOENT), path
        self._arguments = path, advice

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments


class ModelNotFoundError(_NotFoundError, ModelFormatError):
    """There is no model file at the path that was given.

    Examples
    --------
    >>> lrpfast.load("none.h5")
    Traceback (most recent call last):
        ...
    lrpfast.errors.ModelNotFoundError: none.h5: there is no such file
    """


class UnsupportedLayerError(LrpfastError, NotImplementedError):
    """A layer that lrpfast has no forward pass or no rule for; names it.

    Examples
    --------
    >>> layers = [lrpfast.layers.Dense(np.eye(2), activation="tanh")]
    >>> lrpfast.create_analyzer("deep_taylor", lrpfast.from_layers(layers))
    Traceback (most recent call last):
        ...
    lrpfast.errors.UnsupportedLayerError: Dense 'dense' (layer 1): deep_taylor explains ReLU networks only, ...
    """

    _most = MOST_OF_A_LIST


class ShapeError(LrpfastError, ValueError):
    """Shapes of a layer's arrays, of layers in a chain, or of inputs disagree.

    Examples
    --------
    >>> lrpfast.from_layers([lrpfast.layers.Dense(np.ones((3, 2)))], input_shape=4)
    Traceback (most recent call last):
        ...
    lrpfast.errors.ShapeError: Dense 'dense': it takes 3 features on the last axis, its input has shape (4,)
    """


class RuleError(LrpfastError, ValueError):
    """A rule, composite or analyzer name, or one of its parameters, is wrong.

    Examples
    --------
    >>> lrpfast.rules.AlphaBeta(2, 2)
    Traceback (most recent call last):
        ...
    lrpfast.errors.RuleError: alpha - beta must be 1, but alpha=2, beta=2 give 0
    """


class DeviceError(LrpfastError, RuntimeError):
    """The device asked for is not there, or does not work.

    Examples
    --------
    >>> issubclass(lrpfast.DeviceError, RuntimeError)
    True
    """


class MissingPackageError(LrpfastError, ImportError):
    """A package that is installed only on request is needed; says which and how to get it.

    Examples
    --------
    >>> issubclass(lrpfast.MissingPackageError, ImportError)
    True
    """


class InputError(LrpfastError, ValueError):
    """Inputs, targets or options do not suit the model, or a value is not finite.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2))])
    >>> lrpfast.Analyzer(model, "zero").analyze(np.ones((1, 2)), target=5)
    Traceback (most recent call last):
        ...
    lrpfast.errors.InputError: target 5 is out of range: the model has outputs 0 to 1
    """


class InputNotFoundError(_NotFoundError, InputError):
    """There is no file of inputs, labels or a mask at the path that was given.

    Examples
    --------
    >>> try:
    ...     lrpfast.data_bounds("none.npy")
    ... except FileNotFoundError as error:
    ...     print(error, error.filename)
    none.npy: there is no such file none.npy
    """


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

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2))])
    >>> lrpfast.Analyzer(model, "zero").analyze(np.array([[0.0, 1.0], [2.0, np.nan]]))
    Traceback (most recent call last):
        ...
    lrpfast.errors.SampleError: x[1, 1] is nan: inputs must be finite; masked features need Analyzer(…, mask_nan=True)
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
    """Inputs lie outside the bounds that a rule was given.

    Examples
    --------
    >>> issubclass(lrpfast.BoundsWarning, UserWarning)
    True
    """


class ApproximationWarning(UserWarning):
    """A model is read as something that is near to it, not the same: a quantized file without its rounding.

    Examples
    --------
    >>> issubclass(lrpfast.ApproximationWarning, UserWarning)
    True
    """


class RelevanceWarning(UserWarning):
    """Relevance whose single values mean little: it grew, or vanished, on its way to the input.

    Examples
    --------
    >>> issubclass(lrpfast.AmplificationWarning, lrpfast.RelevanceWarning)
    True
    """


class AmplificationWarning(RelevanceWarning):
    """Relevance grew so much, in a layer or in the whole network, that its signs and sizes mean little.

    Examples
    --------
    >>> import warnings
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0], [-0.999]]))])
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     explanation = lrpfast.Analyzer(model, "zero").explain(np.ones((1, 2)))
    >>> caught[0].category.__name__
    'AmplificationWarning'
    """


class VanishingWarning(RelevanceWarning):
    """Next to nothing of the explained output reaches the input, or nothing at all.

    Examples
    --------
    >>> import warnings
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0], [1.0]]), np.array([5.0]))])
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     relevance = lrpfast.Analyzer(model, "zero").analyze(np.zeros((1, 2)))
    >>> caught[0].category.__name__
    'VanishingWarning'
    """
