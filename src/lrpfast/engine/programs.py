"""The compiled programs of one plan, and the conditions that they run under."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..kernels import DEFAULT_START, SmallRuns, Start, backend
from .execute import chunks, run
from .io_layout import IOLayout
from .lower import Lowered, lower
from .lower_conditions import Chain, Conditional, lower_conditions
from .lower_steps import StepPrograms, lower_steps
from .plan import Plan
from .settings import AnalyzerSettings
from .threads import get_num_threads

#: The largest number of programs that are kept for different hidden layers, and for different layers of conditions.
MOST_STORING = 4


class Programs:
    """Relevance alone, compiled at once; with outputs, with every layer's balance, or outputs alone when first needed.

    Several threads may ask for a program at the same time: at worst it is compiled twice.

    Parameters
    ----------
    plan : Plan
    settings : AnalyzerSettings

    Attributes
    ----------
    backend : Backend
    main : Compiled
        Relevance of the input, and nothing else.
    """

    def __init__(self, plan: Plan, settings: AnalyzerSettings) -> None:
        self._plan, self._settings = plan, settings
        self.backend = backend(settings.device)
        self.main = self.backend.compile(self._lowered().program)
        self._with_output: tuple[Any, int] | None = None
        self._forward: Any = None
        self._traced: tuple[Lowered, Any] | None = None
        self._storing: dict[tuple[Any, ...], tuple[Lowered, Any]] = {}
        self._conditional: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    def described(self, plan: Plan) -> Plan:
        """The plan, with what the backend says of it."""
        return replace(plan, packed=self.main.packed_size(), libraries=self.main.by_libraries())

    def _options(self) -> dict[str, Any]:
        """What all programs of explanations have in common."""
        settings = self._settings
        return {
            "dtype": settings.dtype.name,
            "operands": settings.operands,
            "rectify": settings.rectify,
            "input_range": settings.input_range,
            "gradients": settings.gradients,
        }

    def _lowered(self, *, trace: bool = False, stored: frozenset[int] = frozenset()) -> Lowered:
        return lower(self._plan, self.backend, trace=trace, stored=stored, **self._options())

    def small_runs(self, layout: IOLayout, start: Start) -> SmallRuns | None:
        """Runs of the main program on small batches, where nothing is left to do but to run it."""
        settings = self._settings
        if settings.averages or settings.memory is not None or layout.several or layout.inputs[0].entries is not None:
            return None
        runs: SmallRuns | None = self.main.small_run(layout.row, start, judges=settings.gradients is None)
        return runs

    def with_output(self) -> tuple[Any, int]:
        """The program that keeps the model's outputs too, and their buffer."""
        if self._with_output is None:
            program = self._lowered().program
            program = replace(program, keep=(program.output,))
            self._with_output = self.backend.compile(program), program.output
        return self._with_output

    def forward(self) -> Any:
        """The forward half of the main program, with which its outputs agree to the last bit."""
        if self._forward is None:
            self._forward = self.backend.compile(replace(self._lowered().program, backward=(), result=None))
        return self._forward

    def traced(self) -> tuple[Lowered, Any]:
        """The program that keeps what every layer's balance is computed from."""
        if self._traced is None:
            lowered = self._lowered(trace=True)
            self._traced = lowered, self.backend.compile(lowered.program)
        return self._traced

    def storing(self, values: Sequence[int], *, whole: bool) -> tuple[Lowered, Any]:
        """The program that keeps some values and their relevance; its result is the first one's unless ``whole``.

        ``values`` are in the graph's order.
        """
        key = (*values, whole)
        known = self._storing.get(key)
        if known is None:
            lowered = self._lowered(stored=frozenset(values))
            program = lowered.program if whole else lowered.down_to(values[0], values)
            keep = {lowered.relevance[v] for v in values} | {lowered.values[v] for v in values} | {program.output}
            program = replace(program, keep=tuple(sorted(keep - {0, program.result})))
            lowered = replace(lowered, program=program)
            if not whole and program.result is not None:
                lowered.relevance[values[0]] = program.result
            known = lowered, self.backend.compile(program)
            _remember(self._storing, key, known)
        return known

    def conditional(self, chains: tuple[Chain, ...], parallel: bool) -> tuple[Conditional, Any]:
        """The program of conditions on these chains of values."""
        key = ("conditions", chains, parallel)
        known = self._conditional.get(key)
        if known is None:
            conditional = lower_conditions(self._plan, self.backend, chains, parallel=parallel, **self._options())
            known = conditional, self.backend.compile(conditional.program)
            _remember(self._conditional, key, known)
        return known

    def steps(self, values: tuple[int, ...]) -> tuple[StepPrograms, tuple[Any, ...]]:
        """The programs of relevance from value to value, from above to below, after one forward pass."""
        key = ("steps", values)
        known = self._conditional.get(key)
        if known is None:
            lowered = lower_steps(self._plan, self.backend, values, **self._options())
            known = lowered, tuple(self.backend.compile(program) for program in (lowered.first, *lowered.steps))
            _remember(self._conditional, key, known)
        return known

    def activations(self, value: int, *, output: bool) -> tuple[Any, int, int]:
        """The forward pass up to a value, the value's buffer, and that of the model's output, which may be kept.

        For the input itself there is no pass.
        """
        key = (value, "activations", output)
        known = self._storing.get(key)
        if known is None:
            lowered = self._lowered(stored=frozenset([value]))
            compiles = lowered.values[value] != 0  # buffer 0 is the input
            known = lowered, self.backend.compile(lowered.up_to(value, output=output)) if compiles else None
            _remember(self._storing, key, known)
        lowered, compiled = known
        return compiled, lowered.values[value], lowered.program.output

    def chunks(self, samples: int, bytes_per_sample: int) -> Iterator[slice]:
        """The batch in slices that the backend takes at once."""
        return chunks(samples, bytes_per_sample, self.backend.batch_bytes)

    def run(
        self,
        compiled: Any,
        x: np.ndarray,
        out: np.ndarray,
        first: int,
        settings: AnalyzerSettings,
        start: Start = DEFAULT_START,
        keep: dict[int, np.ndarray] | None = None,
        notes: list[Any] | None = None,
        exact: bool = False,
    ) -> None:
        """Run one of the programs over one chunk; ``first`` is the number of its first sample."""
        run(
            compiled,
            x,
            out,
            first=first,
            threads=settings.threads or get_num_threads(),
            memory=settings.memory,
            start=start,
            keep=keep,
            precision=settings.precision,
            input_range=settings.input_range,
            mask_nan=settings.mask_nan,
            notes=notes if self.backend.judges else None,
            exact=exact,
        )


def _remember(programs: dict[tuple[Any, ...], Any], key: tuple[Any, ...], program: Any) -> None:
    """Keep a program, and the last few before it."""
    for old in list(programs)[: 1 - MOST_STORING]:  # a copy, because other threads may run this, too
        programs.pop(old, None)
    programs[key] = program
