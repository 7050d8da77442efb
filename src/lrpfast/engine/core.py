"""The core of an analyzer: what it plans once, and the runs of its explanations."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import InputError
from ..kernels import SmallRuns, Start, backend
from ..kernels.arrays import as_array, as_tensors, empty_like, is_tensor, like, to_host
from ..kernels.growth import MOST_JUDGED, Growth, judge
from ..lazy import lazy_property
from ..model.canonize import Folds
from ..model.graph import Model
from ..rules.composites import Assignment
from ..version import __version__
from . import sequences
from .averages import AveragedGradients, baseline_row, explained_values, fixed_start
from .balance import layer_balance, make_conservation, no_conservation
from .conditions import ConditionalRuns, Conditions, amplified_alone
from .execute import check_device
from .explain_scope import explained_part, explained_targets, minus_reference, with_attention_for_gradients
from .explanation import Explanation
from .growth import conserves, warn
from .inputs import as_start, check_out, check_target
from .io_layout import IOLayout
from .plan import Plan
from .planner import make_plan
from .programs import Programs
from .result_memory import result_array
from .settings import AnalyzerSettings
from .variants import Variants


class AnalyzerCore(ConditionalRuns, AveragedGradients, Variants):
    """A model, the settings of an analyzer, their plan and the compiled programs; `lrpfast.Analyzer` is built on it.

    It is immutable. For a model with open input sizes it has no plan: `fixed` returns a core for given sizes,
    which `analyze` and `explain` use.

    Parameters
    ----------
    model : Model
    settings : AnalyzerSettings

    Attributes
    ----------
    is_open : bool
        Whether the model leaves input sizes open; if so, it has none of the attributes below.
    explained_model : Model
        The explained part of the model: up to the start layer, with batch normalization folded.
    layout : IOLayout
    plan : Plan
    conserves : bool
        Whether the rules conserve relevance, so that growth is worth a warning.
    """

    #: The attributes that `_prepare` derives, which pickles omit.
    _derived = (
        *("assignment", "explained_model", "layout", "plan", "conserves"),
        *("_per_sample", "_programs", "_constant_start", "_small_runs", "_baseline", "_prefixes", "_padding"),
    )
    #: For batches of a few samples, where the checks of `analyze` would take longer than the explanation.
    _small_runs: SmallRuns | None = None

    def __init__(self, model: Model, settings: AnalyzerSettings) -> None:
        self.model, self.settings = model, settings
        self.is_open = model.is_open
        self._variants: dict[tuple[Any, ...], AnalyzerCore] = {}  # for input sizes of an open model, and other starts
        self._folds: Folds = {}  # which all variants share
        self._padding = None
        self._data = 0  # bytes of a sample, if the data determine its size
        if not self.is_open:
            self._prepare()

    def _explained(self, model: Model, assignment: Assignment) -> tuple[Model, Assignment]:
        """The part of a model that is explained, as it is computed, and its rules."""
        settings = self.settings
        explained, assignment = explained_part(
            model, assignment, settings.composite.canonize, settings.stripped, settings.start, self._folds
        )
        if settings.y_ref is not None:
            explained = minus_reference(explained, settings.y_ref)
        return with_attention_for_gradients(explained, assignment)

    def _prepare(self, explained: tuple[Model, Assignment] | None = None) -> None:
        """Plan the model and compile its program; all shapes are known.

        ``explained`` is what `_explained` would return, if that is known.
        """
        settings = self.settings
        if explained is None:
            explained = self._explained(self.model, self.assignment)
        self.explained_model, assignment = explained
        self.layout = IOLayout(self.explained_model)
        self.plan: Plan = make_plan(
            self.explained_model,
            assignment,
            input_range=settings.input_range,
            mask_nan=settings.mask_nan,
            tf32=settings.operands == "rounded",
            memory=settings.memory,
            data=self._data,
        )
        self._programs = Programs(self.plan, settings)
        self.plan = self._programs.described(self.plan)
        self.conserves, self._prefixes = conserves(self.plan), {}
        self._per_sample = 2 * math.prod(self.layout.row) * settings.dtype.itemsize
        self._baseline = baseline_row(settings.gradients, self.layout, settings.input_range)
        self._constant_start: Start | None = None  # if the target is the same for every batch
        target = settings.target
        if isinstance(target, (str, bool, int, np.integer, tuple)) and len(self.layout.outputs) == 1:
            self._constant_start, _ = as_start(target, 1, self.output_shape, settings.dtype, lambda: np.empty(0))
            self._small_runs = self._programs.small_runs(self.layout, self._constant_start)
        elif target is not None:
            self.check_target(target)

    # Properties

    @lazy_property
    def assignment(self) -> Assignment:
        """The rule of every layer of the model."""
        return self.settings.composite.assign(self.model)

    @property
    def input_shape(self) -> Any:
        """The shape of one sample; a list of shapes for several inputs."""
        return (self.model if self.is_open else self.explained_model).input_shape

    @property
    def output_shape(self) -> Any:
        """The shape of the explained output for one sample; a list of shapes for several outputs."""
        return (self.model if self.is_open else self.explained_model).output_shape

    @property
    def device(self) -> str:
        """The device: "cpu", or the GPUs, as "gpu:0, gpu:1"."""
        return backend(self.settings.device).name if self.is_open else self._programs.backend.name

    def describe_device(self) -> str:
        """The device; for the CPU with its instruction set."""
        on = self._programs.backend
        return f"{on.name} {on.describe().get('instruction set', '')}".strip()

    def check_target(self, target: Any) -> None:
        """Raise InputError for a target that is invalid for any batch."""
        shape = None
        if isinstance(target, Mapping) or len(self.layout.outputs) == 1:
            slot, target = self.layout.output(target)
            shape = slot.shape
        check_target(target, shape)

    # Copies: for hidden layers, threads and other processes

    def for_one_task(self) -> AnalyzerCore:
        """The core for one of several concurrent tasks: with one thread, unless the caller chose a number."""
        if self.settings.threads:
            return self
        single = copy.copy(self)  # compiled programs are shared: they have no state of a run
        single.settings = self.settings.with_threads(1)
        return single

    def __copy__(self) -> AnalyzerCore:
        twin = AnalyzerCore.__new__(AnalyzerCore)
        twin.__dict__.update(self.__dict__, _variants={}, _padding=None)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key not in self._derived}
        return {**state, "_variants": {}, "_folds": {}, "version": __version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        version = state.get("version", "another version")
        if version != __version__:
            raise InputError(
                f"this analyzer was pickled by lrpfast {version}, and this is lrpfast {__version__}: "
                "pickles are for processes of one version; make the analyzer anew from its model"
            )
        self.__dict__.update({key: value for key, value in state.items() if key != "version"})
        self._padding = None
        if not self.is_open:
            self._prepare()

    # Runs

    def analyze(
        self,
        x: Any,
        target: Any = None,
        out: Any = None,
        output: np.ndarray | None = None,
        notes: Any = None,
        exact: bool = True,
        starts: list[Start] | None = None,
        conditions: Conditions | None = None,
    ) -> Any:
        """`Analyzer.analyze`; also writes the model's outputs, before a final softmax, to ``output`` if given.

        The growth of relevance in every explanation is appended to ``notes`` if given; else it may cause a warning.
        What the relevance started with is appended to ``starts``.
        Where not ``exact``, notes are of a part of the features as they are for warnings.
        """
        plain = output is None and notes is None and starts is None and conditions is None
        if self._small_runs is not None and target is None and plain:
            small = self._small(self._small_runs, x, out)
            if small is not None:
                return small
        if not isinstance(x, np.ndarray) or x.dtype.kind == "O":
            x, names, samples = sequences.arranged(self.model, x)
            if samples is not None or names:
                out = sequences.by_name(names, out, "out") if names and out is not None else out
                if samples:
                    return sequences.named(names, sequences.analyze(self, samples, target, out, conditions))
                return sequences.named(names, self.analyze(x, target, out, conditions=conditions))
        if self.is_open:
            return self.fixed(x).analyze(x, target, out, output, notes, exact, starts, conditions)
        warns = notes is None
        exact, notes = exact and not warns, [] if warns else notes
        tensors, callers_out = is_tensor(x), out
        if is_tensor(out):  # filled in place
            out = [as_array(o) for o in out] if self.layout.several else as_array(out)
        x = self._pack(x)
        count, programs, settings = len(x), self._programs, self.settings
        layout, dtype = self.layout, settings.dtype
        start, axes = (self._constant_start, ()) if target is None and self._constant_start else self._start(x, target)
        if starts is not None:
            starts.append(start)
        order = None
        if conditions is None:
            compiled, output_buffer = (programs.main, None) if output is None else programs.with_output()
        else:
            compiled, output_buffer, start, axes, order = self._conditional(conditions, start, axes)
        shape = (count, *axes, *layout.row)
        result = self._empty(shape, x) if out is None or layout.several else check_out(out, shape, dtype, x)
        if settings.averages:
            self._average(x, start, axes, result, output)
            return self._returned(result, out, callers_out, tensors)
        judged = notes if settings.gradients is None else None
        outputs = {} if output is None or output_buffer is None else {output_buffer: output}
        self._run_chunks(compiled, x, result, start, (axes, order), outputs, judged, exact)
        if not programs.backend.judges and judged is not None:
            self._judge(x, result if axes else result[:, None], start, notes, exact)
        if notes and conditions is not None:
            notes[:] = amplified_alone(notes)
        if notes and warns:
            warn(Growth.of(notes, self.conserves), count * math.prod(axes), settings.rectify)
        return self._returned(result, out, callers_out, tensors)

    def _run_chunks(
        self,
        compiled: Any,
        x: Any,
        result: Any,
        start: Start,
        several: tuple[tuple[int, ...], list[int] | None],
        outputs: dict[int, np.ndarray],
        notes: list[Any] | None,
        exact: bool,
    ) -> None:
        """Run a program over a batch; ``outputs`` are arrays for buffers to keep.

        ``several`` are the second axis of the result, if it has one, and which of the run's relevances is where on it.
        """
        (axes, order), count, bytes_of_one = several, len(x), self._per_sample * math.prod(several[0])
        # slicing would take a considerable part of a small batch's time
        whole = count * bytes_of_one <= 1 << 20
        for part in (slice(0, count),) if whole else self._programs.chunks(count, bytes_of_one):
            rows = x if whole else x[part]
            into = result if whole else result[part]
            direct = not axes or (len(rows) == 1 and order is None and isinstance(into, np.ndarray))
            if not direct:
                into = empty_like((start.count, *rows.shape), self.settings.dtype, x)  # the run's order
            elif axes:
                into = into.swapaxes(0, 1)  # the same memory
            keep = {buffer: output[part] for buffer, output in outputs.items()} or None
            part_start = start if whole else start.part(part)
            self._programs.run(compiled, rows, into, part.start, self.settings, part_start, keep, notes, exact)
            for i, which in enumerate(range(start.count) if order is None else order) if not direct else ():
                result[part][:, i] = into[which]

    def _small(self, runs: SmallRuns, x: Any, out: Any) -> Any:
        """What `analyze` returns for a few samples, with its warnings; None where it must look at the arguments."""
        growth: list[Any] = []
        result = runs.run(x, out, growth)
        if growth:
            warn(Growth.of([(0, growth[0])], self.conserves), len(x), self.settings.rectify)
        return result

    def _returned(self, result: Any, out: Any, callers_out: Any, tensors: bool) -> Any:
        """The relevance as the caller wants it."""
        if callers_out is not None:
            if self.layout.several:
                self._copy_into(result, out)
            return callers_out
        relevance = self.layout.unpack(result)
        return as_tensors(relevance) if tensors else relevance

    def explain(self, x: Any, target: Any, layers: bool, numbers: Sequence[int] | None = None) -> Explanation:
        """`Analyzer.explain`; ``numbers`` are those of the samples in the caller's list, for warnings."""
        if not isinstance(x, np.ndarray) or x.dtype.kind == "O":
            x, names, sequence = sequences.arranged(self.model, x)
            if sequence is not None or names:
                whole = (
                    sequences.explain(self, sequence, target, layers) if sequence else self.explain(x, target, layers)
                )
                return replace(whole, relevance=sequences.named(names, whole.relevance))
        if self.is_open:
            return self.fixed(x).explain(x, target, layers, numbers)
        if self.settings.averages:
            return self._explain_average(x, target, layers)
        tensors, inputs = is_tensor(x), self._pack(x)
        start, axes = self._start(inputs, target)
        x = to_host(inputs)  # the balance is computed on the host
        if axes:
            raise InputError("explain takes one target per sample; call it once for each column of targets")
        lowered, _ = self._programs.traced()
        samples, dtype = len(x), self.settings.dtype
        rows = np.empty((samples, *self.layout.row), dtype)
        output_rows = np.empty((samples, *self.layout.output_row), dtype)
        nodes = self.explained_model.nodes
        shapes: list[Any] = [n.shape for n in nodes]  # no size is open here
        hidden = {i: np.empty((samples, *n), dtype) for i, n in enumerate(shapes)} if layers else {}
        figures: list[list[dict[str, np.ndarray]]] = [[] for _ in lowered.layers]
        notes: list[Any] = []
        balanced = self.settings.gradients is None
        for part, piece, buffers in self._traced_chunks(x, start, notes):
            rows[part] = piece
            output_rows[part] = buffers[lowered.program.output].reshape(output_rows[part].shape)
            for i, array in hidden.items():
                node, selected = self.plan.nodes[i]
                relevance = buffers[lowered.relevance[self.plan.values[node]]]
                if selected is None:
                    array[part] = relevance.reshape(array[part].shape)
                else:
                    selected.put(relevance, array[part])
            for trace, figure in zip(lowered.layers, figures, strict=True) if balanced else ():
                figure.append(layer_balance(trace, buffers, len(piece), in_order=self.of_open))
        joined = [{key: np.concatenate([p[key] for p in figure]) for key in figure[0]} for figure in figures if figure]
        relevance = self.layout.unpack(like(rows, inputs))
        output = self.layout.unpack_output(like(output_rows, inputs))
        inner = {nodes[i].name: like(array, inputs) for i, array in hidden.items()} if layers else None
        if tensors:
            relevance, output, inner = as_tensors(relevance), as_tensors(output), as_tensors(inner) if layers else None
        if not balanced:
            return Explanation(relevance, output, explained_targets(start, output_rows), no_conservation(), inner)
        if not self._programs.backend.judges:
            self._judge(inputs, rows[:, None], start, notes, True)
        conservation, grown = make_conservation(lowered.layers, joined, numbers)
        if notes or grown:
            notes = notes if numbers is None else sequences.numbered(numbers, notes)
            warn(Growth.of(notes, self.conserves), samples, self.settings.rectify, grown)
        return Explanation(relevance, output, explained_targets(start, output_rows), conservation, inner)

    def _empty(self, shape: tuple[int, ...], x: Any) -> Any:
        """An array for the result, where the inputs are."""
        dtype = self.settings.dtype
        return result_array(shape, dtype) if isinstance(x, np.ndarray) else empty_like(shape, dtype, x)

    def _pack(self, x: Any) -> Any:
        """The inputs as one array, on the host or on a GPU that the analyzer runs on."""
        x = self.layout.pack(x)
        check_device(x, self._programs.backend)
        return x

    def _start(self, x: np.ndarray, target: Any) -> tuple[Start, tuple[int, ...]]:
        target = self.settings.target if target is None else target
        if target is None:
            raise InputError(
                "neuron_selection_mode='index' has no target of its own: every call needs one, as target=0"
            )
        slot, target = self.layout.output(target)

        def output() -> np.ndarray:
            rows = self._outputs(x).reshape(len(x), math.prod(self.layout.output_row))
            return rows[:, slot.first : slot.first + slot.size]

        start, axes = as_start(target, len(x), slot.shape, self.settings.dtype, output)
        return self.layout.start_in_row(start, slot), axes

    def outputs(self, x: Any) -> np.ndarray:
        """The explained output of every sample, shape (samples, outputs), on the host."""
        rows = to_host(self._outputs(self._pack(x)))
        return rows.reshape(len(rows), math.prod(self.layout.output_row))

    def explained_values(self, x: Any, target: Any, output: np.ndarray) -> np.ndarray:
        """The value that is explained of each sample, float64, from the samples' ``output``."""
        start, axes = self._start(self._pack(x), target)
        if axes:
            raise InputError("there is one target for each sample here; take one column of the targets")
        rows = output.reshape(len(output), math.prod(self.layout.output_row)).astype(np.float64)
        return explained_values(fixed_start(start, lambda: output), rows)

    def _outputs(self, x: np.ndarray) -> np.ndarray:
        """The explained output of every sample: the forward half of the analyzer's own program."""
        compiled = self._programs.forward()
        outputs: np.ndarray = empty_like((len(x), *self.layout.output_row), self.settings.dtype, x)
        for part in self._programs.chunks(len(x), self._per_sample):
            self._programs.run(compiled, x[part], outputs[part], part.start, self.settings)
        return outputs

    def _judge(self, x: Any, relevance: Any, start: Start, notes: list[Any], exact: bool, first: int = 0) -> None:
        """Record how relevance, (samples, targets, …), grew, for a backend that does not, of some samples or all."""
        step = 1 if exact else max(1, -(-len(x) // MOST_JUDGED))
        for part in self._programs.chunks(len(x[::step]), self._per_sample * relevance.shape[1]):
            samples = slice(part.start * step, part.stop * step, step)
            if len(rows := x[samples]):
                # an explicit starting relevance needs no outputs
                output = None if start.mode == "array" else to_host(self._outputs(rows)).reshape(len(rows), -1)
                growth = judge(relevance[samples], output, start.part(samples), self.settings.rectify, step)
                if growth is not None:
                    notes.append((first + samples.start, growth))

    def _copy_into(self, result: np.ndarray, out: Any) -> None:
        """Copy the relevance to the caller's arrays, one for each input."""
        pieces = self.layout.unpack(result)
        if not isinstance(out, (list, tuple)) or len(out) != len(pieces):
            raise InputError(f"out must be a list of {len(pieces)} arrays, one for each input")
        for piece, into in zip(pieces, out, strict=True):
            check_out(into, piece.shape, self.settings.dtype, piece)[...] = piece

    def _traced_chunks(
        self, x: np.ndarray, start: Start, notes: list[Any]
    ) -> Iterator[tuple[slice, np.ndarray, dict[int, np.ndarray]]]:
        """The chunks of a traced run: (slice, relevance, buffers); appends the growth of relevance to ``notes``."""
        lowered, compiled = self._programs.traced()
        sizes, dtype = lowered.program.sizes, self.settings.dtype
        kept_size = sum(sizes[b] for b in lowered.program.keep)
        for part in self._programs.chunks(len(x), self._per_sample + kept_size * dtype.itemsize):
            rows = x[part]
            buffers = {b: np.empty((len(rows), sizes[b]), dtype) for b in lowered.program.keep}
            relevance = np.empty(rows.shape, dtype)
            part_start = start.part(part)
            self._programs.run(compiled, rows, relevance, part.start, self.settings, part_start, buffers, notes, True)
            result = lowered.program.result
            assert result is not None
            buffers[result] = relevance.reshape(len(rows), sizes[result])
            yield part, relevance, buffers
