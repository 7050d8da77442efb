"""Several models explained alike, such as networks that were trained from other seeds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .analyzer import Analyzer
from .errors import InputError
from .rules import Rule
from .rules.composites import Composite
from .table import counted

if TYPE_CHECKING:
    from .batch.statistics import Statistics


@dataclass(frozen=True, eq=False)
class EnsembleStreamed:
    """The outcome of `Ensemble.stream`: for every group, statistics of the members' mean maps.

    Attributes
    ----------
    members : tuple of str
        The members' names, in order.
    groups : list
    count : array, shape (members, groups)
        Samples.
    mean, std, minimum, maximum : array, shape (groups, *map)
        Of the members' mean maps; NaN where no member has a value.
    positive, negative : array, shape (groups, *map)
        Shares of the members whose mean is above and below zero.
    statistics : dict of str to Statistics
        Each member's, if they were asked for in memory (``statistics=True``).
    files : dict of str to str
        Each member's file of statistics, if they went to files.
    outputs : dict of str to str
        Each member's file of relevances, if there are any.
    resumed : tuple of str
        The members that an earlier, interrupted run had finished.
    seconds : float

    Examples
    --------
    >>> models = {f"seed {i}": lrpfast.from_layers([lrpfast.layers.Dense(np.full((2, 1), i))]) for i in (1.0, -2.0)}
    >>> done = lrpfast.Ensemble(models, "zero").stream(np.ones((3, 2)), progress=False)
    >>> done.count.tolist(), done.minimum.tolist(), done.positive.tolist()
    ([[3], [3]], [[-2.0, -2.0]], [[0.5, 0.5]])
    """

    members: tuple[str, ...]
    groups: list[Any]
    count: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    statistics: dict[str, Statistics]
    files: dict[str, str]
    outputs: dict[str, str]
    resumed: tuple[str, ...]
    seconds: float

    def __repr__(self) -> str:
        samples = int(self.count.sum(1).max(initial=0))
        groups = f", {len(self.groups)} groups" if len(self.groups) > 1 else ""
        facts = f"{counted(len(self.members), 'member')}, {counted(samples, 'sample')}{groups}; {self.seconds:.3g} s"
        return f"<lrpfast.EnsembleStreamed: {facts}>"


class Ensemble:
    """Several models that are explained alike: networks of other seeds, of other years, from cross-validation.

    Members are loaded one after the other, when they are explained.

    Parameters
    ----------
    models : str, list or mapping
        A pattern of files, such as ``"seed_*.h5"``, whose names name the members; a list of models and paths; or a
        mapping from the members' names.
    rule : Rule, Composite, str or callable
        As in `Analyzer`; or a function that makes a model's analyzer:
        ``lambda model: lrpfast.create_analyzer("lrp.z", model)``.
    **settings
        As in `Analyzer`.

    Raises
    ------
    InputError, ModelNotFoundError

    Examples
    --------
    >>> models = [lrpfast.from_layers([lrpfast.layers.Dense(np.full((2, 1), w))], name=f"w{w}") for w in (1.0, 3.0)]
    >>> done = lrpfast.Ensemble(models, "zero").stream(np.ones((4, 2)), statistics=True, progress=False)
    >>> done.members, done.mean.round(3), done.std.round(3)
    (('w1.0', 'w3.0'), array([[2., 2.]]), array([[1., 1.]]))
    """

    def __init__(self, models: Any, rule: Rule | Composite | str | Callable[[Any], Analyzer], **settings: Any) -> None:
        self._models = _named(models)
        if isinstance(rule, (Rule, Composite, str)):
            self._analyzer: Callable[[Any], Analyzer] = lambda model: Analyzer(model, rule, **settings)
        else:
            self._analyzer = rule

    @property
    def members(self) -> tuple[str, ...]:
        """The members' names."""
        return tuple(self._models)

    @property
    def models(self) -> tuple[Any, ...]:
        """The members' models, or their files."""
        return tuple(self._models.values())

    def __repr__(self) -> str:
        return f"<lrpfast.Ensemble: {', '.join(self.members)}>"

    def analyzers(self) -> Iterator[tuple[str, Analyzer]]:
        """Each member's name and analyzer, one at a time."""
        for name, model in self._models.items():
            yield name, self._analyzer(model)

    def stream(
        self,
        source: Any,
        sink: str | os.PathLike[str] | None = None,
        *,
        statistics: bool | str | os.PathLike[str] = True,
        resume: bool = True,
        overwrite: bool = False,
        **options: Any,
    ) -> EnsembleStreamed:
        """Explain a data set by every member, and compute statistics over the members.

        A member's relevances and statistics go to files of their own, which have its name before the extension:
        ``relevance.nc`` becomes ``relevance_seed_1.nc``. The file ``statistics`` itself has, for every group, the mean,
        the standard deviation, the smallest and the largest of the members' mean maps, and the shares of members whose
        mean is above and below zero. A run that was interrupted goes on at the member, and there at the sample, where
        it was.

        Parameters
        ----------
        source, sink
            As in `Analyzer.stream`; not an iterator, which is read only once.
        statistics : bool or path
            The file of the statistics over the members; True keeps all in memory.
        resume, overwrite
            As in `Analyzer.stream`.
        **options
            As in `Analyzer.stream`, conditions too; ``layers`` excepted, because networks differ in what their hidden
            layers' channels are.

        Returns
        -------
        EnsembleStreamed

        Raises
        ------
        InputError
            As `Analyzer.stream`, and for members whose inputs or outputs have other shapes.

        Examples
        --------
        >>> layers = [lrpfast.layers.Dense(np.ones((2, 1)))]
        >>> lrpfast.from_layers(layers).save("seed_1.npz"), lrpfast.from_layers(layers).save("seed_2.npz")
        (None, None)
        >>> ensemble = lrpfast.Ensemble("seed_*.npz", "zero")
        >>> ensemble.stream(np.ones((4, 2)), statistics="maps.h5", progress=False).files
        {'seed_1': 'maps_seed_1.h5', 'seed_2': 'maps_seed_2.h5'}
        """
        from .batch.members import MembersRun

        if not statistics:
            raise InputError("an ensemble computes statistics over its members: statistics=True or a file's name")
        begin = time.perf_counter()
        cores = ((name, member._core) for name, member in self.analyzers())
        run = MembersRun(self.members, cores, source, sink, statistics, resume, overwrite, options)
        return EnsembleStreamed(**run.complete(), seconds=time.perf_counter() - begin)


def _named(models: Any) -> dict[str, Any]:
    """The models by the members' names."""
    from .batch.sources import expanded_if_missing

    if isinstance(models, Mapping):
        named = {str(name): model for name, model in models.items()}
    else:
        if isinstance(models, (str, os.PathLike)):
            models = expanded_if_missing(os.fsdecode(models))
        if not isinstance(models, (list, tuple)):
            raise InputError(f"models must be a pattern of files, a list or a mapping, not {type(models).__name__}")
        names = [_name(model, i) for i, model in enumerate(models)]
        if len(set(names)) < len(names):
            names = [f"{name}_{i}" for i, name in enumerate(names)]
        named = dict(zip(names, models, strict=True))
    if not named:
        raise InputError("an ensemble needs a model at least")
    for name in named:
        if not name or {"/", "\\", "\0"} & set(name):
            raise InputError(f"the member's name {name!r} cannot be part of a file's name; a mapping names the members")
    return named


def _name(model: Any, index: int) -> str:
    if isinstance(model, (str, os.PathLike)):
        return os.path.splitext(os.path.basename(os.fsdecode(model)))[0]
    return str(getattr(model, "name", None) or f"member_{index}")
