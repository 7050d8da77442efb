"""Relevance and activations of single hidden layers: the part of an analyzer's core that computes them and no more."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..kernels.arrays import to_host
from ..model.graph import Model
from .execute import as_rows, predict
from .io_layout import IOLayout
from .layer_steps import LayerSteps, Node
from .plan import Plan
from .programs import Programs
from .settings import AnalyzerSettings

if TYPE_CHECKING:
    from ..kernels import Start


class HiddenLayers:
    """Part of `AnalyzerCore`."""

    settings: AnalyzerSettings
    explained_model: Model
    layout: IOLayout
    plan: Plan
    _programs: Programs
    _per_sample: int
    _prefixes: dict[str, Model]
    _pack: Callable[[Any], Any]
    _start: Callable[[Any, Any], tuple[Start, tuple[int, ...]]]
    _outputs: Callable[[Any], np.ndarray]
    _judge: Callable[..., None]

    def hidden(
        self,
        x: Any,
        target: Any,
        layers: Sequence[str],
        *,
        out: np.ndarray | None = None,
        output: np.ndarray | None = None,
        notes: Any = None,
        activations: bool = True,
        starts: list[Start] | None = None,
    ) -> Iterator[tuple[slice, dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """Relevance and activations of hidden layers, by their names, a chunk of samples at a time.

        Parameters
        ----------
        x, target
            As in `Analyzer.explain`.
        layers : sequence of str
            At least one.
        out : array, optional
            Rows of the relevance of the input. Without it, nothing below the layers is explained.
        output : array, optional
            As in `analyze`.
        notes : list, optional
            As in `analyze`; without ``out``, of the growth down to the first of the layers.
        activations : bool
            Whether the activations are wanted too.
        starts : list, optional
            As in `analyze`.
        """
        self._refuse_averages()
        x, notes = self._pack(x), notes if self.settings.gradients is None else None
        start, axes = self._start(x, target)
        if axes:
            raise InputError("hidden layers are explained for one target per sample, not for several")
        if starts is not None:
            starts.append(start)
        nodes = {name: self._layer(name) for name in layers}
        values = sorted({node.value for node in nodes.values()})
        lowered, compiled = self._programs.storing(values, whole=out is not None)
        program, dtype = lowered.program, self.settings.dtype
        wanted = {lowered.relevance[v] for v in values} | {lowered.values[v] for v in values if activations}
        kept = sorted(wanted & set(program.keep))
        assert program.result is not None
        kept_size = sum(program.sizes[b] for b in (*kept, program.result))
        for part in self._programs.chunks(len(x), self._per_sample + kept_size * dtype.itemsize):
            rows = x[part]
            buffers = {b: np.empty((len(rows), program.sizes[b]), dtype) for b in kept}
            if output is not None:
                buffers.setdefault(program.output, np.empty((len(rows), program.sizes[program.output]), dtype))
            result = np.empty((len(rows), program.sizes[program.result]), dtype) if out is None else out[part]
            own = start.part(part)
            self._programs.run(compiled, rows, result, part.start, self.settings, own, buffers, notes, True)
            if notes is not None and not self._programs.backend.judges:
                self._judge(rows, result[:, None], own, notes, True, part.start)
            if output is not None:
                output[part] = buffers[program.output].reshape(output[part].shape)
            buffers = {**buffers, program.result: result}
            if 0 in wanted:  # the input's activations are the input
                buffers[0] = as_rows(to_host(rows), dtype)

            relevance = {name: node.whole(buffers[lowered.relevance[node.value]]) for name, node in nodes.items()}
            values_of: dict[str, np.ndarray] = {}
            for name, node in nodes.items() if activations else ():
                if node.rows is None:
                    values_of[name] = node.whole(buffers[lowered.values[node.value]])
                else:  # rows that no relevance reaches are not computed in an explanation
                    values_of[name] = self._predicted(rows, name)
            yield part, relevance, values_of

    def layer_steps(self, x: Any, target: Any, layers: Sequence[str]) -> LayerSteps:
        """Relevance of layers of one sample, from above to below, each from the one above it, of one forward pass."""
        self._refuse_averages()
        x = self._pack(x)
        start, axes = self._start(x, target)
        if axes:
            raise InputError("hidden layers are explained for one target per sample, not for several")
        return LayerSteps(self._programs, self.settings, [self._layer(name) for name in layers], x, start)

    def _refuse_averages(self) -> None:
        """InputError for averages of gradients, which exist at the input alone."""
        if self.settings.averages and self.settings.gradients is not None:
            name = self.settings.gradients.name
            raise InputError(f"{name} averages gradients at the input: it gives hidden layers none")

    def _layer(self, name: str) -> Node:
        """A layer's output in the plan."""
        i = next(i for i, node in enumerate(self.explained_model.nodes) if node.name == name)
        node, rows = self.plan.nodes[i]
        return Node(self.explained_model.nodes[i].shape, self.plan.values[node], rows)  # type: ignore[arg-type]

    def _predicted(self, x: Any, layer: str) -> np.ndarray:
        """What a layer puts out, by a forward pass of the model up to it."""
        if layer not in self._prefixes:
            self._prefixes[layer] = self.explained_model.until(layer)
        settings, x = self.settings, self.layout.unpack(x)
        result: np.ndarray = to_host(
            predict(
                self._prefixes[layer],
                x,
                precision=settings.precision,
                device=settings.device,
                threads=settings.threads,
            )
        )
        return result

    def activations(self, x: Any, layer: str, out: np.ndarray, output: np.ndarray | None = None) -> None:
        """Write what a layer puts out to ``out``, and the model's outputs to ``output`` if given; compute no more."""
        x = self._pack(x)
        node = self._layer(layer)
        if node.rows is not None:
            for part in self._programs.chunks(len(x), self._per_sample):
                out[part] = self._predicted(x[part], layer)
            if output is not None:
                output[:] = to_host(self._outputs(x)).reshape(output.shape)
            return
        compiled, buffer, output_buffer = self._programs.activations(node.value, output=output is not None)
        if compiled is None:  # the input itself, in another shape
            out[:] = as_rows(to_host(x), out.dtype).reshape(out.shape)
            if output is not None:
                output[:] = to_host(self._outputs(x)).reshape(output.shape)
            return
        for part in self._programs.chunks(len(x), self._per_sample + math.prod(node.shape) * out.itemsize):
            keep = None if output is None or buffer == output_buffer else {output_buffer: output[part]}
            self._programs.run(compiled, x[part], out[part], part.start, self.settings, keep=keep)
        if output is not None and buffer == output_buffer:
            output[:] = out.reshape(output.shape)

    def relevance_of(
        self, x: Any, target: Any, layer: str, notes: list[Any] | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Relevance of a layer, (samples, *shape), of several targets (samples, targets, *shape); nothing below it.

        The growth of relevance down to the layer is appended to ``notes`` if given; the result is written to ``out``.
        """
        self._refuse_averages()
        x, notes = self._pack(x), notes if self.settings.gradients is None else None
        start, axes = self._start(x, target)
        node = self._layer(layer)
        lowered, compiled = self._programs.storing([node.value], whole=False)
        result = np.empty((len(x), *axes, *node.shape), self.settings.dtype) if out is None else out
        size = lowered.program.sizes[lowered.program.result or 0]
        for part in self._programs.chunks(len(x), self._per_sample + math.prod(axes) * size * result.itemsize):
            count = part.stop - part.start
            direct = not axes and node.rows is None
            into = result[part] if direct else np.empty((*axes, count, size), result.dtype)
            self._programs.run(
                compiled, x[part], into, part.start, self.settings, start.part(part), notes=notes, exact=True
            )
            if not direct:
                rows = into.swapaxes(0, 1) if axes else into
                result[part] = node.whole(rows.reshape(-1, size)).reshape(result[part].shape)
        if notes is not None and not self._programs.backend.judges:
            self._judge(x, result if axes else result[:, None], start, notes, True)
        return result
