"""The methods of an analyzer about whole data sets: from file to file, and of lazy arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batch.stream import Streamed
    from .engine.core import AnalyzerCore


class DatasetMethods:
    """Part of `Analyzer`."""

    _core: AnalyzerCore

    def stream(
        self,
        source: Any,
        sink: Any = None,
        *,
        select: Any = None,
        fill_nan: float | None = None,
        target: Any = None,
        batch_size: int | str = "auto",
        layers: str | Sequence[str] | None = None,
        reduce: str | None = None,
        activations: bool = False,
        conditions: Any = None,
        parallel: bool = False,
        part: str | None = None,
        normalize: str | Sequence[str] | None = None,
        statistics: bool | str | os.PathLike[str] = False,
        group_by: Any = None,
        correct: Any = None,
        quantiles: float | Sequence[float] = (),
        skip_zero: bool = False,
        compression: str = "auto",
        mask: Any = None,
        progress: bool | Callable[[int], object] = True,
        resume: bool = True,
        overwrite: bool = False,
        cluster: Any = None,
    ) -> Streamed:
        """Explain a data set of any length, chunk by chunk, from file to file; an interrupted run can be resumed.

        Reading, computing and writing overlap; memory does not grow with the number of samples. The same call
        resumes a run that was interrupted, even killed, and the result is the same, byte for byte.

        Parameters
        ----------
        source : path, array, iterator
            Samples along the first axis: an ``.npy``, ``.npz:name``, ``.h5:dataset``, ``.nc:variable`` or
            ``.zarr:array``, a NumPy, Dask or xarray array, or an iterator of batches (which cannot be resumed).
            For several inputs a mapping from their names, a list, or a file or group with an array for each name.
            Of a model of open length also samples of different lengths: an HDF5 dataset of rows of variable length, or
            a contiguous ragged array in NetCDF.
        sink : path or callable, optional
            The output: ``.npy``, ``.h5[:dataset]``, ``.nc[:variable]``, ``.zarr[:array]``, or a function that is
            called with (index of the first sample, relevances). None if only statistics are wanted. For several
            inputs an .h5, .nc or .npz file, with an array for each input by its name; a function gets a mapping.
            All formats but .npy also hold each sample's prediction, explained output, target and more.
        select : mapping, optional
            A part of the source, by its coordinates: ``{"time": slice("1982-01", "1999-12"), "lat": (-60, 60)}`` is a
            window of time and a range of latitudes, ends included; a list are values, ``{"time.season": ["DJF"]}``.
            Labels and targets of the whole source are selected likewise.
        fill_nan : float, optional
            A number in place of NaN.
        target : optional
            As in `analyze`; an array for one target per sample.
        batch_size : "auto" or int
            The number of samples in a chunk. Results do not depend on it.
        layers : str or list of str, optional
            Layers whose relevance is written and counted in place of the input's, by their names in the model: a list
            for an array of each name, or one. The input is a layer, too. One target per sample.
        reduce : {"channels", "sum"}, optional
            Sum hidden layers over all axes but the last, or over all; the input stays as it is.
        activations : bool
            The layers' activations, too, as arrays NAME_activation.
        conditions, parallel : optional
            As in `analyze`: relevance through some neurons of hidden layers alone. Of a list of conditions the result
            has an axis "condition" after that of the samples.
        part : {"positive", "negative", "abs"}, optional
            Keep max(R, 0), min(R, 0) or |R|, before layers are reduced and maps normalized.
        normalize : {"maxabs", "sum", "max", "l1"} or a sequence of them, optional
            Divide each explanation by max|R|, ΣR, max R or Σ|R|; if that is 0, it stays unchanged and is counted.
            ("sum", "max") divides by the one and then by the other. Each of ``layers`` is divided by its own.
        statistics : bool or path
            Compute statistics of the maps (`Statistics`); a path (``.nc``, ``.h5``, ``.npz``, ``.zarr``) stores them.
        group_by : "prediction" or labels, optional
            Separate statistics for each predicted class, or for each label: an array, a list, or a path.
        correct : labels, optional
            The true classes; samples for which the model predicts another class do not enter the statistics.
        quantiles : float or sequence of float
            Quantiles of the maps, between 0 and 1, with a relative error of about 3 %.
        skip_zero : bool
            Leave maps that are zero everywhere out of the statistics, which count them.
        compression : {"auto", "zlib", "blosc", "none"}
            Of files: "auto" compresses statistics, "zlib" and (in .zarr) "blosc" relevances too.
        mask : bool array or path, optional
            The points of the source's grid that are the model's features, in the grid's order. A mask with
            coordinates is aligned with a source that has them. Relevances are on the grid, with NaN where the model
            has no features.
        progress : bool or callable
            A progress bar on a terminal; or a function, called with the number of samples of each finished chunk.
        resume : bool
            Resume an earlier, interrupted run with the same arguments; False starts again.
        overwrite : bool
            Replace existing outputs; an output that contains anything else is an error, and stays unchanged.
        cluster : str, path or distributed.Client, optional
            Let the workers of a Dask cluster explain the samples: "local:4" starts four workers on this machine,
            "tcp://host:port" is a scheduler's address, "scheduler.json" the file that it wrote. All workers must
            have access to the source and the sink.

        Returns
        -------
        Streamed
            The outcome: ``statistics``, ``samples``, ``seconds`` and more.

        Raises
        ------
        InputError
            For invalid data or outputs, for an output that another run is writing, and for an unfinished run with
            other settings.
        OSError
            For a full disk and the like; finished chunks are kept.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0, -1.0], [2.0, 1.0]]))])
        >>> np.save("x.npy", np.ones((1000, 2)))
        >>> done = lrpfast.Analyzer(model, "zero").stream("x.npy", "relevance.npy", statistics=True, progress=False)
        >>> done.shape, done.statistics.mean.round(3)
        ((1000, 2), array([[1., 2.]]))
        """
        options = {name: value for name, value in locals().items() if name not in ("self", "source", "sink")}
        from .batch.settings import StreamSettings
        from .batch.stream import stream

        return stream(self._core, source, sink, StreamSettings(**options))

    def map(
        self,
        x: Any,
        target: Any = None,
        *,
        conditions: Any = None,
        parallel: bool = False,
        part: str | None = None,
        normalize: str | Sequence[str] | None = None,
        mask: Any = None,
    ) -> Any:
        """Relevance of a Dask or xarray array, as a lazy array that Dask computes chunk by chunk.

        Chunks along the samples are kept, those along features are merged; each worker receives the model once. A
        task uses one thread, unless the analyzer has ``threads``. The numbers are those of `analyze`.

        Parameters
        ----------
        x : dask.array.Array or xarray.DataArray, shape (samples, *input_shape)
            An xarray.DataArray may be lazy or in memory. Any other array is explained at once.
        target : optional
            As in `analyze`; for one target per sample an array, which may be a Dask array.
        conditions, parallel, part, normalize, mask
            As in `stream`.

        Returns
        -------
        array
            A Dask array for a Dask array. For an xarray.DataArray another, called "relevance", with the dimensions,
            coordinates and attributes of ``x``, and with its provenance as attributes; ``x`` may have more or fewer
            axes of length 1 than the model.

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
        from .batch.cluster import map_array

        return map_array(
            self._core,
            x,
            target,
            conditions=conditions,
            parallel=parallel,
            part=part,
            normalize=normalize,
            mask=mask,
        )
