"""Analyzer: a model, a rule, and everything decided once, for any number of batches."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import table
from ..errors import InputError
from ..kernels import DEFAULT_START, Start, backend
from ..kernels.arrays import as_array, as_tensors, empty_like, is_tensor, like, to_host
from ..kernels.growth import MOST_JUDGED, Growth, judge
from ..model.graph import Model
from ..model.layers import SOFTMAXES
from ..rules import Pass, Rule
from ..rules.composites import Composite
from ..rules.presets import as_composite
from ..version import __version__
from .balance import layer_balance, make_conservation
from .execute import check_place, chunks, run
from .explain_scope import explained_part, explained_targets, minus_reference, start_and_target
from .explanation import Explanation
from .growth import conserves, warn
from .inputs import as_start, check_flag, check_memory, check_out, check_precision, check_range, check_target, own
from .io_layout import IOLayout
from .lower import Lowered, lower
from .plan import Plan, describe
from .planner import make_plan
from .threads import check_threads, get_num_threads

if TYPE_CHECKING:
    from ..batch.stream import Streamed

#: Input sizes for which an analyzer of a model that leaves them open keeps what it compiled.
MAX_VARIANTS = 8
#: Rules that an analyzer's repr names.
SHOWN_RULES = 4


class Analyzer:
    """Explains a model's outputs by LRP.

    Decides once which contractions are needed and packs the weights; `analyze` and
    `explain` may then be called with any number of batches, from several threads.

    Parameters
    ----------
    model : Model
    rule : Rule, Composite or str
        A rule, a composite that gives layers their rules, or the name of either. Batch
        normalization is folded into the layers beside it first, unless the composite says otherwise or has
        a rule for it.
    target : "max", "all", int, list, tuple, array or callable, optional
        Default target of `analyze`: the largest output ("max", the first of equals; so when None),
        every output's own value ("all"), an output's index, one index for each sample (a list or an
        integer array), a (samples, k) integer array for k explanations of each sample, a pair (a, b)
        for the difference of two outputs, the starting relevance itself (floats
        shaped like the output), or a callable that makes it of the output. A tuple (a, b) is the
        difference of outputs a and b, for every sample; a list [a, b] is output a for the first
        sample and b for the second. Outputs of several axes are indexed flat, but in a difference, which is
        a pair of full indices there, as ((1, 2), (0, 0)). The starting relevance is the target's
        value before a final softmax, its logarithm or a sigmoid. Of a model with several
        outputs, a mapping {output: target} names one by name or index. Arrays are copied.
    start : str, int or (layer, neuron), optional
        A hidden layer to explain instead of the output; (layer, neuron) is the same as this layer with
        target=neuron. The layer is the same as in ``explain(layers=True).layers``: what a batch normalization is
        folded into has that one's output. Relevance begins below its softmax or sigmoid only where it would
        pass that unchanged.
    y_ref : float or array, optional
        Subtracted from the output's bias: explains f(x) − y_ref (Letzgus et al. 2022).
    input_range : (low, high), optional
        The input's range, which lets the planner drop work; every batch is checked.
    device : {"auto", "cpu", "gpu"} or "gpu:1", "gpu:2", …
        "gpu" takes every GPU that works and shares large batches among them, "gpu:1" one. "auto" takes the GPUs
        where there are any, else the CPU; `device` and the analyzer's repr say which.
    precision : {"float32", "float64", "tf32"}
        "tf32" rounds both operands of every contraction to 10 mantissa bits.
    threads : int, optional
        Those of `lrpfast.set_num_threads` when None: as ``LRPFAST_NUM_THREADS`` says, or all cores this process
        may use. Results do not depend on it.
    memory : int, optional
        Bytes that the threads' workspaces may take together; on GPUs, what a run may take on each. So many are
        also allowed for the tables of the plan, which must not take far more than the model's weights otherwise.
    mask_nan : bool
        NaN features contribute nothing and come back NaN.

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

    #: final activations that are left out: relevance starts at their input
    stripped: Sequence[str] = (*SOFTMAXES, "sigmoid")
    #: whether relevance starts at max(output, 0)
    _rectify = False
    #: the target where none is given; None where every call must name one
    _usual_target: str | None = "max"
    #: what `_prepare` makes of the rest: left out of pickles
    _prepared = (
        *("_explained", "_ports", "_plan", "_conserves", "_per_sample", "_plain"),
        *("_backend", "_compiled", "_traced", "_forward", "_told"),
    )

    def __init__(
        self,
        model: Model,
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
        if not isinstance(model, Model):
            if isinstance(rule, Model):
                raise InputError("the model comes first: Analyzer(model, rule)")
            raise InputError(
                f"model must be an lrpfast Model, not {type(model).__name__}; "
                "see lrpfast.load, from_keras, from_onnx, from_sklearn, from_torch, from_layers"
            )
        self._model, self._precision = model, precision
        self._dtype_name, self._tf32 = check_precision(precision)
        self._dtype = np.dtype(self._dtype_name)
        self._threads = check_threads(threads)
        self._memory = check_memory(memory)
        self._range = check_range(input_range)
        self._mask_nan = check_flag(mask_nan, "mask_nan")
        self._device = device
        self._composite = as_composite(rule)
        self._y_ref = own(y_ref)
        self._start_at, self._target = start_and_target(own(start), own(target))
        if self._target is None:
            self._target = self._usual_target
        self._variants: dict[tuple[Any, ...], Analyzer] = {}  # for a model that leaves input sizes open: one for each
        self._open = model.is_open
        self._data = 0  # bytes of a sample, where the data say its size
        if not self._open:
            self._prepare()

    def _prepare(self) -> None:
        """Decide and compile everything, for a model whose shapes are all known."""
        model, target = self._model, self._target
        explained, assignment = explained_part(model, self._composite, self.stripped, self._start_at)
        if self._y_ref is not None:
            explained = minus_reference(explained, self._y_ref)
        self._explained = explained
        self._layout = IOLayout(explained)
        self._plan = make_plan(
            explained,
            assignment,
            input_range=self._range,
            mask_nan=self._mask_nan,
            tf32=self._tf32,
            memory=self._memory,
            data=self._data,
        )
        self._conserves = conserves(self._plan)
        self._per_sample = 2 * math.prod(self._layout.row) * self._dtype.itemsize
        self._compile()
        self._constant_start: Start | None = None  # where the target is the same for every batch
        if isinstance(target, (str, bool, int, np.integer, tuple)) and len(self._layout.outputs) == 1:
            self._constant_start, _ = as_start(target, 1, self.output_shape, self._dtype, lambda: np.empty(0))
        elif target is not None:
            self._check_target(target)

    def _check_target(self, target: Any) -> None:
        """InputError for what is no target of any batch."""
        shape = None
        if isinstance(target, Mapping) or len(self._layout.outputs) == 1:
            port, target = self._layout.output(target)
            shape = port.shape
        check_target(target, shape)

    def fixed(self, x: Any) -> Analyzer:
        """The same analyzer for the sizes that these inputs have, where the model leaves them open; else itself.

        The last few are kept.

        Parameters
        ----------
        x : array, shape (samples, *input_shape)
            As in `analyze`; only its shape is looked at.

        Returns
        -------
        Analyzer

        Raises
        ------
        InputError, ShapeError

        Examples
        --------
        >>> layers = [lrpfast.layers.Conv(np.ones((3, 1, 2))), lrpfast.layers.GlobalMaxPool()]
        >>> analyzer = lrpfast.Analyzer(lrpfast.from_layers(layers, input_shape=(None, 1)), "epsilon")
        >>> analyzer.fixed(np.ones((5, 20, 1))).input_shape
        (20, 1)
        """
        if not self._open:
            return self
        shapes = [np.shape(a)[1:] for a in (x if len(self._model.inputs) > 1 else [x])]
        return self._for_shapes(shapes)

    def _for_shapes(self, shapes: Sequence[tuple[int, ...]]) -> Analyzer:
        key = tuple(shapes)
        variant = self._variants.get(key)
        if variant is None:
            variant = copy.copy(self)
            variant._model, variant._open = self._model.with_input_shape(*shapes), False
            variant._data = sum(map(math.prod, shapes)) * self._dtype.itemsize
            variant._prepare()
            for old in list(self._variants)[: 1 - MAX_VARIANTS]:  # a copy: other threads may be here too
                self._variants.pop(old, None)
            self._variants[key] = variant
        return variant

    def _compile(self) -> None:
        self._backend = backend(self._device)
        lowered = self._lower(trace=False)
        self._compiled = self._backend.compile(lowered.program)
        self._traced: tuple[Lowered, Any] | None = None  # compiled when first asked for, as is the forward half
        self._forward: Any = None
        self._with_output_program: tuple[Any, int] | None = None

    def _lower(self, *, trace: bool) -> Lowered:
        return lower(
            self._plan,
            self._backend,
            dtype=self._dtype_name,
            tf32=self._tf32,
            trace=trace,
            rectify=self._rectify,
            input_range=self._range,
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise AttributeError(
                f"{type(self).__name__}.{name} cannot be set: an analyzer does not change; make another"
            )
        super().__setattr__(name, value)

    def __copy__(self) -> Analyzer:
        made = object.__new__(type(self))  # what is compiled can be shared: it holds nothing of a run
        made.__dict__.update(self.__dict__, _variants={})
        return made

    def __getstate__(self) -> dict[str, Any]:
        given = {key: value for key, value in self.__dict__.items() if key not in self._prepared}
        return {**given, "_variants": {}, "version": __version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        version = state.get("version", "another version")
        if version != __version__:
            raise InputError(
                f"this analyzer was pickled by lrpfast {version}, and this is lrpfast {__version__}: "
                "pickles are for processes of one version; make the analyzer anew from its model"
            )
        self.__dict__.update({key: value for key, value in state.items() if key != "version"})
        if not self._open:
            self._prepare()

    @property
    def model(self) -> Model:
        """The model as it was given."""
        return self._model

    @property
    def precision(self) -> str:
        """The precision: "float32", "float64" or "tf32"."""
        return self._precision

    @property
    def target(self) -> Any:
        """The target of calls that name none."""
        return self._target

    @property
    def input_shape(self) -> Any:
        """One sample's shape; a list of them for several inputs."""
        return (self._model if self._open else self._explained).input_shape

    @property
    def output_shape(self) -> Any:
        """The shape, for one sample, of what is explained; a list of them for several outputs."""
        return (self._model if self._open else self._explained).output_shape

    def plan(self, *input_shapes: Sequence[int]) -> Plan:
        """What will be computed for each layer and what it costs; prints as a table.

        A model that leaves input sizes open needs them here: one shape, without the batch axis, for each input.

        Parameters
        ----------
        *input_shapes : tuple of int
            For a model that leaves sizes open.

        Returns
        -------
        Plan
            Its text, ``str(plan)``, is a table: a row for each layer. ``contractions`` is the number of matrix
            products, the forward pass included, ``flops`` that of their floating-point operations for one sample,
            ``rules`` the rule of every step, in forward order.

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
        if not self._open:
            return self._plan
        if not input_shapes:
            raise InputError(f"the model's input shape {self.input_shape} is open: plan needs one, plan((…))")
        return self._for_shapes([tuple(shape) for shape in input_shapes])._plan

    def __repr__(self) -> str:
        return f"<lrpfast.{self._head()}>"

    def _repr_html_(self) -> str:
        if self._open:
            return table.paragraph(self._head())
        return table.paragraph(self._head()) + self._plan._repr_html_()

    def _head(self) -> str:
        name = f"Analyzer of {self._model.name!r}"
        if self._open:
            return f"{name}: {self.precision}, input sizes open"
        rules = list(dict.fromkeys(describe(r) for r in self._plan.rules if not isinstance(r, Pass))) or ["pass"]
        shown = ", ".join(rules[:SHOWN_RULES] + (["…"] if len(rules) > SHOWN_RULES else []))
        # the name of one rule everywhere says less than the rule with its parameters
        said = "" if self._composite.name.startswith("uniform ") else f"{self._composite.name}: "
        return f"{name}: {said}{shown}; {self._precision}, {self._backend.name}"

    @property
    def device(self) -> str:
        """What it runs on: "cpu", or the GPUs, as "gpu:0, gpu:1"."""
        return backend(self._device).name if self._open else self._backend.name

    def analyze(self, x: Any, target: Any = None, *, out: Any = None) -> Any:
        """Relevance of every input feature.

        Parameters
        ----------
        x : array, shape (samples, *input_shape)
            Any real dtype, cast once to the precision. A list of arrays for several inputs. Of NumPy, or of
            any library that speaks DLPack; CuPy's and PyTorch's may lie on a GPU. A tensor that requires a
            gradient is detached: relevance is no part of the autograd graph.
        target : optional
            As in `Analyzer`; the analyzer's own target when None.
        out : array, optional
            C-contiguous, of the result's shape and dtype; filled and returned.

        Returns
        -------
        array, shaped like x; float32, or float64 under that precision
            With k targets per sample (samples, k, *input_shape). PyTorch's where x is, on the same device; else
            CuPy's where x lies on a GPU, else NumPy's.

        Raises
        ------
        InputError, ShapeError

        Warns
        -----
        AmplificationWarning
            Where relevance grows so much between the output and the input that single values mean little.
        VanishingWarning
            Where next to nothing of the output reaches the input, or nothing. Samples of many features are judged by
            a part of them first, on a GPU 16 samples are; `stream` and `explain` look at everything.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0, -1.0], [2.0, 1.0]]))])
        >>> analyzer, x = lrpfast.Analyzer(model, "zero", precision="float64"), np.array([[1.0, 3.0]])
        >>> analyzer.analyze(x).round(3)
        array([[1., 6.]])
        >>> analyzer.analyze(x, target=(0, 1)).round(3)
        array([[2., 3.]])
        """
        return self._analyzed(x, target, out)

    def _analyzed(
        self, x: Any, target: Any = None, out: Any = None, output: np.ndarray | None = None, notes: Any = None
    ) -> Any:
        """`analyze`; into ``output``, where given, also what the model's outputs are before a final softmax.

        How relevance grew is noted in ``notes`` where given, of every explanation; else warned of.
        """
        if self._open:
            return self.fixed(x)._analyzed(x, target, out, output, notes)
        exact, notes = notes is not None, [] if notes is None else notes
        tensors, given = is_tensor(x), out
        if is_tensor(out):  # filled where it lies
            out = [as_array(o) for o in out] if self._layout.several else as_array(out)
        x = self._pack(x)
        samples = len(x)
        start, axes = (self._constant_start, ()) if target is None and self._constant_start else self._start(x, target)
        shape = (samples, *axes, *self._layout.row)
        if out is None or self._layout.several:
            result = empty_like(shape, self._dtype, x)
        else:
            result = check_out(out, shape, self._dtype, x)
        compiled, kept = (self._compiled, None) if output is None else self._with_output()
        whole = samples * self._per_sample <= 1 << 20  # a small batch is spared the slicing, a fair part of its time
        parts = (slice(0, samples),) if whole else self._chunks(samples, self._per_sample * math.prod(axes))
        for part in parts:
            rows = x if whole else x[part]
            into = result if whole else result[part]
            if axes:
                into = empty_like((*axes, *rows.shape), self._dtype, x)  # the run's own order: one target after another
            keep = None if output is None or kept is None else {kept: output[part]}
            self._run(compiled, rows, into, part.start, start if whole else start.part(part), keep, notes, exact)
            if axes:
                result[part] = into.swapaxes(0, 1)
        if not self._backend.judges:
            self._judge(x, result if axes else result[:, None], start, notes, exact)
        if notes and not exact:
            warn(Growth.of(notes, self._conserves), samples * math.prod(axes), self._rectify)
        if given is not None:
            if self._layout.several:
                self._copy_into(result, out)
            return given
        relevance = self._layout.unpack(result)
        return as_tensors(relevance) if tensors else relevance

    def _judge(self, x: Any, relevance: Any, start: Start, notes: list[Any], exact: bool) -> None:
        """Note how relevance, (samples, targets, …), grew, for a backend that does not: of a few samples, or of all."""
        step = 1 if exact else max(1, -(-len(x) // MOST_JUDGED))
        for part in self._chunks(len(x[::step]), self._per_sample * relevance.shape[1]):
            chosen = slice(part.start * step, part.stop * step, step)
            if len(rows := x[chosen]):
                output = to_host(self._outputs(rows)).reshape(len(rows), -1)
                note = judge(relevance[chosen], output, start.part(chosen), self._rectify, step)
                if note is not None:
                    notes.append((chosen.start, note))

    def _with_output(self) -> tuple[Any, int]:
        """The compiled explanation that hands out the model's outputs too, and their buffer."""
        if self._with_output_program is None:
            program = self._lower(trace=False).program
            program = replace(program, keep=(program.output,))
            self._with_output_program = self._backend.compile(program), program.output
        return self._with_output_program

    def _pack(self, x: Any) -> Any:
        """The inputs as one array, on the host or on a GPU that the analyzer runs on."""
        x = self._layout.pack(x)
        check_place(x, self._backend)
        return x

    def _chunks(self, samples: int, bytes_per_sample: int) -> Any:
        return chunks(samples, bytes_per_sample, self._backend.batch_bytes)

    def _copy_into(self, result: np.ndarray, given: Any) -> None:
        """Put the relevance into the caller's arrays, one for each input."""
        pieces = self._layout.unpack(result)
        if not isinstance(given, (list, tuple)) or len(given) != len(pieces):
            raise InputError(f"out must be a list of {len(pieces)} arrays, one for each input")
        for piece, into in zip(pieces, given, strict=True):
            check_out(into, piece.shape, self._dtype, piece)[...] = piece

    def _run(
        self,
        compiled: Any,
        x: np.ndarray,
        out: np.ndarray,
        first: int,
        start: Start,
        keep: dict[int, np.ndarray] | None = None,
        notes: list[Any] | None = None,
        exact: bool = False,
    ) -> None:
        run(
            compiled,
            x,
            out,
            first=first,
            threads=self._threads or get_num_threads(),
            memory=self._memory,
            start=start,
            keep=keep,
            precision=self._precision,
            input_range=self._range,
            mask_nan=self._mask_nan,
            notes=notes if self._backend.judges else None,
            exact=exact,
        )

    def _start(self, x: np.ndarray, target: Any) -> tuple[Start, tuple[int, ...]]:
        target = self._target if target is None else target
        if target is None:
            raise InputError(
                "neuron_selection_mode='index' has no target of its own: every call needs one, as target=0"
            )
        port, target = self._layout.output(target)

        def output() -> np.ndarray:
            rows = self._outputs(x).reshape(len(x), math.prod(self._layout.output_row))
            return rows[:, port.first : port.first + port.size]

        start, axes = as_start(target, len(x), port.shape, self._dtype, output)
        return self._layout.placed(start, port), axes

    def _outputs(self, x: np.ndarray) -> np.ndarray:
        """The explained output of every sample: the forward half of the analyzer's own program."""
        if self._forward is None:
            program = replace(self._lower(trace=False).program, backward=(), result=None)
            self._forward = self._backend.compile(program)
        outputs: np.ndarray = empty_like((len(x), *self._layout.output_row), self._dtype, x)
        for part in self._chunks(len(x), self._per_sample):
            self._run(self._forward, x[part], outputs[part], part.start, DEFAULT_START)
        return outputs

    def _trace(self) -> tuple[Lowered, Any]:
        if self._traced is None:
            lowered = self._lower(trace=True)
            self._traced = (lowered, self._backend.compile(lowered.program))
        return self._traced

    def _traced_chunks(self, x: np.ndarray, start: Start, notes: list[Any]) -> Any:
        """Chunks of a traced run: (slice, relevance, kept buffers); ``notes`` of how relevance grew."""
        lowered, compiled = self._trace()
        sizes = lowered.program.sizes
        kept_size = sum(sizes[b] for b in lowered.program.keep)
        for part in self._chunks(len(x), self._per_sample + kept_size * self._dtype.itemsize):
            rows = x[part]
            kept = {b: np.empty((len(rows), sizes[b]), self._dtype) for b in lowered.program.keep}
            relevance = np.empty(rows.shape, self._dtype)
            self._run(compiled, rows, relevance, part.start, start.part(part), kept, notes, True)
            result = lowered.program.result
            assert result is not None
            kept[result] = relevance.reshape(len(rows), sizes[result])
            yield part, relevance, kept

    def stream(
        self,
        source: Any,
        sink: Any = None,
        *,
        target: Any = None,
        batch_size: int | str = "auto",
        normalize: str | None = None,
        statistics: bool | str | os.PathLike[str] = False,
        group_by: Any = None,
        correct: Any = None,
        quantiles: float | Sequence[float] = (),
        mask: Any = None,
        progress: bool | Callable[[int], object] = True,
        resume: bool = True,
        overwrite: bool = False,
        cluster: Any = None,
    ) -> Streamed:
        """Explain a data set of any length: read, explain and write a chunk at a time, and lose nothing.

        Reading, computing and writing overlap; memory does not grow with the number of samples. A run that was
        stopped, even killed, goes on where it was when it is called again with the same arguments, and its
        result is the same, byte for byte.

        Parameters
        ----------
        source : path, array, iterator
            Samples along the first axis: an ``.npy``, ``.npz:name``, ``.h5:dataset``, ``.nc:variable`` or
            ``.zarr:array``, a NumPy, Dask or xarray array, or an iterator of batches (which cannot be resumed).
        sink : path or callable, optional
            Where relevances go: ``.npy``, ``.h5[:dataset]``, ``.nc[:variable]``, ``.zarr[:array]``, or a function
            called with (first sample's index, relevances). None when only statistics are wanted.
        target : optional
            As in `analyze`; one for each sample as an array of as many.
        batch_size : "auto" or int
            Samples of a chunk. Results do not depend on it.
        normalize : {"maxabs", "sum", "max", "l1"}, optional
            Divide each explanation by max|R|, ΣR, max R or Σ|R|; where that is 0 it is left as it is, and counted.
        statistics : bool or path
            Make the maps' statistics on the way (`Statistics`); into a ``.nc``, ``.h5``, ``.npz`` or ``.zarr`` file.
        group_by : "prediction" or labels, optional
            Statistics for each predicted class apart, or for each of the labels: an array, a list, or a path.
        correct : labels, optional
            The true classes: samples that the model predicts otherwise are left out of the statistics.
        quantiles : float or sequence of float
            Quantiles of the maps, 0 to 1, to about 3 %.
        mask : bool array or path, optional
            The points of the source's grid that are the model's features, in the grid's order. A mask with
            coordinates is aligned with a source that has them. Relevances come back on the grid, NaN where it
            has no features.
        progress : bool or callable
            A progress bar on a terminal; or a function called with the number of samples of each chunk done.
        resume : bool
            Go on where an earlier run with the same arguments was stopped; False begins anew.
        overwrite : bool
            Replace finished outputs that are there already; those that hold anything else are left, and told of.
        cluster : str, path or distributed.Client, optional
            Let the workers of a Dask cluster explain, of the files' own disk: "local:4" starts four here,
            "tcp://host:port" is a scheduler's address, "scheduler.json" the file that it wrote. All workers must
            reach the source and the sink.

        Returns
        -------
        Streamed
            With ``statistics``, ``samples``, ``seconds`` and the like.

        Raises
        ------
        InputError
            For what is wrong with the data or the outputs, for an output that another run writes, and for an
            unfinished run of other settings.
        OSError
            For a full disk and the like; what is done is kept.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0, -1.0], [2.0, 1.0]]))])
        >>> np.save("x.npy", np.ones((1000, 2)))
        >>> done = lrpfast.Analyzer(model, "zero").stream("x.npy", "relevance.npy", statistics=True, progress=False)
        >>> done.shape, done.statistics.mean.round(3)
        ((1000, 2), array([[1., 2.]]))
        """
        from ..batch.stream import stream  # against the direction of the folders: the public way in is here

        return stream(
            self,
            source,
            sink,
            target=target,
            batch_size=batch_size,
            normalize=normalize,
            statistics=statistics,
            group_by=group_by,
            correct=correct,
            quantiles=quantiles,
            mask=mask,
            progress=progress,
            resume=resume,
            overwrite=overwrite,
            cluster=cluster,
        )

    def map(self, x: Any, target: Any = None, *, normalize: str | None = None, mask: Any = None) -> Any:
        """Relevance of a Dask or xarray array, lazily: computed chunk by chunk, where and when Dask computes it.

        Chunks along the samples stay as they are, features are brought together; every worker gets the model
        once. A task takes one thread, unless the analyzer was given ``threads``. The numbers are those of `analyze`.

        Parameters
        ----------
        x : dask.array.Array or xarray.DataArray, shape (samples, *input_shape)
            xarray's may be lazy or not. Any other array is explained at once.
        target : optional
            As in `analyze`; one for each sample as an array of as many, also Dask's.
        normalize, mask
            As in `stream`.

        Returns
        -------
        array
            Dask's for Dask's, xarray's for xarray's: with the names, coordinates and attributes of ``x``, and in its
            attributes how it was made.

        Raises
        ------
        InputError, ShapeError

        Examples
        --------
        >>> import dask.array
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0, -1.0], [2.0, 1.0]]))])
        >>> relevance = lrpfast.Analyzer(model, "zero").map(dask.array.ones((4, 2), chunks=2))
        >>> relevance.chunks, relevance.sum(0).compute().round(3).tolist()
        (((2, 2), (2,)), [4.0, 8.0])
        """
        from ..batch.cluster import map_array  # as in stream

        return map_array(self, x, target, normalize=normalize, mask=mask)

    def explain(self, x: Any, target: Any = None, *, layers: bool = False) -> Explanation:
        """Relevance with the output, the target and every layer's balance.

        The relevance is the very same as `analyze` gives, bit for bit; on a GPU, to rounding.

        Parameters
        ----------
        x, target
            As in `analyze`; one target per sample.
        layers : bool
            Whether to return the relevance of every layer's output too.

        Returns
        -------
        Explanation

        Warns
        -----
        AmplificationWarning
            Where relevance grows so much, in a layer or in all, that single values mean little.
        VanishingWarning
            Where next to nothing of the output reaches the input.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0], [2.0]]), np.array([1.0]))])
        >>> explanation = lrpfast.Analyzer(model, "zero", precision="float64").explain(np.array([[1.0, 1.0]]))
        >>> balance = explanation.conservation[0]
        >>> balance.layer, balance.incoming.round(3), balance.outgoing.round(3), balance.bias.round(3)
        ('dense', array([4.]), array([3.]), array([1.]))
        """
        return self._explain(x, target, check_flag(layers, "layers"))

    def _explain(self, x: Any, target: Any, layers: bool) -> Explanation:
        if self._open:
            return self.fixed(x)._explain(x, target, layers)
        tensors, given = is_tensor(x), self._pack(x)
        start, axes = self._start(given, target)
        x = to_host(given)  # what the balance is made of is looked at there
        if axes:
            raise InputError("explain takes one target per sample; call it once for each column of targets")
        lowered, _ = self._trace()
        samples = len(x)
        relevance = np.empty((samples, *self._layout.row), self._dtype)
        output = np.empty((samples, *self._layout.output_row), self._dtype)
        nodes = self._explained.nodes
        shapes: list[Any] = [n.shape for n in nodes]  # fixed by now
        hidden = {i: np.empty((samples, *n), self._dtype) for i, n in enumerate(shapes)} if layers else {}
        figures: list[list[dict[str, np.ndarray]]] = [[] for _ in lowered.layers]
        notes: list[Any] = []
        for part, piece, kept in self._traced_chunks(x, start, notes):
            relevance[part] = piece
            output[part] = kept[lowered.program.output].reshape(output[part].shape)
            for i, array in hidden.items():
                array[part] = kept[lowered.relevance[self._plan.values[i]]].reshape(array[part].shape)
            for trace, figure in zip(lowered.layers, figures, strict=True):
                figure.append(layer_balance(trace, kept, len(piece)))
        joined = [{key: np.concatenate([p[key] for p in figure]) for key in figure[0]} for figure in figures]
        made, outputs = self._layout.unpack(like(relevance, given)), self._layout.unpack_output(like(output, given))
        inner = {nodes[i].name: like(array, given) for i, array in hidden.items()} if layers else None
        if tensors:
            made, outputs, inner = as_tensors(made), as_tensors(outputs), as_tensors(inner) if layers else None
        if not self._backend.judges:
            self._judge(given, relevance[:, None], start, notes, True)
        conservation, grown = make_conservation(lowered.layers, joined)
        if notes or grown:
            warn(Growth.of(notes, self._conserves), samples, self._rectify, grown)
        return Explanation(made, outputs, explained_targets(start, output), conservation, inner)
