"""All exceptions and warnings of lrpfast, under one base class.

Each exception also derives from the corresponding built-in class, so that
``except ValueError`` works in code that does not know lrpfast.
"""

import errno
import os
from typing import Any

#: A longer message holds something that is no name, such as a damaged file's bytes.
MOST_CHARACTERS = 1200
#: One that lists all that is not read of a file.
MOST_OF_A_LIST = 12_000


class LrpfastError(Exception):
    """Base class of all errors that lrpfast raises on purpose.

    A terminal can show its text: control characters, which files may contain in names, are written as escapes, and
    a text that is far too long is cut in the middle.

    Examples
    --------
    >>> try:
    ...     lrpfast.load("none.h5")
    ... except lrpfast.LrpfastError as error:
    ...     print(error)
    none.h5: there is no such file
    """

    def __str__(self) -> str:
        text = Exception.__str__(self)  # not that of OSError, which contains the error's number
        if not text.isprintable():
            text = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
        most = MOST_OF_A_LIST if "\n- " in text else MOST_CHARACTERS
        return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


class ModelFormatError(LrpfastError, ValueError):
    """A model file or object is damaged, or does not have the format that it claims.

    Examples
    --------
    >>> open("model.h5", "w").close()
    >>> lrpfast.load("model.h5")
    Traceback (most recent call last):
        ...
    lrpfast.errors.ModelFormatError: model.h5: the file is empty. ...
    """


class _NotFoundError(LrpfastError, FileNotFoundError):
    """A path does not exist; ``errno``, ``strerror`` and ``filename`` are those of Python's own error.

    Parameters
    ----------
    path : str
    advice : str
        A cure, for the message.
    """

    def __init__(self, path: str, advice: str = "") -> None:
        super().__init__(f"{path}: there is no such file" + (f"; {advice}" if advice else ""))
        self.errno, self.strerror, self.filename = errno.ENOENT, os.strerror(errno.ENOENT), path
        self._arguments = path, advice

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments


class ModelNotFoundError(_NotFoundError, ModelFormatError):
    """The model file does not exist.

    Examples
    --------
    >>> lrpfast.load("none.h5")
    Traceback (most recent call last):
        ...
    lrpfast.errors.ModelNotFoundError: none.h5: there is no such file
    """


class UnsupportedLayerError(LrpfastError, NotImplementedError):
    """lrpfast has no forward pass or no rule for a layer, which the message names.

    Examples
    --------
    >>> layers = [lrpfast.layers.Dense(np.eye(2), activation="tanh")]
    >>> lrpfast.create_analyzer("deep_taylor", lrpfast.from_layers(layers))
    Traceback (most recent call last):
        ...
    lrpfast.errors.UnsupportedLayerError: Dense 'dense' (layer 1): deep_taylor explains ReLU networks only, ...
    """


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
    """The requested device does not exist or does not work.

    Examples
    --------
    >>> issubclass(lrpfast.DeviceError, RuntimeError)
    True
    """


class MissingPackageError(LrpfastError, ImportError):
    """An optional package is missing; the message says which, and how to install it.

    Examples
    --------
    >>> issubclass(lrpfast.MissingPackageError, ImportError)
    True
    """


def install_text(package: str, extra: str) -> str:
    """The cure for a missing package: by itself, or as one of lrpfast's extras, as in README."""
    return f"pip install {package} (lrpfast's extra {extra!r}: pip install '.[{extra}]' in lrpfast's folder)"


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
    """A file of inputs, labels or a mask does not exist.

    Examples
    --------
    >>> try:
    ...     lrpfast.data_bounds("none.npy")
    ... except FileNotFoundError as error:
    ...     print(error, error.filename)
    none.npy: there is no such file none.npy
    """


class SampleError(InputError):
    """A value of one sample is wrong; the message names the sample and the feature, if there is one.

    Parameters
    ----------
    text : str
        The message, with ``{where}`` for the position.
    sample : int
        Index of the sample in the batch.
    feature : tuple of int
        Index of the value within the sample; empty for the whole sample.

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
        """The same error for a larger batch, in which this batch begins at sample ``by``."""
        return SampleError(self.text, self.sample + by, self.feature)


class BoundsWarning(UserWarning):
    """Inputs are outside the bounds of a rule.

    Examples
    --------
    >>> issubclass(lrpfast.BoundsWarning, UserWarning)
    True
    """


class ApproximationWarning(UserWarning):
    """A model is read otherwise than it was meant: quantized without its rounding, a recurrent cell as single products.

    Examples
    --------
    >>> issubclass(lrpfast.ApproximationWarning, UserWarning)
    True
    """


class RelevanceWarning(UserWarning):
    """Single values of relevance mean little, because relevance grew or vanished on its way to the input.

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
    """Almost none of the explained output reaches the input, or none at all.

    Examples
    --------
    >>> import warnings
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0], [1.0]]), np.array([5.0]))])
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     relevance = lrpfast.Analyzer(model, "zero").analyze(np.zeros((1, 2)))
    >>> caught[0].category.__name__
    'VanishingWarning'
    """
