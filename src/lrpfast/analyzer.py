"""`Analyzer`: a model and a rule, planned once for any number of batches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from . import table
from .concepts import ConceptMethods
from .datasets import DatasetMethods
from .engine.conditions import conditions_or_none
from .engine.core import AnalyzerCore
from .engine.explanation import Explanation
from .engine.inputs import check_flag
from .engine.plan import Plan, describe
from .engine.settings import AnalyzerSettings
from .errors import InputError
from .model.graph import Model
from .readers import as_model
from .rules import Pass, Rule
from .rules.composites import Assignment, Composite
from .rules.presets import as_composite

#: Rules that an analyzer's repr names.
SHOWN_RULES = 4


class Analyzer(DatasetMethods, ConceptMethods):
    """Explains a model's outputs by LRP.

    Plans the contractions and packs the weights once; `analyze` and `explain` may then be
    called with any number of batches, from several threads.

    Parameters
    ----------
    model : Model, path, keras.Model or another library's model that a reader of lrpfast takes alone
    rule : Rule, Composite or str
        A rule, a composite that gives layers their rules, or the name of either. Batch
        normalization is first folded into neighbouring layers, unless the composite says otherwise or has
        a rule for it.
    target : "max", "all", int, list, tuple, array or callable, optional
        Default target of `analyze`: the largest output ("max", also when None; of equal outputs the first),
        every output's own value ("all"), an output's index, one index for each sample (a list or an
        integer array), a (samples, k) integer array for k explanations of each sample, a pair (a, b)
        for the difference of two outputs, the starting relevance itself (floats
        shaped like the output, or (samples, k, *output_shape) for k explanations of each sample), or a callable
        that computes it from the output. A tuple (a, b) is the difference of outputs a and b, for every sample; a
        list [a, b] is output a for the first sample and b for the second. Outputs with several axes are indexed
        flat, except in a difference, which is a pair of full indices, as ((1, 2), (0, 0)). The starting relevance
        is the target's
        value before a final softmax, its logarithm or a sigmoid. For a model with several
        outputs, a mapping {output: target} selects one by name or index. Arrays are copied.
    start : str, int or (layer, neuron), optional
        A hidden layer to explain instead of the output; (layer, neuron) is the same as this layer with
        target=neuron. The layer is the same as in ``explain(layers=True).layers``: a layer into which a batch
        normalization is folded has the output of the normalization. Relevance begins below the layer's softmax
        or sigmoid only if it would pass that unchanged.
    y_ref : float or array, optional
        Subtracted from the output's bias: explains f(x) − y_ref (Letzgus et al. 2022).
    input_range : (low, high), optional
        The input's range, which lets the planner omit work; every batch is checked.
    device : {"auto", "cpu", "gpu"} or "gpu:1", "gpu:2", …
        "gpu" uses all working GPUs and divides large batches among them; "gpu:1" uses one. "auto" uses the GPUs
        if there are any, else the CPU; `device` and the analyzer's repr say which.
    precision : {"float32", "float64", "tf32", "3xtf32", "bf16x2"}
        "tf32" rounds both operands of every contraction to 10 mantissa bits. "3xtf32" (on GPUs) has float32's
        accuracy, from three such products on tensor cores. "bf16x2" (on CPUs) multiplies numbers of 16 bits where
        tile registers do float32's products, for speed, and float32 elsewhere.
    threads : int, optional
        When None, the number from `lrpfast.set_num_threads`, else from ``LRPFAST_NUM_THREADS``, else all cores that
        this process may use. Results do not depend on it.
    memory : int, optional
        The largest number of bytes of all threads' workspaces; on GPUs, of a run on each. It also raises the limit
        for the tables of the plan, which otherwise must not take far more than the model's weights.
    mask_nan : bool
        Whether NaN marks features that contribute nothing; their relevance is NaN.

    Raises
    ------
    RuleError, InputError, ShapeError, DeviceError, UnsupportedLayerError

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0, -1.0], [2.0, 1.0]]))])
    >>> analyzer = lrpfast.Analyzer(model, lrpfast.rules.Epsilon(0.3), precision="float64")
    >>> analyzer.analyze(np.array([[1.0, 1.0]])).round(3)
    array([[0.909, 1.818]])
    """

    def __init__(
        self,
        model: Any,
        rule: Rule | Composite | str,
        *,
        target: Any = None,
        start: Any = None,
        y_ref: Any = None,
        input_range: tuple[float, float] | None = None,
        device: str = "auto",
        precision: str = "float32",
        threads: int | None = None,
        memory: int | None = None,
        mask_nan: bool = False,
    ) -> None:
        if not isinstance(model, Model) and isinstance(rule, Model):
            raise InputError("the model comes first: Analyzer(model, rule)")
        model = as_model(model)
        settings = AnalyzerSettings(
            as_composite(rule),
            target=target,
            start=start,
            y_ref=y_ref,
            input_range=input_range,
            device=device,
            precision=precision,
            threads=threads,
            memory=memory,
            mask_nan=mask_nan,
        )
        self._core = AnalyzerCore(model, settings)

    def fixed(self, x: Any) -> Analyzer:
        """The same analyzer for the sizes of these inputs, if the model leaves sizes open; else the analyzer itself.

        Parameters
        ----------
        x : array, shape (samples, *input_shape)
            As in `analyze`; only its shape is used.

        Returns
        -------
        Analyzer

        Examples
        --------
        >>> layers = [lrpfast.layers.Conv(np.ones((3, 1, 2))), lrpfast.layers.GlobalMaxPool()]
        >>> analyzer = lrpfast.Analyzer(lrpfast.from_layers(layers, input_shape=(None, 1)), "epsilon")
        >>> analyzer.fixed(np.ones((5, 20, 1))).input_shape
        (20, 1)
        """
        return self._on(self._core.fixed(x))

    def _on(self, core: AnalyzerCore) -> Analyzer:
        """The same analyzer, with the core of a model of fixed sizes."""
        if core is self._core:
            return self
        twin = copy.copy(self)
        twin.__dict__["_core"] = core
        return twin

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise AttributeError(
                f"{type(self).__name__}.{name} cannot be set: an analyzer does not change; make another"
            )
        super().__setattr__(name, value)

    @property
    def model(self) -> Model:
        """The caller's model."""
        return self._core.model

    @property
    def explained_model(self) -> Model:
        """The part of the model that is explained: up to the start layer, without a final softmax, folded.

        A model that leaves input sizes open has one for each size: ``fixed(x).explained_model``.
        """
        if self._core.is_open:
            raise InputError(f"the model's input shape {self.input_shape} is open: see fixed(x).explained_model")
        return self._core.explained_model

    @property
    def composite(self) -> Composite:
        """The rule, as a composite."""
        return self._core.settings.composite

    @property
    def assignment(self) -> Assignment:
        """The rule of every layer of the model, by the layer's index in ``model.nodes``."""
        return self._core.assignment

    @property
    def stripped(self) -> Sequence[str]:
        """Final activations that are left out: relevance starts at their input."""
        return self._core.settings.stripped

    @property
    def threads(self) -> int | None:
        """The number of threads of a run; None means `lrpfast.get_num_threads` at the time of the run."""
        return self._core.settings.threads

    @property
    def precision(self) -> str:
        """The precision: "float32", "float64", "tf32", "3xtf32" or "bf16x2"."""
        return self._core.settings.precision

    @property
    def target(self) -> Any:
        """The default target."""
        return self._core.settings.target

    @property
    def input_shape(self) -> Any:
        """The shape of one sample; a list of shapes for several inputs."""
        return self._core.input_shape

    @property
    def output_shape(self) -> Any:
        """The shape of the explained output for one sample; a list of shapes for several outputs."""
        return self._core.output_shape

    @property
    def device(self) -> str:
        """The device: "cpu", or the GPUs, as "gpu:0, gpu:1"."""
        return self._core.device

    def plan(self, *input_shapes: Sequence[int]) -> Plan:
        """The computations for each layer and their cost; prints as a table.

        Parameters
        ----------
        *input_shapes : tuple of int
            For a model that leaves input sizes open: one shape, without the batch axis, for each input.

        Returns
        -------
        Plan
            ``str(plan)`` is a table with a row for each layer. ``contractions`` is the number of matrix products,
            including the forward pass; ``flops`` is the number of their floating-point operations for one sample;
            ``rules`` has the rule of every step, in forward order. ``packed`` is what packed weights take on the CPU.

        Raises
        ------
        InputError
            When the model leaves sizes open and no shape is given.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0, -1.0], [2.0, 1.0]]))])
        >>> plan = lrpfast.Analyzer(model, "epsilon").plan()
        >>> plan.contractions, plan.flops
        (2, 16)
        """
        core = self._core
        if not core.is_open:
            return core.plan
        if not input_shapes:
            raise InputError(f"the model's input shape {self.input_shape} is open: plan needs one, plan((…))")
        return core.for_shapes([tuple(shape) for shape in input_shapes]).plan

    def __repr__(self) -> str:
        return f"<lrpfast.{self._head()}>"

    def _repr_html_(self) -> str:
        return table.paragraph(self._head()) + ("" if self._core.is_open else self._core.plan._repr_html_())

    def _head(self) -> str:
        name = f"Analyzer of {self.model.name!r}"
        if self._core.is_open:
            return f"{name}: {self.precision}, input sizes open"
        rules = list(dict.fromkeys(describe(r) for r in self._core.plan.rules if not isinstance(r, Pass))) or ["pass"]
        names = ", ".join(rules[:SHOWN_RULES] + (["…"] if len(rules) > SHOWN_RULES else []))
        composite = "" if self.composite.name.startswith("uniform ") else f"{self.composite.name}: "
        return f"{name}: {composite}{names}; {self.precision}, {self.device}"

    def analyze(
        self, x: Any, target: Any = None, *, out: Any = None, conditions: Any = None, parallel: bool = False
    ) -> Any:
        """Relevance of every input feature.

        Parameters
        ----------
        x : array, shape (samples, *input_shape)
            Any real dtype, cast once to the precision. A NumPy array, or one of any library that supports DLPack;
            arrays of CuPy and PyTorch may be on a GPU; tensors are detached. A list of arrays, or a mapping by name,
            for several inputs. For samples of different lengths, a list of arrays in place of each.
        target : optional
            As in `Analyzer`; when None, the analyzer's own target.
        out : array, optional
            C-contiguous, with the result's shape and dtype; filled and returned.
        conditions : mapping, or list of mappings, optional
            Relevance through some neurons of hidden layers alone (Achtibat et al. 2023): from a layer's name, as in
            ``explain(layers=True).layers``, to channels (an index, a list, set, slice or boolean array) or neurons (a
            boolean array of the layer's shape).
        parallel : bool
            Whether relevance on paths around the layers of a condition counts too.

        Returns
        -------
        array, shaped like x; float32, or float64 under that precision
            With k targets per sample, or a list of k conditions, (samples, k, *input_shape). A PyTorch tensor on the
            same device if x is one; else a CuPy array if x is on a GPU, else a NumPy array. A list if x was one.

        Raises
        ------
        InputError, ShapeError

        Warns
        -----
        AmplificationWarning
            When relevance grows so much between the output and the input that single values mean little.
        VanishingWarning
            When almost none of the output reaches the input, or none. Of samples with many features, a part of
            the features is checked first; on a GPU, 16 samples are checked. `stream` and `explain` check everything.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0, -1.0], [2.0, 1.0]]))])
        >>> analyzer, x = lrpfast.Analyzer(model, "zero", precision="float64"), np.array([[1.0, 3.0]])
        >>> analyzer.analyze(x).round(3)
        array([[1., 6.]])
        >>> analyzer.analyze(x, target=(0, 1)).round(3)
        array([[2., 3.]])
        """
        if conditions is None and parallel is False:
            return self._core.analyze(x, target, out)
        return self._core.analyze(x, target, out, conditions=conditions_or_none(conditions, parallel))

    def explain(self, x: Any, target: Any = None, *, layers: bool = False) -> Explanation:
        """Relevance with the output, the target and every layer's balance.

        The relevance is that of `analyze`, bit for bit; on a GPU, up to rounding.

        Parameters
        ----------
        x, target
            As in `analyze`; one target per sample.
        layers : bool
            Whether to return the relevance of every layer's output, too. Of samples of different lengths, it is a
            list of arrays where it is as long as they are.

        Returns
        -------
        Explanation

        Warns
        -----
        AmplificationWarning
            When relevance grows so much, in a layer or over all, that single values mean little.
        VanishingWarning
            When almost none of the output reaches the input.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0], [2.0]]), np.array([1.0]))])
        >>> explanation = lrpfast.Analyzer(model, "zero", precision="float64").explain(np.array([[1.0, 1.0]]))
        >>> balance = explanation.conservation[0]
        >>> balance.layer, balance.incoming.round(3), balance.outgoing.round(3), balance.bias.round(3)
        ('dense', array([4.]), array([3.]), array([1.]))
        """
        return self._core.explain(x, target, check_flag(layers, "layers"))
