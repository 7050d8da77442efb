"""`create_analyzer` and `model_wo_softmax`: iNNvestigate's interface to lrpfast."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np

from .analyzer import Analyzer
from .engine.core import AnalyzerCore
from .engine.explanation import Explanation
from .engine.settings import AnalyzerSettings
from .errors import InputError, RuleError, UnsupportedLayerError
from .model.canonize import split_batch_norm
from .model.graph import Model
from .model.layers import SOFTMAXES, Activation
from .readers import as_model
from .rules.composites import Composite
from .rules.innvestigate import composite, keywords

#: iNNvestigate's selection modes, as default targets; under "index" every call must name its own.
MODES = {"max_activation": "max", "all": "all", "index": None}
#: Options of `Analyzer` that iNNvestigate's analyzers lack, with their replacements.
ELSEWHERE = {
    "target": "neuron_selection_mode='index', with neuron_selection= or target= when it is called",
    "start": "the model that ends there, create_analyzer(name, model.until(layer)), or Analyzer(model, rule, start=…)",
    "y_ref": "Analyzer(model, rule, y_ref=…), with a rule or composite of lrpfast's",
}


class InnvestigateAnalyzer(Analyzer):
    """An Analyzer with iNNvestigate's calls; `create_analyzer` returns it."""

    def __init__(self, name: str, model: Any, mode: str, parameters: dict[str, Any], **options: Any) -> None:
        self._name, self._mode = name, mode
        model = as_model(model)
        rectify = name.startswith("deep_taylor")  # deep Taylor explains max(y, 0)
        if rectify:
            _only_relu(model.without_softmax(), name)
        rules = composite(name, **parameters)
        if parameters.get("until_layer_idx") is not None and _counts_no_input(model):
            rules = composite(name, **{**parameters, "until_layer_idx": parameters["until_layer_idx"] + 1})
        if parameters.get("bn_layer_fuse_mode") == "two_linear":
            model = split_batch_norm(model)
        # a final sigmoid stays, and relevance starts at its output
        settings = AnalyzerSettings(rules, stripped=SOFTMAXES, rectify=rectify, default_target=MODES[mode], **options)
        self._core = AnalyzerCore(model, settings)

    @property
    def name(self) -> str:
        """iNNvestigate's name of the analyzer."""
        return self._name

    @property
    def neuron_selection_mode(self) -> str:
        """The selection of the explained output: "max_activation", "index" or "all"."""
        return self._mode

    def with_rules(self, rules: Composite) -> InnvestigateAnalyzer:
        """The same analyzer with other rules for the layers that a composite selects.

        Parameters
        ----------
        rules : Composite
            Of `lrpfast.composites`. Where it selects no layer, iNNvestigate's rules stay.

        Returns
        -------
        InnvestigateAnalyzer

        Raises
        ------
        RuleError

        Examples
        --------
        >>> norm = lrpfast.layers.BatchNorm(np.array([1.0, 2.0]), np.array([4.0, 1.0]), epsilon=0)
        >>> model = lrpfast.from_layers([norm, lrpfast.layers.Dense(np.ones((2, 1)))])
        >>> analyzer = lrpfast.create_analyzer("lrp.z", model, precision="float64")
        >>> passing = analyzer.with_rules(lrpfast.composites.ByType({lrpfast.layers.BatchNorm: "pass"}))
        >>> passing.analyze(np.array([[5.0, 4.0]])).round(3)
        array([[2., 2.]])
        """
        if not isinstance(rules, Composite):
            raise RuleError(f"with_rules takes a composite, as composites.ByType({{…}}), not {type(rules).__name__}")
        twin = copy.copy(self)
        settings = replace(self._core.settings, composite=rules | self.composite)
        twin.__dict__["_core"] = AnalyzerCore(self.model, settings)
        return twin

    def _selection(self, neuron_selection: Any, target: Any) -> Any:
        """The target of a call, from iNNvestigate's argument or lrpfast's."""
        if neuron_selection is None:
            if target is None and self._mode == "index":
                raise InputError(
                    "neuron_selection_mode='index' needs neuron_selection, an index or one per sample, or target="
                )
            return target
        if target is not None:
            raise InputError("neuron_selection and target both say what to explain: give one of them")
        if self._mode != "index":
            raise InputError(f"neuron_selection needs neuron_selection_mode='index', not {self._mode!r}")
        try:
            selection = np.asarray(neuron_selection)
        except ValueError:  # rows of different lengths
            selection = np.asarray(neuron_selection, dtype=object)
        if selection.dtype.kind not in "iu" or selection.ndim > 1:
            raise InputError(f"neuron_selection must be an integer or one per sample, not {neuron_selection!r}")
        return int(selection.ravel()[0]) if selection.size == 1 else selection

    def analyze(  # type: ignore[override]  # what comes second is iNNvestigate's
        self,
        x: Any,
        neuron_selection: Any = None,
        *,
        target: Any = None,
        out: Any = None,
        conditions: Any = None,
        parallel: bool = False,
    ) -> Any:
        """Relevance of every input feature, as `Analyzer.analyze`.

        Parameters
        ----------
        x, out, conditions, parallel
            As in `Analyzer.analyze`.
        neuron_selection : int or array of int, optional
            The output to explain, under ``neuron_selection_mode="index"``.
        target : optional
            As in `Analyzer`, in place of ``neuron_selection``, and for this call also in place of the mode's target.

        Returns
        -------
        array, shaped like x
        """
        selection = self._selection(neuron_selection, target)
        return super().analyze(x, selection, out=out, conditions=conditions, parallel=parallel)

    def explain(  # type: ignore[override]
        self, x: Any, neuron_selection: Any = None, *, target: Any = None, layers: bool = False
    ) -> Explanation:
        """As `Analyzer.explain`, with iNNvestigate's ``neuron_selection``."""
        return super().explain(x, self._selection(neuron_selection, target), layers=layers)


def _counts_no_input(model: Model) -> bool:
    """Whether iNNvestigate counts the model's layers without the Input: a Sequential without softmax.

    With a softmax it goes through `model_wo_softmax`, which returns a functional model, with the Input.
    """
    return model.sequential and model.without_softmax() is model


def _only_relu(model: Model, name: str) -> None:
    """Raise UnsupportedLayerError unless all activations are ReLU, as in iNNvestigate's deep Taylor."""
    for i, layer in enumerate(model.layers):
        activation = layer if isinstance(layer, Activation) else getattr(layer, "activation", None)
        if activation is not None and not activation.is_plain_relu:
            raise UnsupportedLayerError(
                f"{layer} (layer {i}): {name} explains ReLU networks only, this layer has {activation.describe()}"
            )


def create_analyzer(
    name: str,
    model: Any,
    *,
    neuron_selection_mode: str = "max_activation",
    input_layer_rule: Any = None,
    input_range: tuple[float, float] | None = None,
    device: str = "auto",
    precision: str = "float32",
    threads: int | None = None,
    memory: int | None = None,
    mask_nan: bool = False,
    **parameters: Any,
) -> InnvestigateAnalyzer:
    """An analyzer by iNNvestigate's name and keywords, with iNNvestigate's conventions.

    Parameters
    ----------
    name : str
        One of iNNvestigate 2.1.2's LRP and deep-Taylor names, or "lrp.z_IB".
    model : Model, keras.Model, path, or another library's model that a reader of lrpfast takes alone
        A final softmax, or its logarithm, is left out, as ``model_wo_softmax`` does.
    neuron_selection_mode : {"max_activation", "index", "all"}
        Explains each sample's largest output, the one that ``neuron_selection`` (or ``target``) selects in every
        call, or all of them. In `Analyzer.stream` and `Analyzer.map` it is ``target``.
    input_layer_rule : str, (low, high) or Rule, optional
        For the first layer with weights; (low, high) is ``Bounded`` in that range.
    input_range, device, precision, threads, memory, mask_nan
        As in `Analyzer`.
    **parameters
        The name's own keywords: ``epsilon``, ``bias``, ``alpha``, ``beta``, ``low``,
        ``high``, ``rule``, ``until_layer_idx``, ``until_layer_rule``, ``bn_layer_rule``,
        ``bn_layer_fuse_mode``. ``until_layer_idx`` counts the model's layers as iNNvestigate does: in a Keras
        ``Sequential`` without softmax the Input does not count, in any other model it does.

    Returns
    -------
    InnvestigateAnalyzer
        With ``analyze(x, neuron_selection=None)``.

    Raises
    ------
    InputError
        For a wrong ``neuron_selection_mode``, and for options that only `Analyzer` has.
    RuleError
        For an unknown name, keyword or value.
    UnsupportedLayerError
        When the model of a deep Taylor analyzer has an activation other than ReLU.

    Notes
    -----
    Where iNNvestigate's arithmetic is wrong, lrpfast returns the right value;
    ``docs/conventions.md`` lists these cases.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0, -1.0], [2.0, 1.0]]))])
    >>> analyzer = lrpfast.create_analyzer("lrp.z", model, neuron_selection_mode="index", precision="float64")
    >>> analyzer.analyze(np.array([[1.0, 1.0]]), neuron_selection=0).round(3)
    array([[1., 2.]])
    """
    if isinstance(name, Model):
        raise InputError("the name comes first: create_analyzer(name, model)")
    if not isinstance(name, str):
        raise RuleError(f"name must be a string, not {type(name).__name__}")
    names = keywords(name)
    if neuron_selection_mode not in MODES:
        raise InputError(f"neuron_selection_mode must be one of {', '.join(MODES)}, not {neuron_selection_mode!r}")
    for key, instead in ELSEWHERE.items():
        if key in parameters:
            raise InputError(f"create_analyzer takes no {key}; use {instead}")
    if input_layer_rule is not None:
        if "input_layer_rule" not in names:
            raise RuleError(f"{name} has no keyword 'input_layer_rule'; it takes {', '.join(names) or 'none'}")
        parameters["input_layer_rule"] = input_layer_rule
    return InnvestigateAnalyzer(
        name,
        model,
        neuron_selection_mode,
        parameters,
        input_range=input_range,
        device=device,
        precision=precision,
        threads=threads,
        memory=memory,
        mask_nan=mask_nan,
    )


def model_wo_softmax(model: Any) -> Model:
    """The model without its final softmax, by iNNvestigate's name; see `Model.without_softmax`.

    Parameters
    ----------
    model : Model, keras.Model or path
        As `create_analyzer` takes it.

    Returns
    -------
    Model

    Raises
    ------
    InputError
        When ``model`` is no model.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2), activation="softmax")])
    >>> lrpfast.model_wo_softmax(model).predict(np.array([[3.0, 1.0]])).tolist()
    [[3.0, 1.0]]
    """
    return as_model(model).without_softmax()
