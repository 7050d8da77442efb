"""The methods of an analyzer about single channels: reference samples, and what a channel is made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .engine.attribution_graph import WIDTH, AttributionGraph, attribution_graph

if TYPE_CHECKING:
    from .batch.references import References
    from .engine.core import AnalyzerCore


class ConceptMethods:
    """Part of `Analyzer`."""

    _core: AnalyzerCore

    def references(
        self,
        source: Any,
        layer: str,
        k: int = 40,
        *,
        by: str = "relevance",
        of: str = "sum",
        out: str | os.PathLike[str] | None = None,
        target: Any = None,
        normalize: str | Sequence[str] | None = None,
        group_by: Any = None,
        correct: Any = None,
        mask: Any = None,
        select: Any = None,
        fill_nan: float | None = None,
        batch_size: int | str = "auto",
        progress: bool | Callable[[int], object] = True,
        resume: bool = True,
        overwrite: bool = False,
        cluster: Any = None,
    ) -> References:
        """For every channel of a layer, the samples of a data set that count most: one pass, which can be resumed.

        Nothing below the layer is explained; by activation, nothing at all. Memory holds k samples of each channel.
        Samples of equal values are in the order of their indices: the result is the same for any batch size and number
        of threads.

        Parameters
        ----------
        source : path, array, iterator
            As in `stream`.
        layer : str
            By its name in the model; channels are its last axis.
        k : int
            The number of samples of each channel.
        by : {"relevance", "activation"}
            By what the channel contributes to the target, or by what it puts out.
        of : {"sum", "max"}
            The sum over the layer's positions, or the largest value.
        out : path, optional
            Store the references (``.npz``, ``.nc``, ``.h5``, ``.zarr``); only then can the pass be resumed.
        target : optional
            As in `stream`; one for each sample.
        normalize : {"maxabs", "sum", "max", "l1"}, optional
            Divide the values of a sample's channels by this, as in `stream`: "l1" makes them shares.
        group_by, correct, mask, select, fill_nan, batch_size, progress, resume, overwrite, cluster
            As in `stream`: references of each group.

        Returns
        -------
        references : References
            ``indices``, ``values`` and ``positions``; `lrpfast.plot.references` draws them.

        Raises
        ------
        InputError, ShapeError, OSError

        Examples
        --------
        >>> layers = [lrpfast.layers.Dense(np.eye(2), name="first"), lrpfast.layers.Dense(np.ones((2, 1)))]
        >>> analyzer = lrpfast.Analyzer(lrpfast.from_layers(layers), "epsilon")
        >>> analyzer.references(np.array([[1.0, 0.0], [3.0, 1.0], [2.0, 5.0]]), "first", k=2).indices
        array([[1, 2],
               [2, 1]])
        """
        from .batch.references import ReferenceSettings, references
        from .batch.settings import StreamSettings

        sought = ReferenceSettings(layer, k, by, of, normalize)  # type: ignore[arg-type]  # checked there
        settings = StreamSettings(
            target=target,
            batch_size=batch_size,
            layers=layer,
            statistics=True if out is None else out,
            group_by=group_by,
            correct=correct,
            mask=mask,
            select=select,
            fill_nan=fill_nan,
            progress=progress,
            resume=resume,
            overwrite=overwrite,
            cluster=cluster,
        )
        return references(self._core, source, settings, sought)

    def attribution_graph(
        self,
        x: Any,
        layer: str,
        channel: int,
        *,
        width: int | Sequence[int] = WIDTH,
        layers: Sequence[str] | None = None,
        target: Any = None,
    ) -> AttributionGraph:
        """The channels of lower layers that a channel's relevance in one sample flows through.

        Parameters
        ----------
        x : array, shape (1, *input_shape)
        layer : str
        channel : int
        width : int or sequence of int
            From layer to layer, the number of channels that each channel is shown to be made of: those with the
            largest absolute relevance.
        layers : sequence of str, optional
            The lower layers, from above to below, one for each number of ``width``; by default the next ones with
            weights.
        target : optional
            As in `analyze`.

        Returns
        -------
        AttributionGraph
            ``nodes`` and ``edges``, as tables; ``save(path)``, ``to_networkx()``.

        Raises
        ------
        InputError, ShapeError

        Examples
        --------
        >>> first = lrpfast.layers.Dense(np.array([[1.0, 2.0], [3.0, 1.0]]), name="first")
        >>> model = lrpfast.from_layers([first, lrpfast.layers.Dense(np.array([[2.0], [1.0]]), name="second")])
        >>> graph = lrpfast.Analyzer(model, "zero").attribution_graph(np.array([[1.0, 1.0]]), "second", 0, width=2)
        >>> [(edge.to_channel, round(edge.relevance, 3)) for edge in graph.edges]
        [(0, 8.0), (1, 3.0)]
        """
        return attribution_graph(self._core, x, layer, channel, width, layers, target)
